"""The cells by method and task, and the names that come with them: titles, suites, families. Plain look-ups only."""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean

from report.evidence.latency import Latencies
from report.evidence.likeness import odd_cells

COLOURS = 7  # in the palette of figures and page, and as many shapes
NO_SUITE = "Other tasks"
FULL_BITS = 32
WHOLE = 1.01  # ratio of sizes below which a model counts as not compressed


@dataclass(frozen=True)
class Family:
    """The methods of one paper's file, with a colour and a shape of their own."""

    name: str
    title: str
    number: int  # in order of appearance

    @property
    def colour(self) -> int:
        return self.number % COLOURS

    @property
    def shape(self) -> int:
        """Return the shape's number: where colours are used again, shapes are shifted, so that pairs stay distinct."""
        return (self.number + self.number // COLOURS) % COLOURS


@dataclass(frozen=True)
class Suite:
    """Tasks that are shown in one table."""

    name: str  # safe in a file's name
    title: str
    tasks: list[str]
    averaged: list[str]  # those of the tasks that enter the average


@dataclass(frozen=True, order=True)
class Budget:
    """What a method may spend: methods of one budget compete with each other, and stand together in tables."""

    order: tuple[int, int]
    key: str  # safe in a file's name
    title: str


class Board:
    """Cells by method and task, methods and tasks in order of appearance.

    `failed` maps (method, task) to the reason why a cell is missing. `margin` is a loss, in points, that counts as none.
    """

    def __init__(self, cells: list[dict], failed: dict[tuple[str, str], str] | None = None, margin: float = 1.0):
        self.cells, self.failed, self.margin = cells, failed or {}, margin
        self.odd = odd_cells(cells)
        self._cells = {(cell["request"]["method"], cell["request"]["task"]): cell for cell in cells}
        self._odd = {(odd.method, odd.task) for odd in self.odd}
        self.places = [*self._cells, *(place for place in self.failed if place not in self._cells)]
        self.methods = list(dict.fromkeys(method for method, _ in self.places))
        self.tasks = list(dict.fromkeys(task for _, task in self.places))
        self.primary = next(cell for cell in cells if self.comparable(*_place(cell)))["request"]["primary"]
        self.protocols = (self.primary, *({"last", "best"} - {self.primary}))
        self.generated = any(cell["ran_on"]["data"] == "generated" for cell in cells)
        self.partial = [cell for cell in cells if cell["ran_on"]["dataset"]["partial"]]
        self.held_out = any(cell["ran_on"]["dataset"].get("held_out") for cell in cells)
        self.suites = list(_suites(self.tasks, self._about_task))
        self.families = {family.name: family for family in _families(cells)}
        self.full_precision = self._full_precision()
        self.latencies = Latencies(cells, self.full_precision, self._odd)

    # Cells

    def cell(self, method: str, task: str) -> dict | None:
        return self._cells.get((method, task))

    def of_method(self, method: str) -> list[dict]:
        return [cell for task in self.tasks if (cell := self.cell(method, task))]

    def of_task(self, task: str) -> list[dict]:
        return [cell for method in self.methods if (cell := self.cell(method, task))]

    def comparable(self, method: str, task: str) -> bool:
        """Return whether the cell, if there is one, was made like those that it is compared with."""
        return (method, task) not in self._odd

    # Names

    def title(self, method: str) -> str:
        return next((cell["about"]["method"]["title"] for cell in self.of_method(method)), method)

    def task_title(self, task: str) -> str:
        return self._about_task(task).get("title", task)

    def family(self, method: str) -> Family:
        return self.families[self.of_method(method)[0]["about"]["method"]["family"]]

    def suite(self, task: str) -> Suite:
        return next(suite for suite in self.suites if task in suite.tasks)

    def averaged(self, tasks: Iterable[str] | None = None) -> list[str]:
        """Return those of the tasks that enter their suites' averages."""
        return [task for task in (self.tasks if tasks is None else tasks) if task in self.suite(task).averaged]

    def averaged_of(self, suite: Suite) -> list[str]:
        """Return the tasks of the suite's average: in the main suite those that the whole page speaks of."""
        main = self.main_tasks()
        return main if set(main) <= set(suite.averaged) else [task for task in suite.averaged if self.of_task(task)]

    def main_tasks(self) -> list[str]:
        """Return the tasks that one number sums up: the first suite's averaged ones, or else the first task alone.

        Left out are tasks on which full precision has no comparable score, because no loss is known there, and those that
        few methods were run on, because an average over them would be missing for most.
        """
        tasks = self._main_suite()
        return [task for task in tasks if task not in self._not_averaged] or tasks

    def left_out(self) -> dict[str, str]:
        """Return why each other task of the main suite is not among the main tasks."""
        main = self.main_tasks()
        others = [task for task in self.suite(main[0]).tasks if task not in main]
        return {task: self._not_averaged.get(task, "not averaged by its suite") for task in others}

    @cached_property
    def _not_averaged(self) -> dict[str, str]:
        """The tasks of the main suite that no average is over, with the reason."""
        tasks, reasons = self._main_suite(), {}
        asked = {method for method, task in self.places if task in tasks}
        for task in tasks:
            if self.full_precision is not None and not self.scored(self.full_precision, task):
                reasons[task] = "full precision has no comparable score there"
            elif 2 * sum(of == task for _, of in self.places) < len(asked):
                reasons[task] = "fewer than half of the methods were run there"
        return reasons

    def _main_suite(self) -> list[str]:
        return next((suite.averaged for suite in self.suites if suite.averaged), self.tasks[:1])

    def _about_task(self, task: str) -> dict:
        return next((cell["about"]["task"] for cell in self.of_task(task)), {})

    # Numbers that need no statistics

    def bits(self, method: str) -> dict | None:
        """Return the measured bits, mean over the method's cells."""
        measured = [bits for cell in self.of_method(method) if (bits := cell["measured"]["bits"])]
        return {part: fmean(bits[part] for bits in measured) for part in measured[0]} if measured else None

    def ratio(self, method: str, convention: str = "file") -> float | None:
        """Return how often a model is smaller than in full precision, on the task where it is so least."""
        sizes = [cell["measured"]["size"] for cell in self.of_method(method) if cell["measured"]["size"]]
        return min((size[convention]["ratio"] for size in sizes), default=None)

    def budget(self, method: str) -> Budget:
        """Return the bits of a weight, or how often smaller a model is whose weights keep 32 bits."""
        bits, ratio = self.bits(method), self.ratio(method)
        if method == self.full_precision:
            return Budget((0, 0), "full", "Full precision")
        if bits is None or ratio is None:
            return Budget((4, 0), "unknown", "Not measured")
        if bits["weights"] < FULL_BITS:
            whole = max(1, math.floor(bits["weights"] + 0.5))
            return Budget((2, -whole), f"{whole}-bit", f"{whole} bit{'' if whole == 1 else 's'}")
        if ratio < WHOLE:
            return Budget((1, 0), "32-bit", "32 bits, as large as full precision")
        power = math.floor(math.log2(ratio))
        factors = f"{2**power} to {2 ** (power + 1)} times" if power else "up to 2 times"
        return Budget((3, power), f"32-bit-{2**power}x", f"32 bits, {factors} smaller")

    def _full_precision(self) -> str | None:
        """Return the first method that neither rounds nor removes anything, and descends from no other."""
        for method in self.methods:
            bits, ratio, cells = self.bits(method), self.ratio(method, "counted"), self.of_method(method)
            alone = not any(run["ancestors"] for cell in cells for run in cell["ran_on"]["runs"])
            if alone and bits and ratio and set(bits.values()) == {FULL_BITS} and ratio < WHOLE:
                return method
        return None

    def scored(self, method: str, task: str) -> bool:
        """Return whether the method has a comparable score on the task."""
        known = self.cell(method, task) is not None and self.comparable(method, task)
        return known and bool(self.scores(method, task, self.primary))

    def scores(self, method: str, task: str, protocol: str) -> dict[int, float]:
        """Return the primary metric of every seed that did not diverge."""
        measured = self._cells[method, task]["measured"]
        return {
            seed["seed"]: seed["scores"][protocol]["metrics"][measured["metric"]]
            for seed in measured["seeds"]
            if seed["scores"] is not None
        }


def _place(cell: dict) -> tuple[str, str]:
    return cell["request"]["method"], cell["request"]["task"]


def _suites(tasks: list[str], about) -> Iterable[Suite]:
    """Yield the suites in order of appearance; tasks without a suite come last and are never averaged."""
    titles = {task: about(task).get("suite") for task in tasks}
    names = set()
    for title in sorted(dict.fromkeys(titles.values()), key=lambda title: title is None):
        slug = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-") if title else "other"
        name = next(
            name for number in range(len(tasks) + 1) if (name := f"{slug}-{number}" if number else slug) not in names
        )
        names.add(name)
        members = [task for task in tasks if titles[task] == title]
        averaged = [task for task in members if title is not None and about(task)["averaged"]]
        yield Suite(name, NO_SUITE if title is None else title, members, averaged)


def _families(cells: list[dict]) -> Iterable[Family]:
    titles = {}
    for cell in cells:
        method = cell["about"]["method"]
        titles.setdefault(method["family"], method.get("family_title", method["family"]))
    for number, (name, title) in enumerate(titles.items()):
        yield Family(name, title, number)
