"""QNLI, SQuAD and SQuAD 2: questions, sentences that may answer them, and passages to look in."""

import re
from collections.abc import Iterator
from dataclasses import replace

from .balance import balanced
from .dice import Dice
from .sentences import FIELDS, SLOTS, Fact, Field, alternatives, ask, capitalised, changed, draw_fact, tell

ASKABLE = ("agent", "object", "place", "time")
ANSWERS, DOES_NOT = 0, 1


def mentioned(slot: str) -> tuple[str, ...]:
    """What a question about the slot says of the fact; place and time go without saying."""
    return tuple(name for name in ("agent", "action", "object") if name != slot)


def _fits(fact: Fact, asked: Fact, slot: str) -> bool:
    """Whether the fact answers the question that asks for that slot of the other fact."""
    return getattr(fact, slot) is not None and all(getattr(fact, name) == getattr(asked, name) for name in mentioned(slot))


def question(dice: Dice, fact: Fact, slot: str) -> str:
    return ask(dice, replace(fact, place=None, time=None), slot)


def _matches(dice: Dice) -> Iterator[tuple]:
    while True:
        slot = dice.pick(ASKABLE)
        fact = draw_fact(dice)
        told = replace(fact, **{dropped: None for dropped in dice.pick(((), ("place",), ("time",)))})
        turn = dice.below(6)
        if turn == 0 and fact.social:
            told = told.swapped()
        elif turn < 3:
            for name in dice.sample(mentioned(slot), 1 + dice.below(len(mentioned(slot)))):
                told = changed(dice, told, name)
        yield fact, slot, told, ANSWERS if _fits(told, fact, slot) else DOES_NOT


def _match_traits(candidate: tuple) -> tuple:
    _, slot, told, _ = candidate
    return slot, (told.place is None, told.time is None)


def answer_pairs(dice: Dice) -> Iterator[dict]:
    """QNLI: does the sentence hold the answer?"""
    for fact, slot, told, label in balanced(_matches(dice), (ANSWERS, DOES_NOT), _match_traits):
        yield {"question": question(dice, fact, slot), "sentence": tell(dice, told), "label": label}


def story(dice: Dice, field: Field, length: int) -> list[Fact]:
    """Facts that compete: each after the first shares something with the one before."""
    facts = [draw_fact(dice, field)]
    while len(facts) < length:
        fact = draw_fact(dice, field, social=facts[-1].social if dice.chance(0.7) else None)
        if fact.social == facts[-1].social:
            shared = dice.pick(SLOTS)
            fact = replace(fact, **{shared: getattr(facts[-1], shared)})
        if fact.agent != fact.object:
            facts.append(fact)
    return facts


def _answers(fact: Fact, slot: str, sentence: str, start: int) -> dict:
    """Where in the context (the sentence begins at `start`) the slot is named; places and times also bare."""
    ways = sorted(getattr(fact, slot), key=len, reverse=True)
    [match] = list(re.finditer("|".join(rf"\b{re.escape(way)}\b" for way in ways), sentence, re.IGNORECASE))
    texts, starts = [match[0]], [start + match.start()]
    preposition, _, bare = match[0].partition(" ")
    if bare and preposition.lower() in ("at", "in", "on", "by"):
        texts.append(bare)
        starts.append(starts[0] + len(preposition) + 1)
    return {"text": texts, "answer_start": starts}


def _unanswerable(dice: Dice, facts: list[Fact], fact: Fact, slot: str, field: Field) -> Fact | None:
    """A fact that the passage does not tell, though it looks like one that it does."""
    name = dice.pick(mentioned(slot))
    options = alternatives(fact, name, field)
    if dice.chance(0.4):
        told = [getattr(other, name) for other in facts]
        options = [option for option in options if option in told] or options
    return replace(fact, **{name: dice.pick(options)})


def passages(dice: Dice, length: int, unanswerable: float) -> Iterator[dict]:
    """SQuAD (2): a passage, a question on one of its facts, and where the answer stands."""
    while True:
        field = dice.pick(FIELDS)
        facts = story(dice, field, length)
        sentences = [tell(dice, fact) for fact in facts]
        chosen, slot = dice.below(length), dice.pick(ASKABLE)
        fact = asked = facts[chosen]
        answerable = not dice.chance(unanswerable)
        if not answerable:
            asked = _unanswerable(dice, facts, fact, slot, field)
        fitting = [told for told in facts if _fits(told, asked, slot)]
        if asked.agent == asked.object or fitting != [fact] * answerable:
            continue
        start = sum(len(sentence) + 1 for sentence in sentences[:chosen])
        answers = {"text": [], "answer_start": []}
        if answerable:
            answers = _answers(fact, slot, sentences[chosen], start)
        yield {
            "title": capitalised(f"the {facts[0].agent[0]} and the {facts[0].object[0]}"),
            "context": " ".join(sentences),
            "question": question(dice, asked, slot),
            "answers": answers,
        }
