"""One run on several processes: `--processes 2` goes through accelerate launch, here on the CPU."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from methods.model import artifact
from methods.model.encoder import write_base
from tests.fixtures.runs_of_methods import request
from tests.fixtures.world import without_dropout
from workflow import catalogue

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def command(base, sst2_path, tmp_path_factory):
    """The words of a run of fp32 on the tiny task. There is no dropout: each process would draw masks of its own."""
    path = tmp_path_factory.mktemp("base") / "base.safetensors"
    write_base(path, without_dropout(base))

    def words(out, processes: int, method: str = "fp32", **budget) -> list[str]:
        budget = {"epochs_scale": 2, "evaluate_every": 4, "batch_size": 9, **budget}
        run_request = catalogue.dump(request(method, budget=budget))
        files = ["--data", str(sst2_path), "--base", str(path), "--out", str(out)]
        return [sys.executable, "-m", "methods", "run", "--request", run_request, *files, "--processes", str(processes)]

    return words


def start(words: list[str]) -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": str(catalogue.ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(words: list[str]) -> tuple[int, str]:
    process = start(words)
    said = process.communicate(timeout=300)[0]
    return process.returncode, said


@pytest.fixture(scope="module")
def two(command, tmp_path_factory):
    """An undisturbed run on two processes, and what it said."""
    folder = tmp_path_factory.mktemp("two")
    code, said = finish(command(folder, 2))
    assert code == 0, said
    return folder, said


def test_two_processes_learn_what_one_does(command, two, tmp_path):
    folder, said = two
    assert said.count("accuracy last") == 1  # they speak with one voice
    code, told = finish(command(tmp_path, 1))
    assert code == 0, told
    one, both = (json.loads((path / "run.json").read_text()) for path in (tmp_path, folder))
    assert both["status"] == "ok"
    assert (one["ran_on"]["processes"], both["ran_on"]["processes"]) == (1, 2)
    assert [entry["loss"] for entry in both["curve"]] == pytest.approx([entry["loss"] for entry in one["curve"]], rel=1e-5)
    assert both["examples_seen"] == one["examples_seen"]
    alone, together = (artifact.load(path / "last.safetensors")[0].state_dict() for path in (tmp_path, folder))
    assert all(torch.allclose(together[name], alone[name], atol=1e-4) for name in alone)


def test_sigterm_leaves_a_checkpoint_from_which_both_go_on_to_the_same_bytes(command, two, tmp_path):
    words = [*command(tmp_path, 2), "--checkpoint-steps", "2"]
    told = start(words)
    while not list(tmp_path.glob("checkpoints/step-*")) and told.poll() is None:
        time.sleep(0.002)
    told.send_signal(signal.SIGTERM)
    said = told.communicate(timeout=60)[0]
    assert told.returncode != 0
    assert "stopped at step" in said, said
    assert not (tmp_path / "run.json").exists()
    code, said = finish(words)
    assert code == 0, said
    assert said.count("Resuming from step-") == 1
    for name in ("run.json", "last.safetensors", "best.safetensors", "predictions.npz"):
        assert (tmp_path / name).read_bytes() == (two[0] / name).read_bytes()


def test_a_divergence_is_written_once_and_a_mistake_is_said_once(command, tmp_path):
    code, said = finish(command(tmp_path / "hot", 2, lr_scale=1e30))
    assert code == 0, said
    assert json.loads((tmp_path / "hot/run.json").read_text())["status"] == "diverged"
    code, said = finish([*command(tmp_path / "child", 2, "fp32_kd"), "--ancestor", f"teacher={tmp_path / 'nowhere'}"])
    assert code != 0
    assert said.count("error: ") == 1, said
