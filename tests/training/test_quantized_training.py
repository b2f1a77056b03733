"""Whole runs of quantized methods on the tiny task: they learn, and a stopped run ends with equal bytes."""

import json

import numpy as np
import pytest

from methods.common import interrupt
from methods.model import artifact
from methods.training import trainer
from tests.fixtures.runs_of_methods import CATALOGUE, FILES, ON_TINY
from tests.fixtures.world import loader

FULL_PRECISION = ("fp32", "dynabert", "subnetwork", "rosita")  # families
QUANTIZED = [name for name in ON_TINY if CATALOGUE.methods[name]["family"] not in FULL_PRECISION]
TAUGHT = [  # in one stage, so that its losses can be compared
    name for name in QUANTIZED if CATALOGUE.values(name).get("terms", {}).keys() - {"labels"}
]
TAUGHT_BEFORE = [  # those start where another run has ended with the same terms
    name
    for name in TAUGHT
    if (init := CATALOGUE.methods[name]["ancestors"].get("init"))
    and CATALOGUE.values(init).get("terms") == CATALOGUE.values(name)["terms"]
]


@pytest.mark.parametrize("method", QUANTIZED)
def test_a_whole_run_ends_with_the_score_of_its_file(method, run_method, sst2, device):
    record, folder = run_method(method)
    assert record["status"] == "ok"
    model, _ = artifact.load(folder / "last.safetensors")
    outputs = np.stack(trainer.predict(model, loader(sst2, "validation"), device, exact=True))
    np.testing.assert_array_equal(np.load(folder / "predictions.npz")["last.validation"], outputs)
    size = record["size"]["last"]
    routes = size["active_parameters"] < size["parameters"]  # saves arithmetic, not bytes
    assert routes or size["paper_bytes"] < size["fp32_bytes"]


@pytest.mark.parametrize("method", ["twn_2bit", "lsq_4bit"])
def test_a_run_tells_what_quantization_takes_from_each_matrix(method, run_method):
    record, _ = run_method(method)
    errors = {(entry["layer"], entry["matrix"]): entry["error"] for entry in record["quantization_error"]}
    layers = record["ran_on"]["base"]["layers"]
    matrices = ("query", "key", "value", "attention output", "intermediate", "output")
    assert errors.keys() >= {(layer, matrix) for layer in range(1, layers + 1) for matrix in matrices}
    assert errors.keys() >= {(0, "word embedding"), (layers + 1, "pooler")}
    floor = 0.1 if "2bit" in method else 1e-4
    assert all(floor < error < 0.5 for error in errors.values())


@pytest.mark.parametrize("method", sorted({*TAUGHT} - {*TAUGHT_BEFORE}))
def test_the_distance_to_the_teacher_falls(method, run_method):
    """(Its labels take hundreds of steps even in full precision: what a "not" turns round is told by no single word.)"""
    first, *_, last = run_method(method)[0]["curve"]  # the means of ten steps each
    assert last["loss"] < first["loss"]


@pytest.mark.parametrize("steps", [3, 11])
@pytest.mark.parametrize("method", ["twn_2bit", "lat_2bit", "lsq_4bit", "q8bert"])
def test_a_run_that_was_stopped_ends_with_the_same_bytes(method, steps, run_method, monkeypatch):
    """LAT's curvature and ranges, learned or moving, are state: a run that went on without them would end elsewhere."""
    whole = run_method(method)[1]
    looks = iter([False] * (steps - 1) + [True])
    monkeypatch.setattr(interrupt, "asked", lambda: next(looks))
    with pytest.raises(interrupt.Interrupted):
        run_method(method, copy=f"stopped at {steps}")
    monkeypatch.undo()
    _, resumed = run_method(method, copy=f"stopped at {steps}")
    assert json.loads((resumed / "machine.json").read_text())["resumed"] == 1
    for name in FILES:
        assert (resumed / name).read_bytes() == (whole / name).read_bytes(), name
