"""The page's plots: both protocols, every axis, names and values in the SVG, tips in words, and panels of losses."""

import copy
import re
from types import SimpleNamespace

import pytest

from report.evidence.comparison import compare
from report.evidence.points import AXES, axes, cloud, loss_cloud
from report.evidence.verdicts import Verdict
from report.page.page import render
from report.page.plots import WIDE, multiples, overall
from report.page.tips import loss_text, tips
from report.scatter import layout
from report.wording import score
from tests.fixtures import cells as fixture
from tests.fixtures.cells import cell_at

METHODS = ("fp32", "rtn_2bit", "lsq_4bit", "lat_2bit", "tws_1bit")
TASKS = ("mrpc", "rte", "squad")


@pytest.fixture(scope="module")
def cells():
    return fixture.board(METHODS, TASKS, seeds=(1, 2, 3), rows=150)


@pytest.fixture(scope="module")
def evidence(cells):
    return compare(cells)


def test_the_main_plot_has_both_protocols_every_axis_and_both_ranges(evidence):
    found = overall(evidence, axes(evidence.board))
    assert [protocol for protocol, _ in found["protocols"]] == ["last", "best"]
    for _, views in found["protocols"]:
        assert [view["cloud"].axis.name for view in views] == ["file", "counted", "paper", "latency", "memory"]
        assert all(list(view["pictures"]) == ["close", "all"] for view in views)
    assert found["tasks"] == ["MRPC", "RTE"]


def test_the_other_protocol_has_its_own_scores(evidence):
    for protocol in ("last", "best"):
        points = {point.method: point for point in cloud(evidence, ["rte"], AXES["file"], protocol).points}
        assert points["lsq_4bit"].y == evidence.score("lsq_4bit", "rte", protocol).mean
        lost = {point.method: point for point in loss_cloud(evidence, "rte", AXES["file"], protocol).points}
        loss = evidence.loss("lsq_4bit", "rte", protocol)
        assert lost["lsq_4bit"].y == -loss.value and lost["fp32"].y == 0
        assert lost["lsq_4bit"].interval == (-loss.interval[1], -loss.interval[0])


def test_names_are_written_at_the_points_and_bear_the_methods_name(evidence):
    page = render(evidence)
    for method in METHODS:
        point = re.search(rf'<a class="point[^>]* data-m="{method}"[^>]*>.*?</a>', page)[0]
        assert f">{evidence.board.title(method)}" in point
    assert re.search(r'data-m="rtn_2bit".*?href="#below".*?>Rounding, 2 bits: \d+\.\d</text>', page), "an outlier's value"


def test_every_name_has_a_place_in_the_close_up_of_a_large_board():
    methods = [method for method in fixture.METHODS if method != "lada_10x"]
    evidence = compare(fixture.board(methods, ("mrpc", "rte"), seeds=(1,), rows=100))
    for axis in axes(evidence.board):
        found = layout(cloud(evidence, evidence.board.main_tasks(), axis), WIDE, close=True)
        assert [mark.point.method for mark in found.marks if mark.text is None] == [], axis.name


def test_a_tip_has_score_loss_verdict_bits_size_ratio_and_latency(evidence):
    found = tips(evidence)
    scored, loss = evidence.score("rtn_2bit", "rte"), evidence.loss("rtn_2bit", "rte")
    assert found["results"]["primary"]["rte"]["rtn_2bit"] == [
        f"{score(scored.mean)} (95 % CI {score(scored.interval[0])} to {score(scored.interval[1])})",
        f"{score(loss.value)} points lost (95 % CI {score(loss.interval[0])} to {score(loss.interval[1])}): worse",
    ]
    assert found["methods"]["rtn_2bit"]["bits"] == "2-2-8 bits (weights, embeddings, activations)"
    assert found["methods"]["rtn_2bit"]["file"] == "28.0 MiB on disk, 14.9× smaller"
    assert found["costs"]["rte"]["rtn_2bit"][0] == "0.719 ms a sentence" and found["device"].startswith("An invented")
    assert found["results"]["other"]["squad"]["fp32"][1] == "full precision: losses count from here"


def test_the_tip_of_a_mean_counts_the_mean_loss(evidence):
    average = evidence.average("rtn_2bit", ["mrpc", "rte"])
    line = tips(evidence)["results"]["primary"][""]["rtn_2bit"][1]
    assert line.startswith(f"{score(average.loss.value)} points lost (95 % CI ")


def test_a_gain_is_written_as_one():
    gain = SimpleNamespace(value=-1.25, interval=(-2.04, 0.5))
    assert loss_text(False, gain, None) == "1.2 points gained (95 % CI \N{MINUS SIGN}0.5 to 2.0)"
    within = Verdict(None, True, 0.3, 1.0)
    assert loss_text(False, gain, within).endswith(": equivalent within 1 point")
    assert loss_text(False, SimpleNamespace(value=3.0, interval=None), None) == "3.0 points lost"
    assert loss_text(False, None, None) == "not comparable with full precision"


def test_panels_have_a_common_axis_and_one_size(evidence):
    found = multiples(evidence, axes(evidence.board))
    for _, of_axes in found["protocols"]:
        assert [entry["classes"] for entry in of_axes] == [
            "axis-file axis-counted axis-paper",
            "axis-latency",
            "axis-memory",
        ]
        for entry in of_axes:
            assert [panel["task"] for panel in entry["panels"]] == list(TASKS)
            assert len({str(panel["drawing"]["columns"]) for panel in entry["panels"]}) == 1
            assert all([text for _, text in panel["drawing"]["rows"]] == ["10", "5", "0"] for panel in entry["panels"])


def test_without_full_precision_there_are_no_panels_of_losses(cells):
    evidence = compare([cell for cell in cells if cell["request"]["method"] != "fp32"])
    assert multiples(evidence, axes(evidence.board)) is None
    assert "Points lost, task by task" not in render(evidence)


def test_where_no_method_has_every_task_a_sentence_says_so(cells):
    apart = compare([cell_at(cells, "lsq_4bit", "mrpc"), cell_at(cells, "rtn_2bit", "rte")])
    assert "so there is no average to plot" in render(apart)


def test_a_cell_without_a_size_has_no_point_and_a_reason(cells):
    cells = copy.deepcopy(cells)
    for task in TASKS:
        cell_at(cells, "lat_2bit", task)["measured"]["size"] = None
    found = cloud(compare(cells), ["rte"], AXES["file"])
    assert ("TernaryBERT, LAT", "none") in found.absent
