"""The comparison of all cells: every mean, drop, interval and test of a report, computed once and then only rendered."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from report.evidence import statistics
from report.evidence.board import Board
from report.evidence.cores import on_all_cores
from report.evidence.outcomes import Outcomes, unpack
from report.evidence.statistics import Estimate


@dataclass(frozen=True)
class Difference:
    """One method's score minus another's on the same examples, seed by seed."""

    estimate: Estimate
    p: float
    test: str
    seeds: int

    def reversed(self) -> "Difference":
        return replace(self, estimate=replace(self.estimate, value=-self.estimate.value))


@dataclass(frozen=True)
class Reference:
    """The one run from which a drop is counted: the teacher, or the model that was quantized without training."""

    method: str
    seed: int
    sha256: str | None
    score: float | None


@dataclass(frozen=True)
class Score:
    """One cell under one selection protocol."""

    summary: dict  # of the primary metric over the seeds
    metrics: dict[str, dict]  # the same of every metric
    estimate: Estimate | None
    reference: Reference | None
    difference: Difference | None  # from the reference

    @property
    def mean(self) -> float | None:
        return self.summary["mean"]

    @property
    def interval(self) -> tuple[float, float] | None:
        return self.estimate.interval() if self.estimate else None

    @property
    def drop(self) -> float | None:
        """Return the points lost from the reference, negative where the method scores higher."""
        known = self.reference is not None and self.reference.score is not None and self.mean is not None
        return self.reference.score - self.mean if known else None


@dataclass(frozen=True)
class Average:
    """The mean of one method's scores over several tasks, or the reason why there is none."""

    reason: str | None
    value: float | None = None
    estimate: Estimate | None = None
    drop: float | None = None

    @property
    def interval(self) -> tuple[float, float] | None:
        return self.estimate.interval() if self.estimate else None


@dataclass(frozen=True)
class Evidence:
    """Everything that a report renders: the cells, the scores of each, and the difference of every two methods."""

    board: Board
    scores: dict[tuple[str, str, str], Score]  # by method, task and protocol
    pairs: dict[tuple[str, str, str, str], Difference]  # by method, other method, task and protocol

    def score(self, method: str, task: str, protocol: str | None = None) -> Score | None:
        """Return the score of a cell, by default under the primary protocol; None where there is no cell."""
        return self.scores.get((method, task, protocol or self.board.primary))

    def pair(self, method: str, other: str, task: str, protocol: str) -> Difference | None:
        """Return one method minus another, over the seeds that both have; None where the two cannot be compared."""
        return self.pairs.get((method, other, task, protocol))

    def status(self, method: str, task: str) -> str | None:
        """Return why a place has no number; None where it has one."""
        if (score := self.score(method, task)) is None:
            return "failed" if (method, task) in self.board.failed else "not run"
        return None if score.summary["n"] else f"diverged ({score.summary['n_diverged']} of {score.summary['n_diverged']})"

    def diverged(self, method: str, tasks: Iterable[str]) -> tuple[int, int]:
        """Return how many of the method's runs on the tasks diverged, and how many runs there are."""
        summaries = [score.summary for task in tasks if (score := self.score(method, task))]
        lost = sum(summary["n_diverged"] for summary in summaries)
        return lost, lost + sum(summary["n"] for summary in summaries)

    def average(self, method: str, tasks: Iterable[str], protocol: str | None = None) -> Average:
        """Return the method's mean over the tasks; it has one where it has a comparable score on each of them."""
        tasks = list(tasks)
        scores = [self.score(method, task, protocol) for task in tasks]
        if not tasks or any(score is None or score.mean is None for score in scores):
            return Average("not all tasks")
        if not all(self.board.comparable(method, task) for task in tasks):
            return Average("not comparable")
        drops, estimates = [score.drop for score in scores], [score.estimate for score in scores]
        return Average(
            reason=None,
            value=float(np.mean([score.mean for score in scores])),
            estimate=None if None in estimates else statistics.mean(estimates),
            drop=None if None in drops else float(np.mean(drops)),
        )


def compare(cells: list[dict], failed: dict[tuple[str, str], str] | None = None) -> Evidence:
    """Compare all cells, one task on each core."""
    board = Board(cells, failed)
    scores, pairs = {}, {}
    for task_scores, task_pairs in on_all_cores(lambda task: _Task(board, task).compared(), board.tasks):
        scores |= task_scores
        pairs |= task_pairs
    return Evidence(board, scores, pairs)


class _Task:
    """The comparison of one task's cells, on bootstrap samples that all methods share, which is what pairs them."""

    def __init__(self, board: Board, task: str):
        self.board, self.task = board, task
        self.cells = {cell["request"]["method"]: cell for cell in board.of_task(task)}
        self.outcomes = {method: _outcomes(cell) for method, cell in self.cells.items()}
        self.resampled = self._resampled()

    def compared(self) -> tuple[dict, dict]:
        scores, pairs = {}, {}
        for protocol in self.board.protocols:
            for method in self.cells:
                scores[method, self.task, protocol] = self._score(method, protocol)
            comparable = [method for method in self.cells if self.board.comparable(method, self.task)]
            for number, method in enumerate(comparable):
                for other in comparable[:number]:
                    if difference := self._pair(method, other, protocol):
                        pairs[method, other, self.task, protocol] = difference
                        pairs[other, method, self.task, protocol] = difference.reversed()
        return scores, pairs

    def _resampled(self) -> dict[tuple[str, str], dict[int, np.ndarray]]:
        """Return (method, protocol) -> seed -> the metric in each bootstrap sample."""
        resampled, weights = {}, None
        for method, outcomes in self.outcomes.items():
            if outcomes is None:
                continue
            if weights is None or weights.shape[1] != outcomes.examples:
                weights = statistics.draws(outcomes.examples)
            models = [(protocol, seed) for protocol, seeds in outcomes.predictions.items() for seed in seeds]
            predictions = np.stack([outcomes.predictions[protocol][seed] for protocol, seed in models])
            metric = self.cells[method]["measured"]["metric"]
            columns = statistics.replicates(metric, weights, outcomes.references, predictions)
            for (protocol, seed), column in zip(models, columns.T.astype(np.float32), strict=True):
                resampled.setdefault((method, protocol), {})[seed] = column
        return resampled

    def _score(self, method: str, protocol: str) -> Score:
        measured = self.cells[method]["measured"]
        metrics = measured["protocols"][protocol]["metrics"]
        reference = self._reference(method)
        return Score(
            summary=metrics[measured["metric"]],
            metrics=metrics,
            estimate=self._estimate(method, protocol),
            reference=reference,
            difference=self._from_reference(method, reference, protocol),
        )

    def _estimate(self, method: str, protocol: str) -> Estimate | None:
        scores = self.board.scores(method, self.task, protocol)
        return statistics.estimate(list(scores.values()), self._samples(method, protocol, scores)) if scores else None

    def _samples(self, method: str, protocol: str, seeds: Iterable[int]) -> np.ndarray | None:
        """Return the resampled metric of some seeds: (resamples, seeds)."""
        resampled = self.resampled.get((method, protocol))
        return None if resampled is None else np.stack([resampled[seed] for seed in seeds], 1)

    def _reference(self, method: str) -> Reference | None:
        cell = self.cells[method]
        if teacher := cell["ran_on"]["teacher"]:
            return Reference(teacher["method"], teacher["seed"], teacher["sha256"], cell["measured"]["teacher"]["score"])
        starts = [run["ancestors"].get("init") for run in cell["ran_on"]["runs"]]
        first = starts[0]
        if first is None or any(start != first for start in starts) or first["method"] not in self.cells:
            return None
        score = self.board.scores(first["method"], self.task, self.board.primary).get(first["seed"])
        return Reference(first["method"], first["seed"], first["sha256"], score)

    def _from_reference(self, method: str, reference: Reference | None, protocol: str) -> Difference | None:
        if reference is None or reference.score is None or not self.board.comparable(method, self.task):
            return None
        scores = self.board.scores(method, self.task, protocol)
        differences = [score - reference.score for score in scores.values()]
        paired = self._kept(reference) and self._same_examples(method, reference.method)
        seeds = [(seed, reference.seed) for seed in scores]
        return self._difference(method, reference.method, (protocol, self.board.primary), seeds, differences, paired)

    def _pair(self, method: str, other: str, protocol: str) -> Difference | None:
        scores, others = (self.board.scores(name, self.task, protocol) for name in (method, other))
        seeds = sorted(scores.keys() & others.keys())
        differences = [scores[seed] - others[seed] for seed in seeds]
        paired = self._same_examples(method, other)
        return self._difference(method, other, (protocol, protocol), [(seed, seed) for seed in seeds], differences, paired)

    def _difference(
        self,
        method: str,
        other: str,
        protocols: tuple[str, str],
        seeds: list[tuple[int, int]],
        differences: list[float],
        paired: bool,
    ) -> Difference | None:
        """Test the differences of pairs of seeds; where `paired`, by example as well."""
        if not seeds:
            return None
        own, others = zip(*seeds, strict=True)
        samples = self._samples(method, protocols[0], own) - self._samples(other, protocols[1], others) if paired else None
        estimate = statistics.estimate(differences, samples)
        if estimate is None:
            return None
        if paired and len(seeds) == 1 and self.cells[method]["measured"]["metric"] == "accuracy":
            right, others_right = self._right(method, protocols[0], own[0]), self._right(other, protocols[1], others[0])
            p = statistics.mcnemar(int((right & ~others_right).sum()), int((others_right & ~right).sum()))
            return Difference(estimate, p, "McNemar's exact test", 1)
        return Difference(estimate, estimate.p, f"paired over {estimate.basis}", len(seeds))

    def _right(self, method: str, protocol: str, seed: int) -> np.ndarray:
        outcomes = self.outcomes[method]
        return outcomes.predictions[protocol][seed] == outcomes.references

    def _same_examples(self, method: str, other: str) -> bool:
        outcomes, others = self.outcomes[method], self.outcomes.get(other)
        return outcomes is not None and others is not None and outcomes.key == others.key

    def _kept(self, reference: Reference) -> bool:
        """Return whether the predictions of the very run that a drop is counted from are in the cells."""
        if (cell := self.cells.get(reference.method)) is None:
            return False
        primary = self.board.primary
        files = {run["seed"]: run["files"].get(f"{primary}.safetensors") for run in cell["ran_on"]["runs"]}
        predicted = self.resampled.get((reference.method, primary), {})
        return files.get(reference.seed) == reference.sha256 and reference.seed in predicted


def _outcomes(cell: dict) -> Outcomes | None:
    packed = cell["measured"].get("outcomes")
    return unpack(packed) if packed else None
