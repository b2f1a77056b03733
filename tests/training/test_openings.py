"""What the training core is open for, each by a small paper of its own in tests/fixtures/papers.

A student with fewer layers and a layer map; a layer that routes by token id; a step that trains two widths; a term with
parameters.
"""

import copy
import importlib
import json

import numpy as np
import pytest
import torch

from methods.common import files, interrupt
from methods.model import artifact
from methods.model.anatomy import layers
from methods.model.edits import apply
from methods.model.encoder import from_base
from methods.training import trainer
from methods.training.checkpoints import Checkpoints
from methods.training.forward import forward
from methods.training.objective import Objective
from methods.training.recipe import Pass
from methods.training.trainer import State, Trainer, accumulate
from tests.fixtures.runs_of_methods import FILES, request
from tests.fixtures.world import context, loader, without_dropout
from tests.fixtures.world import device as device_of_tests

pytestmark = pytest.mark.usefixtures("papers_of_tests")
RECIPE = {"optimizer": "adamw", "lr": 2e-5, "epochs": 3, "batch_size": 8}


def wanted(paper: str, recipe: dict, teacher: bool = False, **changes) -> dict:
    """Return the request of a run of a paper of the tests, which learns from fp32 if it has a teacher."""
    usual = request("fp32_kd" if teacher else "fp32")
    spec = {"family": paper, "recipe": {**RECIPE, **recipe}, "sources": {}}
    return {**usual, "method": paper, "spec": spec, **changes}


@pytest.fixture
def run(run_method, tmp_path):
    """`run("shallow", {...})`: the record and the folder of a run of a paper of the tests."""

    def do(paper: str, recipe: dict, teacher: bool = False, name: str = "a"):
        ancestors = {"teacher": run_method("fp32")[1]} if teacher else {}
        return run_method.execute(wanted(paper, recipe, teacher), tmp_path / name, ancestors), tmp_path / name

    do.students = run_method.students
    return do


def outputs(model, batch) -> torch.Tensor:
    with torch.no_grad():
        return forward(model.eval(), batch).logits[0]


def comes_back(run, folder, sst2, device) -> torch.nn.Module:
    """Check that a file holds the student that was trained and that the run scored; return the student."""
    student, model = run.students[folder], artifact.load(folder / "last.safetensors")[0]
    rows = loader(sst2, "validation")
    batch = next(rows.sample(16))
    assert torch.equal(outputs(student, batch), outputs(model, batch))
    stored = np.load(folder / "predictions.npz")["last.validation"]
    np.testing.assert_array_equal(stored, np.stack(trainer.predict(model, rows, device, exact=True)))
    return student


def stopped_and_resumed(run, monkeypatch, steps: int, *words, **options) -> None:
    """Stop a run after so many steps, let it go on, and compare it with one that nobody stopped."""
    _, whole = run(*words, name="whole", **options)
    looks = iter([False] * (steps - 1) + [True])
    with monkeypatch.context() as patched:
        patched.setattr(interrupt, "asked", lambda: next(looks))
        with pytest.raises(interrupt.Interrupted):
            run(*words, name="stopped", **options)
    _, resumed = run(*words, name="stopped", **options)
    assert json.loads((resumed / "machine.json").read_text())["resumed"] == 1
    for name in FILES:
        assert (resumed / name).read_bytes() == (whole / name).read_bytes(), name


# --- fewer layers than the teacher ------------------------------------------------------------------------

MAPPED = {"hidden": {"weight": 1.0, "map": [0, 2]}, "attention": {"weight": 1, "map": [1]}, "logits": 1.0}


def test_a_student_with_half_the_layers_follows_the_layers_that_a_map_names(run, sst2, device):
    record, folder = run("shallow", {"keep": [1], "terms": MAPPED}, teacher=True)
    assert (record["status"], record["steps"]) == ("ok", 20)
    student = comes_back(run, folder, sst2, device)
    assert len(layers(student)) == student.config.num_hidden_layers == 1
    first, last = record["curve"]
    assert first["terms"].keys() == {"hidden", "attention", "logits"}
    assert all(last["terms"][name] < first["terms"][name] for name in ("hidden", "attention"))
    size = record["size"]["last"]
    body = sum(param.numel() for param in student.base_model.parameters())
    assert size["paper_bytes"] == 4 * body
    assert size["counted_bytes"] == pytest.approx(size["file_bytes"], rel=0.01)
    assert size["fp32_bytes"] - size["paper_bytes"] == 4 * sum(
        param.numel() for param in layers(student)[0].module.parameters()
    )
    assert {entry["layer"] for entry in record["quantization_error"]} == set()


def test_the_layers_that_are_kept_are_those_that_are_named(base):
    whole = from_base(base, "sequence", 2, 1)
    first, second = (layer["query"].weight.clone() for layer in layers(whole))
    swapped = layers(apply(whole, "layers", keep=[1, 0]))
    assert torch.equal(swapped[0]["query"].weight, second)
    assert torch.equal(swapped[1]["query"].weight, first)


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        ({"hidden": 1.0}, "hidden: the student shows 2, the teacher 3, with no map"),
        ({"hidden": {"map": [0, 1, 2]}}, r"hidden: the student shows 2, the teacher 3, with the map \[0, 1, 2\]"),
        ({"hidden": {"map": [0, 3]}}, "hidden: the map names 3, and the teacher shows 3, counted from 0"),
        ({"attention": {"map": [2]}}, "scores: the map names 2, and the teacher shows 2, counted from 0"),
    ],
)
def test_a_map_that_does_not_fit_stops_the_run(run, terms, message):
    with pytest.raises(ValueError, match=message):
        run("shallow", {"keep": [0], "terms": terms}, teacher=True)


@pytest.mark.parametrize("keep", [[], [2], [0, 5]])
def test_layers_that_are_not_there_cannot_be_kept(base, keep):
    with pytest.raises(ValueError, match="cannot be kept of 2"):
        apply(from_base(base, "sequence", 2, 1), "layers", keep=keep)


# --- a layer that routes by token id ----------------------------------------------------------------------

ROUTED = {"count": 3, "terms": {"labels": 1.0, "shown_losses": 0.1}}


def test_a_layer_routes_by_token_id_and_shows_a_loss_of_its_own(run, sst2, device):
    record, folder = run("routed", ROUTED)
    assert record["status"] == "ok"
    assert record["curve"][0]["terms"].keys() == {"labels", "shown_losses"}
    assert record["curve"][0]["terms"]["shown_losses"] == pytest.approx(
        4, abs=0.2
    )  # one each layer's linear, where balanced
    student = comes_back(run, folder, sst2, device)
    gates = [layer[part].gate.abs().max() for layer in layers(student) for part in ("intermediate", "output")]
    assert min(gates) > 0  # the balance loss alone reaches them all
    _, meta = artifact.read(folder / "last.safetensors")
    assert meta["edits"] == [{"kind": "routed.experts", "count": 3}]
    loaded, _ = artifact.load(folder / "last.safetensors")
    tables = [layer["output"].table for layer in layers(loaded)]
    assert all(len(table.unique()) == 3 for table in tables)  # the edit alone leaves them zero


def test_another_table_is_another_model(run, sst2):
    _, folder = run("routed", ROUTED)
    model, _ = artifact.load(folder / "last.safetensors")
    batch = next(loader(sst2, "validation").sample(16))
    before = outputs(model, batch)
    for layer in layers(model):
        layer["intermediate"].table.add_(1).remainder_(3)
    assert not torch.allclose(outputs(model, batch), before, atol=1e-6)


def test_padding_has_no_say_in_routing(run, sst2, base):
    """Neither in what real tokens become nor in the balance, which counts real tokens."""
    paper = importlib.import_module("methods.routed")
    rows = np.arange(8)
    short, long = (loader(sst2, padding=padding).batch(rows) for padding in ("bucket", "max_length"))
    assert short["input_ids"].shape[1] < long["input_ids"].shape[1]
    student = paper.student(from_base(base, "sequence", 2, 1), paper.Recipe(**RECIPE, **ROUTED), context([short])).eval()
    shown = [forward(student, batch, frozenset({"shown_losses"})) for batch in (short, long)]
    assert torch.allclose(shown[0].logits[0], shown[1].logits[0], atol=1e-6)
    for one, other in zip(*(trace.shown["shown_losses"] for trace in shown), strict=True):
        assert torch.allclose(one, other, atol=1e-6)


def test_a_routed_run_that_was_stopped_ends_with_the_same_bytes(run, monkeypatch):
    stopped_and_resumed(run, monkeypatch, 7, "routed", ROUTED)


# --- a step that trains two widths ------------------------------------------------------------------------

WIDTHS = {"heads": 1, "neurons": 16, "terms": {"labels": 1.0}}


def gradients(student, passes, rows, task) -> dict[str, torch.Tensor]:
    student.zero_grad()
    accumulate(student, None, loader(task), passes, rows, rows, State(micro_batch=3), device_of_tests())
    return {name: param.grad.clone() for name, param in student.named_parameters()}


def test_gradients_of_two_widths_add_up(base, sst2):
    paper, rows = importlib.import_module("methods.two_widths"), np.arange(8)
    student = from_base(without_dropout(base), "sequence", 2, 1)
    (stage,) = paper.stages(student, paper.Recipe(**RECIPE, **WIDTHS), context())
    both = gradients(student, stage.passes, rows, sst2)
    whole, half = (gradients(student, (one,), rows, sst2) for one in stage.passes)
    for name, gradient in both.items():
        assert torch.allclose(gradient, whole[name] + half[name], atol=1e-7), name
    width = base.config["hidden_size"] // 2
    query = half["bert.encoder.layer.0.attention.self.query.weight"]
    assert query[:width].any() and not query[width:].any()  # the second head takes no part


def test_the_narrower_pass_is_the_narrower_model(base, sst2):
    paper, batch = importlib.import_module("methods.two_widths"), loader(sst2).batch(np.arange(8))
    student = from_base(base, "sequence", 2, 1).eval()
    before = outputs(student, batch)
    with paper.narrowed(student, heads=1, neurons=16):
        half = outputs(student, batch)
    narrow = apply(copy.deepcopy(student), "narrow", heads=1, neurons=16)
    assert torch.equal(half, outputs(narrow, batch))
    assert torch.equal(outputs(student, batch), before)
    assert not torch.equal(half, before)


def test_terms_of_a_named_pass_carry_its_name(run, sst2, device):
    record, folder = run("two_widths", WIDTHS)
    assert record["status"] == "ok"
    comes_back(run, folder, sst2, device)
    for entry in record["curve"]:
        assert entry["terms"].keys() == {"labels", "half/labels"}
        assert entry["loss"] == pytest.approx(sum(entry["terms"].values()))


def test_a_run_of_two_widths_that_was_stopped_ends_with_the_same_bytes(run, monkeypatch):
    stopped_and_resumed(run, monkeypatch, 7, "two_widths", WIDTHS)


# --- a term with parameters -------------------------------------------------------------------------------

PROJECTED = {"hidden_size": 8, "terms": {"logits": 1.0, "projection": {"weight": 0.5, "at": 1}}}


def test_a_terms_parameters_are_optimized_and_checkpointed(base, sst2, device, tmp_path):
    paper = importlib.import_module("methods.projected")
    teacher, recipe = from_base(base, "sequence", 2, 1), paper.Recipe(**RECIPE, **PROJECTED)
    given = context(budget={"lr_scale": 50, "epochs_scale": 1, "batch_size": None})
    student = paper.student(from_base(base, "sequence", 2, 1), recipe, given)
    (stage,) = paper.stages(student, recipe, given)
    checkpoints = Checkpoints(tmp_path, "x", steps=8)
    inputs = (student, [stage], loader(sst2), lambda model: {"accuracy": 50.0}, device)
    training = Trainer(*inputs, evaluate_every=100, teacher=teacher, checkpoints=checkpoints)
    term = stage.passes[0].objective.modules_of_terms["projection"]
    assert (term.map.in_features, term.map.out_features, term.at) == (8, 16, 1)
    before = {name: param.detach().clone() for name, param in term.named_parameters()}
    fit = training.fit()
    assert all(not torch.equal(param, before[name]) for name, param in term.named_parameters())
    first, last = fit.state.curve[0]["terms"], fit.state.curve[-1]["terms"]
    assert last["projection"] < first["projection"]
    arrays, _ = files.read_sealed(sorted(tmp_path.glob("step-*"))[-1])
    stored = {name.rpartition("projection.")[2] for name in arrays if name.startswith("objectives/")}
    assert stored == {"map.weight", "map.bias"}
    assert not any("projection" in name for name in fit.last)  # it is no part of the model


def test_a_killed_run_with_a_term_that_learns_ends_with_the_same_bytes(run, monkeypatch, sst2, device):
    stopped_and_resumed(run, monkeypatch, 7, "projected", PROJECTED, teacher=True)
    record, folder = run("projected", PROJECTED, teacher=True, name="whole")
    student = comes_back(run, folder, sst2, device)
    assert student.config.hidden_size == 8
    assert record["ancestors"]["teacher"]["method"] == "fp32"


def test_one_objective_makes_its_modules_once(base):
    paper = importlib.import_module("methods.projected")
    objective = Objective({"projection": 1.0}, paper)
    model = from_base(base, "sequence", 2, 1)
    objective.prepare(model, model)
    term = objective.modules_of_terms["projection"]
    objective.prepare(model, model)
    assert objective.modules_of_terms["projection"] is term
    assert Pass(objective).objective.needs_teacher
