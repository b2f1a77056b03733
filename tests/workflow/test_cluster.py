"""profiles/slurm on a real Slurm: what it asks for, and runs that are killed at their time limit or with their node."""

import contextlib
import os
import re
import signal
import subprocess
from pathlib import Path

import psutil
import pytest
import yaml

from tests.fixtures import cluster
from tests.fixtures.profiles import PROFILES, settings
from tests.fixtures.workflow import TINY, command, snakemake

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(cluster.missing()), reason=str(cluster.missing()))]

# A run that is long enough to be disturbed, and two cheap students.
CONFIG = {
    **TINY,
    "methods": ["fp32", "rtn_8bit", "rtn_4bit"],
    "budget": {**TINY["budget"], "epochs_scale": 5, "student_epochs_scale": 0.34, "evaluate_every": 500},
    "allow_weak_teacher": True,
    "latency": False,
}
CELLS = [f"results/{method}_sst2.json" for method in CONFIG["methods"]]
TEACHER = "results/demo/runs/fp32/sst2/1"
FILES = ("run.json", "last.safetensors", "best.safetensors", "predictions.npz")
PATIENCE = 1800  # seconds: a machine that does much else needs minutes to start Snakemake


def write_profile(folder: Path, **variables: str) -> Path:
    """Write the profile with shorter waits and as many checkpoints as their cost allows."""
    profile = settings("slurm", **variables)
    profile |= {"latency-wait": 5, "slurm-init-seconds-before-status-checks": 5}
    profile["set-resources"]["run"]["checkpoint_seconds"] = 0
    path = folder / "profile/config.yaml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(yaml.safe_dump(profile))
    return path.parent


def jobs_of(slurm: cluster.Cluster) -> list[str]:
    """Return Slurm's description of every job, the finished ones included, in the order of their submission."""
    return slurm.command("scontrol", "show", "job", "--oneliner").splitlines()


def start(words: list[str], folder: Path, **variables: str) -> subprocess.Popen:
    """Start Snakemake in a process group of its own; what it says goes to a file in `folder`."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
    with open(folder / "said.txt", "w") as out:
        return subprocess.Popen(words, env=environment, stdout=out, stderr=out, start_new_session=True)


def end(process: subprocess.Popen) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def process_of_run(slurm: cluster.Cluster) -> psutil.Process | None:
    """Return the process that trains now, if there is one."""
    for process in slurm.job_processes():
        try:
            if process.cmdline()[1:4] == ["-m", "methods", "run"]:
                return process
        except psutil.Error:
            continue
    return None


def log_of_teacher(project: Path) -> str:
    path = project / "results/demo/logs/fp32/sst2/1.log"
    return path.read_text() if path.exists() else ""


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The same runs on this machine alone."""
    folder = tmp_path_factory.mktemp("undisturbed")
    words = command(folder, *CELLS, "--cores", "1", config=CONFIG)
    process = start(words, folder)

    def finished() -> Path:
        assert process.wait(PATIENCE) == 0, (folder / "said.txt").read_text()
        return folder

    yield finished
    end(process)


@pytest.fixture(scope="module")
def disturbed(undisturbed, tmp_path_factory):
    """A project whose teacher was killed at its time limit and then with its node; its cluster and what happened."""
    folder = tmp_path_factory.mktemp("disturbed")
    with cluster.cluster() as slurm:
        words = command(folder, CELLS[0], config=CONFIG, profile=write_profile(folder))
        process = start(words, folder, **slurm.variables)
        try:
            yield folder, slurm, disturb(folder, slurm, process)
        finally:
            end(process)


def disturb(folder: Path, slurm: cluster.Cluster, process: subprocess.Popen) -> list[str]:
    """Kill the teacher twice, wait for its end, and return the lines in which its later tries say where they went on."""

    def wait_for(condition, what: str):
        try:
            return cluster.wait_for(lambda: process.poll() is not None or condition(), what, PATIENCE)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{(folder / 'said.txt').read_text()}\n{slurm.logs()}") from None

    def resumption() -> str:
        return "".join(re.findall(r"Resuming from step-\d+", log_of_teacher(folder)))

    wait_for(lambda: list(folder.glob(f"{TEACHER}/checkpoints/step-*")), "the first checkpoint")
    # Stopped, it is still there at the limit, however fast the machine. Slurm wakes it up to end it.
    process_of_run(slurm).suspend()
    slurm.update_jobs("TimeLimit=1")
    wait_for(lambda: any("JobState=TIMEOUT" in job for job in jobs_of(slurm)), "the time limit")

    wait_for(resumption, "the second try")
    resumptions = [resumption()]
    slurm.fail_node()
    wait_for(lambda: "down" in slurm.command("sinfo", "--noheader", "--format=%T"), "the failure of the node")
    slurm.start_node()
    slurm.update_jobs("StartTime=now")  # Slurm lets a job whose node failed wait for two minutes
    wait_for(lambda: process_of_run(slurm), "the third try")
    wait_for(resumption, "the third try's checkpoint")
    resumptions.append(resumption())
    cluster.wait_for(lambda: process.poll() is not None, "the end", PATIENCE)
    assert process.returncode == 0, (folder / "said.txt").read_text()
    return resumptions


def test_a_run_killed_at_its_time_limit_and_one_killed_with_its_node_go_on_from_their_checkpoints(disturbed):
    _, slurm, resumptions = disturbed
    assert len(resumptions) == 2 and all(resumptions), resumptions
    assert any("JobState=TIMEOUT" in job for job in jobs_of(slurm))


def test_the_disturbed_run_has_the_bytes_of_an_undisturbed_one(disturbed, undisturbed):
    for name in FILES:
        assert (disturbed[0] / TEACHER / name).read_bytes() == (undisturbed() / TEACHER / name).read_bytes(), name


def test_no_job_asks_for_a_gpu_and_none_needs_accounting(disturbed):
    jobs = jobs_of(disturbed[1])
    assert len(jobs) >= 4, jobs  # the base model, the rows and two tries of the teacher
    assert not [job for job in jobs if "gpu" in job.lower()]
    assert "accounting storage is disabled" in disturbed[1].command("sacct")


def test_runs_of_a_task_take_turns_in_one_job_where_the_profile_says_so(disturbed, undisturbed):
    folder, slurm, _ = disturbed
    before = len(jobs_of(slurm))
    words = (*CELLS, "--profile", str(PROFILES / "together"))
    profile = write_profile(folder, RUN_MB="8000", RUN_MINUTES="30")
    snakemake(folder, *words, config=CONFIG, profile=profile, timeout=PATIENCE, **slurm.variables)
    (job,) = jobs_of(slurm)[before:]
    assert "NumCPUs=1 " in job and "mem=8000M," in job and "TimeLimit=01:00:00 " in job, job
    for method in ("rtn_8bit", "rtn_4bit"):
        for name in FILES:
            path = f"results/demo/runs/{method}/sst2/1/{name}"
            assert (folder / path).read_bytes() == (undisturbed() / path).read_bytes(), path
