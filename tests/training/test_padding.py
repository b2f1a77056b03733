"""Neither padding nor micro-batches change a gradient, those of learned steps included; padding changes no output."""

import numpy as np
import pytest
import torch

from methods.kernel import products, trace
from methods.model.edits import apply, calibrate
from methods.model.encoder import from_base
from methods.training.forward import forward
from methods.training.objective import Objective
from methods.training.recipe import Pass
from methods.training.teaching import Teaching
from methods.training.trainer import State, accumulate
from tests.fixtures.models import answers, batch_of, model_of
from tests.fixtures.world import loader, without_dropout

STEP = {"kind": "step", "bits": 8}
ELASTIC = {"activations": {"kind": "elastic", "bits": 4}, "one_sided": {"kind": "elastic", "bits": 4, "signed": False}}
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
    terms = accumulate(
        student, Teaching(teacher), loader(sst2, padding=padding), (Pass(objective),), ROWS, ROWS, state, device
    )
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


# --- outputs ----------------------------------------------------------------------------------------------

ACTIVATIONS = {
    "min-max": {"activations": {"kind": "asymmetric", "bits": 8}},
    "min-max around zero": {"activations": {"kind": "symmetric", "bits": 8}},
    "min-max around zero, clipped": {"activations": {"kind": "symmetric", "bits": 8, "clip": 2.5}},
    "min-max by rows": {"activations": {"kind": "asymmetric", "bits": 8, "rows": True}},
    "two levels": {"activations": {"kind": "symmetric", "bits": 1}},
    "interval": {
        "activations": {"kind": "interval", "bits": 8, "symmetric": True},
        "one_sided": {"kind": "interval", "bits": 8},
    },
    "step": {"activations": STEP, "one_sided": {"kind": "step", "bits": 8, "shifted": True}},
    "step of two levels": {"activations": {"kind": "step", "bits": 1}},
    "elastic step": {**ELASTIC, "own_inputs": True, "shift": True},
    "signs": {"activations": {"kind": "sign"}, "probs": {"kind": "bool"}},
    "threshold": {"activations": {"kind": "threshold", "bits": 8}},
}
EDITS = {**{name: ("quantize", options) for name, options in ACTIVATIONS.items()}, "torch's int8": ("int8_dynamic", {})}


def widened(batch: dict, width: int) -> dict:
    """Return a batch with more padding, whose token ids are those of a word."""
    more = width - batch["input_ids"].shape[1]
    tensors = ("input_ids", "attention_mask", "token_type_ids")
    return batch | {
        name: torch.nn.functional.pad(batch[name], (0, more), value=7 * (name == "input_ids")) for name in tensors
    }


def quantized(name: str, head: str = "classification", calibrated=None):
    """Return a model with random weights under an edit, calibrated on a batch."""
    student = model_of(head, max_position_embeddings=64)
    edit, options = EDITS[name]
    apply(student, edit, **options)
    calibrate(student, [batch_of() if calibrated is None else calibrated])
    return student


def agree(ours: torch.Tensor, theirs: torch.Tensor, atol: float) -> bool:  # (parts, examples, ...) twice
    """Return whether most examples agree: a number that lies between two levels turns either way by the order of sums."""
    worst = (ours - theirs).abs().transpose(0, 1).flatten(1).amax(1)  # (examples,)
    return float(worst.median()) <= atol


@pytest.mark.parametrize("name", EDITS)
@pytest.mark.parametrize("head", ["classification", "span"])
def test_outputs_do_not_depend_on_padding(name, head):
    batch = batch_of(head)
    student = quantized(name, head)
    real = slice(None) if head == "classification" else batch["attention_mask"] == 1
    expected = answers(student, batch)
    for width in (13, 32, 64):
        outputs = (
            answers(student, widened(batch, width))[:, :, :12] if head == "span" else answers(student, widened(batch, width))
        )
        assert agree(outputs[:, real], expected[:, real], atol=2e-5), width


@pytest.mark.parametrize("name", EDITS)
def test_full_rows_with_padding_equal_those_without(name):
    """Rows of one length take a shorter path, without a mask."""
    batch = batch_of()
    full = batch | {"attention_mask": torch.ones_like(batch["attention_mask"])}
    student = quantized(name)
    assert agree(answers(student, widened(full, 20)), answers(student, full), atol=2e-5)


@pytest.mark.parametrize("name", EDITS)
def test_calibration_does_not_depend_on_padding(name):
    short, long = (quantized(name, calibrated=batch) for batch in (batch_of(), widened(batch_of(), 40)))
    for one, other in zip(short.state_dict().values(), long.state_dict().values(), strict=True):
        assert torch.allclose(one, other, rtol=1e-5)


@pytest.mark.parametrize("name", [name for name in ACTIVATIONS if "two levels" not in name])  # whose signs flip at zero
def test_products_on_codes_leave_out_padding_too(name):
    batch, student = batch_of(), quantized(name)
    with products.on_codes(True):
        short, long = (answers(student, one) for one in (batch, widened(batch, 32)))
    assert agree(short, long, atol=2e-3)  # operands without a common step are multiplied in bf16
    assert agree(short, answers(student, batch), atol=5e-2)


@pytest.mark.parametrize("on_codes", [False, True])
@pytest.mark.parametrize("name", ["min-max", "interval", "step"])
def test_gradients_do_not_depend_on_padding(name, on_codes):
    found = []
    for batch in (batch_of(), widened(batch_of(), 32)):
        student = quantized(name)
        with products.on_codes(on_codes):
            batch["kind"].loss(forward(student, batch).logits, batch).sum().backward()
        found.append({name: parameter.grad for name, parameter in student.named_parameters() if parameter.grad is not None})
    for name, gradient in found[0].items():
        scale = float(gradient.abs().max())
        assert float((gradient - found[1][name]).abs().max()) <= (2e-2 if on_codes else 1e-3) * scale + 1e-6, name


@pytest.mark.parametrize("head", ["classification", "span"])
def test_counting_padding_into_ranges_would_be_seen(head, monkeypatch):
    monkeypatch.setattr(trace, "real", lambda *_, **__: None)
    with pytest.raises(AssertionError):
        test_outputs_do_not_depend_on_padding("min-max", head)
