"""BiBERT: its authors' outputs on fixed inputs, attention without softmax, and losses that padding does not change."""

import json

import numpy as np
import pytest
import torch

from methods import bibert
from methods.engine import Unsupported
from methods.engine.session import Session
from methods.kernel import layers, quantizers, trace
from methods.kernel.layers import Quantized
from methods.kernel.quantizers import Bool, Centred, Sign
from methods.kernel.trace import Trace, tracing
from methods.model.edits import SHOWN_BY_ATTENTION, apply, show_scores
from methods.model.encoder import build, known
from methods.tasks import kinds
from methods.training import objective
from methods.training.forward import forward
from tests.fixtures.models import KINDS, batch_of, bert_base, model_of
from tests.fixtures.runs_of_methods import recipe_of
from tests.fixtures.world import SHARED, context

GOLDEN = SHARED / "golden/more_bibert.npz"
golden = pytest.mark.skipif(not GOLDEN.is_file(), reason="the official implementation's outputs are not here")
TASKS = {"cls3": "classification", "reg": "regression"}
WANTED = frozenset({"hidden", *SHOWN_BY_ATTENTION})
TERMS = {"query": bibert.queries, "key": bibert.keys, "value": bibert.values, "rep": bibert.hidden_direction}


def quantize() -> dict:
    """Return the edit that the stanza makes of a model."""
    recipe = recipe_of("bibert_1bit")
    return {
        "kind": "quantize",
        **{place: getattr(recipe, place) for place in ("weights", "embeddings", "activations", "probs")},
    }


def official() -> dict:
    """Return that edit with the authors' sign of zero, which is zero: sums of signs, as attention makes them, often are."""
    return {**quantize(), "activations": {"kind": "sign", "third": True}}


def relative(found: torch.Tensor, expected) -> float:
    expected = torch.as_tensor(expected)
    return float(((found - expected).abs().max() / expected.abs().max().clamp(min=1e-12)).detach())


# --- the authors' outputs ---------------------------------------------------------------------------------


@golden
@pytest.mark.parametrize("name", ["gauss", "skew", "outlier"])
def test_the_authors_weights(name):
    arrays = np.load(GOLDEN)
    x = torch.from_numpy(arrays[f"{name}.w"]).requires_grad_()
    out = quantizers.make(quantize()["weights"])(x)
    out.backward(torch.from_numpy(arrays[f"{name}.bibert_weight.grad_out"]))
    assert relative(out, arrays[f"{name}.bibert_weight.out"]) <= 1e-6
    assert relative(x.grad, arrays[f"{name}.bibert_weight.grad_in"]) <= 1e-6


@golden
@pytest.mark.parametrize(
    ("name", "make"),
    [("act.bibert_linear_input", Sign), ("act0.sign", lambda: Sign(third=True, included=False)), ("act0.bool", Bool)],
)
def test_the_authors_activations(name, make):
    arrays = np.load(GOLDEN)
    x = torch.from_numpy(arrays[f"{name}.in" if f"{name}.in" in arrays else "act"]).requires_grad_()
    out = make()(x)
    out.backward(torch.from_numpy(arrays[f"{name}.grad_out"]))
    assert torch.equal(out, torch.from_numpy(arrays[f"{name}.out"]))
    assert torch.equal(x.grad, torch.from_numpy(arrays[f"{name}.grad_in"]))


def golden_model(arrays, who: str, task: str):
    config, kind = json.loads(str(arrays["config"])), kinds.of(TASKS[task])
    weights = {}
    for prefix in (f"{who}.", f"{task}.{who}."):
        weights |= {name.removeprefix(prefix): torch.from_numpy(arrays[name]) for name in arrays if name.startswith(prefix)}
    model = build({**known(config), "model_type": "bert"}, kind.head, len(weights["classifier.bias"]))
    model.load_state_dict(weights)
    return model.eval()


def golden_batch(arrays, task: str) -> dict:
    names = ("input_ids", "attention_mask", "token_type_ids", "labels")
    return {name: torch.from_numpy(arrays[name]) for name in names} | {"kind": kinds.of(TASKS[task])}


@golden
@pytest.mark.parametrize("task", TASKS)
def test_the_authors_whole_step(task):
    arrays = np.load(GOLDEN)
    student, teacher = (golden_model(arrays, who, task) for who in ("student", "teacher"))
    apply(student, **official())
    show_scores(teacher)
    batch = golden_batch(arrays, task)
    with torch.no_grad():
        theirs = forward(teacher, batch, WANTED)
    ours = forward(student, batch, WANTED)
    assert relative(ours.logits[0], arrays[f"{task}.student_logits"]) <= 1e-5
    for shown, name in (("hidden", "student_hidden"), ("scores", "student_scores")):
        for at, tensor in enumerate(ours.shown[shown]):
            if f"{task}.{name}.{at}" in arrays:
                expected = torch.from_numpy(arrays[f"{task}.{name}.{at}"])
                assert relative(tensor * (expected > -1e3), expected * (expected > -1e3)) <= 1e-5
    losses = {name: function(ours, theirs, batch, whole_batch=True).mean() for name, function in TERMS.items()}
    losses["cls"] = objective.logits_mean(ours, theirs, batch).mean()
    if task == "cls3":
        assert float(losses["cls"].detach()) == pytest.approx(float(arrays["cls3.loss_soft"]), rel=1e-5)
        losses["cls"] = losses["cls"] + 0.5 * objective.labels(ours, None, batch).mean()
    for name, loss in losses.items():
        assert float(loss.detach()) == pytest.approx(float(arrays[f"{task}.loss_{name}"]), rel=1e-5), name
    total = sum(losses.values())
    assert float(total.detach()) == pytest.approx(float(arrays[f"{task}.loss"]), rel=1e-5)
    total.backward()
    parameters = dict(student.named_parameters())
    compared = [name for name in arrays.files if name.startswith(f"{task}.grad.")]
    assert len(compared) > (50 if task == "cls3" else 8)
    for name in compared:
        expected = torch.from_numpy(arrays[name])
        gradient = parameters[name.removeprefix(f"{task}.grad.")].grad
        assert torch.allclose(gradient, expected, rtol=0, atol=1e-4 * float(expected.abs().max()) + 1e-8), name


@golden
def test_the_authors_attention():
    """One layer's attention alone: a sum of signs over the tokens that it attends to."""
    arrays = np.load(GOLDEN)
    student = golden_model(arrays, "student", "cls3")
    apply(student, **official())
    x, mask = torch.from_numpy(arrays["attention.in"]).requires_grad_(), torch.from_numpy(arrays["attention_mask"])
    low = (1.0 - mask[:, None, None, :].float()) * torch.finfo(torch.float32).min
    with tracing(Trace(mask, mask, WANTED)) as running:
        found = student.bert.encoder.layer[0].attention.self(x, low)[0]
    assert torch.equal(found, torch.from_numpy(arrays["attention.context"]))
    found.backward(torch.from_numpy(arrays["attention.grad_out"]))
    assert relative(x.grad, arrays["attention.grad_in"]) <= 1e-5
    for name, projections in (("query", "queries"), ("key", "keys"), ("value", "values")):
        expected = torch.from_numpy(arrays[f"attention.{name}_scores"])
        assert relative(bibert.similarity(running.shown[projections][0]) / 8**0.5, expected) <= 1e-5, name
    expected = torch.from_numpy(arrays["attention.scores"])
    real = expected > -100
    assert relative(running.shown["scores"][0] * real, expected * real) <= 1e-6


# --- attention --------------------------------------------------------------------------------------------


def operands(tokens: int = 6, seed: int = 0) -> list[torch.Tensor]:
    """Return queries, keys and values of two heads for two examples."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(2, 2, tokens, 4, generator=generator).requires_grad_() for _ in range(3)]


def binary_attention() -> layers.QuantAttention:
    return layers.QuantAttention(Sign(), Sign(), Bool(), Sign())


def test_a_token_attends_to_all_real_tokens_with_a_score_above_zero_alike():
    query, key, value = operands()
    lengths = (6, 4)
    mask = (torch.arange(6) < torch.tensor(lengths)[:, None]).long()
    low = (1.0 - mask[:, None, None, :].float()) * torch.finfo(torch.float32).min
    with tracing(Trace(mask, mask)):
        context, scores = layers.attention(query, key, value, low, 0.5, 0.0, binary_attention())
    signs = [torch.where(x >= 0, 1, -1) for x in (query, key, value)]
    for example, length in enumerate(lengths):
        for head in range(2):
            for token in range(6):
                expected = torch.zeros(4)
                for other in range(length):
                    score = int(signs[0][example, head, token] @ signs[1][example, head, other])
                    expected += signs[2][example, head, other] * (score > 0)
                assert torch.equal(context[example, token, head], expected)
    assert (scores[1, ..., 4:] < -1e30).all()


def test_dropout_takes_attention_away_and_scales_nothing():
    torch.manual_seed(0)
    tokens = 64
    query, key, value = (x.detach().repeat(1, 1, 1, 1) for x in operands(tokens))
    value = torch.ones_like(value)
    whole, _ = layers.attention(query, key, value, None, 0.5, 0.0, binary_attention())
    dropped, _ = layers.attention(query, key, value, None, 0.5, 0.5, binary_attention())
    assert torch.equal(dropped, dropped.round()) and (dropped <= whole).all()
    assert 0.4 < float(dropped.sum() / whole.sum()) < 0.6


def test_no_gradient_comes_from_scores_beyond_one():
    query, key, value = operands()
    scaled = [(x.detach() * 0.5).requires_grad_() for x in (query, key, value)]  # between -1 and 1, mostly
    context, scores = layers.attention(*scaled, None, 0.5, 0.0, binary_attention())
    context.sum().backward()
    assert set(scores.detach().unique().tolist()) == {-2.0, -1.0, 0.0, 1.0, 2.0}  # of which 0 alone lies between them
    still = (scores.abs() >= 1).all(3)  # tokens without a score that learns, (B, heads, S)
    assert scaled[0].grad.any()
    assert not scaled[0].grad[still].any()
    assert not scaled[0].grad[scaled[0].abs() >= 1].any()


# --- the loss ---------------------------------------------------------------------------------------------


def shown(seed: int, rows: int = 3, tokens: int = 5, heads: int = 2, width: int = 4) -> Trace:
    generator = torch.Generator().manual_seed(seed)
    found = Trace(torch.zeros(rows, tokens), torch.ones(rows, tokens), WANTED)
    for _ in range(2):
        for name in ("queries", "keys", "values"):
            found.show(name, torch.randn(rows, heads, tokens, width, generator=generator))
        found.show("hidden", torch.randn(rows, tokens, 7, generator=generator))
    return found


def part(whole: Trace, rows: slice, tokens: slice) -> Trace:
    """Return some examples of a trace, with some of their tokens."""
    found = Trace(whole.ids[rows, tokens], whole.mask[rows, tokens], WANTED)
    for name, tensors in whole.shown.items():
        found.shown[name] = [x[rows, tokens] if x.dim() == 3 else x[rows, :, tokens] for x in tensors]
    return found


@pytest.mark.parametrize("name", TERMS)
def test_a_distance_is_that_of_directions_whatever_their_length(name):
    """A slow twin: every example and layer by itself, by torch's matrix norm."""
    ours, theirs, batch = shown(0), shown(1), {"attention_mask": torch.ones(3, 5).long()}
    reads = {"query": "queries", "key": "keys", "value": "values", "rep": "hidden"}[name]
    found = TERMS[name](ours, theirs, batch)
    assert found.shape == (3,)
    for row in range(3):
        expected = 0.0
        for a, b in zip(ours.shown[reads], theirs.shown[reads], strict=True):
            a, b = (x[row] if name == "rep" else torch.einsum("hik,hjk->hij", x[row], x[row]) for x in (a, b))
            expected += float((a / a.square().sum().sqrt() - b / b.square().sum().sqrt()).square().sum().sqrt())
        assert float(found[row]) == pytest.approx(expected, rel=1e-5)
    for tensors in theirs.shown.values():
        tensors[:] = [tensor * 3.0 for tensor in tensors]
    assert torch.allclose(TERMS[name](ours, theirs, batch), found)
    assert torch.allclose(TERMS[name](ours, ours, batch), torch.zeros(3), atol=1e-5)


@pytest.mark.parametrize("name", TERMS)
def test_neither_padding_nor_other_examples_change_a_distance(name):
    ours, theirs, mask = shown(0), shown(1), torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [1, 0, 0, 0, 0]])
    together = TERMS[name](ours, theirs, {"attention_mask": mask})
    for row, length in enumerate(mask.sum(1)):
        alone = [part(one, slice(row, row + 1), slice(int(length))) for one in (ours, theirs)]
        found = TERMS[name](*alone, {"attention_mask": torch.ones(1, int(length)).long()})
        assert torch.allclose(found, together[row : row + 1], atol=1e-6)
    whole = TERMS[name](ours, theirs, {"attention_mask": mask}, whole_batch=True)
    assert whole.shape == (3,) and len(whole.unique()) == 1
    assert not torch.allclose(whole, together, rtol=1e-2)


@pytest.mark.parametrize("name", TERMS)
def test_equal_directions_have_a_finite_gradient(name):
    ours, theirs = shown(0), shown(0)
    for tensors in ours.shown.values():
        tensors[:] = [tensor.requires_grad_() for tensor in tensors]
    TERMS[name](ours, theirs, {"attention_mask": torch.ones(3, 5).long()}).sum().backward()
    for tensors in ours.shown.values():
        assert all(tensor.grad is None or tensor.grad.isfinite().all() for tensor in tensors)


# --- the model --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_task_trains_all_of_the_student(kind):
    task = {"regression": "stsb", "span": "squad"}.get(kind, "sst2")
    batch, recipe = batch_of(kind), recipe_of("bibert_1bit", task)
    student, teacher = model_of(kind, hidden_dropout_prob=0.0), model_of(kind)
    bibert.student(student, recipe, context())
    show_scores(teacher)
    (stage,) = bibert.stages(student, recipe, context())
    sought = stage.passes[0].objective
    assert ("labels" in sought.weights) == (kind != "regression")
    with torch.no_grad():
        theirs = forward(teacher, batch, sought.wanted)
    terms = sought(forward(student, batch, sought.wanted), theirs, batch)
    assert all(term.shape == (5,) and (term > 0).all() for term in terms.values())
    sum(weight * terms[name] for name, weight in sought.weights.items()).sum().backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in student.parameters())


def test_every_probability_is_zero_or_one_and_padding_has_none(monkeypatch):
    student, batch, seen = apply(model_of(), **quantize()), batch_of(), []
    for module in student.modules():
        if isinstance(module, Bool):
            module.register_forward_hook(lambda module, inputs, output: seen.append(output))
    with torch.no_grad():
        forward(student, batch)
    assert len(seen) == 2
    for probs in seen:
        assert set(probs.unique().tolist()) == {0.0, 1.0}
        assert not probs[(batch["attention_mask"] == 0)[:, None, None, :].expand_as(probs)].any()


def test_bert_base_has_the_size_that_the_design_computes():
    model = bert_base(quantize())
    on_grid = [layer for layer in model.modules() if isinstance(layer, Quantized) and layer.weight_quantizer]
    assert all(isinstance(layer.weight_quantizer, Centred) and layer.weight_quantizer.rows for layer in on_grid)
    bits, rows = (sum(layer.weight.numel() for layer in on_grid), sum(len(layer.weight) for layer in on_grid))
    assert rows == 30_522 + 82_944 + 768
    plain = sum(p.numel() for name, p in model.named_parameters() if "classifier" not in name) - bits
    assert (bits / 8 + 4 * plain) / 2**20 == pytest.approx(14.961, abs=5e-4)
    assert (bits / 8 + 4 * (plain + rows)) / 2**20 == pytest.approx(15.397, abs=5e-4)


def test_the_packed_engine_refuses_by_name(run_method):
    with pytest.raises(Unsupported, match="probs"):
        Session(run_method("bibert_1bit")[1] / "last.safetensors")


def test_traces_show_projections_of_a_stock_model_too():
    teacher, batch = model_of(), batch_of()
    show_scores(teacher)
    found = forward(teacher, batch, WANTED).shown
    layer = teacher.bert.encoder.layer[0].attention.self
    expected = layer.query(found["hidden"][0]).view(5, 12, 4, 4).transpose(1, 2)
    assert torch.allclose(found["queries"][0], expected, atol=1e-6)
    assert trace.current() is None
