"""One suite's table under one protocol: its numbers, their written form for texts, and its records for programs."""

import sys
from collections.abc import Iterable
from dataclasses import dataclass, field

from report.evidence.board import Budget
from report.evidence.comparison import Average, Difference, Reference
from report.evidence.latency import Speed
from report.evidence.verdicts import Verdict
from report.tables.grid import MISSING, Grid, Text
from report.wording import CONVENTIONS, PROTOCOLS, diverged, metric_title, score


@dataclass(frozen=True)
class Column:
    """One fact on the methods themselves: their bits, a size or a time."""

    key: str
    title: str
    under: str
    kind: str  # "size" or "time"
    usual: bool = False  # shown unless the reader chooses otherwise
    exported: bool = False  # in Markdown and LaTeX; CSV and JSON have everything
    smaller_is_better: bool = True


COLUMNS = (
    Column("bits", "Bits", "W-E-A", "size", usual=True, exported=True),
    Column("file", "MiB", "file", "size", usual=True, exported=True),
    Column("ratio", "Ratio", "times smaller", "size", usual=True, smaller_is_better=False),
    Column("paper", "MiB", CONVENTIONS["paper"], "size"),
    Column("counted", "MiB", CONVENTIONS["counted"], "size"),
    Column("parameters", "Parameters", "millions", "size"),
    Column("ms", "ms", "one sentence", "time", usual=True, exported=True),
    Column("per_second", "Sentences/s", "batches of 32", "time", smaller_is_better=False),
    Column("speed_up", "Speed-up", "one sentence", "time", smaller_is_better=False),
    Column("memory", "Memory", "MiB, peak", "time"),
)


@dataclass(frozen=True)
class Fact:
    """The place of one method in one of these columns."""

    text: str
    value: float | None = None  # to sort by; None where there is no number
    reason: str | None = None  # why there is none


@dataclass(frozen=True)
class Entry:
    """One method's score on one task, or the reason why there is none."""

    method: str
    task: str
    status: str | None = None
    scores: list[tuple[str, dict]] = field(default_factory=list)  # (metric, summary over seeds), the primary one first
    interval: tuple[float, float] | None = None
    loss: Difference | None = None  # from full precision
    verdict: Verdict | None = None  # on the loss
    drop: float | None = None  # from its own teacher, or from the model that it started from
    teacher: Reference | None = None
    teacher_title: str | None = None
    partial: bool = False
    augmented: bool = False
    best: bool = False
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
    def p(self) -> float | None:
        """Return the p of the loss, corrected."""
        return self.verdict.p if self.verdict else None

    @property
    def marks(self) -> str:
        """Return the signs other than the verdict's."""
        return "" if self.status else "†" * self.partial + "‡" * self.augmented

    def written(self) -> Text:
        if self.status:
            return Text(MISSING if self.status == "not run" else self.status.partition(" (")[0])
        summary = self.primary
        kept = seeds_kept(summary["n"], summary["n_diverged"])
        return Text(
            text=score(summary["mean"]),
            bold=self.best,
            small="" if summary["sd"] is None else f"±{score(summary['sd'])}",
            second="".join(f"/{score(other['mean'])}" for _, other in self.scores[1:]),
            seeds=kept or (f"(n={summary['n']})" if self.odd_n else ""),
            marks=(self.verdict.mark if self.verdict else "") + self.marks,
        )

    def record(self, metrics: list[str]) -> dict:
        found, counts = dict(self.scores), {} if self.status else self.primary
        record = {}
        for metric in metrics:
            record |= {metric: found.get(metric, {}).get("mean"), f"{metric}_sd": found.get(metric, {}).get("sd")}
        record |= {"n": counts.get("n", 0), "n_diverged": counts.get("n_diverged")}
        record |= _interval(self.interval) | _loss(self.loss, self.verdict)
        record |= {"teacher": self.teacher and self.teacher.method, "teacher_drop": self.drop}
        notes = (("partial data", self.partial), ("data augmentation", self.augmented))
        record["note"] = self.status or ", ".join(note for note, on in notes if on) or None
        return {f"{self.task}_{key}": value for key, value in record.items()}


@dataclass(frozen=True)
class Row:
    method: str
    title: str
    paper: str | None
    budget: Budget
    size: dict | None
    speed: Speed | str  # over the tasks of the average, or why there is none
    facts: dict[str, Fact]  # by the keys of COLUMNS
    entries: list[Entry]
    average: Average
    verdict: Verdict | None = None  # on the mean loss
    average_best: bool = False
    n_diverged: int = 0  # runs on the tasks of the average
    n: int = 0

    @property
    def diverged(self) -> str | None:
        return diverged(self.n, self.n_diverged)

    @property
    def teacher_title(self) -> str | None:
        """Return the teacher of every cell; None where they have several, or none."""
        teachers = {entry.teacher_title for entry in self.entries if not entry.status}
        return teachers.pop() if len(teachers) == 1 else None

    def written(self, columns: Iterable[Column], averaged: int) -> list[Text]:
        """Return the places of the row; `averaged` is how many tasks are summed up at its end."""
        facts = [self.facts[column.key] for column in columns]
        places = [Text(self.title, paper=self.paper), *(Text(MISSING if fact.reason else fact.text) for fact in facts)]
        ends = [self._average_written()] * (averaged > 1) + [self._loss_written()] * (averaged > 0)
        return places + [entry.written() for entry in self.entries] + ends

    def _average_written(self) -> Text:
        if self.average.value is None:
            return Text(MISSING)
        return Text(score(self.average.value), self.average_best, seeds=seeds_kept(self.n, self.n_diverged))

    def _loss_written(self) -> Text:
        if (loss := self.average.loss) is None:
            return Text(MISSING)
        between = "" if loss.interval is None else f"[{score(loss.interval[0])}, {score(loss.interval[1])}]"
        return Text(score(loss.value), small=between, marks=self.verdict.mark if self.verdict else "")

    def record(self, protocol: str, metrics: dict[str, list[str]], with_average: bool, device: str | None) -> dict:
        record = {"method": self.method, "title": self.title, "paper": self.paper, "bits": self.facts["bits"].text}
        record |= {"budget": self.budget.title, "protocol": protocol}
        size = self.size or {}
        for name in CONVENTIONS:
            record[f"{name}_bytes"] = size.get(name, {}).get("bytes")
        record["ratio"] = size.get("file", {}).get("ratio")
        record["parameters"] = size.get("parameters")
        record["active_parameters"] = size.get("active_parameters", size.get("parameters"))
        record |= _speed(self.speed, device)
        for entry in self.entries:
            record |= entry.record(metrics[entry.task])
        if with_average:
            record |= {f"average{'' if key is None else f'_{key}'}": value for key, value in self._average_record()}
        return record | _loss(self.average.loss, self.verdict) | {"teacher_drop": self.average.drop}

    def _average_record(self) -> Iterable[tuple[str | None, float | str | None]]:
        yield None, self.average.value
        yield from _interval(self.average.interval).items()
        yield "note", self.average.reason


@dataclass(frozen=True)
class Table:
    """One suite under one protocol."""

    name: str
    title: str
    protocol: str
    tasks: dict[str, str]  # titles
    metrics: dict[str, list[str]]
    averaged: list[str]  # tasks
    rows: list[Row]  # those of one budget together
    baseline: list[tuple[str, dict]]
    notes: list[str]
    device: str | None  # on which times were measured

    @property
    def with_average(self) -> bool:
        return len(self.averaged) > 1

    @property
    def with_loss(self) -> bool:
        return len(self.averaged) > 0

    @property
    def with_speed(self) -> bool:
        return any(isinstance(row.speed, Speed) for row in self.rows)

    @property
    def columns(self) -> list[Column]:
        return [column for column in COLUMNS if column.kind != "time" or self.with_speed]

    @property
    def entries(self) -> list[Entry]:
        return [entry for row in self.rows for entry in row.entries]

    @property
    def budgets(self) -> list[tuple[Budget, list[Row]]]:
        found = {}
        for row in self.rows:
            found.setdefault(row.budget, []).append(row)
        return list(found.items())

    def grid(self) -> Grid:
        columns = [column for column in self.columns if column.exported]
        ends = [("Average", "")] * self.with_average + [("Loss", "95 % CI")] * self.with_loss
        tasks = [(title, "/".join(map(metric_title, self.metrics[task]))) for task, title in self.tasks.items()]
        heads = [
            ("Method", ""),
            *((column.title, column.under if column.kind == "size" else "") for column in columns),
            *tasks,
            *ends,
        ]
        rows = [row.written(columns, len(self.averaged)) for row in self.rows]
        return Grid(
            name=f"{self.name}_{self.protocol}",
            caption=f"{self.title}, development sets, {PROTOCOLS[self.protocol]}.",
            header=[title for title, _ in heads],
            under=[under for _, under in heads],
            rows=rows,
            groups=[(budget.title, len(members)) for budget, members in self.budgets],
            notes=[*self._written_notes(rows), *self.notes],
        )

    def _written_notes(self, rows: list[list[Text]]) -> list[str]:
        """Explain what a written table abbreviates and the page spells out."""
        notes = []
        if any(place.text == MISSING for row in rows for place in row):
            notes.append(f"{MISSING} no number: not run, not measured, not on every task, or full precision itself")
        if any(entry.diverged for entry in self.entries) or any(row.n_diverged for row in self.rows):
            notes.append("(2/3) mean over two of three runs, the others diverged")
        return notes

    def records(self) -> list[dict]:
        """Return a mapping for each method, numbers as numbers, for CSV and JSON."""
        return [row.record(self.protocol, self.metrics, self.with_average, self.device) for row in self.rows]


def seeds_kept(n: int, n_diverged: int) -> str:
    return f"({n}/{n + n_diverged})" if n_diverged else ""


def _interval(interval: tuple[float, float] | None) -> dict:
    low, high = interval or (None, None)
    return {"low": low, "high": high}


def _loss(loss: Difference | None, verdict: Verdict | None) -> dict:
    low, high = (loss and loss.interval) or (None, None)
    return {
        "loss": loss and loss.value,
        "loss_low": low,
        "loss_high": high,
        "p_holm": None if verdict is None or verdict.p is None else max(verdict.p, sys.float_info.min),  # too small to hold
        "verdict": verdict and (verdict.text or None),
    }


def _speed(speed: Speed | str, device: str | None) -> dict:
    found = speed if isinstance(speed, Speed) else None
    return {
        "ms": found and found.milliseconds,
        "ms_p95": found and found.p95,
        "sentences_per_second": found and found.per_second,
        "speed_up": found and found.ratio,
        "memory_bytes": found and found.memory,
        "engine": found and " and ".join(sorted(found.engines)),
        "device": device if found else None,
        "time_note": None if found else speed,
    }
