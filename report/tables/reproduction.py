"""Verdicts on published figures: could one more run of ours have given the paper's number?

A paper's figure is taken as one run, and Student's prediction interval answers the question. Its deviation is pooled over
the methods of the task: a noisy method must not be right about everything, and a method whose seeds happen to agree must
not be wrong about everything.
"""

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass

from report.evidence.comparison import Evidence
from report.evidence.statistics import student_quantile
from report.tables.published import Figure, figures, names
from report.wording import METRICS, augmentation, partial_note, plural, score

PROTOCOL = "best"  # what the papers report
BASE = "bert-base-uncased"
ROUNDING = 0.05  # papers print one decimal, a few of them two
TELLING = 2.0  # points: an interval that is wider to either side can decide nothing
MARKS = {"reproduced": "≈", "above": "△", "below": "▽", "undecided": "?"}
UNVERIFIED = "recalled, not read in a source"


@dataclass(frozen=True)
class Spread:
    """The deviation of one run from another that differs in its seed alone, and its degrees of freedom."""

    deviation: float
    freedom: float

    def half_width(self, n: int, rows: int) -> float:
        """Return half the 95 % prediction interval of one more run, for a mean over `n` seeds on `rows` examples.

        It is at least one example wide, which is the smallest difference that a score can have.
        """
        predicted = student_quantile(0.975, self.freedom) * self.deviation * math.sqrt(1 + 1 / n)
        return max(predicted, 100 / rows) + ROUNDING


@dataclass(frozen=True)
class Pair:
    """A published figure, ours beside it, and the verdict."""

    method: str
    title: str
    paper: str
    task: str
    task_title: str
    metric: str
    figure: Figure
    ours: dict | None  # summary over seeds
    our_drop: float | None  # from full precision
    verdict: str
    reason: str = ""
    half_width: float | None = None

    @property
    def place(self) -> tuple[str, str]:
        return self.task, self.metric

    @property
    def difference(self) -> float | None:
        return self.ours["mean"] - self.figure.value if self.scored else None

    @property
    def scored(self) -> bool:
        return self.ours is not None and self.ours["mean"] is not None

    @property
    def decided(self) -> bool:
        """Return whether the pair was compared at all."""
        return self.verdict in MARKS

    @property
    def mark(self) -> str:
        return MARKS.get(self.verdict, "")

    @property
    def details(self) -> str:
        """Return the comparison in words: scores, verdict, losses."""
        if not self.scored:
            return f"published {score(self.figure.value)}, ours {self.verdict}."
        spread = "" if self.ours["sd"] is None else f" ± {score(self.ours['sd'])}"
        text = f"ours {score(self.ours['mean'])}{spread} ({plural(self.ours['n'], 'seed')}), "
        text += f"published {score(self.figure.value)}: {self.verdict}"
        if self.reason and self.figure.verified:
            text += f", {self.reason}"
        elif self.half_width is not None:
            text += f", interval ±{score(self.half_width)}"
        if None not in (self.our_drop, self.figure.drop):
            text += f". Lost from full precision: ours {score(self.our_drop)}, published {score(self.figure.drop)}"
        return f"{text}."


def pairs(evidence: Evidence) -> Iterator[Pair]:
    """Yield the published figures of the board's methods, each beside ours."""
    board, mapped = evidence.board, names()["methods"]
    spreads = functools.cache(lambda task, metric: spread(evidence, task, metric))
    for method in board.methods:
        if method not in mapped:
            continue
        with_augmentation = figures(method, augmented=True)
        for (task, metric), figure in figures(method).items():
            cell, scored = board.cell(method, task), evidence.score(method, task, PROTOCOL)
            if cell is not None and augmentation(cell):
                figure = with_augmentation[task, metric]
            ours = scored.metrics.get(metric) if scored else None
            verdict, reason, half_width = judge(evidence, method, task, metric, figure, spreads)
            primary = cell is not None and metric == cell["measured"]["metric"]
            loss = evidence.loss(method, task, PROTOCOL) if primary else None
            yield Pair(
                method=method,
                title=board.title(method),
                paper=mapped[method][0],
                task=task,
                task_title=board.task_title(task) if board.of_task(task) else figure.task,
                metric=metric,
                figure=figure,
                ours=ours,
                our_drop=loss.value if loss else None,
                verdict=verdict,
                reason=reason,
                half_width=half_width,
            )


def judge(evidence: Evidence, method: str, task: str, metric: str, figure: Figure, spreads) -> tuple[str, str, float | None]:
    """Return a verdict, its reason where it needs one, and half the width of the interval that it rests on.

    `spreads` returns the pooled spread of a task's metric.
    """
    cell = evidence.board.cell(method, task)
    if cell is None:
        return ("failed" if (method, task) in evidence.board.failed else "not run"), "", None
    if not figure.verified:
        return "unverified", UNVERIFIED, None
    if reason := _own_conditions(evidence, cell) or _other_conditions(cell, metric, figure):
        return "not comparable", reason, None
    ours = evidence.score(method, task, PROTOCOL).metrics.get(metric)
    if ours is None or not ours["n"]:
        return "diverged", "no seed has a score", None
    if (pooled := spreads(task, metric)) is None:
        return "undecided", "no method has two seeds on this task, so their spread is unknown", None
    half_width, difference = pooled.half_width(ours["n"], _rows_scored(cell)), ours["mean"] - figure.value
    if abs(difference) > half_width:
        return ("above" if difference > 0 else "below"), "", half_width
    if half_width > TELLING:
        return "undecided", f"seeds of this task vary by ±{score(half_width)} points", half_width
    return "reproduced", "", half_width


def spread(evidence: Evidence, task: str, metric: str) -> Spread | None:
    """Pool the deviation over seeds of all methods of the task that a paper could be compared with.

    Methods whose seeds all score the same, as where nothing is trained, tell nothing about chance and are left out. Where
    all methods are like that, there is no deviation; where none has two seeds, it is unknown: None.
    """
    cells = [cell for cell in evidence.board.of_task(task) if _own_conditions(evidence, cell) is None]
    scores = [evidence.score(cell["request"]["method"], task, PROTOCOL) for cell in cells]
    summaries = [summary for score in scores if (summary := score.metrics.get(metric)) and summary["n"] > 1]
    varied = [summary for summary in summaries if summary["sd"]]
    if not varied:
        return Spread(0.0, math.inf) if summaries else None
    freedom = sum(summary["n"] - 1 for summary in varied)
    return Spread(math.sqrt(sum((summary["n"] - 1) * summary["sd"] ** 2 for summary in varied) / freedom), freedom)


def _rows_scored(cell: dict) -> int:
    return min(rows for split, rows in cell["ran_on"]["dataset"]["rows"].items() if split != "train")


def _own_conditions(evidence: Evidence, cell: dict) -> str | None:
    """Return why a cell can be compared with no paper at all."""
    method, task = cell["request"]["method"], cell["request"]["task"]
    if cell["ran_on"]["data"] == "generated":
        return "our data are generated"
    if str(cell["ran_on"]["base"]["id"]).rpartition("/")[2] != BASE:
        return "our base model is another one"
    if partial_note(cell):
        return "our data are partial"
    if not evidence.board.comparable(method, task):
        return "ours was not made like the rest of this report"
    return None


def _other_conditions(cell: dict, metric: str, figure: Figure) -> str | None:
    if figure.test_set:
        return "the paper's figure is on the test set"
    if figure.augmented and not augmentation(cell):
        return "the paper's figure is with augmented data"
    if augmentation(cell) and not figure.augmented:
        return "ours is with augmented data"
    if metric not in METRICS:
        return "the paper does not say which metric"
    return None
