"""ROSITA: what a head and a neuron are worth, what pruning leaves of a model, and stages that change its structure."""

import copy
import json

import numpy as np
import pytest
import torch

from methods import rosita
from methods.common import interrupt
from methods.dynabert import reorder
from methods.kernel.layers import Factored
from methods.model import artifact
from methods.model.anatomy import layers
from methods.model.edits import apply
from methods.tasks import kinds
from methods.training import objective
from methods.training.forward import forward
from tests.fixtures.models import KINDS, answers, batch_of, bert_base, model_of, parameters
from tests.fixtures.runs_of_methods import CATALOGUE, FILES, recipe_of, request
from tests.fixtures.world import context
from tests.papers import test_golden as golden

STATES = frozenset({"hidden"})


def watched(kind: str = "classification", batches: int = 2, **changes):
    """Return a model that has watched the gradients of some batches."""
    model = model_of(kind, **changes)
    rosita.watch(model)
    for seed in range(batches):
        batch = batch_of(kind, seed=seed)
        model.zero_grad()
        objective.labels(forward(model, batch), None, batch).mean().backward()
        rosita.add_slopes(model, None, 0, 1)
    return model


# --- importance -------------------------------------------------------------------------------------------


def test_scores_are_the_definition_one_by_one():
    model, slopes = model_of(), []
    for seed in range(2):
        batch = batch_of(seed=seed)
        model.zero_grad()
        objective.labels(forward(model, batch), None, batch).mean().backward()
        slopes.append({name: param.grad.abs() for name, param in model.named_parameters()})
    heads, neurons = rosita.scores(watched())
    weights = dict(model.named_parameters())
    for number in range(2):
        prefix = f"bert.encoder.layer.{number}"
        worth = {
            part: weights[f"{prefix}.{part}.weight"].abs() * sum(one[f"{prefix}.{part}.weight"] for one in slopes)
            for part in ("attention.output.dense", "intermediate.dense", "output.dense")
        }
        for head in range(4):
            total = worth["attention.output.dense"][:, 4 * head : 4 * head + 4].sum()
            assert float(heads[number, head]) == pytest.approx(float(total.detach()), rel=1e-5)
        for neuron in range(32):
            total = worth["intermediate.dense"][neuron].sum() + worth["output.dense"][:, neuron].sum()
            assert float(neurons[number, neuron]) == pytest.approx(float(total.detach()), rel=1e-5)


def test_watching_begins_from_zero_and_leaves_nothing_behind():
    names = model_of().state_dict().keys()
    model = watched()
    assert sum("slopes" in name for name in model.state_dict()) == 6
    rosita.watch(model)
    assert not any(value.any() for name, value in model.state_dict().items() if "slopes" in name)
    rosita.forget(model)
    rosita.forget(model)
    assert model.state_dict().keys() == names


# --- pruning ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_pruned_model_is_the_whole_one_with_zeros(kind):
    """A head's zero columns in what reads it, and a neuron's, by the scores."""
    model = watched(kind)
    zeroed, batch = copy.deepcopy(model), batch_of(kind)
    heads, neurons = rosita.scores(model)
    with torch.no_grad():
        for layer, of_heads, of_neurons in zip(layers(zeroed), heads, neurons, strict=True):
            for head in of_heads.argsort()[:3].tolist():
                layer["attention output"].weight[:, 4 * head : 4 * head + 4] = 0
            layer["output"].weight[:, of_neurons.argsort()[:22]] = 0
    rosita.prune_width(model, heads=1, neurons=10, rank=16)
    assert torch.allclose(answers(model, batch), answers(zeroed, batch), atol=1e-5)
    assert layers(model)[0]["intermediate"].weight.shape == (10, 16)


def test_words_become_the_best_product_and_later_the_first_columns_of_it():
    model = model_of()
    table = model.bert.embeddings.word_embeddings.weight.detach().clone()
    left, values, right = np.linalg.svd(table.numpy(), full_matrices=False)
    for rank in (9, 4):
        rosita.shrink_words(model, rank)
        inner, outer = words = model.bert.embeddings.word_embeddings
        assert isinstance(words, Factored)
        assert (inner.weight.shape, outer.weight.shape) == ((len(table), rank), (16, rank))
        product = (left[:, :rank] * values[:rank]) @ right[:rank]
        np.testing.assert_allclose(words(torch.arange(len(table))).detach(), product, atol=1e-5)
        norms = outer.weight.detach().norm(dim=0)  # the singular values are on the table's side
        np.testing.assert_allclose(norms, np.ones(rank), rtol=1e-5)


def test_a_rank_beyond_the_vocabulary_is_the_vocabularys():
    model = model_of(vocab_size=10)
    before = model.bert.embeddings.word_embeddings.weight.detach().clone()
    rosita.shrink_words(model, 15)
    product = model.bert.embeddings.word_embeddings(torch.arange(10))
    assert torch.allclose(product, before, atol=1e-5)
    assert model.record.edits == [{"kind": "factor_words", "rank": 10}]


# --- stages -----------------------------------------------------------------------------------------------


def begun(model, method: str, **changes) -> list:
    """Return the stages of a method, all of them begun."""
    found = rosita.stages(model, recipe_of(method, **changes), context())
    for stage in found:
        stage.on_start(model)
    return found


def test_bert_base_becomes_as_small_as_published():
    """7.56 times smaller; 81,130,752 parameters after the layers are gone. (On the meta device nothing is computed.)"""
    model = bert_base()
    assert len(begun(model, "rosita_8l")) == 5
    assert parameters(model) == 81_130_752
    assert len(begun(model, "rosita")) == 11
    assert parameters(model) == 14_473_216
    layers_, narrow, words = model.record.edits
    assert layers_ == {"kind": "layers", "keep": list(range(8))}
    assert narrow == {"kind": "narrow", "heads": 2, "neurons": 512}
    assert words == {"kind": "factor_words", "rank": 128}
    assert parameters(bert_base(*model.record.edits)) == 14_473_216


@pytest.mark.parametrize(("depth", "kept"), [(12, 8), (6, 4), (3, 2), (2, 1), (1, 1)])
def test_two_thirds_of_the_layers_stay_and_the_top_ones_go_one_by_one(depth, kept):
    model = model_of(num_hidden_layers=depth)
    lowest = layers(model)[0].module
    found = rosita.stages(model, recipe_of("rosita_8l"), context())
    left = []
    for stage in found:
        stage.on_start(model)
        left.append(len(layers(model)))
    assert left == list(range(depth, kept - 1, -1))
    assert layers(model)[0].module is lowest
    recipe = recipe_of("rosita_8l")
    epochs = [stage.optimization.epochs for stage in found]
    assert sum(epochs) == pytest.approx(recipe.epochs)
    if depth > kept:
        assert epochs[0] == pytest.approx(recipe.epochs * recipe.pruning / (depth - kept))


def test_a_stage_watches_what_the_next_one_prunes_by():
    found = rosita.stages(model_of(), recipe_of("rosita"), context())
    assert [stage.on_step is rosita.add_slopes for stage in found] == [True] * 10 + [False]
    model = model_of()
    for number, stage in enumerate(found):
        stage.on_start(model)
        assert any("slopes" in name for name in model.state_dict()) == (number < 10)
    assert layers(model)[0]["query"].out_features == 4  # one of four heads: a sixth of them, rounded, and never none


def test_all_epochs_are_one_stage_where_nothing_is_pruned():
    (stage,) = begun(model_of(num_hidden_layers=1), "rosita_8l")
    assert stage.optimization.epochs == recipe_of("rosita_8l").epochs


def test_layers_and_widths_can_go_in_one_run():
    model = model_of(num_hidden_layers=3)
    assert len(begun(model, "rosita", depth=0.34, prunings=2)) == 5
    assert [edit["kind"] for edit in model.record.edits] == ["layers", "narrow", "factor_words"]
    assert len(layers(model)) == 1


# --- whole runs -------------------------------------------------------------------------------------------


def test_the_chain_ends_in_a_small_file(run_method):
    assert [CATALOGUE.methods[name]["listed"] for name in ("rosita_start", "rosita_8l", "rosita")] == [False, False, True]
    record, folder = run_method("rosita")
    assert record["status"] == "ok"
    model, meta = artifact.load(folder / "last.safetensors")
    assert [edit["kind"] for edit in meta["edits"]] == ["layers", "narrow", "factor_words"]
    student = run_method.students[folder]
    batch = batch_of()
    assert torch.equal(answers(model.eval(), batch), answers(student.eval(), batch))
    assert record["size"]["last"]["paper_bytes"] == 4 * parameters(model)
    stages = [entry["stage"] for entry in record["dev"]]
    assert len(stages) >= 11
    assert record["at_step"]["best"] > 10  # none of a model that was yet to be pruned
    before, _ = run_method("rosita_8l")
    assert record["size"]["last"]["paper_bytes"] < before["size"]["last"]["paper_bytes"] / 1.5


@pytest.mark.parametrize(
    ("method", "steps"), [("rosita_8l", 9), ("rosita_8l", 30), ("rosita", 4), ("rosita", 10), ("rosita", 30)]
)
def test_a_run_that_was_stopped_ends_with_the_same_bytes(method, steps, run_method, monkeypatch, tmp_path):
    """In the middle of a stage, at the end of one, and when all is pruned."""
    _, whole = run_method(method)
    wanted = request(method)
    ancestors = {role: run_method(one[0])[1] for role, one in wanted["ancestors"].items()}
    looks = iter([False] * (steps - 1) + [True])
    with monkeypatch.context() as patched:
        patched.setattr(interrupt, "asked", lambda: next(looks))
        with pytest.raises(interrupt.Interrupted):
            run_method.execute(wanted, tmp_path / "run", ancestors)
    run_method.execute(wanted, tmp_path / "run", ancestors)
    assert json.loads((tmp_path / "run/machine.json").read_text())["resumed"] == 1
    for name in FILES:
        assert (tmp_path / "run" / name).read_bytes() == (whole / name).read_bytes(), name


# --- the official code's numbers --------------------------------------------------------------------------

PRUNED = {"a2_l2_f24_e12": (2, 2, 24, 12), "a3_l3_f40": (3, 3, 40, None), "a2_l3_f64_bug": (2, 3, 64, None)}


@pytest.fixture(scope="module")
def arrays():
    path = golden.GOLDEN / "more_rosita.npz"
    if not path.is_file():
        pytest.skip("the official implementations' outputs are not here")
    return np.load(path)


def golden_model(arrays, name: str):
    """Its classifier reads relu(tanh(pooler)), as the official code has it."""
    model = golden.model_of(arrays, name, "cls3").eval()
    model.bert.pooler.register_forward_hook(lambda module, inputs, output: output.relu())
    return model


def golden_batch(arrays, number: int) -> dict:
    names = ("input_ids", "attention_mask", "token_type_ids", "labels")
    return {key: torch.from_numpy(arrays[f"batch.{number}.{key}"]) for key in names} | {"kind": kinds.of("classification")}


def golden_losses(model, teacher, batch, map: list[int] | None = None) -> tuple:
    """Return the logits and both losses; the official hidden loss counts padding."""
    with torch.no_grad():
        theirs = forward(teacher, batch, STATES)
    ours = forward(model, batch, STATES)
    logits = objective.logits_mean(ours, theirs, batch).mean()
    return ours.logits[0], logits, objective.hidden_padded(ours, theirs, batch, map=map).mean()


@pytest.fixture(scope="module")
def golden_run(arrays):
    """The golden student after its four batches, and its teacher."""
    student, teacher = golden_model(arrays, "model"), golden_model(arrays, "teacher")
    rosita.watch(student)
    for number in range(4):
        logits, soft, states = golden_losses(student, teacher, golden_batch(arrays, number))
        assert golden.relative(logits, arrays[f"batch.{number}.student_logits"]) <= 1e-5
        assert float(soft.detach()) == pytest.approx(float(arrays[f"batch.{number}.loss_logits"]), rel=1e-5)
        assert float(states.detach()) == pytest.approx(float(arrays[f"batch.{number}.loss_rep"]), rel=1e-5)
        student.zero_grad()
        (soft + states).backward()
        rosita.add_slopes(student, None, 0, 1)
    return student, teacher


def test_golden_scores(arrays, golden_run):
    student, _ = golden_run
    heads, neurons = rosita.scores(student)
    assert golden.relative(heads / 4, arrays["head_score"]) <= 1e-5  # the mean over four batches
    assert golden.relative(neurons / 4, arrays["neuron_score"]) <= 1e-5
    for number, layer in enumerate(layers(student)):
        for part, linear in zip(("attention.output", "intermediate", "output"), rosita.watched_maps(layer), strict=True):
            own = linear.slopes / 4 * linear.weight.detach().abs()
            assert golden.relative(own, arrays[f"taylor.encoder.layer.{number}.{part}.dense.weight"]) <= 1e-5


@pytest.mark.parametrize("name", PRUNED)
def test_golden_prunings(arrays, golden_run, name):
    student, teacher = golden_run
    heads, depth, neurons, rank = PRUNED[name]
    of_heads, of_neurons = rosita.scores(student)
    if "bug" in name:  # where the feed-forward stays whole the official code takes the first layer's scores everywhere
        of_heads = of_heads[:1].expand(3, -1)
    of_heads, of_neurons = of_heads[:depth], of_neurons[:depth]
    by_neuron = of_neurons.argsort(descending=True, stable=True)[:, :neurons]
    np.testing.assert_array_equal(of_heads.argsort(descending=True, stable=True)[:, :heads], arrays[f"{name}.heads_kept"])
    np.testing.assert_array_equal(by_neuron.sort().values, arrays[f"{name}.neurons_kept"])
    model = copy.deepcopy(student)
    rosita.drop_layers(model, depth)
    reorder(model, of_heads, of_neurons)
    apply(model, "narrow", heads=heads, neurons=neurons)
    if rank:
        rosita.shrink_words(model, rank)
        product = model.bert.embeddings.word_embeddings(torch.arange(60))
        assert golden.relative(product, arrays[f"{name}.embedding"]) <= 1e-5
    model.zero_grad()
    rosita.forget(model)
    logits, soft, states = golden_losses(model, teacher, golden_batch(arrays, 0), arrays[f"{name}.teacher_states"].tolist())
    assert golden.relative(logits, arrays[f"{name}.logits"]) <= 3e-5  # of two decompositions, where there is a rank
    assert float(soft.detach()) == pytest.approx(float(arrays[f"{name}.loss_logits"]), rel=1e-5)
    assert float(states.detach()) == pytest.approx(float(arrays[f"{name}.loss_rep"]), rel=1e-5)
    (soft + states).backward()
    parameters_, places = dict(model.named_parameters()), by_neuron[1].argsort()  # the official order is the original one
    for key in (key for key in arrays.files if key.startswith(f"{name}.grad.") and "key.bias" not in key):
        part = key.removeprefix(f"{name}.grad.")
        grad = parameters_[part].grad
        if "intermediate" in part:
            grad = grad[places]
        elif part.endswith("1.output.dense.weight"):
            grad = grad[:, places]
        assert golden.relative(grad, arrays[key]) <= 1e-4, key


def test_golden_schedule(arrays):
    found = rosita.schedule(bert_base().config, 1 / 6, 10)
    assert [list(sizes.values()) for sizes in found] == arrays["schedule.width12"].tolist()
