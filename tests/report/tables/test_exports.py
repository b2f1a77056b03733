"""Tables as files: the same numbers in every format, and no name that can break one."""

import copy
import csv
import io
import json
import re
import shutil
import subprocess

import pytest

from report.evidence.board import Board
from report.evidence.comparison import compare
from report.tables import exports
from report.tables.grid import Grid, Text
from report.tables.latex import latex, to_latex
from report.tables.papers import paper_table
from report.tables.references import ROOT, citation_keys
from report.tables.suites import tables
from tests.fixtures import cells as fixture
from tests.fixtures.cells import cell_at

METHODS = ("fp32", "rtn_2bit", "twn_2bit", "lat_2bit", "tws_1bit", "tws_1bit_a4")
NASTY = [fixture.HOSTILE, r"a_b 100 % & # \ {x} $y$ ~ ^ | ` * [z]", '=HYPERLINK("http://x")', "-1+1", "@SUM(A1)", " =1"]


@pytest.fixture(scope="module")
def cells():
    return fixture.board(METHODS, ("mrpc", "rte", "wnli", "squad"), seeds=(1, 2, 3), rows=200)


@pytest.fixture(scope="module")
def large():
    """Return the comparison of all invented methods and tasks, their development sets cut short."""
    return compare(fixture.board(seeds=(1, 2), rows=60))


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
    assert float(rows[0]["rte_accuracy"]) == pytest.approx(nasty[0].records()[0]["rte_accuracy"], abs=1e-6)
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
    assert latex("a_b 5 % & # \\ {x} $y$") == r"a\_b 5 \% \& \# \textbackslash{} \{x\} \$y\$"
    assert latex("61.0 ± 1.2≈ \N{MINUS SIGN}3") == r"61.0 $\pm$ 1.2$^{\approx}$ $-$3"
    assert latex("naïve 漢\n字 \N{ZERO WIDTH SPACE}") == "naïve ? ? ?"


def grid(rows, **more):
    names = [f"{number} column" for number in range(len(rows[0]) - 1)]
    return Grid(name="a", caption="A table.", header=["Method", *names], rows=rows, notes=["first", "second"], **more)


def cited(paper):
    return ["someone2020"] if paper else []


def test_a_place_in_latex_by_hand():
    place = Text("86.5", bold=True, small="±0.3", second="/85.0", seeds="(2/3)", marks="▽†")
    rows = [
        [Text("BERT", paper="arXiv 2001.00001"), Text("a"), place],
        [Text("R&D"), Text("b"), Text("5.5")],
        [Text("x"), Text("c"), Text("--")],
    ]
    lines = to_latex(grid(rows, groups=[("2 bits", 2), ("1 bit", 1)]), cited).splitlines()
    table = lines[lines.index(r"\midrule") + 1 : lines.index(r"\bottomrule")]
    score = r"\textbf{86.5}{\scriptsize $\pm$0.3}/85.0{\scriptsize\,(2/3)}$^{\bigtriangledown \dagger}$"
    assert table == [
        rf"BERT~\cite{{someone2020}} & a & {score} \\",
        r"R\&D & b & \phantom{0}5.5 \\",
        r"\midrule",
        r"x & c & -- \\",
    ]
    assert r"\parbox{\linewidth}{\scriptsize\raggedright First; second.}" in lines, "below, and not in the caption"


def test_what_is_too_wide_is_split_and_keeps_the_names():
    rows = [[Text(f"method {number}"), *(Text(f"{number}.5", small="±0.3") for _ in range(20))] for number in range(3)]
    text = to_latex(grid(rows, text_columns=1), lambda paper: [])
    assert text.count(r"\begin{tabular}") == 3 and text.count(r"\begin{table*}") == 1
    assert text.count("method 1 &") == 3 and all(f"& {number} column" in text for number in range(20))


def test_what_is_too_long_goes_on_in_a_second_float_of_the_same_number():
    rows = [[Text(f"method {number}"), Text("1")] for number in range(100)]
    text = to_latex(grid(rows), lambda paper: [])
    first, second = text.split(r"\end{table*}")[:2]
    assert "method 0 " in first and "method 99 " in second and text.count(r"\begin{tabular}") == 2
    assert r"\addtocounter{table}{-1}" in second and "A table (continued)." in second and r"\label" not in second
    assert "First; second." in second and "First; second." not in first


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="there is no pdflatex to compile the tables with")
@pytest.mark.parametrize("name", ["nasty", "large"])
def test_latex_compiles_fits_the_page_and_finds_its_references(request, name, cells, tmp_path):
    evidence = request.getfixturevalue("large") if name == "large" else None
    printed = [*tables(evidence), paper_table(evidence)] if evidence else request.getfixturevalue("nasty")
    body = "\n".join(exports.files_of(table)["tex"] for table in printed)
    page = r"\setlength\textwidth{6.3in}\setlength\textheight{9in}\setlength\topmargin{-0.5in}"
    (tmp_path / "all.tex").write_text(
        r"\documentclass[10pt,twocolumn]{article}\usepackage[T1]{fontenc}\usepackage{booktabs}"
        f"{page}\\begin{{document}}\n{body}\\bibliographystyle{{plain}}\\bibliography{{references}}\\end{{document}}\n",
        encoding="utf-8",
    )
    (tmp_path / "references.bib").write_text(exports.bibtex(evidence.board if evidence else Board(cells)), encoding="utf-8")
    compiler = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "all.tex"]
    with_references = [["bibtex", "all"], compiler, compiler] if shutil.which("bibtex") else []
    for command in [compiler, *with_references]:
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace")
        assert done.returncode == 0, done.stdout[-2000:]
    log = (tmp_path / "all.log").read_text(encoding="utf-8", errors="replace")
    assert "Overfull" not in log and "Float too large" not in log
    assert "undefined" not in log or not with_references


def test_latex_braces_and_columns_are_balanced(nasty):
    """A check of the LaTeX where none is installed."""
    for table in nasty:
        text = exports.files_of(table)["tex"]
        bare = text.replace(r"\{", "").replace(r"\}", "")
        assert bare.count("{") == bare.count("}")
        for tabular in text.split(r"\begin{tabular}")[1:]:
            rows = [line for line in tabular.splitlines() if line.endswith(r"\\")]
            assert len({line.replace(r"\&", "").count("&") for line in rows}) == 1
        assert text.isascii()


def test_methods_cite_their_papers_by_keys_of_the_bibliography(cells):
    assert citation_keys("Zhang et al. 2020, arXiv 2009.12812") == ["zhang2020ternarybert"]
    assert citation_keys("Nobody 2030, arXiv 3001.00001") == ["arxiv3001_00001"]
    assert citation_keys("ours, after Dankar et al. 2023, arXiv 2308.13958") == [] == citation_keys(None)
    text = exports.files_of(tables(compare(cells))[0])["tex"]
    assert r"TernaryBERT, LAT~\cite{zhang2020ternarybert} & 2-2-8" in text and "resizebox" not in text


def test_every_paper_of_the_catalogue_has_an_entry():
    catalogue = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "config/methods").glob("*.yaml"))
    papers = re.findall("^  paper: .*", catalogue, re.MULTILINE)
    numbers = {number for paper in papers for number in re.findall(r"\d{4}[.]\d{5}", paper)}
    entries = (ROOT / "report/tables/references.bib").read_text(encoding="utf-8")
    assert len(numbers) > 15 and {number for number in numbers if f"eprint = {{{number}}}" not in entries} == set()


def test_tiny_numbers_keep_their_digits():
    assert exports.rounded({"p": 3.14e-9, "x": 61.23456789, "n": 3, "zero": -0.0, "text": "a"}) == {
        "p": 3.1e-9,
        "x": 61.234568,
        "n": 3,
        "zero": 0.0,
        "text": "a",
    }
    assert exports.to_csv([{"p": 3.14e-9, "none": None, "zero": -0.0}]) == "p,none,zero\n3.1e-09,,0.0\n"


def test_markdown_has_a_row_for_each_budget_and_its_notes_below():
    place = Text("86.5", bold=True, small="±0.3", second="/85.0", marks="▽")
    table = grid([[Text("a_b"), Text("x"), place], [Text("c"), Text("y"), Text("--")]], groups=[("2 bits", 1), ("1 bit", 1)])
    assert exports.to_markdown(table).splitlines() == [
        "A table.",
        "",
        "| Method | 0 column | 1 column |",
        "| --- | --- | ---: |",
        "| *2 bits* |  |  |",
        r"| a\_b | x | **86.5** ±0.3 /85.0 ▽ |",
        "| *1 bit* |  |  |",
        "| c | y | -- |",
        "",
        "- first",
        "- second",
    ]


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
