"""The papers' own figures: numbers, sources and conditions, by our names of methods, tasks and metrics.

`published.csv` holds the figures with their sources and a confidence: `high` was read in the source that the row names,
`medium` was recalled and cross-checked, which no verdict rests on. `published.yaml` maps papers to our methods and tasks.
"""

import csv
import functools
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import yaml

FIGURES = Path(__file__).resolve().parent / "published.csv"
NAMES = Path(__file__).resolve().parent / "published.yaml"
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

    @property
    def verified(self) -> bool:
        return self.confidence == "high"


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
    return dict(sorted(chosen.items(), key=lambda item: order(item[0])))


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


def order(place: tuple[str, str]) -> int:
    """Return where a task and metric stand in the papers' order."""
    places = [tuple(known) for known in names()["metrics"].values()]
    return places.index(place)
