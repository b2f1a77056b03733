"""Uncertainty of a number: estimates with intervals, paired tests, and correction for many tests.

A score varies for two reasons: another seed trains another model, and another dev set holds other examples. Seeds are few
and are all scored on the same examples, so resampling them naively gives intervals that are too narrow. Both sources are
therefore estimated apart and added, as Obuchowski and Rockette (1995) do for readers who judge the same cases, with the
degrees of freedom of Hillis (2007): seeds are the readers, examples the cases. The examples' share comes from a bootstrap
over examples (Efron and Tibshirani 1993) that is shared by all methods of a task, which is what makes differences paired.

Two single models are compared by their accuracy with McNemar's exact test (1947), which needs no resampling.
"""

import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

RESAMPLES = 1000
CHUNK = 64  # resamples whose ranks are worked out together: their matrices stay in the processor's cache


# Summary of one metric over seeds


def summarise(values: list[float], n_diverged: int) -> dict:
    """Return mean, deviation and Student's interval of the seeds that did not diverge; null where unknown.

    Seeds with equal scores, as where nothing is trained, tell as little about chance as a single one.
    """
    n = len(values)
    mean = statistics.fmean(values) if n else None
    sd = statistics.stdev(values) if n > 1 else None
    half = student_quantile(0.975, n - 1) * sd / math.sqrt(n) if sd else None
    notes = {0: "every seed diverged: no mean", 1: "one seed: no deviation and no interval"}
    alike = "all seeds score the same: no interval" if sd == 0 else None
    return {
        "mean": mean,
        "sd": sd,
        "n": n,
        "n_diverged": n_diverged,
        "interval_95": None if half is None else [mean - half, mean + half],
        "note": notes.get(n, alike),
    }


# Bootstrap over examples


def draws(examples: int, resamples: int = RESAMPLES, seed: int = 0) -> np.ndarray:
    """Return the counts of each example in each bootstrap sample: (resamples, examples), every row adds up to `examples`."""
    random = np.random.default_rng([seed, examples])
    weights = np.empty((resamples, examples), np.float32)
    for row in weights:
        row[:] = np.bincount(random.integers(examples, size=examples), minlength=examples)
    return weights


def replicates(metric: str, weights: np.ndarray, references: np.ndarray | None, predictions: np.ndarray) -> np.ndarray:
    """Return the metric, in percent, of each model in each resample: (resamples, models) from (models, examples).

    `references` is None where `predictions` are scores of examples, whose mean is the metric.
    """
    if references is None:
        return 100 * _means(weights, predictions)
    return 100 * METRICS[metric](weights, references, predictions)


def _means(weights: np.ndarray, values: np.ndarray) -> np.ndarray:
    return weights @ values.astype(np.float32).T / weights.shape[1]


def _accuracy(weights: np.ndarray, references: np.ndarray, predictions: np.ndarray) -> np.ndarray:
    return _means(weights, predictions == references)


def _matthews(weights: np.ndarray, references: np.ndarray, predictions: np.ndarray) -> np.ndarray:
    """The correlation of two labellings, from the shares of the classes (Gorodkin 2004); 0 where either is constant."""
    correct = _accuracy(weights, references, predictions)
    chance, predicted, true = (np.zeros_like(correct) for _ in range(3))
    for label in np.union1d(references, predictions):
        share, true_share = _means(weights, predictions == label), _means(weights, (references == label)[None])
        chance += share * true_share
        predicted += share**2
        true += true_share**2
    return _ratio(correct - chance, np.sqrt(np.clip(1 - predicted, 0, None) * np.clip(1 - true, 0, None)))


def _pearson(weights: np.ndarray, references: np.ndarray, predictions: np.ndarray) -> np.ndarray:
    """Linear correlation; 0 where either side is constant."""
    y = references.astype(np.float64) - references.mean()
    x = predictions.astype(np.float64) - predictions.mean(1, keepdims=True)
    share = weights.astype(np.float64) / weights.shape[1]
    mean_x, mean_y = share @ x.T, (share @ y)[:, None]
    covariance = share @ (x * y).T - mean_x * mean_y
    spread = np.clip(share @ (x**2).T - mean_x**2, 0, None) * np.clip((share @ y**2)[:, None] - mean_y**2, 0, None)
    return _ratio(covariance, np.sqrt(spread))


def _spearman(weights: np.ndarray, references: np.ndarray, predictions: np.ndarray) -> np.ndarray:
    """Rank correlation, equal values sharing their mean rank; 0 where either side is constant."""
    orders = [_Ranking(values) for values in (references, *predictions)]
    correlations = np.empty((len(weights), len(predictions)), np.float64)
    for start in range(0, len(weights), CHUNK):
        chunk = weights[start : start + CHUNK]
        expected, *ranked = (ranking.centred(chunk) for ranking in orders)
        weighted = chunk * expected
        spread = np.einsum("be,be->b", weighted, expected)
        for model, ranks in enumerate(ranked):
            own = np.einsum("be,be,be->b", chunk, ranks, ranks)
            shared = np.einsum("be,be->b", weighted, ranks)
            correlations[start : start + CHUNK, model] = _ratio(shared, np.sqrt(spread * own))
    return correlations


class _Ranking:
    """Ranks of one series in any resample of it, without sorting again."""

    def __init__(self, values: np.ndarray):
        _, self.place = np.unique(values, return_inverse=True)
        self.order = np.argsort(self.place, kind="stable")
        self.starts = np.flatnonzero(np.diff(self.place[self.order], prepend=-1))

    def centred(self, weights: np.ndarray) -> np.ndarray:
        """Return the mean rank of each example in each resample, less the mean of all ranks."""
        here = np.add.reduceat(weights[:, self.order], self.starts, axis=1)
        ranks = np.cumsum(here, axis=1) - here / 2
        return ranks[:, self.place] - np.float32(weights.shape[1] / 2)


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    return np.divide(above, below, out=np.zeros(above.shape), where=below > 1e-9)


METRICS = {"accuracy": _accuracy, "matthews": _matthews, "pearson": _pearson, "spearman": _spearman}


# Estimates


@dataclass(frozen=True)
class Estimate:
    """A number with the variance of its error and the degrees of freedom that this variance is known with."""

    value: float
    variance: float
    freedom: float
    basis: str  # what was allowed to vary: "seeds", "examples", or "examples and seeds"

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        half = student_quantile((1 + level) / 2, self.freedom) * math.sqrt(self.variance)
        return self.value - half, self.value + half

    @property
    def p(self) -> float:
        """Two-sided probability of so large a value where the true one is zero."""
        if self.variance == 0:
            return 1.0 if self.value == 0 else 0.0
        return 2 * student_tail(abs(self.value) / math.sqrt(self.variance), self.freedom)


def estimate(scores: np.ndarray, resampled: np.ndarray | None) -> Estimate | None:
    """Return the mean over seeds of `scores` (or of differences); `resampled` (resamples, seeds) gives the examples' share.

    Without resamples only seeds vary. One seed, or seeds with equal scores, then tell nothing about the error: None.
    """
    scores = np.asarray(scores, np.float64)
    seeds, value = len(scores), float(np.mean(scores))
    if resampled is None:
        return Estimate(value, float(scores.var(ddof=1)) / seeds, seeds - 1, "seeds") if np.ptp(scores) else None
    if seeds == 1:
        return Estimate(value, float(resampled[:, 0].var(ddof=1)), math.inf, "examples")
    of_models = float(scores.var(ddof=1))  # seeds, and seeds that like other examples better
    own = float(resampled.var(axis=0, ddof=1, dtype=np.float64).mean())
    of_sums = float(resampled.sum(axis=1, dtype=np.float64).var(ddof=1))
    of_examples = max(0.0, (of_sums / seeds - own) / (seeds - 1))  # what all seeds share: the mean covariance of two
    # Few seeds may agree by chance, more than models that differ in anything can be expected to. The variance stays as it
    # is, but its degrees of freedom must not be inflated by that, or two seeds would give intervals that are too narrow.
    expected = max(of_models, own - of_examples)
    freedom = (seeds - 1) * (1 + seeds * of_examples / expected) ** 2 if expected else math.inf
    return Estimate(value, (of_models + seeds * of_examples) / seeds, freedom, "examples and seeds")


def mean(estimates: Iterable[Estimate]) -> Estimate:
    """Return the mean of independent estimates (different tasks) with Welch's and Satterthwaite's degrees of freedom."""
    parts = list(estimates)
    total = sum(part.variance for part in parts)
    known = sum(part.variance**2 / part.freedom for part in parts)
    bases = {part.basis for part in parts}
    return Estimate(
        value=statistics.fmean(part.value for part in parts),
        variance=total / len(parts) ** 2,
        freedom=total**2 / known if known else math.inf,
        basis=bases.pop() if len(bases) == 1 else "examples and, where there are several, seeds",
    )


# Tests. scipy's `stats` takes 0.4 s to import, and most cells need no quantile: `special` alone is imported, where needed.


def student_quantile(probability: float, freedom: float) -> float:
    from scipy import special

    return float(special.ndtri(probability) if math.isinf(freedom) else special.stdtrit(freedom, probability))


def student_tail(value: float, freedom: float) -> float:
    """Return the probability that Student's t exceeds `value`."""
    from scipy import special

    return float(special.ndtr(-value) if math.isinf(freedom) else special.stdtr(freedom, -value))


def mcnemar(first_only: int, second_only: int) -> float:
    """Return the p of McNemar's exact test, from the counts of examples that only one of two models gets right."""
    from scipy import special

    return min(1.0, 2 * float(special.bdtr(min(first_only, second_only), first_only + second_only, 0.5)))


def holm(values: Iterable[float]) -> list[float]:
    """Return probabilities corrected by Holm (1979): the smallest is multiplied by n, the next by n - 1, and so on."""
    values = np.asarray(list(values), np.float64)
    order = np.argsort(values, kind="stable")
    stepped = np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1))
    corrected = np.empty_like(values)
    corrected[order] = np.minimum(stepped, 1.0)
    return corrected.tolist()
