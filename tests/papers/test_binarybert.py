"""BinaryBERT: a ternary model of half the width, the same model split, and the runs that make one of the other."""

import itertools
import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from methods import binarybert
from methods.common import files
from methods.common.errors import UserError
from methods.kernel.layers import QuantEmbedding, Quantized
from methods.kernel.quantizers import Binary, Ternary
from methods.model import artifact
from methods.model.edits import apply, roles
from methods.training import objective, optimizers
from methods.training.ancestors import ALLOCATION, LATENT, Ancestor
from methods.training.forward import forward
from tests.fixtures.models import KINDS, answers, batch_of, bert_base, model_of, parameters
from tests.fixtures.runs_of_methods import CATALOGUE, recipe_of, request
from tests.fixtures.world import context

META = {"kind": "classification", "labels": ["a", "b", "c"]}
HALF = {"kind": "narrow", "heads": 2, "neurons": 16}  # of the four heads and 32 neurons of the small models


def student_of(method: str, init, batches=(), **recipe):
    """Return what a method makes of a model before it trains; its allocation is what a search would decide."""
    wanted = recipe_of(method, **recipe)
    ancestors = {}
    if "allocation" in CATALOGUE.methods[method]["ancestors"]:
        search = recipe_of("split_search", **{key: value for key, value in recipe.items() if key == "split_share"})
        found = binarybert.allocation(init, search, context(batches))
        ancestors["allocation"] = SimpleNamespace(allocation=lambda: found)
        wanted = recipe_of(method)
    return binarybert.student(init, wanted, context(batches, ancestors=ancestors))


def ternary_half(method: str = "ternary_half_a8", kind: str = "classification"):
    return student_of(method, apply(model_of(kind), **HALF), [batch_of(kind, seed=seed) for seed in range(8)]).eval()


def on_grid(model) -> dict[str, Quantized]:
    """The layers whose weights have a quantizer, by name."""
    layers = {name: module for name, module in model.named_modules() if isinstance(module, Quantized)}
    return {name: layer for name, layer in layers.items() if layer.weight_quantizer is not None}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("half", "whole"), [("ternary_half_a8", "tws_1bit"), ("ternary_half_a4", "tws_1bit_a4")])
def test_the_split_network_computes_what_the_ternary_one_did(half, whole, kind):
    before, batch = ternary_half(half, kind), batch_of(kind)
    expected, latent = answers(before, batch), {name: param.clone() for name, param in before.named_parameters()}
    split = student_of(whole, before).eval()
    assert float((answers(split, batch) - expected).abs().max()) <= 1e-4
    assert float((answers(split, batch_of(kind, seed=9)) - expected).abs().max()) > 1e-2
    binary = on_grid(split)
    assert len(binary) == 2 * (1 + 6 * 2 + (kind != "span"))  # word embedding, matrices, pooler
    for name, layer in binary.items():
        assert isinstance(layer.weight_quantizer, Binary)
        assert layer.weight_quantizer.rows == isinstance(layer, QuantEmbedding)
        if name.endswith("first"):
            whole_weight = layer.weight + binary[name.removesuffix("first") + "second"].weight
            assert torch.allclose(whole_weight, latent[name.removesuffix("first") + "weight"], atol=1e-6)


def test_a_swapped_sign_would_be_seen_in_the_whole_network(monkeypatch):
    """The coefficient a as it is sometimes printed moves 1 / 2 - a to the other side."""
    real = binarybert.splitting.split

    def swapped(w, rows):
        first, second = real(w, rows)
        kept = binarybert.splitting.grids.ternary(w, rows).codes != 0
        share = torch.where(kept, first / w, 0.5)
        return torch.where(kept, (1 - share) * w, first), torch.where(kept, share * w, second)

    before, batch = ternary_half(), batch_of()
    expected = answers(before, batch)
    monkeypatch.setattr(binarybert.splitting, "split", swapped)
    assert float((answers(student_of("tws_1bit", before).eval(), batch) - expected).abs().max()) > 1e-4


def test_activations_are_those_of_the_stanzas():
    eight, four = (ternary_half(name).base_model.encoder.layer[0] for name in ("ternary_half_a8", "ternary_half_a4"))
    assert [type(layer.attention.self.input_quantizer).__name__ for layer in (eight, four)] == ["Interval", "Step"]
    assert [layer.output.dense.input_quantizer.levels for layer in (eight, four)] == [256, 16]
    assert [layer.intermediate.dense.input_quantizer.levels for layer in (eight, four)] == [255, 16]
    assert four.output.dense.input_quantizer.shifted
    assert not four.intermediate.dense.input_quantizer.shifted
    assert type(eight.intermediate.intermediate_act_fn).__name__.startswith("GELU")
    assert float(four.intermediate.intermediate_act_fn(torch.tensor([-1.0, 2.0])).min()) == 0
    assert float(four.output.dense.input_quantizer.scale.detach()) > 0  # calibrated


def test_learned_ranges_go_over_to_the_split_model_and_keep_their_own_rate():
    half = ternary_half("ternary_half_a4")
    ranges = list(roles(half).values()).count("activations")
    split = student_of("tws_1bit_a4", half)
    (stage,) = binarybert.stages(split, recipe_of("tws_1bit_a4"), context())
    groups = {group["lr"]: group["params"] for group in optimizers.build(split, stage.optimization).param_groups}
    assert len(groups[1e-4]) == ranges == 2 * 8 + 1  # eight a layer, and the pooler's


def test_stages_are_the_papers_and_the_official_codes():
    def told(method):
        budget = {"lr_scale": 2, "epochs_scale": 1, "batch_size": None}
        stages = binarybert.stages(None, recipe_of(method), context(budget=budget))
        return [
            (one.passes[0].objective.weights, one.optimization.lr, one.optimization.epochs, one.optimization.batch_size)
            for one in stages
        ]

    inside, logits = {"attention": 1.0, "hidden": 1.0}, {"logits": 1.0}
    assert told("ternary_half_a8") == [(inside, 5e-5, 2, 16), (logits, 2e-5, 2, 16)]
    assert told("tws_1bit") == [(logits, 4e-5, 2, 16)]
    assert told("tws_1bit_official") == [(inside, 2.5e-4, 2, 16), (logits, 1e-4, 2, 16)]


@pytest.mark.parametrize("method", ["tws_1bit", "bwn_1bit"])
def test_a_regression_student_learns_all_its_weights_from_the_teachers_number(method):
    """In the official code the loss of a single logit is zero whatever the student says."""
    teacher = apply(model_of("regression"), **HALF) if method == "tws_1bit" else model_of("regression")
    init = ternary_half(kind="regression") if method == "tws_1bit" else model_of("regression")
    student, batch = student_of(method, init).eval(), batch_of("regression")
    last = binarybert.stages(student, recipe_of(method), context())[-1]
    assert last.passes[0].objective.weights == {"logits": 1.0}
    with torch.no_grad():
        theirs = forward(teacher, batch)
    loss = objective.logits(forward(student, batch), theirs, batch).mean()
    loss.backward()
    assert float(loss.detach()) > 0
    assert all(float(layer.weight.grad.abs().max()) > 0 for layer in on_grid(student).values())


METHODS = ["ternary_half_a8", "ternary_half_a4", "tws_1bit", "tws_1bit_a4", "mixed_half_a8", "bwn_1bit"]


@pytest.mark.parametrize("method", METHODS)
def test_the_file_computes_what_the_model_in_memory_does(method, tmp_path):
    batches = [batch_of(seed=seed) for seed in range(8)]
    if method.startswith("ternary"):
        model = ternary_half(method)
    elif method == "bwn_1bit":
        model = student_of(method, model_of())
    else:
        model = student_of(method, ternary_half("ternary_half_a4" if method.endswith("a4") else "ternary_half_a8"), batches)
    path = tmp_path / "model.safetensors"
    artifact.save(path, model.eval(), META)
    loaded, _ = artifact.load(path)
    assert float((answers(loaded.eval(), batches[0]) - answers(model, batches[0])).abs().max()) <= 1e-5
    size = artifact.size(path)
    assert size["fp32_bytes"] == 4 * parameters(model_of())
    assert size["counted_bytes"] == pytest.approx(size["file_bytes"], rel=0.01)


@pytest.mark.parametrize("method", ["ternary_half_a4", "mixed_half_a8"])
def test_latent_weights_give_the_model_of_training_back(method, tmp_path):
    model = ternary_half() if method == "mixed_half_a8" else ternary_half(method)
    if method == "mixed_half_a8":
        student_of(method, model, [batch_of()])
    artifact.save(tmp_path / "model", model, META)
    artifact.save_latent(tmp_path / "latent", model)
    again, _ = artifact.load(tmp_path / "model", tmp_path / "latent")
    assert again.record.edits == model.record.edits
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in again.state_dict().items())
    for name, layer in on_grid(model).items():
        assert type(again.get_submodule(name).weight_quantizer) is type(layer.weight_quantizer)
    stored, _ = files.read_sealed(tmp_path / "latent")
    assert set(stored) == {f"{name}.weight" for name in on_grid(model)}


def test_a_model_without_ternary_weights_cannot_be_split():
    with pytest.raises(UserError, match="`init` must name a method with ternary weights"):
        student_of("tws_1bit", model_of())


@pytest.mark.parametrize("seed", range(20))
def test_the_knapsack_is_as_good_as_trying_everything(seed):
    random = np.random.default_rng(seed)
    count = int(random.integers(1, 9))
    gains, costs = random.normal(0.3, 1, count).tolist(), (6 * random.integers(1, 9, count)).tolist()
    budget = int(random.integers(0, sum(costs) + 7))
    chosen = binarybert.knapsack(gains, costs, budget)
    subsets = (some for size in range(count + 1) for some in itertools.combinations(range(count), size))
    best = max(sum(gains[item] for item in some) for some in subsets if sum(costs[item] for item in some) <= budget)
    assert sum(costs[item] for item in chosen) <= budget
    assert sum(gains[item] for item in chosen) == pytest.approx(best)


def test_a_layer_that_loses_nothing_as_binary_has_no_sensitivity_and_the_model_is_left_as_it_was():
    model, batches = ternary_half(), [batch_of(seed=seed) for seed in (1, 2)]
    layers = binarybert.ternary(model)
    name = "bert.encoder.layer.1.output.dense"
    with torch.no_grad():
        layers[name].weight.sign_().mul_(0.1)  # ternary keeps all of it
    grids = {"weights": {"kind": "binary"}, "embeddings": {"kind": "binary", "rows": True}}
    expected = answers(model, batches[0])
    found = dict(zip(layers, binarybert.sensitivities(model, layers, grids, batches), strict=True))
    assert found.pop(name) == 0
    assert all(found.values())
    assert all(isinstance(layer.weight_quantizer, Ternary) for layer in layers.values())
    assert torch.equal(answers(model, batches[0]), expected)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_the_budget_says_how_much_stays_ternary_and_only_that_is_split(share, monkeypatch):
    monkeypatch.setattr(binarybert, "sensitivities", lambda model, layers, *rest: [1.0 + at for at in range(len(layers))])
    model = student_of("mixed_half_a8", ternary_half(), [batch_of()], split_share=share)
    total = sum(layer.weight.numel() for layer in on_grid(model).values())
    kept = [layer for layer in on_grid(model).values() if isinstance(layer.weight_quantizer, Ternary)]
    assert share - 0.1 <= sum(layer.weight.numel() for layer in kept) / total <= share
    if kept:
        expected = answers(model.eval(), batch_of())
        split = student_of("tws_1bit_adaptive", model).eval()
        assert float((answers(split, batch_of()) - expected).abs().max()) <= 1e-4
        assert len(split.record.edits[-1]["modules"]) == len(kept)
        assert all(isinstance(layer.weight_quantizer, Binary) for layer in on_grid(split).values())
        weights = sum(layer.weight.numel() for layer in on_grid(split).values())
        assert weights == total + sum(layer.weight.numel() for layer in kept)


@pytest.mark.parametrize("method", ["tws_1bit", "tws_1bit_a4", "tws_1bit_adaptive", "tws_1bit_official", "bwn_1bit"])
def test_the_whole_line_runs(run_method, method):
    record, _ = run_method(method)
    assert record["status"] == "ok"
    assert record["size"]["last"]["paper_bytes"] < record["size"]["last"]["fp32_bytes"]
    if method != "bwn_1bit":
        _, parent = run_method(record["ancestors"]["init"]["method"])
        assert record["ancestors"]["init"]["latent"] == files.sha256_file(parent / LATENT)
        assert record["ancestors"]["teacher"]["method"] == "dynabert_half"


def test_only_those_that_others_start_from_keep_latent_weights(run_method):
    run_method("tws_1bit")
    line = ("fp32", "dynabert_half", "ternary_half_a8", "tws_1bit")
    kept = [method for method in line if (run_method(method)[1] / LATENT).exists()]
    assert kept == ["ternary_half_a8"]
    _, folder = run_method("ternary_half_a8")
    latent, _ = files.read_sealed(folder / LATENT)
    assert len(latent) == 1 + 6 * 2 + 1
    start = Ancestor.read(folder, "last").start()
    weight = start.get_submodule("bert.pooler.dense").weight
    assert len(weight.unique()) > 3
    loaded, _ = artifact.load(folder / "last.safetensors")
    values = start.get_submodule("bert.pooler.dense").quantized_weight()
    assert torch.equal(values, loaded.get_submodule("bert.pooler.dense").weight)


def test_damaged_latent_weights_are_refused_by_name(run_method, tmp_path):
    shutil.copytree(run_method("ternary_half_a8")[1], tmp_path / "half")
    path = tmp_path / "half/latent.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(UserError, match=r"latent\.safetensors is damaged"):
        Ancestor.read(tmp_path / "half", "last").start()


def test_a_diverged_ancestor_is_named(run_method, tmp_path):
    half, teacher = tmp_path / "half", run_method("dynabert_half")[1]
    hot = request("ternary_half_a8", budget={"lr_scale": 1e30})
    assert run_method.execute(hot, half, {"teacher": teacher, "init": teacher})["status"] == "diverged"
    record = run_method.execute(request("tws_1bit"), tmp_path / "whole", {"teacher": teacher, "init": half})
    assert (record["status"], record["scores"]) == ("diverged (ancestor)", None)
    assert "ternary_half_a8" in record["reason"]
    assert record["ancestors"]["init"] == {"method": "ternary_half_a8", "seed": 1, "sha256": None, "score": None}


def test_a_search_leaves_an_allocation_that_names_layers_and_its_reader_follows_it(run_method):
    record, folder = run_method("split_search")
    assert (record["status"], record["scores"], record["size"], record["steps"]) == ("ok", None, None, 0)
    assert record["files"] == {ALLOCATION: files.sha256_file(folder / ALLOCATION)}
    assert not list(folder.glob("*.safetensors")) and not (folder / "checkpoints").exists()
    allocation = json.loads((folder / ALLOCATION).read_text())
    mixed, path = run_method("mixed_half_a8")
    assert mixed["ancestors"]["allocation"]["sha256"] == record["files"][ALLOCATION]
    start = Ancestor.read(path, "last").start()
    grids = {name: type(layer.weight_quantizer) for name, layer in on_grid(start).items()}
    assert grids == dict.fromkeys(allocation["binary"], Binary) | dict.fromkeys(allocation["split"], Ternary)
    assert allocation["rises"].keys() == grids.keys()
    assert allocation["binary"] and allocation["split"]
    split = run_method.students[run_method("tws_1bit_adaptive")[1]]
    assert split.record.edits[-1]["modules"] == allocation["split"]


def bert_base_as(method: str, device: str = "meta"):
    """bert-base under the edits of a method, as large as a run would make it; no number of it means anything."""
    recipe = request(method)["spec"]["recipe"]
    if method == "tws_1bit":
        half = bert_base_as("ternary_half_a8", device)
        grids = {part: recipe[part] for part in ("weights", "embeddings")}
        return apply(half, "split", modules=list(binarybert.ternary(half)), **grids)
    narrow = [] if method == "bwn_1bit" else [{"kind": "narrow", "heads": 6, "neurons": 1536}]
    parts = {part: recipe[part] for part in ("weights", "embeddings", "activations", "one_sided")}
    return bert_base(*narrow, {"kind": "quantize", **parts}, device=device)


def test_bert_bases_split_model_has_as_many_weights_as_published():
    half, whole = bert_base_as("ternary_half_a8"), bert_base_as("tws_1bit")
    assert parameters(half) == 66_982_656
    second_biases = 50_688 + 768  # the published count has two halves of every bias, which are one in ours
    assert parameters(whole) == 133_532_160 - second_biases
    weights = {name: layer.weight.numel() for name, layer in on_grid(whole).items()}
    assert sum(count for name, count in weights.items() if "word_embeddings" in name) == 46_881_792
    assert sum(count for name, count in weights.items() if "encoder" in name) == 84_934_656
    assert sum(count for name, count in weights.items() if "pooler" in name) == 1_179_648


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "bits", "scales", "largest"),
    [  # bits as published, without scales; those of the split model without the second half of each bias
        ("ternary_half_a8", 148_503_552, 30_522 + 73, 18.0),
        ("tws_1bit", 150_150_144 - 32 * (50_688 + 768), 2 * (30_522 + 73), 18.2),
        ("bwn_1bit", 125_505_024, 30_522 + 73, 15.3),
    ],
)
def test_bert_bases_file_is_as_small_as_published(method, bits, scales, largest, tmp_path):
    path = tmp_path / "model.safetensors"
    artifact.save(path, bert_base_as(method, "cpu"), {"kind": "classification", "labels": ["a", "b"]})
    size = artifact.size(path)
    assert size["paper_bytes"] * 8 == bits
    ours = ("description", "activation ranges", "head")  # counted by nobody else
    counted = sum(group["bytes"] for name, group in size["groups"].items() if name not in ours)
    assert counted * 8 == bits + 32 * scales
    assert size["fp32_bytes"] == 4 * 109_482_240
    assert size["counted_bytes"] == pytest.approx(size["file_bytes"], rel=0.01)
    assert size["file_bytes"] / 2**20 <= largest
