"""The page without a browser: what stands on it, what never does, and that the same cells give the same bytes."""

import base64
import copy
import html.parser
import json
import re

import pytest

from report.board import Board
from report.charts import log_ticks, round_ticks
from report.headline import headline
from report.page import pairs, render
from report.statistics import holm
from report.wording import bits, probability, score, signed
from tests.fixtures import cells as fixture

METHODS = ("fp32", "rtn_2bit", "lsq_4bit", "lat_2bit", "tws_1bit", "bwn_1bit")
TASKS = ("cola", "qqp", "rte", "wnli", "squad", "squad2")
FAILED = {("lsq_4bit", "wnli"): "The disk is full.", ("lada_10x", "rte"): "No memory is left."}


@pytest.fixture(scope="module")
def cells():
    found = fixture.board(METHODS, TASKS, seeds=(1, 2, 3), rows=120)
    return [cell for cell in found if (cell["request"]["method"], cell["request"]["task"]) not in FAILED]


@pytest.fixture(scope="module")
def page(cells):
    return render(Board(cells, FAILED))


class Reader(html.parser.HTMLParser):
    """Collects what matters of a page: tags with attributes, the text of each table row, and all text there is."""

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


# What stands on it


def test_the_tables_show_numbers_and_words(cells, page):
    board = Board(cells, FAILED)
    rows = Reader(page).rows
    line = next(row for row in rows if row[0] == "KDLSQ-BERT, 4 bits lsq_4bit")
    assert line[1] == "4-4-8" and line[5] == "7.7×"
    assert line[6].startswith(score(board.mean("lsq_4bit", "cola", "last")))
    assert line[9] == "failed" and line[10].split()[0] == score(board.average("lsq_4bit", ("cola", "qqp", "rte"), "last"))
    assert any("not run" in row for row in rows if row[0] == "Binary weights bwn_1bit"), "SQuAD 2.0"
    assert any("†" in text for text in line)


def test_what_the_reader_must_know_is_in_words(page):
    text = " ".join(Reader(page).text.split())
    for words in (
        "cells use only a part of the official data",
        "2 cells failed: lsq_4bit on WNLI, lada_10x on RTE. Why stands with each task.",
        "failed: The disk is full.",
        "train: 100,000 of 363,846 rows",
        "snakemake results/lsq_4bit_rte.json --config preset=paper",
        "our choice; the paper does not say",
        "2e-05; 3e-05 for SQuAD 1.1, SQuAD 2.0",
        "simulated",
        "not measured",
        "paired over examples and seeds",
    ):
        assert words in text, words
    assert "demo data" not in text


def test_the_demo_says_that_it_is_one():
    page = render(Board(fixture.board(("fp32",), ("rte",), seeds=(1,), rows=50, source="generated")))
    assert "Demo: these numbers come from generated demo data and are comparable with no paper." in page
    assert "not comparable" in page and "reproduced<" not in page
    assert "with one seed" in page


def test_diverged_seeds_are_counted_in_words(cells):
    cells = copy.deepcopy(cells)
    board = Board(cells)
    for number, method in enumerate(("tws_1bit", "lat_2bit")):
        measured = board.at[method, "rte"]["measured"]
        lost = measured["seeds"][: 3 - 2 * number]
        for seed in lost:
            seed |= {"status": "diverged", "reason": "loss became nan at step 7", "scores": None}
        for protocol in measured["protocols"].values():
            for summary in protocol["metrics"].values():
                summary |= {"n": 3 - len(lost), "n_diverged": len(lost)} | ({} if number else {"mean": None, "sd": None})
        if not number:
            measured["outcomes"] = None
            measured["protocols"]["last"]["drop"] = measured["protocols"]["best"]["drop"] = None
    page = render(Board(cells))
    assert "diverged (3 of 3)" in page and "diverged (1 of 3)" in page and "loss became nan at step 7" in page
    assert "4 runs of" in page  # the checklist


def test_cells_made_differently_are_shown_but_not_compared(cells):
    cells = copy.deepcopy(cells)
    cells[-1]["ran_on"]["base"]["sha256"] = "0" * 64
    page = render(Board(cells))
    assert "These cells differ in: base model" in page and "cannot be compared" in page
    assert "No method has a comparable score on every task, so there is no average to plot" in page
    assert "°</sup>" not in page and 'class="best"' not in page


def test_headline_says_what_the_cells_say(cells):
    board = Board(copy.deepcopy(cells))
    assert re.fullmatch(
        r"Of \d compressed methods, .+ (is the smallest whose loss cannot be told from chance|does best): "
        r"it (loses|gains) \d+\.\d points on average over \d tasks, in a file \d+\.\d times smaller than full precision\.",
        headline(Board([cell for cell in cells if cell["request"]["task"] in ("cola", "rte")])),
    )
    assert headline(Board([board.at["fp32", "rte"]])).startswith("Full precision beats the constant answer on RTE, by ")
    alone = Board([board.at["fp32", "rte"], board.at["rtn_2bit", "rte"]])
    assert headline(alone).startswith("Rounding, 2 bits loses ") and "which cannot be told" not in headline(alone)
    for summary in alone.at["rtn_2bit", "rte"]["measured"]["protocols"].values():
        summary["metrics"]["accuracy"]["mean"] = 99.0
    assert headline(alone).startswith("Rounding, 2 bits gains ")


def test_a_pairs_table_is_corrected_and_antisymmetric(cells):
    board = Board(cells)
    found = pairs(board, "rte")
    assert found[1][1] is None and found[1][3][0] == -found[3][1][0]
    raw = [board.against(method, "fp32", "rte", "last").p for method in METHODS[1:]]
    assert [one[1] for one in found[0][1:]] == pytest.approx(holm(raw), rel=0.06)


# What never stands on it


def test_hostile_strings_stay_text(cells):
    cells = copy.deepcopy(cells)
    for cell in cells:
        if cell["request"]["method"] == "lat_2bit":
            spec = cell["request"]["spec"]
            spec["title"] = spec["sources"]["lr"] = spec["paper"] = f"{fixture.HOSTILE}</script><script>alert(2)</script>"
            cell["request"]["method"] = 'x" onmouseover="alert(3)'
            cell["measured"]["seeds"][0]["events"] = ["</details><iframe src=x>"]
            cell["measured"]["baseline"]["what"] = '" onclick="alert(4)'
            cell["request"]["task"] = cell["request"]["task"]
    tags = Reader(render(Board(cells))).tags
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
    assert render(Board(cells, FAILED)) == page
    changed = copy.deepcopy(cells)
    place = Board(changed).at["lat_2bit", "rte"]["measured"]["size"]["groups"]["word embedding"]
    before, place["bytes"] = place["bytes"], 812_345
    after = render(Board(changed, FAILED))
    differing = [(a, b) for a, b in zip(page.splitlines(), after.splitlines(), strict=True) if a != b]
    assert len(differing) == 1
    assert f"{before:,}" in differing[0][0] and "812,345" in differing[0][1]


# How numbers are written


def test_how_numbers_are_written():
    assert score(61.25) == "61.2" and score(-0.04) == "0.0" and score(-1.25, 2) == "\N{MINUS SIGN}1.25"
    assert score(None) == "none"
    assert signed(0.04) == "0.0" and signed(0.06) == "+0.1" and signed(-2) == "\N{MINUS SIGN}2.0"
    assert bits({"bits": {"weights": 2, "embeddings": 2, "activations": 8}}) == "2-2-8"
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
