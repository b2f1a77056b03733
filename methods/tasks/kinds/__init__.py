"""Task kinds: what a task asks of a model, one file and one object for each.

`of("classification")` imports `methods/tasks/kinds/classification.py` and returns its `KIND`, so a new kind is a new file.
Nothing outside this folder asks which kind a task has. A kind is torch-free at import; only its losses import torch.
"""

from __future__ import annotations

import difflib
import importlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from methods.common.errors import UserError

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from torch import Tensor

    from methods.tasks.data import Split, TaskData

Columns = dict[str, list]  # column name -> the values of all rows
Arrays = dict[str, np.ndarray]


class Kind:
    """The interface of a task kind, with the defaults of kinds that have one target a row, called `label`."""

    name: str
    head: str  # the model's head: "sequence" (one vector a row), "span" (start and end a token), "token" (a vector a token)
    metrics: tuple[str, ...]  # all metrics that the kind can compute
    usual_metrics: tuple[str, ...]  # those of an entry that names none, the primary one first
    usual_columns: tuple[str, ...] = ()  # those of an entry that names none
    # Whether words of training rows may be substituted under their targets. A kind that allows it says so in its own file.
    augmentable = False
    max_length = 128  # tokens of an input, for an entry that names no length
    suffixes: tuple[str, ...] = (".csv", ".tsv", ".jsonl", ".parquet")  # of files that can hold rows of this kind

    # --- the entry in config/tasks.yaml -----------------------------------------------------------------------

    def complete(self, entry: dict) -> dict:
        """Return the entry with the kind's defaults for what it leaves out."""
        usual = {
            "columns": list(self.usual_columns),
            "labels": [],
            "metrics": list(self.usual_metrics),
            "max_length": self.max_length,
            "version": 1,
        }
        return usual | entry

    def check_entry(self, entry: dict, where: str) -> None:
        """Raise one line for an entry that this kind cannot take."""
        for metric in entry["metrics"]:
            if metric.removesuffix("_mm") not in self.metrics:
                raise UserError(f"{where}: metrics: unknown metric {metric!r}. {choices(metric, self.metrics)}")

    def check_augmentable(self, task: str) -> None:
        """Raise one line for a task whose rows cannot be augmented."""
        if not self.augmentable:
            raise UserError(
                f"{task} cannot be augmented: the targets of {self.name} tasks are in the text itself. Name the tasks to "
                "augment in augmentation.tasks, without this one."
            )

    def outputs(self, labels: list[str]) -> int:
        """Return how many numbers the head returns for a row, or for a token."""
        raise NotImplementedError

    # --- rows -------------------------------------------------------------------------------------------------

    def columns(self, entry: dict) -> list[str]:
        """Return the columns that the rows have: texts first."""
        return [*entry["columns"], "label"]

    def read_row(self, row: dict, entry: dict) -> dict:
        """Return a row of a user's file in the columns of `columns`, typed; ValueError says what is wrong with it."""
        found = {name: text_of(row[name], name) for name in entry["columns"]}
        column = entry.get("label") or "label"
        if row[column] is None or row[column] == "":
            raise ValueError(f"column {column!r} is empty: write a label or delete the row")
        return {**found, "label": self.read_label(row[column], entry)}

    def read_label(self, value, entry: dict):
        """Return the target of a row from what a file holds; ValueError says what is wrong with it."""
        raise NotImplementedError

    def check_rows(self, columns: Columns, entry: dict, where: str) -> None:
        """Raise one line for a row that is damaged although it could be read."""
        for name in entry["columns"]:
            for number, text in enumerate(columns[name]):
                if not isinstance(text, str):
                    raise UserError(f"{where}, row {number}: column {name!r} holds no text; {AGAIN}")

    def unlabelled(self, columns: Columns) -> Columns:
        """Return texts that nobody has labelled with what `encode` needs beside them."""
        return columns

    def encode(self, columns: Columns, entry: dict, max_length: int, tokenizer: Tokenizer, split: str) -> Split:
        """Return the rows as token ids with their targets; `split` is "train", a dev split, or "request"."""
        raise NotImplementedError

    # --- losses: torch ----------------------------------------------------------------------------------------

    def loss(self, logits: tuple[Tensor, ...], batch: dict[str, Tensor]) -> Tensor:
        """Return each row's loss against its targets, (B,). Padding does not enter it."""
        raise NotImplementedError

    def soft_loss(self, student: tuple[Tensor, ...], teacher: tuple[Tensor, ...], batch: dict[str, Tensor]) -> Tensor:
        """Return each row's loss against the teacher's outputs, (B,): the objective's term `logits`."""
        from methods.tasks.losses import soft

        return sum(soft(ours, theirs) for ours, theirs in zip(student, teacher, strict=True))

    def soft_loss_mean(self, student: tuple[Tensor, ...], teacher: tuple[Tensor, ...], batch: dict[str, Tensor]) -> Tensor:
        """Return `soft_loss` as the official codes average it: over a row's outputs too, padding included."""
        from methods.tasks.losses import soft

        return sum(soft(ours, theirs) / ours.shape[1] for ours, theirs in zip(student, teacher, strict=True))

    # --- scores -----------------------------------------------------------------------------------------------

    def predictions(self, split: Split, outputs: list[np.ndarray], meta: dict) -> Arrays:
        """Return what a run keeps of a split's outputs; `values` is stored under the split's own name."""
        return {"values": np.stack(outputs).astype(np.float32)}  # (rows, outputs)

    def score(self, meta: dict, split: Split, predictions: Arrays, names: list[str]) -> dict[str, float]:
        """Return the named metrics in percent."""
        raise NotImplementedError

    def baseline(self, task: TaskData) -> tuple[str, dict[str, Arrays]]:
        """Return the best constant answer in words, and as predictions of each dev split."""
        raise NotImplementedError

    def references(self, task: TaskData) -> Arrays:
        """Return what predictions are compared with, to be stored beside them, as `labels.SPLIT`."""
        return {f"labels.{name}": split.targets["labels"] for name, split in task.dev.items()}

    def stored(self, meta: dict, split: Split, predictions: Arrays) -> Arrays:
        """Return predictions as they are stored, with scores of single examples where no labels are stored."""
        return predictions

    def evaluate(self, meta: dict, split: Split, predictions: Arrays, references: Arrays, names: list[str]) -> dict:
        """Return the named metrics of stored predictions, computed through the library `evaluate`."""
        raise NotImplementedError

    # --- answers to texts from outside ------------------------------------------------------------------------

    def answers(self, meta: dict, split: Split, outputs: list[np.ndarray]) -> list[dict]:
        """Return what `predict` answers to each row, ready for JSON."""
        raise NotImplementedError

    def page(self, answer: dict) -> dict[str, str | float]:
        """Return an answer as names and values for a terminal."""
        return answer


AGAIN = "copy the file from the hub again."


def of(name: str) -> Kind:
    """Return the kind of a name; one line for a name that no file has."""
    if name not in names():
        raise UserError(f"Unknown task kind {name!r}. {choices(name, names())}")
    return importlib.import_module(f"{__name__}.{name}").KIND


def of_model(path: Path, meta: dict, vocabulary: int) -> Kind:
    """Return the kind of a model file's task; one line where its description is not that of such a model.

    `vocabulary` is the number of words that the tokenizer knows.
    """
    kind = of(meta["kind"])
    try:
        kind.check_entry({**meta, "metrics": []}, "its description")
        if (meta["head"], meta["outputs"]) != (kind.head, kind.outputs(meta["labels"])):
            raise UserError(f"its head is not that of {kind.name} with {len(meta['labels'])} labels")
        if vocabulary > meta["config"]["vocab_size"]:
            raise UserError(f"it knows {meta['config']['vocab_size']} words, and its tokenizer {vocabulary}")
    except UserError as error:
        raise UserError(f"{path} cannot answer ({str(error).removesuffix('.')}): make it again.") from None
    return kind


def names() -> list[str]:
    return sorted(path.stem for path in Path(__file__).parent.glob("[a-z]*.py"))


def choices(wrong: str, known) -> str:
    """Return the nearest name, if one is near, and all names."""
    close = difflib.get_close_matches(str(wrong), list(known), n=1)
    return (f"Did you mean {close[0]!r}? " if close else "") + f"There are: {', '.join(known)}."


def text_of(value, column: str) -> str:
    """Return a text of a user's file; ValueError for what is none."""
    if not isinstance(value, str):
        raise ValueError(f"column {column!r} holds {value!r:.40} and no text: write a text or delete the row")
    if not value.strip():
        raise ValueError(f"column {column!r} is empty: write a text or delete the row")
    if any("\ud800" <= letter <= "\udfff" for letter in value):
        raise ValueError(f"column {column!r} is no valid Unicode text: write it in UTF-8")
    return value
