"""The details of each cell: seeds, curves, statements and provenance."""

from collections.abc import Iterator

from report import wording
from report.evidence.comparison import Evidence
from report.evidence.texts import Texts
from report.page import latency
from report.page.answers import answers_view
from report.page.charts import curves
from report.page.names import Names
from report.wording import (
    PROTOCOLS,
    augmentation,
    interval,
    metric_title,
    metrics_of,
    partial_note,
    plural,
    probability,
    score,
)

SHOWN_METRICS = 4  # SQuAD 2.0 has ten; the others are in the cell's own file


def cell_view(evidence: Evidence, names: Names, cell: dict, texts: Texts | None = None) -> dict:
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
        "statements": list(_statements(evidence, cell)),
        "charts": curves(cell),
        "answers": answers_view(evidence.board, cell, texts),
        "partial": partial_note(cell),
        "augmentation": augmentation(cell),
        "speed": list(latency.facts(evidence.board, cell)),
        "resumed": f"resumed {plural(resumed, 'time')}" if resumed else None,
        "commits": _commits(cell),
        "provenance": list(_provenance(cell)),
    }


def _statements(evidence: Evidence, cell: dict) -> Iterator[str]:
    """Yield what is known of the mean and of its losses in sentences, and the events of the runs."""
    board, method, task = evidence.board, cell["request"]["method"], cell["request"]["task"]
    yield from (
        f"Not compared with other cells: {odd.reason}." for odd in board.odd if (odd.method, odd.task) == (method, task)
    )
    for protocol in board.protocols:
        if evidence.score(method, task, protocol).mean is not None:
            sentences = (_mean(evidence, method, task, protocol), *_losses(evidence, method, task, protocol))
            yield f"“{protocol}”, {PROTOCOLS[protocol]}: {' '.join(sentences)}"
    for seed in cell["measured"]["seeds"]:
        yield from (f"Seed {seed['seed']}: {event}." for event in seed["events"])


def _mean(evidence: Evidence, method: str, task: str, protocol: str) -> str:
    scored = evidence.score(method, task, protocol)
    mean = f"{score(scored.mean, 2)} with {plural(scored.summary['n'], 'seed')}"
    if scored.interval is None:
        return f"{mean}, without an interval."
    return f"{mean}, 95 % interval {interval(scored.interval, 2)} (over {scored.estimate.basis})."


def _losses(evidence: Evidence, method: str, task: str, protocol: str) -> Iterator[str]:
    """Yield the loss from full precision, and the drop from another teacher, as sentences."""
    board, scored = evidence.board, evidence.score(method, task, protocol)
    if loss := evidence.loss(method, task, protocol):
        verdict = evidence.verdict(method, task, protocol)
        known = [f"95 % interval of the loss {interval(loss.interval, 2)}"] if loss.interval else []
        if verdict and verdict.p is not None:
            known.append(f"p {probability(verdict.p)} after Holm’s correction, {loss.test}")
        details = f" ({'; '.join(known)})" if known else ""
        yield f"It {_change(loss.value)} {board.title(board.full_precision)}{details}."
        if verdict and verdict.text:
            yield f"Verdict: {verdict.text}."
    reference = scored.reference
    if scored.drop is not None and (reference.method != board.full_precision or loss is None):
        yield f"It {_change(scored.drop)} its own teacher, {board.title(reference.method)}, seed {reference.seed}."


def _change(lost: float) -> str:
    return f"scores {score(abs(lost), 2)} points {'below' if lost >= 0 else 'above'}"


def _commits(cell: dict) -> list[tuple[str | None, bool]]:
    """Return the commits that the runs were made at, and whether the code had changes that are in no commit."""
    machines = [one["machine"] for one in cell["ran_on"]["volatile"]["machines"]]
    return list(dict.fromkeys((machine["git_commit"], bool(machine["git_dirty"])) for machine in machines))


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
    commits = [f"{sha or 'outside git'}{' with uncommitted changes' if dirty else ''}" for sha, dirty in _commits(cell)]
    yield "Commit", "; ".join(commits)
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
