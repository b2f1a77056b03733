"""Verdicts: what is said of a loss by hand, and how often it is wrong where the truth is known."""

import numpy as np
import pytest
from scipy.optimize import brentq

from report.evidence.comparison import Difference, compare, mean_difference
from report.evidence.statistics import Estimate, estimate
from report.evidence.verdicts import judge
from tests.fixtures import cells as fixture
from tests.fixtures.studies import LUCK, answered, expected_accuracy, resampled, worlds

MARGIN = 3.0


def loss(value: float, error: float) -> Difference:
    found = Estimate(value, error**2, np.inf, "examples")
    return Difference(value, 1, found, found.p, "by hand")


def said(*losses: Difference, margin: float = 1.0) -> list[str]:
    return [verdict.text for verdict in judge(dict(enumerate(losses)), margin).values()]


def test_a_verdict_by_hand():
    # the interval is the value and 1.96 errors to each side
    assert said(loss(0.2, 0.4)) == ["equivalent within 1 point"], "-0.58 to 0.98"
    assert said(loss(0.2, 0.5)) == [""], "-0.78 to 1.18: nothing is said"
    assert said(loss(0.2, 0.5), margin=1.5) == ["equivalent within 1.5 points"]
    assert said(loss(5.0, 1.0)) == ["worse"]
    assert said(loss(-5.0, 1.0)) == ["better"]
    assert said(loss(0.5, 0.1)) == ["worse, but by less than 1 point"]
    assert said(Difference(0.0, 1)) == [""], "without an interval nothing is known"


def test_signs_follow_the_words():
    losses = [loss(0.2, 0.4), loss(0.2, 0.5), loss(5.0, 1.0), loss(-5.0, 1.0), loss(0.5, 0.1)]
    assert [judge({0: one}, 1.0)[0].mark for one in losses] == ["≈", "", "▽", "△", "≈▽"]


def test_a_large_loss_that_no_test_finds_is_not_called_equivalent():
    assert said(loss(14.0, 8.0)) == [""]


def test_the_tests_are_corrected_together_and_the_interval_is_not():
    one = loss(2.2, 1.0)  # p = 0.028
    assert said(one) == ["worse"]
    assert said(one, loss(0.0, 1.0)) == ["", ""], "doubled by Holm"
    verdicts = judge({"one": one, "other": loss(0.0, 0.1)}, 1.0)
    assert verdicts["one"].p == pytest.approx(2 * one.p)
    assert verdicts["other"].within


def test_a_loss_is_counted_from_full_precision_and_a_drop_from_the_teacher():
    cells = fixture.board(("fp32", "twn_2bit", "tws_1bit"), ("rte",), seeds=(1, 2, 3), rows=200)
    cells[2]["ran_on"]["teacher"] = {"method": "half_width", "seed": 1, "sha256": None}
    cells[2]["measured"]["teacher"] = {"method": "half_width", "seed": 1, "score": 50.0}
    evidence = compare(cells)
    full, binary = (evidence.score(method, "rte") for method in ("fp32", "tws_1bit"))
    assert evidence.loss("tws_1bit", "rte").value == pytest.approx(full.mean - binary.mean)
    assert binary.drop == pytest.approx(50.0 - binary.mean) and binary.reference.method == "half_width"
    assert evidence.loss("fp32", "rte") is None and evidence.verdict("fp32", "rte") is None
    assert evidence.loss("tws_1bit", "rte").value == -evidence.pair("tws_1bit", "fp32", "rte", "last").value


def test_a_loss_is_over_the_seeds_that_both_have():
    cells = fixture.board(("fp32", "twn_2bit"), ("rte",), seeds=(1, 2, 3), rows=200)
    alone = fixture.board(("fp32", "twn_2bit"), ("rte",), seeds=(1,), rows=200)
    found = compare([cells[0], alone[1]]).loss("twn_2bit", "rte")
    scores = [cell["measured"]["seeds"][0]["scores"]["last"]["metrics"]["accuracy"] for cell in (cells[0], alone[1])]
    assert (found.seeds, found.value) == (1, pytest.approx(scores[0] - scores[1]))


def test_a_mean_of_losses_by_hand():
    both = mean_difference([loss(1.0, 0.3), loss(3.0, 0.4)])
    assert both.value == 2.0
    assert both.interval == pytest.approx((2 - 1.959964 * 0.25, 2 + 1.959964 * 0.25))
    assert mean_difference([loss(1.0, 0.3), Difference(3.0, 1)]).interval is None
    assert mean_difference([both]) is both


# Simulations


def differences(seeds: int, examples: int, skills: list[float]) -> list[list[Difference]]:
    """Return, for each world, the losses of methods with these skills from full precision."""
    random, ease, skill = worlds(seeds, examples)
    luck = np.zeros_like(skill) if seeds == 1 else skill  # one seed tells only of its own model
    full = answered(random, ease, luck)
    losses = []
    for own in skills:
        other = answered(random, ease, own + (luck if seeds == 1 else random.permutation(luck)))
        scores, again = 100 * (full.mean(2) - other.mean(2)), resampled(full) - resampled(other)
        found = [estimate(score, moved) for score, moved in zip(scores, again, strict=True)]
        losses.append([Difference(one.value, seeds, one, one.p, "paired") for one in found])
    return list(zip(*losses, strict=True))


def skill_that_loses(points: float, luck: float) -> float:
    return brentq(lambda skill: expected_accuracy(0.0, luck) - expected_accuracy(skill, luck) - points, -3, 0)


@pytest.mark.parametrize("seeds", [1, 3, 5])
def test_a_loss_of_the_margin_is_called_equivalent_1_time_in_40_at_most(seeds):
    lost = skill_that_loses(MARGIN, 0.0 if seeds == 1 else LUCK)
    false = np.mean([judge({0: one}, MARGIN)[0].within for (one,) in differences(seeds, 500, [lost])])
    assert 0.005 <= false <= 0.035, false


@pytest.mark.parametrize("seeds", [1, 3])
def test_among_six_equal_methods_one_is_called_worse_or_better_5_times_in_100_at_most(seeds):
    found = [judge(dict(enumerate(world)), MARGIN) for world in differences(seeds, 300, [0.0] * 6)]
    false = np.mean([any(verdict.side for verdict in verdicts.values()) for verdicts in found])
    assert 0.01 <= false <= 0.06, false


def test_equal_methods_are_called_equivalent_where_the_examples_are_many():
    few, many = (np.mean([judge({0: one}, MARGIN)[0].within for (one,) in differences(1, n, [0.0])]) for n in (100, 5000))
    assert few < 0.4 < 0.9 < many, (few, many)
