"""BiT: its authors' outputs on fixed inputs, the place of each quantizer and shift, and the chain of teachers."""

import json

import numpy as np
import pytest
import torch

from methods import bit
from methods.common import interrupt
from methods.engine import Unsupported
from methods.engine.session import Session
from methods.kernel import quantizers, trace
from methods.kernel.layers import Quantized, Shifted
from methods.kernel.quantizers import Centred, Elastic
from methods.model import artifact
from methods.model.edits import apply, calibrate, roles
from methods.model.encoder import build, known
from methods.tasks import kinds
from methods.training import objective, optimizers
from methods.training.forward import forward
from tests.fixtures.models import KINDS, answers, batch_of, bert_base, model_of
from tests.fixtures.runs_of_methods import CATALOGUE, FILES, recipe_of, request
from tests.fixtures.world import SHARED, context

METHODS = ("bit_1bit_a4", "bit_1bit_a2", "bit_1bit", "bit_1bit_direct")
GOLDEN = SHARED / "golden/more_bit.npz"
golden = pytest.mark.skipif(not GOLDEN.is_file(), reason="the official implementation's outputs are not here")


def quantize(bits: int) -> dict:
    """Return the edit that the stanzas make of a model, with activations of some bits."""
    recipe = recipe_of("bit_1bit_a4")
    return {
        "kind": "quantize",
        "weights": recipe.weights,
        "embeddings": recipe.embeddings,
        "activations": {**recipe.activations, "bits": bits},
        "one_sided": {**recipe.one_sided, "bits": bits},
        "own_inputs": True,
        "shift": True,
    }


def activations(model) -> list[quantizers.Quantizer]:
    return [module for module in model.modules() if getattr(module, "role", "") == "activations"]


# --- the authors' outputs ---------------------------------------------------------------------------------

TASKS = {"cls3": (1, "classification"), "cls3_a2": (2, "classification"), "reg": (1, "regression"), "qa": (1, "span")}
PLACES = {"clip_query": "quantizers.query", "clip_key": "quantizers.key", "clip_value": "quantizers.value"}
PLACES |= {"clip_attn": "quantizers.probs", "input_clip_val": "input_quantizer.quantizer", "move": "input_quantizer"}


def ours(name: str) -> str:
    """Return our name of an official step or shift."""
    for theirs, place in PLACES.items():
        name = name.replace(theirs, place)
    return name


def relative(found: torch.Tensor, expected) -> float:
    expected = torch.as_tensor(expected)
    return float(((found - expected).abs().max() / expected.abs().max().clamp(min=1e-12)).detach())


def golden_model(arrays, who: str, task: str):
    config, kind = json.loads(str(arrays["config"])), kinds.of(TASKS[task][1])
    heads = {"cls3_a2": "cls3"}.get(task, task)
    weights = {}
    for prefix in (f"{who}.", f"{heads}.{who}."):
        weights |= {name.removeprefix(prefix): torch.from_numpy(arrays[name]) for name in arrays if name.startswith(prefix)}
    outputs = 2 if task == "qa" else len(weights["classifier.bias"])
    model = build({**known(config), "model_type": "bert"}, kind.head, outputs)
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert not missing and all("pooler" in name for name in unexpected)
    return model.eval()


@pytest.fixture
def counting_padding(monkeypatch):
    """Count padding into N, into minima and into calibration, as the official code does."""
    monkeypatch.setattr(trace, "real", lambda *_, **__: None)
    monkeypatch.setattr(trace, "real_features", lambda x, pairs=False: torch.full((len(x),), float(x[0].numel())))


@golden
def test_the_authors_quantizers():
    arrays, checked = np.load(GOLDEN), 0
    for name in [name.removesuffix(".out") for name in arrays.files if name.endswith(".out")]:
        values, kind, variant = name.split(".")
        x = torch.from_numpy(arrays[values]).requires_grad_()
        if kind == "bit_bwn":
            quantizer = Centred(rows=variant == "row")
        else:
            quantizer = Elastic(int(kind[-1]), signed="unsigned" not in kind)
            if variant == "init":
                quantizer.calibrate(x.detach())
                assert relative(quantizer.scale, arrays[f"{name}.alpha"]) <= 1e-6, name
            quantizer.scale.data = torch.from_numpy(arrays[f"{name}.alpha"]).clone()
        out = quantizer(x)
        out.backward(torch.from_numpy(arrays[f"{name}.grad_out"]))
        assert relative(out, arrays[f"{name}.out"]) <= 1e-6, name
        assert relative(x.grad, arrays[f"{name}.grad_in"]) <= 1e-6, name
        if kind != "bit_bwn":
            assert relative(quantizer.scale.grad, arrays[f"{name}.grad_alpha"]) <= 1e-5, name
        checked += 1
    assert checked == 6 + 24


@golden
@pytest.mark.parametrize("task", TASKS)
def test_the_authors_whole_step(task, counting_padding):
    arrays, (bits, kind) = np.load(GOLDEN), TASKS[task]
    student, teacher = (golden_model(arrays, who, task) for who in ("student", "teacher"))
    apply(student, "activate", function="relu")
    apply(student, **quantize(bits))
    places, steps = dict(student.named_modules()), {}
    for name, alpha in zip(arrays[f"{task}.alpha_names"], arrays[f"{task}.alpha"], strict=True):
        if ours(name) in places:  # the official model for questions has a pooler and never uses it
            steps[ours(name)] = places[ours(name)]
            places[ours(name)].scale.data = torch.from_numpy(np.asarray(alpha)).clone()
    assert set(steps.values()) == set(activations(student))
    for name in arrays.files:
        place = places.get(ours(name.removeprefix("move.")).removesuffix(".bias"))
        if name.startswith("move.") and place is not None:
            place.bias.data = torch.from_numpy(arrays[name]).clone()
    inputs = ("input_ids", "attention_mask", "token_type_ids")
    batch = {name: torch.from_numpy(arrays[name]) for name in inputs} | {"kind": kinds.of(kind)}
    wanted = frozenset({"hidden", "scores"})
    with torch.no_grad():
        theirs = forward(teacher, batch, wanted)
    found = forward(student, batch, wanted)
    losses = {"loss_rep": objective.hidden_padded(found, theirs, batch).mean()}
    if task == "reg":
        assert arrays["reg.loss_logits"] == 0  # the official cross-entropy over one logit
    else:
        losses["loss_logits"] = objective.logits_mean(found, theirs, batch).mean()
    for name, loss in losses.items():
        assert float(loss.detach()) == pytest.approx(float(arrays[f"{task}.{name}"]), rel=1e-5), name
    logits = torch.stack(found.logits, 1) if task == "qa" else found.logits[0]
    assert relative(logits, arrays[f"{task}.student_logits"]) <= 1e-5
    for shown, name in (("hidden", "student_hidden"), ("scores", "student_scores")):
        for at, tensor in enumerate(found.shown[shown]):
            if f"{task}.{name}.{at}" in arrays:
                expected = torch.from_numpy(arrays[f"{task}.{name}.{at}"])
                assert relative(tensor * (expected > -1e3), expected * (expected > -1e3)) <= 1e-5
    sum(losses.values()).backward()
    _compare_gradients(arrays, task, student, steps)


def _compare_gradients(arrays, task: str, student, steps: dict) -> None:
    parameters = {name: parameter for name, parameter in student.named_parameters() if parameter.grad is not None}
    compared = [name for name in arrays.files if name.startswith(f"{task}.grad.") and "key.bias" not in name]
    assert len(compared) > (60 if task == "cls3" else 10)
    for name in compared:
        parameter = parameters.get(ours(name.removeprefix(f"{task}.grad.")))
        expected = torch.from_numpy(arrays[name])
        if parameter is None:
            assert not expected.any(), name  # the head, where its loss is not in the sum
        else:
            assert torch.allclose(parameter.grad, expected, rtol=0, atol=1e-4 * float(expected.abs().max()) + 1e-8), name
    slopes = dict(zip(map(ours, arrays[f"{task}.alpha_names"]), arrays[f"{task}.grad_alpha"], strict=True))
    rounding = 1e-6 * float(np.nanmax(np.abs(list(slopes.values()))))
    for name, step in steps.items():
        if step.scale.grad is None:
            assert not slopes.pop(name), f"{name}: the pooler's, where the logits are not in the sum"
        else:
            assert float(step.scale.grad) == pytest.approx(float(slopes.pop(name)), rel=1e-4, abs=rounding), name
    assert np.isnan(list(slopes.values())).all(), "those of a pooler that nobody reads"


@golden
@pytest.mark.parametrize("task", ["cls3", "cls3_a2"])
def test_steps_start_as_the_authors_first_batch_sets_them(task, counting_padding):
    arrays, (bits, _) = np.load(GOLDEN), TASKS[task]
    student = golden_model(arrays, "student", task)
    apply(student, "activate", function="relu")
    apply(student, **quantize(bits))
    places = dict(student.named_modules())
    for name in arrays.files:
        if name.startswith("move."):
            places[ours(name.removeprefix("move.")).removesuffix(".bias")].bias.data = torch.from_numpy(arrays[name]).clone()
    inputs = ("input_ids", "attention_mask", "token_type_ids")
    calibrate(student, [{name: torch.from_numpy(arrays[name]) for name in inputs}])
    for name, alpha in zip(arrays[f"{task}.alpha_names"], arrays[f"{task}.alpha_first_batch"], strict=True):
        assert relative(places[ours(name)].scale, alpha) <= 1e-5, name


# --- the model --------------------------------------------------------------------------------------------


def test_bert_base_has_the_shifts_and_steps_that_the_design_counts():
    model = bert_base({"kind": "activate", "function": "relu"}, quantize(1))
    shifts = [module.bias for module in model.modules() if isinstance(module, Shifted)]
    assert sum(shift.numel() for shift in shifts) == 83_712
    assert len(activations(model)) == 121
    layers = [layer for layer in model.modules() if isinstance(layer, Quantized) and layer.weight_quantizer]
    assert sum(layer.weight.numel() for layer in layers) == 85_524_480 + 23_440_896  # encoder and pooler, word embedding
    rest = sum(p.numel() for name, p in model.named_parameters() if "quantizer" not in name and "classifier" not in name)
    plain = rest - 108_965_376
    assert (108_965_376 / 8 + 4 * plain) / 2**20 == pytest.approx(14.961, abs=5e-4)


def test_every_place_has_its_grid():
    model = model_of()
    apply(model, **quantize(2))
    names = {name: module for name, module in model.named_modules() if isinstance(module, Elastic)}
    unsigned = {name for name, module in names.items() if not module.signed}
    assert unsigned == {
        f"bert.encoder.layer.{at}.{place}"
        for at in (0, 1)
        for place in ("attention.self.quantizers.probs", "output.dense.input_quantizer.quantizer")
    }
    own = [f"bert.encoder.layer.1.attention.self.{name}.input_quantizer.quantizer" for name in ("query", "key", "value")]
    assert set(own) < set(names)
    assert len(names) == 2 * 10 + 1
    assert not hasattr(model.bert.encoder.layer[0].attention.self, "input_quantizer")


def test_the_input_of_three_linears_may_share_one_shift():
    """A shift of the shared input, which is the same vector for queries, keys and values."""
    model, batch = model_of(), batch_of()
    fine = {"kind": "symmetric", "bits": 8, "rows": True}
    apply(model, "quantize", activations=fine, shift=True, attention=False, pooler=False)
    attention = model.bert.encoder.layer[0].attention.self
    before = answers(model, batch)
    with torch.no_grad():
        attention.input_quantizer.bias.add_(0.5)
        shifted = answers(model, batch)
        attention.input_quantizer.bias.zero_()
        for linear in (attention.query, attention.key, attention.value):
            linear.bias.add_(0.5 * linear.weight.sum(1))  # what the shift does before the linear
    assert not torch.allclose(shifted, before, atol=1e-2)
    assert torch.allclose(answers(model, batch), shifted, atol=0.05)  # eight bits of other ranges


def test_steps_have_their_own_rate_and_shifts_the_rate_of_weights_without_decay():
    model = apply(model_of(), **quantize(1))
    optimizer = optimizers.build(model, recipe_of("bit_1bit"))
    groups = {id(param): group for group in optimizer.param_groups for param in group["params"]}
    for module in model.modules():
        if isinstance(module, Shifted):
            assert groups[id(module.bias)]["lr"] == 2e-4 / 2 == 1e-4
            assert groups[id(module.bias)]["weight_decay"] == 0
            assert groups[id(module.quantizer.scale)]["lr"] == 1e-4
            assert groups[id(module.quantizer.scale)]["weight_decay"] == 0
    assert set(roles(model).values()) == {"activations"}


# --- the chain --------------------------------------------------------------------------------------------


def test_the_chain_is_the_published_one():
    ancestors = {name: CATALOGUE.methods[name]["ancestors"] for name in METHODS}
    assert ancestors["bit_1bit"] == {"teacher": "bit_1bit_a2", "init": "bit_1bit_a2"}
    for name in ("bit_1bit_a4", "bit_1bit_a2", "bit_1bit_direct"):
        assert ancestors[name] == {"teacher": "fp32", "init": "fp32"}


def test_the_narrower_student_goes_on_with_weights_steps_and_shifts():
    wider = model_of()
    recipe = recipe_of("bit_1bit_a2", calibration_batches=1)
    bit.student(wider, recipe, context([batch_of()]))
    for shift in (module for module in wider.modules() if isinstance(module, Shifted)):
        shift.bias.data.normal_()
    before = {name: tensor.clone() for name, tensor in wider.state_dict().items()}
    student = bit.student(wider, recipe_of("bit_1bit"), context([]))
    assert all(torch.equal(tensor, before[name]) or "batches" in name for name, tensor in student.state_dict().items())
    assert {one.bits for one in activations(student)} == {1}
    assert [edit["kind"] for edit in student.record.edits] == ["activate", "quantize", "requantize_activations"]
    layer = student.bert.encoder.layer[1]
    assert not layer.output.dense.input_quantizer.quantizer.signed
    assert not layer.attention.self.quantizers.probs.signed and layer.attention.self.quantizers.probs.pairs
    assert layer.intermediate.dense.input_quantizer.quantizer.signed


def test_steps_can_be_set_anew():
    """The one-bit rule starts unsigned steps at sqrt(3) of the two-bit rule's, and signed ones where they were."""
    batch = batch_of()
    fresh = bit.student(model_of(), recipe_of("bit_1bit_direct", calibration_batches=1), context([batch]))
    wider = bit.student(model_of(), recipe_of("bit_1bit_a2", calibration_batches=1), context([batch]))
    first = wider.bert.encoder.layer[0]
    kept = first.attention.self.query.input_quantizer.quantizer.scale.item()
    anew = bit.student(wider, recipe_of("bit_1bit", calibration_batches=1), context([batch]))
    assert first.attention.self.query.input_quantizer.quantizer.scale.item() == pytest.approx(kept)
    for one, other in zip(activations(anew), activations(fresh), strict=True):
        assert one.scale.item() == pytest.approx(other.scale.item())


def test_a_run_starts_with_its_ancestors_latent_weights_and_is_taught_by_its_packed_file(run_method, sst2):
    _, folder = run_method("bit_1bit_a2")
    wider, latent = artifact.load(folder / "last.safetensors")[0], folder / "latent.safetensors"
    start = artifact.load(folder / "last.safetensors", latent)[0]
    weights = [
        (name, layer) for name, layer in start.named_modules() if isinstance(layer, Quantized) and layer.weight_quantizer
    ]
    batch = batch_of()
    assert torch.allclose(answers(start.eval(), batch), answers(wider.eval(), batch), atol=1e-5)
    for name, layer in weights:
        stored = wider.get_submodule(name).weight
        assert len(layer.weight.unique()) > 2, "the latent weights are not on a grid"
        assert torch.equal(layer.weight_quantizer.values(layer.weight), stored)
    record, _ = run_method("bit_1bit")
    assert record["ancestors"]["init"]["latent"] and record["bits"] == {"weights": 1, "embeddings": 1, "activations": 1}


@pytest.mark.parametrize(("method", "what"), [("bit_1bit_a2", "own_inputs"), ("bit_1bit", "requantize_activations")])
def test_the_packed_engine_refuses_by_name(method, what, run_method):
    with pytest.raises(Unsupported, match=what):
        Session(run_method(method)[1] / "last.safetensors")


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_task_trains_all_of_the_student(kind):
    """Regression too, whose logit loss is zero in the official code."""
    recipe, batch = recipe_of("bit_1bit_direct"), batch_of(kind)
    student = bit.student(model_of(kind, hidden_dropout_prob=0.0), recipe, context([batch]))
    teacher = model_of(kind)
    (stage,) = bit.stages(student, recipe, context())
    assert stage.passes[0].objective.weights == {"hidden": 1.0, "logits": 1.0}
    with torch.no_grad():
        theirs = forward(teacher, batch, frozenset({"hidden"}))
    terms = stage.passes[0].objective(forward(student, batch, frozenset({"hidden"})), theirs, batch)
    assert (terms["logits"] > 0).all() and terms["logits"].shape == terms["hidden"].shape == (5,)
    terms["logits"].sum().backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in student.parameters())
    assert all(module.bias.grad.any() for module in student.modules() if isinstance(module, Shifted))


def test_a_chain_that_was_stopped_ends_with_the_same_bytes(run_method, monkeypatch):
    whole = run_method("bit_1bit")[1]
    looks = iter([False] * 6 + [True])
    monkeypatch.setattr(interrupt, "asked", lambda: next(looks))
    wanted = request("bit_1bit")
    ancestors = {role: run_method(one[0])[1] for role, one in wanted["ancestors"].items()}
    folder = run_method.folder / "bit_1bit that was stopped"
    with pytest.raises(interrupt.Interrupted):
        run_method.execute(wanted, folder, ancestors)
    monkeypatch.undo()
    run_method.execute(wanted, folder, ancestors)
    assert json.loads((folder / "machine.json").read_text())["resumed"] == 1
    for name in FILES:
        assert (folder / name).read_bytes() == (whole / name).read_bytes(), name
