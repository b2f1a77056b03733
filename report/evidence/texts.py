"""Texts of single rows, from the task files and predictions that runs leave in results/PRESET.

A page needs none of them: where a file is missing, damaged or of another run, its rows have no texts. Texts of generated
data may always be shown, those of real data only where the user says so, because the licences of data sets differ.
"""

import functools
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from methods.common.errors import UserError
from methods.common.files import read_sealed, sha256, sha256_file


@dataclass(frozen=True)
class RowTexts:
    """The texts of one row: its columns by name and, for a span, the right answers and those of both models."""

    columns: dict[str, str]
    truths: list[str] | None = None
    reference: str | None = None
    answer: str | None = None


@dataclass(frozen=True)
class Texts:
    """The texts that may be shown: of a folder such as results/demo, those of generated data, with `real` all."""

    folder: Path
    real: bool = False

    def of(self, cell: dict, reference: dict, protocol: str, seed: int, rows: list[int]) -> dict[int, RowTexts]:
        """Return the texts of some rows of the development split that two cells score; nothing where any are missing."""
        if not (self.real or cell["ran_on"]["data"] == "generated"):
            return {}
        try:
            task = _task(self.folder, cell["request"]["task"], cell["ran_on"]["dataset"]["fingerprint"])
            if task.spans is None:
                return {row: RowTexts(task.columns(row)) for row in rows}
            own, other = (_predicted(*self._predictions(one, seed), protocol, task.split) for one in (cell, reference))
            return {row: task.span(own[row], other[row]) for row in rows}
        except (OSError, UserError, LookupError, ValueError, zipfile.BadZipFile):
            return {}

    def _predictions(self, cell: dict, seed: int) -> tuple[Path, str]:
        """Return the path of a run's predictions and the SHA-256 that they had when the cell was made."""
        request = cell["request"]
        digests = {run["seed"]: run["files"]["predictions.npz"] for run in cell["ran_on"]["runs"] if run["files"]}
        folder = self.folder / "runs" / request["method"] / request["task"] / str(seed)
        return folder / "predictions.npz", digests[seed]


class _Task:
    """The rows of a task's first development split, as texts. They are decoded, so they are as the model reads them."""

    def __init__(self, folder: Path, name: str, fingerprint: str):
        from tokenizers import Tokenizer, decoders

        path = folder / f"data/{name}.safetensors"
        _, self.meta = read_sealed(path, names=())
        if self.meta["data"]["fingerprint"] != fingerprint:
            raise LookupError("other rows")
        self.split = min(self.meta["dev"])  # the one whose outcomes a cell keeps
        parts = ("ids", "ends", "first", "example", "texts")
        arrays, _ = read_sealed(path, names=[f"{self.split}.{part}" for part in parts])
        self.ids, self.ends, self.first, self.example, texts = (arrays.get(f"{self.split}.{part}") for part in parts)
        self.spans = None if texts is None else json.loads(texts.tobytes())
        self.numbers = {} if self.spans is None else {key: at for at, (key, *_) in enumerate(self.spans["examples"])}
        self.tokenizer = Tokenizer.from_str(_tokenizer(folder, name, self.meta["tokenizer"]))
        if self.tokenizer.decoder is None:
            self.tokenizer.decoder = decoders.WordPiece()
        self.tokenizer.no_padding()
        self.special = {*self.tokenizer.encode("", "").ids}

    def columns(self, row: int) -> dict[str, str]:
        """Return the text of each column of a row of the model."""
        start, end = int(self.ends[row - 1]) if row else 0, int(self.ends[row])
        middle = start + int(self.first[row])
        pieces = [self._decoded(start, middle), self._decoded(middle, end)]
        return dict(zip(self.meta["columns"], pieces, strict=False))

    def span(self, own: tuple, other: tuple) -> RowTexts:
        """Return the texts of a question that two models answered."""
        if own[0] != other[0]:
            raise LookupError("other questions")
        number = self.numbers[own[0]]
        _, context, truths = self.spans["examples"][number]
        window = int(np.searchsorted(self.example, number))
        question = next(iter(self.columns(window).values()))
        passage = self.spans["contexts"][context]
        threshold = self.meta["span"]["null_threshold"]
        answers = ["" if threshold is not None and null > threshold else text for _, text, null in (other, own)]
        return RowTexts(dict(zip(self.meta["columns"], (question, passage), strict=True)), truths, *answers)

    def _decoded(self, start: int, end: int) -> str:
        return self.tokenizer.decode([one for one in self.ids[start:end].tolist() if one not in self.special])


_task = functools.lru_cache(maxsize=32)(_Task)


def _tokenizer(folder: Path, task: str, digest: str) -> str:
    """Return the tokenizer that a task file was made with, from the preset's base model file or the task's own."""
    for path in (folder / "base.safetensors", folder / f"base/{task}.safetensors"):
        if path.is_file():
            arrays, _ = read_sealed(path, names=("tokenizer",))
            content = arrays["tokenizer"].tobytes()
            if sha256(content) == digest:
                return content.decode()
    raise LookupError("no base model file")


@functools.lru_cache(maxsize=32)  # full precision's are compared with those of every method
def _predicted(path: Path, digest: str, protocol: str, split: str) -> list[tuple[str, str, float]]:
    """Return the id, the answer and the null difference of each question."""
    if sha256_file(path) != digest:
        raise LookupError("predictions of another run")
    with np.load(path, allow_pickle=False) as arrays:
        parts = [arrays[f"{protocol}.{split}{part}"].tolist() for part in (".ids", "", ".null")]
    return list(zip(*parts, strict=True))
