"""DynaBERT: what is important and comes first, the sub-networks of one model, and a step that trains all of them."""

import copy
import json
from itertools import product

import numpy as np
import pytest
import torch

from methods import dynabert, subnetwork
from methods.common import interrupt
from methods.model import artifact
from methods.model.anatomy import layers
from methods.model.edits import apply, show_scores
from methods.model.encoder import from_base
from methods.tasks import kinds
from methods.training import objective, trainer
from methods.training.forward import forward
from methods.training.teaching import Teaching
from methods.training.trainer import State, accumulate
from tests.fixtures.models import KINDS, answers, batch_of, bert_base, model_of, parameters
from tests.fixtures.runs_of_methods import CATALOGUE, FILES, recipe_of, request
from tests.fixtures.world import context, loader, without_dropout
from tests.papers import test_golden as golden

WIDTHS, DEPTHS = (1.0, 0.75, 0.5, 0.25), (1.0, 0.75, 0.5)
ROWS = [f"dynabert_w{round(100 * width)}_d{round(100 * depth)}" for depth, width in product(DEPTHS, WIDTHS)]


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
    shown = forward(narrow, batch, frozenset({"scores", "hidden"})).shown
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
        return objective.labels(forward(model, batch), None, batch).mean()

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


# --- sub-networks -----------------------------------------------------------------------------------------


def test_kept_layers_are_those_of_the_official_code():
    assert dynabert.kept_layers(1.0, 12) == list(range(12))
    assert dynabert.kept_layers(0.75, 12) == [0, 1, 2, 4, 5, 6, 8, 9, 10]
    assert dynabert.kept_layers(0.5, 12) == [0, 2, 4, 6, 8, 10]
    assert dynabert.kept_layers(0.75, 2) == [0, 1]
    assert dynabert.kept_layers(0.5, 2) == [0]
    assert dynabert.kept_layers(0.5, 1) == dynabert.kept_layers(0.0, 3) == [0]
    for count, share in product(range(1, 25), range(1, 101)):
        kept = dynabert.kept_layers(share / 100, count)
        assert kept[0] == 0
        assert kept[-1] < count
        assert sorted(set(kept)) == kept


def test_neurons_go_with_whole_heads():
    whole = bert_base()
    sizes = [tuple(dynabert.first_units(width, whole).values()) for width in WIDTHS]
    assert sizes == [(12, 3072), (9, 2304), (6, 1536), (3, 768)]
    two_heads = model_of(num_attention_heads=2)
    assert [dynabert.first_units(width, two_heads)["heads"] for width in WIDTHS] == [2, 2, 1, 1]
    assert dynabert.first_units(0.25, two_heads) == {"heads": 1, "neurons": 16}


@pytest.mark.parametrize(
    ("depth", "counts"),
    [
        (1.0, [109_482_240, 88_232_448, 66_982_656, 45_732_864]),
        (0.75, [88_218_624, 72_281_280, 56_343_936, 40_406_592]),
        (0.5, [66_955_008, 56_330_112, 45_705_216, 35_080_320]),
    ],
)
def test_the_twelve_sizes_of_bert_base(depth, counts):
    found = []
    for width in WIDTHS:
        recipe = recipe_of(f"dynabert_w{round(100 * width)}_d{round(100 * depth)}")
        assert (recipe.width, recipe.depth) == (width, depth)
        found.append(parameters(subnetwork.student(bert_base(), recipe, context())))
    assert found == counts


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("width", "depth"), list(product(WIDTHS, (1.0, 0.67, 0.34))))
def test_a_sub_network_inside_the_model_is_the_model_that_is_cut_out(kind, width, depth):
    whole, batch = model_of(kind, num_hidden_layers=3), batch_of(kind)
    cut = dynabert.cut(copy.deepcopy(whole), width, depth)
    show_scores(cut)
    show_scores(whole)
    before = answers(whole, batch)
    wanted = frozenset({"hidden", "scores"})
    keep = dynabert.kept_layers(depth, 3)
    with torch.no_grad():
        with dynabert.subnetwork(whole, keep, **dynabert.first_units(width, whole)):
            assert len(layers(whole)) == len(keep)
            inside = forward(whole, batch, wanted)
        alone = forward(cut, batch, wanted)
    assert torch.equal(torch.stack(inside.logits), torch.stack(alone.logits))
    for name in ("hidden", "scores"):
        assert len(inside.shown[name]) == len(alone.shown[name]) == len(keep) + (name == "hidden")
        assert all(map(torch.equal, inside.shown[name], alone.shown[name]))
    assert torch.equal(answers(whole, batch), before)
    assert whole.state_dict().keys() == model_of(kind, num_hidden_layers=3).state_dict().keys()


def test_a_pass_that_fails_leaves_the_whole_model():
    model, batch = model_of(), batch_of()
    before = answers(model, batch)
    with pytest.raises(ZeroDivisionError), dynabert.subnetwork(model, [0], 1, 8):
        raise ZeroDivisionError
    assert torch.equal(answers(model, batch), before)
    apply(model, "quantize", weights={"kind": "ternary"})
    before = answers(model, batch)
    with pytest.raises(TypeError, match="not QuantLinear"), dynabert.subnetwork(model, [0, 1], 1, 8):
        pass
    assert torch.equal(answers(model, batch), before)


def test_a_shallow_first_pass_shows_its_states_and_so_does_the_whole_model_afterwards():
    """transformers hooks a model's layers when it is first asked for hidden states, and never again."""
    model, batch, wanted = model_of(num_hidden_layers=3), batch_of(), frozenset({"hidden"})
    with dynabert.subnetwork(model, [1], 4, 32):
        assert len(forward(model, batch, wanted).shown["hidden"]) == 2
    assert len(forward(model, batch, wanted).shown["hidden"]) == 4


def test_a_shallow_network_follows_what_the_teacher_has_before_and_after_its_layers():
    terms = {"logits": 1.0, "hidden": 0.1, "attention": {"weight": 2.0}}
    found = dynabert.mapped(terms, [0, 2, 4], 6)
    states, scores = {"weight": 0.1, "map": [0, 2, 4, 6]}, {"weight": 2.0, "map": [0, 2, 4]}
    assert found == {"logits": 1.0, "hidden": states, "attention": scores}


# --- training ---------------------------------------------------------------------------------------------


def test_half_a_width_is_trained_alone_as_before():
    recipe = recipe_of("dynabert_half")
    (stage,) = dynabert.stages(model_of(), recipe, context())
    (one,) = stage.passes
    assert (one.name, one.objective.options) == ("", {"hidden": {}, "logits": {}})


@pytest.mark.parametrize(("method", "depths"), [("dynabert_width", (1.0,)), ("dynabert_supernet", DEPTHS)])
def test_a_phase_trains_every_width_at_every_depth_large_ones_first(method, depths):
    (stage,) = dynabert.stages(model_of(num_hidden_layers=4), recipe_of(method), context())
    assert [one.name for one in stage.passes] == [f"w{width:g} d{depth:g}" for depth, width in product(depths, WIDTHS)]
    weight = 0.1 if method == "dynabert_width" else 1.0
    assert all(one.objective.weights == {"logits": 1.0, "hidden": weight} for one in stage.passes)


def test_gradients_are_the_sum_of_those_of_all_networks_cut_out(base, sst2, device):
    """The slow twin: twelve models, each with its own copy of the weights."""
    plain = without_dropout(base)
    student, teacher = from_base(plain, "sequence", 2, 1), from_base(plain, "sequence", 2, 3).eval()
    (stage,) = dynabert.stages(student, recipe_of("dynabert_supernet"), context())
    rows, batches = np.arange(8), loader(sst2)
    batch, sums = batches.batch(rows), {}
    accumulate(student, Teaching(teacher), batches, stage.passes, rows, rows, State(micro_batch=3), device)
    states = frozenset({"hidden"})
    with torch.no_grad():
        theirs = forward(teacher, batch, states)
    for depth, width in product(DEPTHS, WIDTHS):
        twin = dynabert.cut(from_base(plain, "sequence", 2, 1), width, depth)
        ours, maps = forward(twin, batch, states), [*dynabert.kept_layers(depth, 2), 2]
        loss = objective.logits(ours, theirs, batch) + objective.hidden(ours, theirs, batch, map=maps)
        loss.mean().backward()
        whole = dict(from_base(plain, "sequence", 2, 1).named_parameters())
        kept = dynabert.kept_layers(depth, 2)
        for name, param in twin.named_parameters():
            full = torch.zeros_like(whole[named(name, kept)])
            full[tuple(slice(size) for size in param.shape)] = param.grad
            sums[named(name, kept)] = sums.get(named(name, kept), 0) + full
    for name, param in student.named_parameters():
        assert torch.allclose(param.grad, sums[name], rtol=1e-4, atol=1e-6), name


def named(name: str, kept: list[int]) -> str:
    """The name in the whole model of a parameter of a shallow one."""
    before, dot, rest = name.partition("encoder.layer.")
    number, _, part = rest.partition(".")
    return f"{before}{dot}{kept[int(number)]}.{part}" if dot else name


def test_one_training_makes_twelve_models(run_method, sst2, device):
    record, folder = run_method("dynabert_supernet")
    assert record["status"] == "ok"
    assert len(record["curve"][0]["terms"]) == 24
    assert record["ancestors"]["teacher"] == record["ancestors"]["init"]
    whole, rows = artifact.load(folder / "last.safetensors")[0], loader(sst2, "validation")
    for name, (depth, width) in zip(ROWS, product(DEPTHS, WIDTHS), strict=True):
        assert CATALOGUE.methods[name]["listed"]
        one, path = run_method(name)
        assert (one["status"], one["steps"]) == ("ok", 0)
        assert one["ancestors"]["init"]["sha256"] == record["files"]["last.safetensors"]
        stored = np.load(path / "predictions.npz")["last.validation"]
        with dynabert.subnetwork(whole, dynabert.kept_layers(depth, 2), **dynabert.first_units(width, whole)):
            inside = np.stack(trainer.predict(whole, rows, device, exact=True))
        np.testing.assert_array_equal(stored, inside)
        cut = dynabert.cut(copy.deepcopy(whole), width, depth)
        assert one["size"]["last"]["paper_bytes"] == 4 * parameters(cut)
        assert artifact.load(path / "last.safetensors")[1]["edits"] == cut.record.edits


@pytest.mark.parametrize("method", ["dynabert_width", "dynabert_supernet"])
def test_a_phase_that_was_stopped_ends_with_the_same_bytes(method, run_method, monkeypatch, tmp_path):
    _, whole = run_method(method)
    wanted = request(method)
    ancestors = {role: run_method(one[0])[1] for role, one in wanted["ancestors"].items()}
    looks = iter([False] * 6 + [True])
    with monkeypatch.context() as patched:
        patched.setattr(interrupt, "asked", lambda: next(looks))
        with pytest.raises(interrupt.Interrupted):
            run_method.execute(wanted, tmp_path / "run", ancestors)
    run_method.execute(wanted, tmp_path / "run", ancestors)
    assert json.loads((tmp_path / "run/machine.json").read_text())["resumed"] == 1
    for name in FILES:
        assert (tmp_path / "run" / name).read_bytes() == (whole / name).read_bytes(), name


# --- the official code's numbers --------------------------------------------------------------------------

THIRDS = (1.0, 2 / 3, 1 / 3)  # depths of the golden model, which has three layers


@pytest.fixture(scope="module")
def arrays():
    path = golden.GOLDEN / "more_dynabert.npz"
    if not path.is_file():
        pytest.skip("the official implementations' outputs are not here")
    return np.load(path)


def golden_batch(arrays, name: str) -> dict:
    names = ("input_ids", "attention_mask", "token_type_ids", "labels")
    return {key: torch.from_numpy(arrays[f"{name}.{key}"]) for key in names} | {"kind": kinds.of("classification")}


def rewired(arrays):
    """The golden model in the order of the official code, whose scores come from gradients that it never clears."""
    model = golden.model_of(arrays, "model", "cls3").eval()
    scores = (torch.from_numpy(arrays[f"{part}_importance.code"]) for part in ("head", "neuron"))
    dynabert.reorder(model, *scores)
    return model


def test_golden_importance(arrays):
    model = golden.model_of(arrays, "model", "cls3").eval()
    batches = [golden_batch(arrays, f"importance_batch.{number}") for number in range(3)]
    for ours, part in zip(dynabert.importance(model, batches), ("head", "neuron"), strict=True):
        assert golden.relative(ours, arrays[f"{part}_importance.per_batch"]) <= 1e-5
        order = ours.argsort(descending=True, stable=True)
        np.testing.assert_array_equal(order, arrays[f"{part}_order.per_batch"])


def test_golden_rewiring(arrays):
    model, batch = rewired(arrays), golden_batch(arrays, "importance_batch.0")
    weights = model.state_dict()
    names = [name for name in arrays.files if name.startswith("rewired.")]
    assert len(names) == 16
    for name in names:
        np.testing.assert_array_equal(weights[name.removeprefix("rewired.")], arrays[name])
    assert golden.relative(answers(model, batch)[0], arrays["logits.after_rewiring"]) <= 1e-5


@pytest.mark.parametrize(("depth", "width"), list(product(THIRDS, WIDTHS)))
def test_golden_sub_networks(arrays, depth, width):
    model, batch = rewired(arrays), golden_batch(arrays, "importance_batch.0")
    keep = dynabert.kept_layers(depth, 3)
    assert keep == json.loads(str(arrays["config"]))["kept_layers"][f"{depth:.2f}"]
    with torch.no_grad(), dynabert.subnetwork(model, keep, **dynabert.first_units(width, model)):
        shown = forward(model, batch, frozenset({"hidden"}))
    name = f"sub.w{width:.2f}.d{depth:.2f}"
    assert golden.relative(shown.logits[0], arrays[f"{name}.logits"]) <= 1e-5
    assert golden.relative(shown.shown["hidden"][-1], arrays[f"{name}.last_hidden"]) <= 1e-5


@pytest.mark.parametrize(
    ("phase", "terms", "depths"),
    [
        ("dynabertw", {"logits": 1.0, "hidden_padded": 0.1}, (1.0,)),
        ("dynabert", {"logits": 1.0, "hidden_padded": 1.0}, THIRDS),
        ("final_finetuning", {"labels": 1.0}, THIRDS),
    ],
)
def test_golden_steps(arrays, phase, terms, depths):
    """Losses of all sub-networks and their summed gradients; the official hidden loss counts padding."""
    student, batch = golden.model_of(arrays, "student", "cls3").eval(), golden_batch(arrays, "train_batch")
    teacher = golden.model_of(arrays, "model", "cls3").eval() if phase == "dynabertw" else rewired(arrays)
    with torch.no_grad():
        theirs = forward(teacher, batch, frozenset({"hidden"}))
    losses = []
    for one in dynabert.passes(student, terms, list(WIDTHS), list(depths)):
        with one.active(student):
            ours = forward(student, batch, one.objective.wanted)
        values = one.objective(ours, theirs, batch)
        loss = sum(one.objective.weights[name] * value.mean() for name, value in values.items())
        loss.backward()
        losses.append(float(loss.detach()))
    np.testing.assert_allclose(losses, arrays[f"{phase}.losses"], rtol=1e-5)
    parameters, checked = dict(student.named_parameters()), 0
    for name in arrays.files:
        if name.startswith(f"{phase}.grad.") and "key.bias" not in name:  # rounding around 0
            own = parameters[name.removeprefix(f"{phase}.grad.")]
            assert golden.relative(own.grad, arrays[name]) <= 1e-5, name
            checked += 1
    assert checked > 30
