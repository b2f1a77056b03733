"""The workflow as a user meets it: Snakemake in a process of its own, in a folder of its own."""

import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from tests.fixtures.workflow import ROOT, TINY, jobs, snakemake
from workflow import catalogue, documents


def said(done: subprocess.CompletedProcess) -> str:
    return done.stdout + done.stderr


def test_every_method_and_task_resolves_by_name_in_every_preset(tmp_path):
    found = catalogue.load({"preset": "demo"})
    targets = [f"results/{method}_{task}.json" for method in found.cell_methods() for task in found.tasks]
    for preset in ("demo", "small", "paper"):
        done = snakemake(tmp_path, "-n", *targets, config={"preset": preset})
        assert done.returncode == 0
    assert not (tmp_path / "results").exists()


def test_the_papers_dag_holds_each_run_once(tmp_path):
    found = catalogue.load({"preset": "paper"})
    asked = {key: found.config[key] for key in ("methods", "tasks", "seeds")}
    runs, waiting = set(), list(itertools.product(*asked.values()))
    while waiting:
        if (run := waiting.pop()) not in runs:
            runs.add(run)
            waiting += found.ancestors(*run).values()
    assert runs == set(found.runs(asked["methods"], asked["tasks"]))
    tasks = len(asked["tasks"])
    cells = len(asked["methods"]) * tasks
    expected = {"base": 1, "data": tasks, "run": len(runs), "latency": cells, "cell": cells, "page": 1, "all": 1}
    assert jobs(snakemake(tmp_path, "all", "-n", config={"preset": "paper"})) == expected


@pytest.mark.parametrize(
    ("target", "line"),
    [
        ("results/lsq_rte.json", "error: Unknown method 'lsq' in 'results/lsq_rte.json'. There are: "),
        ("results/fp32_rtf.json", "error: Unknown task 'rtf' in 'results/fp32_rtf.json'. Did you mean 'rte'?"),
        ("results/x;touch PWNED;.json", "is no cell: write results/METHOD_TASK.json"),
        ("results/fp32 rte.json", "is no cell: write results/METHOD_TASK.json"),
        ("results/..json", "is no cell: write results/METHOD_TASK.json"),
        ("results/../fp32_rte.json", "No rule to produce fp32_rte.json"),
        ("/tmp/fp32_rte.json", "No rule to produce /tmp/fp32_rte.json"),
    ],
)
def test_a_name_that_is_no_cell_is_refused_before_anything_runs(tmp_path, target, line):
    done = snakemake(tmp_path, target, check=False)
    assert done.returncode != 0
    assert line in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert {path.name for path in tmp_path.iterdir()} <= {"tiny.yaml", ".snakemake"}


@pytest.mark.parametrize(
    ("config", "line"),
    [
        ({"preset": "papre"}, "error: Unknown preset 'papre'. Did you mean 'paper'?"),
        ({"sedes": [1]}, "error: configuration: unknown key 'sedes' at top level. Did you mean 'seeds'?"),
        ({"seeds": "many"}, "error: configuration: seeds: 'many' is not of type 'array'."),
        ({"seeds": [10**30]}, "error: configuration: seeds.0: 1000000000000000000000000000000 is greater than the maximum"),
        ({"budget": {"lr_scale": float("nan")}}, "error: configuration: budget.lr_scale: nan is not a finite number"),
        ({"methods": ["splits"]}, "error: configuration: unknown method 'splits'."),
    ],
)
def test_a_wrong_configuration_is_one_line(tmp_path, config, line):
    done = snakemake(tmp_path, "-n", config=config, check=False)
    assert done.returncode != 0
    assert line in done.stderr
    assert "Traceback" not in done.stderr


def test_nested_values_on_the_command_line_are_numbers_nulls_and_booleans(tmp_path):
    words = ["budget={tasks: {rte: {epochs_scale: 3, train_rows: null}}}", "seeds=[1, 2]", "allow_weak_teacher=true"]
    done = snakemake(tmp_path, "results/fp32_kd_rte.json", "-n", "-p", "--config", *words)
    assert '"epochs_scale":3,' in done.stdout + done.stderr
    assert '"train_rows":null' in done.stdout + done.stderr
    assert "Run of fp32_kd on rte, seed 2" in done.stdout + done.stderr


def test_what_a_failed_ancestor_leaves_unmade_is_said_with_its_name(tmp_path):
    damaged = [tmp_path / "results/demo/base.safetensors", tmp_path / "results/demo/data/sst2.safetensors"]
    for path in damaged:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("no tensors")
    done = snakemake(tmp_path, "results/tws_1bit_sst2.json", "--cores", "1", check=False)
    assert done.returncode != 0 and not (tmp_path / "results/tws_1bit_sst2.json").exists()
    expected = r"^tws_1bit on sst2 was not made: its ancestor fp32 failed: .*sst2\.safetensors is damaged.*$"
    assert re.search(expected, done.stderr, re.MULTILINE), done.stderr


def test_a_missing_mirror_is_one_line(tmp_path):
    config = {"preset": "small", "data": {"mirror": "nowhere"}, "base": {"source": "folder", "path": "nowhere"}}
    done = snakemake(tmp_path, "results/fp32_rte.json", config=config, check=False)
    assert done.returncode != 0
    assert "error: base.path: 'nowhere' is no folder" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A folder in which one real cell and the page were made."""
    folder = tmp_path_factory.mktemp("project")
    snakemake(folder, "--cores", "2", "all")
    return folder


def test_one_command_makes_cell_and_page(project):
    cell = json.loads((project / "results/fp32_sst2.json").read_text())
    run = json.loads((project / "results/demo/runs/fp32/sst2/1/run.json").read_text())
    assert cell["request"]["method"] == "fp32"
    assert run["status"] == "ok"
    assert run["ran_on"]["data"]["partial"] is True  # trained on 400 rows
    assert not (project / "results/demo/runs/fp32/sst2/1/checkpoints").exists()
    assert cell["measured"]["latency"] == json.loads((project / "results/demo/runs/fp32/sst2/1/latency.json").read_text())
    assert cell["measured"]["latency"]["difference"] <= 0.1
    assert "generated" in (project / "report/html/demo/index.html").read_text()


@pytest.mark.parametrize(
    ("change", "rerun"),
    [
        ({}, set()),
        ({"threads": 1, "tasks": ["sst2"]}, set()),
        ({"seeds": [1, 2]}, {"run", "cell", "page", "all"}),  # the first seed has been measured
        ({"seeds": [2, 1]}, {"run", "latency", "cell", "page", "all"}),
        ({"methods": ["fp32", "rtn_8bit"]}, {"run", "latency", "cell", "page", "all"}),
        ({"primary": "best"}, {"latency", "cell", "page", "all"}),  # nothing descends from another run here
        ({"budget": {**TINY["budget"], "lr_scale": 21}}, {"run", "latency", "cell", "page", "all"}),
        ({"latency": {"seconds": 3}}, {"latency", "cell", "page", "all"}),
        ({"latency": False}, {"cell", "page", "all"}),
    ],
)
def test_a_change_reruns_what_depends_on_it_and_nothing_else(project, change, rerun):
    done = snakemake(project, "-n", "all", config={**TINY, **change})
    assert jobs(done).keys() == rerun, done.stdout + done.stderr


def test_touched_sources_rerun_nothing(project):
    for path in (ROOT / "methods/fp32.py", ROOT / "report/evidence/cells.py", ROOT / "config/methods/fp32.yaml"):
        path.touch()
    assert "Nothing to be done" in said(snakemake(project, "-n", "all"))


def test_a_run_made_again_reruns_what_is_built_on_it_only_if_it_came_out_otherwise(project):
    run = project / "results/demo/runs/fp32/sst2/1/run.json"
    before = run.read_bytes()
    run.touch()
    assert "Nothing to be done" in said(snakemake(project, "-n", "all"))
    try:
        run.write_bytes(before.replace(b'"steps":', b'"steps": '))
        assert jobs(snakemake(project, "-n", "all")).keys() == {"latency", "cell", "page", "all"}
    finally:
        run.write_bytes(before)


@pytest.mark.slow
def test_kill_9_in_training_and_the_same_command_give_the_same_bytes(project):
    run = project / "results/demo/runs/fp32/sst2/1"
    names = ("run.json", "last.safetensors", "best.safetensors", "predictions.npz")
    before = {name: (run / name).read_bytes() for name in names}
    run_request = catalogue.dump(catalogue.load(documents.merge({"preset": "demo"}, TINY)).request("fp32", "sst2", 1))
    work = project / "results/demo"
    command = [
        sys.executable,
        "-m",
        "methods",
        "run",
        "--request",
        run_request,
        "--out",
        str(project / "again"),
        "--checkpoint-steps",
        "2",
    ]
    command += ["--data", str(work / "data/sst2.safetensors"), "--base", str(work / "base.safetensors")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    killed = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not list((project / "again").glob("checkpoints/step-*")) and killed.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert list((project / "again").glob("checkpoints/step-*")), "the run was over before it could be killed"
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Resuming from step-" in done.stderr
    assert {name: (project / "again" / name).read_bytes() for name in names} == before


NOBODY = "http://127.0.0.1:9"


@pytest.mark.parametrize("way", [{"HF_ENDPOINT": NOBODY}, {"HF_ENDPOINT": "https://huggingface.co", "HTTPS_PROXY": NOBODY}])
def test_prefetch_without_network_is_one_line_and_writes_no_mirror(tmp_path, monkeypatch, way):
    for name, value in way.items():
        monkeypatch.setenv(name, value)
    done = snakemake(tmp_path, "prefetch", config={"preset": "paper"}, check=False)
    assert done.returncode != 0
    assert (
        "error: The hub cannot be reached: run `snakemake prefetch` on a machine with network." in done.stdout + done.stderr
    )
    assert "Traceback" not in done.stdout + done.stderr
    assert not (tmp_path / "mirror").exists()


def test_a_file_in_place_of_the_results_folder_is_one_line(tmp_path):
    (tmp_path / "results").touch()
    done = snakemake(tmp_path, "results/fp32_rte.json", check=False)
    assert done.returncode != 0
    assert "error: results is no folder that can be written: make it one or work in another" in done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def as_root(*words: str) -> list[str]:
    """The command with rights over mounts that nobody else sees and that are gone with it."""
    return ["unshare", "--map-root-user", "--mount", *words]


def may_mount() -> bool:
    if shutil.which("unshare") is None:
        return False
    return subprocess.run(as_root("mount", "-t", "tmpfs", "none", "/mnt"), capture_output=True).returncode == 0


mounts = pytest.mark.skipif(not may_mount(), reason="this user may not mount anything, even in a namespace of its own")


@pytest.fixture
def shell(project, tmp_path):
    """Runs a script in a copy of the project, in which `$ALL` makes a cell of two seeds of which one is there."""
    shutil.copytree(project, tmp_path / "copy")
    (tmp_path / "two.yaml").write_text(yaml.safe_dump({**TINY, "seeds": [1, 2]}))
    command = f"{sys.executable} -m snakemake --snakefile {ROOT}/Snakefile all --cores 1 --configfile {tmp_path}/two.yaml"

    def run(script: str) -> tuple[subprocess.CompletedProcess, Path]:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "ALL": command}
        words = as_root("sh", "-c", script)
        done = subprocess.run(words, cwd=tmp_path / "copy", env=environment, capture_output=True, text=True, timeout=300)
        return done, tmp_path / "copy/results"

    return run


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@mounts
@pytest.mark.slow
def test_a_read_only_results_folder_is_one_line_and_loses_nothing(project, shell):
    done, results = shell("mount --bind results results && mount -o remount,ro,bind results && $ALL")
    assert done.returncode != 0
    assert "error: results is no folder that can be written" in done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert contents(results) == contents(project / "results")


@mounts
@pytest.mark.slow
def test_a_full_disk_is_one_line_loses_nothing_and_with_more_room_the_same_command_goes_on(project, shell):
    little = "size=$(( $(du -sk results | cut -f1) + 300 ))k"  # a run writes more than 400
    space = f"cp -a results before && mount -t tmpfs -o {little} none results && cp -a before/. results/"
    more = "mount -o remount,size=32m results"
    done, results = shell(f"{space} && ! $ALL && cp -a results ../full && {more} && $ALL && cp -a results ../whole")
    assert done.returncode == 0, done.stdout + done.stderr
    told = done.stdout + done.stderr
    assert "error: No space is left for results/demo/runs/fp32/sst2/2/" in told
    assert "free some and run the same command again; nothing finished is lost" in told
    assert "Traceback" not in told
    assert "[Errno" not in told
    full, whole = (contents(results.parent.parent / name) for name in ("full", "whole"))
    before = {name: content for name, content in contents(project / "results").items() if "/logs/" not in name}
    before.pop("demo/progress.json")  # the plan of the last command
    assert before.items() <= full.items()
    assert not any(name.endswith(".tmp") for name in full)
    assert "demo/runs/fp32/sst2/2/run.json" in whole


@pytest.mark.slow
def test_stored_predictions_are_scored_again_through_evaluate(project, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(project / "results/demo/runs/fp32/sst2/1", run)
    command = [
        sys.executable,
        "-m",
        "methods",
        "score",
        str(run),
        "--data",
        str(project / "results/demo/data/sst2.safetensors"),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("confirmed") == 2
    record = json.loads((run / "run.json").read_text())
    record["scores"]["last"]["metrics"]["accuracy"] += 1
    (run / "run.json").write_text(json.dumps(record))
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert "run.json says" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_the_training_process_imports_neither_datasets_nor_evaluate(project):
    code = (
        "import sys; sys.argv[1:1] = ['run']; from methods.__main__ import main; main(sys.argv[1:]); "
        "print([name for name in ('datasets', 'evaluate', 'pandas', 'pyarrow') if name in sys.modules])"
    )
    run_request = catalogue.dump(catalogue.load(documents.merge({"preset": "demo"}, TINY)).request("fp32", "sst2", 1))
    work = project / "results/demo"
    words = ["--request", run_request, "--out", str(project / "lean"), "--data", str(work / "data/sst2.safetensors")]
    words += ["--base", str(work / "base.safetensors")]
    done = subprocess.run(
        [sys.executable, "-c", code, *words], env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert done.stdout.splitlines()[-1] == "[]", done.stderr
