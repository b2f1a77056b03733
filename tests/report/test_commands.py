"""The command line: cells, pages, the entry page, one line for each failure, and little to import."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from report.__main__ import main
from tests.fixtures import cells as fixture
from tests.fixtures.runs import ABOUT, run_record, write_run

ROOT = Path(__file__).resolve().parents[2]
TEXT = json.dumps(ABOUT)


def command(*arguments) -> tuple[int, str]:
    """Return exit code and standard error of `python -m report`, as a user meets them."""
    words = [sys.executable, "-m", "report", *map(str, arguments)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.returncode, done.stderr


def refusal(capsys, *arguments) -> str:
    """Return the one line that a refused command prints."""
    assert main([str(argument) for argument in arguments]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    return lines[0]


def write_cells(folder: Path, cells: list[dict]) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{cell['request']['method']}_{cell['request']['task']}.json" for cell in cells]
    for path, cell in zip(paths, cells, strict=True):
        path.write_text(json.dumps(cell))
    return paths


def test_a_missing_run_is_one_line_and_exit_code_1(tmp_path):
    code, stderr = command("cell", "--out", tmp_path / "cell.json", "--about", TEXT, "--run", tmp_path / "nowhere")
    assert code == 1
    assert stderr.count("\n") == 1
    assert "nowhere/run.json" in stderr and "snakemake" in stderr and "Traceback" not in stderr


def test_an_output_below_a_file_is_refused(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    folder = write_run(tmp_path / "run", run_record())
    line = refusal(capsys, "cell", "--out", tmp_path / "file/cell.json", "--about", TEXT, "--run", folder)
    assert "because a file has that name" in line


def test_an_output_that_is_a_folder_is_refused(tmp_path, capsys):
    folder = write_run(tmp_path / "run", run_record())
    assert "cell.json" in refusal(capsys, "cell", "--out", _folder(tmp_path), "--about", TEXT, "--run", folder)


def _folder(tmp_path: Path) -> Path:
    (tmp_path / "cell.json").mkdir()
    return tmp_path / "cell.json"


@pytest.mark.parametrize("content", [None, "{", '{"format": 1}'])
def test_a_page_names_a_cell_that_cannot_be_read(content, tmp_path, capsys):
    path = tmp_path / "fp32_rte.json"
    if content:
        path.write_text(content)
    assert str(path) in refusal(capsys, "page", "--out", tmp_path / "index.html", path)


def test_commands_make_the_cell_and_the_page(tmp_path):
    folders = [write_run(tmp_path / str(seed), run_record(seed=seed, last=60.0 + seed)) for seed in (1, 2)]
    out, page = tmp_path / "results/fp32_rte.json", tmp_path / "html/index.html"
    assert command("cell", "--out", out, "--about", TEXT, "--run", *folders, "--primary", "last") == (0, "")
    text = out.read_text()
    assert text == json.dumps(json.loads(text), sort_keys=True, indent=1) + "\n"
    assert command("page", "--out", page, out) == (0, "")
    again = tmp_path / "again.html"
    assert command("page", "--out", again, out) == (0, "")
    assert page.read_bytes() == again.read_bytes()


@pytest.mark.parametrize("margin", ["0", "-1", "nan", "101", "small"])
def test_a_margin_that_is_none_is_refused(margin, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["page", "--out", str(tmp_path / "index.html"), "--margin", margin])
    assert f"argument --margin: '{margin}' is no number of points above 0 and up to 100" in capsys.readouterr().err


def test_the_margin_reaches_the_comparison(tmp_path, monkeypatch):
    from report.evidence import comparison

    margins = []
    compare = comparison.compare
    monkeypatch.setattr(comparison, "compare", lambda cells, failed, margin: margins.append(margin) or compare(cells))
    cells = map(str, write_cells(tmp_path, fixture.board(("fp32",), ("rte",), seeds=(1,), rows=40)))
    assert main(["page", "--out", str(tmp_path / "index.html"), "--margin", "0.25", *cells]) == 0
    assert margins == [0.25]


def test_the_entry_page_lists_the_pages_that_exist(tmp_path):
    for preset, methods in (("demo", ("fp32",)), ("pa per", ("fp32", "rtn_8bit"))):
        cells = fixture.board(methods, ("rte",), seeds=(1,), rows=40)
        for cell in cells:
            cell["request"]["preset"] = preset
        assert main(["page", "--out", str(tmp_path / preset / "index.html"), *map(str, write_cells(tmp_path, cells))]) == 0
    out, pages = tmp_path / "index.html", sorted(tmp_path.glob("*/index.html"))
    assert main(["entry", "--out", str(out), *map(str, pages)]) == 0
    text = out.read_text()
    assert '<a href="demo/index.html">demo</a>' in text and '<a href="pa%20per/index.html">pa per</a>' in text
    assert "1 cell</p>" in text and "2 cells</p>" in text
    assert "Full precision beats the constant answer on RTE" in text
    assert main(["entry", "--out", str(tmp_path / "again.html")]) == 0, "the pages beside it are found"
    assert (tmp_path / "again.html").read_text() == text


def test_the_entry_page_names_a_page_that_is_missing(tmp_path, capsys):
    assert "nowhere" in refusal(capsys, "entry", "--out", tmp_path / "index.html", tmp_path / "nowhere/index.html")
    assert "no page to list" in refusal(capsys, "entry", "--out", tmp_path / "index.html")


def test_a_cell_of_one_seed_imports_no_more_than_it_needs(tmp_path):
    """It is made once for each method and task, so its start is what it costs."""
    folder = write_run(tmp_path / "run", run_record())
    program = (
        "import sys; from report.__main__ import main; assert main(sys.argv[1:]) == 0; "
        "print(*sorted({'scipy', 'matplotlib', 'jinja2', 'pandas', 'torch', 'concurrent.futures'} & {*sys.modules}))"
    )
    words = ["cell", "--out", str(tmp_path / "cell.json"), "--about", TEXT, "--run", str(folder)]
    done = subprocess.run([sys.executable, "-c", program, *words], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "\n"


def test_the_report_loads_no_training_code():
    program = (
        "import sys, report.evidence.cells, report.page.entry, report.tables.exports, report.figures\n"
        "report.figures.figure_files()\n"
        "rooms = {name.split('.')[1] for name in sys.modules if name.startswith('methods.')}\n"
        "print(*sorted(rooms - {'common'} | {'torch', 'transformers'} & {*sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "\n"
