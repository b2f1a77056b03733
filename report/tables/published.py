"""Paper against ours: a method's published figures beside the benchmark's own, with a verdict on each.

`published.csv` holds the figures with their sources and a confidence: `high` was read in the source that the row names,
`medium` was recalled and cross-checked, which no verdict rests on. `published.yaml` maps papers to our methods and tasks.

A paper's figure is taken as one run, so the question is whether one more run of ours could have given it. Student's
prediction interval answers that. Its deviation is pooled over the methods of the task: a noisy method must not be right
about everything, and a method whose seeds happen to agree must not be wrong about everything.
"""

import csv
import functools
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from string import ascii_lowercase

import yaml

from report.evidence.comparison import Evidence
from report.evidence.statistics import student_quantile
from report.tables.grid import MISSING, Grid, Text
from report.wording import METRICS, augmentation, metric_title, partial_note, plural, score

FIGURES = Path(__file__).resolve().parent / "published.csv"
NAMES = Path(__file__).resolve().parent / "published.yaml"
PROTOCOL = "best"  # what the papers report
BASE = "bert-base-uncased"
ROUNDING = 0.05  # papers print one decimal, a few of them two
TELLING = 2.0  # points: an interval that is wider to either side can decide nothing
MODELS = ("bert-base", "bert-base hybrid", "bert-base-6of12", "bert-base-5of12")
MARKS = {"reproduced": "≈", "above": "△", "below": "▽", "undecided": "?"}
RULE = (
    "A figure counts as reproduced where one more run of ours could have given it: it lies within our 95 % prediction "
    f"interval, whose deviation is pooled over all methods of the task, plus {ROUNDING:g} for the paper's rounding. "
    f"Where that interval is wider than ±{TELLING:g} points, nothing is decided."
)
MEANINGS = {
    "reproduced": "reproduced: one more run of ours could give the paper's figure",
    "above": "above the paper's figure",
    "below": "below the paper's figure",
    "undecided": f"undecided: within the interval, but it is wider than ±{TELLING:g} points or unknown",
}
UNVERIFIED = "recalled, not read in a source"


@dataclass(frozen=True)
class Figure:
    """One published number, its source and its conditions."""

    task: str  # as the paper calls it
    value: float
    drop: float | None  # from the same paper's full precision
    augmented: bool
    test_set: bool
    source: str
    confidence: str

    @property
    def verified(self) -> bool:
        return self.confidence == "high"


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


@dataclass(frozen=True)
class Column:
    """A task's metric."""

    task: str
    metric: str
    title: str
    unverified: bool  # whether all of its figures are

    @property
    def metric_title(self) -> str:
        return metric_title(self.metric)


@dataclass(frozen=True)
class Row:
    """A method with the figures of its paper, in the order of the columns; None where the paper gives none."""

    method: str
    title: str
    paper: str
    citation: str
    pairs: list[Pair | None]
    unverified: bool  # whether all of its figures are

    @property
    def by_source(self) -> dict[str, list[Pair]]:
        """Return the pairs that were run, under the sources of their figures; a source's figures are all as sure."""
        sources = {}
        for pair in self.pairs:
            if pair and pair.verdict != "not run":
                sources.setdefault(pair.figure.source, []).append(pair)
        return sources


@dataclass(frozen=True)
class PaperTable:
    """All pairs of a board; the matrix holds those of the tasks on which any of the methods was run."""

    pairs: list[Pair]
    notes: list[str]

    rule, not_read = RULE, UNVERIFIED

    @property
    def nothing(self) -> str | None:
        """Return why no pair was compared; None where one was."""
        if any(pair.decided for pair in self.pairs):
            return None
        reasons = Counter(_why(pair) for pair in self.pairs if pair.verdict != "not run")
        if not reasons:
            return "No method here has a published figure on a task that was run."
        every = f"{', '.join(reasons)}." if len(reasons) == 1 else f"{'; '.join(map(_counted, reasons.items()))}."
        return f"No published figure can be compared with ours: {every}"

    @property
    def columns(self) -> list[Column]:
        by_place = {}
        for pair in sorted(self.pairs, key=lambda pair: _order(pair.place)):
            by_place.setdefault(pair.place, []).append(pair)
        return [
            Column(*place, pairs[0].task_title, not any(pair.figure.verified for pair in pairs))
            for place, pairs in by_place.items()
            if any(pair.ours is not None or pair.verdict == "failed" for pair in pairs)
        ]

    @property
    def rows(self) -> list[Row]:
        places = [(column.task, column.metric) for column in self.columns]
        by_method = {}
        for pair in self.pairs:
            by_method.setdefault(pair.method, {})[pair.place] = pair
        rows = []
        for method, of_method in by_method.items():
            pairs = [of_method.get(place) for place in places]
            known = [pair for pair in pairs if pair]
            if any(pair.verdict != "not run" for pair in known):
                first, unverified = known[0], not any(pair.figure.verified for pair in known)
                rows.append(Row(method, first.title, first.paper, names()["papers"][first.paper], pairs, unverified))
        return rows

    @property
    def letters(self) -> dict[str, str]:
        """Return reason -> letter for the pairs that could not be compared."""
        shown = (pair for row in self.rows for pair in row.pairs if pair and pair.verdict == "not comparable")
        return dict(zip(dict.fromkeys(pair.reason for pair in shown), ascii_lowercase, strict=False))

    @property
    def shown(self) -> list[Pair]:
        """Return the pairs of the matrix that were run, row by row."""
        return [pair for row in self.rows for pair in row.pairs if pair and pair.verdict != "not run"]

    @property
    def legend(self) -> list[tuple[str, str, str]]:
        """Return (verdict, mark, meaning) of the verdicts that the matrix has."""
        found = {pair.verdict for pair in self.shown}
        return [(verdict, mark, MEANINGS[verdict]) for verdict, mark in MARKS.items() if verdict in found]

    @property
    def unverified(self) -> int:
        """Return how many figures of the matrix are unverified."""
        return sum(not pair.figure.verified for pair in self.shown)

    def grid(self) -> Grid:
        """Return the matrix of verified figures."""
        kept = [number for number, column in enumerate(self.columns) if not column.unverified]
        columns, letters = [self.columns[number] for number in kept], self.letters
        rows = [row for row in self.rows if not row.unverified]
        legend = [f"{mark} {meaning}" for _, mark, meaning in self.legend]
        legend += [f"({letter}) {reason}" for reason, letter in letters.items()]
        if any(pair and pair.verdict == "not run" for row in rows for pair in row.pairs):
            legend.append(f"{MISSING} not run")
        if self.unverified:
            legend.append(f"{plural(self.unverified, 'figure')} left out: {UNVERIFIED}")
        return Grid(
            name="paper_against_ours",
            caption="Ours / published; the best model on the development set, as in the papers.",
            header=["Method", "Paper", *(column.title for column in columns)],
            under=["", "", *(column.metric_title for column in columns)],
            rows=[
                [
                    Text(row.title),
                    Text(row.paper, paper=row.citation),
                    *(_written(row.pairs[number], letters) for number in kept),
                ]
                for row in rows
            ],
            notes=[*([self.nothing.rstrip(".")] if self.nothing else legend), *self.notes],
        )

    def records(self) -> list[dict]:
        """Return a mapping for each figure, the unverified ones and those without a run included."""
        return [
            {
                "method": pair.method,
                "title": pair.title,
                "paper": pair.paper,
                "task": pair.task,
                "metric": pair.metric,
                "published": pair.figure.value,
                "published_drop": pair.figure.drop,
                "ours": pair.ours and pair.ours["mean"],
                "ours_sd": pair.ours and pair.ours["sd"],
                "ours_n": pair.ours["n"] if pair.ours else 0,
                "our_drop": pair.our_drop,
                "difference": pair.difference,
                "half_width": pair.half_width,
                "verdict": pair.verdict,
                "reason": pair.reason or None,
                "source": pair.figure.source,
                "confidence": pair.figure.confidence,
                "verified": pair.figure.verified,
            }
            for pair in self.pairs
        ]


def _written(pair: Pair | None, letters: dict[str, str]) -> Text:
    if pair is None or not pair.figure.verified:
        return Text("")
    if not pair.scored:
        return Text(MISSING if pair.verdict == "not run" else pair.verdict)
    letter, undecided = letters.get(pair.reason), " ?" if pair.verdict == "undecided" else ""
    return Text(
        text=f"{score(pair.ours['mean'])} / {score(pair.figure.value)}{undecided}",
        seeds=f"({letter})" if letter else "",
        marks="" if undecided else pair.mark,
    )


def _order(place: tuple[str, str]) -> int:
    places = [tuple(known) for known in names()["metrics"].values()]
    return places.index(place)


def _why(pair: Pair) -> str:
    return pair.reason or {"failed": "our run failed"}.get(pair.verdict, pair.verdict)


def _counted(reason: tuple[str, int]) -> str:
    return f"{reason[0]} ({plural(reason[1], 'figure')})"


# The comparison


def paper_table(evidence: Evidence) -> PaperTable:
    board, pairs, mapped = evidence.board, [], names()["methods"]
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
            pairs.append(
                Pair(
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
            )
    return PaperTable(pairs, _notes(evidence))


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
    if not str(cell["ran_on"]["base"]["id"]).endswith(BASE):
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


def _notes(evidence: Evidence) -> list[str]:
    notes = []
    for prefix, reason in names()["unpublished"].items():
        if any(method.startswith(prefix) for method in evidence.board.methods) and reason not in notes:
            notes.append(reason)
    return notes


# The figures


def figures(method: str, augmented: bool = False) -> dict[tuple[str, str], Figure]:
    """Return (task, metric) -> the paper's figure: of those with and without data augmentation the one that is asked for.

    Where the paper gives only the other one, it is returned all the same. A drop is as sure as both of its figures: a
    verified figure has none from an unverified full precision.
    """
    paper, name, activations, *weights = names()["methods"][method]
    baselines, places = names()["full_precision"].get(paper, []), names()["metrics"]
    full = {(row["task"], row["metric"]): row for baseline in baselines for row in _rows(paper, baseline, 32)}
    chosen = {}
    rows = _rows(paper, name, activations, *weights)
    for row in sorted(rows, key=lambda row: (row["data_augmentation"] == "y") != augmented):
        place = tuple(places.get(f"{row['task']} {row['metric']}", ()))
        if not place or place in chosen:  # averages are over other sets of tasks
            continue
        reference = None if name in baselines else full.get((row["task"], row["metric"]))
        if reference and row["confidence"] == "high" and reference["confidence"] != "high":
            reference = None
        value = float(row["value"])
        chosen[place] = Figure(
            task=row["task"],
            value=value,
            drop=float(reference["value"]) - value if reference else None,
            augmented=row["data_augmentation"] == "y",
            test_set=row["split"] == "test",
            source=row["source_table"],
            confidence=row["confidence"],
        )
    return dict(sorted(chosen.items(), key=lambda item: _order(item[0])))


def _rows(paper: str, method: str, activations: int, weights: int | None = None) -> Iterable[dict]:
    return [
        row
        for row in published()
        if (row["paper"], row["method"], row["bits_a"]) == (paper, method, str(activations))
        and row["model"] in MODELS
        and (weights is None or row["bits_w"] == str(weights))
    ]


def citations(methods: Iterable[str]) -> set[str]:
    """Return the papers whose figures stand beside ours."""
    known = names()
    return {known["papers"][known["methods"][method][0]] for method in methods if method in known["methods"]}


@functools.cache
def published() -> list[dict]:
    with FIGURES.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@functools.cache
def names() -> dict:
    return yaml.safe_load(NAMES.read_text(encoding="utf-8"))
