"""The page of unlike boards at three widths, in both schemes, with and without a script."""

import pytest

from report.evidence.comparison import compare
from report.page.page import render
from tests.fixtures import cells as fixture
from tests.fixtures.pages import HEADINGS_IN_ORDER, POOR_CONTRAST, WIDER_THAN_THE_WINDOW

LONG = "a_name_without_any_place_to_break_" * 4


def small() -> list[dict]:
    return fixture.board(("fp32", "lsq_4bit", "lat_2bit"), ("mrpc", "rte"), seeds=(1,), rows=60, source="generated")


def large() -> list[dict]:
    return fixture.board(seeds=(1, 2), rows=40)


def hostile() -> list[dict]:
    cells = fixture.board(("fp32", "lsq_4bit", "lat_2bit"), ("rte", "squad"), seeds=(1, 2), rows=60)
    for cell in cells:
        about, name = cell["about"], cell["request"]["method"]
        if name != "fp32":
            words = {"lsq_4bit": LONG, "lat_2bit": f'{fixture.HOSTILE}" onclick="alert(1)'}[name]
            about["method"] |= dict.fromkeys(("title", "family", "paper"), words)
            cell["request"]["method"] = words
    return cells


def all_diverged() -> list[dict]:
    methods, tasks = ("fp32", "lsq_4bit", "lat_2bit"), ("mrpc", "rte")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(fixture, "DIVERGED", {(method, task): (1, 2) for method in methods for task in tasks})
        return fixture.board(methods, tasks, seeds=(1, 2), rows=60)


def one_cell() -> list[dict]:
    return fixture.board(("lsq_4bit",), ("rte",), seeds=(1,), rows=60)


def one_odd_cell() -> list[dict]:
    cells = fixture.board(("fp32", "lsq_4bit", "lat_2bit"), ("mrpc", "rte"), seeds=(1, 2), rows=60)
    fixture.cell_at(cells, "lat_2bit", "rte")["request"]["primary"] = "best"
    return cells


BOARDS = (small, large, hostile, all_diverged, one_cell, one_odd_cell)


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.__name__)
def test_the_page_of_a_board_fits_reads_and_complains_of_nothing(browser, tmp_path, board):
    path = tmp_path / "index.html"
    path.write_text(render(compare(board())), encoding="utf-8")
    for width, scheme, script in (
        (360, "light", True),
        (360, "dark", False),
        (1024, "dark", True),
        (1440, "light", True),
        (1440, "light", False),
    ):
        browser.prefer(prefers_color_scheme=scheme)
        browser.open(path, width=width, script=script)
        seen = f"{width} px, {scheme}, {'with' if script else 'without'} a script"
        assert browser.evaluate(WIDER_THAN_THE_WINDOW) == [], seen
        assert browser.evaluate(HEADINGS_IN_ORDER), seen
        assert browser.problems == [], seen
        if script and width != 360:
            browser.evaluate("all('main details').forEach(one => one.open = true)")
            assert browser.evaluate(POOR_CONTRAST) == [], seen
            assert browser.evaluate(WIDER_THAN_THE_WINDOW) == [], f"{seen}, all open"
    assert browser.evaluate("document.querySelectorAll('img, iframe').length") == 0
