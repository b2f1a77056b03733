"""The page: one HTML file made from cells and nothing else; the same cells give the same bytes.

Python decides what stands where and how a number is written; the templates only lay it out, and the scripts only sort,
filter, open and compare what is already there.
"""

import base64
import functools
import hashlib
import re
from pathlib import Path

import jinja2

from report import exports, wording
from report.board import Board
from report.charts import NARROW, WIDE, Frame, curves, draw_bits, draw_cloud, draw_heat, draw_strips
from report.checklist import checklist, environments
from report.headline import headline
from report.points import Axis, axes, cloud, drops_by_bits, family
from report.published import paper_table
from report.statistics import holm
from report.tables import SUITES, Entry, drop_written, tables
from report.wording import bits, count, flat, metric_title, metrics_of, partial_note, plain, plural, score, task_title

TEMPLATES = Path(__file__).resolve().parent / "templates"
MIME = {"csv": "text/csv", "json": "application/json", "md": "text/markdown", "tex": "text/x-tex", "bib": "text/x-bibtex"}
SECTIONS = [
    ("plot", "Quality and size"),
    ("reading", "How to read"),
    ("results", "Results"),
    ("papers", "Paper against ours"),
    ("tasks", "Tasks"),
    ("methods", "Methods"),
    ("cells", "Cells"),
    ("environment", "Environment"),
    ("compare", "Compare"),
]


def render(board: Board) -> str:
    names = Names(board)
    found = tables(board)
    style, script = _joined("style", "css"), _joined("script", "js")
    shown = axes(board)
    entries = {(table.protocol, entry.method, entry.task): entry for table in found for entry in table.entries}
    template = _environment().get_template("page.html")
    return template.render(
        board=board,
        sections=SECTIONS,
        headline=headline(board),
        glance=_glance(board),
        axes=shown,
        overall=_overall(board, shown),
        tables=[{"table": table, "exports": _exports(table)} for table in found],
        papers={"table": (papers := paper_table(board)), "exports": _exports(papers)},
        tasks=[_task(board, names, task, shown, entries) for task in board.tasks],
        methods=[_method(board, names, method) for method in board.methods if board.of_method(method)],
        cells=[_cell(board, names, cell, entries) for method in board.methods for cell in board.of_method(method)],
        bit_lines=draw_bits(drops_by_bits(board)),
        checklist=checklist(board),
        environments=environments(board),
        bibtex=_link(exports.bibtex(board), "bib"),
        report_json=_link(numbers(board), "json"),
        data=_data(board, names),
        links=names.of_methods,
        anchors=names.of_cells,
        conventions=wording.CONVENTIONS,
        protocols=wording.PROTOCOLS,
        drop_written=drop_written,
        style=style,
        script=script,
        style_hash=_content_hash(style),
        script_hash=_content_hash(script),
    )


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        autoescape=True,
        loader=jinja2.FileSystemLoader(TEMPLATES),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    written = "score signed mebibytes mib count task_title metric_title milliseconds probability"
    environment.filters |= {name: getattr(wording, name) for name in written.split()}
    return environment


def _joined(folder: str, ending: str) -> str:
    """The style sheets, or the scripts, one after the other in the order of their names."""
    return "\n".join(path.read_text(encoding="utf-8") for path in sorted((TEMPLATES / folder).glob(f"*.{ending}")))


def _content_hash(text: str) -> str:
    """What the page's security policy lets in: this very text and no other."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


class Names:
    """Anchors: what a name says where it can, and never what a name could do."""

    def __init__(self, board: Board):
        self.methods = _slugs(board.methods)
        self.tasks = _slugs(board.tasks)
        self.of_methods = {method: f"method-{slug}" for method, slug in self.methods.items() if board.of_method(method)}
        self.of_tasks = {task: f"task-{slug}" for task, slug in self.tasks.items()}
        self.of_cells = {(method, task): f"{self.methods[method]}_{self.tasks[task]}" for method, task in board.at}


def _slugs(names: list[str]) -> dict[str, str]:
    slugs = {name: re.sub(r"[^A-Za-z0-9_]+", "-", name) for name in names}
    return {name: slug if slug == name else f"{slug}-{number}" for number, (name, slug) in enumerate(slugs.items())}


def _glance(board: Board) -> list[tuple[str, str]]:
    runs = sum(len(cell["request"]["seeds"]) for cell in board.cells)
    lost = sum(board.n_diverged(method, board.tasks)[0] for method in board.methods)
    return [
        ("methods" if len(board.methods) > 1 else "method", str(len(board.methods))),
        ("tasks" if len(board.tasks) > 1 else "task", str(len(board.tasks))),
        ("runs" if runs > 1 else "run", f"{count(runs)}{f', {lost} diverged' if lost else ''}"),
        ("preset", ", ".join(dict.fromkeys(cell["request"]["preset"] for cell in board.cells))),
        ("base model", ", ".join(dict.fromkeys(cell["ran_on"]["base"]["id"] or "generated" for cell in board.cells))),
        ("primary protocol", board.primary),
    ]


# Quality against size


def _overall(board: Board, shown: list[Axis]) -> dict:
    """The average over GLUE, or over what there is of it: one task where there is only one."""
    tasks = averaged_tasks(board)
    pictures = _pictures(board, tasks, shown, WIDE)
    named = ", ".join(map(task_title, tasks))
    caption = f"Mean of {named}; only methods that have them all." if len(tasks) > 1 else f"{named}."
    families = sorted({pair for picture in pictures for pair in picture["families"]})
    return {"pictures": pictures, "caption": caption, "families": families}


def _pictures(board: Board, tasks: list[str], shown: list[Axis], frame: Frame) -> list[dict]:
    """The same plot against every axis; the page shows the one that is chosen."""
    drawn = [draw_cloud(cloud(board, tasks, axis, board.primary), frame) for axis in shown]
    return [picture for picture in drawn if picture]


def averaged_tasks(board: Board) -> list[str]:
    glue = [task for task in board.averaged(board.tasks) if task in SUITES["glue"][1]]
    return glue or board.tasks[:1]


# Tasks


def _task(board: Board, names: Names, task: str, shown: list[Axis], entries: dict[tuple, Entry]) -> dict:
    cells = board.of_task(task)
    if not cells:
        lines = [_line(board, names, method, task, entries) for method in board.methods]
        named = {"task": task, "title": task_title(task), "anchor": names.of_tasks[task], "metric": "", "lines": lines}
        return named | {"facts": "No cell of this task could be made.", "dataset": None, "strips": None, "pictures": []}
    dataset, baseline = cells[0]["ran_on"]["dataset"], cells[0]["measured"]["baseline"]
    metric = cells[0]["measured"]["metric"]
    rows = ", ".join(f"{split} {count(number)}" for split, number in sorted(dataset["rows"].items()))
    return {
        "task": task,
        "title": task_title(task),
        "anchor": names.of_tasks[task],
        "metric": metric_title(metric),
        "facts": f"Rows: {rows}{' (partial data)' if dataset['partial'] else ''}. "
        f"A constant answer ({baseline['what']}) scores {score(baseline['metrics'][metric])}.",
        "dataset": dataset,
        "strips": draw_strips(board, task),
        "lines": [_line(board, names, method, task, entries) for method in board.methods],
        "pictures": [
            picture for axis in shown if (picture := draw_cloud(cloud(board, [task], axis, board.primary), NARROW))
        ],
    }


def _line(board: Board, names: Names, method: str, task: str, entries: dict[tuple, Entry]) -> dict:
    """One method's line in a task's table."""
    line = {"method": method, "title": board.title(method), "anchor": names.of_cells.get((method, task)), "reason": None}
    if word := board.word(method, task):
        return line | {"word": word, "reason": board.failed.get((method, task)) or _why_diverged(board, method, task)}
    estimate = board.estimate(method, task, board.primary)
    summary, test = board.summary(method, task, board.primary), board.against_reference(method, task, board.primary)
    drop = board.drop(method, task, board.primary)
    return line | {
        "word": None,
        "mean": summary["mean"],
        "diverged": wording.diverged(summary["n"], summary["n_diverged"]),
        "interval": estimate and estimate.interval(),
        "change": None if drop is None else -drop,
        "p": entries[board.primary, method, task].drop_p,
        "test": test and f"{test.test}, {plural(test.seeds, 'seed')}; uncorrected p {wording.probability(test.p)}",
    }


def _why_diverged(board: Board, method: str, task: str) -> str | None:
    cell = board.at.get((method, task))
    return cell and "; ".join(dict.fromkeys(seed["reason"] for seed in cell["measured"]["seeds"] if seed["reason"]))


# Methods


def _method(board: Board, names: Names, method: str) -> dict:
    cells = board.of_method(method)
    spec = cells[0]["request"]["spec"]
    sources = spec.get("sources", {})
    recipe = [
        (name, _with_exceptions(cells, name), sources.get(name) or "the method's stanza") for name in spec.get("recipe", {})
    ]
    stanza = {key: value for key, value in spec.items() if key not in ("recipe", "sources", "title", "deviations", "paper")}
    recipe += [(name, plain(value), "the method's stanza") for name, value in flat(stanza)]
    preset = cells[0]["request"]["preset"]
    recipe += [(name, plain(value), f"budget of preset {preset}") for name, value in flat(cells[0]["request"]["budget"])]
    errors = next((found for cell in cells if (found := cell["measured"].get("quantization_error"))), None)
    return {
        "method": method,
        "title": board.title(method),
        "anchor": names.of_methods[method],
        "family": family(board, method),
        "facts": f"{spec.get('paper', 'No paper is named')}. Bits (weights, embeddings, activations): {bits(spec)}.",
        "scores": [_place(board, names, method, task) for task in board.tasks],
        "recipe": recipe,
        "deviations": list(map(plain, spec.get("deviations", []))),
        "heat": errors and draw_heat(errors),
    }


def _with_exceptions(cells: list[dict], name: str) -> str:
    """A setting's value, and the tasks for which it is another."""
    values = {}
    for cell in cells:
        values.setdefault(plain(cell["request"]["spec"]["recipe"].get(name)), []).append(task_title(cell["request"]["task"]))
    (common, _), *others = sorted(values.items(), key=lambda item: -len(item[1]))
    return common + "".join(f"; {value} for {', '.join(tasks)}" for value, tasks in others)


def _place(board: Board, names: Names, method: str, task: str) -> tuple[str, str | None, str]:
    """(task, anchor of the cell, number or word) for a method's line of links."""
    number = board.word(method, task) or score(board.mean(method, task, board.primary))
    return task_title(task), names.of_cells.get((method, task)), number


# Cells


def _cell(board: Board, names: Names, cell: dict, entries: dict[tuple, Entry]) -> dict:
    method, task = cell["request"]["method"], cell["request"]["task"]
    measured, on = cell["measured"], cell["ran_on"]
    main = board.summary(method, task, board.primary)
    resumed = sum(one["machine"]["resumed"] for one in on["volatile"]["machines"])
    return {
        "cell": cell,
        "anchor": names.of_cells[method, task],
        "title": board.title(method),
        "task": task_title(task),
        "task_anchor": names.of_tasks[task],
        "summaries": {name: block["metrics"][measured["metric"]] for name, block in measured["protocols"].items()},
        "metrics": {name: metric_title(name) for name in metrics_of(cell)[:SHOWN_METRICS]},
        "diverged": wording.diverged(main["n"], main["n_diverged"]),
        "statements": list(_statements(board, cell, entries)),
        "charts": curves(cell),
        "partial": partial_note(cell),
        "resumed": f"resumed {plural(resumed, 'time')}" if resumed else None,
        "provenance": list(_provenance(cell)),
    }


SHOWN_METRICS = 4  # SQuAD 2.0 has ten, of which the rest stand in the cell's own file


def _statements(board: Board, cell: dict, entries: dict[tuple, Entry]):
    """What the numbers say, in sentences: interval, loss, test, and what happened on the way."""
    method, task = cell["request"]["method"], cell["request"]["task"]
    for protocol in board.protocols:
        if estimate := board.estimate(method, task, protocol):
            low, high = estimate.interval()
            yield f"95 % interval ({protocol}): {score(low, 2)} to {score(high, 2)}, over {estimate.basis}."
        elif note := board.summary(method, task, protocol)["note"]:
            yield f"{note.capitalize()} ({protocol})."
    reference = board.reference(method, task)
    for protocol in board.protocols:
        drop = board.drop(method, task, protocol)
        if drop is None:
            continue
        side = "below" if drop >= 0 else "above"
        line = f"{score(abs(drop), 2)} points {side} {reference['method']}, seed {reference['seed']} ({protocol})"
        if test := board.against_reference(method, task, protocol):
            line += f": p {wording.probability(test.p)}, {test.test}"
            corrected = entries[protocol, method, task].drop_p
            line += "" if corrected is None else f"; after Holm {wording.probability(corrected)}"
        yield f"{line}."
    for seed in cell["measured"]["seeds"]:
        yield from (f"Seed {seed['seed']}: {event}" for event in seed["events"])


def _provenance(cell: dict):
    """Name and value of what this cell stands on; what all cells share is said once, under Environment."""
    on, machines = cell["ran_on"], cell["ran_on"]["volatile"]["machines"]
    yield "Data", f"{on['data']}, fingerprint {on['dataset']['fingerprint'][:16]}, version {on['dataset']['task_version']}"
    yield "Base model", f"{on['base']['id'] or on['base']['source']}, sha256 {on['base']['sha256'][:16]}"
    if on["teacher"]:
        yield "Teacher", _ancestor(on["teacher"])
    yield "Started from", "; ".join(dict.fromkeys(_ancestor(run["init"]) for run in on["runs"] if run["init"]))
    yield "Code digest", on["code"]
    commits = {(one["machine"]["git_commit"] or "outside git", bool(one["machine"]["git_dirty"])) for one in machines}
    yield "Commit", "; ".join(f"{sha[:16]}{' with uncommitted changes' if dirty else ''}" for sha, dirty in sorted(commits))
    yield "Precision", f"{on['precision']}, padding {cell['request']['padding']}"
    yield "Device", f"{', '.join(on['devices'])}; {', '.join(map(str, on['threads']))} threads"
    ran = [one["machine"]["gpu"] or one["machine"]["cpu"] or "unknown" for one in machines]
    yield "Machine", "; ".join(dict.fromkeys(ran))
    primary = f"{cell['request']['primary']}.safetensors"
    files = [f"seed {run['seed']} {run['files'][primary][:16]}" for run in on["runs"] if primary in run["files"]]
    yield f"{primary}, sha256", ", ".join(files)


def _ancestor(run: dict) -> str:
    model = f"sha256 {run['sha256'][:16]}" if run["sha256"] else "diverged"
    return f"{run['method']}, seed {run['seed']}, {model}"


# Files and data inside the page


def _exports(table) -> dict:
    grid = table.grid()
    links = {ending: _link(text, ending) for ending, text in exports.files_of(table).items()}
    return {"name": grid.name, "label": "This table", "links": links.items()}


def _link(text: str, ending: str) -> str:
    return f"data:{MIME[ending]};base64,{base64.b64encode(text.encode()).decode()}"


def numbers(board: Board) -> str:
    """What another report needs to compare itself with this one."""
    rows = []
    for cell in board.cells:
        method, task = cell["request"]["method"], cell["request"]["task"]
        summary = board.summary(method, task, board.primary)
        size = cell["measured"]["size"]
        row = {"method": method, "title": board.title(method), "task": task, "metric": cell["measured"]["metric"]}
        row |= {key: summary[key] for key in ("mean", "sd", "n", "n_diverged")}
        rows.append(row | {"file_bytes": size and size["file"]["bytes"], "code": cell["ran_on"]["code"]})
    return exports.rows_to_json({"format": 1, "protocol": board.primary}, rows)


def _data(board: Board, names: Names) -> dict:
    """What the scripts need beside the page itself: the picker's table and every pair's test."""
    glue = averaged_tasks(board)
    average = {"": f"the average of {len(glue)} GLUE tasks"} if len(glue) > 1 else {}
    return {
        "scopes": average | {task: task_title(task) for task in board.tasks},
        "methods": [_choice(board, names, method, glue) for method in board.methods],
        "pairs": {task: pairs(board, task) for task in board.tasks},
    }


def _choice(board: Board, names: Names, method: str, glue: list[str]) -> dict:
    sizes = [cell["measured"]["size"] for cell in board.of_method(method)]
    latencies = [cell["measured"]["latency"] for cell in board.of_method(method)]
    times = [latency for latency in latencies if isinstance(latency, dict)]
    scopes = {"": (board.average(method, glue, board.primary), board.average_drop(method, glue, board.primary))}
    scopes |= {t: (board.mean(method, t, board.primary), board.drop(method, t, board.primary)) for t in board.tasks}
    return {
        "title": board.title(method),
        "anchor": names.of_methods.get(method),
        "words": _words(board, method),
        "mib": max((size["file"]["bytes"] for size in sizes if size), default=0) / 2**20 or None,
        "ms": max((time["milliseconds"] for time in times), default=None),
        "simulated": any(time["simulated"] for time in times),
        "diverged": board.n_diverged(method, board.tasks)[0],
        "scopes": {key: values for key, values in scopes.items() if values[0] is not None},
    }


def _words(board: Board, method: str) -> str:
    """What a filter can find a method by."""
    specs = [cell["request"]["spec"] for cell in board.of_method(method)[:1]]
    found = [text for spec in specs for text in (bits(spec), str(spec.get("family", "")), str(spec.get("paper", "")))]
    found += [word for task in board.tasks if (word := board.word(method, task))]
    return " ".join([method, board.title(method), *dict.fromkeys(found)]).lower()


def pairs(board: Board, task: str) -> list[list]:
    """Row of the baseline, column of the method: difference and p, a baseline's tests corrected by Holm; null for none."""
    found = []
    for baseline in board.methods:
        row = [method != baseline and board.against(method, baseline, task, board.primary) for method in board.methods]
        corrected = iter(holm(test.p for test in row if test))
        found.append([[round(test.difference.value, 2), float(f"{next(corrected):.2g}")] if test else None for test in row])
    return found
