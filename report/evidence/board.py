"""All cells together: which may be compared with which, what differs between them, and how sure that is.

Only like is compared with like. What does not share code, data, teacher, base model or preset is shown, but it is neither
averaged nor ranked nor tested, and the board says in words what differs.
"""

import functools
import json
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from report import statistics
from report.cores import on_all_cores
from report.outcomes import Outcomes, unpack
from report.statistics import Estimate
from report.wording import TASKS, task_title, title

UNAVERAGED = ("wnli",)  # as in all papers: its development set contradicts its training set


@dataclass(frozen=True)
class Difference:
    """Something that cells do not share though comparing them needs it; None stands for all methods, or all tasks."""

    what: str
    method: str | None = None
    task: str | None = None

    def covers(self, method: str, task: str) -> bool:
        return self.method in (None, method) and self.task in (None, task)


@dataclass(frozen=True)
class Comparison:
    """One method less another on the same examples, seed by seed."""

    difference: Estimate
    p: float
    test: str
    seeds: int


@dataclass(frozen=True)
class Side:
    """One of two methods that are compared: which of its seeds stands against each seed of ours."""

    method: str
    protocol: str
    seeds: dict[int, int]


@dataclass(eq=False)
class Board:
    """Cells by method and task: methods in the order in which they came, tasks in the papers'."""

    cells: list[dict]
    failed: dict[tuple[str, str], str] = field(default_factory=dict)  # (method, task) -> the last line of its log

    def __post_init__(self):
        self.at = {(cell["request"]["method"], cell["request"]["task"]): cell for cell in self.cells}
        places = [*self.at, *self.failed]
        self.methods = list(dict.fromkeys(method for method, _ in places))
        known = {task: number for number, task in enumerate(TASKS)}
        self.tasks = sorted(dict.fromkeys(task for _, task in places), key=lambda task: known.get(task, len(known)))
        self.primary = self.cells[0]["request"]["primary"]
        self.protocols = (self.primary, *({"last", "best"} - {self.primary}))
        self.generated = any(cell["ran_on"]["data"] == "generated" for cell in self.cells)
        self.partial = [cell for cell in self.cells if cell["ran_on"]["dataset"]["partial"]]
        self.differences = list(self._differences())

    def of_method(self, method: str) -> list[dict]:
        return [self.at[method, task] for task in self.tasks if (method, task) in self.at]

    def of_task(self, task: str) -> list[dict]:
        return [self.at[method, task] for method in self.methods if (method, task) in self.at]

    def title(self, method: str) -> str:
        return next((title(cell) for cell in self.of_method(method)), method)

    def word(self, method: str, task: str) -> str | None:
        """Why a place has no number, in a word or two; None where it has one."""
        cell = self.at.get((method, task))
        if cell is None:
            return "failed" if (method, task) in self.failed else "not run"
        summary = self.summary(method, task, self.primary)
        return None if summary["n"] else f"diverged ({summary['n_diverged']} of {summary['n_diverged']})"

    # Numbers

    def summary(self, method: str, task: str, protocol: str) -> dict:
        measured = self.at[method, task]["measured"]
        return measured["protocols"][protocol]["metrics"][measured["metric"]]

    def mean(self, method: str, task: str, protocol: str) -> float | None:
        return self.summary(method, task, protocol)["mean"] if (method, task) in self.at else None

    def reference(self, method: str, task: str) -> dict | None:
        """The one run that a loss is counted from: the teacher, or the trained model that was quantized without training."""
        cell = self.at.get((method, task))
        if cell is None:
            return None
        if cell["ran_on"]["teacher"]:
            return cell["ran_on"]["teacher"] | {"score": cell["measured"]["teacher"]["score"]}
        starts = [run["init"] for run in cell["ran_on"]["runs"]]
        if starts[0] is None or _several(starts) or (starts[0]["method"], task) not in self.at:
            return None
        return starts[0] | {"score": self.scores(starts[0]["method"], task, self.primary).get(starts[0]["seed"])}

    def drop(self, method: str, task: str, protocol: str) -> float | None:
        """Points lost from the reference, negative where the method is above it."""
        reference, mean = self.reference(method, task), self.mean(method, task, protocol)
        known = reference is not None and reference["score"] is not None and mean is not None
        return reference["score"] - mean if known else None

    def scores(self, method: str, task: str, protocol: str) -> dict[int, float]:
        """The primary metric of every seed that did not diverge."""
        measured = self.at[method, task]["measured"]
        return {
            seed["seed"]: seed["scores"][protocol]["metrics"][measured["metric"]]
            for seed in measured["seeds"]
            if seed["scores"] is not None
        }

    @functools.cache  # noqa: B019 - a board lives as long as its command
    def estimate(self, method: str, task: str, protocol: str) -> Estimate | None:
        scores, resampled = self.scores(method, task, protocol), self._resampled[task]
        found = resampled.get((method, protocol))
        if not scores:
            return None
        return statistics.estimate(list(scores.values()), None if found is None else np.stack([found[s] for s in scores], 1))

    # Averages over tasks, only of methods that have them all

    def averaged(self, tasks: Iterable[str]) -> list[str]:
        return [task for task in tasks if task not in UNAVERAGED]

    def complete(self, method: str, tasks: Iterable[str], protocol: str) -> bool:
        """Whether the method has a comparable number on each of the tasks: only then is its average one."""
        tasks = self.averaged(tasks)
        return bool(tasks) and all(
            self.mean(method, task, protocol) is not None and self.comparable(method, task) for task in tasks
        )

    def no_average(self, method: str, tasks: Iterable[str], protocol: str) -> str:
        """Why a method has no average, in words."""
        whole = all(self.mean(method, task, protocol) is not None for task in self.averaged(tasks))
        return "not comparable" if whole else "not all tasks"

    def average(self, method: str, tasks: Iterable[str], protocol: str) -> float | None:
        if not self.complete(method, tasks, protocol):
            return None
        return float(np.mean([self.mean(method, task, protocol) for task in self.averaged(tasks)]))

    def average_drop(self, method: str, tasks: Iterable[str], protocol: str) -> float | None:
        if not self.complete(method, tasks, protocol):
            return None
        drops = [self.drop(method, task, protocol) for task in self.averaged(tasks)]
        return None if None in drops else float(np.mean(drops))

    def average_estimate(self, method: str, tasks: Iterable[str], protocol: str) -> Estimate | None:
        if not self.complete(method, tasks, protocol):
            return None
        parts = [self.estimate(method, task, protocol) for task in self.averaged(tasks)]
        return None if None in parts else statistics.mean(parts)

    def n_diverged(self, method: str, tasks: Iterable[str]) -> tuple[int, int]:
        """How many of the method's runs on the tasks diverged, and how many there are."""
        found = [self.summary(method, task, self.primary) for task in tasks if (method, task) in self.at]
        return sum(s["n_diverged"] for s in found), sum(s["n"] + s["n_diverged"] for s in found)

    # Tests

    @functools.cache  # noqa: B019
    def against_reference(self, method: str, task: str, protocol: str) -> Comparison | None:
        """The method's seeds less the one run that they are counted from; None where there is none or nothing tells."""
        reference = self.reference(method, task)
        if reference is None or reference["score"] is None or not self.comparable(method, task):
            return None
        seeds = self.scores(method, task, protocol)
        other = Side(reference["method"], self.primary, dict.fromkeys(seeds, reference["seed"]))
        return self._compare(
            task,
            Side(method, protocol, {seed: seed for seed in seeds}),
            other,
            reference["score"],
            self._is_here(reference, task),
        )

    @functools.cache  # noqa: B019
    def against(self, method: str, other: str, task: str, protocol: str) -> Comparison | None:
        """One method less another, over the seeds that both have; None where they cannot be compared."""
        if any((name, task) not in self.at or not self.comparable(name, task) for name in (method, other)):
            return None
        seeds = self.scores(method, task, protocol).keys() & self.scores(other, task, protocol).keys()
        sides = [Side(name, protocol, {seed: seed for seed in sorted(seeds)}) for name in (method, other)]
        return self._compare(task, *sides)

    def _compare(
        self, task: str, ours: Side, theirs: Side, score: float | None = None, kept: bool = True
    ) -> Comparison | None:
        """Paired by seed, and by example where both `kept` predictions; `score` stands for the one run of a reference."""
        seeds = list(ours.seeds)
        if not seeds:
            return None
        own = self.scores(ours.method, task, ours.protocol)
        other = dict.fromkeys(seeds, score) if score is not None else self.scores(theirs.method, task, theirs.protocol)
        samples = self._samples(task, ours), self._samples(task, theirs) if kept else None
        paired = all(sample is not None for sample in samples) and self._same_examples(ours.method, theirs.method, task)
        found = statistics.estimate([own[s] - other[s] for s in seeds], samples[0] - samples[1] if paired else None)
        if found is None:
            return None
        if paired and len(seeds) == 1 and self.at[ours.method, task]["measured"]["metric"] == "accuracy":
            right, their_right = self._right(task, ours), self._right(task, theirs)
            p = statistics.mcnemar(int((right & ~their_right).sum()), int((their_right & ~right).sum()))
            return Comparison(found, p, "McNemar's exact test", 1)
        return Comparison(found, found.p, f"paired over {found.basis}", len(seeds))

    def _samples(self, task: str, side: Side) -> np.ndarray | None:
        resampled = self._resampled[task].get((side.method, side.protocol))
        return None if resampled is None else np.stack([resampled[seed] for seed in side.seeds.values()], 1)

    def _right(self, task: str, side: Side) -> np.ndarray:
        """Which examples a side of one seed gets right."""
        outcomes, (seed,) = self._outcomes(side.method, task), side.seeds.values()
        return outcomes.predictions[side.protocol][seed] == outcomes.references

    def _same_examples(self, method: str, other: str, task: str) -> bool:
        return not _several(self.at[name, task]["measured"]["outcomes"]["key"] for name in (method, other))

    def _is_here(self, reference: dict, task: str) -> bool:
        """Whether the reference's cell is on the board and is of the very run that taught, with what it answered."""
        cell = self.at.get((reference["method"], task))
        if cell is None:
            return False
        files = {run["seed"]: run["files"].get(f"{self.primary}.safetensors") for run in cell["ran_on"]["runs"]}
        answered = self._resampled[task].get((reference["method"], self.primary), {})
        return files.get(reference["seed"]) == reference["sha256"] and reference["seed"] in answered

    def _outcomes(self, method: str, task: str) -> Outcomes | None:
        packed = self.at[method, task]["measured"].get("outcomes")
        return unpack(packed) if packed else None

    @functools.cached_property
    def _resampled(self) -> dict[str, dict[tuple[str, str], dict[int, np.ndarray]]]:
        """Task -> (method, protocol) -> seed -> the metric in each bootstrap sample."""
        return dict(zip(self.tasks, on_all_cores(self._resample, self.tasks), strict=True))

    def _resample(self, task: str) -> dict[tuple[str, str], dict[int, np.ndarray]]:
        """A task's replicates; its samples are the same for all methods, which is what pairs them."""
        found, weights = {}, None
        for cell in self.of_task(task):
            method = cell["request"]["method"]
            outcomes = self._outcomes(method, task)
            if outcomes is None:
                continue
            if weights is None or weights.shape[1] != outcomes.examples:
                weights = statistics.draws(outcomes.examples)
            models = [(protocol, seed) for protocol, of in outcomes.predictions.items() for seed in of]
            stacked = np.stack([outcomes.predictions[protocol][seed] for protocol, seed in models])
            columns = statistics.replicates(cell["measured"]["metric"], weights, outcomes.references, stacked)
            for (protocol, seed), column in zip(models, columns.T.astype(np.float32), strict=True):
                found.setdefault((method, protocol), {})[seed] = column
        return found

    # What differs

    def comparable(self, method: str, task: str) -> bool:
        return not any(difference.covers(method, task) for difference in self.differences)

    def _differences(self):
        for what, value in {
            "preset": lambda cell: cell["request"]["preset"],
            "primary protocol": lambda cell: cell["request"]["primary"],
            "base model": lambda cell: cell["ran_on"]["base"]["sha256"],
            "precision": lambda cell: cell["ran_on"]["precision"],
        }.items():
            if _several(value(cell) for cell in self.cells):
                yield Difference(what)
        for task in self.tasks:
            cells = self.of_task(task)
            if _several(cell["ran_on"]["dataset"]["fingerprint"] for cell in cells):
                yield Difference(f"data of {task_title(task)}", task=task)
            teachers = {}
            for cell in cells:
                if teacher := cell["ran_on"]["teacher"]:
                    teachers.setdefault((teacher["method"], teacher["seed"]), set()).add(teacher["sha256"])
            for (name, seed), models in teachers.items():
                if len(models) > 1:
                    yield Difference(f"teacher of {task_title(task)} ({name}, seed {seed})", task=task)
        for method in self.methods:
            if _several(cell["ran_on"]["code"] for cell in self.of_method(method)):
                yield Difference(f"code of {method}", method=method)


def _several(values: Iterable) -> bool:
    return len({json.dumps(value) for value in values}) > 1
