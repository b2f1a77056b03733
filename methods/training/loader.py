"""Batches: row numbers in the order of an epoch, and rows as padded tensors on the device."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch

from methods.tasks.data import Split, collate, in_order, shuffled

SAMPLE_EPOCH = 999_999_999  # an order that no epoch of training has


@dataclass(frozen=True)
class Loader:
    """One split, and how its rows become tensors: everything random in it is a function of seed and epoch."""

    split: Split
    kind: object  # the task's kind: its loss and its soft loss read the batch
    device: torch.device
    seed: int = 0
    padding: str = "bucket"
    max_length: int = 512
    pad: int = 0  # token id of padding
    segments: bool = True  # whether the encoder tells first and second text apart

    def __len__(self) -> int:
        return len(self.split)

    def on(self, split: Split) -> "Loader":
        """The same for another split."""
        return replace(self, split=split)

    def epoch(self, batch_size: int, number: int) -> list[np.ndarray]:
        """The batches of one epoch as row numbers."""
        return shuffled(self.split, batch_size, self.seed, number)

    def in_order(self, batch_size: int) -> Iterator[np.ndarray]:
        """Batches for scoring."""
        return in_order(self.split, batch_size)

    def batch(self, rows: np.ndarray) -> dict:
        """Tensors of some rows, and the task's kind."""
        arrays = collate(self.split, rows, self.padding, self.max_length, self.pad, self.segments)
        tensors = {name: torch.from_numpy(np.ascontiguousarray(array)).to(self.device) for name, array in arrays.items()}
        return {**tensors, "kind": self.kind}

    def tokens(self, rows: np.ndarray) -> int:
        """Real tokens of some rows."""
        return int(self.split.lengths[rows].sum())

    def sample(self, batch_size: int) -> Iterator[dict]:
        """Training batches for methods that look at data before they train, in an order that no epoch has."""
        for rows in self.epoch(batch_size, SAMPLE_EPOCH):
            yield self.batch(rows)
