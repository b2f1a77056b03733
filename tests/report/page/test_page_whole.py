"""The page of a whole benchmark, and small ones against their golden files."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from methods.common.files import write_json
from tests.fixtures import cells as fixture
from tests.fixtures import golden

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def written():
    return golden.written()


@pytest.mark.parametrize("name", [*golden.TABLES, "page.txt"])
def test_golden_files(written, name):
    """They are written again by `python -m tests.fixtures.golden`; the difference is what a reader will notice."""
    assert written[name] == (golden.FOLDER / name).read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_1100_runs_make_a_page_of_four_megabytes_in_little_memory(tmp_path, capsys):
    """Twenty methods, eleven tasks, five seeds and their predictions. The time is printed and not tested."""
    paths = []
    for cell in fixture.board():
        paths.append(tmp_path / f"{cell['request']['method']}_{cell['request']['task']}.json")
        write_json(paths[-1], cell)
    page = tmp_path / "index.html"
    program = (
        "import sys; from report.__main__ import main; assert main(sys.argv[1:]) == 0; "
        "print(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))"
    )
    command = [sys.executable, "-c", program, "page", "--out", str(page), *map(str, paths)]
    start = time.monotonic()
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    seconds = time.monotonic() - start
    peak = int(done.stdout) / 2**20  # its own: getrusage would tell of pytest's where that was more
    size, runs = page.stat().st_size, len(paths) * len(fixture.SEEDS)
    with capsys.disabled():
        print(f"\npage of {runs} runs: {seconds:.1f} s, {peak:.2f} GiB, {size / 1e6:.2f} MB")
    assert peak < 1
    assert size < 4_500_000
