"""The ablation of distillation: its terms by hand, one student in every row, and the layers that each row follows."""

import importlib
import math

import pytest
import torch

from methods import distil
from methods.kernel.trace import Trace
from methods.model.edits import show_scores
from methods.tasks import kinds
from methods.training import objective
from methods.training.forward import forward
from methods.training.objective import Objective
from methods.training.recipe import Optimization
from tests.fixtures.models import KINDS, batch_of, model_of
from tests.fixtures.runs_of_methods import CATALOGUE, recipe_of
from tests.fixtures.world import context

ROWS = ["kd_logits", "kd_hidden", "kd_attention", "kd_all", "kd_map_skip", "kd_map_first", "kd_map_last"]
OTHERS = ["kd_cosine", "kd_probabilities"]
TERMS = {
    "divergence": {},
    "hidden_of": {"layers": [1]},
    "attention_of": {"layers": [0]},
    "cosine": {},
    "probabilities": {},
}
SHOWN = frozenset({"hidden", "scores"})


def terms_of(method: str) -> dict:
    recipe = recipe_of(method)
    student = distil.student(model_of(num_hidden_layers=4), recipe, context())
    (stage,) = distil.stages(student, recipe, context())
    return stage.passes[0].objective.options


def shown(model, batch) -> Trace:
    show_scores(model)
    with torch.no_grad():
        return forward(model, batch, SHOWN)


def student_of(kind: str):
    torch.manual_seed(1)
    return distil.student(model_of(kind), recipe_of("kd_all"), context())


def value(name: str, student: Trace, teacher: Trace, batch: dict, **options) -> torch.Tensor:
    return getattr(distil, name)(student, teacher, batch, **{**TERMS[name], **options})


# --- rows -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [*ROWS, *OTHERS])
def test_every_row_has_the_student_and_the_budget_of_twn_2bit(method):
    """Its optimizer, rate, epochs and batches too, on every task."""
    for task in ("sst2", "cola", "squad"):
        row, twin = recipe_of(method, task), recipe_of("twn_2bit", task)
        shared = [*Optimization.__dataclass_fields__, "weights", "embeddings", "activations"]
        assert [getattr(row, name) for name in shared] == [getattr(twin, name) for name in shared]
    assert CATALOGUE.methods[method]["ancestors"] == CATALOGUE.methods["twn_2bit"]["ancestors"]
    assert CATALOGUE.methods[method]["listed"] == (method in ROWS)


def test_what_every_row_follows():
    every = [0, 1, 2, 3]
    hidden, attention = ({f"{name}_of": {"layers": every}} for name in ("hidden", "attention"))
    assert terms_of("kd_logits") == {"divergence": {}}
    assert terms_of("kd_hidden") == {"divergence": {}, **hidden}
    assert terms_of("kd_attention") == {"divergence": {}, **attention}
    assert terms_of("kd_all") == {"divergence": {}, **hidden, **attention}
    assert terms_of("kd_cosine") == {"divergence": {}, "cosine": {"layers": every}, **attention}
    for method, layers in (("kd_map_skip", [1, 3]), ("kd_map_first", [0, 1]), ("kd_map_last", [2, 3])):
        followed = {f"{name}_of": {"layers": layers} for name in ("hidden", "attention")}
        assert terms_of(method) == {"divergence": {}, **followed}


@pytest.mark.parametrize(
    ("depth", "second", "first", "last"),
    [
        (12, [1, 3, 5, 7, 9, 11], [0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 10, 11]),
        (3, [0, 2], [0, 1], [1, 2]),
        (2, [1], [0], [1]),
        (1, [0], [0], [0]),
    ],
)
def test_halves_of_the_layers(depth, second, first, last):
    found = [distil.followed(depth, which) for which in ("second", "first", "last", "every")]
    assert found == [second, first, last, list(range(depth))]


@pytest.mark.parametrize("method", ROWS)
def test_every_row_trains(method, run_method):
    record, _ = run_method(method)
    assert record["status"] == "ok"
    first, *_, last = record["curve"]
    assert last["loss"] < first["loss"]


def test_all_terms_train_as_twn_2bit_does(run_method):
    """Their gradients are equal but for rounding; the losses differ by the teacher's entropy."""
    ours, theirs = (run_method(name)[0]["curve"][-1]["terms"] for name in ("kd_all", "twn_2bit"))
    assert ours["hidden_of"] == pytest.approx(theirs["hidden"], rel=0.05)
    assert ours["attention_of"] == pytest.approx(theirs["attention"], rel=0.05)
    assert 0 < ours["divergence"] < theirs["logits"]


# --- terms ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", TERMS)
def test_a_term_is_zero_for_a_student_that_is_its_teacher_and_above_for_another(name, kind):
    teacher, batch = model_of(kind), batch_of(kind)
    of_teacher = shown(teacher, batch)
    same = value(name, of_teacher, shown(teacher, batch), batch)
    assert same.shape == (5,) and float(same.abs().max()) <= 2e-6
    other = value(name, shown(student_of(kind), batch), of_teacher, batch)
    assert bool((other > 1e-4).all())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", TERMS)
def test_padding_does_not_change_a_term(name, kind):
    teacher, student, batch = model_of(kind), student_of(kind), batch_of(kind)
    longer = {key: x for key, x in batch.items()}
    for key in ("input_ids", "attention_mask", "token_type_ids"):
        longer[key] = torch.nn.functional.pad(batch[key], (0, 3))
    short, long = (value(name, shown(student, one), shown(teacher, one), one) for one in (batch, longer))
    assert torch.allclose(short, long, rtol=1e-4, atol=1e-6)
    row = {key: x[2:3] if isinstance(x, torch.Tensor) else x for key, x in batch.items()}  # nor other examples
    alone = value(name, shown(teacher, row), _changed(shown(teacher, row)), row)
    together = value(name, shown(teacher, batch), _changed(shown(teacher, batch)), batch)
    assert torch.allclose(alone, together[2:3], rtol=1e-4, atol=1e-6)


def _changed(trace: Trace) -> Trace:
    """Return a trace in which everything is a little larger, and not evenly so."""
    trace.logits = tuple(1.1 * part + 0.1 * part.square() for part in trace.logits)
    trace.shown = {
        "hidden": [x + 0.1 * x.square() for x in trace.shown["hidden"]],
        "scores": [torch.where(x > -1e4, 0.9 * x, x) for x in trace.shown["scores"]],
    }
    return trace


@pytest.mark.parametrize("kind", KINDS)
def test_all_layers_chosen_are_the_shared_terms(kind):
    batch = batch_of(kind)
    traces = shown(student_of(kind), batch), shown(model_of(kind), batch)
    for name in ("hidden", "attention"):
        chosen = value(f"{name}_of", *traces, batch, layers=[0, 1])
        assert torch.equal(chosen, getattr(objective, name)(*traces, batch))


def test_layers_that_are_not_followed_have_no_say():
    batch = batch_of()
    student, teacher = shown(student_of("classification"), batch), shown(model_of(), batch)
    before = [value(name, student, teacher, batch, layers=[1]) for name in TERMS if name != "divergence"]
    student.shown["hidden"][1] = student.shown["hidden"][1] + 5  # what comes out of layer 0
    student.shown["scores"][0] = student.shown["scores"][0] + 5
    after = [value(name, student, teacher, batch, layers=[1]) for name in TERMS if name != "divergence"]
    assert all(torch.equal(*pair) for pair in zip(before, after, strict=True))


def shows(*logits, hidden=(), scores=(), tokens: int = 2) -> Trace:
    mask = torch.ones(1, tokens)
    return Trace(mask, mask, logits=logits, shown={"hidden": [*hidden], "scores": [*scores]})


def test_a_divergence_by_hand():
    batch = {"kind": kinds.of("classification")}
    ours, theirs = shows(torch.tensor([[0.0, 0.0]])), shows(torch.log(torch.tensor([[0.25, 0.75]])))
    assert distil.divergence(ours, theirs, batch).item() == pytest.approx(
        0.25 * math.log(0.5) + 0.75 * math.log(1.5), rel=1e-5
    )
    hot = shows(torch.log(torch.tensor([[0.25, 0.75]])) * 2)  # at temperature 2 the same distribution
    assert distil.divergence(ours, hot, batch, temperature=2.0).item() == pytest.approx(
        4 * (0.25 * math.log(0.5) + 0.75 * math.log(1.5)), rel=1e-5
    )
    numbers = {"kind": kinds.of("regression")}
    for temperature in (1.0, 3.0):
        found = distil.divergence(
            shows(torch.tensor([[1.0]])), shows(torch.tensor([[4.0]])), numbers, temperature=temperature
        )
        assert found.item() == pytest.approx(9.0)


def test_a_divergence_has_the_gradient_of_the_soft_cross_entropy():
    batch, logits = {"kind": kinds.of("classification")}, torch.tensor([[0.3, -1.0, 0.7]], requires_grad=True)
    teacher = shows(torch.tensor([[1.0, 0.5, -0.5]]))
    gradients = [
        torch.autograd.grad(loss(shows(logits), teacher, batch).sum(), logits)[0]
        for loss in (distil.divergence, objective.logits)
    ]
    assert torch.allclose(*gradients, atol=1e-7)


def test_a_cosine_by_hand():
    """Two states of two tokens: turned by 90 degrees, longer, turned round, equal; the third token is padding."""
    batch = {"attention_mask": torch.tensor([[1, 1, 0]])}
    ours = [torch.tensor([[[1.0, 0.0], [1.0, 0.0], [9.0, 9.0]]]), torch.tensor([[[1.0, 0.0], [1.0, 2.0], [9.0, 0.0]]])]
    theirs = [torch.tensor([[[0.0, 1.0], [7.0, 0.0], [0.0, 9.0]]]), torch.tensor([[[-1.0, 0.0], [1.0, 2.0], [0.0, 9.0]]])]
    found = distil.cosine(shows(hidden=ours), shows(hidden=theirs), batch)
    assert found.tolist() == pytest.approx([(1 + 0) / 2 + (2 + 0) / 2])
    alone = distil.cosine(shows(hidden=[*ours, ours[0]]), shows(hidden=[*theirs, ours[0]]), batch, layers=[1])
    assert alone.tolist() == pytest.approx([0.5])  # the embedding output and the second layer's


def test_probabilities_by_hand():
    """One head, two real tokens and padding, which no token attends to and whose own attention does not count."""
    batch = {"attention_mask": torch.tensor([[1, 1, 0]])}
    lowest = torch.finfo(torch.float32).min
    ours = torch.tensor([[[[0.0, 0.0, lowest], [0.0, 0.0, lowest], [5.0, 0.0, lowest]]]])
    theirs = torch.tensor([[[[0.0, math.log(3), -1e4], [0.0, 0.0, -1e4], [0.0, 5.0, -1e4]]]])
    expected = (0.25 * math.log(0.5) + 0.75 * math.log(1.5)) / 2
    found = distil.probabilities(shows(scores=[ours], tokens=3), shows(scores=[theirs], tokens=3), batch)
    assert found.tolist() == pytest.approx([expected], rel=1e-5)
    twice = distil.probabilities(shows(scores=[ours] * 2, tokens=3), shows(scores=[theirs] * 2, tokens=3), batch)
    assert twice.tolist() == pytest.approx([2 * expected], rel=1e-5)


@pytest.mark.parametrize("name", TERMS)
def test_a_recipe_may_name_every_term(name):
    found = Objective({name: {"weight": 0.5, **TERMS[name]}}, importlib.import_module("methods.distil"))
    assert found.needs_teacher and found.weights == {name: 0.5}
