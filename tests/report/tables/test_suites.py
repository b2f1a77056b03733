"""Tables: what stands in them, what is marked, what is never averaged, and that no name can break a file made of them."""

import copy
import csv
import io
import json
import shutil
import subprocess

import pytest

from report import exports
from report.board import Board
from report.published import COUNTERPARTS, PLACES, figures, paper_table, published
from report.statistics import holm
from report.tables import deviation, tables
from tests.fixtures import cells as fixture

METHODS = ("fp32", "rtn_2bit", "twn_2bit", "lat_2bit", "tws_1bit", "tws_1bit_a4")
TASKS = ("mrpc", "rte", "wnli", "squad")
OTHER = "0" * 64
NASTY = [fixture.HOSTILE, r"a_b 100 % & # \ {x} $y$ ~ ^ | ` * [z]", '=HYPERLINK("http://x")', "-1+1", "@SUM(A1)", " =1"]


@pytest.fixture(scope="module")
def cells():
    return fixture.board(METHODS, TASKS, seeds=(1, 2, 3), rows=200)


@pytest.fixture
def board(cells):
    return Board(copy.deepcopy(cells))


def rows_of(board, name="glue", protocol="last"):
    table = next(table for table in tables(board) if (table.name, table.protocol) == (name, protocol))
    return table, {row.method: row for row in table.rows}


def set_mean(board, method, task, mean, **more):
    cell = board.at[method, task]
    cell["measured"]["protocols"]["last"]["metrics"][cell["measured"]["metric"]] |= {"mean": mean, **more}


# What stands where


def test_averages_are_over_equal_task_sets_without_wnli(board):
    for task, mean in (("mrpc", 80.0), ("rte", 61.0), ("wnli", 1.0)):
        set_mean(board, "lat_2bit", task, mean)
    table, rows = rows_of(board)
    assert rows["lat_2bit"].average == 70.5
    assert any("leaves out WNLI" in note for note in table.notes)
    del board.at["lat_2bit", "rte"]
    _, rows = rows_of(board)
    assert rows["lat_2bit"].average is None and rows["lat_2bit"].drop is None
    assert [entry.word for entry in rows["lat_2bit"].entries] == [None, "not run", None]
    assert [place.text for place in table_line(board, "lat_2bit")][-2:] == ["not all tasks", "none"]


def table_line(board, method):
    table, rows = rows_of(board)
    return table.grid().rows[list(rows).index(method)]


def test_drops_are_from_the_teacher_and_of_what_was_only_rounded_from_its_start(board):
    teacher = board.at["lat_2bit", "rte"]["measured"]["teacher"]["score"]
    for method in ("lat_2bit", "rtn_2bit"):
        set_mean(board, method, "rte", teacher - 2.5)
        _, rows = rows_of(board)
        assert rows[method].entries[1].drop == pytest.approx(2.5)
    assert rows["fp32"].entries[1].drop is None, "nothing taught full precision"


def test_both_metrics_where_papers_give_both_and_the_deviation(board):
    entry = rows_of(board)[1]["fp32"].entries[0]
    assert [metric for metric, _ in entry.scores] == ["accuracy", "f1"]
    assert entry.written().startswith(f"{deviation(entry.scores[0][1])} / ")
    assert rows_of(board, "squad")[0].metrics == {"squad": ["f1", "exact"]}


def test_both_protocols_are_there_the_primary_first(board):
    assert [(table.name, table.protocol) for table in tables(board)] == [
        ("glue", "last"),
        ("glue", "best"),
        ("squad", "last"),
        ("squad", "best"),
    ]


def test_a_diverged_seed_is_counted_and_its_method_never_best(board):
    for method, mean in (("rtn_2bit", 50.0), ("twn_2bit", 60.0), ("lat_2bit", 70.0)):
        set_mean(board, method, "rte", mean)
    assert [rows_of(board)[1][m].entries[1].best for m in ("rtn_2bit", "twn_2bit", "lat_2bit")] == [False, False, True]
    set_mean(board, "lat_2bit", "rte", 70.0, n=2, n_diverged=1)
    entries = {method: row.entries[1] for method, row in rows_of(board)[1].items()}
    assert entries["lat_2bit"].written().endswith("n = 2 diverged (1 of 3)")
    assert "n = " not in entries["twn_2bit"].written(), "the table's usual n stands below it"
    assert "mean ± standard deviation over n = 3 seeds, where no other n is given" in rows_of(board)[0].notes
    assert not entries["lat_2bit"].best and entries["twn_2bit"].best
    set_mean(board, "lat_2bit", "rte", None, n=0, n_diverged=3)
    assert rows_of(board)[1]["lat_2bit"].entries[1].written() == "diverged (3 of 3)"


def test_best_is_within_a_bit_budget(board):
    entries = [row.entries[1] for row in rows_of(board)[1].values()]
    assert sum(entry.best for entry in entries if entry.method in ("rtn_2bit", "twn_2bit", "lat_2bit")) == 1
    assert sum(entry.best for entry in entries if entry.method in ("tws_1bit", "tws_1bit_a4")) == 1
    assert not entries[0].best, "alone at 32 bits"


def test_holm_is_over_all_tests_of_the_table(board):
    table, _ = rows_of(board)
    tests, marked = [], []
    for row in table.rows:
        for entry in row.entries:
            if found := board.against_reference(row.method, entry.task, "last"):
                tests.append(found.p)
                marked.append(entry.drop_p)
            best = [other.entries[table.tasks.index(entry.task)] for other in table.rows if other.budget == row.budget]
            top = next((other for other in best if other.best and other is not entry), None)
            if top and not entry.diverged:
                tests.append(board.against(row.method, top.method, entry.task, "last").p)
                marked.append(None)
    assert len(tests) > 20
    for corrected, found in zip(holm(tests), marked, strict=True):
        assert found is None or found == pytest.approx(corrected)


# What is not compared


@pytest.mark.parametrize(
    ("change", "words", "hurt"),
    [
        (lambda on: on["base"].update(sha256=OTHER), "base model", {"fp32", "lat_2bit", "twn_2bit"}),
        (lambda on: on.update(code="other"), "code of lat_2bit", {"lat_2bit"}),
        (lambda on: on["dataset"].update(fingerprint=OTHER), "data of RTE", {"fp32", "lat_2bit", "twn_2bit"}),
        (lambda on: on["teacher"].update(sha256=OTHER), "teacher of RTE (fp32, seed 1)", {"fp32", "twn_2bit"}),
    ],
)
def test_cells_of_different_provenance_are_shown_but_not_averaged_ranked_or_tested(cells, change, words, hurt):
    cells = copy.deepcopy(cells)
    change(Board(cells).at["lat_2bit", "rte"]["ran_on"])
    board = Board(cells)
    table, rows = rows_of(board)
    assert f"not compared, because they differ: {words}" in table.notes
    for method in hurt:
        assert rows[method].average is None and rows[method].no_average == "not comparable"
        assert not rows[method].entries[1].best and rows[method].entries[1].drop_p is None
        assert rows[method].entries[1].mean is not None, "shown all the same"
    if "lat_2bit" in words:
        assert rows["twn_2bit"].average is not None, "the others stay comparable"


# Tests between methods


def test_one_seed_each_is_mcnemar_and_more_are_paired_over_both(cells):
    board = Board(cells)
    found = board.against("twn_2bit", "tws_1bit", "rte", "last")
    assert (found.test, found.seeds) == ("paired over examples and seeds", 3)
    single = Board(fixture.board(("fp32", "twn_2bit", "tws_1bit"), ("rte", "squad"), seeds=(1,), rows=200))
    found = single.against("twn_2bit", "tws_1bit", "rte", "last")
    assert (found.test, found.seeds) == ("McNemar's exact test", 1)
    assert single.against("twn_2bit", "tws_1bit", "squad", "last").test == "paired over examples"


def test_without_predictions_seeds_speak_and_one_seed_says_nothing(cells):
    cells = copy.deepcopy(cells)
    for cell in cells:
        cell["measured"]["outcomes"] = None
    assert Board(cells).against("twn_2bit", "tws_1bit", "mrpc", "last").test == "paired over seeds"
    assert Board(cells).against("twn_2bit", "tws_1bit", "rte", "last") is None, "all seeds score alike"
    single = fixture.board(("fp32", "twn_2bit"), ("rte",), seeds=(1,), rows=100)
    single[1]["measured"]["outcomes"] = None
    assert Board(single).against_reference("twn_2bit", "rte", "last") is None


def test_a_teacher_that_was_trained_again_is_not_paired_with(cells):
    cells = copy.deepcopy(cells)
    teacher = next(cell for cell in cells if (cell["request"]["method"], cell["request"]["task"]) == ("fp32", "mrpc"))
    teacher["ran_on"]["runs"][0]["files"]["last.safetensors"] = "0" * 64
    assert Board(cells).against_reference("lat_2bit", "mrpc", "last").test == "paired over seeds"


# Paper against ours


def test_published_figures_join_by_method_task_and_metric():
    assert figures("lat_2bit")["mnli", "accuracy"].value == 83.5
    assert figures("lat_2bit")["mnli", "accuracy"].drop == pytest.approx(1.0)  # from 84.5 of the same paper
    assert figures("tws_1bit")["rte", "accuracy"].value == 72.2 and not figures("tws_1bit")["rte", "accuracy"].augmented
    assert figures("lat_2bit")["rte", "accuracy"].augmented, "the paper gives no other"
    assert figures("lada_10x")["mnli", "accuracy"].test_set
    for method in COUNTERPARTS:
        assert figures(method), method
    assert {row["confidence"] for row in published()} == {"high", "medium"}
    assert all(row["source_table"] for row in published())
    assert {task for task, _ in PLACES.values()} <= set(fixture.TASKS)


def verdicts(board):
    return {(pair.method, pair.task, pair.metric): (pair.verdict, pair.reason) for pair in paper_table(board).pairs}


def test_verdicts_say_what_can_be_said(cells):
    board = Board(copy.deepcopy(cells))
    # three seeds of deviation 1: t(0.975, 2) = 4.3027, times sqrt(1 + 1/3) = 4.968, and 0.05 of rounding
    place = board.at["tws_1bit", "rte"]["measured"]["protocols"]["best"]["metrics"]["accuracy"]
    for mean, verdict in ((72.2 + 5.01, "reproduced"), (72.2 + 5.03, "above"), (72.2 - 5.03, "below")):
        place |= {"mean": mean, "sd": 1.0, "n": 3}
        assert verdicts(board)["tws_1bit", "rte", "accuracy"] == (verdict, "")
    place |= {"n": 1, "sd": None}
    assert verdicts(board)["tws_1bit", "rte", "accuracy"] == ("undecided", "one seed cannot tell")
    place |= {"n": 3, "sd": 0.0}
    assert verdicts(board)["tws_1bit", "rte", "accuracy"] == ("undecided", "seeds that score alike cannot tell")
    place |= {"n": 0, "mean": None, "n_diverged": 3}
    assert verdicts(board)["tws_1bit", "rte", "accuracy"][0] == "diverged"
    assert verdicts(board)["bwn_1bit", "rte", "accuracy"] == ("not run", "")
    assert verdicts(board)["lat_2bit", "rte", "accuracy"] == ("not comparable", "theirs is with augmented data")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda on: on.update(data="generated"), "demo"),
        (lambda on: on["base"].update(id="prajjwal1/bert-tiny"), "other base model"),
        (lambda on: on["dataset"].update(partial=True), "partial data"),
    ],
)
def test_other_conditions_are_not_compared(cells, change, reason):
    cells = copy.deepcopy(cells)
    for cell in cells:
        change(cell["ran_on"])
    assert verdicts(Board(cells))["tws_1bit", "rte", "accuracy"] == ("not comparable", reason)


def test_unsure_figures_carry_a_mark(board):
    grid = paper_table(board).grid()
    assert any(place.text.endswith("?") for row in grid.rows for place in row)
    assert any(note.startswith("? medium confidence") for note in grid.notes)


# Files


@pytest.fixture(scope="module")
def nasty(cells):
    """Every method with a title that is meant to break something."""
    cells = copy.deepcopy(cells)
    for cell in cells:
        cell["request"]["spec"]["title"] = NASTY[METHODS.index(cell["request"]["method"])]
    board = Board(cells)
    return [*tables(board), paper_table(board)]


def test_csv_is_inert_and_keeps_its_numbers(nasty):
    for table in nasty:
        rows = list(csv.DictReader(io.StringIO(exports.files_of(table)["csv"])))
        assert len(rows) == len(table.records())
        for row in rows:
            for value in row.values():
                number = value.replace(".", "").replace("-", "").replace("e", "").isdigit()
                assert number or not value.lstrip(" ").startswith(("=", "+", "-", "@")), value
    rows = list(csv.DictReader(io.StringIO(exports.files_of(nasty[0])["csv"])))
    assert float(rows[0]["rte accuracy"]) == pytest.approx(nasty[0].records()[0]["rte accuracy"], abs=1e-6)
    assert {row["title"] for row in rows} >= {"'-1+1", "'@SUM(A1)", fixture.HOSTILE}


def test_json_holds_the_same_numbers(nasty):
    for table in nasty:
        assert json.loads(exports.files_of(table)["json"])["rows"] == list(map(exports.rounded, table.records()))


def test_markdown_has_no_markup_of_others(nasty):
    for table in nasty:
        text = exports.files_of(table)["md"]
        assert "<img" not in text
        lines = [line for line in text.splitlines() if line.startswith("|")]
        bars = {line.replace(r"\|", "").count("|") for line in lines}
        assert len(bars) == 1, "every row has all columns"


def test_latex_by_hand():
    assert exports.latex("a_b 5 % & # \\ {x} $y$") == r"a\_b 5 \% \& \# \textbackslash{} \{x\} \$y\$"
    assert exports.latex("61.0 ± 1.2≈† \N{MINUS SIGN}3") == r"61.0 $\pm$ 1.2$^{\approx}$$^{\dagger}$ $-$3"
    assert exports.latex("naïve 漢\n字 \N{ZERO WIDTH SPACE}") == "naïve ? ? ?"


def test_latex_compiles(nasty, tmp_path):
    if not shutil.which("pdflatex"):
        pytest.skip("there is no pdflatex to compile the tables with")
    body = "\n".join(exports.files_of(table)["tex"] for table in nasty)
    source = "\\documentclass{article}\\usepackage[T1]{fontenc}\\usepackage{booktabs,graphicx}\\begin{document}\n"
    (tmp_path / "all.tex").write_text(source + body + "\\end{document}\n", encoding="utf-8")
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "all.tex"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-2000:]


def test_latex_braces_and_columns_are_balanced(nasty):
    """What can be said of the LaTeX where none is installed."""
    for table in nasty:
        text = exports.files_of(table)["tex"]
        bare = text.replace(r"\{", "").replace(r"\}", "")
        assert bare.count("{") == bare.count("}")
        rows = [line for line in text.splitlines() if line.endswith(r"\\")]
        assert len({line.replace(r"\&", "").count("&") for line in rows}) == 1
        assert text.isascii()


def test_bibtex_cites_suite_data_and_every_paper(board):
    board.at["tws_1bit", "rte"]["request"]["spec"]["paper"] = "Nobody & Co. 2030, arXiv 3001.00001"
    text = exports.bibtex(board)
    for number in ("1810.04805", "2009.12812", "2012.15701", "1804.07461", "1606.05250", "1806.03822", "3001.00001"):
        assert text.count(f"eprint = {{{number}}}") == 1
    assert "2101.05938" not in text, "no KDLSQ-BERT on this board"
    assert r"Nobody \& Co." in text and "@software{bert_quantization_benchmark" in text


def test_one_number_changes_its_places_and_the_same_cells_give_the_same_bytes(cells):
    before = [exports.files_of(table) for table in tables(Board(copy.deepcopy(cells)))]
    assert before == [exports.files_of(table) for table in tables(Board(copy.deepcopy(cells)))]
    changed = copy.deepcopy(cells)
    place = next(cell for cell in changed if (cell["request"]["method"], cell["request"]["task"]) == ("tws_1bit", "wnli"))
    place["measured"]["protocols"]["last"]["metrics"]["accuracy"]["sd"] = 12.3
    after = [exports.files_of(table) for table in tables(Board(changed))]
    for old, new in zip(before, after, strict=True):
        for ending in old:
            lines = zip(old[ending].splitlines(), new[ending].splitlines(), strict=True)
            differing = [new_line for old_line, new_line in lines if old_line != new_line]
            assert len(differing) == (1 if old is before[0] else 0)
            assert all("12.3" in line for line in differing)
