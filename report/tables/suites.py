"""The tables of the papers: one for each suite, a row for each method, a column for each task, made once for every output.

Methods of one budget of bits (or of size, where no bit is saved) stand together and compete with each other. The losses are
from full precision, and so are the verdicts; what a method lost from its own teacher stands beside them.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

from report.evidence.board import Board, Suite
from report.evidence.comparison import Evidence
from report.evidence.latency import Speed
from report.tables.table import Entry, Fact, Row, Table
from report.wording import CONVENTIONS, active, augmentation, bits, count, joined, mib, points, score, shown_metrics

REJECTED = "after Holm's correction of this table's tests (tasks and averages apart)"


def tables(evidence: Evidence) -> list[Table]:
    """Return a table for each suite and protocol, the primary protocol first; suites without a cell are left out."""
    return [
        table(evidence, suite, protocol)
        for suite in evidence.board.suites
        if any(evidence.board.of_task(task) for task in suite.tasks)
        for protocol in evidence.board.protocols
    ]


def table(evidence: Evidence, suite: Suite, protocol: str) -> Table:
    board = evidence.board
    tasks = [task for task in suite.tasks if board.of_task(task)]
    methods = [method for method in board.methods if any((method, task) in board.places for task in tasks)]
    methods.sort(key=board.budget)
    entries = {(method, task): _entry(evidence, method, task, protocol) for method in methods for task in tasks}
    usual_n = _usual_n(entries.values())
    best = _best(board, {place: entry.mean for place, entry in entries.items() if _competes(board, entry)})
    entries = {
        place: replace(entry, best=place in best, odd_n=not entry.status and entry.primary["n"] != usual_n)
        for place, entry in entries.items()
    }
    averaged = board.averaged_of(suite)
    rows = _rows(evidence, methods, [[entries[method, task] for task in tasks] for method in methods], averaged, protocol)
    return Table(
        device=board.latencies.setting.title if board.latencies.setting else None,
        name=suite.name,
        title=suite.title,
        protocol=protocol,
        tasks={task: board.task_title(task) for task in tasks},
        metrics={task: shown_metrics(board.of_task(task)[0]) for task in tasks},
        averaged=averaged,
        rows=rows,
        baseline=[(task, board.of_task(task)[0]["measured"]["baseline"]) for task in tasks],
        notes=list(_notes(board, tasks, averaged, rows, usual_n)),
    )


# Entries


def _entry(evidence: Evidence, method: str, task: str, protocol: str) -> Entry:
    board = evidence.board
    if status := evidence.status(method, task):
        return Entry(method, task, status)
    cell, scored = board.cell(method, task), evidence.score(method, task, protocol)
    return Entry(
        method=method,
        task=task,
        scores=[(name, scored.metrics[name]) for name in shown_metrics(cell) if name in scored.metrics],
        interval=scored.interval,
        loss=evidence.loss(method, task, protocol),
        verdict=evidence.verdict(method, task, protocol),
        drop=scored.drop,
        teacher=scored.reference,
        teacher_title=scored.reference and board.title(scored.reference.method),
        partial=cell["ran_on"]["dataset"]["partial"],
        augmented=augmentation(cell) is not None,
    )


def _competes(board: Board, entry: Entry) -> bool:
    return entry.mean is not None and not entry.diverged and board.comparable(entry.method, entry.task)


def _best(board: Board, means: dict[tuple[str, str], float]) -> set[tuple[str, str]]:
    """Return the places, each (method, task), with the highest mean of their budget on the task; ties are all best."""
    highest = {}
    for (method, task), mean in means.items():
        competition = board.budget(method), task
        highest[competition] = max(_as_shown(mean), highest.get(competition, _as_shown(mean)))
    return {
        (method, task) for (method, task), mean in means.items() if _as_shown(mean) == highest[board.budget(method), task]
    }


def _as_shown(mean: float) -> float:
    return float(f"{mean:.1f}")


def _usual_n(entries: Iterable[Entry]) -> int | None:
    """Return the number of seeds that most means of the table are over."""
    counts = Counter(entry.primary["n"] for entry in entries if not entry.status)
    return max(counts, key=lambda n: (counts[n], n), default=None)


# Rows


def _rows(
    evidence: Evidence, methods: list[str], entries: list[list[Entry]], averaged: list[str], protocol: str
) -> list[Row]:
    verdicts = evidence.verdicts_of_averages(averaged, protocol)
    rows = [_row(evidence, method, protocol, averaged, of) for method, of in zip(methods, entries, strict=True)]
    means = {(row.method, ""): row.average.value for row in rows if row.average.value is not None and not row.diverged}
    best = _best(evidence.board, means)
    return [replace(row, verdict=verdicts.get(row.method), average_best=(row.method, "") in best) for row in rows]


def _row(evidence: Evidence, method: str, protocol: str, averaged: list[str], entries: list[Entry]) -> Row:
    board, tasks = evidence.board, [entry.task for entry in entries]
    cells = [cell for cell in board.of_method(method) if cell["request"]["task"] in tasks]
    sizes = [cell["measured"]["size"] for cell in cells if cell["measured"]["size"]]
    size = max(sizes, key=lambda size: size["file"]["bytes"]) if sizes else None
    speed = board.latencies.speed(method, averaged or tasks)
    lost, runs = evidence.diverged(method, averaged)
    return Row(
        method=method,
        title=board.title(method),
        paper=next((cell["about"]["method"]["paper"] for cell in cells), None),
        budget=board.budget(method),
        size=size,
        speed=speed,
        facts={"bits": Fact(bits(board.bits(method)))} | _size_facts(size) | _time_facts(speed),
        entries=entries,
        average=evidence.average(method, averaged, protocol),
        n_diverged=lost,
        n=runs - lost,
    )


def _size_facts(size: dict | None) -> dict[str, Fact]:
    if size is None:
        return dict.fromkeys((*CONVENTIONS, "ratio", "parameters"), Fact("none", reason="no model was written"))
    facts = {name: Fact(mib(size[name]["bytes"]), size[name]["bytes"]) for name in CONVENTIONS}
    facts["ratio"] = Fact(f"{score(size['file']['ratio'])}×", size["file"]["ratio"])
    facts["parameters"] = Fact(score(size["parameters"] / 1e6), size["parameters"])
    return facts


def _time_facts(speed: Speed | str) -> dict[str, Fact]:
    if isinstance(speed, str):
        return dict.fromkeys(("ms", "per_second", "speed_up", "memory"), Fact(speed.partition(":")[0], reason=speed))
    no_ratio, no_memory = Fact("none", reason="no time of full precision"), Fact("none", reason="not measured")
    return {
        "ms": Fact(f"{speed.milliseconds:.3g}", speed.milliseconds),
        "per_second": Fact(count(round(speed.per_second)), speed.per_second),
        "speed_up": no_ratio if speed.ratio is None else Fact(f"{score(speed.ratio, 2)}×", speed.ratio),
        "memory": no_memory if speed.memory is None else Fact(mib(speed.memory), speed.memory),
    }


# Notes


def _notes(board: Board, tasks: list[str], averaged: list[str], rows: list[Row], usual_n: int | None) -> Iterable[str]:
    """Explain the marks of this very table, and warn of what it cannot show."""
    entries = [entry for row in rows for entry in row.entries if not entry.status]
    if any(entry.best for entry in entries):
        yield "bold: best of its budget"
    yield from _notes_on_marks(board, entries, rows)
    if averaged:
        yield _note_on_average(board, tasks, averaged)
    unless = ", where no other n is given" if any(entry.odd_n for entry in entries) else ""
    if usual_n:
        over = f"mean ± standard deviation over n = {usual_n} seeds" if usual_n > 1 else "one seed (n = 1), so no deviation"
        yield over + unless
    if any(isinstance(row.speed, Speed) for row in rows):
        yield from (note[0].lower() + note[1:].removesuffix(".") for note in board.latencies.notes(board.title))
    yield from (f"{row.title} {text}; its sizes count all" for row in rows if row.size and (text := active(row.size)))
    if board.generated:
        yield "generated data: do not compare these numbers with any paper"
    yield from (f"not compared: {text}" for text in odd_written(board, tasks))


def _notes_on_marks(board: Board, entries: list[Entry], rows: list[Row]) -> Iterable[str]:
    margin = points(board.margin)
    verdicts = {
        "≈": f"≈ equivalent within {margin} of full precision: the 95 % interval of the loss ends below {margin}",
        "▽": f"▽ worse than full precision {REJECTED}",
        "△": f"△ better than full precision {REJECTED}",
    }
    shown = set("".join(of.verdict.mark for of in (*entries, *rows) if of.verdict))
    yield from (text for mark, text in verdicts.items() if mark in shown)
    if any(entry.partial for entry in entries):
        yield "† partial data"
    if any(entry.augmented for entry in entries):
        yield "‡ trained with data augmentation, the others without"


def _note_on_average(board: Board, tasks: list[str], averaged: list[str]) -> str:
    reasons = board.left_out() if averaged == board.main_tasks() else {}
    left_out = [
        board.task_title(task) + (f" ({reasons[task]})" if task in reasons else "") for task in tasks if task not in averaged
    ]
    without = f", without {', '.join(left_out)}" if left_out else ""
    titles = joined([board.task_title(task) for task in averaged])
    return f"average and loss: the mean over {titles}{without}" if len(averaged) > 1 else f"loss: on {titles}{without}"


def odd_written(board: Board, tasks: list[str]) -> list[str]:
    """Return the odd cells of the tasks in words, those with the same reason together."""
    by_reason = {}
    for odd in board.odd:
        if odd.task in tasks:
            by_reason.setdefault(odd.reason, []).append(f"{board.title(odd.method)} on {board.task_title(odd.task)}")
    return [f"{', '.join(_shortened(places))} ({reason})" for reason, places in by_reason.items()]


def _shortened(places: list[str], limit: int = 8) -> list[str]:
    return places if len(places) <= limit else [*places[: limit - 1], f"{len(places) - limit + 1} more"]
