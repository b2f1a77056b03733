"""SST-2: one-sentence reviews whose sentiment takes more than counting words."""

from collections.abc import Iterator

from .dice import Dice
from .lexicon import (
    ASPECTS,
    BAD,
    BAD_QUALITIES,
    BAD_VERBS,
    GOOD,
    GOOD_QUALITIES,
    GOOD_VERBS,
    INTENSIFIERS,
)
from .sentences import capitalised, with_article


def _adjective(dice: Dice, good: bool) -> str:
    """An adjective or its rival denied: brilliant, very witty, not dull, far from boring."""
    if dice.chance(0.3):
        denial = dice.pick(("not", "never", "hardly", "far from", "anything but"))
        return f"{denial} {dice.pick(BAD if good else GOOD)}"
    word = dice.pick(GOOD if good else BAD)
    return f"{dice.pick(INTENSIFIERS)} {word}" if dice.chance(0.5) else word


def _predicate(dice: Dice, good: bool) -> str:
    """What can be said of one aspect."""
    turn = dice.below(10)
    if turn < 7:
        return "is " + _adjective(dice, good)
    if turn < 8:
        return dice.pick(GOOD_VERBS if good else BAD_VERBS)
    if turn < 9:
        return f"is full of {dice.pick(GOOD_QUALITIES if good else BAD_QUALITIES)}"
    return f"{dice.pick(('lacks', 'is without'))} {dice.pick(BAD_QUALITIES if good else GOOD_QUALITIES)}"


def opinion(dice: Dice, good: bool) -> str:
    """A clause of a single sentiment."""
    aspect = dice.pick(ASPECTS)
    if dice.chance(0.15):
        return f"this is {with_article(dice.pick(GOOD if good else BAD))} {aspect}"
    return f"{dice.pick(('the', 'the', 'this', 'its'))} {aspect} {_predicate(dice, good)}"


def review(dice: Dice, good: bool) -> str:
    """One opinion, or two that disagree with the second or the main one winning."""
    if dice.chance(0.6):
        return capitalised(opinion(dice, good)) + "."
    yielding, winning = opinion(dice, not good), opinion(dice, good)
    frame = dice.pick(
        (
            "{yielding}, but {winning}.",
            "{yielding}, and yet {winning}.",
            "although {yielding}, {winning}.",
            "{winning}, even though {yielding}.",
            "{winning}, although {yielding}.",
        )
    )
    return capitalised(frame.format(yielding=yielding, winning=winning))


def reviews(dice: Dice) -> Iterator[dict]:
    while True:
        good = dice.chance(0.5)
        yield {"sentence": review(dice, good), "label": int(good)}
