"""Tables of suites: their content, their marks, and what never enters an average."""

import copy
import json
import re
from dataclasses import replace

import pytest

from report.evidence.comparison import compare
from report.evidence.points import AXES, cloud
from report.page.headline import headline
from report.page.page import render
from report.tables.grid import Text
from report.tables.suites import tables
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
    assert (record["rte_note"], record["mrpc_note"]) == ("data augmentation", None)
    text = render(compare(changed))
    assert "up to 20 copies of each text, 90,000 training rows in all, substitutes by masked-word head" in text


def test_averages_are_over_equal_sets_of_averaged_tasks(changed):
    for task, mean in (("mrpc", 80.0), ("rte", 61.0), ("wnli", 1.0)):
        set_mean(changed, "lat_2bit", task, mean)
    table, rows = rows_of(changed)
    assert rows["lat_2bit"].average.value == 70.5
    assert "average and loss: the mean over MRPC and RTE, without WNLI (not averaged by its suite)" in table.notes
    changed.remove(cell_at(changed, "lat_2bit", "rte"))
    table, rows = rows_of(changed)
    assert rows["lat_2bit"].average.reason == "not run on RTE" and rows["lat_2bit"].average.loss is None
    assert [entry.status for entry in rows["lat_2bit"].entries] == [None, "not run", None]
    line = table.grid().rows[list(rows).index("lat_2bit")]
    assert [place.text for place in line][-4:] == ["--", "1.0", "--", "--"]


def test_the_first_table_averages_the_tasks_of_the_whole_page(changed):
    """A task without full precision has no loss, so no number that sums up may depend on it."""
    changed.remove(cell_at(changed, "fp32", "rte"))
    table, rows = rows_of(changed)
    assert table.averaged == ["mrpc"] and not table.with_average
    entries = {entry.task: entry for entry in rows["lat_2bit"].entries}
    assert rows["lat_2bit"].average.value == entries["mrpc"].mean
    assert entries["rte"].loss is None and entries["rte"].drop is not None, "its teacher is known"
    assert any("RTE (full precision has no comparable score there)" in note for note in table.notes)


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
    assert (row.facts["bits"].text, row.budget.title) == ("1.4-2-8", "1 bit")


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
    assert (records["twn_2bit"]["parameters"], records["twn_2bit"]["active_parameters"]) == (109_565_184, 66_987_264)
    assert records["fp32"]["active_parameters"] == records["fp32"]["parameters"]
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
    choices = {method["title"]: method["choices"]["primary"]["task.rte"] for method in json.loads(data)["methods"]}
    sizes = {title: choice["mib"] for title, choice in choices.items()}
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
    written = entry.written()
    accuracy, f1 = (summary for _, summary in entry.scores)
    assert (written.text, written.second) == (f"{accuracy['mean']:.1f}", f"/{f1['mean']:.1f}")
    assert written.small == f"±{accuracy['sd']:.1f}"
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
    assert entries["lat_2bit"].written().seeds == "(2/3)" and entries["lat_2bit"].diverged == "diverged (1 of 3)"
    assert "(2/3) mean over two of three runs, the others diverged" in table.grid().notes
    assert not entries["twn_2bit"].written().seeds, "the table's usual n is in its notes"
    assert "mean ± standard deviation over n = 3 seeds, where no other n is given" in table.notes
    assert not entries["lat_2bit"].best and entries["twn_2bit"].best
    set_mean(changed, "lat_2bit", "rte", None, n=0, n_diverged=3)
    assert rows_of(changed)[1]["lat_2bit"].entries[1].written() == Text("diverged")


# Budgets


def budgets_of(table):
    return {budget.title: [row.method for row in rows] for budget, rows in table.budgets}


def test_rows_stand_by_budget_from_many_bits_to_few(cells):
    table, _ = rows_of(cells)
    assert list(budgets_of(table).items()) == [
        ("Full precision", ["fp32"]),
        ("2 bits", ["rtn_2bit", "twn_2bit", "lat_2bit"]),
        ("1 bit", ["tws_1bit", "tws_1bit_a4"]),
    ]
    grid = table.grid()
    assert [(title, len(rows)) for title, rows in grid.grouped()] == [("Full precision", 1), ("2 bits", 3), ("1 bit", 2)]


def test_methods_that_keep_32_bits_compete_by_size(changed):
    for method, ratio in (("twn_2bit", 5.0), ("lat_2bit", 7.9), ("tws_1bit", 10.0)):
        for cell in changed:
            if cell["request"]["method"] == method:
                cell["measured"]["bits"] = {"weights": 32, "embeddings": 32, "activations": 32}
                for convention in ("paper", "counted", "file"):
                    cell["measured"]["size"][convention]["ratio"] = ratio
    for method, mean in (("twn_2bit", 60.0), ("lat_2bit", 61.0), ("tws_1bit", 50.0)):
        set_mean(changed, method, "rte", mean)
    table, rows = rows_of(changed)
    assert list(budgets_of(table).items())[-2:] == [
        ("32 bits, 4 to 8 times smaller", ["twn_2bit", "lat_2bit"]),
        ("32 bits, 8 to 16 times smaller", ["tws_1bit"]),
    ]
    assert [rows[method].entries[1].best for method in ("fp32", "twn_2bit", "lat_2bit", "tws_1bit")] == [
        True,
        False,
        True,
        True,
    ]


def test_ties_are_all_bold_as_they_are_shown(changed):
    for method, mean in (("rtn_2bit", 61.94), ("twn_2bit", 62.02), ("lat_2bit", 61.97)):
        set_mean(changed, method, "rte", mean)
        set_mean(changed, method, "mrpc", 80.0)
    rows = rows_of(changed)[1]
    chosen = ("rtn_2bit", "twn_2bit", "lat_2bit")
    assert [rows[method].entries[1].written().text for method in chosen] == ["61.9", "62.0", "62.0"]
    assert [rows[method].entries[1].best for method in chosen] == [False, True, True]
    assert [rows[method].entries[0].best for method in chosen] == [True, True, True]
    assert [f"{rows[method].average.value:.1f}" for method in chosen] == ["71.0", "71.0", "71.0"]
    assert [rows[method].average_best for method in chosen] == [True, True, True]


def test_a_lone_member_is_best_unless_it_diverged(changed):
    rows = rows_of(changed)[1]
    assert all(entry.best for entry in rows["fp32"].entries) and rows["fp32"].average_best
    set_mean(changed, "fp32", "rte", 68.0, n=2, n_diverged=1)
    rows = rows_of(changed)[1]
    assert [entry.best for entry in rows["fp32"].entries] == [True, False, True]
    assert rows["fp32"].diverged == "diverged (1 of 6)" and not rows["fp32"].average_best


# Losses and verdicts


def test_a_loss_is_from_full_precision_and_a_drop_from_the_teacher(changed):
    """The teacher is seed 1 of another method, which is itself 3 points below full precision."""
    for cell in changed:
        if cell["request"]["method"] == "tws_1bit":
            teacher = cell["ran_on"]["teacher"]
            teacher["method"] = "half_width"
            cell["measured"]["teacher"]["score"] = 60.0
    evidence, rows = compare(changed), rows_of(changed)[1]
    entry, full = rows["tws_1bit"].entries[1], rows["fp32"].entries[1]
    assert entry.loss.value == pytest.approx(full.mean - entry.mean) and entry.loss == evidence.loss(
        "tws_1bit", "rte", "last"
    )
    assert entry.drop == pytest.approx(60.0 - entry.mean)
    assert (entry.teacher_title, rows["tws_1bit"].teacher_title) == ("half_width", "half_width")
    assert full.loss is None and full.verdict is None and full.drop is None
    losses = [entry.loss.value for entry in rows["tws_1bit"].entries[:2]]
    assert rows["tws_1bit"].average.loss.value == pytest.approx(sum(losses) / 2), "without WNLI"


def test_marks_are_the_verdicts_and_are_explained_only_where_they_occur(cells):
    evidence = compare(cells)
    table, rows = rows_of(cells)
    shown = set()
    for row in rows.values():
        for entry in row.entries:
            verdict = evidence.verdict(row.method, entry.task, "last")
            assert entry.verdict == verdict and entry.written().marks == (verdict.mark if verdict else "")
            shown.add(entry.written().marks)
        assert row.verdict == evidence.verdicts_of_averages(["mrpc", "rte"], "last").get(row.method)
        shown.add(row.verdict.mark if row.verdict else "")
    assert rows["rtn_2bit"].verdict.mark == "▽"
    for mark in "≈▽△†‡":
        assert any(note.startswith(mark) for note in table.notes) == (mark in shown), mark
    assert not any(sign in note for note in table.notes for sign in "°") and "told apart" not in " ".join(table.notes)


def test_records_have_plain_names_and_no_probability_of_zero(cells):
    table, rows = rows_of(cells)
    record, row = table.records()[list(rows).index("rtn_2bit")], rows["rtn_2bit"]
    assert all(re.fullmatch("[a-z0-9_]+", name) for name in record)
    entry = row.entries[0]
    low, high = entry.loss.interval
    expected = {
        "mrpc_accuracy": entry.mean,
        "mrpc_f1": entry.scores[1][1]["mean"],
        "mrpc_n": 3,
        "mrpc_low": entry.interval[0],
        "mrpc_loss": entry.loss.value,
        "mrpc_loss_low": low,
        "mrpc_loss_high": high,
        "mrpc_p_holm": entry.verdict.p,
        "mrpc_verdict": "worse",
        "mrpc_teacher": "fp32",
        "mrpc_teacher_drop": entry.drop,
        "file_bytes": row.size["file"]["bytes"],
        "average": row.average.value,
        "loss": row.average.loss.value,
        "loss_low": row.average.loss.interval[0],
        "p_holm": row.verdict.p,
        "budget": "2 bits",
    }
    assert {name: record[name] for name in expected} == expected
    assert table.records()[0]["mrpc_p_holm"] is None and table.records()[0]["loss"] is None, "full precision has no test"
    hopeless = replace(entry, verdict=replace(entry.verdict, p=0.0))
    assert 0 < hopeless.record(["accuracy"])["mrpc_p_holm"] < 1e-300, "smaller than a number can be is not zero"


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
    assert not entry.best and entry.loss is None and entry.mean is not None, "shown all the same"
    assert rows["lat_2bit"].entries[0].loss is not None, "its other cells are compared"
    for method in ("fp32", "twn_2bit", "tws_1bit"):
        assert rows[method].average.value is not None
    assert rows["twn_2bit"].entries[1].verdict is not None
