"""Tables as files: the same numbers in every format, and no name that can break one."""

import copy
import csv
import io
import json
import shutil
import subprocess

import pytest

from report.evidence.board import Board
from report.evidence.comparison import compare
from report.tables import exports
from report.tables.published import paper_table
from report.tables.suites import tables
from tests.fixtures import cells as fixture
from tests.fixtures.cells import cell_at

METHODS = ("fp32", "rtn_2bit", "twn_2bit", "lat_2bit", "tws_1bit", "tws_1bit_a4")
NASTY = [fixture.HOSTILE, r"a_b 100 % & # \ {x} $y$ ~ ^ | ` * [z]", '=HYPERLINK("http://x")', "-1+1", "@SUM(A1)", " =1"]


@pytest.fixture(scope="module")
def cells():
    return fixture.board(METHODS, ("mrpc", "rte", "wnli", "squad"), seeds=(1, 2, 3), rows=200)


@pytest.fixture(scope="module")
def nasty(cells):
    """Return tables in which every method has a title that is meant to break something."""
    cells = copy.deepcopy(cells)
    for cell in cells:
        cell["about"]["method"]["title"] = NASTY[METHODS.index(cell["request"]["method"])]
    evidence = compare(cells)
    return [*tables(evidence), paper_table(evidence)]


def test_csv_is_inert_and_keeps_its_numbers(nasty):
    for table in nasty:
        rows = list(csv.DictReader(io.StringIO(exports.files_of(table)["csv"])))
        assert len(rows) == len(table.records())
        for row in rows:
            for value in row.values():
                number = value.replace(".", "").replace("-", "").replace("e", "").isdigit()
                assert number or not value.lstrip(" ").startswith(("=", "+", "-", "@")), value
    rows = list(csv.DictReader(io.StringIO(exports.files_of(nasty[0])["csv"])))
    assert float(rows[0]["rte accuracy"]) == pytest.approx(nasty[0].records()[0]["rte accuracy"], abs=1e-6)
    assert {row["title"] for row in rows} >= {"'-1+1", "'@SUM(A1)", fixture.HOSTILE}


def test_json_holds_the_same_numbers(nasty):
    for table in nasty:
        assert json.loads(exports.files_of(table)["json"])["rows"] == list(map(exports.rounded, table.records()))


def test_markdown_has_no_markup_of_others(nasty):
    for table in nasty:
        text = exports.files_of(table)["md"]
        assert "<img" not in text
        lines = [line for line in text.splitlines() if line.startswith("|")]
        bars = {line.replace(r"\|", "").count("|") for line in lines}
        assert len(bars) == 1, "every row has all columns"


def test_latex_by_hand():
    assert exports.latex("a_b 5 % & # \\ {x} $y$") == r"a\_b 5 \% \& \# \textbackslash{} \{x\} \$y\$"
    assert exports.latex("61.0 ± 1.2≈† \N{MINUS SIGN}3") == r"61.0 $\pm$ 1.2$^{\approx}$$^{\dagger}$ $-$3"
    assert exports.latex("naïve 漢\n字 \N{ZERO WIDTH SPACE}") == "naïve ? ? ?"


def test_latex_compiles(nasty, tmp_path):
    if not shutil.which("pdflatex"):
        pytest.skip("there is no pdflatex to compile the tables with")
    body = "\n".join(exports.files_of(table)["tex"] for table in nasty)
    source = "\\documentclass{article}\\usepackage[T1]{fontenc}\\usepackage{booktabs,graphicx}\\begin{document}\n"
    (tmp_path / "all.tex").write_text(source + body + "\\end{document}\n", encoding="utf-8")
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "all.tex"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-2000:]


def test_latex_braces_and_columns_are_balanced(nasty):
    """A check of the LaTeX where none is installed."""
    for table in nasty:
        text = exports.files_of(table)["tex"]
        bare = text.replace(r"\{", "").replace(r"\}", "")
        assert bare.count("{") == bare.count("}")
        rows = [line for line in text.splitlines() if line.endswith(r"\\")]
        assert len({line.replace(r"\&", "").count("&") for line in rows}) == 1
        assert text.isascii()


def test_bibtex_cites_benchmark_data_and_every_paper(cells):
    cells = copy.deepcopy(cells)
    cell_at(cells, "tws_1bit", "rte")["about"]["method"]["paper"] = "Nobody & Co. 2030, arXiv 3001.00001"
    text = exports.bibtex(Board(cells))
    for number in ("1810.04805", "2009.12812", "2012.15701", "1804.07461", "1606.05250", "1806.03822", "3001.00001"):
        assert text.count(f"eprint = {{{number}}}") == 1
    assert "2101.05938" not in text, "no KDLSQ-BERT on this board"
    assert r"Nobody \& Co." in text and "@software{bert_quantization_benchmark" in text


def test_one_number_changes_its_places_and_the_same_cells_give_the_same_bytes(cells):
    before = [exports.files_of(table) for table in tables(compare(copy.deepcopy(cells)))]
    assert before == [exports.files_of(table) for table in tables(compare(copy.deepcopy(cells)))]
    changed = copy.deepcopy(cells)
    cell_at(changed, "tws_1bit", "wnli")["measured"]["protocols"]["last"]["metrics"]["accuracy"]["sd"] = 12.3
    after = [exports.files_of(table) for table in tables(compare(changed))]
    for old, new in zip(before, after, strict=True):
        for ending in old:
            lines = zip(old[ending].splitlines(), new[ending].splitlines(), strict=True)
            differing = [new_line for old_line, new_line in lines if old_line != new_line]
            assert len(differing) == (1 if old is before[0] else 0)
            assert all("12.3" in line for line in differing)
