"""Text to learn the language of the demo world from, before any task is seen.

Most texts come in two parts of which the second takes up the first: it restates it, draws a conclusion, answers it
or tells the story around it. A word masked in one part can then be found in the other, which is what teaches a
small model to compare the two.

Texts come in twins, which differ in as little as one word. Whoever trades the second parts of two twins gets two
pairs that look alike but do not belong together: what BERT's next-sentence prediction needs to be worth learning.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace

from .acceptability import sentence
from .dice import Dice
from .inference import ENTAILMENT, draw_event, hypothesis_of, loosened
from .pronouns import draw_scene
from .questions import ASKABLE, mentioned, question, story
from .reviews import review
from .sentences import AWAY, HOME, SLOTS, Fact, Field, changed, draw_fact, tell

Text = tuple[str, str | None]
Twins = tuple[Text, Text]


def _altered(dice: Dice, fact: Fact, slots: tuple[str, ...], field: Field) -> Fact:
    """Another fact: the roles traded, or one or more of the slots filled otherwise."""
    if fact.social and dice.chance(0.3):
        return fact.swapped()
    slots = [slot for slot in slots if getattr(fact, slot)]
    for slot in dice.sample(slots, 1 + dice.below(len(slots))):
        fact = changed(dice, fact, slot, field)
    return fact


def _field(dice: Dice) -> Field:
    return HOME if dice.chance(0.75) else AWAY


def _without(dice: Dice, fact: Fact, *kept: str) -> Fact:
    """The fact, perhaps without its place or time."""
    return replace(fact, **{slot: None for slot in ("place", "time") if slot not in kept and dice.chance(0.4)})


def restated(dice: Dice) -> Twins:
    field = _field(dice)
    fact = _without(dice, draw_fact(dice, field))
    other = _altered(dice, fact, SLOTS, field)
    return (tell(dice, fact), tell(dice, fact)), (tell(dice, other), tell(dice, other))


def summarised(dice: Dice) -> Twins:
    """The second part says less: a kind instead of one of it, no place or no time."""
    field = _field(dice)
    fact = draw_fact(dice, field)
    other = _altered(dice, fact, SLOTS, field)
    first, second = ((tell(dice, told), tell(dice, loosened(dice, told, 0.4))) for told in (fact, other))
    return first, second


def concluded(dice: Dice) -> Twins:
    field = _field(dice)
    event = draw_event(dice, field)
    other = hypothesis_of(dice, event, field)
    first, second = ((told.tell(dice), _conclusion(dice, told, field).tell(dice)) for told in (event, other))
    return first, second


def _conclusion(dice: Dice, event, field: Field):
    while True:
        conclusion = hypothesis_of(dice, event, field)
        if event.follows(conclusion) == ENTAILMENT:
            return conclusion


def answered(dice: Dice) -> Twins:
    field, slot = _field(dice), dice.pick(ASKABLE)
    fact = draw_fact(dice, field)
    other = _altered(dice, fact, mentioned(slot), field)
    first, second = ((question(dice, told, slot), tell(dice, _without(dice, told, slot))) for told in (fact, other))
    return first, second


def told(dice: Dice) -> Twins:
    """A question or a statement, and the story that it is about."""
    field, slot = _field(dice), dice.pick(ASKABLE)
    facts = story(dice, field, 2 + dice.below(2))
    chosen = dice.below(len(facts))
    others = list(facts)
    others[chosen] = _altered(dice, facts[chosen], mentioned(slot), field)
    asks = dice.chance(0.6)
    first, second = (
        (
            question(dice, version[chosen], slot) if asks else tell(dice, version[chosen]),
            " ".join(tell(dice, fact) for fact in version),
        )
        for version in (facts, others)
    )
    return first, second


def reviewed(dice: Dice) -> Twins:
    """What a critic says twice, and what another one does."""
    first, second = ((review(dice, good), review(dice, good)) for good in (True, False))
    return first, second


def remarked(dice: Dice) -> Twins:
    return (sentence(dice, True), None), (sentence(dice, True), None)


def resolved(dice: Dice) -> Twins:
    scene = draw_scene(dice)
    first, second = (scene.tell(dice, meant, meant) for meant in (True, False))
    return first, second


KINDS: tuple[tuple[Callable[[Dice], Twins], int], ...] = (
    (restated, 28), (summarised, 14), (concluded, 14), (answered, 14), (told, 14),
    (reviewed, 8), (remarked, 6), (resolved, 2),
)  # fmt: skip


def texts(dice: Dice) -> Iterator[Text]:
    wheel = [kind for kind, share in KINDS for _ in range(share)]
    while True:
        yield from dice.pick(wheel)(dice)
