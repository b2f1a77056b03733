"""Paper against ours: published figures beside the benchmark's own, with a verdict in a word.

`published.csv` holds the figures with their sources and how sure they are: `high` was read in a repository or document,
`medium` was recalled and cross-checked. Full-precision baselines differ from paper to paper, so drops are compared too,
each against its own. A paper gives one run, so the question is whether one more run of ours could have given its figure:
Student's prediction interval over our seeds answers it.
"""

import csv
import functools
import math
from dataclasses import dataclass
from pathlib import Path

from scipy import stats

from report.board import Board
from report.tables import Grid, Text
from report.wording import METRICS, partial_note, score, signed, task_title

TABLE = Path(__file__).resolve().parent / "published.csv"
PROTOCOL = "best"  # what the papers report
BASE = "bert-base-uncased"

# our method -> paper, its name for the method, activation bits
COUNTERPARTS = {
    "fp32": ("TernaryBERT", "full precision", "32"),
    "twn_2bit": ("TernaryBERT", "TernaryBERT TWN", "8"),
    "lat_2bit": ("TernaryBERT", "TernaryBERT LAT", "8"),
    "tws_1bit": ("BinaryBERT", "TWS", "8"),
    "tws_1bit_a4": ("BinaryBERT", "TWS", "4"),
    "bwn_1bit": ("BinaryBERT", "BWN", "8"),
    "int8_dynamic": ("Q8BERT", "dynamic post-training int8", "8"),
    "lada_10x": ("LadaBERT", "LadaBERT-4 (11M)", "32"),
}
UNPUBLISHED = {"lsq_": "KDLSQ-BERT's figures could not be read in any source that we trust"}  # by prefix of our name
FULL_PRECISION = {
    "TernaryBERT": "full precision",
    "BinaryBERT": "full precision (DynaBERT width 1.0)",
    "Q8BERT": "full precision",
}
PLACES = {
    ("CoLA", "mcc"): ("cola", "matthews"),
    ("SST-2", "acc"): ("sst2", "accuracy"),
    ("MRPC", "acc"): ("mrpc", "accuracy"),
    ("MRPC", "F1"): ("mrpc", "f1"),
    ("STS-B", "pearson"): ("stsb", "pearson"),
    ("STS-B", "spearman"): ("stsb", "spearman"),
    ("STS-B", "corr(unstated)"): ("stsb", "unstated correlation"),
    ("QQP", "acc"): ("qqp", "accuracy"),
    ("QQP", "F1"): ("qqp", "f1"),
    ("MNLI-m", "acc"): ("mnli", "accuracy"),
    ("MNLI-mm", "acc"): ("mnli", "accuracy_mm"),
    ("QNLI", "acc"): ("qnli", "accuracy"),
    ("RTE", "acc"): ("rte", "accuracy"),
    ("SQuAD-v1.1", "EM"): ("squad", "exact"),
    ("SQuAD-v1.1", "F1"): ("squad", "f1"),
    ("SQuAD-v2.0", "EM"): ("squad2", "exact"),
    ("SQuAD-v2.0", "F1"): ("squad2", "f1"),
}


@dataclass(frozen=True)
class Figure:
    """One published number and what is known of it."""

    value: float
    drop: float | None  # from the same paper's full precision
    augmented: bool
    test_set: bool
    source: str
    confidence: str


@dataclass(frozen=True)
class Pair:
    """A published figure, ours beside it, and what the two say of each other."""

    method: str
    title: str
    paper: str
    task: str
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
            caption="Published figures beside ours, selected on the development set as in the papers.",
            header=header,
            rows=[[Text(text) for text in written(pair)] for pair in self.pairs],
            notes=self.notes,
            words=3,
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
        f"{task_title(pair.task)} ({METRICS.get(pair.metric, pair.metric)})",
        pair.paper,
        score(pair.figure.value) + ("?" if pair.unsure else ""),
        "none" if pair.figure.drop is None else score(pair.figure.drop),
        ours,
        "none" if pair.our_drop is None else score(pair.our_drop),
        "none" if pair.difference is None else signed(pair.difference),
        pair.verdict + (f": {pair.reason}" if pair.reason else ""),
    ]


def paper_table(board: Board) -> PaperTable:
    pairs = []
    for method, (paper, _, _) in COUNTERPARTS.items():
        for (task, metric), figure in figures(method).items():
            cell = board.at.get((method, task))
            ours = cell["measured"]["protocols"][PROTOCOL]["metrics"].get(metric) if cell else None
            verdict, reason = judge(board, method, cell, ours, metric, figure)
            primary = cell is not None and metric == cell["measured"]["metric"]
            pairs.append(
                Pair(
                    method=method,
                    title=board.title(method),
                    paper=paper,
                    task=task,
                    metric=metric,
                    figure=figure,
                    ours=ours,
                    our_drop=board.drop(method, task, PROTOCOL) if primary else None,
                    verdict=verdict,
                    reason=reason,
                )
            )
    return PaperTable(pairs, _notes(board, pairs))


def judge(board: Board, method: str, cell: dict | None, ours: dict | None, metric: str, figure: Figure) -> tuple[str, str]:
    """A verdict in a word, and where the word needs one, its reason."""
    if cell is None:
        return ("failed", "") if any(place[0] == method for place in board.failed) else ("not run", "")
    if reason := _other_conditions(cell, metric, figure):
        return "not comparable", reason
    if ours is None or not ours["n"]:
        return "diverged", "no seed has a score"
    if not ours["sd"]:
        return "undecided", "one seed cannot tell" if ours["n"] == 1 else "seeds that score alike cannot tell"
    half = float(stats.t.ppf(0.975, ours["n"] - 1)) * ours["sd"] * math.sqrt(1 + 1 / ours["n"]) + ROUNDING
    difference = ours["mean"] - figure.value
    if abs(difference) <= half:
        return "reproduced", ""
    return ("above" if difference > 0 else "below"), ""


ROUNDING = 0.05  # papers print one decimal


def _other_conditions(cell: dict, metric: str, figure: Figure) -> str | None:
    base = cell["ran_on"]["base"]
    if cell["ran_on"]["data"] == "generated":
        return "demo"
    if not str(base["id"]).endswith(BASE):
        return "other base model"
    if partial_note(cell):
        return "partial data"
    if figure.test_set:
        return "theirs is the test set"
    if figure.augmented:
        return "theirs is with augmented data"
    if metric not in METRICS:
        return "the paper does not say which metric"
    return None


def _notes(board: Board, pairs: list[Pair]) -> list[str]:
    notes = ["ours is the best on the development set during training, as in the papers"]
    if any(pair.unsure for pair in pairs):
        notes.append("? medium confidence: recalled and cross-checked, not read in the source")
    for prefix, why in UNPUBLISHED.items():
        if any(method.startswith(prefix) for method in board.methods):
            notes.append(why)
    return notes


def figures(method: str) -> dict[tuple[str, str], Figure]:
    """(task, metric) -> the paper's figure, without data augmentation where the paper gives that."""
    paper, name, activations = COUNTERPARTS[method]
    full = {(row["task"], row["metric"]): float(row["value"]) for row in _rows(paper, FULL_PRECISION.get(paper), "32")}
    found = {}
    for row in sorted(_rows(paper, name, activations), key=lambda row: row["data_augmentation"] == "y"):
        place = PLACES.get((row["task"], row["metric"]))
        if place is None or place in found:  # averages are over other sets of tasks
            continue
        value, reference = float(row["value"]), full.get((row["task"], row["metric"]))
        found[place] = Figure(
            value=value,
            drop=None if reference is None or name == FULL_PRECISION.get(paper) else reference - value,
            augmented=row["data_augmentation"] == "y",
            test_set=row["split"] == "test",
            source=row["source_table"],
            confidence=row["confidence"],
        )
    tasks = list(dict.fromkeys(task for task, _ in PLACES.values()))
    return dict(sorted(found.items(), key=lambda item: tasks.index(item[0][0])))


def _rows(paper: str, method: str | None, activations: str) -> list[dict]:
    models = ("bert-base", "bert-base hybrid")
    return [
        row
        for row in published()
        if (row["paper"], row["method"], row["bits_a"]) == (paper, method, activations) and row["model"] in models
    ]


@functools.cache
def published() -> list[dict]:
    with TABLE.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
