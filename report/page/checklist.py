"""The reproducibility checklist of Pineau et al. (2020), answered from the cells; and the environments of the runs."""

import json

from report.evidence.board import Board
from report.evidence.comparison import Evidence
from report.tables.suites import odd_written
from report.wording import PROTOCOLS, count, mebibytes, plural


def checklist(evidence: Evidence) -> list[tuple[bool, str, str]]:
    """Return (whether it is fulfilled, name of the item, answer) for each item."""
    board = evidence.board
    seeds = [seed for cell in board.cells for seed in cell["measured"]["seeds"]]
    machines = [one["machine"] for cell in board.cells for one in cell["ran_on"]["volatile"]["machines"]]
    lost = [seed for seed in seeds if seed["status"] != "ok"]
    counts = sorted({len(cell["request"]["seeds"]) for cell in board.cells})
    return [
        _data(board),
        _sources(board),
        (
            True,
            "Selection",
            f"Primary protocol “{board.primary}”: {PROTOCOLS[board.primary]}. The other is shown beside it.",
        ),
        (counts[0] > 1, "Runs", f"{plural(len(seeds), 'run')}, {_range(counts)} for each cell."),
        (not lost, "Divergence", f"{plural(len(lost), 'run')} of {len(seeds)} diverged; none is in a mean."),
        _error_bars(evidence),
        (not board.odd, "Like with like", _likeness(board)),
        _code(machines),
        (True, "Models", "Cells hold the SHA-256 of every file. Scores are those of the model read back from its file."),
        (True, "Compute", _compute(machines)),
        _latency(board),
        (True, "Reproduction", "Every cell names the command that makes it again from nothing."),
    ]


def _data(board: Board) -> tuple[bool, str, str]:
    if board.generated:
        return False, "Data", "Generated for a demo: do not compare the scores with any paper."
    if board.held_out:
        return False, "Data", "Scored on held-out training rows and not on the dev sets: numbers to choose a recipe by."
    tasks = sorted({board.task_title(cell["request"]["task"]) for cell in board.partial})
    if tasks:
        return False, "Data", f"Official splits, but only a part of the rows of {', '.join(tasks)}."
    return True, "Data", "The whole official training and development splits, at pinned revisions."


def _sources(board: Board) -> tuple[bool, str, str]:
    settings = {}
    for cell in board.cells:
        spec = cell["request"]["spec"]
        for name in spec.get("recipe", {}):
            settings[cell["request"]["method"], name] = bool(spec.get("sources", {}).get(name))
    known = sum(settings.values())
    text = f"{known} of {plural(len(settings), 'setting')} have a source."
    return known == len(settings), "Hyper-parameters", text


def _range(counts: list[int]) -> str:
    return plural(counts[0], "seed") if len(counts) == 1 else f"{counts[0]} to {counts[-1]} seeds"


def _error_bars(evidence: Evidence) -> tuple[bool, str, str]:
    bases, board = {}, evidence.board
    for cell in board.cells:
        estimate = evidence.score(cell["request"]["method"], cell["request"]["task"]).estimate
        basis = f"over {estimate.basis}" if estimate else "without an interval"
        bases[basis] = bases.get(basis, 0) + 1
    text = ", ".join(f"{plural(number, 'cell')} {basis}" for basis, number in sorted(bases.items()))
    return set(bases) == {"over examples and seeds"}, "Error bars", f"95 % intervals: {text}."


def _likeness(board: Board) -> str:
    if not board.odd:
        return "Code, data, teacher, base model and preset agree wherever numbers are compared."
    return f"Not compared: {'; '.join(odd_written(board, board.tasks))}."


def _code(machines: list[dict]) -> tuple[bool, str, str]:
    commits = sorted({machine["git_commit"][:12] for machine in machines if machine["git_commit"]})
    dirty = sum(bool(machine["git_dirty"]) for machine in machines)
    text = f"Commit {', '.join(commits)}" if commits else "Outside git"
    text += f"; {plural(dirty, 'run')} with uncommitted changes" if dirty else ""
    return bool(commits) and not dirty, "Code", f"{text}; cells hold a digest of the code that each run executed."


def _compute(machines: list[dict]) -> str:
    hours = sum(machine["seconds"]["total"] for machine in machines) / 3600
    memory = max((machine["peak_memory_bytes"] or 0 for machine in machines), default=0)
    time = f"{count(round(hours))} hours" if hours >= 10 else f"{hours:.1f} hours"
    return f"{time} of training and scoring in total; peak memory {mebibytes(memory or None)}."


def _latency(board: Board) -> tuple[bool, str, str]:
    compared, cells = len(board.latencies.comparable), plural(len(board.cells), "cell")
    text = [f"Measured for {compared} of {cells}.", *board.latencies.notes(board.title)]
    return compared == len(board.cells), "Time of a prediction", " ".join(text)


def environments(board: Board) -> list[tuple[str, list[tuple[str, str]]]]:
    """Return packages and machines, each distinct set once with the number of its cells or runs."""
    packages, machines = {}, {}
    for cell in board.cells:
        _tally(packages, {name: ", ".join(versions) for name, versions in sorted(cell["ran_on"]["packages"].items())})
        for one in cell["ran_on"]["volatile"]["machines"]:
            _tally(machines, _machine(one["machine"]))
    return [
        *((f"Packages of {plural(number, 'cell')}", list(facts.items())) for facts, number in packages.values()),
        *((f"Machine of {plural(number, 'run')}", list(facts.items())) for facts, number in machines.values()),
    ]


def _tally(counts: dict, facts: dict) -> None:
    _, number = counts.get(key := json.dumps(facts), (facts, 0))
    counts[key] = (facts, number + 1)


def _machine(machine: dict) -> dict[str, str]:
    return {
        "Processor": machine["cpu"] or "unknown",
        "Cores": str(machine["cores"] or "unknown"),
        "Flags": " ".join(machine["flags"]) or "none",
        "Accelerator": machine["gpu"] or "none",
        "Platform": machine["platform"],
        "Python": machine["python"],
    }
