"""The page: one HTML file made from cells and, where they may be shown, texts of rows. Equal inputs give equal bytes.

Python decides the content and the written form of every number. The templates lay it out; the scripts sort, filter, open
and compare what is already there.
"""

import base64
import functools
import hashlib
from collections.abc import Iterable
from pathlib import Path

import jinja2

from report import wording
from report.evidence.board import Board
from report.evidence.comparison import Evidence
from report.evidence.points import axes, drops_by_bits
from report.evidence.texts import Texts
from report.figures import Picture
from report.page.cells import cell_view
from report.page.charts import draw_bits
from report.page.checklist import checklist, environments
from report.page.data import script_data
from report.page.downloads import link, numbers, picture_files, table_files
from report.page.headline import headline
from report.page.methods import method_view
from report.page.names import Names
from report.page.plots import multiples, overall
from report.page.tasks import task_view
from report.page.tips import tips
from report.tables import exports
from report.tables.papers import paper_table
from report.tables.suites import odd_written, tables
from report.wording import count

TEMPLATES = Path(__file__).resolve().parent / "templates"
SECTIONS = {
    "plot": "Quality and size",
    "picker": "Choose",
    "results": "Results",
    "reading": "How to read",
    "papers": "Paper against ours",
    "tasks": "Tasks",
    "methods": "Methods",
    "figures": "Figures",
    "cells": "Cells",
    "environment": "Environment",
    "compare": "Compare",
}


def render(evidence: Evidence, pictures: Iterable[Picture] = (), texts: Texts | None = None) -> str:
    """Return the page; `pictures` are the figures that it shows besides its own charts, `texts` those that may be shown."""
    board, names = evidence.board, Names(evidence.board)
    suites, papers, shown_axes = tables(evidence), paper_table(evidence), axes(board)
    shown = [picture_files(picture) for picture in pictures if picture.caption]
    return page(
        "page.html",
        board=board,
        preset=_presets(board),
        sections=[(name, title) for name, title in SECTIONS.items() if name != "figures" or shown],
        headlines={protocol: headline(evidence, protocol) for protocol in board.protocols},
        odd=odd_written(board, board.tasks),
        failed=[f"{method} on {board.task_title(task)}" for method, task in board.failed],
        glance=_glance(evidence),
        axes=shown_axes,
        overall=overall(evidence, shown_axes),
        multiples=multiples(evidence, shown_axes),
        names=names,
        speeds=board.latencies.notes(board.title),
        tables=[{"table": table, "exports": table_files(table)} for table in suites],
        papers={"table": papers, "exports": table_files(papers)},
        tasks=[task_view(evidence, names, task) for task in board.tasks],
        methods=[method_view(evidence, names, method) for method in board.methods if board.of_method(method)],
        cells=[cell_view(evidence, names, cell, texts) for method in board.methods for cell in board.of_method(method)],
        bit_charts=[draw_bits(chart) for chart in drops_by_bits(evidence)],
        pictures=shown,
        checklist=checklist(evidence),
        environments=environments(board),
        bibtex=link(exports.bibtex(board).encode(), "text/x-bibtex"),
        report_json=link(numbers(evidence).encode(), "application/json"),
        data=script_data(evidence, names) | {"tips": tips(evidence)},
        links=names.of_methods,
        anchors=names.of_cells,
        margin=wording.points(board.margin),
        conventions=wording.CONVENTIONS,
        protocols=wording.PROTOCOLS,
        style=_joined("style", "css"),
        script=_joined("script", "js"),
    )


def page(template: str, style: str, script: str, **context) -> str:
    """Return a page from a template, with a policy that admits this very style and script and nothing else."""
    hashes = {"style_hash": _content_hash(style), "script_hash": _content_hash(script)}
    return _environment().get_template(template).render(style=style, script=script, **hashes, **context)


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        autoescape=True,
        loader=jinja2.FileSystemLoader(TEMPLATES),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"sort_keys": True, "separators": (",", ":")}
    filters = "score signed mebibytes mib count metric_title milliseconds probability active plural joined"
    environment.filters |= {name: getattr(wording, name) for name in filters.split()}
    return environment


def _joined(folder: str, ending: str) -> str:
    """Return the style sheets, or the scripts, joined in the order of their names."""
    return "\n".join(path.read_text(encoding="utf-8") for path in sorted((TEMPLATES / folder).glob(f"*.{ending}")))


def _content_hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _presets(board: Board) -> str:
    return ", ".join(dict.fromkeys(cell["request"]["preset"] for cell in board.cells))


def _glance(evidence: Evidence) -> list[tuple[str, str]]:
    board = evidence.board
    runs = sum(len(cell["request"]["seeds"]) for cell in board.cells)
    lost = sum(evidence.diverged(method, board.tasks)[0] for method in board.methods)
    return [
        ("methods" if len(board.methods) > 1 else "method", str(len(board.methods))),
        ("tasks" if len(board.tasks) > 1 else "task", str(len(board.tasks))),
        ("runs" if runs > 1 else "run", f"{count(runs)}{f', {lost} diverged' if lost else ''}"),
        ("preset", _presets(board)),
        ("base model", ", ".join(dict.fromkeys(cell["ran_on"]["base"]["id"] or "generated" for cell in board.cells))),
        ("primary protocol", board.primary),
    ]
