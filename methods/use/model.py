"""A finished model, ready to answer texts: its file, its tokenizer, and the engine that runs it."""

import json
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from methods import engine as packed
from methods.common.errors import UserError
from methods.common.files import sha256
from methods.common.terminal import plain
from methods.model import description
from methods.tasks import encode, kinds
from methods.tasks.data import Split, in_order

BATCH = 64  # rows that are computed together, as in scoring
ENGINES = ("packed", "torch")

Row = tuple[str, ...]  # a text for each of the task's columns


class Model:
    """A model file that answers texts.

    `engine` is "packed", or "torch" for the code that scored the dev set. What the packed engine cannot run is run by
    torch, with a line on standard error. `base` is the base model file with the tokenizer, where it is not found.
    """

    def __init__(
        self, path: str | Path, *, engine: str = "packed", threads: int | None = None, base: str | Path | None = None
    ):
        if threads is not None and threads < 1:
            raise UserError(f"A model runs on one thread or more, not on {threads}.")
        self.path = Path(path)
        self.session = _open(self.path, engine, threads)
        self.meta: dict = self.session.meta
        description.require(self.path, self.meta, description.USE)
        self._tokenizer = Tokenizer.from_str(tokenizer_of(self.path, self.meta, Path(base) if base else None))
        self.kind = kinds.of_model(self.path, self.meta, self._tokenizer.get_vocab_size())

    def __call__(self, texts: str | tuple | Iterable, batch: int = BATCH) -> dict | list[dict]:
        """Return the answer to one row, or a list of answers to a list of rows.

        A row is a text, or a tuple with a text for each of the task's columns, such as a question and a passage.
        """
        if isinstance(texts, str | tuple):
            return self.answers([self.row(_texts(texts))], batch)[0]
        rows = [self.row(_texts(row), f"row {number}: ") for number, row in enumerate(texts, start=1)]
        return self.answers(rows, batch)

    def row(self, texts: list, where: str = "") -> Row:
        """Return the texts of one row if they are those that the task takes; `where` begins the error otherwise."""
        columns = self.meta["columns"]
        if len(texts) != len(columns):
            count = f"{len(columns)} text{'s' if len(columns) > 1 else ''}"
            names = ", then ".join(columns)
            raise UserError(f"{where}{self.meta['task']} takes {count} ({names}), and {len(texts)} can be found.")
        for name, text in zip(columns, texts, strict=True):
            if not isinstance(text, str):
                raise UserError(f"{where}{name} is no text but {json.dumps(text, default=repr)[:40]}.")
            if any("\ud800" <= letter <= "\udfff" for letter in text):
                raise UserError(f"{where}{name} is no valid Unicode text: write it in UTF-8.")
        return tuple(texts)

    def answers(self, rows: list[Row], batch: int = BATCH) -> list[dict]:
        """Return the answer to each row, computed `batch` at a time, by length.

        Where a model takes the range of its activations from the batch (min-max), an answer depends a little on the rows
        in the same batch, as in scoring.
        """
        if not rows:
            return []
        columns = dict(zip(self.meta["columns"], map(list, zip(*rows, strict=True)), strict=True))
        self._tokenizer.no_padding()
        columns = self.kind.unlabelled(columns)
        split = self.kind.encode(columns, self.meta, self.meta["max_length"], self._tokenizer, "request")
        outputs = outputs_of(self.session, split, batch)
        if not all(np.isfinite(values).all() for values in outputs):
            raise UserError(f"{self.path} returns numbers that are not finite for these texts: make its run again.")
        return self.kind.answers(self.meta, split, outputs)

    def close(self) -> None:
        """Release the engine's memory and threads."""
        self.session.close()

    def __enter__(self) -> "Model":
        return self

    def __exit__(self, *error) -> None:
        self.close()


def outputs_of(session, split: Split, batch: int = BATCH) -> list[np.ndarray]:
    """Return the outputs of a session for every row of a split, in its order, computed in batches as in scoring."""
    outputs: list = [None] * len(split)
    for rows in in_order(split, batch):
        ids = np.concatenate([split.ids[split.tokens(row)] for row in rows])
        for row, values in zip(rows, session(ids, np.cumsum(split.lengths[rows]), split.first[rows]), strict=True):
            outputs[row] = values
    return outputs


def tokenizer_of(path: Path, meta: dict, base: Path | None) -> str:
    """Return the tokenizer that a model was trained with, from the base model file: `base`, or the nearest that has it."""
    results = Path("results") / meta["preset"]
    names = ("base.safetensors", f"base/{meta['task']}.safetensors")  # the second holds a model of the user's own
    places = [base] if base else [folder / name for folder in (*path.resolve().parents, results) for name in names]
    present = [place for place in places if base or place.is_file()]
    for place in present:
        try:
            text = encode.read_tokenizer(place)
        except UserError:
            if base:
                raise
            continue  # a file of somebody else's that lies above the model
        if sha256(text.encode()) == meta["tokenizer"]["sha256"]:
            return text
    here = results / names[0]
    wrong = f"{present[0]} has another one" if present else f"no {names[0]} exists in a folder above it, nor {here}"
    raise UserError(
        f"{path} needs the tokenizer of {meta['tokenizer']['id']}, and {wrong}: "
        f"make {here} with `python -m methods base --preset {meta['preset']}`, or name it with --base FILE."
    )


def _open(path: Path, engine: str, threads: int | None):
    """Return a session of the engine, or of torch if that is wanted or the engine cannot run the model."""
    if engine not in ENGINES:
        raise UserError(f"There is no engine {engine!r}. {kinds.choices(engine, ENGINES)}")
    if engine == "packed":
        try:
            return packed.open_session(path, threads)
        except (packed.NoCompiler, packed.Unsupported) as reason:
            print(f"{plain(str(reason))} Torch answers instead, more slowly.", file=sys.stderr, flush=True)
    from methods.engine.fallback import Fallback

    return Fallback(path, threads, exact=engine == "torch")


def _texts(row) -> list:
    return list(row) if isinstance(row, tuple | list) else [row]
