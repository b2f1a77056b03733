"""A session on torch returns what scoring returns, with linear layers in integers."""

import numpy as np
import pytest
import torch

from methods.engine.fallback import Fallback
from methods.kernel import products
from methods.kernel.layers import QuantLinear
from methods.model import artifact
from methods.model.edits import apply, calibrate
from methods.tasks import data
from methods.training import trainer
from methods.training.loader import Loader
from tests.fixtures.models import batch_of, model_of

LADDER = [{"kind": "quantize", "weights": {"kind": "ternary"}, "embeddings": {"kind": "ternary", "rows": True}}]
STEP = {"kind": "step", "bits": 8}
EDITS = {
    "full precision": [],
    "weights alone": LADDER,
    "min-max": [{**LADDER[0], "activations": {"kind": "asymmetric", "bits": 8}}],
    "by rows": [
        {
            "kind": "quantize",
            "weights": {"kind": "symmetric", "bits": 8, "rows": True},
            "activations": {"kind": "asymmetric", "bits": 8, "rows": True},
        }
    ],
    "binary and intervals": [
        {
            "kind": "quantize",
            "weights": {"kind": "binary"},
            "activations": {"kind": "interval", "bits": 8, "symmetric": True},
            "one_sided": {"kind": "interval", "bits": 8},
        }
    ],
    "learned steps": [
        {"kind": "quantize", "weights": STEP, "activations": STEP, "one_sided": {"kind": "step", "bits": 8, "signed": False}}
    ],
    "factors": [
        {"kind": "factor", "share": 0.6, "by": "svd"},
        {"kind": "quantize", "weights": {"kind": "symmetric", "bits": 8}, "activations": STEP},
    ],
    "two halves": [
        {**LADDER[0], "activations": {"kind": "asymmetric", "bits": 8}},
        {"kind": "split", "modules": ["bert.encoder.layer.1.output.dense"], "weights": {"kind": "binary"}},
    ],
    "torch's int8": [{"kind": "int8_dynamic"}],
}


def rows(count: int = 20) -> data.Split:
    """Return rows of 3 to 14 tokens."""
    random = np.random.default_rng(0)
    return data.pack([random.integers(4, 24, random.integers(3, 15)).tolist() for _ in range(count)], [3] * count)


def written(folder, edits: list[dict], kind: str = "classification"):
    """Write a model with random weights under edits; return its file."""
    model = model_of(kind)
    for options in edits:
        apply(model, **options)
    calibrate(model, [batch_of()])
    artifact.save(folder / "last.safetensors", model, {"task": "mine", "kind": kind, "padding": "bucket", "max_length": 32})
    return folder / "last.safetensors"


def scored(path, split: data.Split, device) -> list[np.ndarray]:
    model, _ = artifact.load(path)
    return trainer.predict(model, Loader(split, None, device.device, max_length=32), device, exact=True)


def close(outputs: list[np.ndarray], expected: list[np.ndarray]) -> None:
    """Check that outputs differ by rounding only, but for a few where a code of an activation lay between two levels."""
    difference = np.concatenate([np.abs(ours - theirs).ravel() for ours, theirs in zip(outputs, expected, strict=True)])
    difference /= max(np.abs(values).max() for values in expected)
    assert np.median(difference) < 1e-5
    assert np.quantile(difference, 0.9) < 1e-3
    assert difference.max() < 2e-2


@pytest.mark.parametrize("edits", EDITS)
@pytest.mark.parametrize("kind", ["classification", "regression", "span"])
def test_a_session_returns_what_scoring_returns(kind, edits, device, tmp_path):
    path, split = written(tmp_path, EDITS[edits], kind), rows()
    expected = scored(path, split, device)
    with Fallback(path, threads=1) as session:
        outputs = session(split.ids, split.ends, split.first)
        assert (session.kernels, session.threads, session.meta["task"]) == ("torch", 1, "mine")
        assert session.memory >= 4 * sum(parameter.numel() for parameter in session.model.parameters())
    for ours, theirs in zip(outputs, expected, strict=True):
        assert ours.dtype == np.float32 and ours.shape == theirs.shape
    close(outputs, expected)


@pytest.mark.parametrize("edits", ["min-max", "by rows", "binary and intervals", "learned steps", "factors", "two halves"])
def test_every_linear_layer_on_a_grid_multiplies_in_integers(edits, tmp_path, monkeypatch):
    calls, multiply, split = [], torch._int_mm, rows()
    with Fallback(written(tmp_path, EDITS[edits]), threads=1) as session:
        monkeypatch.setattr(torch, "_int_mm", lambda a, b: calls.append(a.dtype) or multiply(a, b))
        session(split.ids, split.ends, split.first)
        on_grids = [layer for layer in session.model.modules() if isinstance(layer, QuantLinear)]
    assert len(calls) == len([layer for layer in on_grids if layer.weight.shape[1] > 1]) > 0


def test_a_machine_whose_integer_products_overflow_does_without_them(device, tmp_path, monkeypatch):
    path, split = written(tmp_path, EDITS["learned steps"]), rows()
    products.integers_are_exact.cache_clear()
    monkeypatch.setattr(torch, "_int_mm", lambda a, b: (a.float() @ b.float()).clamp(-(2**15), 2**15 - 1).int())  # saturates
    try:
        session = Fallback(path, threads=1)
        assert not any(hasattr(parameter, "integers") for parameter in session.model.parameters())
        outputs = session(split.ids, split.ends, split.first)
    finally:
        products.integers_are_exact.cache_clear()
    for ours, theirs in zip(outputs, scored(path, split, device), strict=True):
        assert np.allclose(ours, theirs, atol=1e-5)


def test_rows_of_one_call_share_their_ranges_and_padding_has_no_part(tmp_path):
    split = rows(2)
    with Fallback(written(tmp_path, EDITS["min-max"]), threads=1) as session:
        together = session(split.ids, split.ends, split.first)
        alone = session(split.ids[: split.ends[0]], split.ends[:1], split.first[:1])
        assert not np.allclose(alone[0], together[0], atol=1e-5)
        assert session(split.ids[:0], split.ends[:0], split.first[:0]) == []


@pytest.mark.parametrize("method", ["rtn_8bit", "twn_2bit", "lsq_4bit", "tws_1bit"])
def test_methods_answer_as_their_scores_were_made(method, run_method, sst2, device):
    path = run_method(method)[1] / "last.safetensors"
    split = sst2.splits["validation"]
    with Fallback(path, threads=1) as session:
        outputs = session(split.ids, split.ends, split.first)
    close(outputs, scored(path, split, device))
