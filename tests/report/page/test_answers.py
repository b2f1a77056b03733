"""Answers to look at on the page: written numbers, hostile texts, cuts, equal bytes and few bytes."""

import re

import numpy as np
import pytest

from report.evidence.board import Board
from report.evidence.comparison import compare
from report.evidence.outcomes import Outcomes, to_json
from report.evidence.texts import RowTexts
from report.page.answers import LONGEST, answers_view, cut
from report.page.page import render
from tests.fixtures import cells as fixture
from tests.fixtures.cells import HOSTILE


def cells_of(task: str, kind: str, references, full, own) -> list[dict]:
    cells = fixture.board(("fp32", "rtn_2bit"), (task,), seeds=(1,), rows=20)
    for cell, predictions in zip(cells, (full, own), strict=True):
        truths = None if references is None else np.asarray(references)
        seeds = {1: np.asarray(predictions)}
        cell["measured"]["outcomes"] = to_json(Outcomes(kind, "key", truths, {"last": seeds, "best": seeds}))
    return cells


def view(cells: list[dict], texts=None) -> dict:
    return answers_view(Board(cells), cells[1], texts)


class Invented:
    """Texts of every row that is asked for."""

    def __init__(self, **texts):
        self.texts = RowTexts(**texts)

    def of(self, cell, reference, protocol, seed, rows):
        return dict.fromkeys(rows, self.texts)


def test_rows_with_the_same_answers_share_a_line():
    cells = cells_of("mnli", "labels", [0, 1, 2, 0, 0], [0, 1, 2, 0, 1], [1, 0, 2, 1, 2])
    cells[1]["about"]["task"]["labels"] = ["entailment", "neither_of_them", "contradiction"]
    found = view(cells)
    assert found["statements"] == [
        "Differs from full precision on 4 of 5 rows: 0 gained, 3 lost, 1 wrong in both (seed 1, last).",
        "Row numbers start at 0.",
    ]
    assert found["heads"] == ["True answer", "Full precision"]
    assert found["lines"] == [
        {"answers": ["entailment", "entailment ✓", "neither of them"], "rows": "0, 3"},
        {"answers": ["neither of them", "neither of them ✓", "entailment"], "rows": "1"},
        {"answers": ["entailment", "neither of them", "contradiction"], "rows": "4"},
    ]


def test_labels_without_names_are_numbered():
    assert view(cells_of("rte", "labels", [0, 1], [0, 1], [1, 1]))["lines"] == [
        {"answers": ["label 0", "label 0 ✓", "label 1"], "rows": "0"}
    ]


def test_values_and_scores_are_written_as_elsewhere():
    found = view(cells_of("stsb", "values", [2.5, 3.0], [2.25, 3.0], [-1.0, 3.0]))
    assert found["statements"][0] == (
        "Differs from full precision on 1 of 2 rows: 0 closer to the true value, 1 farther from it (seed 1, last)."
    )
    assert found["lines"] == [{"answers": ["2.50", "2.25", "−1.00"], "rows": "0"}]
    found = view(cells_of("squad", "scores", None, [1.0, 1.0, 0.5], [0.0, 0.0, 0.5]))
    assert found["statements"][0] == (
        "Scores differently from full precision on 2 of 3 rows: 0 higher, 2 lower (seed 1, last)."
    )
    assert (found["heads"], found["lines"]) == (
        ["Full precision"],
        [{"answers": ["F1\N{NO-BREAK SPACE}100.0", "F1\N{NO-BREAK SPACE}0.0"], "rows": "0, 1"}],
    )


def test_the_rule_of_the_choice_is_stated_where_rows_are_left_out():
    many = np.zeros(100, np.uint8)
    found = view(cells_of("rte", "labels", many, many, 1 - many))
    assert "Shown: 20 of them, spread evenly" in found["statements"][1]
    assert len(found["lines"]) == 1 and found["lines"][0]["rows"].startswith("0, 5, 10,")


def test_equal_answers_are_one_sentence():
    found = view(cells_of("rte", "labels", [0, 1], [0, 1], [0, 1]))
    assert found["statements"] == ["Answers like full precision on all 2 rows (seed 1, last)."] and found["lines"] == []


def test_a_span_has_answers_with_their_scores():
    cells = cells_of("squad2", "scores", None, [1.0, 0.0], [0.0, 0.0])
    shown = Invented(columns={"question": "Who?", "context": "A nurse."}, truths=[], reference="", answer="a nurse")
    found = view(cells, shown)
    assert found["heads"] == ["True answer", "Full precision"]
    assert found["lines"] == [
        {
            "answers": ["(no answer)", "(no answer) (F1\N{NO-BREAK SPACE}100.0)", "a nurse (F1\N{NO-BREAK SPACE}0.0)"],
            "rows": "0",
            "texts": {"question": "Who?", "context": "A nurse."},
        }
    ]


def test_a_kind_that_only_scores_answers_has_no_true_answer_even_with_texts():
    cells = cells_of("squad", "scores", None, [1.0, 0.0], [0.0, 0.0])
    (line,) = view(cells, Invented(columns={"text": "A nurse."}))["lines"]
    assert line["answers"] == ["", "F1\N{NO-BREAK SPACE}100.0", "F1\N{NO-BREAK SPACE}0.0"]


def test_long_texts_are_cut_around_the_answer():
    text = "word " * 200 + "nurse" + " word" * 200
    assert cut("a  short\ntext") == "a short text"
    assert cut(text).startswith("word word") and cut(text).endswith("…")
    piece = cut(text, "nurse")
    assert piece.startswith("…") and piece.endswith("…") and "nurse" in piece
    assert len(piece) <= LONGEST + 2
    assert cut("word " * 200 + "nurse", "nurse").endswith("nurse")


def test_hostile_texts_stay_text():
    assert cut("a\x00b\u202ec") == r"a\u0000b\u202ec"
    cells = cells_of("rte", "labels", [0, 1], [0, 1], [1, 1])
    cells[1]["about"]["task"]["labels"] = [HOSTILE, "</table>"]
    page = render(compare(cells), texts=Invented(columns={"<i>": HOSTILE, "b": "</details>\u202e"}))
    plain = render(compare(cells))
    assert "&lt;img src=x onerror" in page and "\u202e" not in page
    for text in (page, plain):
        assert "<img src=x" not in text and "&lt;/table&gt;" in text
        assert text.count("</details>") == text.count("<details")


def test_pages_are_equal_and_show_no_texts_unless_they_are_given():
    cells = cells_of("rte", "labels", [0, 1], [0, 1], [1, 1])
    texts = Invented(columns={"sentence1": "a nurse", "sentence2": "a pear"})
    assert render(compare(cells), texts=texts) == render(compare(cells), texts=texts)
    assert "Texts are as the model reads them." in render(compare(cells), texts=texts)
    assert "a nurse" in render(compare(cells), texts=texts) and "a nurse" not in render(compare(cells))


@pytest.mark.parametrize(("task", "most"), [("rte", 1500), ("mnli", 2500), ("stsb", 2500), ("squad", 2000)])
def test_a_cell_without_texts_adds_few_bytes(task, most):
    """Two hundred cells are to add less than 300 kB."""
    cells = fixture.board(("fp32", "rtn_4bit"), (task,), seeds=(1,), rows=400)
    (section,) = re.findall(r"<h4>Answers to look at</h4>.*?</table>", render(compare(cells)), re.S)
    assert len(section.encode()) < most
