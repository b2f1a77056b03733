"""Published figures: how they are joined with ours, and verdicts that are no stronger than the evidence."""

import copy

import pytest

from report.evidence.comparison import compare
from report.tables.published import figures, names, paper_table, published
from tests.fixtures import cells as fixture
from tests.fixtures.cells import cell_at
from workflow import catalogue

METHODS = ("fp32", "lat_2bit", "tws_1bit")
KEY = ("paper", "method", "model", "bits_w", "bits_e", "bits_a", "task", "metric", "split", "data_augmentation")


@pytest.fixture(scope="module")
def cells():
    return fixture.board(METHODS, ("mrpc", "rte"), seeds=(1, 2, 3), rows=200)


def test_published_figures_join_by_method_task_and_metric():
    assert figures("lat_2bit")["mnli", "accuracy"].value == 83.5
    assert figures("lat_2bit")["mnli", "accuracy"].drop == pytest.approx(1.0)  # from 84.5 of the same paper
    assert figures("tws_1bit")["rte", "accuracy"].value == 72.2 and not figures("tws_1bit")["rte", "accuracy"].augmented
    assert figures("lat_2bit")["rte", "accuracy"].augmented, "the paper gives no other"
    assert figures("lada_10x")["mnli", "accuracy"].test_set
    for method in names()["methods"]:
        assert figures(method), method
    assert {row["confidence"] for row in published()} == {"high", "medium"}
    assert all(row["source_table"] for row in published())
    assert {task for task, _ in names()["metrics"].values()} <= set(fixture.TASKS)
    assert set(names()["methods"]) <= {*catalogue.load({"preset": "demo"}).methods}


def test_every_figure_is_there_once_and_in_the_same_form():
    rows = published()
    assert len(rows) == 810 and len({tuple(row[name] for name in KEY) for row in rows}) == len(rows)
    assert list(rows[0]) == [*KEY[:8], "value", "size_mb", "split", "data_augmentation", "source_table", "confidence"]
    for row in rows:
        assert 0 <= float(row["value"]) < 100 and row["split"] in ("dev", "test")
        assert row["data_augmentation"] in ("y", "n", "mixed")
        assert None not in row.values() and all(text == text.strip() for text in row.values())


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
    assert value is None or found.value == value
    assert found.drop is not None and (drop is None or found.drop == pytest.approx(drop))


def test_papers_of_which_nothing_was_run_are_left_out(cells):
    assert {pair.paper for pair in paper_table(compare(cells)).pairs} == {"TernaryBERT", "BinaryBERT"}


def test_figures_with_augmentation_are_compared_with_augmented_runs_alone(cells):
    plain, augmented = (figures("tws_1bit", augmented)["rte", "accuracy"] for augmented in (False, True))
    assert (plain.augmented, augmented.augmented) == (False, True) and plain.value != augmented.value
    cells = copy.deepcopy(cells)
    for task in ("rte", "mrpc"):
        cell_at(cells, "tws_1bit", task)["ran_on"]["dataset"]["augmentation"] = fixture.AUGMENTED
    pairs = {(pair.method, pair.task, pair.metric): pair for pair in paper_table(compare(cells)).pairs}
    assert pairs["tws_1bit", "rte", "accuracy"].figure == augmented
    assert pairs["tws_1bit", "rte", "accuracy"].verdict != "not comparable"
    cell_at(cells, "fp32", "rte")["ran_on"]["dataset"]["augmentation"] = fixture.AUGMENTED
    assert verdicts(cells)["fp32", "rte", "accuracy"] == ("not comparable", "ours is with augmented data")


def verdicts(cells):
    return {(pair.method, pair.task, pair.metric): (pair.verdict, pair.reason) for pair in paper_table(compare(cells)).pairs}


def test_verdicts_are_no_stronger_than_the_seeds(cells):
    cells = copy.deepcopy(cells)
    # three seeds of deviation 1: t(0.975, 2) = 4.3027, times sqrt(1 + 1/3) = 4.968, and 0.05 of rounding
    place = cell_at(cells, "tws_1bit", "rte")["measured"]["protocols"]["best"]["metrics"]["accuracy"]
    for mean, verdict in ((72.2 + 5.01, "reproduced"), (72.2 + 5.03, "above"), (72.2 - 5.03, "below")):
        place |= {"mean": mean, "sd": 1.0, "n": 3}
        assert verdicts(cells)["tws_1bit", "rte", "accuracy"] == (verdict, "")
    place |= {"n": 1, "sd": None}
    assert verdicts(cells)["tws_1bit", "rte", "accuracy"] == ("undecided", "one seed cannot tell")
    place |= {"n": 3, "sd": 0.0}
    assert verdicts(cells)["tws_1bit", "rte", "accuracy"] == ("undecided", "seeds with equal scores cannot tell")
    place |= {"n": 0, "mean": None, "n_diverged": 3}
    assert verdicts(cells)["tws_1bit", "rte", "accuracy"][0] == "diverged"
    assert verdicts(cells)["bwn_1bit", "rte", "accuracy"] == ("not run", "")
    augmented = ("not comparable", "the paper's figure is with augmented data")
    assert verdicts(cells)["lat_2bit", "rte", "accuracy"] == augmented


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda on: on.update(data="generated"), "generated data"),
        (lambda on: on["base"].update(id="prajjwal1/bert-tiny"), "other base model"),
        (lambda on: on["dataset"].update(partial=True), "partial data"),
    ],
)
def test_other_conditions_are_not_compared(cells, change, reason):
    cells = copy.deepcopy(cells)
    for cell in cells:
        change(cell["ran_on"])
    assert verdicts(cells)["tws_1bit", "rte", "accuracy"] == ("not comparable", reason)


def test_unsure_figures_carry_a_mark(cells):
    grid = paper_table(compare(cells)).grid()
    assert any(place.text.endswith("?") for row in grid.rows for place in row)
    assert any(note.startswith("? medium confidence") for note in grid.notes)


def test_a_task_without_a_cell_has_the_papers_name(cells):
    titles = {(pair.task, pair.task_title) for pair in paper_table(compare(cells)).pairs}
    assert {title for task, title in titles if task in ("rte", "mnli")} == {"RTE", "MNLI-m", "MNLI-mm"}
