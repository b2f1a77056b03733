"""Command line of the report: cells from runs, pages from cells, and an entry page from pages."""

import argparse
import contextlib
import json
import os
import sys
from pathlib import Path

from methods.common.errors import UserError, explain
from methods.common.terminal import plain

VERIFY = (
    "Make a cell of the reference again, in a folder of its own, with the reference's configuration and seeds; say whether "
    "its mean lies where 95 % of the means of as many new seeds lie. Exit code 0: it does, or the numbers are the same; "
    "1: it does not. ARTIFACT.md states the rule."
)
TUNE = (
    "Make a method's model with other numbers in its recipe. A share of the training rows is held out, and every trial is "
    "scored on it; the dev set is not used. Says which numbers are better beyond chance."
)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m report", description="Make cells from runs and pages from cells.")
    commands = parser.add_subparsers(dest="command", required=True)

    cell = commands.add_parser("cell", help="summarise a method's runs on one task over seeds")
    cell.add_argument("--out", type=Path, required=True, help="the cell, results/METHOD_TASK.json")
    cell.add_argument("--run", type=Path, nargs="+", required=True, metavar="RUN_DIR", help="folders with a run.json")
    cell.add_argument("--about", type=_json_object, required=True, metavar="JSON", help="titles, family and suite")
    cell.add_argument("--overrides", type=_json_object, default={}, metavar="JSON", help="configuration set over the preset")
    cell.add_argument("--primary", choices=("last", "best"), default="last", help="primary protocol (default: last)")
    cell.add_argument("--no-latency", action="store_true", help="leave out the latency.json beside the runs")
    cell.set_defaults(make=_make_cell)

    page = commands.add_parser("page", help="make a page from cells, in the order in which they are named")
    page.add_argument("--out", type=Path, required=True, help="the page, one HTML file")
    page.add_argument("--tables", type=Path, metavar="DIR", help="folder for the tables as CSV, JSON, Markdown and LaTeX")
    page.add_argument("--figures", type=Path, metavar="DIR", help="folder for the figures as SVG and PDF")
    page.add_argument("--axis", default="paper", choices=("paper", "counted", "file"), help="the figures' count of size")
    text = "points within which a loss counts as none (default: %(default)s)"
    page.add_argument("--margin", type=_margin, default=1.0, metavar="POINTS", help=text)
    text = "results/PRESET, whose texts of generated data are shown where they exist"
    page.add_argument("--results", type=Path, metavar="DIR", help=text)
    page.add_argument("--texts", action="store_true", help="also show texts of real data; mind the data sets' licences")
    text = "results/PRESET: cells may be missing, or of runs that are being made again, and logs there give the reason"
    page.add_argument("--work", type=Path, metavar="DIR", help=text)
    page.set_defaults(make=_make_page)

    verify = commands.add_parser("verify", help="make a cell again and compare it with the reference", description=VERIFY)
    verify.add_argument("cell", help="a cell of the reference, such as lsq_4bit_rte")
    verify.add_argument("--reference", type=Path, metavar="DIR", help="folder of cells (default: docs/reference/cells)")
    verify.add_argument("--made", type=Path, metavar="CELL", help="compare this cell, and make nothing")
    text = "folder to make the cell in; the same command resumes there (default: results/verify/CELL)"
    verify.add_argument("--out", type=Path, metavar="DIR", help=text)
    verify.set_defaults(make=_verify)

    tune = commands.add_parser("tune", help="try other numbers of a recipe on held-out training rows", description=TUNE)
    tune.add_argument("cell", help="what is tuned, METHOD_TASK, such as lsq_4bit_rte")
    text = "an entry of the recipe and values to try; several are combined"
    tune.add_argument("--try", dest="tried", action="append", nargs="+", required=True, metavar=("KEY", "VALUE"), help=text)
    tune.add_argument("--preset", help="preset to take the configuration from (default: config/config.yaml's)")
    text = "YAML file of keys over those of config/config.yaml, as Snakemake's own --configfile"
    tune.add_argument("--configfile", type=Path, metavar="FILE", help=text)
    tune.add_argument("--seeds", type=int, nargs="+", metavar="N", help="seeds of each trial (default: the preset's)")
    text = "share of the training rows to score on (default: %(default)s)"
    tune.add_argument("--held-out", type=float, default=0.2, metavar="SHARE", help=text)
    text = "folder to work in; the same command resumes there (default: results/tuning/PRESET)"
    tune.add_argument("--out", type=Path, metavar="DIR", help=text)
    tune.set_defaults(make=_tune)

    for command in (verify, tune):
        command.add_argument("--mirror", metavar="DIR", help="folder of hub copies to read the data set from")
        command.add_argument("--cores", type=int, default=os.cpu_count() or 1, help="cores to use (default: all)")

    text = "publish cells as the reference: copies, tables, figures, page and provenance; README and ARTIFACT quote them"
    reference = commands.add_parser("reference", help=text)
    text = "cells to add or to replace (default: none, make everything anew from those that are there)"
    reference.add_argument("cells", type=Path, nargs="*", metavar="CELL", help=text)
    reference.set_defaults(make=_publish)

    failed = commands.add_parser("failures", help="print why cells are missing: a run or one of its ancestors failed")
    failed.add_argument("--work", type=Path, required=True, metavar="DIR", help="results/PRESET, with the runs and logs")
    failed.set_defaults(make=_print_failures)

    for command in (page, failed):
        text = "methods that each method descends from, nearest first, as JSON"
        command.add_argument("--preset", help="whose cells these are: another preset's cell counts as missing")
        command.add_argument("--ancestors", type=_json_object, default={}, metavar="JSON", help=text)
        command.add_argument("cells", type=Path, nargs="*", metavar="CELL", help="results/METHOD_TASK.json")

    entry = commands.add_parser("entry", help="make the entry page, which lists the presets' pages")
    entry.add_argument("--out", type=Path, required=True, help="the entry page, one HTML file")
    pages = "report/html/PRESET/index.html (default: every PRESET/index.html beside the entry page)"
    entry.add_argument("pages", type=Path, nargs="*", metavar="PAGE", help=pages)
    entry.set_defaults(make=_make_entry)

    options = parser.parse_args(arguments)
    try:
        return options.make(options) or 0
    except UserError as error:
        return _fail(str(error))
    except OSError as error:
        return _fail(explain(error) or f"{error.filename or options.command}: {error.strerror or error}")


def _margin(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 < (margin := float(text)) <= 100:
            return margin
    raise argparse.ArgumentTypeError(f"{text!r} is no number of points above 0 and up to 100")


def _json_object(text: str) -> dict:
    value = json.loads(text)
    if not isinstance(value, dict):
        raise ValueError
    return value


def _fail(message: str) -> int:
    print(plain(f"error: {' '.join(message.split())}"), file=sys.stderr)
    return 1


def _make_cell(options: argparse.Namespace) -> None:
    from methods.common.files import write_json  # each command imports what it needs: numpy, jinja2, matplotlib
    from report.evidence.cells import make_cell

    cell = make_cell(options.run, options.primary, options.about, options.overrides, latency=not options.no_latency)
    write_json(options.out, cell)


def _make_page(options: argparse.Namespace) -> None:
    from methods.common.files import write_bytes, write_text
    from report import figures
    from report.evidence.comparison import compare
    from report.evidence.reading import failures, missing, read_cells
    from report.evidence.texts import Texts
    from report.page.page import render
    from report.tables.exports import export

    absent = missing(options.cells, options.preset, options.work, options.ancestors) if options.work else []
    failed = failures(absent, options.work, options.ancestors)
    if options.cells and len(absent) == len(options.cells):
        _say(failed)
    cells = read_cells([path for path in options.cells if path not in absent])
    evidence = compare(cells, failed, options.margin)
    texts = Texts(options.results, options.texts) if options.results else None
    pictures = list(figures.draw(evidence, options.axis, only_on_page=not options.figures))
    write_text(options.out, render(evidence, pictures, texts))
    if options.tables:
        for name, text in export(evidence):
            write_text(options.tables / name, text)
    if options.figures:
        for picture in pictures:
            for ending, content in picture.contents.items():
                write_bytes(options.figures / f"{picture.name}.{ending}", content)


def _make_entry(options: argparse.Namespace) -> None:
    from methods.common.files import write_text
    from report.page.entry import render_entry

    pages = options.pages or sorted(options.out.parent.glob("*/index.html"))
    write_text(options.out, render_entry(options.out, pages))


def _verify(options: argparse.Namespace) -> int:
    """Return 0 where the new cell lands in the reference's interval, and 1 where it does not."""
    from report import making, verification
    from report.evidence.reading import read_cells
    from workflow import catalogue

    reference = verification.reference_of(options.cell, options.reference or verification.REFERENCE)
    name = f"{reference['request']['method']}_{reference['request']['task']}"
    folder = options.out or Path("results/verify") / name
    if not (made := options.made):
        config = catalogue.read_config()
        catalogue.load(config)
        made = verification.remake(reference, folder, making.mirror_of(options.mirror, config), options.cores)
    verdict = verification.compare(reference, read_cells([made])[0])
    for line in verdict.lines:
        print(plain(line))
    return 0 if verdict.lands else 1


def _tune(options: argparse.Namespace) -> None:
    from report import making, tuning
    from report.evidence.reading import read_cells
    from workflow import catalogue, documents

    config = catalogue.read_config(options.configfile, options.preset)
    catalogue.load(config)  # what is wrong with it is said before any of it is used
    mirror = making.mirror_of(options.mirror, config)
    settings = {"data": {"held_out": options.held_out, **({"mirror": mirror} if mirror else {})}}
    settings |= {"seeds": options.seeds} if options.seeds else {}
    settings = documents.merge(config, settings)
    tried: dict[str, list] = {}
    for key, *values in options.tried:
        tried[key] = [*tried.get(key, []), *map(_value, values)]
    if bare := [key for key, values in tried.items() if not values]:
        raise UserError(f"--try {bare[0]}: name the values to try behind the key, such as --try lr 1e-5 4e-5.")
    wanted = tuning.plan(options.cell, tried, settings)
    folder = options.out or Path("results/tuning") / wanted.preset
    for line in tuning.lines(wanted, read_cells(tuning.make(wanted, folder, options.cores))):
        print(plain(line))


def _value(text: str):
    """Return a value of a recipe as YAML would read it, numbers such as 1e-5 included."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _publish(options: argparse.Namespace) -> None:
    from report import reference

    cells = reference.publish(options.cells)
    print(f"{len(cells)} cells in {reference.FOLDER}")


def _print_failures(options: argparse.Namespace) -> None:
    from report.evidence.reading import failures, missing

    absent = missing(options.cells, options.preset, options.work, options.ancestors)
    _say(failures(absent, options.work, options.ancestors))


def _say(failed: dict[tuple[str, str], str]) -> None:
    for (method, task), reason in failed.items():
        print(plain(f"{method} on {task} was not made: {reason}"), file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
