"""Answers to look at: which rows are chosen, how changes are counted, and what cannot be compared."""

import copy

import numpy as np
import pytest

from report.evidence.answers import answers, most
from report.evidence.board import Board
from report.evidence.outcomes import Outcomes, to_json
from tests.fixtures import cells as fixture
from tests.fixtures.cells import cell_at


def board(task: str, kind: str, references, full, own, seeds=((1,), (1,)), keys=("a", "a")) -> Board:
    """Return a board of full precision and one method with these predictions, the same for every seed and protocol."""
    cells = fixture.board(("fp32", "rtn_2bit"), (task,), seeds=(1, 2, 3), rows=20)
    for cell, predictions, of_cell, key in zip(cells, (full, own), seeds, keys, strict=True):
        alive = {seed: np.asarray(predictions) for seed in of_cell}
        truths = None if references is None else np.asarray(references)
        packed = to_json(Outcomes(kind, key, truths, {name: alive for name in ("last", "best")}))
        cell["measured"]["outcomes"] = packed
        cell["measured"]["seeds"] = [seed for seed in cell["measured"]["seeds"] if seed["seed"] in of_cell]
    return Board(cells)


def test_labels_are_counted_as_gained_and_lost_and_those_that_one_gets_right_come_first():
    #          gained lost same both-wrong gained
    found = answers(board("mnli", "labels", [0, 1, 2, 0, 1], [1, 1, 2, 1, 0], [0, 2, 2, 2, 1]), "rtn_2bit", "mnli")
    assert (found.kind, found.examples, found.differing, found.gained, found.lost) == ("labels", 5, 4, 2, 1)
    assert [(row.number, row.truth, row.reference, row.answer) for row in found.rows] == [
        *((0, 0, 1, 0), (1, 1, 1, 2), (4, 1, 0, 1)),
        (3, 0, 1, 2),
    ]


def test_labels_are_spread_evenly_over_the_rows_that_differ():
    own = np.arange(400) % 2  # right on every even row, where full precision always is
    found = answers(board("rte", "labels", np.zeros(400), np.zeros(400), own), "rtn_2bit", "rte")
    rows = [row.number for row in found.rows]
    assert (found.differing, found.gained, found.lost) == (200, 0, 200)
    assert len(rows) == 20 and (rows[0], rows[-1]) == (1, 399)
    assert set(np.diff(rows)) == {20, 22}


def test_values_are_those_whose_errors_differ_most():
    truths = np.zeros(30)
    full, own = np.full(30, 0.5), np.full(30, 0.5)
    own[[4, 9, 11]] = -2.5, 0.25, 0.0  # by 2.0 worse, by 0.25 better, by 0.5 better
    own[20] = -0.5  # another answer, as far off
    found = answers(board("stsb", "values", truths, full, own), "rtn_2bit", "stsb")
    assert (found.differing, found.gained, found.lost) == (4, 2, 1)
    assert [row.number for row in found.rows] == [4, 11, 9, 20]
    assert found.rows[0].answer == -2.5


def test_scores_of_spans_have_no_true_answer():
    found = answers(board("squad", "scores", None, [1.0, 0.0, 0.5], [0.0, 0.25, 0.5]), "rtn_2bit", "squad")
    assert (found.differing, found.gained, found.lost) == (2, 1, 1)
    assert [(row.number, row.truth, row.reference, row.answer) for row in found.rows] == [
        (0, None, 1.0, 0.0),
        (1, None, 0.0, 0.25),
    ]


def test_the_largest_are_taken_and_of_equal_ones_an_even_spread():
    assert most(np.array([1, 3, 2, 3]), 10).tolist() == [1, 3, 2, 0]
    weights = np.ones(100)
    weights[50] = 2
    assert most(weights, 4).tolist() == [50, 0, 50, 99] or most(weights, 4).tolist()[0] == 50
    assert len(set(most(weights, 4).tolist())) == 4
    assert most(np.array([]), 3).tolist() == []


def test_the_first_seed_of_both_is_compared():
    labels = [0, 1]
    found = answers(board("rte", "labels", labels, labels, [1, 1], seeds=((2, 3), (1, 3))), "rtn_2bit", "rte")
    assert (found.seed, found.protocol, found.differing) == (3, "last", 1)


def test_what_cannot_be_compared_has_no_answers():
    labels = [0, 1]
    known = board("rte", "labels", labels, labels, [1, 1])
    assert answers(known, "fp32", "rte") is None, "full precision itself"
    assert answers(known, "rtn_2bit", "cola") is None, "no cell"
    assert answers(board("rte", "labels", labels, labels, [1, 1], keys=("a", "b")), "rtn_2bit", "rte") is None
    assert answers(board("rte", "labels", labels, labels, [1, 1], seeds=((1,), (2,))), "rtn_2bit", "rte") is None
    cells = fixture.board(("fp32", "lsq_4bit", "rtn_2bit"), ("rte",), seeds=(1,), rows=20)
    for change in (_without_predictions, _with_other_data):
        changed = copy.deepcopy(cells)
        change(cell_at(changed, "rtn_2bit", "rte"))
        assert answers(Board(changed), "rtn_2bit", "rte") is None
        assert answers(Board(changed), "lsq_4bit", "rte") is not None


def _without_predictions(cell: dict) -> None:
    cell["measured"]["outcomes"] = None


def _with_other_data(cell: dict) -> None:
    cell["ran_on"]["dataset"]["fingerprint"] = "0" * 64


@pytest.mark.parametrize("own", [[0, 1], [0.5, 2.0]])
def test_equal_answers_leave_nothing_to_look_at(own):
    kind = "values" if isinstance(own[0], float) else "labels"
    found = answers(board("stsb" if kind == "values" else "rte", kind, own, own, own), "rtn_2bit", kind and _task(kind))
    assert (found.differing, found.rows) == (0, [])


def _task(kind: str) -> str:
    return "stsb" if kind == "values" else "rte"
