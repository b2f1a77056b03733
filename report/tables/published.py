"""Paper against ours: published figures beside the benchmark's own, each with a verdict.

`published.csv` holds the figures with their sources and a confidence: `high` was read in a repository or document,
`medium` was recalled and cross-checked. `published.yaml` maps them to our methods and tasks. Full-precision
baselines differ from paper to paper, so drops are compared too, each from its own. A paper gives one run, so the question is
whether one more run of ours could have given its figure: Student's prediction interval over our seeds answers it.
"""

import csv
import functools
import math
from dataclasses import dataclass
from pathlib import Path

import yaml

from report.evidence.comparison import Evidence
from report.evidence.statistics import student_quantile
from report.tables.grid import Grid, Text
from report.wording import METRICS, augmentation, partial_note, score, signed

FIGURES = Path(__file__).resolve().parent / "published.csv"
NAMES = Path(__file__).resolve().parent / "published.yaml"
PROTOCOL = "best"  # what the papers report
BASE = "bert-base-uncased"
ROUNDING = 0.05  # papers print one decimal, a few of them two
MODELS = ("bert-base", "bert-base hybrid", "bert-base-6of12", "bert-base-5of12")


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
    our_drop: float | None
    verdict: str
    reason: str

    @property
    def difference(self) -> float | None:
        return None if self.ours is None or self.ours["mean"] is None else self.ours["mean"] - self.figure.value

    @property
    def unsure(self) -> bool:
        return self.figure.confidence != "high"


@dataclass(frozen=True)
class PaperTable:
    pairs: list[Pair]
    notes: list[str]

    def grid(self) -> Grid:
        header = ["Method", "Task", "Paper", "Published", "Its drop", "Ours", "Our drop", "Difference", "Verdict"]
        return Grid(
            name="paper_against_ours",
            caption="Published figures beside ours; the best model on the development set, as in the papers.",
            header=header,
            rows=[[Text(text) for text in written(pair)] for pair in self.pairs],
            notes=self.notes,
            text_columns=3,
        )

    def records(self) -> list[dict]:
        return [
            {
                "method": pair.method,
                "title": pair.title,
                "paper": pair.paper,
                "task": pair.task,
                "metric": pair.metric,
                "published": pair.figure.value,
                "published drop": pair.figure.drop,
                "ours": pair.ours and pair.ours["mean"],
                "ours sd": pair.ours and pair.ours["sd"],
                "ours n": pair.ours["n"] if pair.ours else 0,
                "our drop": pair.our_drop,
                "difference": pair.difference,
                "verdict": pair.verdict,
                "reason": pair.reason,
                "source": pair.figure.source,
                "confidence": pair.figure.confidence,
            }
            for pair in self.pairs
        ]


def written(pair: Pair) -> list[str]:
    ours = "none" if pair.difference is None else score(pair.ours["mean"])
    if pair.difference is not None and pair.ours["sd"] is not None:
        ours += f" ± {score(pair.ours['sd'])}"
    return [
        pair.title,
        f"{pair.task_title} ({METRICS.get(pair.metric, pair.metric)})",
        pair.paper,
        score(pair.figure.value) + ("?" if pair.unsure else ""),
        "none" if pair.figure.drop is None else score(pair.figure.drop),
        ours,
        "none" if pair.our_drop is None else score(pair.our_drop),
        "none" if pair.difference is None else signed(pair.difference),
        pair.verdict + (f": {pair.reason}" if pair.reason else ""),
    ]


def paper_table(evidence: Evidence) -> PaperTable:
    board, pairs, mapped = evidence.board, [], names()["methods"]
    papers = {mapped[method][0] for method in board.methods if method in mapped}
    for method, (paper, *_) in mapped.items():
        if paper not in papers:
            continue
        with_augmentation = figures(method, augmented=True)
        for (task, metric), figure in figures(method).items():
            cell, scored = board.cell(method, task), evidence.score(method, task, PROTOCOL)
            if cell is not None and augmentation(cell):
                figure = with_augmentation[task, metric]
            ours = scored.metrics.get(metric) if scored else None
            verdict, reason = judge(evidence, method, cell, ours, metric, figure)
            primary = cell is not None and metric == cell["measured"]["metric"]
            pairs.append(
                Pair(
                    method=method,
                    title=board.title(method),
                    paper=paper,
                    task=task,
                    task_title=board.task_title(task) if board.of_task(task) else figure.task,
                    metric=metric,
                    figure=figure,
                    ours=ours,
                    our_drop=scored.drop if primary else None,
                    verdict=verdict,
                    reason=reason,
                )
            )
    return PaperTable(pairs, _notes(evidence, pairs))


def judge(
    evidence: Evidence, method: str, cell: dict | None, ours: dict | None, metric: str, figure: Figure
) -> tuple[str, str]:
    """Return a verdict and, where it needs one, its reason."""
    if cell is None:
        return ("failed", "") if any(failed == method for failed, _ in evidence.board.failed) else ("not run", "")
    if reason := _other_conditions(cell, metric, figure):
        return "not comparable", reason
    if ours is None or not ours["n"]:
        return "diverged", "no seed has a score"
    if not ours["sd"]:
        return "undecided", "one seed cannot tell" if ours["n"] == 1 else "seeds with equal scores cannot tell"
    half = student_quantile(0.975, ours["n"] - 1) * ours["sd"] * math.sqrt(1 + 1 / ours["n"]) + ROUNDING
    difference = ours["mean"] - figure.value
    if abs(difference) <= half:
        return "reproduced", ""
    return ("above" if difference > 0 else "below"), ""


def _other_conditions(cell: dict, metric: str, figure: Figure) -> str | None:
    base = cell["ran_on"]["base"]
    if cell["ran_on"]["data"] == "generated":
        return "generated data"
    if not str(base["id"]).endswith(BASE):
        return "other base model"
    if partial_note(cell):
        return "partial data"
    if figure.test_set:
        return "the paper's figure is on the test set"
    if figure.augmented and not augmentation(cell):
        return "the paper's figure is with augmented data"
    if augmentation(cell) and not figure.augmented:
        return "ours is with augmented data"
    if metric not in METRICS:
        return "the paper does not say which metric"
    return None


def _notes(evidence: Evidence, pairs: list[Pair]) -> list[str]:
    notes = ["ours is the best model on the development set during training, as in the papers"]
    if any(pair.unsure for pair in pairs):
        notes.append("? medium confidence: recalled and cross-checked, not read in the source")
    for prefix, reason in names()["unpublished"].items():
        if any(method.startswith(prefix) for method in evidence.board.methods) and reason not in notes:
            notes.append(reason)
    return notes


def figures(method: str, augmented: bool = False) -> dict[tuple[str, str], Figure]:
    """Return (task, metric) -> the paper's figure: of those with and without data augmentation the one that is asked for.

    Where the paper gives only the other one, it is returned all the same.
    """
    paper, name, activations, *weights = names()["methods"][method]
    baselines, places = names()["full_precision"].get(paper, []), names()["metrics"]
    full = {
        (row["task"], row["metric"]): float(row["value"]) for baseline in baselines for row in _rows(paper, baseline, 32)
    }
    chosen = {}
    rows = _rows(paper, name, activations, *weights)
    for row in sorted(rows, key=lambda row: (row["data_augmentation"] == "y") != augmented):
        place = tuple(places.get(f"{row['task']} {row['metric']}", ()))
        if not place or place in chosen:  # averages are over other sets of tasks
            continue
        value, reference = float(row["value"]), full.get((row["task"], row["metric"]))
        chosen[place] = Figure(
            task=row["task"],
            value=value,
            drop=None if reference is None or name in baselines else reference - value,
            augmented=row["data_augmentation"] == "y",
            test_set=row["split"] == "test",
            source=row["source_table"],
            confidence=row["confidence"],
        )
    tasks = list(dict.fromkeys(task for task, _ in places.values()))
    return dict(sorted(chosen.items(), key=lambda item: tasks.index(item[0][0])))


def _rows(paper: str, method: str, activations: int, weights: int | None = None) -> list[dict]:
    return [
        row
        for row in published()
        if (row["paper"], row["method"], row["bits_a"]) == (paper, method, str(activations))
        and row["model"] in MODELS
        and (weights is None or row["bits_w"] == str(weights))
    ]


@functools.cache
def published() -> list[dict]:
    with FIGURES.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@functools.cache
def names() -> dict:
    return yaml.safe_load(NAMES.read_text(encoding="utf-8"))
