"""The comparison: paired tests, what is paired with what, odd cells, and names that come with the cells."""

import copy

import pytest

from report.evidence.comparison import compare
from report.evidence.likeness import odd_cells
from tests.fixtures import cells as fixture
from tests.fixtures.cells import cell_at

METHODS = ("fp32", "rtn_2bit", "twn_2bit", "lat_2bit", "tws_1bit", "tws_1bit_a4")


@pytest.fixture(scope="module")
def cells():
    return fixture.board(METHODS, ("mrpc", "rte"), seeds=(1, 2, 3), rows=200)


# Tests between methods


def test_one_seed_each_is_mcnemar_and_more_are_paired_over_both(cells):
    difference = compare(cells).pair("twn_2bit", "tws_1bit", "rte", "last")
    assert (difference.test, difference.seeds) == ("paired over examples and seeds", 3)
    single = compare(fixture.board(("fp32", "twn_2bit", "tws_1bit"), ("rte", "squad"), seeds=(1,), rows=200))
    difference = single.pair("twn_2bit", "tws_1bit", "rte", "last")
    assert (difference.test, difference.seeds) == ("McNemar's exact test", 1)
    assert single.pair("twn_2bit", "tws_1bit", "squad", "last").test == "paired over examples"


def test_without_predictions_only_seeds_are_paired_and_one_seed_gives_no_test(cells):
    cells = copy.deepcopy(cells)
    for cell in cells:
        cell["measured"]["outcomes"] = None
    assert compare(cells).pair("twn_2bit", "tws_1bit", "mrpc", "last").test == "paired over seeds"
    assert compare(cells).pair("twn_2bit", "tws_1bit", "rte", "last") is None, "all seeds score the same"
    single = fixture.board(("fp32", "twn_2bit"), ("rte",), seeds=(1,), rows=100)
    single[1]["measured"]["outcomes"] = None
    assert compare(single).score("twn_2bit", "rte").difference is None


def test_a_teacher_that_was_trained_again_is_not_paired_with(cells):
    cells = copy.deepcopy(cells)
    cell_at(cells, "fp32", "mrpc")["ran_on"]["runs"][0]["files"]["last.safetensors"] = "0" * 64
    assert compare(cells).score("lat_2bit", "mrpc").difference.test == "paired over seeds"


def test_a_pair_is_computed_once_and_reads_both_ways(cells):
    evidence = compare(cells)
    assert len(evidence.pairs) == 2 * 2 * len(METHODS) * (len(METHODS) - 1)  # tasks, protocols
    one, other = (evidence.pair(*names, "rte", "last") for names in (("fp32", "rtn_2bit"), ("rtn_2bit", "fp32")))
    assert one.estimate.value == -other.estimate.value and one.p == other.p
    low, high = one.estimate.interval()
    assert other.estimate.interval() == pytest.approx((-high, -low))


# Odd cells


def test_the_majority_is_compared_and_each_odd_cell_has_one_reason(cells):
    cells = copy.deepcopy(cells)
    odd = cell_at(cells, "twn_2bit", "rte")
    odd["request"] |= {"preset": "small", "primary": "best"}
    odd["ran_on"]["base"]["sha256"] = "0" * 64
    odd["ran_on"]["dataset"]["fingerprint"] = "0" * 64
    assert [(o.method, o.task, o.reason) for o in odd_cells(cells)] == [("twn_2bit", "rte", "preset small, not paper")]
    evidence = compare(cells)
    assert evidence.board.primary == "last", "the first cell does not decide"
    assert evidence.pair("twn_2bit", "fp32", "rte", "last") is None
    assert evidence.pair("lat_2bit", "fp32", "rte", "last") is not None
    assert evidence.score("twn_2bit", "rte").difference is None and evidence.score("twn_2bit", "rte").mean is not None


def test_an_odd_first_cell_does_not_decide_for_the_others(cells):
    cells = copy.deepcopy(cells)
    cells[0]["request"]["primary"] = "best"
    evidence = compare(cells)
    assert evidence.board.primary == "last"
    assert [odd.reason for odd in evidence.board.odd] == ["primary protocol best, not last"]


# Names


def test_families_have_colours_in_order_of_appearance_and_pairs_of_colour_and_shape_stay_distinct(cells):
    board = compare(cells).board
    assert [(family.name, family.colour) for family in board.families.values()] == [
        ("fp32", 0),
        ("ptq", 1),
        ("ternarybert", 2),
        ("binarybert", 3),
    ]
    many = []
    for number in range(15):
        cell = copy.deepcopy(cells[0])
        cell["request"]["method"] = f"m{number}"
        cell["about"]["method"] |= {"family": f"family{number}", "family_title": f"Family {number}"}
        many.append(cell)
    families = compare(many).board.families
    assert len({(family.colour, family.shape) for family in families.values()}) == 15
    assert families["family14"].title == "Family 14" and families["family14"].colour == 0


def test_suites_come_from_the_cells(cells):
    cells = copy.deepcopy(cells)
    for cell in cells:
        if cell["request"]["task"] == "mrpc":
            cell["about"]["task"] |= {"suite": None, "averaged": True}
    suites = compare(cells).board.suites
    assert [(suite.name, suite.title, suite.tasks, suite.averaged) for suite in suites] == [
        ("glue", "GLUE", ["rte"], ["rte"]),
        ("other", "Other tasks", ["mrpc"], []),
    ]
