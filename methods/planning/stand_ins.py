"""What takes the place of training rows and of a journal while a run is rehearsed: few of either that seem to be many."""

import dataclasses
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from methods.training.loader import Loader

SAMPLES = (2, 8)  # rows of a batch that a method looks at before it trains, in two rehearsals
ENDLESS = 10**9  # more rows than any method looks at


class Enough(Exception):
    """A hook has been timed: the rest of its work is only counted."""


@dataclass
class Ledger:
    """What a method reads of the training rows beside its steps."""

    used: bool = False
    sampled: bool = False
    closed: bool = False
    batches: int = 0
    batch_rows: int = 1
    seconds: float = 0.0  # of one batch of these


@dataclass(frozen=True)
class FewRows(Loader):
    """A loader of few rows that seems to have many: of the batches that a method reads beside its steps it gives two."""

    ledger: Ledger = field(default_factory=Ledger)
    sample_rows: int = SAMPLES[0]

    def epoch(self, batch_size: int, number: int) -> "Batches":
        self._note()
        return Batches(self, batch_size, ENDLESS // batch_size)

    def batch(self, rows: np.ndarray) -> dict:
        self._note()
        return super().batch(rows % len(self))

    def in_order(self, batch_size: int) -> Iterator[np.ndarray]:
        return iter([np.arange(len(self))])

    def sample(self, batch_size: int) -> Iterator[dict]:
        self.ledger.sampled = True
        for _ in range(-(-len(self) // self.sample_rows)):
            yield super().batch(np.arange(self.sample_rows) % len(self))

    def _note(self) -> None:
        self.ledger.used = True
        if self.ledger.closed:
            raise Enough


@dataclass(frozen=True)
class Batches(Sequence):
    """Many batches, of which only the first two are given and the second is timed."""

    loader: FewRows
    rows: int
    count: int

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, place):
        if isinstance(place, slice):
            return dataclasses.replace(self, count=len(range(*place.indices(self.count))))
        return np.arange(self.rows)

    def __iter__(self) -> Iterator[np.ndarray]:
        ledger = self.loader.ledger
        yield self[0]
        if self.count > 1:
            started = time.process_time()
            yield self[1]
            ledger.seconds = time.process_time() - started
        ledger.batches, ledger.batch_rows = self.count, self.rows


class FirstOnly:
    """A journal that answers every question as the first one, and counts them.

    Numbers rise a little with each question: a search that finds nothing worth its bits makes models that nobody plans.
    """

    def __init__(self):
        self.count, self.seconds, self.answer = 0, 0.0, None

    def once(self, question: str, compute: Callable[[], object]):
        self.count += 1
        if self.count == 1:
            started = time.perf_counter()
            self.answer = json.loads(json.dumps(compute()))
            self.seconds = time.perf_counter() - started
        return self.answer + 1e-6 * (self.count - 1) if isinstance(self.answer, float) else self.answer
