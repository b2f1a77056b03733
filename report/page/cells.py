"""The details of each cell: seeds, curves, statements and provenance."""

from collections.abc import Iterator

from report import wording
from report.evidence.comparison import Evidence
from report.evidence.texts import Texts
from report.page import latency
from report.page.answers import answers_view
from report.page.charts import curves
from report.page.names import Names
from report.tables.suites import Entry
from report.wording import augmentation, metric_title, metrics_of, partial_note, plural, score

SHOWN_METRICS = 4  # SQuAD 2.0 has ten; the others are in the cell's own file


def cell_view(evidence: Evidence, names: Names, cell: dict, entries: dict[tuple, Entry], texts: Texts | None = None) -> dict:
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
        "answers": answers_view(evidence.board, cell, texts),
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
