"""The layers that use quantizers, and the edits that put them into a stock BERT."""

import copy
import math
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from methods.kernel import layers, quantizers
from methods.kernel.layers import Int8Linear, QuantAttention, QuantEmbedding, Quantized, QuantLinear
from methods.kernel.quantizers import Asymmetric, Binary, LossAware, Step, Symmetric, Ternary, Threshold
from methods.kernel.trace import Trace, tracing
from methods.model import edits
from methods.model.encoder import logits
from methods.training import optimizers
from methods.training.recipe import Optimization
from tests.fixtures.world import CONFIG, tiny

EIGHT = {
    "weights": {"kind": "symmetric", "bits": 8},
    "embeddings": {"kind": "symmetric", "bits": 8, "rows": True},
    "activations": {"kind": "asymmetric", "bits": 8},
}


def model(kind: str = "classification", seed: int = 0, **changes) -> nn.Module:
    head = "span" if kind == "span" else "sequence"
    return tiny(head, 2 if kind == "span" else 3, seed, **{"initializer_range": 0.2, **changes}).eval()


def batch(rows: int = 3, width: int = 10) -> dict[str, torch.Tensor]:
    """Rows of falling lengths, padded to one width."""
    torch.manual_seed(0)
    mask = (torch.arange(width) < width - 2 * torch.arange(rows)[:, None]).long()
    ids = torch.randint(5, CONFIG["vocab_size"], (rows, width)) * mask
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": torch.zeros_like(ids)}


# --- the linear layer -------------------------------------------------------------------------------------


def test_a_quantized_linear_multiplies_quantized_inputs_by_quantized_weights():
    linear = nn.Linear(3, 2)
    linear.weight.data = torch.tensor([[1.0, -1.0, 0.1], [0.0, 3.0, -3.0]])
    linear.bias.data = torch.tensor([0.5, -0.5])
    layer = QuantLinear(linear, Ternary(), Asymmetric(2))
    x = torch.tensor([[0.0, 1.2, 3.0]])  # -> 0, 1, 3; the weights -> those beyond 0.945, at 2
    assert layer(x).tolist() == [[2 * (0 - 1) + 0.5, pytest.approx(2 * (1 - 3) - 0.5)]]
    layer(x).sum().backward()
    assert layer.weight.grad.tolist() == [[0.0, 1.0, 3.0]] * 2  # the latent weight's, straight through
    assert layer.weight is linear.weight


def test_without_quantizers_the_layers_are_torchs():
    linear, embedding = nn.Linear(5, 4), nn.Embedding(7, 5, padding_idx=0)
    ids = torch.tensor([[1, 0, 3]])
    assert torch.equal(QuantEmbedding(embedding, None)(ids), embedding(ids))
    x = torch.randn(2, 5)
    assert torch.equal(QuantLinear(linear, None, None)(x), linear(x))


# --- the embedding ----------------------------------------------------------------------------------------

TABLES = {
    "ternary": lambda: Ternary(rows=True),
    "binary": lambda: Binary(rows=True),
    "loss aware": lambda: LossAware(rows=True),
    "loss aware exact": lambda: LossAware(rows=True, solver="exact"),
    "symmetric": lambda: Symmetric(4, rows=True),
    "threshold": lambda: Threshold(4),
    "step": lambda: Step(3),
    "shifted step": lambda: Step(3, shifted=True),
    "one scale for all": lambda: Ternary(),
}


@pytest.mark.parametrize("name", TABLES)
def test_looked_up_rows_have_the_values_and_gradients_of_a_table_quantized_whole(name):
    torch.manual_seed(0)
    table, ids = nn.Embedding(9, 6, padding_idx=0), torch.tensor([[3, 5, 3, 0], [8, 3, 0, 0]])  # 3 thrice, most never
    table.weight.data[0] = torch.randn(6)  # padding need not be zero
    quantizer = TABLES[name]()
    quantizer.role = "weights"
    quantizer.calibrate(table.weight.detach())
    if isinstance(quantizer, LossAware):
        quantizer.watch(torch.rand(9, 6))
    twin, layer = copy.deepcopy((table.weight, quantizer)), QuantEmbedding(table, quantizer)
    gradient = torch.randn(2, 4, 6)
    values = layer.train()(ids)
    expected = F.embedding(ids, twin[1](twin[0]), padding_idx=0)
    values.backward(gradient)
    expected.backward(gradient)
    assert torch.equal(values, expected)
    assert torch.allclose(table.weight.grad, twin[0].grad, rtol=1e-5, atol=1e-7)
    assert not table.weight.grad[0].any()
    for ours, theirs in zip(quantizer.parameters(), twin[1].parameters(), strict=True):
        assert torch.allclose(ours.grad, theirs.grad, rtol=1e-5)
    assert torch.equal(layer.eval()(ids), values)


def test_in_training_only_looked_up_rows_are_quantized():
    seen = []
    quantizer = Ternary(rows=True)
    chain = quantizer.chain
    quantizer.chain = lambda x, index: seen.append(x.shape) or chain(x, index)
    QuantEmbedding(nn.Embedding(1000, 4), quantizer).train()(torch.tensor([[7, 7, 9], [9, 7, 7]]))
    assert seen == [(2, 4)]


# --- no weight is quantized twice -------------------------------------------------------------------------


@pytest.fixture
def counted(monkeypatch):
    """How often each quantizer of weights has been asked for values."""
    calls = {}
    values = quantizers.Quantizer.values

    def count(self, *arguments, **named):
        if self.role == "weights":
            calls[self] = calls.get(self, 0) + 1
        return values(self, *arguments, **named)

    monkeypatch.setattr(quantizers.Quantizer, "values", count)
    return calls


@pytest.mark.parametrize("optimizer", ["adamw", "bertadam"])
def test_a_weight_is_quantized_once_a_step_and_again_after_an_update(counted, optimizer):
    student = edits.apply(model(), "quantize", weights={"kind": "threshold", "bits": 4}, embeddings={"kind": "ternary"})
    optimizer = optimizers.build(student, Optimization(optimizer=optimizer, epochs=1, lr=1e-3, batch_size=3))
    inputs, weights = batch(), 2 * 6 + 1 + 1
    for step in range(1, 4):
        for _ in range(3):  # micro-batches
            logits(student(**inputs))[0].sum().backward()
        assert list(counted.values()) == [step] * weights
        optimizer.step()


@pytest.mark.parametrize("kind", ["ternary", "loss_aware"])
def test_a_loaded_state_is_quantized_anew(counted, kind):
    first, second = (edits.apply(model(seed=seed), "quantize", weights={"kind": kind}) for seed in (0, 1))
    inputs = batch()
    with torch.no_grad():
        wanted, before = (logits(one(**inputs))[0] for one in (first, second))
        second.load_state_dict(first.state_dict())
        assert not torch.equal(before, wanted)
        assert torch.equal(logits(second(**inputs))[0], wanted)


def test_a_new_curvature_or_step_makes_a_new_grid():
    for quantizer in (LossAware(), Step(4)):
        torch.manual_seed(0)
        linear = nn.Linear(6, 6)
        quantizer.calibrate(linear.weight.detach())
        layer = QuantLinear(linear, quantizer, None)
        before = layer.quantized_weight().clone()
        if isinstance(quantizer, LossAware):
            quantizer.watch(torch.rand(6, 6) ** 4)
        else:
            with torch.no_grad():
                quantizer.scale.mul_(1.5)
        assert not torch.equal(layer.quantized_weight(), before)
        assert torch.equal(layer.quantized_weight(), quantizer(linear.weight))


# --- dropout ----------------------------------------------------------------------------------------------


def test_dropout_of_everything_leaves_nothing_and_no_nan():
    x = torch.randn(64, 64, requires_grad=True)
    y = layers.Dropout(1.0)(x)
    y.sum().backward()
    assert not y.any() and not x.grad.any()
    context, scores = layers.attention(*torch.randn(3, 2, 2, 8, 4), None, 0.5, 1.0)
    assert not context.any() and scores.isfinite().all()


@pytest.mark.parametrize("dropout", [0.1, 0.5, 0.99, 0.9995, 0.99999, 0.999995])
def test_dropout_leaves_its_share(dropout):
    torch.manual_seed(0)
    count = 4_000_000
    left = int(layers.kept_by_dropout(torch.empty(count), dropout).float().sum())
    expected = count * (1 - dropout)
    assert abs(left - expected) < 5 * expected**0.5
    assert float(layers.Dropout(dropout)(torch.ones(count)).mean()) == pytest.approx(1, abs=5 * expected**-0.5)


def test_ordinary_dropout_draws_what_it_always_drew():
    torch.manual_seed(3)
    assert layers.kept_by_dropout(torch.empty(20), 0.5).tolist() == [*map(float, "01100011100010101100")]


@pytest.mark.parametrize("dropout", [-0.1, 1.1, math.nan])
def test_dropout_that_is_no_probability_is_refused(dropout):
    with pytest.raises(ValueError, match="dropout"):
        layers.kept_by_dropout(torch.empty(4), dropout)


# --- attention --------------------------------------------------------------------------------------------


def slow_attention(query, key, value, mask, quantize):
    """One query at a time; `quantize` maps an operand's name to what is done to the whole of it."""
    query, key, value = quantize["query"](query), quantize["key"](key), quantize["value"](value)
    count, heads, length, width = query.shape
    scores, probs = torch.zeros(count, heads, length, length), torch.zeros(count, heads, length, length)
    for b, h, i in torch.cartesian_prod(*map(torch.arange, (count, heads, length))):
        for j in range(length):
            scores[b, h, i, j] = sum(query[b, h, i] * key[b, h, j]) / math.sqrt(width) + mask[b, 0, i, j]
        weights = (scores[b, h, i] - scores[b, h, i].max()).exp()
        probs[b, h, i] = weights / weights.sum()
    probs, context = quantize["probs"](probs), torch.zeros(count, length, heads, width)
    for b, h, i in torch.cartesian_prod(*map(torch.arange, (count, heads, length))):
        context[b, i, h] = sum(probs[b, h, i, j] * value[b, h, j] for j in range(length))
    return context, scores


@pytest.mark.parametrize("quantized", [False, True])
def test_attention_equals_a_slow_twin(quantized):
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 2, 2, 4, 3)  # two texts, two heads, four tokens
    mask = torch.zeros(2, 1, 4, 4)
    mask[1, :, :, 3] = torch.finfo(torch.float32).min
    operands = ("query", "key", "probs", "value")
    ours = QuantAttention(*(Asymmetric(4) for _ in operands)) if quantized else None
    twin = {name: Asymmetric(4) if quantized else lambda x: x for name in operands}
    context, scores = layers.attention(query, key, value, mask, 3**-0.5, 0.0, ours)
    expected = slow_attention(query, key, value, mask, twin)
    assert torch.allclose(context, expected[0], atol=1e-5)
    assert torch.allclose(scores, expected[1], atol=1e-5)


def test_probabilities_are_quantized_after_dropout():
    seen = []
    operands = QuantAttention(None, None, lambda probs, dtype: seen.append(probs) or probs, None)
    torch.manual_seed(0)
    layers.attention(*torch.randn(3, 2, 2, 8, 4), None, 0.5, 0.5, operands)
    assert 0.3 < (seen[0] == 0).float().mean() < 0.7
    assert seen[0].sum(-1).max() > 1


@pytest.mark.parametrize("quantized", [False, True])
@pytest.mark.parametrize("kind", ["classification", "span"])
def test_what_stands_in_padding_changes_nothing(quantized, kind):
    student = model(kind)
    if quantized:  # with ranges of their own: dynamic ones know of padding inside a trace only
        ranged = {"kind": "threshold", "bits": 8}
        edits.apply(student, "quantize", weights={"kind": "ternary"}, activations=ranged)
        edits.calibrate(student, [batch()])
    else:
        edits.show_scores(student)
    inputs = batch()
    other = {**inputs, "input_ids": torch.where(inputs["attention_mask"] == 0, 7, inputs["input_ids"])}
    real = inputs["attention_mask"] == 1
    with torch.no_grad():
        for ours, theirs in zip(logits(student(**inputs)), logits(student(**other)), strict=True):
            real_only = (ours, theirs) if kind == "classification" else (ours[real], theirs[real])
            assert torch.equal(*real_only)
        shown = student(**inputs, output_attentions=True).attentions
    assert len(shown) == 2
    assert (shown[0].transpose(1, 3)[~real] < -1e30).all()  # scores before softmax, the mask added
    assert (shown[0].transpose(1, 3)[real] > -1e3).all()


# --- the whole model --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["classification", "span", "words"])
def test_without_quantizers_an_edited_model_is_the_plain_one_bit_for_bit(kind):
    plain = model(kind)
    edited = edits.apply(model(kind), "quantize")
    edited.load_state_dict(plain.state_dict())
    for implementation, training in (("eager", False), (edits.SCORES, True)):  # torch's own draws other dropout
        plain.set_attn_implementation(implementation)
        outputs = []
        for one in (plain, edited):
            torch.manual_seed(5)  # the same dropout
            outputs.append(logits(one.train(training)(**batch())))
        assert all(torch.equal(*pair) for pair in zip(*outputs, strict=True))


@pytest.mark.parametrize("kind", ["classification", "span"])
def test_eight_bits_hardly_change_the_outputs(kind):
    plain = model(kind, initializer_range=0.05)
    edited = edits.apply(copy.deepcopy(plain), "quantize", **EIGHT)
    with torch.no_grad():
        for ours, theirs in zip(logits(edited(**batch())), logits(plain(**batch())), strict=True):
            assert 0 < float((ours - theirs).abs().max()) < 1e-2


@pytest.mark.parametrize("kind", ["classification", "span"])
def test_quantizers_stand_where_the_published_codes_have_them(kind):
    ternary, rows, eight = {"kind": "ternary"}, {"kind": "ternary", "rows": True}, EIGHT["activations"]
    one_sided = {"kind": "step", "bits": 8, "signed": False}
    options = {"weights": ternary, "embeddings": rows, "activations": eight, "one_sided": one_sided}
    student = edits.apply(model(kind), "quantize", **options)
    places = dict(student.named_modules())
    on_grid = {name for name, module in places.items() if isinstance(module, Quantized) and module.weight_quantizer}
    layer = "bert.encoder.layer.1."
    linears = ["attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"]
    linears += ["intermediate.dense", "output.dense"]
    expected = {"bert.embeddings.word_embeddings"} | {f"bert.encoder.layer.{n}.{name}" for n in (0, 1) for name in linears}
    assert on_grid == expected | ({"bert.pooler.dense"} if kind == "classification" else set())
    assert places["bert.embeddings.word_embeddings"].weight_quantizer.rows
    assert type(places[f"{layer}attention.self.quantizers.probs"]) is Step
    assert type(places[f"{layer}output.dense.input_quantizer"]) is Step
    asymmetric = {name for name, module in places.items() if type(module) is Asymmetric and name.startswith(layer)}
    operands = {f"attention.self.quantizers.{name}" for name in ("query", "key", "value")}
    inputs = {
        "attention.self.input_quantizer",
        "attention.output.dense.input_quantizer",
        "intermediate.dense.input_quantizer",
    }
    assert asymmetric == {layer + name for name in operands | inputs}
    assert student.record.edits == [{"kind": "quantize", **options}]


def test_calibration_sets_every_range_from_inputs_that_are_quantized_already():
    learned = {"kind": "threshold", "bits": 8}
    student = edits.apply(model().train(), "quantize", weights=learned, positions=learned, activations=learned)
    edits.calibrate(student, [batch(), batch(2, 6)])
    found = [one for one in student.modules() if isinstance(one, Threshold) and one.role == "activations"]
    assert len(found) == 2 * (1 + 4 + 3) + 1
    assert all(int(one.batches) == 2 and float(one.scale.detach()) > 0 for one in found)
    assert student.training
    assert not any(one._forward_pre_hooks for one in found)
    assert all(edits.roles(student)[one.scale] == "activations" for one in found)


# --- torch's int8 -----------------------------------------------------------------------------------------


def test_int8_equals_torchs_own_dynamic_quantization():
    plain = model()
    ours = edits.apply(copy.deepcopy(plain), "int8_dynamic")
    theirs = copy.deepcopy(plain)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.ao is deprecated in favour of a package of its own
        theirs.bert = torch.ao.quantization.quantize_dynamic(theirs.bert, {nn.Linear}, dtype=torch.qint8)
    assert sum(isinstance(module, Int8Linear) for module in ours.modules()) == 2 * 6 + 1
    with torch.no_grad():
        assert torch.equal(logits(ours(**batch()))[0], logits(theirs(**batch()))[0])
        assert not torch.equal(logits(ours(**batch()))[0], logits(plain(**batch()))[0])


def test_int8_takes_its_range_from_real_tokens():
    torch.manual_seed(0)
    layer, x, mask = Int8Linear(nn.Linear(8, 4)), torch.randn(3, 6, 8), batch(3, 6)["attention_mask"]
    real = mask == 1
    x[~real] *= 100
    with tracing(Trace(mask, mask)):
        assert torch.equal(layer(x)[real], layer(x[real]))
        assert not layer(x)[~real].any()
    assert not torch.allclose(layer(x)[real], layer(x[real]), atol=1e-3)


def test_int8_follows_weights_that_are_loaded_later():
    torch.manual_seed(0)
    first, second, x = Int8Linear(nn.Linear(8, 4)), Int8Linear(nn.Linear(8, 4)), torch.randn(3, 8)
    wanted = first(x)
    assert not torch.equal(second(x), wanted)
    second.load_state_dict(first.state_dict())
    assert torch.equal(second(x), wanted)


def test_int8_of_a_weight_of_zeros_is_its_bias():
    linear = nn.Linear(4, 2)
    linear.weight.data.zero_()
    assert torch.equal(Int8Linear(linear)(torch.randn(3, 4)), linear.bias.expand(3, 2))
