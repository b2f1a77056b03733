"""Command line of the report.

python -m report cell --out results/fp32_rte.json --run RUN_DIR [RUN_DIR ...]
python -m report page --out report/html/index.html CELL [CELL ...]
"""

import argparse
import sys
from pathlib import Path

from report.files import ReportError, write_json, write_text


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m report", description="Make cells from runs and the page from cells.")
    commands = parser.add_subparsers(dest="command", required=True)

    cell = commands.add_parser("cell", help="summarise a method's runs on one task over seeds")
    cell.add_argument("--out", type=Path, required=True, help="the cell, results/METHOD_TASK.json")
    cell.add_argument("--run", type=Path, nargs="+", required=True, metavar="RUN_DIR", help="folders with a run.json")
    cell.add_argument("--primary", choices=("last", "best"), default="last", help="protocol that counts (default: last)")

    page = commands.add_parser("page", help="make the page from cells, in the order in which they are named")
    page.add_argument("--out", type=Path, required=True, help="the page, one HTML file")
    page.add_argument("cells", type=Path, nargs="+", metavar="CELL", help="results/METHOD_TASK.json")

    options = parser.parse_args(arguments)
    try:
        if options.command == "cell":
            _make_cell(options)
        else:
            _make_page(options)
    except ReportError as error:
        print(f"report {options.command}: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    return 0


def _make_cell(options: argparse.Namespace) -> None:
    from report.cells import make_cell  # scipy loads only for cells, jinja2 only for pages

    write_json(options.out, make_cell(options.run, options.primary))


def _make_page(options: argparse.Namespace) -> None:
    from report.page import make_page

    write_text(options.out, make_page(options.cells))


if __name__ == "__main__":
    sys.exit(main())
