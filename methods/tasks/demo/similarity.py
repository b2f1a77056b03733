"""MRPC, QQP and STS-B: how much two sentences or two questions have in common."""

from collections.abc import Iterator
from dataclasses import replace

from .dice import Dice
from .lexicon import PLACES, TIMES, Concept
from .sentences import KIND_OF, SLOTS, Fact, ask, changed, draw_fact, tell


def _retold(dice: Dice, fact: Fact, same: bool) -> Fact:
    """The fact itself, or one that shares most of its words and yet is another."""
    if same:
        return fact
    if fact.social and dice.chance(0.5):
        return fact.swapped()
    return changed(dice, fact, dice.pick([slot for slot in SLOTS if getattr(fact, slot)]))


def _shortened(dice: Dice, fact: Fact) -> Fact:
    dropped = dice.pick(("place", "time"))
    return replace(fact, **{dropped: None})


def paraphrases(dice: Dice) -> Iterator[dict]:
    while True:
        same = dice.chance(0.56)
        fact = _shortened(dice, draw_fact(dice, social=dice.chance(0.6)))
        other = _retold(dice, fact, same)
        yield {"sentence1": tell(dice, fact), "sentence2": tell(dice, other), "label": int(same)}


ASKABLE = ("agent", "object", "place", "time")


def duplicates(dice: Dice) -> Iterator[dict]:
    while True:
        kept = dice.pick((None, "place", "time"))
        dropped = {name: None for name in ("place", "time") if name != kept}
        fact = replace(draw_fact(dice, social=dice.chance(0.6)), **dropped)
        slot = dice.other(ASKABLE, kept)
        same = dice.chance(0.45)
        other, other_slot = (fact, slot) if same else _another_question(dice, fact, slot, kept)
        yield {
            "question1": ask(dice, fact, slot),
            "question2": ask(dice, other, other_slot),
            "label": int(same),
        }


def _another_question(dice: Dice, fact: Fact, slot: str, kept: str | None) -> tuple[Fact, str]:
    """A question about the other role, about another part, or one that mentions something else."""
    turn = dice.below(3)
    if turn == 0 and fact.social:
        return fact.swapped(), {"agent": "object", "object": "agent"}.get(slot, slot)
    if turn == 1:
        return fact, dice.other(ASKABLE, slot, kept)
    named = [name for name in SLOTS if name != slot and getattr(fact, name)]
    return changed(dice, fact, dice.pick(named)), slot


def _neighbours(fact: Fact, slot: str) -> list[Concept]:
    """What is close to the filler of the slot: its kind of person, thing, place or time."""
    filler = getattr(fact, slot)
    groups = {"place": PLACES, "time": TIMES}.get(slot) or (KIND_OF[filler].members,)
    [group] = [group for group in groups if filler in group]
    return [concept for concept in group if concept not in (filler, fact.agent, fact.object)]


def graded(dice: Dice) -> Iterator[dict]:
    """Each of the five parts that agrees is worth a point, one of the same kind half a point."""
    while True:
        fact = draw_fact(dice)
        other, score = fact, 5.0
        for slot in dice.sample(SLOTS, dice.below(6)):
            if slot != "action" and dice.chance(0.3):
                other = replace(other, **{slot: dice.pick(_neighbours(other, slot))})
                score -= 0.5
            else:
                other = changed(dice, other, slot)
                score -= 1.0
        score = min(5.0, max(0.0, score + dice.spread(0.4)))
        yield {
            "sentence1": tell(dice, fact),
            "sentence2": tell(dice, other),
            "label": round(score, 1),
        }
