"""The tables of the papers: GLUE and SQuAD, a row for each method, a column for each task, made once for every output.

A table knows its numbers and how they are written; `report.exports` turns it into files and the page lays it out.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from report import statistics
from report.board import UNAVERAGED, Board
from report.wording import (
    CONVENTIONS,
    PROTOCOLS,
    TASKS,
    bits,
    diverged,
    metric_title,
    mib,
    score,
    shown_metrics,
    signed,
    task_title,
)

LEVEL = 0.05  # probability below which a difference is called one, after Holm's correction within the table
SUITES = {
    "glue": ("GLUE", [task for task in TASKS if not task.startswith("squad")]),
    "squad": ("SQuAD", [task for task in TASKS if task.startswith("squad")]),
}
MARKS = {
    "best": "best of its bit budget (bold)",
    "tie": "≈ not told apart from the best of its bit budget",
    "like_teacher": "° not told apart from the model it is to equal",
    "partial": "† partial data",
}


@dataclass(frozen=True)
class Text:
    """One place of a written table."""

    text: str
    bold: bool = False


@dataclass(frozen=True)
class Grid:
    """A table as it is written: for Markdown and LaTeX, which have no use for numbers."""

    name: str
    caption: str
    header: list[str]
    rows: list[list[Text]]
    notes: list[str]
    words: int = 2  # columns from the left that hold words, not numbers


@dataclass(frozen=True)
class Entry:
    """What one method scored on one task, or the word for why it did not."""

    method: str
    task: str
    word: str | None = None
    scores: list[tuple[str, dict]] = field(default_factory=list)  # (metric, summary over seeds), the primary one first
    drop: float | None = None
    drop_p: float | None = None  # corrected
    interval: tuple[float, float] | None = None
    partial: bool = False
    best: bool = False
    tie: bool = False
    like_teacher: bool = False
    odd_n: bool = False  # whether its mean is over another number of seeds than most of the table

    @property
    def primary(self) -> dict:
        return self.scores[0][1]

    @property
    def mean(self) -> float | None:
        return None if self.word else self.primary["mean"]

    @property
    def diverged(self) -> str | None:
        return None if self.word else diverged(self.primary["n"], self.primary["n_diverged"])

    @property
    def marks(self) -> str:
        return "".join(
            sign for sign, on in (("≈", self.tie), ("°", self.like_teacher), ("†", self.partial and not self.word)) if on
        )

    def written(self) -> str:
        if self.word:
            return self.word
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
    entries: list[Entry]
    average: float | None
    average_interval: tuple[float, float] | None
    drop: float | None
    average_best: bool = False
    diverged: str | None = None
    no_average: str = ""  # why there is none


@dataclass(frozen=True)
class Table:
    """One suite under one protocol."""

    name: str
    title: str
    protocol: str
    tasks: list[str]
    metrics: dict[str, list[str]]
    rows: list[Row]
    baseline: list[tuple[str, dict]]
    notes: list[str]

    @property
    def with_average(self) -> bool:
        return self.name == "glue" and len([task for task in self.tasks if task not in UNAVERAGED]) > 1

    @property
    def entries(self) -> list[Entry]:
        return [entry for row in self.rows for entry in row.entries]

    def grid(self) -> Grid:
        sizes = [f"MiB, {name}" for name in CONVENTIONS]
        tasks = [f"{task_title(task)} ({', '.join(map(metric_title, self.metrics[task]))})" for task in self.tasks]
        ends = ["Average", "Mean drop"] if self.with_average else ["Mean drop"]
        return Grid(
            name=f"{self.name}_{self.protocol}",
            caption=f"{self.title}, development sets, {PROTOCOLS[self.protocol]}.",
            header=["Method", "W-E-A bits", *sizes, "Ratio", *tasks, *ends],
            rows=[self._written(row) for row in self.rows],
            notes=self.notes,
        )

    def _written(self, row: Row) -> list[Text]:
        sizes = [Text(mib(row.size[name]["bytes"]) if row.size else "none") for name in CONVENTIONS]
        ratio = Text(f"{score(row.size['file']['ratio'])}×" if row.size else "none")
        average = [] if not self.with_average else [Text(average_written(row), row.average_best)]
        drop = Text("none" if row.drop is None else score(row.drop))
        entries = [Text(entry.written(), entry.best) for entry in row.entries]
        return [Text(row.title), Text(row.bits), *sizes, ratio, *entries, *average, drop]

    def records(self) -> list[dict]:
        """One mapping for each method, numbers as numbers: for CSV and JSON."""
        return [self._record(row) for row in self.rows]

    def _record(self, row: Row) -> dict:
        record = {"method": row.method, "title": row.title, "bits": row.bits, "protocol": self.protocol}
        for name in CONVENTIONS:
            record[f"{name} bytes"] = row.size[name]["bytes"] if row.size else None
        record["ratio"] = row.size["file"]["ratio"] if row.size else None
        for entry in row.entries:
            for metric in self.metrics[entry.task]:
                summary = dict(entry.scores).get(metric, {})
                record |= {f"{entry.task} {metric}": summary.get("mean"), f"{entry.task} {metric} sd": summary.get("sd")}
            counts = {} if entry.word else entry.primary
            low, high = entry.interval or (None, None)
            record |= {
                f"{entry.task} n": counts.get("n", 0),
                f"{entry.task} diverged": counts.get("n_diverged"),
                f"{entry.task} low": low,
                f"{entry.task} high": high,
                f"{entry.task} drop": entry.drop,
                f"{entry.task} p": entry.drop_p,
                f"{entry.task} note": entry.word or ("partial data" if entry.partial else None),
            }
        return record | ({"average": row.average} if self.with_average else {}) | {"drop": row.drop}


def deviation(summary: dict) -> str:
    return score(summary["mean"]) + ("" if summary["sd"] is None else f" ± {score(summary['sd'])}")


def average_written(row: Row) -> str:
    if row.average is None:
        return row.no_average
    return score(row.average) + (f" {row.diverged}" if row.diverged else "")


def tables(board: Board) -> list[Table]:
    """GLUE and SQuAD under both protocols, the primary one first; a suite without a task is left out."""
    known = {task for _, tasks in SUITES.values() for task in tasks}
    found = []
    for name, (title, tasks) in SUITES.items():
        others = [task for task in board.tasks if task not in known] if name == "glue" else []
        shown = [task for task in board.tasks if task in tasks] + others
        if any(board.of_task(task) for task in shown):
            found += [table(board, name, title, protocol, shown) for protocol in board.protocols]
    return found


def table(board: Board, name: str, title: str, protocol: str, tasks: list[str]) -> Table:
    tasks = [task for task in tasks if board.of_task(task)]
    methods = [method for method in board.methods if any((method, task) in {*board.at, *board.failed} for task in tasks)]
    entries = {(method, task): _entry(board, method, task, protocol) for method in methods for task in tasks}
    usual_n = _usual_n(entries.values())
    entries = _marked(board, entries, protocol, usual_n)
    rows = [_row(board, method, protocol, tasks, [entries[method, task] for task in tasks]) for method in methods]
    for row in _best_averages(rows):
        rows[rows.index(row)] = replace(row, average_best=True)
    return Table(
        name=name,
        title=title,
        protocol=protocol,
        tasks=tasks,
        metrics={task: shown_metrics(board.of_task(task)[0]) for task in tasks},
        rows=rows,
        baseline=[(task, board.of_task(task)[0]["measured"]["baseline"]) for task in tasks],
        notes=_notes(board, tasks, entries.values(), rows, usual_n),
    )


def _entry(board: Board, method: str, task: str, protocol: str) -> Entry:
    if word := board.word(method, task):
        return Entry(method, task, word)
    cell = board.at[method, task]
    metrics = cell["measured"]["protocols"][protocol]["metrics"]
    estimate = board.estimate(method, task, protocol)
    return Entry(
        method=method,
        task=task,
        scores=[(name, metrics[name]) for name in shown_metrics(cell) if name in metrics],
        drop=board.drop(method, task, protocol),
        interval=estimate.interval() if estimate else None,
        partial=cell["ran_on"]["dataset"]["partial"],
    )


def _marked(board: Board, entries: dict, protocol: str, usual_n: int | None) -> dict:
    """The entries with the best of each bit budget, and with what Holm's correction leaves of all tests in the table."""
    best = {}
    for (method, task), entry in entries.items():
        if entry.mean is not None and not entry.diverged and board.comparable(method, task):
            best.setdefault((budget(board, method), task), []).append(entry)
    best = {place: max(of, key=lambda entry: entry.mean) for place, of in best.items() if len(of) > 1}
    tests = {}
    for (method, task), entry in entries.items():
        if entry.word:
            continue
        if found := board.against_reference(method, task, protocol):
            tests[method, task, "teacher"] = found.p
        top = best.get((budget(board, method), task))
        if top and top is not entry and not entry.diverged and (found := board.against(method, top.method, task, protocol)):
            tests[method, task, "best"] = found.p
    corrected = dict(zip(tests, statistics.holm(tests.values()), strict=True))

    def marked(method: str, task: str, entry: Entry) -> Entry:
        p = corrected.get((method, task, "teacher"))
        return replace(
            entry,
            best=best.get((budget(board, method), task)) is entry,
            tie=corrected.get((method, task, "best"), 0) >= LEVEL,
            like_teacher=p is not None and p >= LEVEL,
            drop_p=p,
            odd_n=entry.word is None and entry.primary["n"] != usual_n,
        )

    return {(method, task): marked(method, task, entry) for (method, task), entry in entries.items()}


def budget(board: Board, method: str) -> str:
    """Methods that spend the same bits on a weight compete with each other."""
    return bits(board.of_method(method)[0]["request"]["spec"]).split("-")[0] if board.of_method(method) else "?"


def _row(board: Board, method: str, protocol: str, tasks: list[str], entries: list[Entry]) -> Row:
    cells = board.of_method(method)
    sizes = [cell["measured"]["size"] for cell in cells if cell["request"]["task"] in tasks and cell["measured"]["size"]]
    estimate = board.average_estimate(method, tasks, protocol)
    lost, runs = board.n_diverged(method, board.averaged(tasks))
    return Row(
        method=method,
        title=board.title(method),
        bits=bits(cells[0]["request"]["spec"]) if cells else "?",
        budget=budget(board, method),
        size=max(sizes, key=lambda size: size["file"]["bytes"]) if sizes else None,
        entries=entries,
        average=board.average(method, tasks, protocol),
        average_interval=estimate.interval() if estimate else None,
        drop=board.average_drop(method, tasks, protocol),
        diverged=diverged(runs - lost, lost),
        no_average=board.no_average(method, tasks, protocol),
    )


def _best_averages(rows: list[Row]) -> list[Row]:
    of_budget = {}
    for row in rows:
        if row.average is not None and not row.diverged:
            of_budget.setdefault(row.budget, []).append(row)
    return [max(of, key=lambda row: row.average) for of in of_budget.values() if len(of) > 1]


def _usual_n(entries: Iterable[Entry]) -> int | None:
    """The number of seeds that most means of the table are over."""
    counts = Counter(entry.primary["n"] for entry in entries if not entry.word)
    return max(counts, key=lambda n: (counts[n], n), default=None)


def _notes(board: Board, tasks: list[str], entries: Iterable[Entry], rows: list[Row], usual_n: int | None) -> list[str]:
    """What the marks in this very table mean, and what a reader would otherwise get wrong."""
    entries = list(entries)
    notes = [text for mark, text in MARKS.items() if any(getattr(entry, mark) for entry in entries if not entry.word)]
    left_out = [task_title(task) for task in tasks if task in UNAVERAGED]
    if left_out and any(row.average is not None for row in rows):
        notes.append(f"the average leaves out {', '.join(left_out)}, as the papers do")
    unless = ", where no other n is given" if any(entry.odd_n for entry in entries) else ""
    if usual_n:
        over = f"mean ± standard deviation over n = {usual_n} seeds" if usual_n > 1 else "n = 1 seed, so no deviation"
        notes.append(over + unless)
    if board.generated:
        notes.append("generated demo data: comparable with no paper")
    notes += [f"not compared, because they differ: {difference.what}" for difference in board.differences]
    return notes


def drop_written(entry: Entry) -> str:
    """The drop as a change of the score: a minus is a loss."""
    return "no teacher" if entry.drop is None else signed(-entry.drop)
