"""Rows of a task and their lengths: those of its data file where that is made, typical ones otherwise."""

import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from methods.common.errors import UserError
from methods.tasks.data import BUCKETS, in_order, shuffled
from methods.training.trainer import SCORING_BATCH

# Tokens of training and of dev rows: the shortest, every tenth of the way, the longest. Counted in GLUE's and SQuAD's own
# rows under BERT's vocabulary, cut at the task's length; a passage longer than a window counts as its windows.
TYPICAL = {
    "cola": ((4, 7, 8, 9, 10, 10, 11, 12, 14, 17, 47), (5, 7, 8, 9, 10, 10, 11, 13, 15, 18, 35)),
    "sst2": ((3, 4, 6, 7, 9, 11, 13, 16, 20, 27, 64), (4, 12, 16, 19, 21, 24, 27, 30, 34, 40, 55)),
    "mrpc": ((19, 36, 41, 45, 50, 53, 57, 61, 64, 70, 103), (26, 37, 42, 45, 49, 53, 57, 61, 64, 70, 86)),
    "stsb": ((10, 16, 18, 19, 21, 23, 25, 28, 35, 51, 125), (11, 17, 19, 21, 23, 28, 33, 38, 43, 51, 87)),
    "mnli": ((5, 18, 23, 27, 31, 35, 40, 45, 51, 60, 128), (5, 18, 23, 27, 32, 36, 41, 46, 53, 63, 128)),
    "rte": ((13, 33, 40, 45, 50, 56, 62, 72, 103, 128, 128), (17, 34, 38, 43, 48, 53, 60, 71, 99, 128, 128)),
    "wnli": ((16, 23, 26, 28, 30, 32, 35, 38, 45, 63, 108), (16, 23, 26, 28, 30, 33, 36, 42, 47, 62, 105)),
    "squad": (
        (42, 110, 124, 136, 146, 159, 174, 189, 215, 256, 384),
        (42, 110, 127, 138, 149, 163, 178, 197, 219, 265, 384),
    ),
    "squad2": (
        (62, 117, 130, 139, 151, 164, 181, 201, 231, 289, 384),
        (41, 123, 132, 141, 154, 170, 185, 216, 248, 309, 384),
    ),
}
# No rows of these were at hand: their texts are about as long as those of tasks that were.
TYPICAL |= {"qqp": TYPICAL["stsb"], "qnli": TYPICAL["mrpc"]}
GENERATED = {"span": (35, 52)}  # the shortest and the longest of generated rows
GENERATED_OTHERS = (12, 31)
WINDOWS = {"squad": (1.01, 1.02), "squad2": (1.03, 1.08)}  # windows of a training and of a dev row, at 384 tokens
OWN_ROWS = (4000, 600)  # a user's own task without a data file: training and dev rows
SHARE_OF_LENGTH = (0.1, 1.0)  # and its rows' lengths, as shares of the most that a row may have
AT_ONCE = 20_000  # rows that padding is computed for: more do not change the mean


@dataclass(frozen=True)
class Rows:
    """Rows of one split, a sample of them by length."""

    count: int
    lengths: np.ndarray  # (rows,), at most AT_ONCE of them

    def __len__(self) -> int:
        return self.count

    def sample(self) -> "Rows":
        return Rows(len(self.lengths), self.lengths)


@dataclass(frozen=True, eq=False)
class TaskRows:
    """The rows of a task, and how a run pads them."""

    train: Rows
    dev: Rows  # of all dev splits together
    padding: str
    max_length: int
    measured: bool  # whether they come from the data file

    def width(self, batch: int) -> float:
        """Return the mean width of a training batch: padding included."""
        return _mean_width(self, batch)

    def dev_width(self) -> float:
        """Return the mean width of a batch of scoring."""
        return _mean_width(self, None)

    def widest(self) -> int:
        """Return the width of the widest training batch."""
        return self.padded(int(self.train.lengths.max()))

    def padded(self, longest: int) -> int:
        """Return the width of a batch whose longest row has so many tokens."""
        fitting = [length for length in BUCKETS if length >= longest]
        return self.max_length if self.padding == "max_length" or not fitting else min(fitting[0], self.max_length)


@functools.cache
def _mean_width(rows: TaskRows, batch: int | None) -> float:
    """Return the mean width over rows of an epoch's batches, or of those of scoring."""
    split = (rows.train if batch else rows.dev).sample()
    batches = shuffled(split, batch, 0, 0) if batch else list(in_order(split, SCORING_BATCH))
    return sum(rows.padded(int(split.lengths[one].max())) * len(one) for one in batches) / len(split)


def rows_of(catalogue, task: str, folder: Path, method: str | None = None) -> TaskRows:
    """Return the rows that a task's runs train on and are scored on; with `method`, augmented ones where it has them.

    `folder` holds the preset's results. A mirror that holds a part of a data set is counted, not the catalogue's numbers.
    """
    augmented = bool(method and catalogue.augmentation(method, task))
    path = folder / catalogue.data_file(task, augmented)
    padding = catalogue.config["padding"]
    if path.is_file():
        from methods.tasks import data

        found = data.load(path)
        dev = np.concatenate([split.lengths for split in found.dev.values()])
        return TaskRows(_sampled(found.train.lengths), _sampled(dev), padding, found.meta["max_length"], True)
    entry = catalogue.tasks[task]
    limits = [limit for limit in (entry.get("max_length"), catalogue.budget(task).get("max_length")) if limit]
    longest = min(limits, default=128)
    counts = _counts(catalogue, task)
    capped = min(counts[0], catalogue.budget(task).get("train_rows") or counts[0])
    counts = (capped * catalogue.copies(method, task) if augmented else capped, counts[1])
    train, dev = (
        Rows(
            count, np.interp(np.linspace(0, 1, min(count, AT_ONCE)), np.linspace(0, 1, len(places)), places).clip(3, longest)
        )
        for count, places in zip(counts, _typical(catalogue, task, longest), strict=True)
    )
    return TaskRows(train, dev, padding, longest, False)


def _sampled(lengths: np.ndarray) -> Rows:
    step = -(-len(lengths) // AT_ONCE)
    return Rows(len(lengths), lengths[::step])


def _typical(catalogue, task: str, longest: int) -> tuple[tuple, tuple]:
    if catalogue.is_generated(task):
        return (GENERATED.get(catalogue.tasks[task]["kind"], GENERATED_OTHERS),) * 2
    return TYPICAL.get(task) or ([share * longest for share in SHARE_OF_LENGTH],) * 2


def _counts(catalogue, task: str) -> tuple[int, int]:
    """Return the training and the dev rows of a task; windows, where its kind cuts rows into several."""
    entry = catalogue.tasks[task]
    if catalogue.is_generated(task):
        from methods.tasks import demo

        return demo.TASKS[task][2], demo.VALIDATION_ROWS
    if "files" in entry:
        return OWN_ROWS
    counts = dict(entry["rows"]) | _in_mirror(entry, catalogue.config["data"]["mirror"])
    windows = WINDOWS.get(task, (1, 1))
    train = counts.pop("train")
    return round(train * windows[0]), round(sum(counts.values()) * windows[1])


def _in_mirror(entry: dict, mirror: str | None) -> dict[str, int]:
    """Return the rows of each split whose files a mirror holds."""
    from methods.tasks.hub import locate

    folder = locate(entry["dataset"], mirror)
    if folder is None:
        return {}
    import pyarrow.parquet

    found: dict[str, int] = {}
    for path in sorted((folder / entry["config"]).glob("*.parquet")):
        split = path.name.partition("-")[0]
        if split in entry["rows"]:
            try:
                found[split] = found.get(split, 0) + pyarrow.parquet.read_metadata(path).num_rows
            except pyarrow.ArrowException as error:
                reason = " ".join(str(error).split())[:120]
                raise UserError(f"{path} is damaged ({reason}): copy it from the hub again.") from None
    return found
