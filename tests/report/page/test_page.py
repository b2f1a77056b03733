"""The page without a browser: its content, its safety, and equal bytes for equal cells."""

import base64
import copy
import html.parser
import itertools
import json
import re

import pytest

from report.evidence.comparison import compare
from report.evidence.statistics import holm
from report.page.data import pairs
from report.page.headline import headline
from report.page.page import render
from report.ticks import log_ticks, round_ticks
from report.wording import bits, probability, score, signed
from tests.fixtures import cells as fixture
from tests.fixtures.cells import cell_at

METHODS = ("fp32", "rtn_2bit", "lsq_4bit", "lat_2bit", "tws_1bit", "bwn_1bit")
TASKS = ("cola", "qqp", "rte", "wnli", "squad", "squad2")
FAILED = {("lsq_4bit", "wnli"): "The disk is full.", ("lada_10x", "rte"): "No memory is left."}


@pytest.fixture(scope="module")
def cells():
    found = fixture.board(METHODS, TASKS, seeds=(1, 2, 3), rows=120)
    return [cell for cell in found if (cell["request"]["method"], cell["request"]["task"]) not in FAILED]


@pytest.fixture(scope="module")
def page(cells):
    return render(compare(cells, FAILED))


class Reader(html.parser.HTMLParser):
    """The tags of a page with their attributes, the text of each table row, and all text."""

    def __init__(self, page: str):
        super().__init__()
        self.tags, self.rows, self.text, self.inside = [], [], "", False
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
            self.inside = True

    def handle_endtag(self, tag):
        self.inside = self.inside and tag not in ("td", "th")

    def handle_data(self, data):
        self.text += data
        if self.inside:
            self.rows[-1][-1] = " ".join(f"{self.rows[-1][-1]} {data}".split())


# Content


def test_the_tables_show_numbers_and_words(cells, page):
    evidence = compare(cells, FAILED)
    rows = Reader(page).rows
    line = next(row for row in rows if row[0].startswith("KDLSQ-BERT, 4 bits lsq_4bit"))
    assert line[0].endswith("4-4-8 bits, 54.3 MiB"), "for phones"
    assert line[1:4] == ["4-4-8", "54.3", "7.7×"] and line[6] == "109.5"
    assert line[7:10] == ["0.938", "1,707", "4.27×"], "4 ms of full precision"
    assert line[11].startswith(score(evidence.score("lsq_4bit", "cola").mean))
    assert line[14] == "failed" and line[15].split()[0] == score(evidence.average("lsq_4bit", ("cola", "qqp", "rte")).value)
    assert any("not run" in row for row in rows if row and row[0].startswith("Binary weights bwn_1bit")), "SQuAD 2.0"
    assert any("†" in text for text in line)


def test_the_reader_is_told_of_gaps_and_sources(page):
    text = " ".join(Reader(page).text.split())
    for words in (
        "cells used only part of the official data, marked †.",
        "2 cells failed: lsq_4bit on WNLI, lada_10x on RTE. Task by task gives the reasons.",
        "failed: The disk is full.",
        "train: 100,000 of 363,846 rows",
        "snakemake results/lsq_4bit_rte.json --config preset=paper",
        "our choice; the paper does not say",
        "2e-05; 3e-05 for SQuAD v1.1, SQuAD v2.0",
        "Times: An invented processor, 4 threads, packed engine (avx512_vnni kernels)",
        "not measured",
        "paired over examples and seeds",
    ):
        assert words in text, words
    assert "Demo:" not in text


def test_the_demo_is_called_one():
    page = render(compare(fixture.board(("fp32",), ("rte",), seeds=(1,), rows=50, source="generated")))
    assert "Demo: generated data and a tiny model. Do not compare these numbers with any paper." in page
    assert "No published figure can be compared with ours" in page and "reproduced<" not in page
    assert "with one seed" in page


def test_diverged_seeds_are_counted_in_words(cells):
    cells = copy.deepcopy(cells)
    for number, method in enumerate(("tws_1bit", "lat_2bit")):
        measured = cell_at(cells, method, "rte")["measured"]
        lost = measured["seeds"][: 3 - 2 * number]
        for seed in lost:
            seed |= {"status": "diverged", "reason": "loss became nan at step 7", "scores": None}
        for protocol in measured["protocols"].values():
            for summary in protocol["metrics"].values():
                summary |= {"n": 3 - len(lost), "n_diverged": len(lost)} | ({} if number else {"mean": None, "sd": None})
        if not number:
            measured["outcomes"] = None
            measured["protocols"]["last"]["drop"] = measured["protocols"]["best"]["drop"] = None
    page = render(compare(cells))
    assert "diverged (3 of 3)" in page and "diverged (1 of 3)" in page and "loss became nan at step 7" in page
    assert "4 runs of" in page  # the checklist


def test_an_odd_cell_is_named_and_the_others_are_compared(cells):
    cells = copy.deepcopy(cells)
    cell_at(cells, "lat_2bit", "rte")["request"]["primary"] = "best"
    page = render(compare(cells))
    text = " ".join(Reader(page).text.split())
    assert (
        "Not compared, because they were made differently: TernaryBERT, LAT on RTE (primary protocol best, not last)" in text
    )
    assert "Not compared with other cells: primary protocol best, not last." in text
    assert '<span class="v-verdict">▽</span>' in page, "the others have verdicts"


def test_a_page_on_which_every_method_has_an_odd_cell_has_no_average(cells):
    cells = [cell for cell in copy.deepcopy(cells) if cell["request"]["method"] != "fp32"]
    for number, cell in enumerate(cells):
        cell["request"]["preset"] = f"preset{number % 2}"
    page = render(compare(cells))
    assert "No method has a comparable score on every task, so there is no average to plot" in page


def test_a_method_shows_its_deviations_and_nothing_where_none_is_declared(page):
    text = " ".join(Reader(page).text.split())
    assert text.count("Known deviations from the paper") == 1
    assert "The learning rate is the paper's for GLUE on SQuAD too." in text
    assert "none is declared" not in text


def test_an_unknown_family_and_an_unknown_task_show_up_everywhere(cells):
    cells = copy.deepcopy(cells)
    for cell in cells:
        if cell["request"]["method"] == "bwn_1bit":
            cell["about"]["method"]["family"] = "newcomer"
        if cell["request"]["task"] == "rte":
            cell["about"]["task"] |= {"title": "My task", "suite": None, "averaged": False}
    page = render(compare(cells))
    text = " ".join(Reader(page).text.split())
    assert "newcomer" in text, "in the legend"
    assert "Other tasks" in text and "My task" in text
    assert "Mean score on CoLA, QQP, for the methods that have all of them." in text
    row = next(row for row in Reader(page).rows if row[0].startswith("Binary weights bwn_1bit"))
    assert row[14].split()[0] == score(compare(cells).average("bwn_1bit", ["cola", "qqp"]).value)


def test_a_page_of_own_tasks_alone_has_a_headline_and_a_plot(cells):
    cells = copy.deepcopy([cell for cell in cells if cell["request"]["task"] == "rte"])
    for cell in cells:
        cell["about"]["task"] |= {"title": "My task", "suite": None, "averaged": False}
    evidence = compare(cells)
    assert "My task" in headline(evidence).result
    assert "Score on My task. Bars are 95 % confidence intervals." in " ".join(Reader(render(evidence)).text.split())


def test_the_pairs_of_a_task_are_corrected_and_antisymmetric(cells):
    evidence = compare(cells)
    table = pairs(evidence, "rte", "last")
    assert table["rtn_2bit"][1] == 0 and table["rtn_2bit"][3][0] == -table["lat_2bit"][1][0]
    differences = [evidence.pair(method, "fp32", "rte", "last") for method in METHODS[1:]]
    assert [p for *_, p in table["fp32"][1:]] == pytest.approx(holm([one.p for one in differences]), rel=0.06)
    lost, half, _ = table["fp32"][1]
    assert lost == round(evidence.loss("rtn_2bit", "rte").value, 2) > 0
    assert lost + half == pytest.approx(evidence.loss("rtn_2bit", "rte").interval[1], abs=0.01)


def test_headings_skip_no_level_and_landmarks_are_named(page):
    tags = Reader(page).tags
    levels = [int(tag[1]) for tag, _ in tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    for tag, attributes in tags:
        if tag in ("section", "nav", "article", "form") or attributes.get("role") in ("region", "group"):
            assert {"aria-label", "aria-labelledby", "id"} & attributes.keys(), (tag, attributes)


def test_no_number_stands_beside_a_wrong_plural():
    cells = fixture.board(("fp32", "lsq_4bit"), ("rte",), seeds=(1,), rows=50)
    text = " ".join(Reader(render(compare(cells))).text.split())
    visible = text[text.index("Skip to the results") : text.index('{"methods"')]
    assert not re.search(r"(?<![\d.,])1 (seeds|runs|cells|methods|tasks|settings|threads)\b", visible)
    assert "1 seed" in visible


def test_every_score_of_a_task_and_a_method_is_a_link_to_its_cell(page):
    for pattern in (r'<td data-v="[\d.-]+"><a href="#lsq_4bit_rte">\d+\.\d</a>', r'<a href="#lsq_4bit_rte">RTE \d+\.\d</a>'):
        assert re.search(pattern, page), pattern


def test_a_cell_names_commit_environment_and_command_that_make_it_again(cells):
    cells = copy.deepcopy(cells[:1])
    machines = [one["machine"] for one in cells[0]["ran_on"]["volatile"]["machines"]]
    page = " ".join(Reader(render(compare(cells))).text.split())
    commands = f"git checkout {machines[0]['git_commit']} python3 -m venv .venv && . .venv/bin/activate"
    assert f"{commands} && pip install -r requirements.txt -c constraints.txt snakemake results/fp32_cola.json" in page
    assert "uncommitted changes: the commit" not in page and "several commits" not in page
    machines[0]["git_dirty"], machines[1]["git_commit"] = True, None
    page = " ".join(Reader(render(compare(cells))).text.split())
    assert "The code had uncommitted changes: the commit alone may give other numbers." in page
    assert "were made at several commits" in page and "The code was in no git repository" in page


def test_generated_data_has_no_official_rows(cells, page):
    assert "Official rows" in page
    generated = render(compare(fixture.board(("fp32",), ("rte",), seeds=(1,), rows=50, source="generated")))
    assert "Official rows" not in generated and "<td>generated</td>" in generated


def test_a_loss_names_full_precision_and_the_own_teacher_beside_it(cells):
    cells = copy.deepcopy(cells)
    taught = cell_at(cells, "lat_2bit", "rte")
    for teacher in (taught["ran_on"]["teacher"], taught["measured"]["teacher"]):
        teacher["method"] = "half_width"
    taught["measured"]["teacher"]["score"] = 70.0
    evidence = compare(cells)
    rows = [row for row in Reader(render(evidence)).rows if row[0] == "TernaryBERT, LAT" and "half_width" in row[-1]]
    assert len(rows) == 2, "one for each protocol"
    row = rows[0]
    assert row[4].split()[0] == score(evidence.loss("lat_2bit", "rte").value)
    assert row[6] == f"{score(70 - evidence.score('lat_2bit', 'rte').mean)} from half_width"


# Safety


def test_hostile_strings_stay_text(cells):
    cells = copy.deepcopy(cells)
    for cell in cells:
        if cell["request"]["method"] == "lat_2bit":
            about, hostile = cell["about"], f"{fixture.HOSTILE}</script><script>alert(2)</script>"
            about["method"] |= dict.fromkeys(("title", "family", "paper"), hostile) | {"deviations": [hostile]}
            about["task"] |= {"title": hostile, "suite": hostile}
            cell["request"]["spec"]["sources"]["lr"] = hostile
            cell["request"]["preset"] = cells[0]["request"]["preset"] = hostile
            cell["request"]["method"] = 'x" onmouseover="alert(3)'
            cell["measured"]["seeds"][0]["events"] = ["</details><iframe src=x>"]
            cell["measured"]["baseline"]["what"] = '" onclick="alert(4)'
    tags = Reader(render(compare(cells))).tags
    assert not [tag for tag, _ in tags if tag in ("img", "iframe", "object", "embed", "base")]
    assert not [name for _, attributes in tags for name in attributes if name.startswith("on")]
    assert [attributes.get("type") for tag, attributes in tags if tag == "script"] == ["application/json", None]


def test_the_page_asks_no_host(page):
    for _, attributes in Reader(page).tags:
        for name in ("src", "href", "action", "data", "poster"):
            assert attributes.get(name, "#").startswith(("#", "data:"))
    words = re.sub(r"base64,[^\"]*", "", page)
    assert not re.search(r"@import|url\(|\bfetch\(|XMLHttpRequest|WebSocket|sendBeacon|//[a-z]", words)
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', page)[1]
    assert policy.startswith("default-src 'none'") and "unsafe" not in policy


def test_links_lead_somewhere_and_tables_have_headers(page):
    tags = Reader(page).tags
    names = [attributes["id"] for _, attributes in tags if "id" in attributes]
    assert len(names) == len(set(names))
    links = {attributes["href"][1:] for tag, attributes in tags if tag == "a" and attributes["href"].startswith("#")}
    assert len(links) > 40 and links <= set(names)
    assert all(attributes.get("scope") for tag, attributes in tags if tag == "th")
    labelled = {attributes["aria-labelledby"] for _, attributes in tags if "aria-labelledby" in attributes}
    assert labelled <= set(names)


def test_files_inside_the_page_are_the_exports(cells, page):
    found = dict(re.findall(r'download="([^"]+)" href="data:[^;]+;base64,([^"]*)"', page))
    assert set(found) == {
        *(f"{suite}_{protocol}.{end}" for suite in ("glue", "squad") for protocol in ("last", "best") for end in ENDINGS),
        *(f"paper_against_ours.{end}" for end in ENDINGS),
        "references.bib",
        "report.json",
    }
    numbers = json.loads(base64.b64decode(found["report.json"]))
    assert len(numbers["rows"]) == len(cells) and numbers["format"] == 1
    assert b"\\toprule" in base64.b64decode(found["glue_last.tex"])


ENDINGS = ("csv", "json", "md", "tex")


# The same cells give the same bytes


def test_one_number_changes_only_its_places(cells, page):
    assert render(compare(cells, FAILED)) == page
    changed = copy.deepcopy(cells)
    place = cell_at(changed, "lat_2bit", "rte")["measured"]["size"]["groups"]["word embedding"]
    before, place["bytes"] = place["bytes"], 812_345
    after = render(compare(changed, FAILED))
    differing = [(a, b) for a, b in zip(page.splitlines(), after.splitlines(), strict=True) if a != b]
    assert len(differing) == 1
    assert f"{before:,}" in differing[0][0] and "812,345" in differing[0][1]


# How numbers are written


def test_how_numbers_are_written():
    assert score(61.25) == "61.2" and score(-0.04) == "0.0" and score(-1.25, 2) == "\N{MINUS SIGN}1.25"
    assert score(None) == "none"
    assert signed(0.04) == "0.0" and signed(0.06) == "+0.1" and signed(-2) == "\N{MINUS SIGN}2.0"
    assert bits({"weights": 1.375, "embeddings": 2.0, "activations": 32}) == "1.4-2-32" and bits(None) == "?-?-?"
    assert [probability(p) for p in (0.0001, 0.0456, 0.5, 0.999)] == ["< 0.001", "= 0.046", "= 0.50", "> 0.99"]


@pytest.mark.parametrize("values", [[0.0], [5.0, 5.0], [61.3, 62.9], [-3.0, 40.0], [1e-9, 2e-9], [0.01, 700.0]])
def test_ticks_are_few_and_enclose_the_values(values):
    ticks = round_ticks(values)
    assert 2 <= len(ticks) <= 7 and ticks == sorted(set(ticks))
    assert ticks[0] <= min(values) and max(values) <= ticks[-1]


@pytest.mark.parametrize("values", [[1.0], [14.6, 405.0], [0.03, 0.04], [9.99, 10.0]])
def test_logarithmic_ticks_enclose_the_values(values):
    ticks = log_ticks(values)
    assert ticks[0] <= min(values) and max(values) <= ticks[-1] and len(ticks) >= 2
