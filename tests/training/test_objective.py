"""What a student is trained on: every term by hand, and no term that is silently zero."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from methods.kernel.trace import Trace
from methods.model.edits import apply, show_scores
from methods.tasks import kinds
from methods.tasks.base import HiddenWords
from methods.training import objective
from methods.training.forward import forward
from methods.training.objective import Objective
from tests.fixtures.world import CONFIG, tiny

MINIMUM = torch.finfo(torch.float32).min
KINDS = {"classes": ("classification", 3), "numbers": ("regression", 1), "spans": ("span", 2)}
TERMS = objective.terms_of(vars(objective))
TEACHERS_TERMS = sorted(name for name, term in TERMS.items() if term.needs_teacher)
CLASSES, NUMBERS, SPANS = ({"kind": kinds.of(name)} for name, _ in KINDS.values())


def shows(*scores, hidden=(), attentions=()) -> Trace:
    """Return the trace of a model with these scores, hidden states and attention scores."""
    return Trace(torch.zeros(1, 3), torch.ones(1, 3), logits=scores, shown={"hidden": [*hidden], "scores": [*attentions]})


NOTHING = torch.zeros(1, 2)  # scores of a model whose layers alone matter


# --- the task's own loss ----------------------------------------------------------------------------------


def test_labels_are_learned_by_cross_entropy_and_numbers_by_squared_error():
    scores = torch.log(torch.tensor([[0.25, 0.75], [0.5, 0.5]]))
    value = objective.labels(shows(scores), None, {**CLASSES, "labels": torch.tensor([0, 1])})
    assert value.tolist() == pytest.approx([np.log(4), np.log(2)], rel=1e-6)
    value = objective.labels(shows(torch.tensor([[1.0], [4.0]])), None, {**NUMBERS, "labels": torch.tensor([3.0, 3.5])})
    assert value.tolist() == [4.0, 0.25]


def test_hidden_words_count_alone_and_each_text_alike():
    scores = torch.zeros(2, 3, 4)
    scores[0, 1, 2] = np.log(3)  # probability 1/2 for the right word
    words = torch.tensor([[-100, 2, -100], [1, -100, 3]])
    value = objective.labels(shows(scores), None, {"kind": HiddenWords(), "words": words})
    assert value.tolist() == pytest.approx([np.log(2), np.log(4)], rel=1e-6)


def test_span_losses_ignore_padding_and_halve_start_and_end():
    start, end = torch.tensor([[0.0, 0.0, 50.0]]), torch.tensor([[0.0, np.log(3), 50.0]])
    batch = {**SPANS, "attention_mask": torch.tensor([[1, 1, 0]]), "start": torch.tensor([0]), "end": torch.tensor([0])}
    value = objective.labels(shows(start, end), None, batch)
    assert value.item() == pytest.approx((np.log(2) + np.log(4)) / 2, rel=1e-6)


# --- the teacher's logits ---------------------------------------------------------------------------------


def test_soft_cross_entropy_by_hand():
    ours, theirs = torch.log(torch.tensor([[0.25, 0.75]])), torch.log(torch.tensor([[0.5, 0.5]]))
    expected = -(0.5 * np.log(0.25) + 0.5 * np.log(0.75))
    assert objective.logits(shows(ours), shows(theirs), CLASSES).item() == pytest.approx(expected, rel=1e-6)
    value = objective.logits_mean(shows(ours), shows(theirs), CLASSES).item()
    assert value == pytest.approx(expected / 2, rel=1e-6)  # the official codes average over the classes


def test_a_temperature_softens_both_and_is_squared_into_the_loss():
    """Its gradient is that of T^2 KL(teacher / T, student / T), and a number's squared error does not depend on it."""
    theirs = torch.tensor([[0.0, 2 * np.log(3)]])
    ours = torch.tensor([[0.0, 0.0]], requires_grad=True)
    value = objective.logits(shows(ours), shows(theirs), CLASSES, temperature=2.0)
    assert value.item() == pytest.approx(4 * np.log(2), rel=1e-6)
    value.sum().backward()
    torch.testing.assert_close(ours.grad, 2 * torch.tensor([[0.5 - 0.25, 0.5 - 0.75]]))
    numbers = shows(torch.tensor([[1.0]])), shows(torch.tensor([[4.0]]))
    assert objective.logits(*numbers, NUMBERS, temperature=2.0).item() == objective.logits(*numbers, NUMBERS).item() == 9
    start, padded = torch.tensor([[0.0, 0.0, 5.0]]), torch.tensor([[0.0, 4 * np.log(3), 9.0]])
    batch = {**SPANS, "attention_mask": torch.tensor([[1, 1, 0]])}
    value = objective.logits(shows(start, start), shows(padded, start), batch, temperature=4.0)
    assert value.item() == pytest.approx(2 * 16 * np.log(2), rel=1e-6)


@pytest.mark.parametrize("term", [objective.logits, objective.logits_mean])
def test_a_regression_student_learns_from_its_teachers_logit(term):
    """Softmax over one logit is constant: by cross-entropy, STS-B's students would learn nothing from it."""
    ours = torch.tensor([[1.0], [2.0]], requires_grad=True)
    value = term(shows(ours), shows(torch.tensor([[0.0], [4.0]])), NUMBERS)
    assert value.tolist() == [1.0, 4.0]
    value.sum().backward()
    assert ours.grad.tolist() == [[2.0], [-4.0]]


def test_span_logits_add_start_and_end_and_leave_padding_out_but_in_the_official_average():
    half, quarter = torch.log(torch.tensor([[0.5, 0.5, 9.0]])), torch.log(torch.tensor([[0.25, 0.75, 9.0]]))
    batch = {**SPANS, "attention_mask": torch.tensor([[1, 1, 0]]), "start": torch.tensor([0])}
    start, end = np.log(2), -0.5 * (np.log(0.25) + np.log(0.75))
    value = objective.logits(shows(half, quarter), shows(half, half), batch)
    assert value.item() == pytest.approx(start + end, rel=1e-6)
    whole = [torch.log(torch.tensor([[0.5, 0.25, 0.25]])), torch.log(torch.tensor([[0.25, 0.25, 0.5]]))]
    value = objective.logits_mean(shows(*whole), shows(*whole), batch)
    entropy = 0.5 * np.log(2) + 0.5 * np.log(4)
    assert value.item() == pytest.approx(2 * entropy / 3, rel=1e-6)  # over three positions, padding included


# --- hidden states and attention scores -------------------------------------------------------------------


def test_hidden_states_are_averaged_over_real_tokens_and_summed_over_layers():
    ours = [torch.ones(1, 3, 2), torch.full((1, 3, 2), 2.0)]
    theirs = [torch.zeros(1, 3, 2), torch.zeros(1, 3, 2)]
    ours[0][:, 2], ours[1][:, 2] = 5.0, 5.0  # padding
    batch = {"attention_mask": torch.tensor([[1, 1, 0]])}
    outputs = shows(NOTHING, hidden=ours), shows(NOTHING, hidden=theirs)
    assert objective.hidden(*outputs, batch).tolist() == [1.0 + 4.0]
    assert objective.hidden_padded(*outputs, batch).tolist() == pytest.approx([(1 + 1 + 25) / 3 + (4 + 4 + 25) / 3])


def test_attention_scores_are_averaged_over_pairs_of_real_tokens_and_summed_over_layers():
    """Two layers of one head over two real tokens and one of padding, whose masked scores agree on nothing."""
    first, second = torch.ones(1, 1, 3, 3), torch.full((1, 1, 3, 3), 3.0)
    first[..., 2], second[..., 2] = MINIMUM, -10_000.0  # masked keys
    first[:, :, 2, :2] = 7.0  # what padding asks for: real keys, so that the official average counts it
    zero = torch.zeros(1, 1, 3, 3)
    batch = {"attention_mask": torch.tensor([[1, 1, 0]])}
    outputs = shows(NOTHING, attentions=(first, second)), shows(NOTHING, attentions=(zero, zero))
    assert objective.attention(*outputs, batch).tolist() == [1.0 + 9.0]
    official = (4 * 1 + 2 * 49) / 9 + 6 * 9 / 9
    assert objective.attention_padded(*outputs, batch).tolist() == pytest.approx([official])


def test_a_map_names_the_teachers_layer_for_each_of_the_students():
    student = shows(NOTHING, hidden=[torch.zeros(1, 3, 2)] * 2, attentions=[torch.zeros(1, 1, 3, 3)])
    teacher = shows(
        NOTHING,
        hidden=[torch.full((1, 3, 2), float(value)) for value in (1, 2, 3)],
        attentions=[torch.full((1, 1, 3, 3), float(value)) for value in (5, 7)],
    )
    batch = {"attention_mask": torch.ones(1, 3)}
    for term in (objective.hidden, objective.hidden_padded):
        assert term(student, teacher, batch, map=[0, 2]).tolist() == [1.0 + 9.0]
        assert term(student, teacher, batch, map=[1, -1]).tolist() == [4.0 + 9.0]
    for term in (objective.attention, objective.attention_padded):
        assert term(student, teacher, batch, map=[1]).tolist() == [49.0]


@pytest.mark.parametrize(("term", "states"), [("hidden", "hidden"), ("attention", "scores")])
def test_a_map_that_does_not_fit_is_refused(term, states):
    """One that names a layer too many is not read as no map, even where both models show as many."""
    shape = (1, 3, 2) if term == "hidden" else (1, 1, 3, 3)
    layers = [torch.zeros(shape)] * 2
    both = shows(NOTHING, hidden=layers, attentions=layers)
    batch = {"attention_mask": torch.ones(1, 3)}
    with pytest.raises(ValueError, match=rf"{states}: the map names 2, and the teacher shows 2, counted from 0"):
        TERMS[term](both, both, batch, map=[0, 2])
    with pytest.raises(ValueError, match=rf"{states}: the student shows 2, the teacher 1, with the map \[0\]"):
        TERMS[term](both, both, batch, map=[0])


def test_masked_scores_give_no_gradient():
    ours = torch.zeros(1, 1, 3, 3)
    ours[..., 2] = MINIMUM
    ours.requires_grad_()
    batch = {"attention_mask": torch.tensor([[1, 1, 0]])}
    for term in (objective.attention, objective.attention_padded):
        (gradient,) = torch.autograd.grad(
            term(shows(NOTHING, attentions=(ours,)), shows(NOTHING, attentions=(torch.ones(1, 1, 3, 3),)), batch), ours
        )
        assert gradient.isfinite().all()
        assert not gradient[..., 2].any()
        assert gradient[..., :2, :2].all()


@pytest.mark.parametrize("term", ["hidden", "hidden_padded", "attention", "attention_padded"])
@pytest.mark.parametrize(("ours", "theirs"), [(2, 1), (1, 2), (0, 0), (None, None), (None, 1), (1, None)])
def test_layers_that_are_not_shown_or_not_as_many_are_an_error_and_no_zero(term, ours, theirs):
    shape = (1, 3, 2) if "hidden" in term else (1, 1, 3, 3)
    outputs = []
    for count in (ours, theirs):
        layers = (torch.zeros(shape),) * (count or 0)
        outputs.append(shows(NOTHING, hidden=layers, attentions=layers) if count is not None else shows(NOTHING))
    with pytest.raises(ValueError, match=rf"the student shows {ours or 0}, the teacher {theirs or 0}"):
        TERMS[term](*outputs, {"attention_mask": torch.ones(1, 3)})


def test_terms_ask_models_to_show_what_they_need():
    assert Objective({"labels": 1.0, "logits": 1.0, "logits_mean": 1.0}).wanted == frozenset()
    assert Objective({"hidden": 1.0}).wanted == Objective({"hidden_padded": 1.0}).wanted == {"hidden"}
    assert Objective({"attention": 1.0}).wanted == Objective({"attention_padded": 1.0}).wanted == {"scores"}
    assert Objective(dict.fromkeys(TERMS, 1.0)).wanted == {"hidden", "scores", "shown_losses"}
    assert not Objective({"labels": 1.0}).needs_teacher
    assert Objective({"labels": 1.0, "logits": 1.0}).needs_teacher


def test_the_order_in_which_terms_are_written_changes_nothing():
    one, other = Objective({"logits": 1.0, "hidden": 2.0}), Objective({"hidden": 2.0, "logits": 1.0})
    assert list(one.weights.items()) == list(other.weights.items()) == [("hidden", 2.0), ("logits", 1.0)]


def test_a_weight_may_come_with_options():
    made = Objective({"hidden": {"weight": 0.5, "map": [0, 2]}, "attention": {"map": [1]}, "labels": 3})
    assert made.weights == {"attention": 1.0, "hidden": 0.5, "labels": 3}
    assert made.options == {"attention": {"map": [1]}, "hidden": {"map": [0, 2]}, "labels": {}}


# --- whole models -----------------------------------------------------------------------------------------


def model(kind: str, seed: int = 0, **changes):
    name, outputs = KINDS[kind]
    one = tiny(kinds.of(name).head, outputs, seed, **{"initializer_range": 0.2, **changes}).eval()
    show_scores(one)
    return one


def batch_of(kind: str) -> dict:
    mask = torch.tensor([[1] * 6, [1] * 4 + [0] * 2])
    ids = torch.randint(5, CONFIG["vocab_size"], (2, 6), generator=torch.Generator().manual_seed(0)) * mask
    targets = {
        "classes": {"labels": torch.tensor([0, 2])},
        "numbers": {"labels": torch.tensor([0.5, 4.0])},
        "spans": {"start": torch.tensor([1, 2]), "end": torch.tensor([2, 3])},
    }[kind]
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "token_type_ids": torch.zeros_like(ids),
        "kind": kinds.of(KINDS[kind][0]),
        **targets,
    }


def value(term: str, student, teacher, batch) -> torch.Tensor:
    wanted = TERMS[term].reads
    with torch.no_grad():
        theirs = forward(teacher, batch, wanted)
    return TERMS[term](forward(student, batch, wanted), theirs, batch)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("term", TEACHERS_TERMS)
def test_a_student_that_is_its_teacher_has_nothing_to_learn(term, kind):
    teacher, batch = model(kind), batch_of(kind)
    student, other = copy.deepcopy(teacher), model(kind, seed=1)
    loss = value(term, student, teacher, batch)
    assert loss.shape == (2,)
    assert (value(term, other, teacher, batch) > loss + 1e-4).all()
    if "logits" in term and kind != "numbers":  # a cross-entropy: at its least, the teacher's entropy
        loss.sum().backward()
        assert all(parameter.grad is None or parameter.grad.abs().max() < 1e-6 for parameter in student.parameters())
    else:
        assert loss.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("term", ["logits", "logits_mean"])
def test_the_logit_term_reaches_head_pooler_and_every_quantized_weight(term, kind):
    teacher, batch = model(kind), batch_of(kind)
    student = apply(
        model(kind, seed=1), "quantize", weights={"kind": "ternary"}, embeddings={"kind": "ternary", "rows": True}
    )
    value(term, student, teacher, batch).sum().backward()
    gradients = {name: parameter.grad for name, parameter in student.named_parameters()}
    head = "qa_outputs" if kind == "spans" else "classifier"
    assert gradients[f"{head}.weight"].abs().max() > 0
    if kind != "spans":
        assert gradients["bert.pooler.dense.weight"].abs().max() > 0
    silent = {name for name, gradient in gradients.items() if gradient is None or not gradient.any()}
    assert all("key.bias" in name for name in silent)  # softmax does not see what moves all scores of a query alike


@pytest.mark.parametrize("term", ["hidden", "hidden_padded", "attention", "attention_padded"])
def test_the_term_of_the_layers_reaches_all_of_them(term):
    teacher, batch = model("classes"), batch_of("classes")
    student = apply(model("classes", seed=1), "quantize", weights={"kind": "ternary"})
    value(term, student, teacher, batch).sum().backward()
    for layer in student.bert.encoder.layer:
        for part in (layer.attention.self.query, layer.attention.self.key):
            assert part.weight.grad.abs().max() > 0


@pytest.mark.parametrize("term", ["logits", "hidden", "attention"])
@pytest.mark.parametrize("kind", KINDS)
def test_longer_padding_changes_no_term(kind, term):
    teacher, student, batch = model(kind), model(kind, seed=1), batch_of(kind)
    longer = {
        name: nn.functional.pad(value, (0, 5)) if getattr(value, "ndim", 0) == 2 else value for name, value in batch.items()
    }
    short, long = (value(term, student, teacher, one) for one in (batch, longer))
    assert torch.allclose(short, long, rtol=1e-4)


def test_a_teacher_of_another_depth_is_refused():
    with pytest.raises(ValueError, match="hidden: the student shows 2, the teacher 3, with no map"):
        value("hidden", model("classes", num_hidden_layers=1), model("classes"), batch_of("classes"))
