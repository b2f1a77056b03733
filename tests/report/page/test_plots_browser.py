"""The plots in a real browser: choices without a script, tips by pointer, keyboard and finger, filter and printing."""

import json

import pytest

from report.evidence.comparison import compare
from report.page.page import render
from tests.fixtures import cells as fixture
from tests.fixtures.pages import becomes_true

METHODS = ("fp32", "rtn_2bit", "lsq_4bit", "lat_2bit", "tws_1bit")
MAIN = ".p-primary .axis-file .range-close .wide"


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "index.html"
    path.write_text(render(compare(fixture.board(METHODS, ("mrpc", "rte"), seeds=(1, 2, 3), rows=150))), encoding="utf-8")
    return path


@pytest.fixture
def opened(browser, page):
    """Return a function that opens the page; after the test check that nothing failed."""

    def open_page(**options):
        browser.open(page, **options)
        return browser

    yield open_page
    assert browser.problems == []


def visible(browser, selector: str) -> bool:
    return browser.evaluate(f"[...document.querySelectorAll({json.dumps(selector)})].some(one => one.checkVisibility())")


def choose(browser, name: str) -> None:
    browser.evaluate(f"document.getElementById({json.dumps(name)}).click()")


def place(browser, selector: str) -> dict:
    """Scroll an element into view and return the middle of its point."""
    return json.loads(
        browser.evaluate(f"""(() => {{
            const one = document.querySelector({json.dumps(selector)});
            one.scrollIntoView({{behavior: "instant", block: "center"}});
            const box = one.querySelector("use").getBoundingClientRect();
            return JSON.stringify({{x: box.x + box.width / 2, y: box.y + box.height / 2}});
        }})()""")
    )


def point_at(browser, selector: str) -> None:
    browser.call("Input.dispatchMouseEvent", type="mouseMoved", **place(browser, selector))


def tap(browser, selector: str) -> None:
    where = place(browser, selector)
    browser.call("Input.dispatchTouchEvent", type="touchStart", touchPoints=[where])
    browser.call("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])


def test_axis_range_and_protocol_are_chosen_without_a_script(opened):
    browser = opened(script=False)
    assert visible(browser, f"{MAIN} .point") and not visible(browser, ".axis-file .range-all svg")
    choose(browser, "range-all")
    assert visible(browser, ".axis-file .range-all .wide .point") and not visible(browser, ".range-close svg")
    choose(browser, "axis-latency")
    assert visible(browser, ".axis-latency .range-all .wide") and not visible(browser, ".plot .axis-file")
    choose(browser, "protocol-other")
    assert visible(browser, ".p-other .axis-latency .range-all .wide") and not visible(browser, ".plot .p-primary")


@pytest.mark.parametrize(("width", "size", "other"), [(360, "narrow", "wide"), (1440, "wide", "narrow")])
def test_a_telephone_has_a_plot_of_its_own_with_readable_names(opened, width, size, other):
    browser = opened(width=width)
    assert visible(browser, f".plot .{size}") and not visible(browser, f".plot .{other}")
    height = "Math.min(...[...document.querySelectorAll('.plot .point text')].filter(one => one.checkVisibility())"
    assert browser.evaluate(f"{height}.map(one => one.getBoundingClientRect().height))") >= 11
    assert browser.evaluate("document.documentElement.scrollWidth") <= width


def test_a_pointer_shows_the_tip_and_lights_the_method_up_everywhere(opened):
    browser = opened()
    point_at(browser, f"{MAIN} .point[data-m=rtn_2bit]")
    assert becomes_true(browser, "tip.checkVisibility()")
    text = browser.evaluate("tip.innerText")
    for words in (
        "Rounding, 2 bits\n",
        "points lost (95 % CI ",
        ": worse",
        "2-2-8 bits",
        "28.0 MiB on disk, 14.9× smaller",
        "0.719 ms",
    ):
        assert words in text, words
    assert "a sentence on An invented processor, 4 threads" in text
    assert browser.evaluate("[...document.querySelectorAll('.panels .lit')].every(one => one.dataset.m === 'rtn_2bit')")
    assert browser.evaluate("document.querySelectorAll('.panels .lit').length") > 1
    browser.press("Escape")
    assert becomes_true(browser, "!tip.checkVisibility()")


def test_the_tip_of_a_panel_is_of_its_task_and_a_click_opens_the_cell(opened):
    browser = opened()
    panel = ".p-primary .panels figure[data-scope=rte] .point[data-m=lat_2bit]"
    point_at(browser, panel)
    assert becomes_true(browser, "tip.checkVisibility()")
    score = browser.evaluate("DATA.tips.results.primary.rte.lat_2bit[0]")
    assert score in browser.evaluate("tip.innerText")
    browser.evaluate(
        f"document.querySelector({json.dumps(panel)}).dispatchEvent(new MouseEvent('click', {{bubbles: true}}))"
    )
    assert becomes_true(browser, "drawer.open") and "RTE" in browser.evaluate("drawer.innerText.slice(0, 80)")


def test_the_keyboard_shows_the_tip_too(opened):
    browser = opened()
    browser.evaluate(f"document.querySelector('{MAIN} .point[data-m=lat_2bit]').focus()")
    assert becomes_true(browser, "tip.checkVisibility()") and "TernaryBERT, LAT" in browser.evaluate("tip.innerText")
    browser.press("Enter")
    assert becomes_true(browser, "location.hash.includes('method-lat_2bit')")


def test_a_fingers_first_tap_shows_the_tip_and_its_second_leads_on(opened, browser):
    browser.call("Emulation.setTouchEmulationEnabled", enabled=True)
    try:
        opened()
        point = f"{MAIN} .point[data-m=rtn_2bit]"
        tap(browser, point)
        assert becomes_true(browser, "tip.checkVisibility()") and "Tap again to open." in browser.evaluate("tip.innerText")
        assert browser.evaluate("location.hash") == ""
        tap(browser, point)
        assert becomes_true(browser, "location.hash.includes('method-rtn_2bit')")
    finally:
        browser.call("Emulation.setTouchEmulationEnabled", enabled=False)


def test_the_filter_hides_points_names_and_panel_points_and_keeps_the_rest_in_place(opened):
    browser = opened()
    name = f"document.querySelector('{MAIN} .point[data-m=tws_1bit] text')"
    places = f"{name}.getAttribute('x') + {name}.textContent"
    before = browser.evaluate(places)
    browser.evaluate("filter.value = 'binary'; filter.dispatchEvent(new Event('input'))")
    assert visible(browser, f"{MAIN} .point[data-m=tws_1bit] text")
    others = "all('.point, .front li').filter(one => one.dataset.m !== 'tws_1bit')"
    assert browser.evaluate(f"{others}.length && {others}.every(one => getComputedStyle(one).display === 'none')")
    assert browser.evaluate(places) == before


def test_names_do_not_overlap_in_this_machines_font(opened):
    browser = opened()
    texts = f"[...document.querySelectorAll('{MAIN} .point text')].map(one => one.getBoundingClientRect().toJSON())"
    boxes = json.loads(browser.evaluate(f"JSON.stringify({texts})"))
    assert len(boxes) == len(METHODS)
    for number, one in enumerate(boxes):
        for other in boxes[:number]:
            aside = one["right"] <= other["left"] or other["right"] <= one["left"]
            assert aside or one["bottom"] <= other["top"] + 2 or other["bottom"] <= one["top"] + 2


def test_paper_shows_the_plot_and_the_panels(opened, browser):
    opened()
    browser.prefer(media="print")
    assert visible(browser, f"{MAIN} .point text") and visible(browser, ".panels .point")
    browser.prefer()
