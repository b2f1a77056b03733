"""Figures for papers: drawn for what the cells have, byte-equal for equal cells, and no name is read as markup."""

import copy
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import matplotlib
import pytest

from report.board import Board
from report.plots import apart, figures
from report.points import AXES, axes, cloud, drops_by_bits
from tests.fixtures import cells as fixture

ROOT = Path(__file__).resolve().parents[2]
METHODS = ("fp32", "rtn_8bit", "rtn_2bit", "lsq_4bit", "lsq_2bit", "tws_1bit")


@pytest.fixture(scope="module")
def cells():
    return fixture.board(METHODS, ("cola", "rte"), seeds=(1, 2, 3), rows=150)


@pytest.fixture(scope="module")
def drawn(cells):
    return dict(figures(Board(cells)))


def test_every_figure_that_the_cells_allow_as_svg_and_pdf(drawn):
    tasks = ("cola", "rte")
    expected = {f"{kind}_{task}" for kind in ("size", "seeds", "curves") for task in tasks} | {
        "size_average",
        "bits",
        "errors",
    }
    assert set(drawn) == expected
    for name, files in drawn.items():
        assert files["svg"].startswith(b"<?xml") and files["pdf"].startswith(b"%PDF"), name
        assert b"mathdefault" not in files["svg"], "no tick is written in a language that is not read"
        assert len(files["svg"]) < 1_000_000, name


def test_equal_cells_give_equal_bytes_in_another_process_too(drawn, tmp_path):
    program = (
        "import sys, hashlib; from report.board import Board; from report.plots import figures\n"
        "from tests.fixtures import cells\n"
        f"board = Board(cells.board({METHODS!r}, ('cola', 'rte'), seeds=(1, 2, 3), rows=150))\n"
        "[(open(f'{sys.argv[1]}/{n}.{e}', 'wb').write(c)) for n, files in figures(board) for e, c in files.items()]"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], cwd=ROOT, check=True)
    for name, files in drawn.items():
        for ending, content in files.items():
            assert (tmp_path / f"{name}.{ending}").read_bytes() == content, (name, ending)
            assert b"2026" not in content[:600], "no date"


def test_this_machines_style_changes_nothing(cells, drawn):
    with matplotlib.rc_context({"lines.linewidth": 9, "figure.constrained_layout.use": True, "savefig.bbox": "tight"}):
        assert dict(figures(Board(copy.deepcopy(cells)))) == drawn


def test_one_number_changes_its_figures_only(cells, drawn):
    changed = copy.deepcopy(cells)
    cell = next(cell for cell in changed if (cell["request"]["method"], cell["request"]["task"]) == ("tws_1bit", "rte"))
    cell["measured"]["seeds"][0]["curve"]["dev"][3][1] += 20
    after = dict(figures(Board(changed)))
    assert [name for name in drawn if drawn[name] != after[name]] == ["curves_rte"]


def test_hostile_titles_are_text(cells):
    cells = copy.deepcopy(cells)
    for cell in cells:
        cell["request"]["spec"]["title"] = f"--> {fixture.HOSTILE} $x_{{1$ % & # \\"
    for _, files in figures(Board(cells)):
        for element in ElementTree.fromstring(files["svg"]).iter():
            assert not element.tag.endswith(("img", "script")) and not any(key.startswith("on") for key in element.attrib)


def test_the_front_is_what_no_smaller_method_equals(cells):
    board = Board(copy.deepcopy(cells))
    # file MiB:   tws_1bit 18, rtn_2bit 28.0, lsq_2bit 28.2 < lsq_4bit 54 < rtn_8bit 107 < fp32 418
    scores = {"tws_1bit": 60.0, "rtn_2bit": 50.0, "lsq_2bit": 61.0, "lsq_4bit": 61.0, "rtn_8bit": 66.0, "fp32": 65.0}

    def front():
        return [point.method for point in cloud(board, ["rte"], AXES["file"], "last").points if point.on_front]

    for method, mean in scores.items():
        board.at[method, "rte"]["measured"]["protocols"]["last"]["metrics"]["accuracy"]["mean"] = mean
    assert front() == ["tws_1bit", "lsq_2bit", "rtn_8bit"]
    board.at["lsq_2bit", "rte"]["measured"]["protocols"]["last"]["metrics"]["accuracy"] |= {"n": 2, "n_diverged": 1}
    assert front() == ["tws_1bit", "lsq_4bit", "rtn_8bit"], "a method with a diverged seed is on no front"


def test_a_method_without_a_number_is_named_with_its_word(cells):
    board = Board(copy.deepcopy(cells), failed={("lada_10x", "rte"): "no memory"})
    del board.at["rtn_8bit", "cola"]
    assert ("Rounding, 8 bits", "not all tasks") in cloud(board, ["cola", "rte"], AXES["file"], "last").absent
    assert ("lada_10x", "failed") in cloud(board, ["rte"], AXES["file"], "last").absent
    assert ("BinaryBERT, 1-1-8", "simulated") in cloud(board, ["rte"], AXES["latency"], "last").absent


def test_an_axis_appears_when_cells_have_it(cells):
    assert [axis.name for axis in axes(Board(cells))] == ["paper", "counted", "file", "latency"]
    without = copy.deepcopy(cells)
    for cell in without:
        cell["measured"]["latency"] = "not measured"
    assert [axis.name for axis in axes(Board(without))] == ["paper", "counted", "file"]


def test_what_a_bit_is_worth(cells):
    board = Board(copy.deepcopy(cells))
    lines = {line.title: line.points for line in drops_by_bits(board)}
    assert list(lines) == ["CoLA", "RTE", "mean of 2 tasks"]
    two, four = ([board.drop(method, task, "last") for task in ("cola", "rte")] for method in ("lsq_2bit", "lsq_4bit"))
    assert lines["RTE"] == [(2, two[1]), (4, four[1])]
    assert lines["mean of 2 tasks"] == [(2, pytest.approx(sum(two) / 2)), (4, pytest.approx(sum(four) / 2))]
    assert drops_by_bits(Board([cell for cell in cells if cell["request"]["method"] != "lsq_2bit"])) == []


def test_labels_are_moved_apart():
    assert apart([0.0, 0.1, 0.2, 5.0], 1.0) == [0.0, 1.0, 2.0, 5.0]
