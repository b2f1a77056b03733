"""MNLI and RTE: what follows from a sentence.

Two sorts of sentence are reasoned about. An *event* tells who did what to which thing; its parts can be made more
general (apple -> fruit), more special (apple -> red apple) or exchanged, and the whole can be denied. A *survey*
tells which members of a group are in a state: all, some, none or not all of them.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from .balance import balanced
from .dice import Dice
from .lexicon import ADJECTIVES, ANIMALS, STATES, THING_VERBS, Concept, Kind, Verb
from .sentences import (
    ALL_PLACES,
    HOME,
    KIND_OF,
    SLOTS,
    Fact,
    Field,
    capitalised,
    changed,
    draw_fact,
    tell,
    with_article,
)

ENTAILMENT, NEUTRAL, CONTRADICTION = 0, 1, 2
SAME, WIDER, NARROWER, APART = "same", "wider", "narrower", "apart"


@dataclass(frozen=True)
class Thing:
    """A noun of some kind; without a member it is the kind's general word."""

    kind: Kind
    member: Concept | None

    def versus(self, other: "Thing") -> str:
        """What the other noun is, seen from this one."""
        if self.kind is not other.kind:
            return APART
        if self.member == other.member:
            return SAME
        if other.member is None:
            return WIDER
        return NARROWER if self.member is None else APART

    def word(self, dice: Dice) -> str:
        return dice.pick(self.member) if self.member else self.kind.name


@dataclass(frozen=True)
class Event:
    agent: Thing
    verb: tuple[Verb, ...]
    object: Thing
    adjective: str | None
    place: Concept | None
    denied: bool = False

    def follows(self, other: "Event") -> int:
        """The label of the pair (self, other), both taken to speak of one and the same event."""
        relations = {
            self.agent.versus(other.agent),
            self.object.versus(other.object),
            _detail(self.adjective, other.adjective),
            _detail(self.place, other.place),
        }
        if self.verb != other.verb:
            return NEUTRAL
        if self.denied:
            # A denial reaches everything under what it denies, and nothing else.
            reached = relations <= {SAME, NARROWER}
            if not reached:
                return NEUTRAL
            return ENTAILMENT if other.denied else CONTRADICTION
        if APART in relations:
            return NEUTRAL if other.denied else CONTRADICTION
        if NARROWER in relations:
            return NEUTRAL
        return CONTRADICTION if other.denied else ENTAILMENT

    def tell(self, dice: Dice) -> str:
        verb = dice.pick(self.verb)
        noun = self.object.word(dice)
        object = with_article(f"{self.adjective} {noun}" if self.adjective else noun)
        did = f"did not {verb.base}" if self.denied else verb.past
        words = ["the", self.agent.word(dice), did, object]
        if self.place:
            words.append(dice.pick(self.place))
        return capitalised(" ".join(words)) + "."

    def traits(self) -> tuple:
        general = (self.agent.member is None, self.object.member is None)
        return (*general, self.adjective is None, self.place is None, self.denied)


def _detail(mine: str | Concept | None, theirs: str | Concept | None) -> str:
    if mine == theirs:
        return SAME
    if theirs is None:
        return WIDER
    return NARROWER if mine is None else APART


def _draw_thing(dice: Dice, kinds: tuple[Kind, ...], *taken: Kind) -> Thing:
    kind = dice.other(kinds, *taken)
    return Thing(kind, dice.pick(kind.members) if dice.chance(0.7) else None)


def draw_event(dice: Dice, field: Field) -> Event:
    return Event(
        _draw_thing(dice, field.people),
        dice.pick(THING_VERBS),
        _draw_thing(dice, field.things),
        dice.pick(dice.pick(ADJECTIVES)) if dice.chance(0.5) else None,
        dice.pick(ALL_PLACES) if dice.chance(0.5) else None,
        dice.chance(0.2),
    )


def _moved(dice: Dice, thing: Thing, kinds: tuple[Kind, ...]) -> Thing:
    """The noun made more general, more special, or exchanged."""
    if thing.member is None:
        return Thing(thing.kind, dice.pick(thing.kind.members))
    if dice.chance(0.6):
        return Thing(thing.kind, None)
    if dice.chance(0.5):
        return Thing(thing.kind, dice.other(thing.kind.members, thing.member))
    return _draw_thing(dice, kinds, thing.kind)


def hypothesis_of(dice: Dice, event: Event, field: Field) -> Event:
    """The event after up to two changes."""
    for part in dice.sample(("agent", "object", "verb", "adjective", "place", "denied"), dice.below(3)):
        if part == "agent":
            event = replace(event, agent=_moved(dice, event.agent, field.people))
        elif part == "object":
            event = replace(event, object=_moved(dice, event.object, field.things))
        elif part == "verb":
            event = replace(event, verb=dice.other(THING_VERBS, event.verb))
        elif part == "adjective":
            [row] = [row for row in ADJECTIVES if event.adjective in row] or [None]
            rival = dice.other(row, event.adjective) if row else dice.pick(dice.pick(ADJECTIVES))
            event = replace(event, adjective=rival if dice.chance(0.5) or not row else None)
        elif part == "place":
            move = event.place is None or dice.chance(0.5)
            event = replace(event, place=dice.other(ALL_PLACES, event.place) if move else None)
        else:
            event = replace(event, denied=not event.denied)
    return event


@dataclass(frozen=True)
class Survey:
    """`quantity` of the things (in a place) are in a state, or not: the state is one of two that exclude each other."""

    quantity: str
    group: Thing
    place: Concept
    states: tuple[str, str]
    turned: bool

    def claim(self) -> tuple[str, bool]:
        """The survey in terms of the first state: (all | some, whether of the first or of the second state)."""
        everyone = self.quantity in ("all", "none")
        negative = self.quantity in ("none", "not all")
        return ("all" if everyone else "some"), self.turned != negative

    def follows(self, other: "Survey") -> int:
        relation = self.group.versus(other.group)
        if relation == APART or self.states != other.states or self.place != other.place:
            return NEUTRAL
        (mine, state), (theirs, other_state) = self.claim(), other.claim()
        if state == other_state:
            if mine == "all":
                holds = theirs == "some" or relation in (SAME, NARROWER)
            else:
                holds = theirs == "some" and relation in (SAME, WIDER)
            return ENTAILMENT if holds else NEUTRAL
        if mine == "all" and theirs == "all":
            return CONTRADICTION
        if mine == "some" and theirs == "some":
            return NEUTRAL
        inside = (SAME, NARROWER) if mine == "all" else (SAME, WIDER)
        return CONTRADICTION if relation in inside else NEUTRAL

    def tell(self, dice: Dice) -> str:
        noun = self.group.word(dice)
        state = self.states[self.turned]
        start = {"all": "every", "some": "at least one", "none": "no", "not all": "not every"}[self.quantity]
        return capitalised(f"{start} {noun} {dice.pick(self.place)} was {state}.")

    def traits(self) -> tuple:
        return self.quantity, self.group.member is None


def _draw_survey(dice: Dice, field: Field) -> Survey:
    quantity = dice.pick(("all", "some", "none", "not all"))
    states = dice.pick(STATES)
    return Survey(quantity, _draw_thing(dice, _surveyed(field)), dice.pick(ALL_PLACES), states, dice.chance(0.5))


def _surveyed(field: Field) -> tuple[Kind, ...]:
    return ANIMALS if field is HOME else field.people


def _other_survey(dice: Dice, survey: Survey, field: Field) -> Survey:
    changes: dict = {
        "quantity": dice.pick(("all", "some", "none", "not all")),
        "turned": dice.chance(0.5),
    }
    turn = dice.below(8)
    if turn < 3:
        changes["group"] = _moved(dice, survey.group, _surveyed(field))
    elif turn == 3:
        changes["states"] = dice.other(STATES, survey.states)
    elif turn == 4:
        changes["place"] = dice.other(ALL_PLACES, survey.place)
    return replace(survey, **changes)


def _events(dice: Dice, field: Field) -> Iterator[tuple]:
    while True:
        premise = draw_event(dice, field)
        hypothesis = hypothesis_of(dice, premise, field)
        yield premise, hypothesis, premise.follows(hypothesis)


def _surveys(dice: Dice, field: Field) -> Iterator[tuple]:
    while True:
        premise = _draw_survey(dice, field)
        hypothesis = _other_survey(dice, premise, field)
        yield premise, hypothesis, premise.follows(hypothesis)


def _traits(pair: tuple) -> Iterator[tuple]:
    for half, statement in enumerate(pair[:2]):
        for number, trait in enumerate(statement.traits()):
            yield half, number, trait


def inferences(dice: Dice, field: Field = HOME) -> Iterator[dict]:
    """MNLI: entailment, neutral and contradiction."""
    labels = (ENTAILMENT, NEUTRAL, CONTRADICTION)
    events = balanced(_events(dice, field), labels, _traits)
    surveys = balanced(_surveys(dice, field), labels, _traits)
    while True:
        premise, hypothesis, label = next(surveys if dice.chance(0.3) else events)
        yield {"premise": premise.tell(dice), "hypothesis": hypothesis.tell(dice), "label": label}


def _general(concept: Concept) -> Concept:
    """The concept's kind as a concept; a kind is its own."""
    return (KIND_OF[concept].name,) if concept in KIND_OF else concept


def _entails(fact: Fact, other: Fact) -> bool:
    return all(
        theirs is None or theirs == mine or (slot in ("agent", "object") and theirs == _general(mine))
        for slot in SLOTS
        for mine, theirs in [(getattr(fact, slot), getattr(other, slot))]
    )


def loosened(dice: Dice, fact: Fact, share: float) -> Fact:
    """The fact told with less detail: general nouns, place or time left out."""
    changes: dict = {}
    for slot in ("agent", "object"):
        if dice.chance(share):
            changes[slot] = _general(getattr(fact, slot))
    for slot in ("place", "time"):
        if dice.chance(share):
            changes[slot] = None
    return replace(fact, **changes)


def _recognitions(dice: Dice) -> Iterator[tuple]:
    while True:
        fact = draw_fact(dice)
        other = fact
        turn = dice.below(5)
        if turn == 0:
            other = fact.swapped() if fact.social else changed(dice, fact, "object")
        elif turn == 1:
            other = changed(dice, fact, dice.pick(SLOTS))
        text, hypothesis = loosened(dice, fact, 0.2), loosened(dice, other, 0.4)
        if hypothesis.agent != hypothesis.object and text.agent != text.object:
            yield text, hypothesis, int(not _entails(text, hypothesis))


def _detail_traits(pair: tuple) -> Iterator[tuple]:
    for half, fact in enumerate(pair[:2]):
        for slot in SLOTS:
            concept = getattr(fact, slot)
            yield half, slot, concept is None, concept in KIND_OF


def recognitions(dice: Dice) -> Iterator[dict]:
    """RTE: entailment or not, over facts told actively and passively, in detail and in general."""
    for text, hypothesis, label in balanced(_recognitions(dice), (0, 1), _detail_traits):
        yield {"sentence1": tell(dice, text), "sentence2": tell(dice, hypothesis), "label": label}
