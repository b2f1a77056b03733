"""The page in a real browser: no request, no error, and every control works by pointer and by keyboard."""

import json
import re
import time

import pytest

from report.evidence.comparison import compare
from report.page.page import render
from tests.fixtures import cells as fixture
from tests.fixtures.pages import POOR_CONTRAST, becomes_true, click, column, texts

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
def evidence(cells):
    return compare(cells, {("lsq_4bit", "wnli"): "The disk is full."})


@pytest.fixture(scope="module")
def page(evidence, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "index.html"
    path.write_text(render(evidence), encoding="utf-8")
    return path


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


def type_into(browser, selector: str, text: str) -> None:
    """Set an input as a reader would, with the event that scripts listen for."""
    place = f"document.querySelector({json.dumps(selector)})"
    browser.evaluate(f"{place}.value = {json.dumps(text)}; {place}.dispatchEvent(new Event('input', {{bubbles: true}}))")


def choose(browser, selector: str, value: str) -> None:
    type_into(browser, selector, value)
    browser.evaluate(f"document.querySelector({json.dumps(selector)}).dispatchEvent(new Event('change', {{bubbles: true}}))")


def hash_of(browser) -> str:
    return browser.evaluate("location.hash")


# Whole, with and without a script


@pytest.mark.parametrize("width", [360, 1440])
@pytest.mark.parametrize("script", [True, False])
def test_it_opens_whole_at_both_widths_with_and_without_script(opened, width, script):
    browser = opened(width=width, script=script)
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    assert len(texts(browser, "h2")) >= 9
    assert column(browser, "glue", 1)[0] == "Full precision"
    if not script:
        assert browser.evaluate("[...document.querySelectorAll('.js-only')].every(one => !one.checkVisibility())")
        assert "Choosing by limits needs JavaScript" in texts(browser, "#picker ~ noscript")[0]
        click(browser, "#axis-paper")  # the choices are style, not script
        assert browser.evaluate("document.querySelector('.plot .axis-paper').checkVisibility()")
        assert not browser.evaluate("document.querySelector('.plot .axis-file').checkVisibility()")
        click(browser, "#protocol-other")
        assert browser.evaluate("document.querySelector('.p-other').checkVisibility()")
        assert not browser.evaluate("document.querySelector('.p-primary').checkVisibility()")


def test_no_name_is_ever_markup(opened):
    browser = opened()
    assert browser.evaluate("document.querySelectorAll('img, iframe').length") == 0
    assert fixture.HOSTILE in column(browser, "glue", 1)
    type_into(browser, "#filter", "<img")
    assert column(browser, "glue", 1) == [fixture.HOSTILE]
    type_into(browser, "#limits [name=size]", "20")
    choose(browser, "#against", "bwn_1bit")
    assert browser.evaluate("document.querySelectorAll('img, iframe').length") == 0


def test_the_protocol_switch_changes_headline_tables_tasks_and_picker(opened, evidence):
    browser = opened()
    selectors = (".headline", "table[data-name=glue]", "table[data-name=task-rte]", "#picked")
    before = {selector: texts(browser, selector) for selector in selectors}
    click(browser, "#protocol-other")
    after = {selector: texts(browser, selector) for selector in selectors}
    assert all(len(before[selector]) == len(after[selector]) == 1 for selector in selectors), "one protocol at a time"
    assert all(before[selector] != after[selector] for selector in selectors[1:])
    best = evidence.score("lat_2bit", "rte", "best")
    assert dict(zip(column(browser, "task-rte", 1), column(browser, "task-rte", 3), strict=True))["TernaryBERT, LAT"] == (
        f"{best.mean:.1f}"
    )
    assert hash_of(browser) == "#protocol=other"


# Sorting and filtering


def test_heads_sort_both_ways_and_a_third_click_restores(opened, evidence):
    browser = opened()
    means = {evidence.board.title(method): round(evidence.score(method, "rte").mean, 4) for method in METHODS}
    names = sorted(means, key=lambda title: -means[title])
    own_order = column(browser, "glue", 1)
    head = 'table[data-name="glue"] th[data-key=rte]'
    click(browser, f"{head} button")
    assert column(browser, "glue", 1) == names
    assert browser.evaluate(f"document.querySelector('{head}').getAttribute('aria-sort')") == "descending"
    browser.evaluate(f"document.querySelector('{head} button').focus()")
    browser.press("Enter")
    assert column(browser, "glue", 1) == sorted(names, key=means.get), "equal ones keep their order"
    assert hash_of(browser) == "#sort=glue.rte.asc"
    browser.press("Enter")
    assert column(browser, "glue", 1) == own_order
    assert hash_of(browser) == "" and browser.evaluate("document.querySelectorAll('[aria-sort]').length") == 0


def test_sorting_flattens_budget_groups(opened):
    """The groups are put in here, as the main table has them: a body for each budget, with its title in the first row."""
    browser = opened()
    shown = browser.evaluate("""(() => {
      const table = document.createElement("table");
      const row = (name, value) => `<tr data-m="${name}"><th>${name}</th><td data-v="${value}">${value}</td></tr>`;
      const group = (title) => `<tr class="group"><th colspan="2">${title}</th></tr>`;
      table.dataset.name = "grouped";
      table.innerHTML = `<thead><tr><th data-key="name">Name</th><th data-key="v">V</th></tr></thead>
        <tbody>${group("2 bits")}${row("lat_2bit", 3)}${row("lsq_2bit", 1)}</tbody>
        <tbody>${group("4 bits")}${row("lsq_4bit", 2)}</tbody>`;
      document.querySelector("main").append(table);
      boards.push(table);
      ownOrder.set(table, [...table.tBodies].map((body) => [body, [...body.rows]]));
      placeCells(table.tHead.rows);
      for (const row of table.rows) if (row.closest("tbody")) placeCells([row]);
      const rows = () => all("tbody tr", table).filter((one) => !one.hidden);
      const visible = () => rows().map((one) => one.cells[0].textContent);
      const found = [visible()];
      sortTables("grouped", { key: "v", descending: true });
      found.push(visible());
      sortTables("grouped", null);
      found.push(visible());
      filter.value = "lsq 4";
      applyFilter();
      found.push(visible());
      return found;
    })()""")
    grouped = ["2 bits", "lat_2bit", "lsq_2bit", "4 bits", "lsq_4bit"]
    assert shown == [grouped, ["lat_2bit", "lsq_4bit", "lsq_2bit"], grouped, ["4 bits", "lsq_4bit"]]


def test_words_sort_last_in_both_directions(opened):
    browser = opened()
    head = 'table[data-name="task-rte"] th[data-key=loss] button'
    for _ in range(2):
        click(browser, head)
        assert column(browser, "task-rte", 1)[-1] == "Full precision", "it is the reference"


def test_filter_keeps_what_matches_everywhere(opened):
    browser = opened()
    front = texts(browser, ".axis-file .front li")
    points = ".plot .p-primary .axis-file .range-close .wide .point"
    type_into(browser, "#filter", "kdlsq 4-4")
    assert column(browser, "glue", 1) == ["KDLSQ-BERT, 4 bits"] == column(browser, "task-rte", 1)
    assert texts(browser, "#shown") == ["1 of 7 methods"]
    visible = f"all('{points}').filter(one => one.checkVisibility()).map(one => one.dataset.m)"
    assert browser.evaluate(visible) == ["lsq_4bit"], "points of the plot too"
    assert texts(browser, ".picked") == ["KDLSQ-BERT, 4 bits"]
    assert len(texts(browser, "details.cell")) == len(TASKS)
    type_into(browser, "#filter", "")
    assert len(column(browser, "glue", 1)) == len(METHODS) and texts(browser, ".axis-file .front li") == front
    assert browser.evaluate(visible.replace("map(one => one.dataset.m)", "length")) == len(METHODS)


def test_plot_and_table_light_up_together(opened):
    browser = opened()
    same = "[data-m='lat_2bit']"
    browser.evaluate(f'document.querySelector(".plot .p-primary .axis-file .range-close .wide .point{same}").focus()')
    assert browser.evaluate(f'document.querySelector("table[data-name=glue] tr{same}").classList.contains("lit")')
    assert "TernaryBERT, LAT" in texts(browser, "#tip")[0]
    browser.press("Escape")
    assert becomes_true(browser, "!tip.checkVisibility()")
    browser.evaluate("document.activeElement.blur()")
    assert browser.evaluate("document.querySelectorAll('.lit').length") == 0
    row = 'table[data-name="glue"] tbody tr[data-m]'
    browser.evaluate(f"document.querySelector('{row}').dispatchEvent(new MouseEvent('mouseover', {{bubbles: true}}))")
    assert browser.evaluate("document.querySelectorAll('.point.lit').length") > 0


# The drawer, the address, Back and Forward

LINK = 'table[data-name="glue"] a[href="#lat_2bit_rte"]'


def test_a_number_opens_its_cell_and_the_keyboard_closes_it(opened):
    browser = opened()
    browser.evaluate(f"document.querySelector('{LINK}').focus()")
    browser.press("Enter")
    assert becomes_true(browser, "drawer.open") and texts(browser, "#drawer-title") == ["TernaryBERT, LAT on RTE"]
    text = texts(browser, "#drawer-body")[0]
    assert "snakemake results/lat_2bit_rte.json" in text and "git checkout" in text and "sha256" in text
    assert "Recipe and sources" in text and hash_of(browser) == "#cell=lat_2bit_rte"
    browser.press("Escape")
    assert becomes_true(browser, "!drawer.open && location.hash === ''")
    focus = f"document.activeElement === document.querySelector('{LINK}')"
    assert becomes_true(browser, focus), "the focus returns to the link"
    assert browser.evaluate("document.getElementById('lat_2bit_rte').querySelectorAll('.inside').length") == 1


def test_a_cell_keeps_filter_and_sort_and_back_closes_it(opened):
    browser = opened()
    type_into(browser, "#filter", "bit")
    click(browser, 'table[data-name="glue"] th[data-key=rte] button')
    kept = "#sort=glue.rte.desc&filter=bit"
    assert hash_of(browser) == kept
    order = column(browser, "glue", 1)
    click(browser, LINK)
    assert becomes_true(browser, "drawer.open") and hash_of(browser) == f"{kept}&cell=lat_2bit_rte"
    browser.evaluate("history.back()")
    assert becomes_true(browser, "!drawer.open") and hash_of(browser) == kept
    assert column(browser, "glue", 1) == order and browser.evaluate("filter.value") == "bit"
    browser.evaluate("history.forward()")
    assert becomes_true(browser, "drawer.open") and hash_of(browser) == f"{kept}&cell=lat_2bit_rte"
    click(browser, "#drawer-close")
    assert becomes_true(browser, f"!drawer.open && location.hash === '{kept}'")
    browser.evaluate("history.forward()")
    assert becomes_true(browser, "drawer.open"), "closing is going back"


def test_cells_opened_one_from_another_are_left_together(opened):
    browser = opened()
    click(browser, LINK)
    click(browser, 'table[data-name="glue"] a[href="#lsq_4bit_rte"]')
    assert texts(browser, "#drawer-title") == ["KDLSQ-BERT, 4 bits on RTE"]
    browser.evaluate("history.back()")
    assert becomes_true(browser, "byId('drawer-title').textContent === 'TernaryBERT, LAT on RTE'")
    browser.evaluate("history.forward()")
    assert becomes_true(browser, "byId('drawer-title').textContent.startsWith('KDLSQ')")
    while browser.address() != browser.evaluate("location.href"):
        time.sleep(0.02)  # steps back are counted from where the browser believes to be
    click(browser, "#drawer-close")
    assert becomes_true(browser, "!drawer.open && location.hash === ''")


def test_a_link_out_of_the_drawer_leads_to_the_page_below(opened):
    browser = opened("#filter=lat&cell=lat_2bit_rte")
    assert browser.evaluate("drawer.open")
    click(browser, "#drawer-body a[href='#task-rte']")
    assert becomes_true(browser, "!drawer.open") and hash_of(browser) == "#filter=lat&at=task-rte"
    browser.evaluate("history.back()")
    assert becomes_true(browser, "drawer.open"), "Back returns to the cell"


def test_plain_links_and_deep_links_restore_what_was_shown(opened):
    browser = opened("#lat_2bit_rte")
    assert browser.evaluate("drawer.open") and hash_of(browser) == "#cell=lat_2bit_rte"
    click(browser, "#drawer-close")
    assert becomes_true(browser, "!drawer.open && location.hash === ''")
    browser.evaluate("location.hash = '#lsq_4bit_rte'")
    assert becomes_true(browser, "drawer.open"), "typed into the address"
    address = "#sort=glue.cola.asc&protocol=other&axis=paper&size=30&view=loss&filter=bit&against=lat_2bit"
    browser = opened(address)
    assert browser.evaluate("document.querySelector('.plot .p-other .axis-paper').checkVisibility()")
    assert browser.evaluate("document.querySelector('.p-other').checkVisibility()")
    assert browser.evaluate("filter.value + against.value") == "bitlat_2bit"
    assert "from TernaryBERT, LAT" in texts(browser, ".against-name")[0]
    browser.evaluate("remember()")
    assert hash_of(browser) == address


def test_unknown_deep_links_do_nothing(opened):
    browser = opened("#sort=nothing.at.all&axis=<b>&against=99&cell=none&at=nowhere")
    assert column(browser, "glue", 1)[0] == "Full precision" and not browser.evaluate("drawer.open")
    for hash in ("#%3Cimg%20src=x%3E", "#%", "#theme", "#nothing", "#sort=glue", "#sort=.."):
        opened(hash)


# Picker and comparisons


def limit(browser, **limits) -> None:
    for name in ("size", "drop", "latency"):
        type_into(browser, f"#limits [name={name}]", str(limits.get(name, "")))


def test_the_picker_finds_the_best_and_says_why_others_fail(opened, evidence, cells):
    browser = opened()
    board, tasks = evidence.board, evidence.board.main_tasks()
    average = {method: evidence.average(method, tasks) for method in METHODS}
    assert [board.task_title(task) in texts(browser, "[name=scope]")[0] for task in tasks] == [True] * len(tasks)
    sizes = {
        method: max(board.cell(method, task)["measured"]["size"]["file"]["bytes"] for task in tasks) for method in METHODS
    }
    small = [method for method in METHODS if sizes[method] <= 30 * 2**20]
    limit(browser, size=30)
    assert texts(browser, ".picked") == [board.title(max(small, key=lambda method: average[method].value))]
    assert hash_of(browser) == "#size=30"
    limit(browser, size=30, drop=1)
    fails = "\n".join(texts(browser, ".fails li"))
    assert re.search(r"Loses too much: .*loses \d+\.?\d* points, more than 1", fails)
    assert re.search(r"Too large: Full precision \(\d+\.\d+ MiB is above 30\)", fails)
    limit(browser, size=3)
    assert texts(browser, ".picked") == ["No method is within your limits."]
    limit(browser, latency=0.7)
    speeds = {method: board.latencies.speed(method, tasks) for method in METHODS}
    times = {method: speed.milliseconds for method, speed in speeds.items() if not isinstance(speed, str)}
    fast = max((method for method, time in times.items() if time <= 0.7), key=lambda method: average[method].value)
    assert texts(browser, ".picked") == [board.title(fast)]
    assert f"{times[fast]:.3g} ms" in texts(browser, "#picked")[0]
    assert "latency not measured" in "\n".join(texts(browser, ".fails li"))
    assert "An invented processor, 4 threads" in texts(browser, ".picker")[0], "the device is named"


def test_the_picker_says_what_was_not_run_or_diverged(browser, tmp_path):
    cells = fixture.board(("fp32", "lsq_4bit", "lsq_2bit", "lada_10x"), ("cola", "rte"), seeds=(1, 2, 3), rows=80)
    cells = [cell for cell in cells if (cell["request"]["method"], cell["request"]["task"]) != ("lsq_4bit", "rte")]
    path = tmp_path / "index.html"
    path.write_text(render(compare(cells)), encoding="utf-8")
    browser.open(path)
    (fails,) = texts(browser, ".fails li")
    assert "KDLSQ-BERT, 4 bits (not run on RTE)" in fails
    assert "LadaBERT, 10 times (diverged on RTE)" in fails
    assert "KDLSQ-BERT, 2 bits (1 of 6 runs diverged)" in fails, "one of three on CoLA"


def test_every_method_against_a_chosen_one(opened, evidence):
    browser = opened()
    before = column(browser, "task-rte", 5)
    choose(browser, "#against", "lat_2bit")
    found = dict(zip(column(browser, "task-rte", 1), column(browser, "task-rte", 5), strict=True))
    lost = evidence.score("lat_2bit", "rte").mean - evidence.score("lsq_4bit", "rte").mean
    assert float(found["KDLSQ-BERT, 4 bits"].replace("\N{MINUS SIGN}", "-")) == pytest.approx(lost, abs=0.06)
    assert found["TernaryBERT, LAT"] == "itself" and hash_of(browser) == "#against=lat_2bit"
    choose(browser, "#against", "")
    assert column(browser, "task-rte", 5) == before and hash_of(browser) == ""


def test_an_older_report_is_compared(opened, tmp_path):
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
        assert becomes_true(browser, f"byId('compared').textContent.includes({json.dumps(words)})")
    rows = browser.evaluate("all('#differences tbody tr').map(row => [...row.cells].map(one => one.textContent))")
    assert ["TernaryBERT, LAT", "rte", "+2.0"] in [[row[0], row[1], row[4]] for row in rows]
    assert sum(row[1] == "qqp" and row[2] == "not run" for row in rows) == len(METHODS)


# Colours, motion, keyboard, paper


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_contrasts(opened, browser, scheme):
    opened()
    browser.evaluate(f"showTheme('{scheme}'); all('details').forEach(one => one.open = true); light('lsq_4bit')")
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


FOCUSABLE = "a[href], button, input, select, summary, [tabindex]"
STOPS = f"[...document.querySelectorAll('{FOCUSABLE}')].filter(one => one.tabIndex >= 0 && one.checkVisibility())"


def test_tables_and_plots_are_few_tab_stops(opened):
    browser = opened()
    of_table = f"{STOPS}.filter(one => one.closest('table[data-name=glue]')).length"
    assert browser.evaluate(of_table) == 1 + len(METHODS), "the heads, and the name in each row"
    in_plot = f"{STOPS}.filter(one => one.closest('.plot .range-close .wide')).length"
    assert browser.evaluate(in_plot) == 1
    assert browser.evaluate(f"{STOPS}.filter(one => one.closest('details.cell')).length") == 1
    rows = browser.evaluate("all('table.board tbody th a').filter(one => one.checkVisibility()).length")
    assert browser.evaluate(f"{STOPS}.length") < 80 + rows + 3 * len(METHODS)
    with_script = browser.evaluate(f"{STOPS}.length")
    browser = opened(script=False)
    assert browser.evaluate(f"{STOPS}.length") > 2 * with_script, "without a script everything is a stop"


def test_arrow_keys_move_in_tables_and_plots(opened):
    browser = opened()

    def focused(what: str):
        return browser.evaluate(f"document.activeElement.{what}")

    browser.evaluate("document.querySelector('table[data-name=glue] tr[data-m=lat_2bit] a').focus()")
    for _ in range(5):  # bits, size, ratio, time, score
        browser.press("ArrowRight")
    assert focused("hash") == "#lat_2bit_cola"
    browser.press("End")
    last = focused("closest('td').cellIndex")
    browser.press("ArrowUp")
    assert focused("closest('tr').dataset.m") == "lsq_2bit" and focused("closest('td').cellIndex") == last
    browser.press("Home")
    assert focused("hash") == "#method-lsq_2bit"
    browser.evaluate("document.querySelector('table[data-name=glue] thead button').focus()")
    browser.press("ArrowRight")
    assert focused("closest('th').cellIndex") == 1 and focused("tabIndex") == 0
    browser.press("ArrowDown")
    assert focused("closest('tbody') !== null")
    points = "all('.plot .p-primary .axis-file .range-close .wide .point')"
    browser.evaluate(f"{points}[0].focus()")
    browser.press("ArrowRight")
    assert browser.evaluate(f"{points}.indexOf(document.activeElement)") == 1


def test_the_navigation_marks_the_section_in_view(opened):
    browser = opened()
    browser.evaluate("document.documentElement.style.scrollBehavior = 'auto'; byId('tasks').scrollIntoView()")
    assert becomes_true(browser, "document.querySelector('nav a[href=\"#tasks\"]').ariaCurrent === 'true'")
    assert browser.evaluate("all('nav a[aria-current]').length") == 1


def test_paper_shows_everything_that_stands_open_and_no_controls(opened, browser, tmp_path):
    opened()
    browser.prefer(media="print")
    for hidden in (".top", "#limits", "#protocol-other", "details.cell", ".on-screen"):
        assert not browser.evaluate(f"document.querySelector('{hidden}').checkVisibility()"), hidden
    assert browser.evaluate("document.querySelector('table[data-name=glue]').checkVisibility()")
    assert browser.evaluate("getComputedStyle(document.querySelector('.scroll')).overflowX") == "visible"
    assert browser.evaluate("getComputedStyle(document.querySelector('thead')).display") == "table-header-group"
    browser.evaluate("byId('lat_2bit_rte').open = true")
    assert browser.evaluate("byId('lat_2bit_rte').checkVisibility()"), "what the reader opened is printed"
    browser.print(tmp_path / "page.pdf")
    assert (tmp_path / "page.pdf").stat().st_size > 10_000
