"""Seeded choices that fall alike on every machine and every Python."""

import random
from collections.abc import MutableSequence, Sequence
from typing import TypeVar

T = TypeVar("T")


class Dice:
    """Random choices drawn from `Random.random()` alone.

    That is the one method whose sequence Python promises to keep for a given seed; `choice`, `sample` and
    `shuffle` have changed between versions.
    """

    def __init__(self, *key: object):
        self._roll = random.Random("/".join(map(str, key))).random

    def below(self, limit: int) -> int:
        return int(self._roll() * limit)

    def chance(self, probability: float) -> bool:
        return self._roll() < probability

    def pick(self, options: Sequence[T]) -> T:
        return options[self.below(len(options))]

    def other(self, options: Sequence[T], *taken: T) -> T:
        """One of the options that is none of those taken."""
        return self.pick([option for option in options if option not in taken])

    def sample(self, options: Sequence[T], count: int) -> list[T]:
        pool = list(options)
        return [pool.pop(self.below(len(pool))) for _ in range(count)]

    def shuffle(self, items: MutableSequence) -> None:
        for last in range(len(items) - 1, 0, -1):
            chosen = self.below(last + 1)
            items[last], items[chosen] = items[chosen], items[last]

    def spread(self, limit: float) -> float:
        """A number between -limit and limit."""
        return (2 * self._roll() - 1) * limit
