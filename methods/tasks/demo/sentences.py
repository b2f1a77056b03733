"""Facts of the demo world and the ways to say them and to ask about them."""

from dataclasses import dataclass, replace

from .dice import Dice
from .lexicon import (
    MORE_PEOPLE,
    MORE_THINGS,
    PEOPLE,
    PEOPLE_VERBS,
    PLACES,
    THING_VERBS,
    THINGS,
    TIMES,
    Concept,
    Kind,
    Verb,
)

ALL_PLACES = tuple(place for group in PLACES for place in group)
ALL_TIMES = tuple(time for group in TIMES for time in group)

SLOTS = ("agent", "action", "object", "place", "time")


@dataclass(frozen=True)
class Field:
    """A lexical field: who and what a story may be about."""

    people: tuple[Kind, ...]
    things: tuple[Kind, ...]


HOME = Field(PEOPLE, THINGS)
AWAY = Field(MORE_PEOPLE, MORE_THINGS)
FIELDS = (HOME, AWAY)
EVERYWHERE = Field(PEOPLE + MORE_PEOPLE, THINGS + MORE_THINGS)
KIND_OF = {member: kind for kind in EVERYWHERE.people + EVERYWHERE.things for member in kind.members}


@dataclass(frozen=True)
class Fact:
    """Who did what to whom, where and when; place and time may be left out."""

    agent: Concept
    action: tuple[Verb, ...]
    object: Concept
    place: Concept | None
    time: Concept | None

    @property
    def social(self) -> bool:
        """Whether the object is a person, so that the roles could be swapped."""
        return self.action in PEOPLE_VERBS

    def swapped(self) -> "Fact":
        return replace(self, agent=self.object, object=self.agent)


def capitalised(text: str) -> str:
    return text[0].upper() + text[1:]


def with_article(noun: str) -> str:
    return ("an " if noun[0] in "aeiou" else "a ") + noun


def draw_fact(dice: Dice, field: Field = HOME, social: bool | None = None) -> Fact:
    if social is None:
        social = dice.chance(0.5)
    agent = draw_member(dice, field.people)
    if social:
        action, object = dice.pick(PEOPLE_VERBS), draw_member(dice, field.people, agent)
    else:
        action, object = dice.pick(THING_VERBS), draw_member(dice, field.things)
    return Fact(agent, action, object, dice.pick(ALL_PLACES), dice.pick(ALL_TIMES))


def draw_member(dice: Dice, kinds: tuple[Kind, ...], *taken: Concept) -> Concept:
    return dice.other([member for kind in kinds for member in kind.members], *taken)


def alternatives(fact: Fact, slot: str, field: Field) -> list[Concept]:
    """What else could fill the slot of a fact like this one."""
    if slot == "agent":
        options = [member for kind in field.people for member in kind.members]
    elif slot == "object":
        kinds = field.people if fact.social else field.things
        options = [member for kind in kinds for member in kind.members]
    elif slot == "action":
        options = list(PEOPLE_VERBS if fact.social else THING_VERBS)
    else:
        options = list(ALL_PLACES if slot == "place" else ALL_TIMES)
    return [option for option in options if option not in (fact.agent, fact.object, getattr(fact, slot))]


def changed(dice: Dice, fact: Fact, slot: str, field: Field = HOME) -> Fact:
    return replace(fact, **{slot: dice.pick(alternatives(fact, slot, field))})


def tell(dice: Dice, fact: Fact) -> str:
    """A sentence that states the fact, actively or passively, sometimes with its place or time in front."""
    agent, object = "the " + dice.pick(fact.agent), "the " + dice.pick(fact.object)
    verb = dice.pick(fact.action)
    clause = f"{agent} {verb.past} {object}"
    if dice.chance(0.3):
        clause = f"{object} was {verb.participle} by {agent}"
    adjuncts = [dice.pick(adjunct) for adjunct in (fact.place, fact.time) if adjunct]
    if adjuncts and dice.chance(0.2):
        clause = f"{adjuncts.pop()}, {clause}"
    return capitalised(" ".join([clause, *adjuncts])) + "."


def ask(dice: Dice, fact: Fact, slot: str, passive: bool | None = None) -> str:
    """A question to which the slot of the fact is the answer."""
    passive = dice.chance(0.4) if passive is None else passive
    agent, object = "the " + dice.pick(fact.agent), "the " + dice.pick(fact.object)
    verb = dice.pick(fact.action)
    if slot == "agent":
        clause = f"who {verb.past} {object}" if not passive else f"by whom was {object} {verb.participle}"
    elif slot == "object" and fact.social:
        clause = f"who was {verb.participle} by {agent}" if passive else f"whom did {agent} {verb.base}"
    elif slot == "object":
        clause = f"what was {verb.participle} by {agent}" if passive else f"what did {agent} {verb.base}"
    else:
        word = {"place": "where", "time": "when"}[slot]
        clause = f"{word} was {object} {verb.participle} by {agent}"
        if not passive:
            clause = f"{word} did {agent} {verb.base} {object}"
    adjuncts = [dice.pick(getattr(fact, name)) for name in ("place", "time") if name != slot and getattr(fact, name)]
    return capitalised(" ".join([clause, *adjuncts])) + "?"
