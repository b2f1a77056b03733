"""Command line of the report.

python -m report cell --out results/fp32_rte.json --run RUN_DIR [RUN_DIR ...]
python -m report page --out report/html/index.html [--tables DIR] [--figures DIR] CELL [CELL ...]
python -m report failures --logs LOG_DIR CELL [CELL ...]
"""

import argparse
import json
import sys
from pathlib import Path

from report.files import ReportError, write_bytes, write_json, write_text


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m report", description="Make cells from runs and the page from cells.")
    commands = parser.add_subparsers(dest="command", required=True)

    cell = commands.add_parser("cell", help="summarise a method's runs on one task over seeds")
    cell.add_argument("--out", type=Path, required=True, help="the cell, results/METHOD_TASK.json")
    cell.add_argument("--run", type=Path, nargs="+", required=True, metavar="RUN_DIR", help="folders with a run.json")
    cell.add_argument("--primary", choices=("last", "best"), default="last", help="protocol that counts (default: last)")
    cell.add_argument("--about", type=json.loads, default={}, metavar="JSON", help="titles, family and suite")
    cell.add_argument("--overrides", type=json.loads, default={}, metavar="JSON", help="configuration set over the preset")
    cell.set_defaults(make=_make_cell)

    entry = commands.add_parser("entry", help="make the page that links to each preset's page")
    entry.add_argument("--out", type=Path, required=True, help="the entry page")
    entry.set_defaults(make=_make_entry)

    page = commands.add_parser("page", help="make the page from cells, in the order in which they are named")
    page.add_argument("--out", type=Path, required=True, help="the page, one HTML file")
    page.add_argument("--tables", type=Path, metavar="DIR", help="folder for the tables as CSV, JSON, Markdown and LaTeX")
    page.add_argument("--figures", type=Path, metavar="DIR", help="folder for the figures as SVG and PDF")
    page.add_argument("--axis", default="paper", choices=("paper", "counted", "file"), help="the figures' count of size")
    page.add_argument("--logs", type=Path, metavar="DIR", help="logs of the runs: cells may be missing, and a word says why")
    page.set_defaults(make=_make_page)

    failed = commands.add_parser("failures", help="say why cells are missing: what failed, or which ancestor did")
    failed.add_argument("--logs", type=Path, required=True, metavar="DIR", help="logs of the runs")
    failed.set_defaults(make=_say_failures)

    for command in (page, failed):
        text = "methods that each method descends from, nearest first, as JSON"
        command.add_argument("--ancestors", type=json.loads, default={}, metavar="JSON", help=text)
        command.add_argument("cells", type=Path, nargs="*", metavar="CELL", help="results/METHOD_TASK.json")

    options = parser.parse_args(arguments)
    try:
        options.make(options)
    except ReportError as error:
        print(f"report {options.command}: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    return 0


def _make_cell(options: argparse.Namespace) -> None:
    from report.cells import make_cell  # each command loads what it needs: scipy, jinja2, matplotlib

    write_json(options.out, make_cell(options.run, options.primary))


def _make_entry(options: argparse.Namespace) -> None:
    names = sorted(path.parent.name for path in options.out.parent.glob("*/index.html"))
    write_text(options.out, "".join(f'<p><a href="{name}/index.html">{name}</a></p>' for name in names))


def _make_page(options: argparse.Namespace) -> None:
    from report.board import Board
    from report.page import render
    from report.reading import failures, read_cells

    failed = failures(options.cells, options.logs, options.ancestors) if options.logs else {}
    board = Board(read_cells([path for path in options.cells if path.exists() or not options.logs]), failed)
    write_text(options.out, render(board))
    if options.tables:
        from report.exports import export

        for name, text in export(board):
            write_text(options.tables / name, text)
    if options.figures:
        from report.plots import figures

        for name, contents in figures(board, options.axis):
            for ending, content in contents.items():
                write_bytes(options.figures / f"{name}.{ending}", content)


def _say_failures(options: argparse.Namespace) -> None:
    from report.reading import failures

    for (method, task), reason in failures(options.cells, options.logs, options.ancestors).items():
        print(f"{method} on {task} was not made: {reason}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
