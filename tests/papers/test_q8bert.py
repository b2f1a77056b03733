"""Q8BERT: the official code's numbers, what is quantized and what is not, and sizes at bert-base's shapes."""

import numpy as np
import pytest
import torch
from torch import nn

from methods import q8bert
from methods.kernel.layers import QuantEmbedding, QuantLinear
from methods.kernel.quantizers import Ema, Quantizer, Symmetric
from methods.model import artifact
from methods.training.forward import INPUTS, forward
from methods.training.objective import Objective
from methods.training.recipe import Pass
from methods.training.trainer import State, accumulate
from tests.fixtures.models import KINDS, answers, batch_of, bert_base, model_of
from tests.fixtures.runs_of_methods import recipe_of
from tests.fixtures.world import SHARED, context, loader

GOLDEN = SHARED / "golden/more_q8bert.npz"
DECAY = {"ema": 0.9, "ema_9999": 0.9999, "ema_late": 0.9, "ema_inner": 0.9}
golden = pytest.mark.skipif(not GOLDEN.is_file(), reason="the official implementation's outputs are not here")


@pytest.fixture(scope="module")
def arrays():
    return {name: torch.from_numpy(array) for name, array in np.load(GOLDEN).items() if array.dtype.kind in "fi"}


def close(ours: torch.Tensor, theirs: torch.Tensor, tolerance: float = 1e-5) -> bool:
    return float((ours - theirs).detach().abs().max()) <= tolerance * float(theirs.abs().max())


# --- the official code's numbers --------------------------------------------------------------------------


@golden
@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("name", ["gauss", "skew", "outlier"])
def test_weights_are_the_official_ones(name, bits, arrays):
    x, of = arrays[name].requires_grad_(), f"{name}.q8_weight{bits}"
    quantizer = Symmetric(bits)
    values, grid = quantizer(x), quantizer.encode(x)
    (gradient,) = torch.autograd.grad(values, x, arrays[f"{of}.grad_out"])
    assert close(values, arrays[f"{of}.out"])
    assert torch.equal(grid.codes, arrays[f"{of}.codes"])
    assert close(1 / grid.step, arrays[f"{of}.scale"])
    assert torch.equal(gradient, arrays[f"{of}.grad_in"])


def linear_of(arrays, tag: str) -> QuantLinear:
    """Return our layer for one of the official ones: a matrix and a bias, and quantizers around them."""
    layer = nn.Linear(48, 24)
    layer.load_state_dict({"weight": arrays["linear.weight"], "bias": arrays["linear.bias"]})

    def activations() -> Quantizer:
        return Symmetric(8) if tag == "dynamic" else Ema(8, DECAY[tag])

    return QuantLinear(layer, Symmetric(8), activations(), None if tag == "ema_inner" else activations())


@golden
@pytest.mark.parametrize("tag", [*DECAY, "dynamic"])
def test_a_linear_map_trains_as_the_official_one_does(tag, arrays):
    layer = linear_of(arrays, tag)
    for at in range(5):
        x = arrays[f"linear.x.{at}"].requires_grad_()
        if tag == "ema_late" and at < 2:  # in full precision until its third batch
            y = nn.functional.linear(x, layer.weight, layer.bias)
        else:
            y = layer(x)
            for place in ("input", "output"):
                if tag != "dynamic" and f"linear.{tag}.{place}_range.{at}" in arrays:
                    moving = getattr(layer, f"{place}_quantizer").range
                    assert close(moving, arrays[f"linear.{tag}.{place}_range.{at}"])
        assert close(y, arrays[f"linear.{tag}.train_out.{at}"], 1e-4)
    to_x, to_weight, to_bias = torch.autograd.grad(y, (x, layer.weight, layer.bias), arrays["linear.grad_out.4"])
    assert close(to_x, arrays[f"linear.{tag}.grad_x.4"])
    assert close(to_weight, arrays[f"linear.{tag}.grad_weight.4"])
    assert close(to_bias, arrays[f"linear.{tag}.grad_bias.4"])


@torch.no_grad()
def in_integers(layer: QuantLinear, x: torch.Tensor, codes_of_bias: torch.Tensor | None = None) -> torch.Tensor:
    """Return the official evaluation: products of codes, the bias as a code at the product of both scales."""
    inputs, weight = layer.input_quantizer.encode(x), layer.weight_quantizer.encode(layer.weight)
    step = inputs.step * weight.step
    bias = (layer.bias / step).round().clamp(1 - 2**31, 2**31 - 1)
    if codes_of_bias is not None:
        assert close(bias, codes_of_bias)
    y = (nn.functional.linear(inputs.codes.double(), weight.codes.double()) + bias) * step.double()
    return y.float() if layer.output_quantizer is None else layer.output_quantizer(y.float())


@golden
@pytest.mark.parametrize("tag", [*DECAY, "dynamic"])
def test_the_official_integers_follow_from_our_codes_and_ranges(tag, arrays):
    layer, x = linear_of(arrays, tag), arrays["linear.x_eval"]
    for at in range(2 if tag == "ema_late" else 0, 5):
        layer(arrays[f"linear.x.{at}"])
    layer.eval()
    weight = layer.weight_quantizer.encode(layer.weight)
    assert torch.equal(weight.codes, arrays[f"linear.{tag}.weight_codes"])
    assert close(1 / weight.step, arrays[f"linear.{tag}.weight_scale"])
    official = arrays[f"linear.{tag}.eval_out"]
    assert close(in_integers(layer, x, arrays.get(f"linear.{tag}.bias_codes")), official, 1e-4)
    # Our bias is not rounded: a result is half a code of the bias away at most, or lands on the next level of the output.
    half = float(layer.input_quantizer.encode(x).step * weight.step) / 2
    levels = 0.0 if layer.output_quantizer is None else float(layer.output_quantizer.encode(official).step)
    with torch.no_grad():
        assert float((layer(x) - official).abs().max()) <= half + levels + 1e-6


@golden
def test_an_embedding_trains_as_the_official_one_does(arrays):
    table = nn.Embedding(20, 32, padding_idx=0)
    table.load_state_dict({"weight": arrays["embedding.weight"]})
    rows = QuantEmbedding(table, Symmetric(8))(arrays["embedding.ids"])
    rows.backward(arrays["embedding.grad_out"])
    assert close(rows, arrays["embedding.out"])
    assert close(table.weight.grad, arrays["embedding.grad_weight"])


# --- the model --------------------------------------------------------------------------------------------


def student_of(kind: str = "classification", **changes):
    return q8bert.student(model_of(kind), recipe_of("q8bert", **changes), context())


def calm(student: nn.Module) -> nn.Module:
    """Return a student without dropout."""
    for module in student.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return student


@pytest.mark.parametrize("kind", KINDS)
def test_every_matrix_and_table_has_eight_bits_and_no_product_inside_the_attention_has(kind):
    student = student_of(kind)
    layers = {name: module for name, module in student.named_modules() if isinstance(module, nn.Linear | nn.Embedding)}
    assert all(isinstance(layer, QuantLinear | QuantEmbedding) for layer in layers.values())
    grids = [layer.weight_quantizer for layer in layers.values()]
    assert all(isinstance(grid, Symmetric) and not grid.rows and grid.bits == 8 for grid in grids)
    head = "qa_outputs" if kind == "span" else "classifier"
    pooler = [] if kind == "span" else ["bert.pooler.dense"]
    inside = [
        f"bert.encoder.layer.{at}.{part}"
        for at in (0, 1)
        for part in (
            *(f"attention.self.{one}" for one in ("query", "key", "value")),
            *(f"{one}.dense" for one in ("attention.output", "intermediate", "output")),
        )
    ]
    with_outputs = {name for name, layer in layers.items() if getattr(layer, "output_quantizer", None) is not None}
    assert with_outputs == {*inside, *pooler}
    assert layers[head].input_quantizer is not None
    assert not any(hasattr(layer.attention.self, "quantizers") for layer in student.bert.encoder.layer)


@pytest.mark.parametrize("kind", KINDS)
def test_every_linear_map_and_table_by_hand(kind):
    """From what really goes into each; a sum that lies between two levels may round to either."""
    student, batch = student_of(kind), batch_of(kind)
    real, seen = batch["attention_mask"].bool(), {}
    for name, module in student.named_modules():
        if isinstance(module, QuantLinear | QuantEmbedding):
            module.register_forward_hook(lambda _, x, y, name=name: seen.update({name: (x[0].detach(), y.detach())}))
    forward(student.train(), batch)

    def grid(x: torch.Tensor) -> torch.Tensor:
        largest = (x[real] if x.dim() == 3 else x).abs().max()
        return (x * 127 / largest).round().clamp(-127, 127) * largest / 127

    assert seen.keys() >= {"bert.embeddings.token_type_embeddings", "bert.encoder.layer.1.output.dense"}
    for name, (x, y) in seen.items():
        layer = student.get_submodule(name)
        weight = (layer.weight * 127 / layer.weight.abs().max()).round() * layer.weight.abs().max() / 127
        if isinstance(layer, QuantEmbedding):
            expected = weight[x]
        else:
            expected = nn.functional.linear(grid(x), weight, layer.bias)
            expected = expected if name in ("classifier", "qa_outputs") else grid(expected)
        difference = (y - expected.detach()).abs()
        difference = difference[real] if difference.dim() == 3 and len(difference) > 1 else difference
        assert (difference < 1e-5).float().mean() > 0.98, name
        assert difference.max() <= expected.abs().max() / 126, name


def test_without_outputs_and_head_these_stay_in_full_precision():
    student = student_of(outputs=None, head=False)
    assert type(student.classifier) is nn.Linear
    assert all(getattr(module, "output_quantizer", None) is None for module in student.modules())


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_answers_as_the_student_does(kind, tmp_path):
    student, batch = student_of(kind).train(), batch_of(kind)
    for seed in range(3):
        forward(student, batch_of(kind, seed=seed))
    artifact.save(tmp_path / "a.safetensors", student.eval(), {})
    loaded, _ = artifact.load(tmp_path / "a.safetensors")
    assert torch.allclose(answers(loaded.eval(), batch), answers(student, batch), atol=1e-5)
    state = loaded.state_dict()
    moving = {name: module.range for name, module in student.named_modules() if isinstance(module, Ema)}
    assert all(torch.equal(state[f"{name}.range"], value) for name, value in moving.items())


def test_ranges_after_a_step_do_not_depend_on_micro_batches(sst2, device):
    """(Of the first range: values depend on the range that the step has shown so far, and with them the ranges behind.)"""
    found = []
    for micro_batch in (8, 3, 1):
        student, state = calm(student_of()), State(micro_batch=micro_batch)
        rows = np.arange(8)
        accumulate(student, None, loader(sst2), (Pass(Objective({"labels": 1.0})),), rows, rows, state, device)
        found.append(student.bert.encoder.layer[0].attention.self.input_quantizer.range)  # nothing moving is before it
    assert found[0] == found[1] == found[2]


def test_padding_moves_no_range():
    batch, ranges = batch_of(), []
    wide = {name: nn.functional.pad(batch[name], (0, 9)) for name in INPUTS}
    for one in (batch, batch | wide):
        student = calm(student_of())
        forward(student.train(), one)
        ranges.append(torch.stack([module.range for module in student.modules() if isinstance(module, Ema)]))
    assert torch.allclose(*ranges, rtol=0.02)  # a level more or less somewhere before moves those behind it
    assert ranges[0].isfinite().all()


# --- at bert-base's size ----------------------------------------------------------------------------------


def test_bert_base_has_a_quarter_of_its_bytes():
    eight = {"kind": "symmetric", "bits": 8}
    moving = {"kind": "ema", "bits": 8}
    tables = {name: eight for name in ("weights", "embeddings", "positions", "types")}
    model = bert_base(
        {"kind": "quantize", **tables, "activations": moving, "outputs": moving, "head": True, "attention": False}
    )
    coded = {name: layer for name, layer in model.named_modules() if isinstance(layer, QuantLinear | QuantEmbedding)}
    numbers = sum(layer.weight.numel() for name, layer in coded.items() if name != "classifier")
    rest = 12 * (4 * 768 + 3072 + 768) + 768 + 25 * 2 * 768  # biases of the encoder and of the pooler, and LayerNorms
    assert numbers == 109_482_240 - rest == 109_360_128
    assert (numbers + 4 * rest) / 2**20 == pytest.approx(104.76, abs=0.005)  # MiB, without the steps of 76 tensors
    assert len(coded) == 3 + 12 * 6 + 1 + 1
