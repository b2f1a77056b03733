"""Scoring code that changes makes scores anew and trains nothing; what is not finite is never written."""

import json

import numpy as np
import pytest
import torch

from methods.common import files
from methods.model import artifact
from methods.model.edits import apply
from methods.tasks.kinds.classification import Classification
from methods.training.trainer import Trainer
from tests.fixtures.runs_of_methods import request
from tests.fixtures.world import tiny

# --- scoring again ----------------------------------------------------------------------------------------


class Trained(BaseException):
    """What nothing catches."""


def refuse_to_train(monkeypatch) -> None:
    def fit(self):
        raise Trained

    monkeypatch.setattr(Trainer, "fit", fit)


@pytest.fixture
def run(run_method, tmp_path):
    """`run("lsq_4bit")`: the record of a run in a folder of this test, on the shared runs of its ancestors."""

    def do(method: str = "fp32", **changes) -> dict:
        wanted = {**request(method, **changes.pop("settings", {})), **changes}
        ancestors = {role: run_method(one[0])[1] for role, one in wanted["ancestors"].items()}
        return run_method.execute(wanted, tmp_path / "run", ancestors)

    return do


def vouches(folder) -> dict:
    """Check that a run's files are those that its record names; return what is stored."""
    stored = json.loads((folder / "run.json").read_text())
    assert all(files.sha256_file(folder / name) == digest for name, digest in stored["files"].items())
    return stored


@pytest.mark.parametrize("method", ["fp32", "lsq_4bit"])
def test_other_scoring_code_scores_the_files_again_and_trains_nothing(method, run, tmp_path, monkeypatch):
    before = run(method)
    old = vouches(tmp_path / "run")
    models = {name: (tmp_path / "run" / name).stat().st_mtime_ns for name in before["files"] if "safetensors" in name}
    machine = (tmp_path / "run/machine.json").read_bytes()
    refuse_to_train(monkeypatch)
    monkeypatch.setattr(Classification, "score", lambda *_: {"accuracy": 12.5})
    run(method, scoring="another")
    new = vouches(tmp_path / "run")
    assert new["ran_on"]["scoring"] == "another"
    assert new["identity"] == old["identity"]
    assert {one["metrics"]["accuracy"] for one in new["scores"].values()} == {12.5}
    assert new["baseline"]["metrics"] == {"accuracy": 12.5}
    changed = {key for key in old if old[key] != new[key]}
    assert changed <= {"scores", "baseline", "ran_on"}
    assert {name: (tmp_path / "run" / name).stat().st_mtime_ns for name in models} == models
    assert (tmp_path / "run/machine.json").read_bytes() == machine
    monkeypatch.undo()
    refuse_to_train(monkeypatch)
    run(method)
    assert vouches(tmp_path / "run") == old


def test_equal_scoring_code_leaves_a_run_alone(run, tmp_path, monkeypatch, capsys):
    run()
    before = (tmp_path / "run/run.json").read_bytes()
    refuse_to_train(monkeypatch)
    run()
    assert "already done" in capsys.readouterr().err
    assert (tmp_path / "run/run.json").read_bytes() == before


def test_scoring_that_was_killed_is_done_again_and_trains_nothing(run, tmp_path, monkeypatch):
    """Killed between its predictions and its record: the record vouches for predictions that are no longer there."""
    run()
    old = vouches(tmp_path / "run")
    refuse_to_train(monkeypatch)

    def kill(path, content):
        raise Trained

    with monkeypatch.context() as patched, pytest.raises(Trained):
        patched.setattr(Classification, "predictions", lambda self, split, outputs, meta: {"values": np.stack(outputs) + 1})
        patched.setattr(files, "write_json", kill)
        run(scoring="another")
    assert files.sha256_file(tmp_path / "run/predictions.npz") != old["files"]["predictions.npz"]
    run(scoring="another")
    assert vouches(tmp_path / "run")["scores"] == old["scores"]


@pytest.mark.parametrize("damage", ["missing", "another"])
def test_predictions_that_are_damaged_are_made_again_and_nothing_is_trained(damage, run, tmp_path, monkeypatch):
    run()
    old, path = vouches(tmp_path / "run"), tmp_path / "run/predictions.npz"
    path.unlink() if damage == "missing" else path.write_bytes(b"another")
    refuse_to_train(monkeypatch)
    run()
    assert vouches(tmp_path / "run") == old


def test_a_model_that_is_damaged_is_trained_again(run, tmp_path, monkeypatch):
    run()
    (tmp_path / "run/best.safetensors").write_bytes(b"another")
    refuse_to_train(monkeypatch)
    with pytest.raises(Trained):
        run(scoring="another")


def test_a_diverged_run_is_not_trained_again(run, tmp_path, monkeypatch):
    hot = {"settings": {"budget": {"lr_scale": 1e30}}}
    assert run(**hot)["status"] == "diverged"
    before = (tmp_path / "run/run.json").read_bytes()
    refuse_to_train(monkeypatch)
    assert run(**hot, scoring="another")["status"] == "diverged"
    assert (tmp_path / "run/run.json").read_bytes() == before


# --- what is not finite -----------------------------------------------------------------------------------

TABLE = "bert.embeddings.word_embeddings.weight"
RECIPE = {"optimizer": "adamw", "lr": 2e-5, "epochs": 3, "batch_size": 8, "terms": {"labels": 1.0}}


@pytest.mark.parametrize("embeddings", [None, {"kind": "ternary", "rows": True}, {"kind": "symmetric", "bits": 8}], ids=str)
@pytest.mark.parametrize("number", ["nan", "inf", "-inf"])
def test_a_weight_that_is_no_number_ends_a_run_as_diverged(number, embeddings, run, tmp_path, papers_of_tests):
    """The number is in a row that no text looks up: neither the loss nor an output shows it."""
    recipe = {**RECIPE, "number": number, "embeddings": embeddings}
    record = run(spec={"family": "poisoned", "recipe": recipe, "sources": {}})
    assert record["status"] == "diverged"
    assert (record["scores"], record["size"], record["bits"], record["files"]) == (None, None, None, {})
    left = {path.name for path in (tmp_path / "run").iterdir()}
    assert not {name for name in left if "safetensors" in name or name.endswith(".npz")}
    assert "run.json" in left and "checkpoints" not in left
    if embeddings is None:
        assert record["reason"] == f"{TABLE} holds NaN or infinity"


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize(
    "weights",
    [
        None,
        {"kind": "ternary"},
        {"kind": "binary"},
        {"kind": "symmetric", "bits": 8},
        {"kind": "loss_aware"},
        {"kind": "threshold", "bits": 4},
        {"kind": "step", "bits": 4},
    ],
    ids=str,
)
def test_a_model_that_holds_no_number_is_not_saved(weights, number, tmp_path):
    model = apply(tiny(), "quantize", weights=weights) if weights else tiny()
    with torch.no_grad():
        model.bert.encoder.layer[1].output.dense.weight[3, 5] = number
    with pytest.raises(artifact.NotFinite, match=r"layer\.1\.output\.dense.* holds NaN or infinity"):
        artifact.save(tmp_path / "model.safetensors", model, {})
    assert not list(tmp_path.iterdir())


def test_ranges_that_were_never_set_are_not_saved(tmp_path):
    model = apply(tiny(), "quantize", activations={"kind": "threshold", "bits": 8})
    with pytest.raises(artifact.NotFinite, match="quantizer"):
        artifact.save(tmp_path / "model.safetensors", model, {})
    assert not list(tmp_path.iterdir())
