"""The comparison of all cells: every mean, loss, interval and test of a report, computed once and then only rendered.

A loss is counted from full precision on the same task, whatever a method learned from. What a method lost from its own
teacher, or from the model that it started from, is its drop, and stands beside the loss.
"""

import functools
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from report.evidence import statistics
from report.evidence.board import Board
from report.evidence.cores import on_all_cores
from report.evidence.outcomes import Outcomes, unpack
from report.evidence.statistics import Estimate
from report.evidence.verdicts import Verdict, judge


@dataclass(frozen=True)
class Difference:
    """One method's score minus another's, over the seeds that both have; over tasks, the mean of such differences."""

    value: float
    seeds: int
    estimate: Estimate | None = None  # None where one pair of seeds, or equal ones, cannot tell the error
    p: float | None = None
    test: str | None = None

    @property
    def interval(self) -> tuple[float, float] | None:
        return self.estimate.interval() if self.estimate else None

    def reversed(self) -> "Difference":
        estimate = self.estimate and replace(self.estimate, value=-self.estimate.value)
        return replace(self, value=-self.value, estimate=estimate)


def mean_difference(differences: list[Difference]) -> Difference:
    """Return the mean of differences on several tasks; it has an interval and a test where each of them has one."""
    value, seeds = float(np.mean([one.value for one in differences])), min(one.seeds for one in differences)
    if len(differences) == 1 or any(one.estimate is None for one in differences):
        return differences[0] if len(differences) == 1 else Difference(value, seeds)
    estimate = statistics.mean([one.estimate for one in differences])
    return Difference(value, seeds, estimate, estimate.p, f"mean over tasks, {estimate.basis}")


@dataclass(frozen=True)
class Reference:
    """The one run from which a drop is counted: the method's own teacher, or the model that it started from."""

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
    loss: Difference | None = None  # from full precision
    drop: float | None = None  # from each cell's own teacher

    @property
    def interval(self) -> tuple[float, float] | None:
        return self.estimate.interval() if self.estimate else None


@dataclass(frozen=True)
class Evidence:
    """Everything that a report renders: the cells, the scores of each, and the difference of every two methods."""

    board: Board
    scores: dict[tuple[str, str, str], Score]  # by method, task and protocol
    pairs: dict[tuple[str, str, str, str], Difference]  # by method, other method, task and protocol
    losses: dict[tuple[str, str, str], Difference]  # from full precision, by method, task and protocol

    @functools.cached_property
    def verdicts(self) -> dict[tuple[str, str, str], Verdict]:
        """Return the verdict on every loss; the tests of one suite under one protocol are corrected together."""
        found = {}
        for suite in self.board.suites:
            for protocol in self.board.protocols:
                losses = {
                    place: loss for place, loss in self.losses.items() if place[1] in suite.tasks and place[2] == protocol
                }
                found |= judge(losses, self.board.margin)
        return found

    def score(self, method: str, task: str, protocol: str | None = None) -> Score | None:
        """Return the score of a cell, by default under the primary protocol; None where there is no cell."""
        return self.scores.get((method, task, protocol or self.board.primary))

    def loss(self, method: str, task: str, protocol: str | None = None) -> Difference | None:
        """Return the points lost from full precision, negative where the method scores higher."""
        return self.losses.get((method, task, protocol or self.board.primary))

    def verdict(self, method: str, task: str, protocol: str | None = None) -> Verdict | None:
        return self.verdicts.get((method, task, protocol or self.board.primary))

    def verdicts_of_averages(self, tasks: list[str], protocol: str | None = None) -> dict[str, Verdict]:
        """Return the verdict on the mean loss over the tasks of every method that has one, all corrected together."""
        averages = {method: self.average(method, tasks, protocol) for method in self.board.methods}
        return judge({method: one.loss for method, one in averages.items() if one.loss}, self.board.margin)

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
        if reason := self._incomplete(method, tasks):
            return Average(reason)
        scores, losses = ([get(method, task, protocol) for task in tasks] for get in (self.score, self.loss))
        drops, estimates = [score.drop for score in scores], [score.estimate for score in scores]
        return Average(
            reason=None,
            value=float(np.mean([score.mean for score in scores])),
            estimate=None if None in estimates else statistics.mean(estimates),
            loss=None if None in losses else mean_difference(losses),
            drop=None if None in drops else float(np.mean(drops)),
        )

    def _incomplete(self, method: str, tasks: list[str]) -> str | None:
        """Return why a method has no mean over the tasks; None where it has one."""
        if not tasks:
            return "no task is averaged"
        reasons = {}
        for task in tasks:
            status = self.status(method, task)
            reason = status and status.partition(" (")[0]  # without the count of diverged seeds
            if reason is None and not self.board.comparable(method, task):
                reason = "not comparable"
            if reason:
                reasons.setdefault(reason, []).append(self.board.task_title(task))
        return "; ".join(f"{reason} on {', '.join(titles)}" for reason, titles in reasons.items()) or None


def compare(cells: list[dict], failed: dict[tuple[str, str], str] | None = None, margin: float = 1.0) -> Evidence:
    """Compare all cells, one task on each core; a loss below `margin` points counts as none."""
    board = Board(cells, failed, margin)
    scores, pairs, losses = {}, {}, {}
    for task_scores, task_pairs, task_losses in on_all_cores(lambda task: _Task(board, task).compared(), board.tasks):
        scores |= task_scores
        pairs |= task_pairs
        losses |= task_losses
    return Evidence(board, scores, pairs, losses)


class _Task:
    """The comparison of one task's cells, on bootstrap samples that all methods share, which is what pairs them."""

    def __init__(self, board: Board, task: str):
        self.board, self.task = board, task
        self.cells = {cell["request"]["method"]: cell for cell in board.of_task(task)}
        self.outcomes = {method: _outcomes(cell) for method, cell in self.cells.items()}
        self.resampled = self._resampled()

    def compared(self) -> tuple[dict, dict, dict]:
        """Return the scores, the differences of every two methods, and the losses from full precision."""
        scores, pairs, losses = {}, {}, {}
        for protocol in self.board.protocols:
            for method in self.cells:
                scores[method, self.task, protocol] = self._score(method, protocol)
            comparable = [method for method in self.cells if self.board.comparable(method, self.task)]
            for number, method in enumerate(comparable):
                for other in comparable[:number]:
                    if (difference := self._pair(method, other, protocol)) is None:
                        continue
                    differences = {(method, other): difference, (other, method): difference.reversed()}
                    for (one, another), both in differences.items():
                        if one == self.board.full_precision:
                            losses[another, self.task, protocol] = both
                        if both.estimate:
                            pairs[one, another, self.task, protocol] = both
        return scores, pairs, losses

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
        found = self._difference(method, reference.method, (protocol, self.board.primary), seeds, differences, paired)
        return found if found and found.estimate else None

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
        value, estimate = float(np.mean(differences)), statistics.estimate(differences, samples)
        if estimate is None:
            return Difference(value, len(seeds))
        if paired and len(seeds) == 1 and self.cells[method]["measured"]["metric"] == "accuracy":
            right, others_right = self._right(method, protocols[0], own[0]), self._right(other, protocols[1], others[0])
            p = statistics.mcnemar(int((right & ~others_right).sum()), int((others_right & ~right).sum()))
            return Difference(value, 1, estimate, p, "McNemar's exact test")
        return Difference(value, len(seeds), estimate, estimate.p, f"paired over {estimate.basis}")

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
