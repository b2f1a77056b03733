"""The opening of the page: the best trade, its interval, and an account of every method that it passes over."""

import copy
import re

import pytest

from report.evidence.comparison import compare
from report.page.headline import headline
from tests.fixtures import cells as fixture
from tests.fixtures.cells import cell_at

METHODS = ("fp32", "int8_dynamic", "lsq_2bit", "rtn_2bit", "bwn_1bit")
TASKS = ("mrpc", "rte")
CI = r"\(95 % CI −?\d+\.\d to −?\d+\.\d; mean of MRPC and RTE, 3 seeds\)"


@pytest.fixture(scope="module")
def original():
    return fixture.board(METHODS, TASKS, seeds=(1, 2, 3), rows=200)


@pytest.fixture
def cells(original):
    return copy.deepcopy(original)


def score(cells: list[dict], method: str, task: str, *scores: float) -> None:
    """Set the score of each seed under both protocols, without predictions: only seeds vary."""
    cell = cell_at(cells, method, task)
    measured = cell["measured"]
    for seed, value in zip(measured["seeds"], scores, strict=True):
        for scored in seed["scores"].values():
            scored["metrics"][measured["metric"]] = value
    for summary in measured["protocols"].values():
        summary["metrics"][measured["metric"]]["mean"] = sum(scores) / len(scores)
    measured["outcomes"] = None


def score_all(cells: list[dict], **losses: float) -> None:
    """Give full precision 80 points and every other method that much less, with other luck for each seed."""
    for method, loss in {"fp32": 0.0, **losses}.items():
        for task in TASKS:
            score(cells, method, task, *(80 - loss + luck * (method != "fp32") for luck in (-0.1, 0.0, 0.1)))


def test_the_smallest_that_loses_at_most_the_margin_is_the_best_trade(cells):
    score_all(cells, int8_dynamic=-0.3, lsq_2bit=0.8, rtn_2bit=30, bwn_1bit=5)
    found = headline(compare(cells))
    assert re.fullmatch(
        rf"KDLSQ-BERT, 2 bits is 14\.\d× smaller( and .+ as fast,)? and loses 0\.8 points {CI}\.", found.result
    )
    assert found.context.startswith("Of 4 compressed methods it is the smallest that loses at most 1 point. ")
    assert re.search(r"The most accurate is Dynamic int8: it is 3\.9× smaller.* and gains 0\.3 points", found.context)
    assert "Averages are over MRPC and RTE. Losses are counted from Full precision." in found.scope
    assert "Not considered" not in found.scope


def test_the_margin_decides(cells):
    score_all(cells, int8_dynamic=-0.3, lsq_2bit=0.8, rtn_2bit=30, bwn_1bit=5)
    assert headline(compare(cells, margin=0.5)).result.startswith("Dynamic int8 is ")
    assert headline(compare(cells, margin=6)).result.startswith("Binary weights is ")


def test_where_all_lose_more_the_least_loss_is_named_as_such(cells):
    score_all(cells, int8_dynamic=2, lsq_2bit=3, rtn_2bit=30, bwn_1bit=5)
    found = headline(compare(cells))
    assert found.result.startswith("Dynamic int8 is ") and "loses 2.0 points" in found.result
    assert found.context == "None of 4 compressed methods loses at most 1 point; this one loses least."


def test_a_method_that_gains_is_not_passed_over(cells):
    score_all(cells, int8_dynamic=4, lsq_2bit=-1, rtn_2bit=30, bwn_1bit=5)
    said = headline(compare(cells)).result
    assert "gains 1.0 point (" in said
    low, high = (float(end.replace("−", "-")) for end in re.search(r"CI (\S+) to (\S+);", said).groups())
    assert low <= 1.0 <= high  # the interval of the gain, not of the loss


def test_every_method_that_is_left_out_is_accounted_for(cells):
    cells = [cell for cell in cells if cell is not cell_at(cells, "rtn_2bit", "rte")]
    cell_at(cells, "bwn_1bit", "rte")["ran_on"]["base"]["sha256"] = "f" * 64
    cell_at(cells, "int8_dynamic", "mrpc")["measured"]["size"]["file"]["ratio"] = 1.0
    found = headline(compare(cells, {("failed_1bit", "rte"): "The disk is full."}))
    for reason in (
        "Rounding, 2 bits (not run on RTE)",
        "Binary weights (not comparable on RTE)",
        "Dynamic int8 (not smaller than full precision)",
        "failed_1bit (not run on MRPC; failed on RTE)",
    ):
        assert reason in found.scope
    assert found.result.startswith("KDLSQ-BERT, 2 bits is ")


def test_one_odd_cell_of_full_precision_costs_its_task_and_no_more(cells):
    cell_at(cells, "fp32", "rte")["ran_on"]["base"]["sha256"] = "f" * 64
    evidence = compare(cells)
    assert evidence.board.main_tasks() == ["mrpc"]
    found = headline(evidence)
    assert "; MRPC, 3 seeds)" in found.result
    assert "Not averaged: RTE (full precision has no comparable score there)." in found.scope


def test_a_task_that_few_methods_were_run_on_costs_no_method_its_average(cells):
    few = [cell for cell in cells if cell["request"]["task"] != "rte" or cell["request"]["method"] in ("fp32", "lsq_2bit")]
    evidence = compare(few)
    assert evidence.board.main_tasks() == ["mrpc"]
    assert "Not averaged: RTE (fewer than half of the methods were run there)." in headline(evidence).scope
    failed = {("rtn_2bit", "rte"): "The disk is full."}  # was run: a failure is not overlooked
    assert compare(few, failed).board.main_tasks() == ["mrpc", "rte"]


def test_one_seed_without_predictions_has_no_interval_and_says_so():
    cells = fixture.board(("fp32", "lsq_2bit"), ("rte",), seeds=(1,), rows=100)
    assert re.search(r"\(95 % CI .+; RTE, one seed\)", headline(compare(cells)).result)
    for cell in cells:
        cell["measured"]["outcomes"] = None
    assert "(no interval; RTE, one seed)" in headline(compare(cells)).result


def test_without_full_precision_the_teacher_and_without_a_teacher_the_constant_answer(cells):
    taught = [cell_at(cells, "lsq_2bit", "rte")]
    assert re.fullmatch(
        r"KDLSQ-BERT, 2 bits ends \d+\.\d points (below|above) its teacher, fp32 \(RTE\)\.", headline(compare(taught)).result
    )
    full = [cell_at(cells, "fp32", "rte")]
    assert headline(compare(full)).result.startswith("Full precision beats the constant answer on RTE, by ")
    both = [*full, cell_at(cells, "fp32", "mrpc")]
    assert (
        "on all 2 tasks, and ends" in headline(compare(both)).result
        and "above it on average" in headline(compare(both)).result
    )
    score(cells, "fp32", "rte", 30.0, 30.0, 30.0)
    assert re.fullmatch(
        r"Full precision ends \d+\.\d points below the constant answer on RTE\.", headline(compare(full)).result
    )


def test_a_method_without_full_precision_on_its_tasks_is_named_with_that_reason(cells):
    without = [cell for cell in cells if cell is not cell_at(cells, "fp32", "rte")]
    few = [cell for cell in without if cell["request"]["method"] == "fp32" or cell["request"]["task"] == "rte"]
    assert "no seed in common" not in headline(compare(few)).scope


def test_a_board_on_which_all_diverged_says_so(cells):
    cell = cell_at(cells, "fp32", "rte")
    for seed in cell["measured"]["seeds"]:
        seed |= {"status": "diverged", "reason": "loss became nan", "scores": None}
    for protocol in cell["measured"]["protocols"].values():
        for summary in protocol["metrics"].values():
            summary |= {"mean": None, "sd": None, "n": 0, "n_diverged": 3, "interval_95": None}
    assert headline(compare([cell])).result == "Every run of Full precision diverged."


def test_both_protocols_have_their_own(cells):
    evidence = compare(cells)
    assert headline(evidence, "best") != headline(evidence, "last")
