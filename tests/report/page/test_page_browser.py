"""The page in a real browser: no request, no error, and every control works by pointer and by keyboard."""

import json
import re

import pytest

from report.evidence.comparison import compare
from report.page.page import render
from tests.fixtures import cells as fixture
from tests.fixtures import chromium
from tests.fixtures.cells import cell_at

pytestmark = pytest.mark.skipif(chromium.EXECUTABLE is None, reason="there is no Chromium to open the page with")

METHODS = ("fp32", "rtn_2bit", "lsq_4bit", "lsq_2bit", "lat_2bit", "tws_1bit", "bwn_1bit")
TASKS = ("cola", "mrpc", "qqp", "rte", "squad")
TITLES = {"bwn_1bit": fixture.HOSTILE, "tws_1bit": "</script><script>alert(1)</script>"}


@pytest.fixture(scope="module")
def cells():
    cells = fixture.board(METHODS, TASKS, seeds=(1, 2, 3), rows=150)
    for cell in cells:
        cell["about"]["method"]["title"] = TITLES.get(cell["request"]["method"], cell["about"]["method"]["title"])
    return cells


@pytest.fixture(scope="module")
def page(cells, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "index.html"
    path.write_text(render(compare(cells, {("lsq_4bit", "wnli"): "The disk is full."})), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def browser():
    found = chromium.Browser()
    yield found
    found.close()


@pytest.fixture
def opened(browser, page):
    """Return a function that opens the page; after the test check that nothing failed and nothing else was requested."""

    def open_page(hash: str = "", **options):
        browser.prefer(prefers_color_scheme="light")
        browser.open(page, hash, **options)
        return browser

    yield open_page
    assert browser.problems == []
    assert [url for url in browser.requests if not url.startswith((page.as_uri(), "data:", "about:"))] == []


def texts(browser, selector: str) -> list[str]:
    """Return the visible text of the elements, from the top."""
    chosen = f"[...document.querySelectorAll({json.dumps(selector)})].filter(one => one.checkVisibility())"
    return json.loads(browser.evaluate(f"JSON.stringify({chosen}.map(one => one.innerText.trim()))"))


def column(browser, name: str, number: int) -> list[str]:
    """Return the first line of each place in one column of a table."""
    return [text.split("\n")[0] for text in texts(browser, f'table[data-name="{name}"] tbody > tr > :nth-child({number})')]


def click(browser, selector: str) -> None:
    browser.evaluate(f"document.querySelector({json.dumps(selector)}).click()")


def becomes_true(browser, expression: str) -> bool:
    """Wait up to four seconds: a key's effect, and the events that follow it, come after the key."""
    for _ in range(200):
        if browser.evaluate(expression):
            return True
        browser.evaluate("new Promise(done => setTimeout(done, 20))")
    return False


@pytest.mark.parametrize("width", [360, 1440])
@pytest.mark.parametrize("script", [True, False])
def test_it_opens_whole_at_both_widths_with_and_without_script(opened, width, script):
    browser = opened(width=width, script=script)
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    assert len(texts(browser, "h2")) >= 9
    assert column(browser, "glue", 1)[0] == "Full precision"
    if not script:
        assert browser.evaluate("[...document.querySelectorAll('.js-only')].every(one => !one.checkVisibility())")
        click(browser, "#axis-file")  # the choices are style, not script
        assert browser.evaluate("document.querySelector('.plot .axis-file').checkVisibility()")
        assert not browser.evaluate("document.querySelector('.plot .axis-paper').checkVisibility()")
        click(browser, "#protocol-other")
        assert browser.evaluate("document.querySelector('.p-other').checkVisibility()")


def test_no_name_is_ever_markup(opened):
    browser = opened()
    assert browser.evaluate("document.querySelectorAll('img, iframe').length") == 0
    assert fixture.HOSTILE in column(browser, "glue", 1)
    click(browser, "#filter")
    browser.evaluate("filter.value = '<img'; filter.dispatchEvent(new Event('input'))")
    assert column(browser, "glue", 1) == [fixture.HOSTILE]
    browser.evaluate("light('1'); picker.elements.size.value = 20; pick()")
    assert browser.evaluate("document.querySelectorAll('img, iframe').length") == 0


def test_heads_sort_both_ways_by_pointer_and_by_keyboard(opened, cells):
    browser, evidence = opened(), compare(cells)
    means = {evidence.board.title(method): round(evidence.score(method, "rte").mean, 4) for method in METHODS}
    names = sorted(means, key=lambda title: -means[title])
    head = 'table[data-name="glue"] th[data-key=rte]'
    click(browser, f"{head} button")
    assert column(browser, "glue", 1) == names
    assert browser.evaluate(f"document.querySelector('{head}').getAttribute('aria-sort')") == "descending"
    browser.evaluate(f"document.querySelector('{head} button').focus()")
    browser.press("Enter")
    assert column(browser, "glue", 1) == sorted(names, key=means.get), "equal ones keep their order"
    assert browser.evaluate("location.hash") == "#sort=glue.rte.asc"


def test_words_sort_last_in_both_directions(opened):
    browser = opened()
    head = 'table[data-name="glue"] th[data-key=drop] button'
    for _ in range(2):
        click(browser, head)
        assert column(browser, "glue", 1)[-1] == "Full precision", "it has no reference"


def test_filter_keeps_what_matches_everywhere(opened):
    browser = opened()
    browser.evaluate("filter.value = 'kdlsq 2-2'; filter.dispatchEvent(new Event('input'))")
    assert column(browser, "glue", 1) == ["KDLSQ-BERT, 2 bits"] == column(browser, "task-rte", 1)
    assert texts(browser, "#shown") == ["1 of 7 methods"]
    browser.evaluate("filter.value = ''; filter.dispatchEvent(new Event('input'))")
    assert len(column(browser, "glue", 1)) == len(METHODS)


def test_plot_and_table_light_up_together(opened, cells):
    browser = opened()
    same = f"[data-m='{METHODS.index('lat_2bit')}']"
    browser.evaluate(f'document.querySelector(".plot .axis-paper .point{same}").focus()')
    assert browser.evaluate(f'document.querySelector("table[data-name=glue] tr{same}").classList.contains("lit")')
    assert "TernaryBERT, LAT: " in texts(browser, "#tip")[0]
    browser.press("Escape")
    assert becomes_true(browser, "!tip.checkVisibility()")
    browser.evaluate("document.activeElement.blur()")
    assert browser.evaluate("document.querySelectorAll('.lit').length") == 0
    row = 'table[data-name="glue"] tbody tr'
    browser.evaluate(f"document.querySelector('{row}').dispatchEvent(new MouseEvent('mouseover', {{bubbles: true}}))")
    assert browser.evaluate("document.querySelectorAll('.point.lit').length") > 0


def test_a_number_opens_its_cell_and_the_keyboard_closes_it(opened):
    browser = opened()
    link = 'table[data-name="glue"] a[href="#lat_2bit_rte"]'
    browser.evaluate(f"document.querySelector('{link}').focus()")
    browser.press("Enter")
    assert becomes_true(browser, "drawer.open") and texts(browser, "#drawer-title") == ["TernaryBERT, LAT on RTE"]
    text = texts(browser, "#drawer-body")[0]
    assert "snakemake results/lat_2bit_rte.json" in text and "sha256" in text
    assert "Recipe and sources" in text and browser.evaluate("location.hash") == "#lat_2bit_rte"
    browser.press("Escape")
    assert becomes_true(browser, "!drawer.open")
    focus = f"document.activeElement === document.querySelector('{link}')"
    assert becomes_true(browser, focus), "the focus returns to the link"
    assert browser.evaluate("document.getElementById('lat_2bit_rte').querySelectorAll('.inside').length") == 1


def test_deep_links_restore_what_was_shown(opened):
    browser = opened("#lat_2bit_rte")
    assert browser.evaluate("drawer.open")
    browser = opened("#sort=glue.cola.asc&filter=bit&axis=file&protocol=other&view=drop&against=0")
    assert browser.evaluate("document.querySelector('.plot .axis-file').checkVisibility()")
    assert browser.evaluate("document.querySelector('.p-other').checkVisibility()")
    assert browser.evaluate("filter.value + against.value") == "bit0"
    assert "From Full precision" in texts(browser, ".against-name")[0]
    browser.evaluate("remember()")
    assert browser.evaluate("location.hash") == "#sort=glue.cola.asc&filter=bit&against=0&axis=file&protocol=other&view=drop"


def test_unknown_deep_links_do_nothing(opened):
    browser = opened("#sort=nothing.at.all&axis=<b>&against=99")
    assert column(browser, "glue", 1)[0] == "Full precision"
    for hash in ("#%3Cimg%20src=x%3E", "#%", "#theme", "#nothing"):
        opened(hash)


def test_the_picker_finds_the_best_that_fits(opened, cells):
    browser, evidence = opened(), compare(cells)
    tasks = ["cola", "mrpc", "qqp", "rte"]
    sizes = {method: cell_at(cells, method, "rte")["measured"]["size"]["file"]["bytes"] for method in METHODS}
    small = [method for method in METHODS if sizes[method] < 30 * 2**20]
    best = max(small, key=lambda method: evidence.average(method, tasks).value or 0)
    browser.evaluate("picker.elements.size.value = 30; pick()")
    assert texts(browser, ".picked") == [evidence.board.title(best)]
    browser.evaluate("picker.elements.size.value = 3; pick()")
    assert texts(browser, ".picked") == ["No method is within your limits."]
    speeds = {method: evidence.board.latencies.speed(method, tasks) for method in METHODS}
    times = {method: speed.milliseconds for method, speed in speeds.items() if not isinstance(speed, str)}
    fast = max(
        (method for method, time in times.items() if time < 0.7), key=lambda method: evidence.average(method, tasks).value
    )
    browser.evaluate("picker.elements.size.value = ''; picker.elements.time.value = 0.7; pick()")
    assert texts(browser, ".picked") == [evidence.board.title(fast)]
    assert f"{times[fast]:.3g} ms" in texts(browser, "#picked")[0]


def test_every_method_against_a_chosen_one(opened, cells):
    browser, evidence = opened(), compare(cells)
    before = column(browser, "task-rte", 5)
    browser.evaluate(f"against.value = '{METHODS.index('lat_2bit')}'; against.dispatchEvent(new Event('change'))")
    found = dict(zip(column(browser, "task-rte", 1), column(browser, "task-rte", 5), strict=True))
    difference = evidence.score("lsq_4bit", "rte").mean - evidence.score("lat_2bit", "rte").mean
    assert float(found["KDLSQ-BERT, 4 bits"].replace("\N{MINUS SIGN}", "-")) == pytest.approx(difference, abs=0.06)
    assert found["TernaryBERT, LAT"] == "itself"
    browser.evaluate("against.value = ''; against.dispatchEvent(new Event('change'))")
    assert column(browser, "task-rte", 5) == before


def test_an_older_report_is_compared(opened, page, tmp_path):
    browser = opened()
    older = json.loads(browser.evaluate("decode(document.querySelector('[download=\"report.json\"]').href)"))
    row = next(row for row in older["rows"] if (row["method"], row["task"]) == ("lat_2bit", "rte"))
    row["mean"] -= 2
    older["rows"] = [row for row in older["rows"] if row["task"] != "qqp"]
    contents = {"{": "is not JSON", '{"format": 9}': "is not a report.json", json.dumps(older): "cells differ"}
    for number, (content, words) in enumerate(contents.items()):
        path = tmp_path / f"older{number}.json"
        path.write_text(content)
        browser.choose_file("#older", path)
        for _ in range(100):
            if any(words in text for text in texts(browser, "#compared")):
                break
            browser.evaluate("new Promise(done => setTimeout(done, 20))")
        assert words in texts(browser, "#compared")[0]
    rows = browser.evaluate("all('#differences tbody tr').map(row => [...row.cells].map(one => one.textContent))")
    assert ["TernaryBERT, LAT", "rte", "+2.0"] in [[row[0], row[1], row[4]] for row in rows]
    assert sum(row[1] == "qqp" and row[2] == "not run" for row in rows) == len(METHODS)


POOR_CONTRAST = """
(() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const mixed = (above, below) => {
    for (canvas.fillStyle of [below, above]) canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const linear = (value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4);
  const weights = [0.2126, 0.7152, 0.0722];
  const luminance = (rgb) => rgb.map((value) => linear(value / 255)).reduce((sum, value, i) => sum + weights[i] * value, 0);
  const ground = (one) => {
    const layers = [];
    for (let up = one; up; up = up.parentElement) layers.unshift(getComputedStyle(up).backgroundColor);
    return layers.reduce((below, above) => `rgb(${mixed(above, below)})`, "white");
  };
  const hasText = (one) => [...one.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
  const poor = [];
  for (const one of document.querySelectorAll("body *")) {
    if (!hasText(one) || one.closest("script, title") || !one.checkVisibility()) continue;
    const below = ground(one), style = getComputedStyle(one);
    const colour = one.closest("svg") ? style.fill : style.color;
    const ink = luminance(mixed(colour, below)), paper = luminance(mixed(below, below));
    const contrast = (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
    const name = `${one.tagName} ${one.getAttribute("class")} ${one.textContent.trim().slice(0, 30)}`;
    if (contrast < 4.5) poor.push(`${name}: ${contrast.toFixed(2)}`);
  }
  return poor;
})()
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_contrasts(opened, browser, scheme):
    opened()
    browser.evaluate(f"showTheme('{scheme}'); all('details').forEach(one => one.open = true); light('2')")
    assert browser.evaluate(POOR_CONTRAST) == []


def test_dark_mode_follows_the_system_and_the_toggle(browser, page):
    def paper():
        return browser.evaluate("getComputedStyle(document.body).backgroundColor")

    browser.open(page)
    browser.evaluate("localStorage.clear()")
    found = []
    for scheme in ("light", "dark"):
        browser.prefer(prefers_color_scheme=scheme)
        browser.open(page)
        found.append(paper())
        click(browser, "#theme")
        found.append(paper())
        browser.evaluate("localStorage.clear()")
    light, toggled, dark, toggled_back = found
    assert light == toggled_back and dark == toggled and light != dark
    browser.prefer(prefers_color_scheme="dark")
    browser.open(page, script=False)
    assert paper() == dark, "without script too"


def test_motion_is_left_out_where_it_is_not_wanted(browser, page):
    browser.prefer(prefers_reduced_motion="reduce")
    browser.open(page)
    assert browser.evaluate("getComputedStyle(document.querySelector('.point')).transitionDuration") in ("0s", "")
    assert browser.evaluate("getComputedStyle(document.documentElement).scrollBehavior") == "auto"


def test_paper_shows_everything_that_stands_open_and_no_controls(opened, browser):
    opened()
    browser.prefer(media="print")
    assert not browser.evaluate("document.querySelector('.top').checkVisibility()")
    assert not browser.evaluate("document.querySelector('#picker').checkVisibility()")
    assert browser.evaluate("document.querySelector('table[data-name=glue]').checkVisibility()")
    assert browser.evaluate("getComputedStyle(document.querySelector('.scroll')).overflowX") == "visible"
    printed = browser.call("Page.printToPDF", preferCSSPageSize=True, printBackground=False)["data"]
    assert len(printed) > 10_000


def test_tab_reaches_every_control_and_the_points(opened):
    browser = opened()
    seen = set()
    for _ in range(60):
        browser.press("Tab")
        seen.add(browser.evaluate("document.activeElement.id || document.activeElement.getAttribute('class') || ''"))
    assert {"skip", "theme", "axis-paper"} <= seen
    assert any(re.match(r"point f\d", name) for name in seen)
