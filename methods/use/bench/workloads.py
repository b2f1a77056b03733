"""What the contenders of inference answer: batches of random rows, of one length or of a task's lengths."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from methods.tasks.data import Split
from methods.use.bench.timing import mrpc_lengths, random_rows

LENGTHS_OF_TASK = ("mrpc", "mrpc-sorted")
BATCHES = 8  # of MRPC's lengths in a turn


@dataclass(frozen=True)
class Workload:
    """Batches of one size and length. A turn answers them all, and the mean of a batch counts."""

    batch: int
    length: int | str
    batches: list[Split]

    @property
    def tokens(self) -> float:
        """Real tokens of a mean batch."""
        return float(np.mean([len(rows.ids) for rows in self.batches]))

    @property
    def title(self) -> str:
        rows = "1 row" if self.batch == 1 else f"{self.batch} rows"
        if self.length in LENGTHS_OF_TASK:
            return f"{rows} of MRPC's lengths{', sorted' if self.length == 'mrpc-sorted' else ''}"
        return f"{rows} of {self.length} tokens"


def workloads(batches: Iterable[int], lengths: Iterable[int | str], vocabulary: int) -> list[Workload]:
    """Return every batch size with every length."""
    return [workload(batch, length, vocabulary) for batch in batches for length in lengths]


def workload(batch: int, length: int | str, vocabulary: int) -> Workload:
    """Return random rows of one length, or of MRPC's: evenly from the shortest to the longest, shuffled or sorted."""
    if length not in LENGTHS_OF_TASK:
        return Workload(batch, length, [random_rows([length] * batch, vocabulary)])
    count = BATCHES * batch
    lengths = mrpc_lengths((np.arange(count) + 0.5) / count)  # sorted
    if length == "mrpc":
        lengths = np.random.default_rng(0).permutation(lengths)
    batches = lengths.reshape(BATCHES, batch)
    return Workload(batch, length, [random_rows(one, vocabulary, seed) for seed, one in enumerate(batches)])
