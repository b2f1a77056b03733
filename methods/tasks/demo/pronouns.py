"""WNLI: whom or what does a pronoun mean? One word of the sentence decides."""

from collections.abc import Iterator
from typing import NamedTuple

from .dice import Dice
from .lexicon import NAMES
from .sentences import capitalised


class Schema(NamedTuple):
    """A sentence about `{a}` and `{b}`; `about_a` makes its pronoun mean the first, `about_b` the second."""

    sentence: str
    claim: str
    about_a: tuple[str, ...]
    about_b: tuple[str, ...]
    fillers: str


THINGS = ("lamp", "vase", "trophy", "statue", "clock", "radio", "puppet", "drum", "basket", "guitar", "parcel")
ANIMALS = ("dog", "cat", "fox", "wolf", "bear", "goat", "horse", "rabbit", "lion", "eagle", "monkey", "mouse")
FILLERS = {"thing": THINGS, "animal": ANIMALS, **NAMES}

_SCHEMAS = (
    ("the {a} did not fit under the {b} because it was too {word}", "the {who} was too {word}",
     "big tall large", "small low short", "thing"),
    ("the {a} fell on the {b} and broke it because it was so {word}", "the {who} was so {word}",
     "heavy hard", "fragile delicate", "thing"),
    ("the {a} outran the {b} because it was so {word}", "the {who} was so {word}",
     "fast quick", "slow tired", "animal"),
    ("the {a} ran away from the {b} because it was {word}", "the {who} was {word}",
     "scared timid", "fierce dangerous", "animal"),
    ("{a} could not lift {b} because {he} was too {word}", "{who} was too {word}",
     "weak small", "heavy big", "person"),
    ("{a} lent some money to {b} because {he} was {word}", "{who} was {word}",
     "generous rich", "poor broke", "person"),
    ("{a} took a lesson from {b} because {he} was {word}", "{who} was {word}",
     "untrained curious", "experienced wise", "person"),
    ("{a} carried the bags for {b} because {he} was {word}", "{who} was {word}",
     "strong polite", "tired injured", "person"),
    ("{a} did not believe {b} because {he} was {word}", "{who} was {word}",
     "suspicious careful", "dishonest unreliable", "person"),
    ("{a} comforted {b} because {he} was {word}", "{who} was {word}",
     "kind caring", "sad crying", "person"),
)  # fmt: skip

SCHEMAS = tuple(
    Schema(sentence, claim, tuple(about_a.split()), tuple(about_b.split()), fillers)
    for sentence, claim, about_a, about_b, fillers in _SCHEMAS
)


class Scene(NamedTuple):
    """A schema and the two it is about."""

    schema: Schema
    a: str
    b: str
    he: str

    def tell(self, dice: Dice, means_a: bool, claims_a: bool) -> tuple[str, str]:
        """The sentence, and the claim about one of the two."""
        schema = self.schema
        words = {"word": dice.pick(schema.about_a if means_a else schema.about_b), "he": self.he}
        sentence = schema.sentence.format(a=self.a, b=self.b, **words)
        claim = schema.claim.format(who=self.a if claims_a else self.b, **words)
        return capitalised(sentence) + ".", capitalised(claim) + "."


def draw_scene(dice: Dice) -> Scene:
    schema = dice.pick(SCHEMAS)
    fillers = dice.pick(("she", "he")) if schema.fillers == "person" else schema.fillers
    return Scene(schema, *dice.sample(FILLERS[fillers], 2), fillers)


def resolutions(dice: Dice) -> Iterator[dict]:
    while True:
        means_a, claims_a = dice.chance(0.5), dice.chance(0.5)
        sentence, claim = draw_scene(dice).tell(dice, means_a, claims_a)
        yield {"sentence1": sentence, "sentence2": claim, "label": int(means_a == claims_a)}
