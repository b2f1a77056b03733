"""A user's own rows: CSV, JSON Lines and Parquet, checked row by row.

Every mistake is one line with the file and the row: the line of a text file as an editor counts it, from 1, or the row of
a Parquet table, from 1.
"""

import csv
import io
import sys
from collections.abc import Iterator
from pathlib import Path

from methods.common.errors import UserError
from methods.common.files import parse_object
from methods.common.terminal import plain
from methods.tasks import kinds

MOST_LETTERS = 2**31 - 1  # of a text in a CSV file; the library's own limit is 131,072
Row = tuple[str, dict]  # the place of a row ("line 3"), and its values by column


def rows(entry: dict, task: str) -> dict[str, kinds.Columns]:
    """Return the rows of each split, in the columns and types that the task's kind takes."""
    kind = kinds.of(entry["kind"])
    entry = kind.complete(entry)
    kind.check_entry(entry, f"config/tasks.yaml: {task}")
    if len({Path(path).resolve() for path in entry["files"].values()}) < len(entry["files"]):
        names = " and ".join(entry["files"])
        print(plain(f"{task}: {names} are the same file: the scores are those of rows seen in training."), file=sys.stderr)
    return {split: _split(Path(path), split, kind, entry) for split, path in entry["files"].items()}


def _split(path: Path, split: str, kind: kinds.Kind, entry: dict) -> kinds.Columns:
    label = entry.get("label") or "label"
    wanted = [label if name == "label" else name for name in kind.columns(entry)]
    found: dict[str, list] = {name: [] for name in kind.columns(entry)}
    ids: dict[str, str] = {}
    for place, row in read(path, wanted, kind.suffixes):
        try:
            typed = kind.read_row(row, entry)
        except ValueError as error:
            raise UserError(f"{path}, {place}: {str(error).removesuffix('.')}.") from None
        if (key := typed.get("id")) is not None and ids.setdefault(key, place) != place:
            raise UserError(f"{path}, {place}: the id {key!r:.40} is that of {ids[key]} too: give each question its own.")
        for name, values in found.items():
            values.append(typed[name])
    if not any(found.values()):
        raise UserError(f"{path} holds no rows: add some for {split}.")
    return found


def read(path: Path, wanted: list[str], suffixes: tuple[str, ...] = kinds.Kind.suffixes) -> Iterator[Row]:
    """Yield the rows of a file with the place of each; every row has the wanted columns."""
    if path.suffix.lower() not in suffixes:
        raise UserError(f"{path}: rows are read from {', '.join(suffixes)}: convert the file to one of these.")
    if not path.is_file():
        what = "is no file" if path.exists() else "does not exist"
        raise UserError(f"{path} {what}: correct `files` in config/tasks.yaml (paths start at the working directory).")
    try:
        yield from READERS[path.suffix.lower()](path, wanted)
    except PermissionError:
        raise UserError(f"{path} cannot be read: make it readable for you.") from None


def _text(path: Path) -> str:
    content = path.read_bytes()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}, line {line}: the text is not UTF-8: save the file as UTF-8.") from None


def _csv(path: Path, wanted: list[str]) -> Iterator[Row]:
    csv.field_size_limit(MOST_LETTERS)
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    reader = csv.reader(io.StringIO(_text(path), newline=""), delimiter=delimiter, strict=True)
    header, line = None, 1
    try:
        for values in reader:
            place, line = f"line {line}", reader.line_num + 1
            if not values:
                continue  # an empty line
            if header is None:
                header = values
                if twice := [name for name in header if header.count(name) > 1]:
                    raise UserError(f"{path}, {place}: column {twice[0]!r} occurs twice: rename one of them.")
                _check_columns(path, place, wanted, header)
            elif len(values) != len(header):
                raise UserError(
                    f"{path}, {place}: {len(values)} values for {len(header)} columns: put texts with a "
                    f"{'tab' if delimiter == chr(9) else 'comma'} in double quotes."
                )
            else:
                yield place, dict(zip(header, values, strict=True))
    except csv.Error as error:
        raise UserError(f"{path}, line {line}: not valid CSV ({error}): close and double the quotes of its row.") from None
    if header is None:
        raise UserError(f"{path} is empty: begin it with a line of column names ({', '.join(wanted)}).")


def _json_lines(path: Path, wanted: list[str]) -> Iterator[Row]:
    for number, line in enumerate(_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        row = parse_object(line, f"{path}, line {number}", wanted)
        _check_columns(path, f"line {number}", wanted, list(row))
        yield f"line {number}", row


def _parquet(path: Path, wanted: list[str]) -> Iterator[Row]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path, page_checksum_verification=True) as file:
            _check_columns(path, "its schema", wanted, file.schema_arrow.names)
            number = 0
            for batch in file.iter_batches(columns=wanted):
                for row in batch.to_pylist():
                    number += 1
                    yield f"row {number}", row
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())[:120]
        raise UserError(f"{path} is damaged or no Parquet file ({reason}): write it again.") from None


READERS = {".csv": _csv, ".tsv": _csv, ".jsonl": _json_lines, ".parquet": _parquet}


def _check_columns(path: Path, place: str, wanted: list[str], present: list[str]) -> None:
    for name in wanted:
        if name not in present:
            raise UserError(
                f"{path}, {place}: column {name!r} is missing. {kinds.choices(name, present)} Name the file's own with "
                "`columns` and `label` in config/tasks.yaml."
            )
