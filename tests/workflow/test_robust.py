"""Folders with odd names, two Snakemakes at once, killed ones, and changes of the configuration in between."""

import functools
import os
import signal
import subprocess
import sys
import time

import pytest
import yaml

from methods.common import files
from tests.fixtures.copies import copy_project
from tests.fixtures.runs_of_methods import FILES
from tests.fixtures.spying import copy_with_spy, turns
from tests.fixtures.workflow import TINY, command, jobs, snakemake
from workflow import catalogue

QUICK = {**TINY, "allow_weak_teacher": True}
NASTY = 'it\'s $(touch PWNED) `touch PWNED` & "quotes"'


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A folder in which one real cell and the page were made."""
    folder = tmp_path_factory.mktemp("project")
    snakemake(folder, "--cores", "2", "all", config=QUICK)
    return folder


@pytest.mark.slow
def test_a_project_in_a_folder_of_any_name_runs_and_executes_nothing_of_it(tmp_path):
    (tmp_path / NASTY).mkdir()
    folder = copy_project(tmp_path / NASTY)
    done = snakemake(folder, "--cores", "2", "all", config=QUICK, root=folder)
    assert (folder / "report/html/demo/index.html").is_file(), done.stderr
    assert not list(tmp_path.rglob("PWNED"))
    assert "Nothing to be done" in (again := snakemake(folder, "-n", "all", config=QUICK, root=folder)).stdout + again.stderr


def test_braces_in_the_projects_folder_are_refused_in_one_line(tmp_path):
    (tmp_path / "{braces}").mkdir()
    folder = copy_project(tmp_path / "{braces}")
    done = snakemake(tmp_path, "-n", "all", config=QUICK, root=folder, check=False)
    assert done.returncode != 0
    assert "error: Snakemake takes braces in a path for wildcards: rename the project's folder" in done.stderr
    assert "Traceback" not in done.stderr


def start(folder, *words, config=QUICK, root=catalogue.ROOT, **variables: str) -> subprocess.Popen:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
    words = command(folder, *words, config=config, root=root)
    return subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def until(happened, process: subprocess.Popen) -> None:
    """Wait for a sign of progress while a process works."""
    deadline = time.monotonic() + 900
    while not happened() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.01)
    assert happened(), "the process ended, or it took too long"


@pytest.mark.slow
def test_two_at_once_both_end_well_and_the_second_finds_everything_made(tmp_path):
    first, second = (start(tmp_path, "--cores", "2", "all") for _ in range(2))
    said = [process.communicate(timeout=900)[0] for process in (first, second)]
    assert (first.returncode, second.returncode) == (0, 0), said
    waited = [text for text in said if "Waiting: another Snakemake (process" in text]
    assert len(waited) == 1
    assert "Nothing to be done" in waited[0]


def kill(process: subprocess.Popen) -> None:
    """Kill a Snakemake alone: its jobs go on."""
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()


@pytest.mark.slow
def test_snakemake_killed_and_started_again_at_once_never_has_two_writers_of_a_run(project, tmp_path):
    """Killed three times by kill -9: in pre-training, in a run, and while a second job waits for the first one of that run.

    The first job is halted until a third one waits too, so that all three meet on a fast machine and on a slow one.
    """
    root, folder, journal = copy_with_spy(tmp_path / "copy"), tmp_path / "folder", tmp_path / "journal"
    folder.mkdir()
    run, log = "results/demo/runs/fp32/sst2/1", folder / "results/demo/logs/fp32/sst2/1.log"
    lock = folder / run / ".lock"
    again = functools.partial(start, folder, "--cores", "1", f"{run}/run.json", root=root, SPY=str(journal))

    first = again()
    until((folder / "results/demo/base.safetensors.checkpoints/.lock").exists, first)
    kill(first)
    second = again()
    until(lambda: lock.exists() and lock.read_text().endswith("\n"), second)
    owner = int(lock.read_text())
    os.kill(owner, signal.SIGSTOP)
    try:
        kill(second)
        for attempt in ("third", "fourth"):
            log.unlink()  # an earlier job goes on writing into it, unseen
            process = again()
            until(lambda: log.exists() and f"Waiting: process {owner} is writing {run}" in log.read_text(), process)
            if attempt == "third":
                kill(process)
    finally:
        os.kill(owner, signal.SIGCONT)
    words = process.communicate(timeout=900)[0]
    assert process.returncode == 0, words

    assert "Waiting: another Snakemake" not in words
    assert "Nothing to be done" in again("-n").communicate(timeout=900)[0]
    (processes,) = turns(journal).values()
    assert processes[0] == str(owner)
    assert len(set(processes)) == len(processes) > 1, "a process wrote between two writes of another one"
    for name in ("base.safetensors", "data/sst2.safetensors", *(f"runs/fp32/sst2/1/{name}" for name in FILES)):
        assert (folder / "results/demo" / name).read_bytes() == (project / "results/demo" / name).read_bytes(), name


@pytest.mark.slow
def test_a_configuration_that_is_changed_and_changed_back_leaves_no_run_missing(project):
    run = project / "results/demo/runs/fp32/sst2/1/run.json"
    before = run.read_bytes()
    other = {**QUICK, "budget": {**QUICK["budget"], "lr_scale": 21}}
    killed = start(project, "--cores", "2", "all", config=other)
    until(lambda: not run.exists(), killed)
    kill(killed)
    for target in ("results/fp32_sst2.json", "all"):
        assert "run" in jobs(snakemake(project, "-n", target, config=QUICK)), target
    snakemake(project, "--cores", "2", "all", config=QUICK)
    assert run.read_bytes() == before


@pytest.mark.slow
def test_a_run_made_by_hand_has_the_bytes_of_one_made_by_snakemake(project, monkeypatch):
    made = project / "results/demo/runs/fp32/sst2/1"
    work = project / "results/demo"
    program = f"""
import json, sys
from workflow import catalogue
catalogue.read_config = lambda *_: {QUICK!r}
from methods.__main__ import main
sys.exit(main(sys.argv[1:]))
"""
    words = ["run", "fp32", "sst2", "--out", project / "by-hand", "--data", work / "data/sst2.safetensors"]
    words += ["--base", work / "base.safetensors"]
    variables = {"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(catalogue.ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, words)], capture_output=True, text=True, env={**os.environ, **variables}
    )
    assert done.returncode == 0, done.stderr
    assert "could change results and are ignored: ACCELERATE_GRADIENT_ACCUMULATION_STEPS" in done.stderr
    for name in ("run.json", "last.safetensors", "best.safetensors", "predictions.npz"):
        assert (project / "by-hand" / name).read_bytes() == (made / name).read_bytes(), name


@pytest.mark.slow
def test_the_terminal_has_one_line_for_each_run_a_table_and_the_page_and_the_log_has_the_losses(tmp_path):
    done = snakemake(tmp_path, "--cores", "2", "all", config={**QUICK, "methods": ["fp32", "rtn_8bit"]})
    told = done.stdout + done.stderr
    lines = told.splitlines()
    for method, count in (("fp32", "1 of 2 runs"), ("rtn_8bit", "2 of 2 runs")):
        (line,) = [line for line in lines if line.startswith(f"{method} sst2 seed 1: accuracy last ")]
        assert line.partition("  [")[2].startswith(count)
    assert [line.split()[0] for line in lines[lines.index("         sst2 accuracy") + 1 :][:2]] == ["fp32", "rtn_8bit"]
    assert f"The page: {tmp_path}/report/html/demo/index.html" in lines
    assert "loss" not in told
    log = (tmp_path / "results/demo/logs/fp32/sst2/1.log").read_text()
    assert "loss" in log and log.splitlines()[-1].startswith("fp32 sst2 seed 1: accuracy last ")
    assert (tmp_path / "report/html/index.html").is_file()


def test_a_failed_job_is_told_with_the_end_of_its_log(tmp_path):
    path = tmp_path / "results/demo/base.safetensors"
    path.parent.mkdir(parents=True)
    path.write_text("no tensors")
    done = snakemake(tmp_path, "results/fp32_sst2.json", "--cores", "1", check=False)
    assert "Failed: results/demo/data/sst2.safetensors. The end of its log, results/demo/logs/data/sst2.log:" in done.stderr
    assert "error: results/demo/base.safetensors is damaged" in done.stderr
    assert "CalledProcessError" not in done.stderr and "--request" not in done.stderr


METHODS = [sys.executable, "-m", "methods"]


def methods(*words: str, **variables: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, **variables}
    return subprocess.run([*METHODS, *words], cwd=catalogue.ROOT, capture_output=True, text=True, env=environment)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("base", "--request", "null"), "a request is one JSON object, and not null"),
        (("base", "--request", "[]"), "a request is one JSON object, and not []"),
        (("base", "--request", "{}"), "a request is one JSON object, and not {}"),
        (("base", "--request", "{"), "a request is one JSON object, and this is none"),
        (("base", "--request", "[" * 100_000), "a request is one JSON object, and this is none"),
        (("base", "--request", '{"a": 1}'), "error: --request lacks 'code'"),
        (("run", "--request", '{"method": "fp32"}'), "error: --request lacks 'task'"),
        (("run", "fp32", "rte", "--seed", str(10**30)), "is no whole number from 0 to 4294967295"),
        (("run", "fp32", "rte", "--ancestor", "teacher"), "'teacher' is not ROLE=DIR"),
        (("run", "fp32", "rte", "--ancestor", "teacher=x"), "error: fp32 has no ancestor 'teacher'. Its roles: none."),
        (("run", "twn_2bit", "rte", "--ancestor", "plan=x"), "Its roles: init, teacher."),
    ],
)
def test_a_wrong_call_is_one_line(words, line):
    done = methods(*words)
    assert done.returncode != 0
    assert line in done.stderr
    assert "Traceback" not in done.stderr


def test_optimized_python_is_refused_in_one_line_and_does_not_reach_jobs(tmp_path):
    done = methods("base", PYTHONOPTIMIZE="2")
    assert done.stderr == "error: Python's -O and PYTHONOPTIMIZE drop checks: unset it and run the same command again.\n"
    done = snakemake(tmp_path, "-n", "results/fp32_sst2.json", PYTHONOPTIMIZE="2")
    assert jobs(done) == {"base": 1, "data": 1, "run": 1, "latency": 1, "cell": 1}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_waits_for_its_lock_leaves_when_told_to(number, tmp_path):
    code = (
        "from methods.common import files, interrupt; from pathlib import Path; interrupt.listen()\n"
        f"try:\n    with files.lock(Path({str(tmp_path)!r})): print('in')\n"
        "except interrupt.Interrupted: print('left')"
    )
    with files.lock(tmp_path):
        (tmp_path / ".lock").write_bytes(b"\xff\xfe\x00" * 50)
        words = [sys.executable, "-c", code]
        waiting = subprocess.Popen(words, cwd=catalogue.ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert waiting.stderr.readline() == f"Waiting: process unknown is writing {tmp_path}\n"
        waiting.send_signal(number)
        assert waiting.communicate(timeout=10)[0] == "left\n"


def test_the_configuration_of_a_cell_reaches_its_command(tmp_path):
    done = snakemake(tmp_path, "-n", "-p", "results/fp32_sst2.json", config={"seeds": [1, 2], "preset": "demo"})
    told = done.stdout + done.stderr
    assert """--overrides '{"seeds":[1,2]}'""" in told
    assert '''"title":"Full precision"''' in told


def test_configuration_files_are_laid_over_the_projects_own(tmp_path):
    (tmp_path / "more.yaml").write_text(yaml.safe_dump({"budget": {"tasks": {"sst2": {"epochs_scale": 7}}}}))
    done = snakemake(tmp_path, "-n", "-p", "results/fp32_sst2.json", "--config", "seeds=[3]", config=None)
    assert "seed 3" in done.stdout + done.stderr
    words = ("-n", "-p", "results/fp32_sst2.json", "--configfile", str(tmp_path / "more.yaml"))
    done = snakemake(tmp_path, *words, config=None)
    assert '"epochs_scale":7,' in done.stdout + done.stderr
