"""Figures: drawn where cells have data, byte-equal for equal cells, safe against any name, and found by themselves."""

import copy
import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import matplotlib
import pytest

from report import figures
from report.__main__ import main
from report.evidence.comparison import compare
from report.evidence.points import AXES, axes, cloud, drops_by_bits
from report.figures import size
from report.figures.style import apart
from report.page.page import render
from tests.fixtures import cells as fixture
from tests.fixtures.cells import cell_at

ROOT = Path(__file__).resolve().parents[3]
METHODS = ("fp32", "rtn_8bit", "rtn_2bit", "lsq_4bit", "lsq_2bit", "tws_1bit")


@pytest.fixture(scope="module")
def cells():
    return fixture.board(METHODS, ("cola", "rte"), seeds=(1, 2, 3), rows=150)


@pytest.fixture(scope="module")
def drawn(cells):
    return files(cells)


def files(cells) -> dict[str, dict[str, bytes]]:
    return {picture.name: picture.contents for picture in figures.draw(compare(cells))}


def test_every_figure_that_the_cells_allow_as_svg_and_pdf(drawn):
    tasks = ("cola", "rte")
    expected = {f"{kind}_{task}" for kind in ("size", "latency", "memory", "seeds", "curves") for task in tasks} | {
        "size_average_glue",
        "latency_average_glue",
        "memory_average_glue",
        "loss_by_task",
        "bits_kdlsq",
        "bits_ptq",
        "errors",
    }
    assert set(drawn) == expected
    for name, contents in drawn.items():
        assert contents["svg"].startswith(b"<?xml") and contents["pdf"].startswith(b"%PDF"), name
        assert b"mathdefault" not in contents["svg"], "no tick is set as mathematics"
        assert len(contents["svg"]) < 1_000_000, name


def test_equal_cells_give_equal_bytes_in_another_process_too(drawn, tmp_path):
    program = (
        "import sys; from report.evidence.comparison import compare; from report.figures import draw\n"
        "from tests.fixtures import cells\n"
        f"evidence = compare(cells.board({METHODS!r}, ('cola', 'rte'), seeds=(1, 2, 3), rows=150))\n"
        "[open(f'{sys.argv[1]}/{p.name}.{e}', 'wb').write(c) for p in draw(evidence) for e, c in p.contents.items()]"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], cwd=ROOT, check=True)
    for name, contents in drawn.items():
        for ending, content in contents.items():
            assert (tmp_path / f"{name}.{ending}").read_bytes() == content, (name, ending)
            assert b"2026" not in content[:600], "no date"


def test_this_machines_style_changes_nothing(cells, drawn):
    with matplotlib.rc_context({"lines.linewidth": 9, "figure.constrained_layout.use": True, "savefig.bbox": "tight"}):
        assert files(cells) == drawn


def test_one_number_changes_its_figures_only(cells, drawn):
    changed = copy.deepcopy(cells)
    cell_at(changed, "tws_1bit", "rte")["measured"]["seeds"][0]["curve"]["dev"][3][1] += 20
    after = files(changed)
    assert [name for name in drawn if drawn[name] != after[name]] == ["curves_rte"]


def test_hostile_titles_are_text(cells):
    cells = copy.deepcopy(cells)
    for cell in cells:
        cell["about"]["method"]["title"] = cell["about"]["method"]["family"] = f"--> {fixture.HOSTILE} $x_{{1$ % & # \\"
    for contents in files(cells).values():
        for element in ElementTree.fromstring(contents["svg"]).iter():
            assert not element.tag.endswith(("img", "script")) and not any(key.startswith("on") for key in element.attrib)


def test_no_smaller_method_scores_as_high_as_one_on_the_front(cells):
    cells = copy.deepcopy(cells)
    # file MiB:   tws_1bit 18, rtn_2bit 28.0, lsq_2bit 28.2 < lsq_4bit 54 < rtn_8bit 107 < fp32 418
    scores = {"tws_1bit": 60.0, "rtn_2bit": 50.0, "lsq_2bit": 61.0, "lsq_4bit": 61.0, "rtn_8bit": 66.0, "fp32": 65.0}

    def front():
        return [point.method for point in cloud(compare(cells), ["rte"], AXES["file"]).points if point.on_front]

    for method, mean in scores.items():
        cell_at(cells, method, "rte")["measured"]["protocols"]["last"]["metrics"]["accuracy"]["mean"] = mean
    assert front() == ["tws_1bit", "lsq_2bit", "rtn_8bit"]
    summary = cell_at(cells, "lsq_2bit", "rte")["measured"]["protocols"]["last"]["metrics"]["accuracy"]
    summary |= {"n": 2, "n_diverged": 1}
    assert front() == ["tws_1bit", "lsq_4bit", "rtn_8bit"], "a method with a diverged seed is on no front"


def test_a_method_without_a_number_is_named_with_the_reason(cells):
    cells = [cell for cell in cells if cell is not cell_at(cells, "rtn_8bit", "cola")]
    evidence = compare(cells, failed={("lada_10x", "rte"): "no memory"})
    assert ("Rounding, 8 bits", "not run on CoLA") in cloud(evidence, ["cola", "rte"], AXES["file"]).absent
    assert ("lada_10x", "failed") in cloud(evidence, ["rte"], AXES["file"]).absent


def test_an_axis_appears_when_cells_have_it(cells):
    assert [axis.name for axis in axes(compare(cells).board)] == ["file", "counted", "paper", "latency", "memory"]
    without = copy.deepcopy(cells)
    for cell in without:
        cell["measured"]["latency"] = "not measured"
    assert [axis.name for axis in axes(compare(without).board)] == ["file", "counted", "paper"]


def test_drops_by_bits_are_drawn_for_every_family_with_several_widths(cells):
    evidence = compare(cells)
    charts = {chart.family.name: {line.title: line.points for line in chart.lines} for chart in drops_by_bits(evidence)}
    assert list(charts) == ["ptq", "kdlsq"]
    lines = charts["kdlsq"]
    assert list(lines) == ["CoLA", "RTE", "mean of 2 tasks"]
    two, four = ([evidence.score(method, task).drop for task in ("cola", "rte")] for method in ("lsq_2bit", "lsq_4bit"))
    assert lines["RTE"] == [(2, two[1]), (4, four[1])]
    assert lines["mean of 2 tasks"] == [(2, pytest.approx(sum(two) / 2)), (4, pytest.approx(sum(four) / 2))]
    alone = [cell for cell in cells if cell["request"]["method"] not in ("lsq_2bit", "rtn_2bit")]
    assert drops_by_bits(compare(alone)) == []


def test_a_cell_that_cannot_be_compared_is_on_no_line_by_bits(cells):
    lsq = [cell for cell in copy.deepcopy(cells) if cell["request"]["method"].startswith(("fp32", "lsq"))]
    odd = cell_at(lsq, "lsq_2bit", "rte")
    odd["ran_on"]["base"]["sha256"] = "0" * 64
    (chart,) = drops_by_bits(compare(lsq))
    (line,) = [line for line in chart.lines if line.title == "RTE"]
    assert 2.0 not in dict(line.points)


def test_the_figure_of_an_average_is_over_the_tables_tasks(cells):
    some = fixture.board(("fp32", "lsq_4bit", "lsq_2bit", "twn_2bit"), ("mrpc", "rte"), rows=100)
    some += fixture.board(("fp32",), ("sst2",), rows=100)
    evidence = compare(some)
    drawings = dict(size.drawings(evidence, "paper"))
    assert evidence.board.main_tasks() == ["mrpc", "rte"] and "size_average_glue" in drawings
    (suite,) = evidence.board.suites
    assert len(cloud(evidence, evidence.board.averaged_of(suite), AXES["paper"]).points) == 4


def test_labels_are_moved_apart():
    assert apart([0.0, 0.1, 0.2, 5.0], 1.0) == [0.0, 1.0, 2.0, 5.0]


# A figure of one's own


ONE_FILE = '''"""Mean scores as bars, on one task."""

from report.figures.style import colour, pyplot

ON_PAGE = "Mean scores on RTE & <more>."


def drawings(evidence, axis):
    if "rte" in evidence.board.tasks:
        yield "bars", lambda: draw(evidence)


def draw(evidence):
    figure, axes = pyplot.subplots(figsize=(3, 2))
    for row, method in enumerate(evidence.board.methods):
        axes.barh(row, evidence.score(method, "rte").mean, color=colour(evidence.board.family(method)))
    return figure
'''


@pytest.fixture
def one_more_file(tmp_path, monkeypatch):
    """Put a file into the room, as a copy of the project with one more file in report/figures would."""
    (tmp_path / "own").mkdir()
    (tmp_path / "own/bars.py").write_text(ONE_FILE)
    monkeypatch.setattr(figures, "__path__", [*figures.__path__, str(tmp_path / "own")])
    yield tmp_path / "own"
    for name in [name for name in sys.modules if name.startswith("report.figures.bars")]:
        del sys.modules[name]


def test_a_figure_is_one_file_that_is_found_by_itself(cells, one_more_file, tmp_path):
    paths = []
    for method in ("fp32", "rtn_2bit"):
        paths.append(tmp_path / f"{method}_rte.json")
        paths[-1].write_text(json.dumps(cell_at(cells, method, "rte")))
    words = ["page", "--out", tmp_path / "index.html", "--figures", tmp_path / "figures", *paths]
    assert main([str(word) for word in words]) == 0
    made = {path.name for path in (tmp_path / "figures").iterdir()}
    assert {"bars.svg", "bars.pdf", "seeds_rte.svg"} <= made
    page = (tmp_path / "index.html").read_text()
    assert 'alt="Mean scores on RTE &amp; &lt;more&gt;."' in page and page.count("<img ") == 1


def test_without_a_folder_for_figures_only_those_of_the_page_are_drawn(cells, one_more_file):
    pictures = list(figures.draw(compare(cells), only_on_page=True))
    assert [picture.name for picture in pictures] == ["bars"]
    assert 'href="#figures"' in render(compare(cells), pictures)


def test_two_files_with_one_name_are_refused(cells, one_more_file):
    (one_more_file / "bars.py").write_text(ONE_FILE.replace('"bars"', '"errors"'))
    with pytest.raises(ValueError, match="'errors', which another file of report/figures draws too"):
        list(figures.draw(compare(cells)))
