"""A plan as a table to read, and as facts for other programs."""

import dataclasses

from methods.common.progress import clock
from methods.planning.estimate import Plan, Run

MB, GB = 1e6, 1e9
# Of the packages and of what Snakemake keeps beside the runs nothing is counted here.
ACCURACY = "An estimate: expect what the runs take to lie between two thirds and one and a half times of it."


def table(catalogue, plan: Plan) -> str:
    """Return the plan as text: a line for each method, and what all of them take."""
    rows = [("method", "runs", "steps", "time", "disk MB", "memory GB")]
    by_method = _by_method(catalogue, plan)
    asked = set(catalogue.config["methods"])
    for method, runs in by_method.items():
        rows.append((method if method in asked else f"({method})", *_cells(runs)))
    rows.append(("all runs", *_cells(plan.runs)))
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    lines = ["  ".join(f"{cell:{'<' if at == 0 else '>'}{widths[at]}}" for at, cell in enumerate(row)) for row in rows]
    lines.insert(-1, "")
    if len(by_method) > len(asked):
        lines += ["", "In brackets: runs that other methods learn from or start from. Each is made once and counted once."]
    lines += ["", f"Base model {clock(plan.base_seconds)}, latencies {clock(plan.latency_seconds)}."]
    places = plan.side_by_side
    at_once = f"; with {places} runs side by side at least {_hours(plan.seconds_side_by_side)}" if places > 1 else ""
    lines.append(f"Everything: {_hours(plan.seconds)} one after another{at_once}.")
    return "\n".join([*lines, *plan.notes, ACCURACY])


def facts(catalogue, plan: Plan) -> dict:
    """Return the plan as JSON holds it."""
    return {
        "preset": catalogue.config["preset"],
        "seconds": plan.seconds,
        "seconds_side_by_side": plan.seconds_side_by_side,
        "side_by_side": plan.side_by_side,
        "base_seconds": plan.base_seconds,
        "latency_seconds": plan.latency_seconds,
        "all": _sums(plan.runs),
        "methods": {method: _sums(runs) for method, runs in _by_method(catalogue, plan).items()},
        "runs": [dataclasses.asdict(run) for run in plan.runs],
        "notes": plan.notes,
    }


def _by_method(catalogue, plan: Plan) -> dict[str, list[Run]]:
    """Return the runs of each method: those of the configuration in its order, then their ancestors."""
    found: dict[str, list[Run]] = {method: [] for method in catalogue.config["methods"]}
    for run in plan.runs:
        found.setdefault(run.method, []).append(run)
    return found


def _sums(runs: list[Run]) -> dict:
    return {
        "runs": len(runs),
        "steps": sum(run.steps for run in runs),
        "seconds": sum(run.seconds for run in runs),
        "disk_bytes": sum(run.file_bytes for run in runs),
        "memory_bytes": max(run.memory_bytes for run in runs),
    }


def _cells(runs: list[Run]) -> tuple[str, ...]:
    sums = _sums(runs)
    disk, memory = f"{sums['disk_bytes'] / MB:,.0f}", f"{sums['memory_bytes'] / GB:.1f}"
    return str(sums["runs"]), f"{sums['steps']:,}", clock(sums["seconds"]), disk, memory


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.1f} hours" if seconds > 3600 else f"{seconds / 60:.0f} minutes"
