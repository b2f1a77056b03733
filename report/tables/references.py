"""The papers behind benchmark, data sets and methods, as BibTeX."""

import functools
import re
from pathlib import Path

import yaml

from report.evidence.board import Board
from report.tables.latex import latex
from report.tables.published import citations

ROOT = Path(__file__).resolve().parents[2]
REFERENCES = Path(__file__).resolve().parent / "references.bib"


def citation_keys(paper: str | None) -> list[str]:
    """Return the BibTeX keys of a method's paper; a method of our own cites none, though its text may name a paper."""
    if paper is None or paper.startswith("ours"):
        return []
    return [_keys().get(number, _unknown_key(number)) for number in _arxiv_numbers(paper)]


def bibtex(board: Board) -> str:
    """Return the benchmark itself, its data sets (entries with the keyword `benchmark`), and every paper that is cited."""
    papers = sorted({cell["about"]["method"]["paper"] for cell in board.cells} | citations(board.methods))
    titles = {number: paper for paper in reversed(papers) for number in _arxiv_numbers(paper)}
    chosen = [entry for entry in _entries() if titles.keys() & set(_eprints(entry)) or "keywords = {benchmark}" in entry]
    unknown = [
        f"@misc{{{_unknown_key(number)},\n  title = {{{{{latex(titles[number])}}}}},\n"
        f"  eprint = {{{number}}},\n  archiveprefix = {{arXiv}}\n}}"
        for number in sorted(titles.keys() - _keys().keys())
    ]
    return "\n\n".join([_benchmark(), *chosen, *unknown]) + "\n"


def _arxiv_numbers(paper: str) -> list[str]:
    return re.findall(r"\d{4}\.\d{5}", paper)


def _unknown_key(number: str) -> str:
    return f"arxiv{number.replace('.', '_')}"


@functools.cache
def _entries() -> list[str]:
    return [entry.strip() for entry in re.split(r"\n(?=@)", REFERENCES.read_text(encoding="utf-8"))]


def _eprints(entry: str) -> list[str]:
    return re.findall(r"eprint\s*=\s*{([\d.]+)}", entry)


@functools.cache
def _keys() -> dict[str, str]:
    return {number: re.match(r"@\w+{([^,]+)", entry)[1] for entry in _entries() for number in _eprints(entry)}


def _benchmark() -> str:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    authors = " and ".join(
        "{" + (author.get("name") or f"{author.get('given-names')} {author.get('family-names')}") + "}"
        for author in citation["authors"]
    )
    return (
        f"@software{{bert_quantization_benchmark,\n  title = {{{{{latex(citation['title'])}}}}},\n"
        f"  author = {{{authors}}},\n  version = {{{citation['version']}}}\n}}"
    )
