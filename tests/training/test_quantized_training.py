"""Whole runs of quantized methods on the tiny task: they learn, and being stopped leaves no trace in what they end with."""

import importlib
import json

import numpy as np
import pytest

from methods import run as harness
from methods.common import interrupt
from methods.model import artifact
from methods.training import objective, trainer
from workflow import catalogue

BUDGET = {
    "lr_scale": 50,
    "epochs_scale": 0.85,
    "student_epochs_scale": None,
    "evaluate_every": 8,
    "batch_size": 8,
}  # 20 steps of 60 rows, thrice round
CATALOGUE = catalogue.load({"preset": "demo", "budget": BUDGET, "allow_weak_teacher": True})
QUANTIZED = [  # without LadaBERT, whose budgets leave nothing of a model that is hardly made of matrices
    name for name, method in CATALOGUE.methods.items() if method["bits"]["weights"] < 32 and method["family"] != "ladabert"
]
TAUGHT = [
    name
    for name in QUANTIZED
    if objective.NEEDS_TEACHER & CATALOGUE.methods[name]["recipe"].get("terms", {"value": {}})["value"].keys()
]


@pytest.fixture(scope="module")
def run(base_path, sst2_path, tmp_path_factory):
    """Do a method's run on the tiny task as the workflow would, its ancestors first; its record and folder."""
    folder, finished = tmp_path_factory.mktemp("runs"), {}

    def do(method: str, name: str | None = None) -> tuple[dict, object]:
        name = name or method
        if name not in finished:
            run_request = json.loads(catalogue.dump(CATALOGUE.request(method, "sst2", 1)))
            family = importlib.import_module(f"methods.{run_request['spec']['family']}")
            ancestors = {role: do(ancestor[0])[1] for role, ancestor in run_request["ancestors"].items()}
            paths = {"data_path": sst2_path, "base_path": base_path, "ancestors": ancestors}
            finished[name] = harness.run(run_request, family, folder / name, **paths), folder / name
        return finished[name]

    return do


@pytest.mark.parametrize("method", QUANTIZED)
def test_a_whole_run_ends_with_the_score_of_its_file(method, run, sst2, accelerator):
    record, folder = run(method)
    assert record["status"] == "ok"
    model, _ = artifact.load(folder / "last.safetensors")
    inputs = {"accelerator": accelerator, "padding": CATALOGUE.config["padding"], "max_length": 32}
    outputs = np.stack(trainer.predict(model, sst2.dev["validation"], exact=True, **inputs))
    np.testing.assert_array_equal(np.load(folder / "predictions.npz")["last.validation"], outputs)
    assert record["size"]["last"]["paper_bytes"] < record["size"]["last"]["fp32_bytes"]


@pytest.mark.parametrize("method", ["twn_2bit", "lsq_4bit"])
def test_a_run_tells_what_quantization_takes_from_each_matrix(method, run):
    record, _ = run(method)
    errors = {(entry["layer"], entry["matrix"]): entry["error"] for entry in record["quantization_error"]}
    layers = record["ran_on"]["base"]["layers"]
    matrices = ("query", "key", "value", "attention output", "intermediate", "output")
    assert errors.keys() >= {(layer, matrix) for layer in range(1, layers + 1) for matrix in matrices}
    assert errors.keys() >= {(0, "word embedding"), (layers + 1, "pooler")}
    floor = 0.1 if "2bit" in method else 1e-4
    assert all(floor < error < 0.5 for error in errors.values())


@pytest.mark.parametrize("method", TAUGHT)
def test_the_distance_to_the_teacher_falls_in_twenty_steps(method, run):
    """(Its labels take hundreds of steps even in full precision: what a "not" turns round is told by no single word.)"""
    first, last = run(method)[0]["curve"]  # the means of ten steps each
    assert last["loss"] < first["loss"]


@pytest.mark.parametrize("steps", [3, 11])
@pytest.mark.parametrize("method", ["twn_2bit", "lat_2bit", "lsq_4bit"])
def test_a_run_that_was_stopped_ends_with_the_same_bytes(method, steps, run, monkeypatch):
    """LAT's curvature and the learned ranges are state: a run that went on without them would end elsewhere."""
    whole = run(method)[1]
    looks = iter([False] * (steps - 1) + [True])
    monkeypatch.setattr(interrupt, "asked", lambda: next(looks))
    with pytest.raises(interrupt.Interrupted):
        run(method, f"{method} stopped at {steps}")
    monkeypatch.undo()
    _, resumed = run(method, f"{method} stopped at {steps}")
    assert json.loads((resumed / "machine.json").read_text())["resumed"] == 1
    for name in ("run.json", "last.safetensors", "best.safetensors", "predictions.npz"):
        assert (resumed / name).read_bytes() == (whole / name).read_bytes(), name
