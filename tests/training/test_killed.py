"""A run that is killed at any moment, by kill -9, ends with the bytes of an undisturbed one when its command is repeated."""

import json
import os
import random
import signal
import time

import pytest

from tests.fixtures.killable import Nursery
from tests.fixtures.runs_of_methods import request

PHASES = ("start-up", "training", "checkpointing", "scoring", "writing")
METHOD = "bit_1bit_a2"  # it has a teacher, starts from another run, and keeps its latent weights too
NAMES = ("run.json", "record.json", "last.safetensors", "best.safetensors", "latent.safetensors", "predictions.npz")
BUDGET = {"epochs_scale": 0.1, "evaluate_every": 3}  # 8 steps
COUNTED, CLOCKED = 8, 10  # kills in each phase, counted in lines of code, and kills at any time


@pytest.fixture(scope="module")
def words(run_method, base_path, sst2_path):
    """`words(folder)`: the command of a run of some steps, with a checkpoint at every other one."""
    _, ancestor = run_method("fp32", budget=BUDGET)
    command = ["run", "--request", json.dumps(request(METHOD, budget=BUDGET)), "--checkpoint-steps", "2"]
    command += ["--data", str(sst2_path), "--base", str(base_path)]
    command += ["--ancestor", f"init={ancestor}", "--ancestor", f"teacher={ancestor}"]
    return lambda folder: [*command, "--out", str(folder)]


@pytest.fixture(scope="module")
def nursery():
    with Nursery() as found:
        yield found


@pytest.fixture(scope="module")
def undisturbed(nursery, words, tmp_path_factory):
    """The bytes of a run that nobody disturbs, its lines by phase, and the seconds that it takes uncounted."""
    folder = tmp_path_factory.mktemp("undisturbed")
    code, lines = nursery.run_counted(words(folder / "run"), folder / "log")
    assert code == 0, (folder / "log").read_text()
    started = time.monotonic()
    assert nursery.run(words(folder / "again"), folder / "log") == 0
    seconds = time.monotonic() - started
    assert content(folder / "again") == content(folder / "run")
    return content(folder / "run"), lines, seconds


def content(folder) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in NAMES}


def moments(lines: dict[str, int]) -> list[tuple[str, int]]:
    """Return random moments, as many in each phase."""
    chance = random.Random(20)
    return [(phase, chance.randint(1, lines[phase])) for phase in PHASES for _ in range(COUNTED)]


def ends_well(nursery, words, folder, log, expected: dict[str, bytes]) -> None:
    """Check that the command, given again, ends and leaves what an undisturbed run leaves, and nothing else."""
    assert nursery.run(words(folder), log) == 0, log.read_text()
    assert content(folder) == expected
    assert {path.name for path in folder.iterdir()} == {*NAMES, "machine.json", ".lock"}


@pytest.mark.slow
@pytest.mark.parametrize("phase", PHASES)
def test_a_run_killed_in_any_phase_ends_with_the_same_bytes(phase, nursery, words, undisturbed, tmp_path):
    expected, lines, _ = undisturbed
    for number, moment in enumerate(moment for moment in moments(lines) if moment[0] == phase):
        folder, log = tmp_path / str(number), tmp_path / "log"
        assert nursery.run(words(folder), log, moment) == -signal.SIGKILL, log.read_text()
        ends_well(nursery, words, folder, log, expected)


@pytest.mark.slow
def test_a_run_killed_at_any_time_ends_with_the_same_bytes(nursery, words, undisturbed, tmp_path):
    """By the clock and from outside, so that a kill may come in the middle of a line."""
    expected, _, seconds = undisturbed
    chance, killed = random.Random(21), 0
    for number in range(CLOCKED):
        folder, log = tmp_path / str(number), tmp_path / "log"
        process = nursery.start(words(folder), log)
        time.sleep(seconds * (number + chance.random()) / CLOCKED)
        os.kill(process, signal.SIGKILL)  # until its end is asked for, the process has not been waited for
        killed += nursery.end() == -signal.SIGKILL
        ends_well(nursery, words, folder, log, expected)
    assert killed >= CLOCKED / 5, "a loaded machine ends some runs before their moment comes"


@pytest.mark.slow
def test_a_run_killed_again_and_again_ends_with_the_same_bytes(nursery, words, undisturbed, tmp_path):
    expected, lines, _ = undisturbed
    folder, log = tmp_path / "run", tmp_path / "log"
    chance = random.Random(22)
    for phase in ("start-up", "training", "checkpointing", "training", "scoring", "writing", "writing"):
        # A resumed run makes fewer lines: it is killed early in the phase.
        code = nursery.run(words(folder), log, (phase, chance.randint(1, lines[phase] // 10)))
        assert code == -signal.SIGKILL, log.read_text()
    ends_well(nursery, words, folder, log, expected)
