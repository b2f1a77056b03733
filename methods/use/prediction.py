"""`python -m methods predict`: lines of JSON in, lines of JSON out, and one answer as a page."""

import io
import json
import select
from collections.abc import Iterable, Iterator
from typing import BinaryIO

from methods.common.errors import UserError
from methods.common.files import parse_object
from methods.common.terminal import as_json, plain
from methods.tasks.kinds import Kind
from methods.use.model import Model, Row

GENERAL = ("text", "pair")  # what a line of input may call the texts of any task
NAMED, LISTED = 40, 3  # characters of a wrong key, and wrong keys, that an error shows
POOL = 16  # batches whose rows are sorted by length together
CHUNK = 2**20  # bytes of one read
PAUSE = 0.02  # seconds without input after which what has come is answered


def answered(model: Model, stream: BinaryIO, batch: int) -> Iterator[str]:
    """Yield an answer as a line of JSON for each line of JSON, in order; those before a mistake are answered.

    Many lines are answered together, and those of a producer that pauses at once.
    """
    number = 0
    for lines in _pools(stream, POOL * batch if batch > 1 else 1):
        rows, mistake = [], None
        for line in lines:
            number += 1
            try:
                if line.strip():
                    rows.append(_row(model, line, number))
            except UserError as error:
                mistake = error
                break
        for answer in model.answers(rows, batch):
            yield as_json(answer)
        if mistake:
            raise mistake


def page(answer: dict, kind: Kind) -> str:
    """Return an answer as aligned lines for a terminal."""
    values = kind.page(answer)
    width = max(len(plain(name)) for name in values)
    shown = {name: value if isinstance(value, str) else f"{value:.4f}" for name, value in values.items()}
    return "\n".join(f"{plain(name.replace('_', ' ')):<{width}}  {plain(value)}" for name, value in shown.items())


def _row(model: Model, line: bytes, number: int) -> Row:
    columns = model.meta["columns"]
    where = f"line {number} of the input"
    row = parse_object(line, where, columns)
    own = [row[name] for name in columns if name in row]
    general = [row[name] for name in GENERAL if row.get(name) is not None]
    texts = own if len(own) == len(columns) or len(own) >= len(general) else general
    if len(texts) < len(columns) and (unknown := [key for key in row if key not in (*columns, *GENERAL)]):
        raise UserError(f"{where}: {_unknown(unknown, columns, model.meta['task'])}")
    return model.row(texts, f"{where}: ")


def _unknown(keys: list[str], columns: list[str], task: str) -> str:
    """Return what to say of a line that lacks a text: the keys that are none of the task's, and those that are."""
    more = f" and {len(keys) - LISTED} more" if len(keys) > LISTED else ""
    wrong = ", ".join(json.dumps(key[:NAMED], ensure_ascii=False) for key in keys[:LISTED])
    return (
        f"unknown key{'s' if len(keys) > 1 else ''} {wrong}{more}. {task} takes {_quoted(columns)}, "
        f"or {_quoted(GENERAL[: len(columns)])}."
    )


def _quoted(names: Iterable[str]) -> str:
    return " and ".join(json.dumps(name, ensure_ascii=False) for name in names)


def _pools(stream: BinaryIO, size: int) -> Iterator[list[bytes]]:
    """Yield lists of `size` lines, and of fewer where the input ends or pauses."""
    lines: list[bytes] = []
    for more in _arriving(stream):
        lines += more
        while len(lines) >= size:
            yield lines[:size]
            del lines[:size]
        if lines and not _is_readable(stream):
            yield lines
            lines = []
    if lines:
        yield lines


def _arriving(stream: BinaryIO) -> Iterator[list[bytes]]:
    """Yield the whole lines of each read."""
    begun: list[bytes] = []  # pieces of a line whose end has not come
    while chunk := stream.read1(CHUNK):
        first, *lines = chunk.split(b"\n")
        begun.append(first)
        if lines:
            yield [b"".join(begun), *lines[:-1]]
            begun = [lines[-1]]
    if last := b"".join(begun):
        yield [last]


def _is_readable(stream: BinaryIO) -> bool:
    """Return whether a read would return soon: with data, or with the end."""
    try:
        return bool(select.select([stream], [], [], PAUSE)[0])
    except io.UnsupportedOperation:  # no file of the system
        return True
