"""Tables as files: CSV for spreadsheets, JSON for programs, Markdown and LaTeX for texts, BibTeX for their references."""

import csv
import io
import json
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import yaml

from report.board import Board
from report.published import PaperTable, paper_table
from report.tables import Grid, Table, tables

ROOT = Path(__file__).resolve().parent.parent
REFERENCES = Path(__file__).resolve().parent / "references.bib"
ALWAYS_CITED = {"1804.07461", "1606.05250", "1806.03822"}  # GLUE and both SQuADs

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
    "\N{MINUS SIGN}": "$-$",
    "\N{EN DASH}": "--",
}
_STARTS_A_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def export(board: Board) -> Iterator[tuple[str, str]]:
    """(name, content) of every table in every format, and of the references."""
    for table in (*tables(board), paper_table(board)):
        name = table.grid().name
        yield from ((f"{name}.{ending}", text) for ending, text in files_of(table).items())
    yield "references.bib", bibtex(board)


def files_of(table: Table | PaperTable) -> dict[str, str]:
    """Ending -> content of the table in every format."""
    grid = table.grid()
    return {"csv": to_csv(table.records()), "json": to_json(table), "md": to_markdown(grid), "tex": to_latex(grid)}


def to_csv(records: list[dict]) -> str:
    """Numbers as they are; a text that a spreadsheet would take for a formula is made a text by an apostrophe."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(map(_inert, records[0]) if records else [])
    writer.writerows([_inert(value) for value in rounded(record).values()] for record in records)
    return file.getvalue()


def rounded(record: dict) -> dict:
    """Six decimals of a point are more than anything here is sure of, and a third of the bytes."""
    return {key: round(value, 6) if isinstance(value, float) else value for key, value in record.items()}


def _inert(value):
    return f"'{value}" if isinstance(value, str) and value.lstrip(" ").startswith(_STARTS_A_FORMULA) else value


def to_json(table: Table | PaperTable) -> str:
    grid = table.grid()
    return rows_to_json({"name": grid.name, "caption": grid.caption, "notes": grid.notes}, table.records())


def rows_to_json(head: dict, rows: list[dict]) -> str:
    """A line for each row: small, and a changed number is a changed line."""
    lines = ",\n".join(json.dumps(rounded(row), allow_nan=False, ensure_ascii=False, separators=(",", ":")) for row in rows)
    return f'{json.dumps(head, ensure_ascii=False)[:-1]}, "rows": [\n{lines}\n]}}\n'


def to_markdown(grid: Grid) -> str:
    aligned = ["---" if column < grid.words else "---:" for column in range(len(grid.header))]
    rows = [[f"**{_markdown(place.text)}**" if place.bold else _markdown(place.text) for place in row] for row in grid.rows]
    lines = [" | ".join(["", *row, ""]).strip() for row in ([_markdown(text) for text in grid.header], aligned, *rows)]
    return "\n".join([f"{_markdown(grid.caption)}", "", *lines, "", *(f"- {_markdown(note)}" for note in grid.notes), ""])


def _markdown(text: str) -> str:
    text = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"([\\`*_\[\]|#])", r"\\\1", text)


def to_latex(grid: Grid) -> str:
    """A booktabs table: \\usepackage{booktabs,graphicx} and nothing else is needed."""
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
            rf"\begin{{tabular}}{{{'l' * grid.words}{'r' * (len(grid.header) - grid.words)}}}",
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
    """Text that LaTeX prints as it stands; signs that a plain pdflatex has no letter for become a question mark."""
    text = unicodedata.normalize("NFC", " ".join(text.split()))
    return "".join(_LATEX.get(sign, sign if sign.isprintable() and ord(sign) < 0x180 else "?") for sign in text)


def bibtex(board: Board) -> str:
    """The suite itself, its data sets, and the paper of every method on the board."""
    papers = {str(cell["request"]["spec"].get("paper", "")) for cell in board.cells}
    wanted = ALWAYS_CITED | {number for paper in papers for number in re.findall(r"\d{4}\.\d{5}", paper)}
    entries = re.split(r"\n(?=@)", REFERENCES.read_text(encoding="utf-8"))
    chosen = [entry.strip() for entry in entries if wanted & set(re.findall(r"eprint\s*=\s*{([\d.]+)}", entry))]
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
