"""Published figures: how they are joined with ours, and verdicts that are no stronger than the evidence."""

import copy
import csv
import io
import json
import math
import re

import pytest

from report.evidence.comparison import compare
from report.page.page import render
from report.tables.exports import files_of
from report.tables.papers import paper_table
from report.tables.published import figures, names, published
from report.tables.references import bibtex
from report.tables.reproduction import Spread, spread
from tests.fixtures import cells as fixture
from tests.fixtures.cells import HOSTILE, cell_at
from workflow import catalogue

METHODS = ("fp32", "lat_2bit", "tws_1bit_a4")
KEY = ("paper", "method", "model", "bits_w", "bits_e", "bits_a", "task", "metric", "split", "data_augmentation")
COLA = ("tws_1bit_a4", "cola", "matthews")  # published: 44.4


@pytest.fixture(scope="module")
def board():
    return fixture.board(METHODS, ("cola", "mnli", "rte"), seeds=(1, 2, 3), rows=200)


@pytest.fixture
def cells(board):
    return copy.deepcopy(board)


def judged(cells, failed=None):
    return {(pair.method, pair.task, pair.metric): pair for pair in paper_table(compare(cells, failed)).pairs}


def summary(cells, method, task, metric):
    return cell_at(cells, method, task)["measured"]["protocols"]["best"]["metrics"][metric]


def spreads_of_cola(cells, *deviations):
    """Give the methods of CoLA these deviations over three seeds."""
    for method, deviation in zip(METHODS, deviations, strict=True):
        place = summary(cells, method, "cola", "matthews")
        place |= {"mean": 50.0, "sd": deviation, "n": 1 if deviation is None else 3}


# Figures and their sources


def test_published_figures_join_by_method_task_and_metric():
    assert figures("lat_2bit")["mnli", "accuracy"].value == 83.5
    assert figures("bit_1bit_a4")["mnli", "accuracy"].drop == pytest.approx(1.3)  # from 84.9 of the same paper
    assert figures("tws_1bit")["rte", "accuracy"].value == 72.2 and not figures("tws_1bit")["rte", "accuracy"].augmented
    assert figures("lat_2bit")["rte", "accuracy"].augmented, "the paper gives no other"
    assert figures("lada_10x")["mnli", "accuracy"].test_set
    for method in names()["methods"]:
        assert figures(method), method
    assert {row["confidence"] for row in published()} == {"high", "medium"}
    assert all(row["source_table"] for row in published())
    read, recalled = ({row["source_table"] for row in published() if row["confidence"] == one} for one in ("high", "medium"))
    assert not read & recalled, "a source is either read or recalled"
    assert {task for task, _ in names()["metrics"].values()} <= set(fixture.TASKS)
    assert set(names()["methods"]) <= {*catalogue.load({"preset": "demo"}).methods}
    assert {paper for paper, *_ in names()["methods"].values()} <= set(names()["papers"])


def test_every_figure_is_there_once_and_in_the_same_form():
    rows = published()
    assert len(rows) == 810 and len({tuple(row[name] for name in KEY) for row in rows}) == len(rows)
    assert list(rows[0]) == [*KEY[:8], "value", "size_mb", "split", "data_augmentation", "source_table", "confidence"]
    for row in rows:
        assert 0 <= float(row["value"]) < 100 and row["split"] in ("dev", "test")
        assert row["data_augmentation"] in ("y", "n", "mixed")
        assert None not in row.values() and all(text == text.strip() for text in row.values())


def test_no_figure_from_memory_counts_as_read():
    recalled = [row for row in published() if "memory" in row["source_table"]]
    assert len(recalled) == sum(row["confidence"] == "medium" for row in published()) == 167
    assert all(row["confidence"] == "medium" for row in recalled)


@pytest.mark.parametrize(
    ("method", "place", "value", "drop"),
    [
        ("moebert", ("rte", "accuracy"), 74.0, -10.5),  # tables 1 and 2: full precision 63.5
        ("obert_90", ("squad", "f1"), 88.31, 0.23),  # 88.54
        ("obert_90", ("mnli", "accuracy"), 83.79, 0.75),  # 84.54, its teacher's
        ("aqbert_30mb", ("sst2", "accuracy"), 92.7, 0.8),
        ("qbert_mixed", ("squad", "f1"), 87.49, 1.2),
        ("qbert_3bit", ("squad", "f1"), 87.66, None),  # the bits of weights tell the rows of one name apart
        ("bit_1bit", ("squad", "f1"), 74.9, 14.8),
        ("bit_1bit_a4", ("cola", "matthews"), 42.0, 17.7),
        ("xtc_1bit_6l", ("mnli", "accuracy"), 82.9, 2.0),
        ("q8bert", ("sst2", "accuracy"), 92.24, None),
    ],
)
def test_new_papers_join_by_the_names_of_their_tables(method, place, value, drop):
    found = figures(method)[place]
    assert found.value == value
    assert found.drop is not None and (drop is None or found.drop == pytest.approx(drop))


def test_a_figure_that_was_read_has_no_drop_from_one_that_was_not():
    squad = figures("twn_2bit")["squad", "f1"]
    assert squad.verified and squad.drop is None, "TernaryBERT's full precision was not read"
    assert figures("twn_2bit")["squad2", "f1"].drop == pytest.approx(1.3), "both are from memory, and the drop with them"


# Verdicts


def test_the_deviation_is_pooled_over_the_methods_of_a_task(cells):
    spreads_of_cola(cells, 1.0, 2.0, None)
    # (2 * 1 + 2 * 4) / 4 = 2.5; one seed adds nothing
    assert spread(compare(cells), "cola", "matthews") == Spread(pytest.approx(math.sqrt(2.5)), 4)
    cell_at(cells, "lat_2bit", "cola")["ran_on"]["dataset"]["partial"] = True
    assert spread(compare(cells), "cola", "matthews") == Spread(pytest.approx(1.0), 2), "partial data are not comparable"


def test_seeds_that_all_agree_make_no_task_sure(cells):
    spreads_of_cola(cells, 0.0, 1.0, 0.0)
    assert spread(compare(cells), "cola", "matthews") == Spread(pytest.approx(1.0), 2)
    spreads_of_cola(cells, 0.0, 0.0, 0.0)
    assert spread(compare(cells), "cola", "matthews") == Spread(0.0, math.inf)
    spreads_of_cola(cells, None, None, None)
    assert spread(compare(cells), "cola", "matthews") is None


def test_an_interval_is_never_narrower_than_one_example():
    # t(0.975, 4) = 2.7764, times 1.5 and sqrt(1 + 1/3), and 0.05 of rounding
    assert Spread(1.5, 4).half_width(3, 1043) == pytest.approx(4.8589, abs=1e-4)
    assert Spread(0.0, math.inf).half_width(3, 277) == pytest.approx(100 / 277 + 0.05)
    assert Spread(0.1, 4).half_width(1, 200) == pytest.approx(0.55), "0.3926 is less than half a point"


def test_verdicts_at_their_borders(cells):
    # two of three methods with deviation 0.4: t(0.975, 4) * 0.4 * sqrt(4/3) + 0.05 = 1.3323
    spreads_of_cola(cells, 0.4, 0.4, None)
    place = summary(cells, *COLA)
    for mean, n, verdict in (
        (44.4 + 1.33, 3, "reproduced"),
        (44.4 - 1.33, 3, "reproduced"),
        (44.4 + 1.34, 3, "above"),
        (44.4 - 1.34, 3, "below"),
        (44.4 + 1.6, 1, "reproduced"),  # one seed: sqrt(2) for sqrt(4/3), 1.6206
        (44.4 + 1.63, 1, "above"),
    ):
        place |= {"mean": mean, "sd": 0.0 if n > 1 else None, "n": n}
        pair = judged(cells)[COLA]
        assert (pair.verdict, pair.reason) == (verdict, ""), (mean, n)
    assert pair.half_width == pytest.approx(1.6206, abs=1e-4)


def test_a_wide_interval_reproduces_nothing_but_still_excludes(cells):
    spreads_of_cola(cells, 1.0, 1.0, 1.0)  # t(0.975, 6) = 2.4469, times sqrt(4/3), and 0.05: 2.8755
    place = summary(cells, *COLA)
    place["mean"] = 44.4
    pair = judged(cells)[COLA]
    assert (pair.verdict, pair.reason) == ("undecided", "seeds of this task vary by ±2.9 points")
    place["mean"] = 44.4 - 2.9
    assert judged(cells)[COLA].verdict == "below"


def test_one_seed_everywhere_decides_nothing(cells):
    spreads_of_cola(cells, None, None, None)
    pair = judged(cells)[COLA]
    assert pair.verdict == "undecided" and "no method has two seeds" in pair.reason


def test_figures_that_were_not_read_get_no_verdict(cells):
    pair = judged(cells)["lat_2bit", "cola", "matthews"]
    assert (pair.verdict, pair.reason) == ("unverified", "recalled, not read in a source")
    assert pair.difference is not None and not pair.decided and pair.half_width is None


def test_runs_that_are_missing_failed_or_diverged(cells):
    place = summary(cells, *COLA)
    place |= {"n": 0, "mean": None, "sd": None, "n_diverged": 3}
    failed = {("tws_1bit_a4", "sst2"): "no memory"}
    pairs = judged(cells, failed)
    assert pairs[COLA].verdict == "diverged"
    assert pairs["tws_1bit_a4", "sst2", "accuracy"].verdict == "failed"
    assert pairs["tws_1bit_a4", "qnli", "accuracy"].verdict == "not run"
    assert "bwn_1bit" not in {pair.method for pair in pairs.values()}, "a method that is not on the board"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda on: on.update(data="generated"), "our data are generated"),
        (lambda on: on["base"].update(id="prajjwal1/bert-tiny"), "our base model is another one"),
        (lambda on: on["base"].update(id="nlpaueb/legal-bert-base-uncased"), "our base model is another one"),
        (lambda on: on["dataset"].update(partial=True), "our data are partial"),
    ],
)
def test_one_sentence_where_nothing_can_be_compared(cells, change, reason):
    for cell in cells:
        change(cell["ran_on"])
    evidence = compare(cells)
    table = paper_table(evidence)
    assert {pair.reason for pair in table.pairs if pair.figure.verified and pair.ours} == {reason}
    assert table.nothing.startswith("No published figure can be compared with ours: ") and reason in table.nothing
    page = render(evidence)
    section = page.partition('<h2 id="papers">')[2].partition("</section>")[0]
    assert reason in section and 'against-papers"' not in section and "not comparable" not in section


def test_an_odd_cell_is_compared_with_no_paper(cells):
    cell_at(cells, *COLA[:2])["ran_on"]["dataset"]["fingerprint"] = "f" * 64
    assert judged(cells)[COLA].reason == "ours was not made like the rest of this report"


def test_figures_with_augmentation_are_compared_with_augmented_runs_alone():
    plain, augmented = (figures("bit_1bit", augmented)["rte", "accuracy"] for augmented in (False, True))
    assert (plain.augmented, augmented.augmented) == (False, True) and plain.value != augmented.value
    fixture_cells = fixture.board(("fp32", "tws_1bit"), ("rte",), seeds=(1, 2, 3), rows=100)
    for cell in fixture_cells:
        cell["request"]["method"] = cell["request"]["method"].replace("tws_1bit", "bit_1bit")
    cell_at(fixture_cells, "bit_1bit", "rte")["ran_on"]["dataset"]["augmentation"] = fixture.AUGMENTED
    pair = judged(fixture_cells)["bit_1bit", "rte", "accuracy"]
    assert pair.figure == augmented and pair.decided
    cell_at(fixture_cells, "fp32", "rte")["ran_on"]["dataset"]["augmentation"] = fixture.AUGMENTED
    assert judged(fixture_cells)["fp32", "rte", "accuracy"].reason == "ours is with augmented data"


def test_losses_are_compared_each_from_its_own_full_precision(cells):
    evidence = compare(cells)
    pair = next(pair for pair in paper_table(evidence).pairs if (pair.method, pair.task, pair.metric) == COLA)
    assert pair.our_drop == evidence.loss("tws_1bit_a4", "cola", "best").value
    assert pair.figure.drop == pytest.approx(15.3)  # 59.7 - 44.4
    assert "Lost from full precision: ours " in pair.details and pair.details.endswith("published 15.3.")


# Layout


def test_the_matrix_has_a_row_for_each_method_and_a_column_for_each_metric(cells):
    table = paper_table(compare(cells))
    assert [row.method for row in table.rows] == ["fp32", "lat_2bit", "tws_1bit_a4"]
    assert [(column.task, column.metric) for column in table.columns] == [
        ("cola", "matthews"),
        ("mnli", "accuracy"),
        ("mnli", "accuracy_mm"),
        ("rte", "accuracy"),
    ]
    placed = {row.method: [pair.metric if pair else None for pair in row.pairs] for row in table.rows}
    assert placed["tws_1bit_a4"] == ["matthews", "accuracy", "accuracy_mm", "accuracy"]
    assert placed["fp32"] == ["matthews", None, None, "accuracy"], "Q8BERT gives no MNLI"
    assert table.rows[2].citation == "Bai et al. 2021, arXiv 2012.15701"


def test_files_hold_every_figure_and_the_matrix_those_that_were_read(cells):
    spreads_of_cola(cells, 0.4, 0.4, 0.4)
    summary(cells, *COLA)["mean"] = 44.5
    cells = [cell for cell in cells if (cell["request"]["method"], cell["request"]["task"]) != ("tws_1bit_a4", "rte")]
    table = paper_table(compare(cells))
    grid = table.grid()
    assert (grid.header[:3], grid.under[:3]) == (["Method", "Paper", "CoLA"], ["", "", "Matthews"])
    rows = {row[0].text: row[1:] for row in grid.rows}
    paper, cola, *_, rte = rows["BinaryBERT, 1-1-4"]
    assert paper.paper == "Bai et al. 2021, arXiv 2012.15701" and rte.text == "--"
    assert (cola.text, cola.marks) == ("44.5 / 44.4", "≈")
    assert rows["TernaryBERT, LAT"][1].text == "", "CoLA is from memory"
    files = files_of(table)
    records = list(csv.DictReader(io.StringIO(files["csv"])))
    assert all(column == column.lower() and " " not in column for column in records[0])
    found = {(row["method"], row["task"], row["metric"]): row for row in records}
    assert (found[COLA]["verdict"], found[COLA]["verified"]) == ("reproduced", "True")
    assert found["lat_2bit", "cola", "matthews"]["verdict"] == "unverified"
    assert found["lat_2bit", "cola", "matthews"]["confidence"] == "medium"
    assert all(row["source"] for row in records)
    assert "44.5 / 44.4 ≈" in files["md"] and r"BinaryBERT~\cite{bai2021binarybert}" in files["tex"]
    assert len(json.loads(files["json"])["rows"]) == len(records) == len(table.pairs)


def test_the_page_hides_what_was_not_read_and_keeps_texts_as_texts(cells):
    for cell in cells:
        if cell["request"]["method"] == "tws_1bit_a4":
            cell["about"]["method"]["title"] = HOSTILE
    page = render(compare(cells))
    section = page[page.index('id="papers"') : page.index('id="tasks"')]
    assert HOSTILE not in section and "&lt;img src=x" in section
    assert 'id="show-unverified" name="unverified" data-state' in section and "checked" not in section
    assert ":root:not(:has(#show-unverified:checked)) .unverified { display: none; }" in page
    assert '<a href="#tws_1bit_a4_cola">' in section
    recalled = [line for line in section.splitlines() if "(memory" in line]
    assert recalled and all(line.startswith('<li class="unverified"') for line in recalled)


def test_the_references_hold_the_papers_of_the_figures(cells):
    evidence = compare(cells)
    cited = set(re.findall(r"\\cite{([^}]+)}", files_of(paper_table(evidence))["tex"]))
    assert cited == {"zafrir2019q8bert", "zhang2020ternarybert", "bai2021binarybert"}
    assert all(f"{{{key}," in bibtex(evidence.board) for key in cited)
