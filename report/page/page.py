"""The page: one HTML file made from cells and nothing else. The same cells give the same bytes.

Python decides the content and the written form of every number. The templates lay it out; the scripts sort, filter, open
and compare what is already there.
"""

import base64
import functools
import hashlib
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import jinja2

from report import wording
from report.evidence.board import Board
from report.evidence.comparison import Evidence
from report.evidence.points import Axis, axes, cloud, drops_by_bits
from report.evidence.statistics import holm
from report.figures import Picture
from report.page import latency
from report.page.charts import NARROW, WIDE, Frame, curves, draw_bits, draw_cloud, draw_heat, draw_strips
from report.page.checklist import checklist, environments
from report.page.headline import headline
from report.tables import exports
from report.tables.published import paper_table
from report.tables.suites import Entry, odd_written, tables
from report.wording import augmentation, bits, count, flat, metric_title, metrics_of, partial_note, plain, plural, score

TEMPLATES = Path(__file__).resolve().parent / "templates"
MIME = {"csv": "text/csv", "json": "application/json", "md": "text/markdown", "tex": "text/x-tex", "bib": "text/x-bibtex"}
SECTIONS = {
    "plot": "Quality and size",
    "reading": "How to read",
    "results": "Results",
    "papers": "Paper against ours",
    "tasks": "Tasks",
    "methods": "Methods",
    "figures": "Figures",
    "cells": "Cells",
    "environment": "Environment",
    "compare": "Compare",
}
SHOWN_METRICS = 4  # SQuAD 2.0 has ten; the others are in the cell's own file


def render(evidence: Evidence, pictures: Iterable[Picture] = ()) -> str:
    """Return the page; `pictures` are the figures that it shows besides its own charts."""
    board, names = evidence.board, Names(evidence.board)
    suites, papers, shown_axes = tables(evidence), paper_table(evidence), axes(board)
    shown = [_picture(picture) for picture in pictures if picture.caption]
    entries = {(table.protocol, entry.method, entry.task): entry for table in suites for entry in table.entries}
    return page(
        "page.html",
        board=board,
        preset=_presets(board),
        sections=[(name, title) for name, title in SECTIONS.items() if name != "figures" or shown],
        headline=headline(evidence),
        odd=odd_written(board, board.tasks),
        failed=[f"{method} on {board.task_title(task)}" for method, task in board.failed],
        glance=_glance(evidence),
        axes=shown_axes,
        overall=_overall(evidence, shown_axes),
        speeds=board.latencies.notes(board.title),
        tables=[{"table": table, "exports": _exports(table)} for table in suites],
        papers={"table": papers, "exports": _exports(papers)},
        tasks=[_task(evidence, names, task, shown_axes, entries) for task in board.tasks],
        methods=[_method(evidence, names, method) for method in board.methods if board.of_method(method)],
        cells=[_cell(evidence, names, cell, entries) for method in board.methods for cell in board.of_method(method)],
        bit_charts=[draw_bits(chart) for chart in drops_by_bits(evidence)],
        pictures=shown,
        checklist=checklist(evidence),
        environments=environments(board),
        bibtex=_link(exports.bibtex(board).encode(), "text/x-bibtex"),
        report_json=_link(numbers(evidence).encode(), "application/json"),
        data=_data(evidence, names),
        links=names.of_methods,
        anchors=names.of_cells,
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
    filters = "score signed mebibytes mib count metric_title milliseconds probability active"
    environment.filters |= {name: getattr(wording, name) for name in filters.split()}
    return environment


def _joined(folder: str, ending: str) -> str:
    """Return the style sheets, or the scripts, joined in the order of their names."""
    return "\n".join(path.read_text(encoding="utf-8") for path in sorted((TEMPLATES / folder).glob(f"*.{ending}")))


def _content_hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


class Names:
    """Anchors: readable where a name is harmless, and harmless where it is not."""

    def __init__(self, board: Board):
        self.methods = _slugs(board.methods)
        self.tasks = _slugs(board.tasks)
        self.of_methods = {method: f"method-{slug}" for method, slug in self.methods.items() if board.of_method(method)}
        self.of_tasks = {task: f"task-{slug}" for task, slug in self.tasks.items()}
        self.of_cells = {
            (method, task): f"{self.methods[method]}_{self.tasks[task]}"
            for method, task in board.places
            if board.cell(method, task)
        }


def _slugs(names: list[str]) -> dict[str, str]:
    slugs = {name: re.sub(r"[^A-Za-z0-9_]+", "-", name) for name in names}
    return {name: slug if slug == name else f"{slug}-{number}" for number, (name, slug) in enumerate(slugs.items())}


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


# Quality against size


def _overall(evidence: Evidence, shown_axes: list[Axis]) -> dict:
    board, tasks = evidence.board, evidence.board.main_tasks()
    clouds = _clouds(evidence, tasks, shown_axes, WIDE)
    titles = ", ".join(map(board.task_title, tasks))
    caption = f"Mean of {titles}, for the methods that have them all." if len(tasks) > 1 else f"{titles}."
    families = {family for picture in clouds for family in picture["families"]}
    return {"clouds": clouds, "caption": caption, "families": sorted(families, key=lambda family: family.number)}


def _clouds(evidence: Evidence, tasks: list[str], shown_axes: list[Axis], frame: Frame) -> list[dict]:
    """Return the same plot against every axis; the page shows the one that is chosen."""
    drawn = [draw_cloud(cloud(evidence, tasks, axis), frame) for axis in shown_axes]
    return [picture for picture in drawn if picture]


# Tasks


def _task(evidence: Evidence, names: Names, task: str, shown_axes: list[Axis], entries: dict[tuple, Entry]) -> dict:
    board = evidence.board
    cells = board.of_task(task)
    view = {
        "task": task,
        "title": board.task_title(task),
        "anchor": names.of_tasks[task],
        "lines": [_line(evidence, names, method, task, entries) for method in board.methods],
    }
    if not cells:
        facts = "No cell of this task could be made."
        return view | {"metric": "", "facts": facts, "dataset": None, "strips": None, "clouds": []}
    dataset, measured = cells[0]["ran_on"]["dataset"], cells[0]["measured"]
    metric, baseline = measured["metric"], measured["baseline"]
    rows = ", ".join(f"{split} {count(number)}" for split, number in sorted(dataset["rows"].items()))
    return view | {
        "metric": metric_title(metric),
        "facts": f"Rows: {rows}{' (partial data)' if dataset['partial'] else ''}. "
        f"A constant answer ({baseline['what']}) scores {score(baseline['metrics'][metric])}.",
        "dataset": dataset,
        "strips": draw_strips(evidence, task),
        "clouds": _clouds(evidence, [task], shown_axes, NARROW),
    }


def _line(evidence: Evidence, names: Names, method: str, task: str, entries: dict[tuple, Entry]) -> dict:
    """Return one method's line in a task's table."""
    board = evidence.board
    line = {"method": method, "title": board.title(method), "anchor": names.of_cells.get((method, task)), "reason": None}
    if status := evidence.status(method, task):
        return line | {
            "status": status,
            "reason": board.failed.get((method, task)) or _why_diverged(board.cell(method, task)),
        }
    scored = evidence.score(method, task)
    test = scored.difference
    return line | {
        "status": None,
        "mean": scored.mean,
        "diverged": wording.diverged(scored.summary["n"], scored.summary["n_diverged"]),
        "interval": scored.interval,
        "change": None if scored.drop is None else -scored.drop,
        "p": entries[board.primary, method, task].p,
        "test": test and f"{test.test}, {plural(test.seeds, 'seed')}; uncorrected p {wording.probability(test.p)}",
    }


def _why_diverged(cell: dict | None) -> str | None:
    return cell and "; ".join(dict.fromkeys(seed["reason"] for seed in cell["measured"]["seeds"] if seed["reason"]))


# Methods


def _method(evidence: Evidence, names: Names, method: str) -> dict:
    board = evidence.board
    cells = board.of_method(method)
    about, spec = cells[0]["about"]["method"], cells[0]["request"]["spec"]
    sources = spec.get("sources", {})
    recipe = [
        (name, _with_exceptions(board, cells, name), sources.get(name) or "the method's stanza")
        for name in spec.get("recipe", {})
    ]
    described = ("recipe", "sources", "title", "deviations", "paper")
    stanza = {key: value for key, value in spec.items() if key not in described}
    recipe += [(name, plain(value), "the method's stanza") for name, value in flat(stanza)]
    preset = cells[0]["request"]["preset"]
    recipe += [(name, plain(value), f"budget of preset {preset}") for name, value in flat(cells[0]["request"]["budget"])]
    errors = next((errors for cell in cells if (errors := cell["measured"].get("quantization_error"))), None)
    return {
        "method": method,
        "title": board.title(method),
        "anchor": names.of_methods[method],
        "family": board.family(method),
        "facts": f"{about['paper']}. Bits of weights, embeddings and activations: {bits(board.bits(method))}.",
        "scores": [_place(evidence, names, method, task) for task in board.tasks],
        "recipe": recipe,
        "deviations": about["deviations"],
        "heat": errors and draw_heat(errors),
    }


def _with_exceptions(board: Board, cells: list[dict], name: str) -> str:
    """Return a setting's value, and the tasks for which it is another."""
    tasks = {}
    for cell in cells:
        value = plain(cell["request"]["spec"]["recipe"].get(name))
        tasks.setdefault(value, []).append(board.task_title(cell["request"]["task"]))
    (common, _), *others = sorted(tasks.items(), key=lambda item: -len(item[1]))
    return common + "".join(f"; {value} for {', '.join(titles)}" for value, titles in others)


def _place(evidence: Evidence, names: Names, method: str, task: str) -> tuple[str, str | None, str]:
    """Return (task, anchor of the cell, number or status) for a method's line of links."""
    number = evidence.status(method, task) or score(evidence.score(method, task).mean)
    return evidence.board.task_title(task), names.of_cells.get((method, task)), number


# Cells


def _cell(evidence: Evidence, names: Names, cell: dict, entries: dict[tuple, Entry]) -> dict:
    method, task = cell["request"]["method"], cell["request"]["task"]
    main = evidence.score(method, task, cell["request"]["primary"]).summary
    resumed = sum(of_run["machine"]["resumed"] for of_run in cell["ran_on"]["volatile"]["machines"])
    return {
        "cell": cell,
        "anchor": names.of_cells[method, task],
        "title": evidence.board.title(method),
        "task": evidence.board.task_title(task),
        "task_anchor": names.of_tasks[task],
        "summary": main,
        "metrics": {name: metric_title(name) for name in metrics_of(cell)[:SHOWN_METRICS]},
        "diverged": wording.diverged(main["n"], main["n_diverged"]),
        "statements": list(_statements(evidence, cell, entries)),
        "charts": curves(cell),
        "partial": partial_note(cell),
        "augmentation": augmentation(cell),
        "speed": list(latency.facts(evidence.board, cell)),
        "resumed": f"resumed {plural(resumed, 'time')}" if resumed else None,
        "provenance": list(_provenance(cell)),
    }


def _statements(evidence: Evidence, cell: dict, entries: dict[tuple, Entry]) -> Iterator[str]:
    """Yield interval, drop and test in sentences, and the events of the runs."""
    board, method, task = evidence.board, cell["request"]["method"], cell["request"]["task"]
    yield from (
        f"Not compared with other cells: {odd.reason}." for odd in board.odd if (odd.method, odd.task) == (method, task)
    )
    scores = {protocol: evidence.score(method, task, protocol) for protocol in board.protocols}
    for protocol, scored in scores.items():
        if scored.interval:
            low, high = scored.interval
            yield f"95 % interval ({protocol}): {score(low, 2)} to {score(high, 2)}, over {scored.estimate.basis}."
        elif note := scored.summary["note"]:
            yield f"{note.capitalize()} ({protocol})."
    for protocol, scored in scores.items():
        if scored.drop is None:
            continue
        side = "below" if scored.drop >= 0 else "above"
        reference = f"{scored.reference.method}, seed {scored.reference.seed}"
        line = f"{score(abs(scored.drop), 2)} points {side} {reference} ({protocol})"
        if test := scored.difference:
            line += f": p {wording.probability(test.p)}, {test.test}"
            corrected = entries[protocol, method, task].p
            line += "" if corrected is None else f"; after Holm {wording.probability(corrected)}"
        yield f"{line}."
    for seed in cell["measured"]["seeds"]:
        yield from (f"Seed {seed['seed']}: {event}" for event in seed["events"])


def _provenance(cell: dict) -> Iterator[tuple[str, str]]:
    """Yield names and values of the cell's origins; what all cells share is listed once, under Environment."""
    on, machines = cell["ran_on"], cell["ran_on"]["volatile"]["machines"]
    yield "Data", f"{on['data']}, fingerprint {on['dataset']['fingerprint'][:16]}, version {on['dataset']['task_version']}"
    yield "Data augmentation", augmentation(cell) or "none"
    yield "Base model", f"{on['base']['id'] or on['base']['source']}, sha256 {on['base']['sha256'][:16]}"
    for role in dict.fromkeys(role for run in on["runs"] for role in run["ancestors"]):
        ancestors = [run["ancestors"][role] for run in on["runs"] if role in run["ancestors"]]
        yield ROLES.get(role, role), "; ".join(dict.fromkeys(map(_ancestor, ancestors)))
    yield "Code digest", on["code"]
    commits = {(of["machine"]["git_commit"] or "outside git", bool(of["machine"]["git_dirty"])) for of in machines}
    yield "Commit", "; ".join(f"{sha[:16]}{' with uncommitted changes' if dirty else ''}" for sha, dirty in sorted(commits))
    yield "Precision", f"{on['precision']}, padding {cell['request']['padding']}"
    yield "Device", f"{', '.join(on['devices'])}; {', '.join(map(str, on['threads']))} threads"
    processors = [of["machine"]["gpu"] or of["machine"]["cpu"] or "unknown" for of in machines]
    yield "Machine", "; ".join(dict.fromkeys(processors))
    primary = f"{cell['request']['primary']}.safetensors"
    files = [f"seed {run['seed']} {run['files'][primary][:16]}" for run in on["runs"] if primary in run["files"]]
    yield f"{primary}, sha256", ", ".join(files)


ROLES = {"teacher": "Teacher", "init": "Started from"}


def _ancestor(run: dict) -> str:
    model = f"sha256 {run['sha256'][:16]}" if run["sha256"] else "diverged"
    return f"{run['method']}, seed {run['seed']}, {model}"


# Files and data inside the page


def _exports(table) -> dict:
    links = {ending: _link(text.encode(), MIME[ending]) for ending, text in exports.files_of(table).items()}
    return {"name": table.grid().name, "label": "This table", "links": links.items()}


def _picture(picture: Picture) -> dict:
    """Return a figure as an image, in which an SVG can run no script and load nothing."""
    return {
        "name": picture.name,
        "caption": picture.caption,
        "svg": _link(picture.contents["svg"], "image/svg+xml"),
        "pdf": _link(picture.contents["pdf"], "application/pdf"),
    }


def _link(content: bytes, mime: str) -> str:
    return f"data:{mime};base64,{base64.b64encode(content).decode()}"


def numbers(evidence: Evidence) -> str:
    """Return the JSON with which another report compares itself with this one."""
    board, rows = evidence.board, []
    for cell in board.cells:
        method, task = cell["request"]["method"], cell["request"]["task"]
        summary, size = evidence.score(method, task).summary, cell["measured"]["size"]
        row = {"method": method, "title": board.title(method), "task": task, "metric": cell["measured"]["metric"]}
        row |= {key: summary[key] for key in ("mean", "sd", "n", "n_diverged")}
        rows.append(row | {"file_bytes": size and size["file"]["bytes"], "code": cell["ran_on"]["code"]})
    return exports.rows_to_json({"format": 1, "protocol": board.primary}, rows)


def _data(evidence: Evidence, names: Names) -> dict:
    """Return what the scripts need besides the page itself: the picker's table and every pair's test."""
    board = evidence.board
    suites = [suite for suite in board.suites if len(suite.averaged) > 1]
    averages = {f"average of {suite.name}": suite for suite in suites}
    titles = {key: f"the average of {len(suite.averaged)} {suite.title} tasks" for key, suite in averages.items()}
    scopes = {key: suite.averaged for key, suite in averages.items()}
    return {
        "scopes": titles | {task: board.task_title(task) for task in board.tasks},
        "methods": [_choice(evidence, names, method, scopes) for method in board.methods],
        "pairs": {task: pairs(evidence, task) for task in board.tasks},
    }


def _choice(evidence: Evidence, names: Names, method: str, averages: dict[str, list[str]]) -> dict:
    board = evidence.board
    sizes = [cell["measured"]["size"] for cell in board.of_method(method)]

    def time(tasks: list[str]) -> float | None:
        speed = board.latencies.speed(method, tasks)
        return None if isinstance(speed, str) else round(speed.milliseconds, 4)

    scopes = {}
    for key, tasks in averages.items():
        average = evidence.average(method, tasks)
        scopes[key] = (average.value, average.drop, time(tasks))
    for task in board.tasks:
        if scored := evidence.score(method, task):
            scopes[task] = (scored.mean, scored.drop, time([task]))
    return {
        "title": board.title(method),
        "anchor": names.of_methods.get(method),
        "words": _words(evidence, method),
        "mib": max((size["file"]["bytes"] for size in sizes if size), default=0) / 2**20 or None,
        "diverged": evidence.diverged(method, board.tasks)[0],
        "scopes": {key: values for key, values in scopes.items() if values[0] is not None},
    }


def _words(evidence: Evidence, method: str) -> str:
    """Return the text that the filter searches for a method."""
    board = evidence.board
    words = [method, board.title(method)]
    for about in (cell["about"]["method"] for cell in board.of_method(method)[:1]):
        words += [bits(board.bits(method)), about["family"], board.family(method).title, about["paper"]]
    words += [status for task in board.tasks if (status := evidence.status(method, task))]
    return " ".join(dict.fromkeys(words)).lower()


def pairs(evidence: Evidence, task: str) -> list[list]:
    """Return difference and p of every method (columns) from every baseline (rows); null where there is no test.

    A baseline's tests are corrected by Holm.
    """
    methods, primary, table = evidence.board.methods, evidence.board.primary, []
    for baseline in methods:
        row = [evidence.pair(method, baseline, task, primary) for method in methods]
        corrected = iter(holm(test.p for test in row if test))
        table.append([[round(test.estimate.value, 2), float(f"{next(corrected):.2g}")] if test else None for test in row])
    return table
