"""DynaBERT's half width: what is important, that it comes first, and what is left of the rest."""

import pytest
import torch

from methods import dynabert
from methods.model.edits import apply, show_scores
from methods.model.encoder import from_base
from methods.training import objective, trainer
from tests.fixtures.models import KINDS, answers, batch_of, bert_base, model_of, parameters
from tests.fixtures.runs_of_methods import recipe_of
from tests.fixtures.world import context


def test_bert_base_at_half_width_has_as_many_parameters_as_published():
    assert parameters(bert_base()) == 109_482_240
    half = bert_base({"kind": "narrow", "heads": 6, "neurons": 1536})
    assert parameters(half) == 66_982_656
    matrices = [param for name, param in half.named_parameters() if "encoder" in name and param.ndim == 2]
    assert sum(map(torch.numel, matrices)) == 42_467_328
    biases = [p for name, p in half.named_parameters() if name.endswith("bias") and "encoder" in name and "Norm" not in name]
    assert sum(map(torch.numel, biases)) == 50_688


@pytest.mark.parametrize("kind", KINDS)
def test_a_narrow_model_computes_what_the_whole_one_does_without_the_other_parts(kind):
    whole, narrow, batch = model_of(kind), model_of(kind), batch_of(kind)
    apply(narrow, "narrow", heads=1, neurons=20)
    with torch.no_grad():
        for layer in whole.base_model.encoder.layer:
            layer.attention.output.dense.weight[:, 4:] = 0  # heads have 4 values each
            layer.output.dense.weight[:, 20:] = 0
    assert torch.allclose(answers(narrow, batch), answers(whole, batch), atol=1e-5)
    show_scores(narrow)
    shown = trainer.forward(narrow, batch, frozenset({"scores", "hidden"})).shown
    assert shown["scores"][0].shape == (5, 1, 12, 12)
    assert shown["hidden"][-1].shape == (5, 12, 16)


@pytest.mark.parametrize("kind", KINDS)
def test_importance_equals_the_slope_of_the_loss_by_a_factor_on_each_part(kind):
    """A factor of 1 on every head's output, and finite differences in it; neurons by their definition, one by one."""
    model, batches = model_of(kind).double(), [batch_of(kind, seed=seed) for seed in (1, 2)]
    batches = [
        {name: x.double() if name == "labels" and x.is_floating_point() else x for name, x in batch.items()}
        for batch in batches
    ]
    heads, neurons = dynabert.importance(model, batches)
    assert heads.shape == (2, 4)
    assert neurons.shape == (2, 32)

    def loss(batch):
        return objective.labels(trainer.forward(model, batch), None, batch).mean()

    expected_heads, expected_neurons = torch.zeros(2, 4), torch.zeros(2, 32)
    for batch in batches:
        for number, layer in enumerate(model.base_model.encoder.layer):
            for head in range(4):
                values = []
                for factor in (1.01, 0.99):
                    mask = torch.ones(16).double()
                    mask[4 * head : 4 * head + 4] = factor
                    hook = layer.attention.output.dense.register_forward_pre_hook(
                        lambda _, given, mask=mask: given[0] * mask
                    )
                    with torch.no_grad():
                        values.append(float(loss(batch)))
                    hook.remove()
                expected_heads[number, head] += abs(values[0] - values[1]) / 0.02
            model.zero_grad()
            loss(batch).backward()
            made, bias, read = layer.intermediate.dense.weight, layer.intermediate.dense.bias, layer.output.dense.weight
            for neuron in range(32):
                into = (made * made.grad)[neuron].sum() + (bias * bias.grad)[neuron]
                out = (read * read.grad)[:, neuron].sum()
                expected_neurons[number, neuron] += (into.abs() + out.abs()).detach()
    assert torch.allclose(heads.float(), expected_heads, rtol=5e-3, atol=1e-4)
    assert torch.allclose(neurons.float(), expected_neurons, rtol=1e-4)


def test_the_most_important_come_first_and_the_model_computes_what_it_did():
    model, batch = model_of(), batch_of()
    before, slopes = answers(model, batch), dynabert.importance(model, [batch])
    dynabert.reorder(model, *slopes)
    assert torch.allclose(answers(model, batch), before, atol=1e-5)
    for ours, sought in zip(dynabert.importance(model, [batch]), slopes, strict=True):
        assert torch.allclose(ours, sought.sort(descending=True).values, rtol=1e-3, atol=1e-6)


def test_the_student_keeps_half_and_forgets_the_unimportant_half(base):
    whole = from_base(base, "sequence", 2, 1).eval()
    batch = batch_of() | {"labels": torch.tensor([0, 1, 0, 1, 1])}
    with torch.no_grad():
        for layer in whole.base_model.encoder.layer:  # the first head and the even neurons do nothing
            layer.attention.output.dense.weight[:, :8] = 0
            layer.output.dense.weight[:, ::2] = 0
            layer.intermediate.dense.weight[::2] = 0
            layer.intermediate.dense.bias[::2] = 0
    before = answers(whole, batch)
    student = dynabert.student(whole, recipe_of("dynabert_half"), context([batch]))
    assert student.record.edits == [{"kind": "narrow", "heads": 1, "neurons": 16}]
    assert torch.allclose(answers(student, batch), before, atol=1e-5)
