"""The tables in a real browser: their views and columns are style alone, and work without a script."""

import json

import pytest

from report.evidence.comparison import compare
from report.page.page import render
from report.wording import score, signed
from tests.fixtures import cells as fixture
from tests.fixtures.pages import click, column, texts

METHODS = ("fp32", "lsq_4bit", "rtn_2bit", "lat_2bit", "tws_1bit")
TABLE = "table[data-name=glue]"


@pytest.fixture(scope="module")
def evidence():
    return compare(fixture.board(METHODS, ("mrpc", "rte"), seeds=(1, 2, 3), rows=150))


@pytest.fixture
def opened(browser, evidence, tmp_path_factory):
    path = tmp_path_factory.mktemp("tables") / "index.html"
    path.write_text(render(evidence), encoding="utf-8")

    def open_page(**options):
        browser.prefer(prefers_color_scheme="light")
        browser.open(path, **options)
        return browser

    return open_page


def heads(browser) -> list[str]:
    return [text.split("\n")[0] for text in texts(browser, f"{TABLE} thead th")]


def test_each_view_shows_its_own_numbers_and_its_own_mean(opened, evidence):
    browser, method = opened(script=False), "lat_2bit"
    row = METHODS.index(method)
    average, loss = evidence.average(method, ["mrpc", "rte"]), evidence.loss(method, "rte")
    assert heads(browser) == ["Method", "Bits", "MiB", "Ratio", "ms", "MRPC", "RTE", "Average", "Mean loss"]
    mark = evidence.verdict(method, "rte").mark
    assert [column(browser, "glue", number)[row] for number in (13, 14)] == [
        score(evidence.score(method, "rte").mean) + mark,
        score(average.value),
    ]
    click(browser, "#view-loss")
    assert heads(browser)[-3:] == ["MRPC", "RTE", "Mean loss"]
    assert column(browser, "glue", 13)[row] == score(loss.value) + mark
    assert column(browser, "glue", 14)[row].startswith(score(average.loss.value))
    assert column(browser, "glue", 14)[0] == "reference"
    low, high = average.loss.interval
    assert f"{score(low)} to {score(high)}" in texts(browser, f"{TABLE} tr[data-m={method}] td:nth-child(14)")[0]
    click(browser, "#view-teacher")
    assert heads(browser)[-4:] == ["MRPC", "RTE", "Mean change", "Mean loss"]
    assert column(browser, "glue", 13)[row] == signed(-evidence.score(method, "rte").drop)
    assert column(browser, "glue", 14)[row] == signed(-average.drop)
    assert "from Full precision" in texts(browser, f"{TABLE} tr[data-m={method}] th")[0]


def test_one_size_is_shown_and_the_others_by_choice(opened):
    browser = opened(script=False)
    click(browser, "#columns-size")
    assert heads(browser)[:8] == ["Method", "Bits", "MiB", "Ratio", "MiB", "MiB", "Parameters", "ms"]
    click(browser, "#columns-time")
    assert heads(browser)[7:11] == ["ms", "Sentences/s", "Speed-up", "Memory"]


def test_a_phone_shows_the_first_score_beside_the_name(opened):
    browser = opened(width=360, height=800, script=False)
    assert heads(browser)[:2] == ["Method", "MRPC"]
    right = f"document.querySelector('{TABLE} tbody a[href=\"#lat_2bit_mrpc\"]').getBoundingClientRect().right"
    assert browser.evaluate(right) < 360
    assert "2-2-8 bits, 28.0 MiB" in texts(browser, f"{TABLE} tr[data-m=lat_2bit] th")[0]
    click(browser, "#columns-size")
    assert heads(browser)[:3] == ["Method", "Bits", "MiB"]
    assert browser.evaluate("document.documentElement.scrollWidth") <= 360


def test_head_and_names_stay_in_view_and_paper_shows_everything(opened, browser):
    opened(width=500, height=420)
    click(browser, "#columns-size")
    box = f"document.querySelector('{TABLE}').closest('.scroll')"
    top = f"document.querySelector('{TABLE} thead th').getBoundingClientRect()"
    before = browser.evaluate(f"[{top}.left - {box}.getBoundingClientRect().left, {top}.top]")
    assert browser.evaluate(f"{box}.scrollTop = {box}.scrollLeft = 150, {box}.scrollTop > 0 && {box}.scrollLeft > 0")
    after = browser.evaluate(f"[{top}.left - {box}.getBoundingClientRect().left, {top}.top]")
    assert after[0] == pytest.approx(before[0]) and after[1] <= before[1]
    assert browser.evaluate(f"{top}.top >= {box}.getBoundingClientRect().top - 1")
    browser.prefer(media="print")
    assert browser.evaluate(f"getComputedStyle({box}).maxHeight") == "none"


def test_rows_are_sorted_by_what_the_view_shows(opened, evidence):
    browser = opened()
    title = evidence.board.title
    losses = {title(method): evidence.loss(method, "rte").value for method in METHODS[1:]}
    click(browser, "#view-loss")
    click(browser, f"{TABLE} th[data-key=rte] button")
    names = column(browser, "glue", 1)
    assert [losses[name] for name in names[:-1]] == sorted(losses.values(), reverse=True)
    assert names[-1] == "Full precision", "it has no loss"
    click(browser, f"{TABLE} th[data-key=loss] button")
    assert texts(browser, f"{TABLE} tr.group") == [], "the budgets are mixed"


def test_every_number_of_a_row_is_a_link(opened):
    browser = opened()
    bare = (
        f"all('{TABLE} tbody td, {TABLE} tfoot td')"
        ".filter(one => /[0-9]/.test(one.innerText) && one.checkVisibility() && !one.querySelector('a')).length"
    )
    assert browser.evaluate(bare) == 0
    links = f"all('{TABLE} a').map(one => one.getAttribute('href').slice(1))"
    assert json.loads(browser.evaluate(f"JSON.stringify({links}.filter(id => !byId(id)))")) == []
