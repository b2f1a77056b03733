"""Neither padding nor micro-batches change a gradient, those of learned steps included."""

import numpy as np
import pytest
import torch

from methods.kernel import trace
from methods.model.edits import apply, calibrate
from methods.model.encoder import from_base
from methods.training.objective import Objective
from methods.training.recipe import Pass
from methods.training.trainer import State, accumulate
from tests.fixtures.world import loader, without_dropout

STEP = {"kind": "step", "bits": 8}
ROWS = np.arange(8)
TERMS = {"labels": 1.0, "hidden": 1.0, "attention": 1.0, "logits": 1.0}


@pytest.fixture
def models(base, sst2):
    """A student with learned steps of weights and activations, and its teacher."""

    def make(**changes):
        calm = without_dropout(base)
        student = from_base(calm, "sequence", 2, 1)
        apply(student, "quantize", weights=STEP, embeddings=STEP, activations={**STEP, **changes})
        calibrate(student, [loader(sst2).batch(ROWS)])
        return student, from_base(calm, "sequence", 2, 2).eval()

    return make


def gradients(models, sst2, device, padding: str, micro_batch: int, **changes) -> tuple[torch.Tensor, dict]:
    """Return the terms and each parameter's gradient of one batch."""
    student, teacher = models(**changes)
    objective = Objective(TERMS)
    for model in (student, teacher):
        model.set_attn_implementation("scores")
    state = State(micro_batch=micro_batch)
    terms = accumulate(student, teacher, loader(sst2, padding=padding), (Pass(objective),), ROWS, ROWS, state, device)
    return terms, {name: param.grad for name, param in student.named_parameters() if param.grad is not None}


def close(ours: dict, theirs: dict) -> None:
    """Check that gradients differ by rounding only; those of steps are small, and those of keys' biases are zero."""
    assert ours.keys() == theirs.keys()
    for name, gradient in ours.items():
        scale = float(theirs[name].abs().max())
        least = 1e-10 if "quantizer" in name else 1e-6
        assert float((gradient - theirs[name]).abs().max()) <= 1e-3 * scale + least, name


@pytest.mark.parametrize("count", ["features", "batch"])
def test_padding_changes_no_gradient_of_a_learned_step(count, models, sst2, device):
    terms, short = gradients(models, sst2, device, "bucket", 8, count=count)
    others, long = gradients(models, sst2, device, "max_length", 8, count=count)
    steps = [gradient for name, gradient in short.items() if "input_quantizer.scale" in name]
    assert len(steps) == 2 * 4 + 1 and all(steps)
    torch.testing.assert_close(terms, others, rtol=1e-4, atol=1e-6)
    close(short, long)


def test_micro_batches_change_no_gradient_of_a_learned_step(models, sst2, device):
    terms, whole = gradients(models, sst2, device, "bucket", 8)
    for micro_batch in (3, 1):
        others, parts = gradients(models, sst2, device, "bucket", micro_batch)
        torch.testing.assert_close(terms, others, rtol=1e-4, atol=1e-6)
        close(whole, parts)


def test_counting_padding_would_be_seen(models, sst2, device, monkeypatch):
    """What LSQ's scale was before: with every position counted, padding makes the gradients of steps smaller."""
    monkeypatch.setattr(trace, "real_features", lambda x, pairs=False: torch.full((len(x),), float(x[0].numel())))
    _, short = gradients(models, sst2, device, "bucket", 8)
    _, long = gradients(models, sst2, device, "max_length", 8)
    with pytest.raises(AssertionError, match="input_quantizer"):
        close(short, long)
