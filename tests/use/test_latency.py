"""The time of predictions: which rows are timed and how they are batched, what is compared, and what is refused."""

import itertools
import json
import shutil
import time

import numpy as np
import pytest

from methods import engine
from methods.__main__ import main
from methods.common.errors import UserError
from methods.common.files import write_json
from methods.common.schema import validate
from methods.tasks import data
from methods.use import latency
from methods.use.model import outputs_of
from tests.fixtures.copies import modules_after
from tests.fixtures.sessions import FakeSession


@pytest.fixture(scope="module")
def finished(run_method):
    """Return the folder of a finished run on the tiny task."""
    return run_method("fp32")[1]


@pytest.fixture
def folder(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run")


@pytest.fixture
def sessions(monkeypatch):
    """Let a fake session answer in the place of the engine; return all that were opened."""
    opened = []

    def open_session(path, threads=None, kernels=None):
        opened.append(FakeSession(path, threads or 2, kernels))
        return opened[-1]

    monkeypatch.setattr(engine, "open_session", open_session)
    return opened


def refused(error):
    def open_session(path, threads=None, kernels=None):
        raise error(f"{path}: it has five legs.")

    return open_session


def test_a_model_is_timed_row_by_row_and_in_batches_then_scored_as_a_run_is(sessions, folder, sst2, sst2_path):
    found = latency.measure(folder, sst2_path, seconds=0.05)
    warm, session = sessions
    assert warm.closed and not warm.calls, "the first session builds the engine"
    assert session.closed
    sizes = [len(call) for call in session.calls]
    assert set(sizes) == {1, 30}, "a dev set of fewer than 32 rows is one batch"
    alone = [call[0] for call in session.calls if len(call) == 1]
    dev = sst2.dev["validation"]
    assert sorted(alone[-30:]) == sorted(dev.lengths), "whole passes, by real lengths"
    assert found["batches"]["1"]["rows"] == found["rows"] == 30
    run = json.loads((folder / "run.json").read_text())
    predictions = sst2.predictions({"validation": outputs_of(FakeSession(folder / "last.safetensors"), dev)})
    assert found["scores"] == sst2.score(predictions)
    recorded = run["scores"]["last"]["metrics"]
    assert found["difference"] == max(abs(found["scores"][name] - value) for name, value in recorded.items())
    assert found["model"] == run["files"]["last.safetensors"]
    assert (found["engine"], found["kernels"], found["threads"], found["reason"]) == ("packed", "portable", 2, None)
    validate(found, "cell.schema.yaml#/$defs/latency", "latency.json")


def split_of(lengths: list[int]) -> data.Split:
    return data.pack([[7] * length for length in lengths], [1] * len(lengths))


def test_batches_are_whole_of_neighbours_in_length_and_in_a_fixed_random_order():
    split = split_of([int(length) for length in np.random.default_rng(1).integers(3, 60, 100)])
    found = latency.batches(split, 32)
    assert [len(rows) for rows in found] == [32, 32, 32], "the four rows left are no whole batch"
    spans = sorted((split.lengths[rows].min(), split.lengths[rows].max()) for rows in found)
    assert all(longest <= shortest for (_, longest), (shortest, _) in itertools.pairwise(spans))
    alone = [int(rows[0]) for rows in latency.batches(split, 1)]
    assert sorted(alone) == list(range(100)) and alone != sorted(alone)
    assert alone == [int(rows[0]) for rows in latency.batches(split, 1)]
    assert [len(rows) for rows in latency.batches(split_of([5, 4, 3]), 32)] == [3]


class Sleeping:
    """A session that takes a millisecond a row."""

    def __call__(self, ids, ends, first):
        time.sleep(0.001 * len(ends))


def test_what_does_not_fit_into_the_seconds_is_left_out_and_counted():
    split = split_of([5] * 1000)
    found = latency._timed(Sleeping(), split, 1, seconds=0.05)
    assert 3 <= found["rows"] == found["calls"] < 60
    assert 1 <= found["median_ms"] <= found["p95_ms"]
    assert found["sentences_per_second"] < 1000
    found = latency._timed(Sleeping(), split, 32, seconds=0.001)
    assert (found["calls"], found["rows"]) == (3, 96), "three calls at least, however slow"
    assert found["median_ms"] >= 32


def test_a_short_dev_set_is_gone_through_again():
    found = latency._timed(Sleeping(), split_of([5] * 4), 1, seconds=0.4)
    assert found["rows"] == 4 and found["calls"] > 20


@pytest.mark.parametrize("error", [engine.NoCompiler, engine.Unsupported])
def test_torch_runs_what_the_engine_cannot_and_is_named_with_the_reason(error, folder, sst2_path, monkeypatch):
    monkeypatch.setattr(engine, "open_session", refused(error))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    found = latency.measure(folder, sst2_path, threads=1, seconds=0.02)
    assert (found["engine"], found["kernels"], found["threads"]) == ("torch", "torch", 1)
    assert found["reason"] == "it has five legs.", "without the path of this machine"
    assert found["difference"] == pytest.approx(0, abs=1e-9)
    validate(found, "cell.schema.yaml#/$defs/latency", "latency.json")


def test_a_diverged_run_has_no_time_and_says_why(folder, sst2_path, tmp_path):
    run = json.loads((folder / "run.json").read_text())
    diverged = {"status": "diverged", "reason": "loss became nan", "scores": None, "bits": None, "size": None, "files": {}}
    write_json(folder / "run.json", run | diverged)
    out = tmp_path / "latency.json"
    assert main(["latency", str(folder), "--data", str(sst2_path), "--out", str(out)]) == 0
    found = json.loads(out.read_text())
    assert found == {"format": 1, "engine": None, "reason": "diverged: loss became nan"}
    validate(found, "cell.schema.yaml#/$defs/latency", "latency.json")


def test_outputs_that_are_not_finite_are_refused(folder, sst2_path, monkeypatch):
    class Broken(FakeSession):
        def __call__(self, *rows):
            return [values * np.nan for values in super().__call__(*rows)]

    monkeypatch.setattr(engine, "open_session", Broken)
    with pytest.raises(UserError, match="numbers that are not finite through the engine"):
        latency.measure(folder, sst2_path, seconds=0.01)


def test_another_data_file_and_another_model_are_refused_in_one_line(folder, sst2_path, write_task, capsys):
    from tests.fixtures.world import rows_of_sst2

    other = write_task("sst2", {"train": rows_of_sst2(10, 5), "validation": rows_of_sst2(10, 6)})
    assert main(["latency", str(folder), "--data", str(other)]) == 1
    assert "was not scored on the rows of" in capsys.readouterr().err
    (folder / "last.safetensors").write_bytes((folder / "best.safetensors").read_bytes() + b" ")
    assert main(["latency", str(folder), "--data", str(sst2_path)]) == 1
    assert "last.safetensors is not the file that run.json recorded" in capsys.readouterr().err
    assert not (folder / "latency.json").exists()


def test_the_command_writes_beside_the_run_and_says_what_it_found(sessions, folder, sst2_path, capsys):
    words = ["latency", str(folder), "--data", str(sst2_path), "--seconds", "0.02", "--threads", "3", "--protocol", "best"]
    assert main(words) == 0
    found = json.loads((folder / "latency.json").read_text())
    assert found["protocol"] == "best" and found["threads"] == 3
    assert "ms a row" in (line := capsys.readouterr().out) and "packed engine, portable kernels, 3 threads" in line


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf", "many"])
def test_seconds_are_a_number_above_zero(seconds, capsys):
    with pytest.raises(SystemExit):
        main(["latency", "run", "--data", "x", "--seconds", seconds])
    assert "is no number of seconds above 0" in capsys.readouterr().err


def test_measuring_imports_no_torch():
    loaded = modules_after("from methods.use import latency; from methods.engine import session")
    assert not {"torch", "transformers"} & {name.partition(".")[0] for name in loaded}
