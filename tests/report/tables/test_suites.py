"""Tables of suites: their content, their marks, and what never enters an average."""

import copy
import json
import re

import pytest

from report.evidence.comparison import compare
from report.evidence.points import AXES, cloud
from report.evidence.statistics import holm
from report.page.headline import headline
from report.page.page import render
from report.tables.suites import deviation, tables
from tests.fixtures import cells as fixture
from tests.fixtures.cells import cell_at

METHODS = ("fp32", "rtn_2bit", "twn_2bit", "lat_2bit", "tws_1bit", "tws_1bit_a4")
TASKS = ("mrpc", "rte", "wnli", "squad")
OTHER = "0" * 64


@pytest.fixture(scope="module")
def cells():
    return fixture.board(METHODS, TASKS, seeds=(1, 2, 3), rows=200)


@pytest.fixture
def changed(cells):
    return copy.deepcopy(cells)


def rows_of(cells, name="glue", protocol="last"):
    table = next(table for table in tables(compare(cells)) if (table.name, table.protocol) == (name, protocol))
    return table, {row.method: row for row in table.rows}


def set_mean(cells, method, task, mean, **more):
    measured = cell_at(cells, method, task)["measured"]
    measured["protocols"]["last"]["metrics"][measured["metric"]] |= {"mean": mean, **more}


# Content


def test_rows_say_which_scores_are_with_augmentation(changed):
    note = "‡ trained with data augmentation, the others without"
    table, rows = rows_of(changed)
    assert note not in table.notes and not any(entry.augmented for row in rows.values() for entry in row.entries)
    cell_at(changed, "twn_2bit", "rte")["ran_on"]["dataset"]["augmentation"] = fixture.AUGMENTED
    table, rows = rows_of(changed)
    with_augmentation = [(method, entry.task) for method, row in rows.items() for entry in row.entries if "‡" in entry.marks]
    assert with_augmentation == [("twn_2bit", "rte")] and note in table.notes
    record = next(record for record in table.records() if record["method"] == "twn_2bit")
    assert (record["rte note"], record["mrpc note"]) == ("data augmentation", None)
    text = render(compare(changed))
    assert "up to 20 copies of each text, 90,000 training rows in all, substitutes by masked-word head" in text


def test_averages_are_over_equal_sets_of_averaged_tasks(changed):
    for task, mean in (("mrpc", 80.0), ("rte", 61.0), ("wnli", 1.0)):
        set_mean(changed, "lat_2bit", task, mean)
    table, rows = rows_of(changed)
    assert rows["lat_2bit"].average.value == 70.5
    assert "the average leaves out WNLI" in table.notes
    changed.remove(cell_at(changed, "lat_2bit", "rte"))
    table, rows = rows_of(changed)
    assert rows["lat_2bit"].average.value is None and rows["lat_2bit"].average.drop is None
    assert [entry.status for entry in rows["lat_2bit"].entries] == [None, "not run", None]
    line = table.grid().rows[list(rows).index("lat_2bit")]
    assert [place.text for place in line][-2:] == ["not run on RTE", "none"]


def test_tasks_that_no_suite_names_have_a_table_and_enter_no_average(changed):
    before = rows_of(changed)[1]["lat_2bit"].average.value
    own = copy.deepcopy([cell for cell in changed if cell["request"]["task"] == "rte"])
    for cell in own:
        cell["request"]["task"] = "mine"
        cell["about"]["task"] = {"title": "My task", "suite": None, "averaged": False, "kind": "classification"}
    table, rows = rows_of(changed + own, "other")
    assert table.title == "Other tasks" and table.tasks == {"mine": "My task"} and not table.with_average
    assert rows["lat_2bit"].average.value is None
    assert rows["lat_2bit"].entries[0].mean == rows_of(changed)[1]["lat_2bit"].entries[1].mean
    assert rows_of(changed + own)[1]["lat_2bit"].average.value == before


def test_a_new_suite_is_a_table_of_its_own(changed):
    for cell in changed:
        if cell["request"]["task"] in ("rte", "wnli"):
            cell["about"]["task"] |= {"suite": "Nine & Co.", "averaged": True}
    table, rows = rows_of(changed, "nine-co")
    assert table.title == "Nine & Co." and list(table.tasks) == ["rte", "wnli"]
    means = [entry.mean for entry in rows["fp32"].entries]
    assert rows["fp32"].average.value == pytest.approx(sum(means) / 2)


def test_bits_are_printed_as_measured(changed):
    for number, cell in enumerate(cell for cell in changed if cell["request"]["method"] == "twn_2bit"):
        cell["measured"]["bits"] = {"weights": 1.3 + 0.05 * number, "embeddings": 2.0, "activations": 8}
    row = rows_of(changed)[1]["twn_2bit"]
    assert (row.bits, row.budget) == ("1.4-2-8", "1.4")


def test_a_method_that_routes_tokens_counts_as_large_as_its_file(changed):
    """The parameters that a token reads are in a note and in the records; no ranking knows them."""
    for cell in changed:
        if cell["request"]["method"] == "twn_2bit":
            size = cell["measured"]["size"]
            size |= {"parameters": 109_565_184, "active_parameters": 66_987_264}
            for convention in ("paper", "counted", "file"):
                size[convention] = {"bytes": int(1.01 * size["fp32_bytes"]), "ratio": 0.99}
            set_mean(changed, "twn_2bit", cell["request"]["task"], 99.0)
    table, rows = rows_of(changed)
    note = f"{rows['twn_2bit'].title} reads 66,987,264 of its 109,565,184 parameters for a token; its sizes count all"
    assert [text for text in table.notes if "for a token" in text] == [note]
    records = {record["method"]: record for record in table.records()}
    assert (records["twn_2bit"]["parameters"], records["twn_2bit"]["active parameters"]) == (109_565_184, 66_987_264)
    assert records["fp32"]["active parameters"] == records["fp32"]["parameters"]
    assert records["twn_2bit"]["ratio"] == 0.99
    evidence = compare(changed)
    for axis in ("paper", "counted", "file"):
        assert cloud(evidence, ["rte"], AXES[axis]).points[-1].method == "twn_2bit", "the largest of all"
    opening = headline(evidence)
    assert rows["twn_2bit"].title not in opening.result + opening.context, "it is no compressed method"
    assert "not smaller than full precision" in opening.scope
    page = render(evidence)
    assert f"{rows['twn_2bit'].title} reads 66,987,264 of its 109,565,184 parameters for a token. The sizes" in page
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    sizes = {method["title"]: method["mib"] for method in json.loads(data)["methods"]}
    assert max(sizes, key=sizes.get) == rows["twn_2bit"].title, "the picker's"


def test_drops_are_from_the_teacher_or_from_the_start_of_what_was_only_rounded(changed):
    teacher = cell_at(changed, "lat_2bit", "rte")["measured"]["teacher"]["score"]
    for method in ("lat_2bit", "rtn_2bit"):
        set_mean(changed, method, "rte", teacher - 2.5)
        assert rows_of(changed)[1][method].entries[1].drop == pytest.approx(2.5)
    assert rows_of(changed)[1]["fp32"].entries[1].drop is None, "full precision has no reference"


def test_both_metrics_where_papers_give_both_and_the_deviation(cells):
    entry = rows_of(cells)[1]["fp32"].entries[0]
    assert [metric for metric, _ in entry.scores] == ["accuracy", "f1"]
    assert entry.written().startswith(f"{deviation(entry.scores[0][1])} / ")
    assert rows_of(cells, "squad")[0].metrics == {"squad": ["f1", "exact"]}


def test_both_protocols_have_tables_the_primary_first(cells):
    names = [(table.name, table.protocol) for table in tables(compare(cells))]
    assert names == [("glue", "last"), ("glue", "best"), ("squad", "last"), ("squad", "best")]


def test_a_diverged_seed_is_counted_and_its_method_never_best(changed):
    for method, mean in (("rtn_2bit", 50.0), ("twn_2bit", 60.0), ("lat_2bit", 70.0)):
        set_mean(changed, method, "rte", mean)
    rows = rows_of(changed)[1]
    assert [rows[m].entries[1].best for m in ("rtn_2bit", "twn_2bit", "lat_2bit")] == [False, False, True]
    set_mean(changed, "lat_2bit", "rte", 70.0, n=2, n_diverged=1)
    table, rows = rows_of(changed)
    entries = {method: row.entries[1] for method, row in rows.items()}
    assert entries["lat_2bit"].written().endswith("n = 2 diverged (1 of 3)")
    assert "n = " not in entries["twn_2bit"].written(), "the table's usual n is in its notes"
    assert "mean ± standard deviation over n = 3 seeds, where no other n is given" in table.notes
    assert not entries["lat_2bit"].best and entries["twn_2bit"].best
    set_mean(changed, "lat_2bit", "rte", None, n=0, n_diverged=3)
    assert rows_of(changed)[1]["lat_2bit"].entries[1].written() == "diverged (3 of 3)"


def test_best_is_within_a_bit_budget(cells):
    entries = [row.entries[1] for row in rows_of(cells)[1].values()]
    assert sum(entry.best for entry in entries if entry.method in ("rtn_2bit", "twn_2bit", "lat_2bit")) == 1
    assert sum(entry.best for entry in entries if entry.method in ("tws_1bit", "tws_1bit_a4")) == 1
    assert not entries[0].best, "alone at 32 bits"


def test_holm_is_over_all_tests_of_the_table(cells):
    evidence = compare(cells)
    table, _ = rows_of(cells)
    tests, printed = [], []
    for row in table.rows:
        for column, entry in enumerate(row.entries):
            if difference := evidence.score(row.method, entry.task).difference:
                tests.append(difference.p)
                printed.append(entry.p)
            rivals = [other.entries[column] for other in table.rows if other.budget == row.budget]
            top = next((other for other in rivals if other.best and other is not entry), None)
            if top and not entry.diverged:
                tests.append(evidence.pair(row.method, top.method, entry.task, "last").p)
                printed.append(None)
    assert len(tests) > 20
    for corrected, p in zip(holm(tests), printed, strict=True):
        assert p is None or p == pytest.approx(corrected)


# Cells that are not compared


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda cell: cell["ran_on"]["base"].update(sha256=OTHER), "another base model"),
        (lambda cell: cell["ran_on"].update(code="other"), "other code than the method's other cells"),
        (lambda cell: cell["ran_on"]["dataset"].update(fingerprint=OTHER), "other data"),
        (lambda cell: cell["ran_on"]["teacher"].update(sha256=OTHER), "another model of the teacher fp32, seed 1"),
        (lambda cell: cell["ran_on"].update(precision="bf16"), "precision bf16, not fp32"),
        (lambda cell: cell["request"].update(preset="small"), "preset small, not paper"),
        (lambda cell: cell["request"].update(primary="best"), "primary protocol best, not last"),
    ],
)
def test_an_odd_cell_is_named_and_left_out_and_the_others_are_compared(changed, change, reason):
    change(cell_at(changed, "lat_2bit", "rte"))
    table, rows = rows_of(changed)
    assert f"not compared: TernaryBERT, LAT on RTE ({reason})" in table.notes
    assert rows["lat_2bit"].average.value is None and rows["lat_2bit"].average.reason == "not comparable on RTE"
    entry = rows["lat_2bit"].entries[1]
    assert not entry.best and entry.p is None and entry.mean is not None, "shown all the same"
    assert rows["lat_2bit"].entries[0].p is not None, "its other cells are compared"
    for method in ("fp32", "twn_2bit", "tws_1bit"):
        assert rows[method].average.value is not None
    assert rows["twn_2bit"].entries[1].p is not None
