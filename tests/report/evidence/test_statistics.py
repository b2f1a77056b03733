"""Statistics of the report: values by hand, scipy as the slow twin, and simulations in which the truth is known."""

import math

import numpy as np
import pytest
from scipy import stats

from report.evidence.statistics import (
    Estimate,
    draws,
    estimate,
    holm,
    mcnemar,
    mean,
    replicates,
    student_quantile,
    student_tail,
    summarise,
)
from tests.fixtures.studies import answered, expected_accuracy, resampled, worlds

ONCE = np.ones((1, 6), np.float32)  # the "resample" in which every example occurs once


# Values by hand


def test_mean_deviation_and_interval_by_hand():
    # 60, 62, 67: mean 63, squares 9 + 1 + 16 = 26, variance 13; t(0.975, 2) = 4.302653
    summary = summarise([60.0, 62.0, 67.0], n_diverged=0)
    assert summary["mean"] == 63.0
    assert summary["sd"] == pytest.approx(math.sqrt(13), abs=1e-12)
    half = 4.302652729911275 * math.sqrt(13 / 3)
    assert summary["interval_95"] == pytest.approx([63 - half, 63 + half], abs=1e-9)
    assert (summary["n"], summary["n_diverged"], summary["note"]) == (3, 0, None)


def test_one_seed_has_no_deviation_and_a_note():
    summary = summarise([61.0], n_diverged=0)
    assert (summary["mean"], summary["sd"], summary["interval_95"], summary["n"]) == (61.0, None, None, 1)
    assert "one seed" in summary["note"]


def test_seeds_with_equal_scores_give_no_interval_and_a_note():
    summary = summarise([61.1, 61.1, 61.1], n_diverged=1)
    assert (summary["mean"], summary["sd"], summary["interval_95"], summary["n"]) == (61.1, 0.0, None, 3)
    assert "score the same" in summary["note"]
    assert summarise([61.1, 61.2], n_diverged=0)["note"] is None


def test_holm_on_a_worked_example():
    # sorted 0.005, 0.01, 0.03, 0.04: times 4, 3, 2, 1 = 0.02, 0.03, 0.06, 0.04, and never falling: 0.06 at the end
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_mcnemar_by_hand():
    # 8 examples are answered by one model only, 7 of them by the first: 2 (C(8,0) + C(8,1)) / 2^8 = 18 / 256
    assert mcnemar(7, 1) == mcnemar(1, 7) == pytest.approx(18 / 256)
    assert mcnemar(0, 0) == 1.0 and mcnemar(5, 5) == 1.0


@pytest.mark.parametrize(("first", "second"), [(0, 1), (3, 9), (40, 2), (13, 13)])
def test_mcnemar_is_the_binomial_test(first, second):
    assert mcnemar(first, second) == pytest.approx(stats.binomtest(first, first + second).pvalue, rel=1e-12)


@pytest.mark.parametrize("freedom", [1, 2.5, 40, math.inf])
def test_students_distribution_is_that_of_scipy_stats(freedom):
    assert student_quantile(0.975, freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=1e-12)
    assert student_tail(2.1, freedom) == pytest.approx(stats.t.sf(2.1, freedom), rel=1e-12)


def test_metrics_by_hand():
    references = np.array([0, 0, 1, 1, 1, 0])
    predictions = np.array([[0, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1]])
    assert replicates("accuracy", ONCE, references, predictions)[0] == pytest.approx([400 / 6, 50])
    # true positives 2, false 1, missed 1, true negatives 2: (2 * 2 - 1 * 1) / sqrt(3 * 3 * 3 * 3) = 1 / 3; constant: 0
    assert replicates("matthews", ONCE, references, predictions)[0] == pytest.approx([100 / 3, 0], abs=1e-4)
    own_scores = np.array([[1.0, 0.5, 0.0, 0.0, 1.0, 0.5]])
    assert replicates("f1", ONCE, None, own_scores)[0] == pytest.approx([50])


@pytest.mark.parametrize("metric", ["pearson", "spearman", "matthews"])
def test_weighted_metrics_equal_those_of_the_written_out_resample(metric):
    random = np.random.default_rng(1)
    references = random.integers(0, 3, 50) if metric == "matthews" else np.round(random.normal(size=50), 1)
    noisy = references + np.round(random.normal(size=(3, 50)))
    predictions = np.clip(noisy, 0, 2).astype(int) if metric == "matthews" else noisy
    weights = draws(50, resamples=150, seed=3)
    found = replicates(metric, weights, references, predictions)
    for row, weight in list(enumerate(weights.astype(int)))[::15]:
        for model, values in enumerate(predictions):
            x, y = np.repeat(values, weight), np.repeat(references, weight)
            if metric == "matthews":  # the correlation of one-hot labels, class by class
                codes = [np.eye(3)[labels] - np.eye(3)[labels].mean(0) for labels in (x, y)]
                expected = (codes[0] * codes[1]).sum() / np.sqrt((codes[0] ** 2).sum() * (codes[1] ** 2).sum())
            else:
                expected = getattr(stats, f"{metric}r")(x, y).statistic
            assert found[row, model] == pytest.approx(100 * expected, abs=1e-3)


def test_a_constant_model_correlates_with_nothing():
    references = np.arange(6.0)
    for metric in ("pearson", "spearman", "matthews"):
        assert replicates(metric, ONCE, references, np.full((1, 6), 2.0))[0, 0] == 0


def test_draws_are_resamples_and_the_same_each_time():
    weights = draws(37, resamples=20)
    assert (weights.sum(1) == 37).all() and (weights == draws(37, resamples=20)).all()
    assert not (weights == draws(37, resamples=20, seed=1)).all()


# Estimates


def test_an_estimate_adds_what_seeds_and_examples_contribute():
    # seeds 60, 62, 67: variance 13; resamples move all seeds together by -1, 0, 1: covariance 1
    moved = np.array([[-1.0], [0.0], [1.0]]) + np.array([[60.0, 62.0, 67.0]])
    found = estimate(np.array([60.0, 62.0, 67.0]), moved)
    assert found.value == 63 and found.variance == pytest.approx(13 / 3 + 1)
    assert found.freedom == pytest.approx(2 * ((13 + 3) / 13) ** 2)
    assert found.basis == "examples and seeds"


def test_without_predictions_only_seeds_vary_and_one_seed_or_seeds_alike_say_nothing():
    found = estimate(np.array([60.0, 62.0, 67.0]), None)
    assert found.interval() == pytest.approx(tuple(summarise([60.0, 62.0, 67.0], 0)["interval_95"]))
    assert estimate(np.array([60.0]), None) is None
    assert estimate(np.full(3, 0.1), None) is None  # by rounding, their variance is not quite 0


def test_one_seed_varies_with_its_examples():
    found = estimate(np.array([60.0]), np.array([[59.0], [60.0], [61.0]]))
    assert (found.variance, found.freedom, found.basis) == (1.0, math.inf, "examples")
    assert found.interval() == pytest.approx((60 - 1.959964, 60 + 1.959964), abs=1e-6)


def test_equal_models_do_not_differ():
    found = estimate(np.zeros(5), np.zeros((10, 5)))
    assert found.p == 1.0 and found.interval() == (0.0, 0.0)


def test_means_over_tasks_add_variances():
    found = mean([Estimate(1.0, 4.0, 4, "seeds"), Estimate(3.0, 4.0, 4, "seeds")])
    assert (found.value, found.variance, found.freedom) == (2.0, 2.0, 8.0)  # Welch: 8^2 / (16 / 4 + 16 / 4)


# Simulations


@pytest.fixture(scope="module")
def truth() -> float:
    return expected_accuracy()


@pytest.mark.parametrize("seeds", [1, 3, 5])
def test_95_of_100_intervals_hold_the_truth(seeds, truth):
    random, ease, skill = worlds(seeds, 300)
    if seeds == 1:  # one seed tells only of its own model
        skill, truth = np.zeros_like(skill), expected_accuracy(luck=0.0)
    right = answered(random, ease, skill)
    scores = 100 * right.mean(2)
    found = [estimate(score, again).interval() for score, again in zip(scores, resampled(right), strict=True)]
    covered = np.mean([low <= truth <= high for low, high in found])
    assert 0.93 <= covered <= 0.97, covered


def test_resampling_five_seeds_naively_would_not_do(truth):
    """Why seeds are not simply drawn again: the percentile interval over examples and seeds is too narrow."""
    random, ease, skill = worlds(5, 300)
    right = answered(random, ease, 4 * skill)
    again, covered = resampled(right), []
    for of_world in again:
        chosen = random.integers(5, size=(len(of_world), 5))
        low, high = np.percentile(np.take_along_axis(of_world, chosen, 1).mean(1), [2.5, 97.5])
        covered.append(low <= 100 * right.mean() <= high)
    assert np.mean(covered) < 0.92


@pytest.mark.parametrize(("seeds", "least"), [(2, 0.02), (5, 0.04)])
def test_the_paired_test_errs_5_times_in_100_and_with_two_seeds_less(seeds, least):
    random, ease, skill = worlds(seeds, 300)
    one, other = answered(random, ease, skill), answered(random, ease, random.permutation(skill))
    scores, again = 100 * (one.mean(2) - other.mean(2)), resampled(one) - resampled(other)
    false = np.mean([estimate(score, moved).p < 0.05 for score, moved in zip(scores, again, strict=True)])
    assert least <= false <= 0.06, false


def test_mcnemar_errs_5_times_in_100():
    random, ease, _ = worlds(1, 3000)
    one, other = answered(random, ease, np.zeros(1)), answered(random, ease, np.zeros(1))
    first, second = (one & ~other).sum((1, 2)), (~one & other).sum((1, 2))
    false = np.mean([mcnemar(a, b) < 0.05 for a, b in zip(first, second, strict=True)])
    assert 0.04 <= false <= 0.06, false


def test_a_true_difference_is_found():
    random, ease, skill = worlds(5, 300)
    one, other = answered(random, ease, skill), answered(random, ease, skill - 0.5)
    scores, again = 100 * (one.mean(2) - other.mean(2)), resampled(one) - resampled(other)
    found = np.mean([estimate(score, moved).p < 0.05 for score, moved in zip(scores, again, strict=True)])
    assert found > 0.9
