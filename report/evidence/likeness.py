"""Cells that were not made like the others: they are named and shown, but enter no average, ranking or test.

Each criterion keeps the group with the most cells (the first listed, where two are equal) and sets the others apart. A cell
that one criterion has set apart is not looked at by the next, so every odd cell has one reason.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Odd:
    """A cell that differs from those it would have to be compared with."""

    method: str
    task: str
    reason: str


def odd_cells(cells: list[dict]) -> list[Odd]:
    odd, alike = [], list(cells)
    for split in _criteria(cells):
        for cell, reason in split(alike):
            odd.append(Odd(cell["request"]["method"], cell["request"]["task"], reason))
            alike = [other for other in alike if other is not cell]
    return odd


def _criteria(cells: list[dict]) -> Iterable[Callable]:
    """Yield functions from the cells that are alike so far to pairs of an odd one and its reason."""
    for name, place in (("preset", "request"), ("primary", "request"), ("precision", "ran_on")):
        title = "primary protocol" if name == "primary" else name
        yield lambda alike, name=name, place=place, title=title: _named(alike, lambda cell: cell[place][name], title)
    yield lambda alike: _other(alike, lambda cell: cell["ran_on"]["base"]["sha256"], "another base model")
    for task in dict.fromkeys(cell["request"]["task"] for cell in cells):
        yield lambda alike, task=task: _other(
            [cell for cell in alike if cell["request"]["task"] == task],
            lambda cell: cell["ran_on"]["dataset"]["fingerprint"],
            "other data",
        )
        yield lambda alike, task=task: _odd_teachers([cell for cell in alike if cell["request"]["task"] == task])
    for method in dict.fromkeys(cell["request"]["method"] for cell in cells):
        yield lambda alike, method=method: _other(
            [cell for cell in alike if cell["request"]["method"] == method],
            lambda cell: cell["ran_on"]["code"],
            "other code than the method's other cells",
        )


def _named(cells: list[dict], value: Callable[[dict], str], title: str) -> list[tuple[dict, str]]:
    usual = _usual(map(value, cells))
    return [(cell, f"{title} {value(cell)}, not {usual}") for cell in cells if value(cell) != usual]


def _other(cells: list[dict], value: Callable[[dict], str], reason: str) -> list[tuple[dict, str]]:
    usual = _usual(map(value, cells))
    return [(cell, reason) for cell in cells if value(cell) != usual]


def _odd_teachers(cells: list[dict]) -> list[tuple[dict, str]]:
    """Compare the model files of equally named teachers; methods may have different ones."""
    taught = {}
    for cell in cells:
        if teacher := cell["ran_on"]["teacher"]:
            taught.setdefault((teacher["method"], teacher["seed"]), []).append(cell)
    return [
        odd
        for (method, seed), group in taught.items()
        for odd in _other(
            group, lambda cell: cell["ran_on"]["teacher"]["sha256"], f"another model of the teacher {method}, seed {seed}"
        )
    ]


def _usual(values: Iterable[str]) -> str | None:
    counts = {}
    for value in values:
        counts[value] = counts.get(value, 0) + 1
    return max(counts, key=counts.get, default=None)
