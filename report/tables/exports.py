"""Tables as files: CSV for spreadsheets, JSON for programs, Markdown and LaTeX for texts, BibTeX for their references."""

import csv
import io
import json
import re
from collections.abc import Iterator

from report.evidence.comparison import Evidence
from report.tables.grid import Grid, Text
from report.tables.latex import to_latex
from report.tables.papers import PaperTable, paper_table
from report.tables.references import bibtex, citation_keys
from report.tables.suites import Table, tables

_STARTS_A_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_ROUND = 0.001  # what is smaller, such as a probability, keeps its significant digits


def export(evidence: Evidence) -> Iterator[tuple[str, str]]:
    """Yield (name, content) of every table in every format, and of the references."""
    for table in (*tables(evidence), paper_table(evidence)):
        name = table.grid().name
        yield from ((f"{name}.{ending}", text) for ending, text in files_of(table).items())
    yield "references.bib", bibtex(evidence.board)


def files_of(table: Table | PaperTable) -> dict[str, str]:
    """Return ending -> content of the table in every format."""
    grid = table.grid()
    return {
        "csv": to_csv(table.records()),
        "json": to_json(table),
        "md": to_markdown(grid),
        "tex": to_latex(grid, citation_keys),
    }


def to_csv(records: list[dict]) -> str:
    """Return CSV; an apostrophe keeps spreadsheets from taking a text for a formula."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(map(_inert, records[0]) if records else [])
    writer.writerows([_inert(value) for value in rounded(record).values()] for record in records)
    return file.getvalue()


def rounded(record: dict) -> dict:
    """Round to six decimals of a point, which is more than any number here is sure of, and tiny numbers to two digits."""
    return {key: _rounded(value) if isinstance(value, float) else value for key, value in record.items()}


def _rounded(value: float) -> float:
    return 0.0 + (float(f"{value:.2g}") if abs(value) < _ROUND else round(value, 6))  # no minus before a zero


def _inert(value):
    return f"'{value}" if isinstance(value, str) and value.lstrip(" ").startswith(_STARTS_A_FORMULA) else value


def to_json(table: Table | PaperTable) -> str:
    grid = table.grid()
    return rows_to_json({"name": grid.name, "caption": grid.caption, "notes": grid.notes}, table.records())


def rows_to_json(head: dict, rows: list[dict]) -> str:
    """Return JSON with a line for each row, so that a changed number is a changed line."""
    lines = ",\n".join(json.dumps(rounded(row), allow_nan=False, ensure_ascii=False, separators=(",", ":")) for row in rows)
    return f'{json.dumps(head, ensure_ascii=False)[:-1]}, "rows": [\n{lines}\n]}}\n'


def to_markdown(grid: Grid) -> str:
    """Return a table with a row for the title of each group."""
    under = grid.under or [""] * len(grid.header)
    header = [f"{head} ({more})" if more else head for head, more in zip(grid.header, under, strict=True)]
    aligned = ["---" if column < grid.text_columns else "---:" for column in range(len(header))]
    rows = [[_markdown(text) for text in header], aligned]
    for title, members in grid.grouped():
        if title is not None:
            rows.append([f"*{_markdown(title)}*", *[""] * (len(header) - 1)])
        rows += [[_markdown_place(place) for place in row] for row in members]
    lines = [" | ".join(["", *row, ""]).strip() for row in rows]
    return "\n".join([f"{_markdown(grid.caption)}", "", *lines, "", *(f"- {_markdown(note)}" for note in grid.notes), ""])


def _markdown_place(place: Text) -> str:
    text = f"**{_markdown(place.text)}**" if place.bold else _markdown(place.text)
    return " ".join(part for part in (text, *map(_markdown, (place.small, place.second, place.seeds, place.marks))) if part)


def _markdown(text: str) -> str:
    text = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"([\\`*_\[\]|#])", r"\\\1", text)
