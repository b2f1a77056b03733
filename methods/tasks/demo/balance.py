"""Keeps labels from being read off one half of a pair."""

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator


def balanced(
    candidates: Iterable[tuple], labels: tuple, traits: Callable[[tuple], Iterable[Hashable]], slack: int = 20
) -> Iterator[tuple]:
    """Lets a candidate `(*, label)` pass only while, for each of its traits, its label is not ahead of another.

    A trait is a property of one half alone (its template, how general its nouns are, ...). When every label is
    seen equally often with every trait, the trait says nothing about the label.
    """
    seen: dict[Hashable, Counter] = defaultdict(Counter)
    for candidate in candidates:
        label = candidate[-1]
        counts = [seen[trait] for trait in traits(candidate)]
        if all(count[label] < min(count[other] for other in labels) + slack for count in counts):
            for count in counts:
                count[label] += 1
            yield candidate
