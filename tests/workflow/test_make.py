"""`make` and `make test` set themselves up: once, from scratch after an interruption, in any order.

The Makefile is the real one; Python, pip and the tools are a stand-in that writes down how it was called.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PIN_FILES = ["constraints.txt", "requirements.txt", "requirements-dev.txt"]

# Answers the Makefile's questions (-c) as the real Python does, makes a .venv in which every program is
# itself, and dies as under kill -9 when the call contains $DIE_AT.
STAND_IN = f"""#!/bin/sh
[ "$1" = -c ] && exec {sys.executable} "$@"
echo "$(basename "$0") $*" >> calls
case "$*" in *install*) printf '%s\\n' "$STUB_WORDS" ;; esac
case "$*" in *"${{DIE_AT:-never}}"*) kill -9 $$ ;; esac
[ "$2" = venv ] || exit 0
mkdir -p .venv/bin
for name in python snakemake ruff snakefmt; do cp "$0" .venv/bin/$name; done
"""
MADE = ["stand-in -m venv .venv", "install torch", "install -r requirements.txt"]
DEV = ["install -r requirements-dev.txt"]
BUILT = ["snakemake --cores all all"]
TESTED = ["python -m pytest --numprocesses auto --dist loadfile"]


@pytest.fixture
def project(tmp_path):
    for name in ["Makefile", *PIN_FILES]:
        shutil.copy(ROOT / name, tmp_path)
    stand_in = tmp_path / "stand-in"
    stand_in.write_text(STAND_IN)
    stand_in.chmod(0o755)
    return tmp_path


def make(project, *words, **variables):
    """The finished process, and what it called, with pip's options left out."""
    calls = project / "calls"
    calls.write_text("")
    # A make that runs this very test must not hand its own flags down.
    environment = {k: v for k, v in os.environ.items() if k not in {"MAKEFLAGS", "MAKELEVEL", "MFLAGS", "ARGS"}}
    process = subprocess.run(
        ["make", "PYTHON=./stand-in", *words],
        cwd=project, env=environment | variables, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    return process, [shorten(call) for call in calls.read_text().splitlines()]


def shorten(call):
    if " install " not in call:
        return call
    what = call.rpartition("constraints.txt ")[2]
    return "install torch" if what.startswith("torch==") and " " not in what else f"install {what}"


def test_first_make_installs_torch_first_and_alone_then_builds_and_names_the_page(project):
    process, calls = make(project)
    assert process.returncode == 0
    assert calls == MADE + BUILT
    assert process.stdout.splitlines()[-1] == f"All pages: {project}/report/html/index.html"


def test_second_make_installs_nothing(project):
    make(project)
    assert make(project)[1] == BUILT


def test_the_two_commands_share_one_environment_in_either_order(project):
    assert make(project, "test")[1] == MADE + DEV + TESTED
    assert make(project)[1] == BUILT
    assert make(project, "test")[1] == TESTED
    make(project, "distclean")
    assert make(project)[1] == MADE + BUILT
    assert make(project, "test")[1] == DEV + TESTED


@pytest.mark.parametrize("moment", ["-m venv", "torch==", "-r requirements.txt", "-r requirements-dev.txt"])
def test_after_an_interrupted_set_up_the_environment_is_made_from_scratch(project, moment):
    process, calls = make(project, "test", DIE_AT=moment)
    assert process.returncode != 0
    assert TESTED[0] not in calls
    (project / ".venv").mkdir(exist_ok=True)
    (project / ".venv/half-made").touch()
    assert make(project, "test")[1] == MADE + DEV + TESTED
    assert not (project / ".venv/half-made").exists()


@pytest.mark.parametrize("file", PIN_FILES)
def test_a_changed_pin_makes_the_environment_anew_and_a_touched_file_does_not(project, file):
    make(project)
    (project / file).touch()
    assert make(project)[1] == BUILT
    with (project / file).open("a") as pins:
        pins.write("another==1.0\n")
    assert make(project)[1] == MADE + BUILT


def test_a_branch_with_other_pins_changes_nothing_when_only_visited(project):
    make(project)
    pins = project / "constraints.txt"
    before = pins.read_text()
    pins.write_text("other==1.0\n")
    pins.write_text(before)
    assert make(project)[1] == BUILT


def test_a_moved_project_makes_its_environment_anew(project):
    make(project)
    moved = project.rename(project.with_name(f"{project.name}-moved"))
    assert make(moved)[1] == MADE + BUILT


def test_an_environment_whose_python_is_gone_is_made_anew(project):
    make(project, "test")
    (project / ".venv/bin/python").unlink()
    assert make(project, "test")[1] == MADE + DEV + TESTED


@pytest.mark.parametrize(
    ("lacking", "said"),
    [
        ("sys.hexversion = 0x030A0000", "Python 3.11 or newer is needed"),
        ("sys.modules['ensurepip'] = None", "cannot make environments: add its venv module"),
    ],
)
def test_a_python_that_will_not_do_is_refused_in_one_line_before_anything_is_touched(project, lacking, said):
    make(project)
    (project / "constraints.txt").write_text("other==1.0\n")
    unfit = project / "unfit"
    unfit.write_text(f'#!/bin/sh\nexec {sys.executable} -c "import sys; {lacking}; exec(sys.argv[1])" "$2"\n')
    unfit.chmod(0o755)
    process, calls = make(project, "PYTHON=./unfit")
    assert process.returncode != 0
    assert calls == []
    (line,) = process.stderr.splitlines()
    assert said in line
    assert (project / ".venv/bin/python").exists()


def test_a_python_that_does_not_exist_is_refused_in_one_line(project):
    process, _ = make(project, "PYTHON=python3.999")
    (line,) = process.stderr.splitlines()
    assert 'Python 3.11 or newer is needed and "python3.999" is not' in line


def test_a_failed_build_fails_and_names_no_page(project):
    process, _ = make(project, DIE_AT="--cores")
    assert process.returncode != 0
    assert "All pages" not in process.stdout


def test_arguments_go_on_to_snakemake_and_pytest(project):
    assert make(project, "ARGS=--config preset=small")[1][-1] == f"{BUILT[0]} --config preset=small"
    assert make(project, "test", "ARGS=-k files")[1][-1] == f"{TESTED[0]} -k files"


def test_clean_removes_products_and_leaves_the_environment_and_what_git_keeps(project):
    make(project)
    for name in ["results/demo/runs/a", "results/README.md", "report/html/index.html", "report/page.py"]:
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).touch()
    make(project, "clean")
    left = {str(path.relative_to(project)) for top in ("results", "report") for path in (project / top).rglob("*")}
    assert left == {"results/README.md", "report/page.py"}
    assert make(project)[1] == BUILT


STUB_WORDS = """Looking in indexes: nowhere
Collecting numpy==2.4.1 (from -c constraints.txt)
  Downloading numpy-2.4.1-cp311-cp311-manylinux.whl (16.9 MB)
Collecting tqdm>=4.67 (from somewhere)
  Using cached tqdm-4.67.1-py3-none-any.whl (78 kB)
Installing collected packages: tqdm, numpy
Successfully installed numpy-2.4.1 tqdm-4.67.1"""


def test_packages_are_named_as_they_come(project):
    process, _ = make(project, STUB_WORDS=STUB_WORDS)
    assert process.returncode == 0
    lines = process.stdout.splitlines()
    assert lines.count("  numpy (16.9 MB) tqdm") == 2
    assert lines.count("  installing 2 packages") == 2
    assert "indexes" not in process.stdout


def test_a_failed_installation_fails(project):
    process, calls = make(project, DIE_AT="-r requirements.txt")
    assert process.returncode != 0
    assert BUILT[0] not in calls


def test_no_part_of_the_folders_name_is_executed(tmp_path, project):
    moved = project.rename(tmp_path.with_name("it's $(touch PWNED) `touch PWNED` now"))
    process, calls = make(moved)
    assert process.returncode == 0, process.stderr
    assert calls == MADE + BUILT
    assert process.stdout.splitlines()[-1] == f"All pages: {moved}/report/html/index.html"
    assert not list(moved.parent.rglob("PWNED"))
