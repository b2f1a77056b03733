"""Answers of a finished model to texts from outside, through the code that encoded and scored its dev set."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from tokenizers import Tokenizer

from methods.common.errors import UserError
from methods.common.files import sha256
from methods.model import artifact
from methods.model.anatomy import anatomy
from methods.tasks import encode, kinds
from methods.training.device import open_device
from methods.training.loader import Loader
from methods.training.trainer import Diverged, predict

GENERAL = ("text", "pair")  # what a line of input may call the texts of any task


class Predictor:
    """A model file with its tokenizer, ready to answer texts."""

    def __init__(self, path: Path, base: Path | None = None):
        self.path = path
        model, self.meta = artifact.load(path)
        self.kind = kinds.of(self.meta["kind"])
        self.tokenizer = Tokenizer.from_str(tokenizer_of(path, self.meta, base))
        self.device, _, _ = open_device("fp32")
        self.model = model.to(self.device.device)

    def texts(self, given: list, where: str = "") -> tuple[str, ...]:
        """Return the texts of one row if they are those that the task takes; `where` begins the error otherwise."""
        columns = self.meta["columns"]
        if len(given) != len(columns):
            count = f"{len(columns)} text{'s' if len(columns) > 1 else ''}"
            names = ", then ".join(columns)
            raise UserError(f"{where}{self.meta['task']} takes {count} ({names}), and {len(given)} can be found.")
        for name, text in zip(columns, given, strict=True):
            if not isinstance(text, str):
                raise UserError(f"{where}{name} is no text but {json.dumps(text)[:40]}.")
            if any("\ud800" <= letter <= "\udfff" for letter in text):
                raise UserError(f"{where}{name} is no valid Unicode text: write it in UTF-8.")
        return tuple(given)

    def __call__(self, rows: list[tuple[str, ...]]) -> list[dict]:
        """Return the answer to each row.

        Where a model takes the range of its activations from the batch (min-max), an answer depends a little on the rows
        in the same batch, as in scoring.
        """
        columns = dict(zip(self.meta["columns"], map(list, zip(*rows, strict=True)), strict=True))
        max_length = self.meta["max_length"]
        self.tokenizer.no_padding()
        split = self.kind.encode(self.kind.unlabelled(columns), self.meta, max_length, self.tokenizer, "request")
        loader = Loader(
            split,
            self.kind,
            self.device.device,
            padding=self.meta["padding"],
            max_length=max_length,
            pad=self.model.config.pad_token_id or 0,
            segments=anatomy(self.model).segments,
        )
        try:
            outputs = predict(self.model, loader, self.device, exact=True)
        except Diverged:
            raise UserError(
                f"{self.path} returns numbers that are not finite for these texts: make its run again."
            ) from None
        return self.kind.answers(self.meta, split, outputs)

    def lines(self, lines: Iterable[bytes], batch_size: int) -> Iterator[str]:
        """Yield an answer as a line of JSON for each line of JSON, in order, as soon as a batch is full."""
        for batch in _batches(self._rows(lines), batch_size):
            for answer in self(batch):
                yield json.dumps(answer, ensure_ascii=False)

    def _rows(self, lines: Iterable[bytes]) -> Iterator[tuple[str, ...]]:
        columns = self.meta["columns"]
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                row = None
            if not isinstance(row, dict):
                example = json.dumps({name: "..." for name in columns})
                raise UserError(f"line {number} of the input is no JSON object: write lines such as {example}.")
            own = [row[name] for name in columns if name in row]
            given = own or [row[name] for name in GENERAL if row.get(name) is not None]
            yield self.texts(given, f"line {number} of the input: ")


def tokenizer_of(path: Path, meta: dict, base: Path | None) -> str:
    """Return the tokenizer that a model was trained with, from the base model file: `base`, or the nearest that has it."""
    results = Path("results") / meta["preset"]
    names = ("base.safetensors", f"base/{meta['task']}.safetensors")  # the second holds a model of the user's own
    places = [base] if base else [folder / name for folder in (*path.resolve().parents, results) for name in names]
    present = [place for place in places if base or place.is_file()]
    for place in present:
        if sha256((text := encode.read_tokenizer(place)).encode()) == meta["tokenizer"]["sha256"]:
            return text
    here = results / names[0]
    wrong = f"{present[0]} has another one" if present else f"no {names[0]} exists in a folder above it, nor {here}"
    raise UserError(
        f"{path} needs the tokenizer of {meta['tokenizer']['id']}, and {wrong}: "
        f"make {here} with `python -m methods base --preset {meta['preset']}`, or name it with --base FILE."
    )


def page(answer: dict, kind: kinds.Kind) -> str:
    """Return an answer as aligned lines for a terminal."""
    values = kind.page(answer)
    width = max(map(len, values))
    shown = {name.replace("_", " "): value if isinstance(value, str) else f"{value:.4f}" for name, value in values.items()}
    return "\n".join(f"{name:<{width}}  {value}" for name, value in shown.items())


def _batches(rows: Iterator[tuple], size: int) -> Iterator[list[tuple]]:
    """Lists of `size` rows; the rows before a mistake are still answered."""
    batch: list[tuple] = []
    try:
        for row in rows:
            batch.append(row)
            if len(batch) == size:
                yield batch
                batch = []
    except UserError:
        if batch:
            yield batch
        raise
    if batch:
        yield batch
