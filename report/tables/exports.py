"""Tables as files: CSV for spreadsheets, JSON for programs, Markdown and LaTeX for texts, BibTeX for their references."""

import csv
import io
import json
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import yaml

from report.evidence.board import Board
from report.evidence.comparison import Evidence
from report.tables.published import PaperTable, paper_table
from report.tables.suites import Grid, Table, tables

ROOT = Path(__file__).resolve().parents[2]
REFERENCES = Path(__file__).resolve().parent / "references.bib"

_LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "_": r"\_",
    "%": r"\%",
    "&": r"\&",
    "#": r"\#",
    "$": r"\$",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "±": r"$\pm$",
    "×": r"$\times$",
    "≈": r"$^{\approx}$",
    "°": r"$^{\circ}$",
    "†": r"$^{\dagger}$",
    "‡": r"$^{\ddagger}$",
    "\N{MINUS SIGN}": "$-$",
    "\N{EN DASH}": "--",
}
_STARTS_A_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def export(evidence: Evidence) -> Iterator[tuple[str, str]]:
    """Yield (name, content) of every table in every format, and of the references."""
    for table in (*tables(evidence), paper_table(evidence)):
        name = table.grid().name
        yield from ((f"{name}.{ending}", text) for ending, text in files_of(table).items())
    yield "references.bib", bibtex(evidence.board)


def files_of(table: Table | PaperTable) -> dict[str, str]:
    """Return ending -> content of the table in every format."""
    grid = table.grid()
    return {"csv": to_csv(table.records()), "json": to_json(table), "md": to_markdown(grid), "tex": to_latex(grid)}


def to_csv(records: list[dict]) -> str:
    """Return CSV; an apostrophe keeps spreadsheets from taking a text for a formula."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(map(_inert, records[0]) if records else [])
    writer.writerows([_inert(value) for value in rounded(record).values()] for record in records)
    return file.getvalue()


def rounded(record: dict) -> dict:
    """Round to six decimals of a point, which is more than any number here is sure of."""
    return {key: round(value, 6) if isinstance(value, float) else value for key, value in record.items()}


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
    aligned = ["---" if column < grid.text_columns else "---:" for column in range(len(grid.header))]
    rows = [[f"**{_markdown(place.text)}**" if place.bold else _markdown(place.text) for place in row] for row in grid.rows]
    lines = [" | ".join(["", *row, ""]).strip() for row in ([_markdown(text) for text in grid.header], aligned, *rows)]
    return "\n".join([f"{_markdown(grid.caption)}", "", *lines, "", *(f"- {_markdown(note)}" for note in grid.notes), ""])


def _markdown(text: str) -> str:
    text = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"([\\`*_\[\]|#])", r"\\\1", text)


def to_latex(grid: Grid) -> str:
    """Return a booktabs table, which needs \\usepackage{booktabs,graphicx} and nothing else."""
    body = [
        " & ".join(rf"\textbf{{{latex(place.text)}}}" if place.bold else latex(place.text) for place in row) + r" \\"
        for row in grid.rows
    ]
    return "\n".join(
        [
            r"% needs \usepackage{booktabs,graphicx} and \usepackage[T1]{fontenc}",
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{latex(grid.caption)} Notes: {latex('; '.join(grid.notes))}.}}",
            rf"\label{{tab:{re.sub(r'[^a-z0-9]+', '-', grid.name)}}}",
            r"\resizebox{\linewidth}{!}{%",
            rf"\begin{{tabular}}{{{'l' * grid.text_columns}{'r' * (len(grid.header) - grid.text_columns)}}}",
            r"\toprule",
            " & ".join(map(latex, grid.header)) + r" \\",
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}}",
            r"\end{table}",
            "",
        ]
    )


def latex(text: str) -> str:
    """Return text that LaTeX prints literally; signs that a plain pdflatex cannot print become a question mark."""
    text = unicodedata.normalize("NFC", " ".join(text.split()))
    return "".join(_LATEX.get(sign, sign if sign.isprintable() and ord(sign) < 0x180 else "?") for sign in text)


def bibtex(board: Board) -> str:
    """Return the suite itself, its data sets (entries with the keyword `benchmark`), and the paper of every method."""
    papers = {cell["about"]["method"]["paper"] for cell in board.cells}
    cited = {number for paper in papers for number in re.findall(r"\d{4}\.\d{5}", paper)}
    entries = re.split(r"\n(?=@)", REFERENCES.read_text(encoding="utf-8"))
    chosen = [
        entry.strip()
        for entry in entries
        if cited & set(re.findall(r"eprint\s*=\s*{([\d.]+)}", entry)) or "keywords = {benchmark}" in entry
    ]
    known = {number for entry in chosen for number in re.findall(r"eprint\s*=\s*{([\d.]+)}", entry)}
    others = [
        "@misc{arxiv" + number.replace(".", "_") + ",\n  title = {{" + latex(paper) + "}},\n"
        "  eprint = {" + number + "},\n  archiveprefix = {arXiv}\n}"
        for paper in sorted(papers)
        for number in re.findall(r"\d{4}\.\d{5}", paper)
        if number not in known
    ]
    return "\n\n".join([_suite(), *chosen, *others]) + "\n"


def _suite() -> str:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    authors = " and ".join(
        "{" + (author.get("name") or f"{author.get('given-names')} {author.get('family-names')}") + "}"
        for author in citation["authors"]
    )
    return (
        f"@software{{bert_quantization_benchmark,\n  title = {{{{{latex(citation['title'])}}}}},\n"
        f"  author = {{{authors}}},\n  version = {{{citation['version']}}}\n}}"
    )
