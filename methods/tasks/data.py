"""The task file (tokenised once per task and tokenizer) and the batches that are made of it.

A task file is a sealed file. For every split it holds, as flat arrays, the token ids of all rows one after another, where
each row ends, and the length of each row's first segment; then labels, or for span tasks the gold token positions (train)
and the windows' example numbers and character offsets (dev). Texts that are needed to score spans travel as JSON bytes.

A target has one number a row or one a token: labels, or tags and hidden words. What a task's rows mean is its kind's.
"""

import functools
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from methods.common.files import read_sealed
from methods.tasks import kinds

# Few lengths, so that code compiled for a shape is used again; every batch is padded to the smallest that holds it.
BUCKETS = (16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
NO_TARGET = -100  # of a token without one, such as padding
POOL = 50  # batches whose rows are sorted by length together: enough to save padding, few enough to stay random


@dataclass(frozen=True)
class Split:
    """Rows of one split. For span tasks a row is a window, and several rows may share an example."""

    ids: np.ndarray  # (tokens,) all rows, one after another
    ends: np.ndarray  # (rows,) where each row ends in `ids`
    first: np.ndarray  # (rows,) tokens of the first segment, special tokens included
    targets: dict[str, np.ndarray] = field(default_factory=dict)  # name -> (rows,) or (tokens,)
    example: np.ndarray | None = None  # (rows,) span tasks: which example a window belongs to
    chars: np.ndarray | None = None  # (tokens, 2) span tasks: characters of the passage under a token, or -1, -1
    texts: dict | None = None  # span tasks: contexts, and examples as [id, context number, gold answers]

    def __len__(self) -> int:
        return len(self.ends)

    @functools.cached_property
    def lengths(self) -> np.ndarray:
        return np.diff(self.ends, prepend=0)  # (rows,)

    def tokens(self, row: int) -> slice:
        return slice(int(self.ends[row - 1]) if row else 0, int(self.ends[row]))


@dataclass(frozen=True)
class TaskData:
    meta: dict
    splits: dict[str, Split]

    @property
    def train(self) -> Split:
        return self.splits["train"]

    @property
    def dev(self) -> dict[str, Split]:
        """Dev splits in the task's order; checkpoints are chosen on the first."""
        return {name: self.splits[name] for name in self.meta["dev"]}

    @property
    def kind(self) -> kinds.Kind:
        return kinds.of(self.meta["kind"])

    def predictions(self, outputs: dict[str, list[np.ndarray]]) -> dict[str, dict[str, np.ndarray]]:
        """Return, for each dev split, the arrays that a run keeps of its outputs."""
        return {name: self.kind.predictions(split, outputs[name], self.meta) for name, split in self.dev.items()}

    def score(self, predictions: dict[str, dict[str, np.ndarray]]) -> dict[str, float]:
        """Return the task's metrics, primary first; those of a second dev split carry `_mm` (MNLI mismatched)."""

        def of(name: str, split: Split, names: list[str]) -> dict[str, float]:
            return self.kind.score(self.meta, split, predictions[name], names)

        return self.by_split(of)

    def by_split(self, score: Callable[[str, Split, list[str]], dict[str, float]]) -> dict[str, float]:
        """Return the task's metrics from `score(name, split, metrics)`, which is called for each dev split."""
        found = {}
        for number, (name, split) in enumerate(self.dev.items()):
            suffix = "_mm" if number else ""
            names = [
                metric.removesuffix(suffix) for metric in self.meta["metrics"] if metric.endswith("_mm") == bool(suffix)
            ]
            found |= {metric + suffix: value for metric, value in score(name, split, names).items()}
        return {name: found[name] for name in self.meta["metrics"]}

    def baseline(self) -> dict:
        """Return what the best constant answer scores, and that answer in words."""
        what, predictions = self.kind.baseline(self.unaugmented())
        return {"metrics": self.score(predictions), "what": what}

    def unaugmented(self) -> "TaskData":
        """Return the task without the copies that augmentation put behind its training rows."""
        if not self.meta["data"].get("augmentation"):
            return self
        return replace(self, splits={**self.splits, "train": first_rows(self.train, self.meta["data"]["rows"]["train"])})

    def references(self) -> dict[str, np.ndarray]:
        """Return what predictions are compared with, to be stored beside them."""
        return self.kind.references(self)

    def stored(self, predictions: dict[str, dict[str, np.ndarray]]) -> dict[str, dict[str, np.ndarray]]:
        """Return predictions as they are stored."""
        return {name: self.kind.stored(self.meta, split, predictions[name]) for name, split in self.dev.items()}


def load(path: Path) -> TaskData:
    arrays, meta = read_sealed(path)
    parts: dict[str, dict] = {}
    for name, array in arrays.items():
        split, _, part = name.partition(".")
        parts.setdefault(split, {})[part] = array
    return TaskData(meta, {name: unflatten(part) for name, part in parts.items()})


def flatten(name: str, split: Split) -> dict[str, np.ndarray]:
    """Return a split as arrays for a sealed file; `unflatten` is its inverse."""
    arrays = {
        "ids": split.ids,
        "ends": split.ends,
        "first": split.first,
        "example": split.example,
        "chars": split.chars,
    }
    arrays |= {f"targets.{key}": value for key, value in split.targets.items()}
    if split.texts is not None:
        arrays["texts"] = np.frombuffer(json.dumps(split.texts, ensure_ascii=False).encode(), np.uint8)
    return {f"{name}.{part}": array for part, array in arrays.items() if array is not None}


def unflatten(parts: dict[str, np.ndarray]) -> Split:
    targets = {key.removeprefix("targets."): value for key, value in parts.items() if key.startswith("targets.")}
    texts = json.loads(parts["texts"].tobytes()) if "texts" in parts else None
    plain = {key: parts.get(key) for key in ("ids", "ends", "first", "example", "chars")}
    return Split(**plain, targets=targets, texts=texts)


def pack(rows: list[list[int]], first: list[int], **rest) -> Split:
    """Return a split from one list of token ids for each row."""
    ends = np.cumsum([len(row) for row in rows], dtype=np.int64)
    ids = np.fromiter((token for row in rows for token in row), np.int32, int(ends[-1]) if rows else 0)
    return Split(ids, ends, np.asarray(first, np.int32), **rest)


def first_rows(split: Split, count: int) -> Split:
    """Return the first rows of a split without examples of several rows."""
    tokens = int(split.ends[count - 1]) if count else 0
    targets = {name: values[: tokens if len(values) == len(split.ids) else count] for name, values in split.targets.items()}
    return Split(split.ids[:tokens], split.ends[:count], split.first[:count], targets)


def shuffled(split: Split, batch_size: int, seed: int, epoch: int) -> list[np.ndarray]:
    """Return one epoch of batches (row numbers), a pure function of seed and epoch.

    Rows are shuffled, sorted by length within pools of some batches, and the batches are shuffled again: neighbours
    in a batch have similar lengths, whatever the padding. The last, smaller batch is kept.
    """
    random = np.random.default_rng([seed, epoch])
    order, lengths = random.permutation(len(split)), split.lengths
    batches = []
    for start in range(0, len(order), POOL * batch_size):
        pool = order[start : start + POOL * batch_size]
        pool = pool[np.argsort(lengths[pool], kind="stable")]
        batches += [pool[at : at + batch_size] for at in range(0, len(pool), batch_size)]
    return [batches[index] for index in random.permutation(len(batches))]


def in_order(split: Split, batch_size: int) -> Iterator[np.ndarray]:
    """Yield batches for scoring, by length: the same for every method and every number of processes."""
    order = np.argsort(split.lengths, kind="stable")
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]


def collate(
    split: Split, rows: np.ndarray, padding: str, max_length: int, pad: int = 0, segments: bool = True
) -> dict[str, np.ndarray]:
    """Return padded model inputs and targets of some rows.

    `pad` is the token id of padding. Encoders that do not tell first and second text apart take `segments=False`.
    """
    longest = int(split.lengths[rows].max())
    fitting = [length for length in BUCKETS if length >= longest]
    width = max_length if padding == "max_length" or not fitting else min(fitting[0], max_length)
    ids = np.full((len(rows), width), pad, np.int64)  # (B, S)
    mask, segment = np.zeros_like(ids), np.zeros_like(ids)
    # A target of as many numbers as there are tokens is one of tokens: every row has more than one.
    by_token = {name: values for name, values in split.targets.items() if len(values) == len(split.ids)}
    targets = {name: np.full(ids.shape, NO_TARGET, values.dtype) for name, values in by_token.items()}
    for at, row in enumerate(rows):
        tokens = split.tokens(row)
        length = tokens.stop - tokens.start
        ids[at, :length] = split.ids[tokens]
        mask[at, :length] = 1
        if segments:
            segment[at, split.first[row] : length] = 1
        for name, values in by_token.items():
            targets[name][at, :length] = values[tokens]
    batch = {"input_ids": ids, "attention_mask": mask, "token_type_ids": segment}
    batch |= {name: values[rows] for name, values in split.targets.items() if name not in by_token}
    return batch | targets
