"""The tables of the papers: one for each suite, a row for each method, a column for each task, made once for every output.

A table holds its numbers and their written form; `report.tables.exports` turns it into files, and the page lays it out.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from report.evidence import statistics
from report.evidence.board import Board, Suite
from report.evidence.comparison import Average, Evidence
from report.evidence.latency import Speed
from report.wording import (
    CONVENTIONS,
    PROTOCOLS,
    active,
    augmentation,
    bits,
    count,
    diverged,
    metric_title,
    mib,
    score,
    shown_metrics,
    signed,
    width,
)

LEVEL = 0.05  # a difference is significant below this probability, after Holm's correction within the table
MARKS = {
    "best": "bold: best of its bit budget",
    "tie": "≈ not told apart from the best of its bit budget",
    "like_reference": "° not told apart from its teacher or the model it was quantized from",
    "partial": "† partial data",
    "augmented": "‡ trained with data augmentation, the others without",
}


@dataclass(frozen=True)
class Text:
    """One place of a written table."""

    text: str
    bold: bool = False


@dataclass(frozen=True)
class Grid:
    """A table in its written form, for Markdown and LaTeX."""

    name: str
    caption: str
    header: list[str]
    rows: list[list[Text]]
    notes: list[str]
    text_columns: int = 2  # columns from the left that hold text, not numbers


@dataclass(frozen=True)
class Entry:
    """One method's score on one task, or the reason why there is none."""

    method: str
    task: str
    status: str | None = None
    scores: list[tuple[str, dict]] = field(default_factory=list)  # (metric, summary over seeds), the primary one first
    drop: float | None = None
    p: float | None = None  # of the drop, corrected
    interval: tuple[float, float] | None = None
    partial: bool = False
    augmented: bool = False
    best: bool = False
    tie: bool = False
    like_reference: bool = False
    odd_n: bool = False  # whether its mean is over another number of seeds than most of the table

    @property
    def primary(self) -> dict:
        return self.scores[0][1]

    @property
    def mean(self) -> float | None:
        return None if self.status else self.primary["mean"]

    @property
    def diverged(self) -> str | None:
        return None if self.status else diverged(self.primary["n"], self.primary["n_diverged"])

    @property
    def marks(self) -> str:
        marks = (("≈", self.tie), ("°", self.like_reference), ("†", self.partial and not self.status))
        marks += (("‡", self.augmented and not self.status),)
        return "".join(sign for sign, on in marks if on)

    @property
    def change(self) -> str:
        """Return the drop as a change of the score, in which a minus is a drop."""
        return "no reference" if self.drop is None else signed(-self.drop)

    def written(self) -> str:
        if self.status:
            return self.status
        first, *others = (deviation(summary) for _, summary in self.scores)
        text = " / ".join([first, *(score(summary["mean"]) for _, summary in self.scores[1:])]) if others else first
        n = f"n = {self.primary['n']}" if self.odd_n else None
        return " ".join(part for part in (text + self.marks, n, self.diverged) if part)


@dataclass(frozen=True)
class Row:
    method: str
    title: str
    bits: str
    budget: str
    size: dict | None
    speed: Speed | str  # over the tasks of the average, or why there is none
    entries: list[Entry]
    average: Average
    average_best: bool = False
    diverged: str | None = None


@dataclass(frozen=True)
class Table:
    """One suite under one protocol."""

    name: str
    title: str
    protocol: str
    tasks: dict[str, str]  # titles
    metrics: dict[str, list[str]]
    rows: list[Row]
    baseline: list[tuple[str, dict]]
    notes: list[str]
    with_average: bool
    device: str | None  # on which times were measured

    @property
    def with_speed(self) -> bool:
        return any(isinstance(row.speed, Speed) for row in self.rows)

    @property
    def entries(self) -> list[Entry]:
        return [entry for row in self.rows for entry in row.entries]

    def grid(self) -> Grid:
        sizes = [f"MiB, {name}" for name in CONVENTIONS]
        tasks = [f"{title} ({', '.join(map(metric_title, self.metrics[task]))})" for task, title in self.tasks.items()]
        ends = ["Average", "Mean drop"] if self.with_average else ["Mean drop"]
        speeds = ["ms", "Sentences/s", "Speed-up"] if self.with_speed else []
        return Grid(
            name=f"{self.name}_{self.protocol}",
            caption=f"{self.title}, development sets, {PROTOCOLS[self.protocol]}.",
            header=["Method", "W-E-A bits", *sizes, "Ratio", *speeds, *tasks, *ends],
            rows=[self._written(row) for row in self.rows],
            notes=self.notes,
        )

    def _written(self, row: Row) -> list[Text]:
        sizes = [Text(mib(row.size[name]["bytes"]) if row.size else "none") for name in CONVENTIONS]
        ratio = Text(f"{score(row.size['file']['ratio'])}×" if row.size else "none")
        average = [] if not self.with_average else [Text(average_written(row), row.average_best)]
        drop = Text("none" if row.average.drop is None else score(row.average.drop))
        entries = [Text(entry.written(), entry.best) for entry in row.entries]
        speeds = [Text(text) for text in speed_written(row.speed)] if self.with_speed else []
        return [Text(row.title), Text(row.bits), *sizes, ratio, *speeds, *entries, *average, drop]

    def records(self) -> list[dict]:
        """Return a mapping for each method, numbers as numbers, for CSV and JSON."""
        return [self._record(row) for row in self.rows]

    def _speed_record(self, speed: Speed | str) -> dict:
        found = speed if isinstance(speed, Speed) else None
        return {
            "ms": found and found.milliseconds,
            "ms p95": found and found.p95,
            "sentences per second": found and found.per_second,
            "speed-up": found and found.ratio,
            "engine": found and " and ".join(sorted(found.engines)),
            "device": self.device if found else speed,
        }

    def _record(self, row: Row) -> dict:
        record = {"method": row.method, "title": row.title, "bits": row.bits, "protocol": self.protocol}
        for name in CONVENTIONS:
            record[f"{name} bytes"] = row.size[name]["bytes"] if row.size else None
        record["ratio"] = row.size["file"]["ratio"] if row.size else None
        record["parameters"] = row.size["parameters"] if row.size else None
        record["active parameters"] = row.size.get("active_parameters", row.size["parameters"]) if row.size else None
        if self.with_speed:
            record |= self._speed_record(row.speed)
        for entry in row.entries:
            for metric in self.metrics[entry.task]:
                summary = dict(entry.scores).get(metric, {})
                record |= {f"{entry.task} {metric}": summary.get("mean"), f"{entry.task} {metric} sd": summary.get("sd")}
            counts = {} if entry.status else entry.primary
            low, high = entry.interval or (None, None)
            record |= {
                f"{entry.task} n": counts.get("n", 0),
                f"{entry.task} diverged": counts.get("n_diverged"),
                f"{entry.task} low": low,
                f"{entry.task} high": high,
                f"{entry.task} drop": entry.drop,
                f"{entry.task} p": entry.p,
                f"{entry.task} note": entry.status or _note(entry),
            }
        return record | ({"average": row.average.value} if self.with_average else {}) | {"drop": row.average.drop}


def speed_written(speed: Speed | str) -> tuple[str, str, str]:
    """Return milliseconds of a sentence, sentences a second in batches of 32, and the factor to full precision."""
    if isinstance(speed, str):
        return "none", "none", "none"
    return (
        f"{speed.milliseconds:.3g}",
        count(round(speed.per_second)),
        "none" if speed.ratio is None else f"{score(speed.ratio, 2)}×",
    )


def deviation(summary: dict) -> str:
    return score(summary["mean"]) + ("" if summary["sd"] is None else f" ± {score(summary['sd'])}")


def average_written(row: Row) -> str:
    if row.average.value is None:
        return row.average.reason
    return score(row.average.value) + (f" {row.diverged}" if row.diverged else "")


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
    entries = {(method, task): _entry(evidence, method, task, protocol) for method in methods for task in tasks}
    usual_n = _usual_n(entries.values())
    entries = _marked(evidence, entries, protocol, usual_n)
    averaged = board.averaged(tasks)
    rows = [_row(evidence, method, protocol, averaged, [entries[method, task] for task in tasks]) for method in methods]
    for row in _best_averages(rows):
        rows[rows.index(row)] = replace(row, average_best=True)
    return Table(
        device=board.latencies.setting.title if board.latencies.setting else None,
        name=suite.name,
        title=suite.title,
        protocol=protocol,
        tasks={task: board.task_title(task) for task in tasks},
        metrics={task: shown_metrics(board.of_task(task)[0]) for task in tasks},
        rows=rows,
        baseline=[(task, board.of_task(task)[0]["measured"]["baseline"]) for task in tasks],
        notes=_notes(board, tasks, list(entries.values()), rows, usual_n),
        with_average=len(averaged) > 1,
    )


def _entry(evidence: Evidence, method: str, task: str, protocol: str) -> Entry:
    if status := evidence.status(method, task):
        return Entry(method, task, status)
    cell, score = evidence.board.cell(method, task), evidence.score(method, task, protocol)
    return Entry(
        method=method,
        task=task,
        scores=[(name, score.metrics[name]) for name in shown_metrics(cell) if name in score.metrics],
        drop=score.drop,
        interval=score.interval,
        partial=cell["ran_on"]["dataset"]["partial"],
        augmented=augmentation(cell) is not None,
    )


def _note(entry: Entry) -> str | None:
    notes = (("partial data", entry.partial), ("data augmentation", entry.augmented))
    return ", ".join(note for note, on in notes if on) or None


def _marked(evidence: Evidence, entries: dict, protocol: str, usual_n: int | None) -> dict:
    """Mark the best of each bit budget and what Holm's correction of all tests in the table leaves."""
    board, best = evidence.board, {}
    for (method, task), entry in entries.items():
        if entry.mean is not None and not entry.diverged and board.comparable(method, task):
            best.setdefault((budget(board, method), task), []).append(entry)
    best = {place: max(of, key=lambda entry: entry.mean) for place, of in best.items() if len(of) > 1}
    tests = {}
    for (method, task), entry in entries.items():
        if entry.status:
            continue
        if difference := evidence.score(method, task, protocol).difference:
            tests[method, task, "reference"] = difference.p
        top = best.get((budget(board, method), task))
        if top is None or top is entry or entry.diverged:
            continue
        if difference := evidence.pair(method, top.method, task, protocol):
            tests[method, task, "best"] = difference.p
    corrected = dict(zip(tests, statistics.holm(tests.values()), strict=True))

    def marked(method: str, task: str, entry: Entry) -> Entry:
        p = corrected.get((method, task, "reference"))
        return replace(
            entry,
            best=best.get((budget(board, method), task)) is entry,
            tie=corrected.get((method, task, "best"), 0) >= LEVEL,
            like_reference=p is not None and p >= LEVEL,
            p=p,
            odd_n=entry.status is None and entry.primary["n"] != usual_n,
        )

    return {(method, task): marked(method, task, entry) for (method, task), entry in entries.items()}


def budget(board: Board, method: str) -> str:
    """Return the bits of a weight: methods that spend the same compete with each other."""
    return width(measured["weights"]) if (measured := board.bits(method)) else "?"


def _row(evidence: Evidence, method: str, protocol: str, averaged: list[str], entries: list[Entry]) -> Row:
    board, tasks = evidence.board, [entry.task for entry in entries]
    cells = [cell for cell in board.of_method(method) if cell["request"]["task"] in tasks]
    sizes = [cell["measured"]["size"] for cell in cells if cell["measured"]["size"]]
    lost, runs = evidence.diverged(method, averaged)
    return Row(
        method=method,
        title=board.title(method),
        bits=bits(board.bits(method)),
        budget=budget(board, method),
        size=max(sizes, key=lambda size: size["file"]["bytes"]) if sizes else None,
        speed=board.latencies.speed(method, averaged or tasks),
        entries=entries,
        average=evidence.average(method, averaged, protocol),
        diverged=diverged(runs - lost, lost),
    )


def _best_averages(rows: list[Row]) -> list[Row]:
    of_budget = {}
    for row in rows:
        if row.average.value is not None and not row.diverged:
            of_budget.setdefault(row.budget, []).append(row)
    return [max(of, key=lambda row: row.average.value) for of in of_budget.values() if len(of) > 1]


def _usual_n(entries: Iterable[Entry]) -> int | None:
    """Return the number of seeds that most means of the table are over."""
    counts = Counter(entry.primary["n"] for entry in entries if not entry.status)
    return max(counts, key=lambda n: (counts[n], n), default=None)


def _notes(board: Board, tasks: list[str], entries: list[Entry], rows: list[Row], usual_n: int | None) -> list[str]:
    """Explain the marks of this very table, and warn of what it cannot show."""
    notes = [text for mark, text in MARKS.items() if any(getattr(entry, mark) for entry in entries if not entry.status)]
    left_out = [board.task_title(task) for task in tasks if task not in board.averaged(tasks)]
    if left_out and any(row.average.value is not None for row in rows):
        notes.append(f"the average leaves out {', '.join(left_out)}")
    unless = ", where no other n is given" if any(entry.odd_n for entry in entries) else ""
    if usual_n:
        over = f"mean ± standard deviation over n = {usual_n} seeds" if usual_n > 1 else "n = 1 seed, so no deviation"
        notes.append(over + unless)
    if any(isinstance(row.speed, Speed) for row in rows):
        notes += [note[0].lower() + note[1:].removesuffix(".") for note in board.latencies.notes(board.title)]
    notes += [f"{row.title} {text}; its sizes count all" for row in rows if row.size and (text := active(row.size))]
    if board.generated:
        notes.append("generated data: do not compare these numbers with any paper")
    notes += [f"not compared: {text}" for text in odd_written(board, tasks)]
    return notes


def odd_written(board: Board, tasks: list[str]) -> list[str]:
    """Return the odd cells of the tasks in words, those with the same reason together."""
    by_reason = {}
    for odd in board.odd:
        if odd.task in tasks:
            by_reason.setdefault(odd.reason, []).append(f"{board.title(odd.method)} on {board.task_title(odd.task)}")
    return [f"{', '.join(_shortened(places))} ({reason})" for reason, places in by_reason.items()]


def _shortened(places: list[str], limit: int = 8) -> list[str]:
    return places if len(places) <= limit else [*places[: limit - 1], f"{len(places) - limit + 1} more"]
