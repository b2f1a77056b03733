"""LadaBERT's pieces against hand-computed values and slow twins, and whole runs: budgets, zeros, files, resuming."""

import copy
import dataclasses
import json

import numpy as np
import pytest
import torch
from torch import nn

from methods import ladabert
from methods.common import files
from methods.common.errors import UserError
from methods.kernel import packing
from methods.kernel.layers import Factored
from methods.kernel.quantizers import Symmetric
from methods.model import artifact
from methods.model.edits import apply, matrices
from methods.model.encoder import from_base
from methods.training import optimizers
from methods.training.checkpoints import Checkpoints
from methods.training.recipe import Optimization
from methods.training.trainer import Trainer
from methods.use import inspection
from tests.fixtures.models import BERT_BASE, bert_base
from tests.fixtures.runs_of_methods import recipe_of
from tests.fixtures.world import context, loader

METHODS = ["lada_2x", "lada_3x", "lada_5x", "lada_10x", "lada_5x_svd", "lada_5x_prune", "lada_5x_8bit"]
HYBRIDS = ["lada_2x", "lada_10x", "lada_5x_8bit"]


def made(model: nn.Module, method: str = "lada_5x", **changes) -> tuple[nn.Module, dict]:
    """Return what a method makes of a model before it trains, and how many numbers of each matrix will be left, by name."""
    given, recipe = context(), recipe_of(method, **changes)
    student = ladabert.student(model, recipe, given)
    (stage,) = ladabert.stages(student, recipe, given)
    kept = stage.on_step.keywords["kept"]
    return student, {name: kept[layer.weight] for name, layer in matrices(student).items()}


def student_of(base, method: str = "lada_5x", **changes) -> nn.Module:
    return made(from_base(base, "sequence", 2, 1), method, **changes)[0]


def pruned(base, method: str = "lada_5x") -> tuple[nn.Module, dict]:
    """Return the same, pruned at once, as far as it will be."""
    student, kept = made(from_base(base, "sequence", 2, 1), method)
    weights = {layer.weight: kept[name] for name, layer in matrices(student).items()}
    ladabert.prune(student, optimizers.build(student, OPTIMIZATION), 0, 1, kept=weights, every=1, ramp=1.0)
    return student, kept


OPTIMIZATION = Optimization(optimizer="adamw", epochs=3, lr=1e-3, batch_size=8, weight_decay=0.01, clip="global")
WORDS = {"input_ids": torch.arange(4, 24).reshape(2, 10), "attention_mask": torch.ones(2, 10, dtype=torch.long)}


def answers(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(**WORDS).logits


# --- factors ------------------------------------------------------------------------------------------------


def test_at_full_rank_the_factored_model_is_the_plain_one(wide):
    plain = from_base(wide, "sequence", 2, 1)
    factored = apply(copy.deepcopy(plain), "factor", share=2.0, by="svd")
    assert sum(isinstance(module, Factored) for module in factored.modules()) == 1 + 2 * 6 + 1
    torch.testing.assert_close(answers(factored), answers(plain), atol=1e-4, rtol=0)
    shown = [model(**WORDS, output_hidden_states=True).hidden_states for model in (factored, plain)]
    for ours, theirs in zip(*shown, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


@pytest.mark.parametrize("layer", [nn.Linear(20, 12), nn.Linear(12, 20), nn.Embedding(30, 12, padding_idx=0)], ids=str)
def test_factors_lose_exactly_the_tail_of_the_singular_values_and_weigh_the_same(layer):
    factors = Factored.like(layer, rank=5)
    factors.approximate(layer.weight)
    inner, outer = factors
    product = inner.weight @ outer.weight.T if isinstance(layer, nn.Embedding) else outer.weight @ inner.weight
    tail = torch.linalg.svdvals(layer.weight)[5:]
    assert ((product - layer.weight) ** 2).sum().item() == pytest.approx((tail**2).sum().item(), rel=1e-4)
    assert inner.weight.norm().item() == pytest.approx(outer.weight.norm().item(), rel=1e-5)
    inputs = torch.arange(7) if isinstance(layer, nn.Embedding) else torch.randn(7, layer.in_features)
    expected = product[inputs] if isinstance(layer, nn.Embedding) else inputs @ product.T + layer.bias
    torch.testing.assert_close(factors(inputs), expected, atol=1e-5, rtol=0)


def test_the_padding_row_gets_no_gradient_in_factors_either():
    factors = Factored.like(nn.Embedding(6, 4, padding_idx=0), rank=2)
    for parameter in factors.parameters():
        nn.init.ones_(parameter)
    factors(torch.tensor([0, 3])).sum().backward()
    assert factors[0].weight.grad.abs().sum(1).tolist() == [0, 0, 0, 8, 0, 0]


# --- pruning ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("progress", "share"), [(0.0, 0.0), (0.07, 0.271), (0.35, 0.875), (0.7, 1.0), (1.0, 1.0)])
def test_the_cubic_schedule_by_hand(progress, share):
    assert ladabert.due(progress, ramp=0.7) == pytest.approx(share)


def layer_of(numbers) -> nn.Linear:
    """Return a layer whose zeros are held."""
    layer = nn.Linear(len(numbers), 1, bias=False)
    layer.weight.data = torch.tensor([numbers])
    ladabert.hold_zeros(layer.weight)
    return layer


def test_the_smallest_go_first_and_the_last_step_completes_it():
    """Of ten, three remain. Every second step of five, ramp 0.8: at 2 of 5, 1 - (1 - 0.5)^3 = 0.875 of seven go."""
    layer = layer_of([0.5, -0.1, 0.9, -0.8, 0.2, 0.3, -0.4, 0.6, 0.05, -0.7])
    optimizer = torch.optim.AdamW(layer.parameters())
    left = []
    for step in range(5):
        ladabert.prune(layer, optimizer, step, 5, kept={layer.weight: 3}, every=2, ramp=0.8)
        left.append(torch.nonzero(layer.weight[0]).flatten().tolist())
    assert left == [[*range(10)], [2, 3, 7, 9], [2, 3, 7, 9], [2, 3, 9], [2, 3, 9]]
    layer = layer_of([1.0, 2.0, 3.0, 4.0])
    for step in range(3):
        ladabert.prune(layer, optimizer, step, 3, kept={layer.weight: 1}, every=10, ramp=0.8)
        assert layer.weight.count_nonzero() == (4 if step < 2 else 1)


@pytest.mark.parametrize("optimizer", ["adamw", "bertadam"])
def test_what_was_pruned_stays_exactly_zero_and_the_rest_learns_as_if_it_were_alone(optimizer):
    """The twin has the kept weights only, in the same places; weight decay and momentum from before pruning included."""
    torch.manual_seed(0)
    layer = layer_of(torch.randn(40).tolist())
    wanted = dataclasses.replace(OPTIMIZATION, optimizer=optimizer, weight_decay=0.1)
    ours = optimizers.build(layer, wanted)

    def train_both(steps: int, *pairs) -> None:
        for _ in range(steps):
            x, y = torch.randn(8, 40), torch.randn(8, 1)
            for model, optimizer, inputs in pairs:
                ((model(inputs(x)) - y) ** 2).mean().backward()
                optimizer.step()
                optimizer.zero_grad()

    train_both(10, (layer, ours, lambda x: x))
    ladabert.prune(layer, ours, 0, 1, kept={layer.weight: 15}, every=1, ramp=1.0)
    kept = layer.weight[0] != 0
    assert kept.sum() == 15
    twin = nn.Linear(15, 1, bias=False)
    twin.weight.data = layer.weight.data[:, kept].clone()
    theirs = optimizers.build(twin, wanted)
    moments = {key: value[:, kept] if value.dim() else value for key, value in ours.state[layer.weight].items()}
    theirs.state[twin.weight] = {key: value.clone() for key, value in moments.items()}
    train_both(10, (layer, ours, lambda x: x), (twin, theirs, lambda x: x[:, kept]))
    assert torch.equal(layer.weight[0] != 0, kept)
    torch.testing.assert_close(layer.weight[:, kept], twin.weight, rtol=1e-5, atol=1e-7)
    assert all((value[0, ~kept] == 0).all() for value in ours.state[layer.weight].values() if value.dim())


# --- budgets ------------------------------------------------------------------------------------------------


def remaining(student: nn.Module, kept: dict[str, int]) -> int:
    """Count the body's parameters that are left when all is pruned."""
    pruned = sum(layer.weight.numel() - kept[name] for name, layer in matrices(student).items())
    return sum(parameter.numel() for parameter in student.base_model.parameters()) - pruned


@pytest.mark.parametrize(("method", "millions"), [*zip(METHODS, (44, 33, 22, 11, 22, 22, 22), strict=True)])
def test_bert_bases_budgets_are_the_papers(method, millions):
    plain = bert_base()
    assert sum(parameter.numel() for parameter in plain.base_model.parameters()) == 109_482_240
    student, kept = made(plain, method)
    assert remaining(student, kept) == pytest.approx(millions * 1e6, rel=0.01)
    assert all(kept[name] <= layer.weight.numel() for name, layer in matrices(student).items())


def test_the_split_is_even_in_the_hybrid_and_one_sided_in_its_ablations(wide):
    plain = from_base(wide, "sequence", 2, 1)
    full = sum(layer.weight.numel() for layer in matrices(plain).values())
    shares = {}
    for method in ("lada_5x", "lada_5x_svd", "lada_5x_prune"):
        student, kept = made(from_base(wide, "sequence", 2, 1), method)
        numbers = sum(layer.weight.numel() for layer in matrices(student).values())
        shares[method] = numbers / full, sum(kept.values()) / numbers
    left = shares["lada_5x_prune"][1]
    assert shares["lada_5x_prune"][0] == 1.0
    assert shares["lada_5x_svd"] == (pytest.approx(left, rel=0.15), 1.0)  # ranks are whole numbers
    assert shares["lada_5x"] == (pytest.approx(left**0.5, rel=0.1), pytest.approx(left**0.5, rel=0.1))


def test_a_model_too_small_for_its_budget_is_one_line(base):
    with pytest.raises(UserError, match=r"remaining: 0\.1 leaves nothing of this model's weight matrices"):
        student_of(base, "lada_10x")


# --- files --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("numbers", [[0, 0, 3, 0, -1, 0, 0, 0, 0, 7], [0] * 9, [1] * 8, [5]], ids=str)
@pytest.mark.parametrize("zero", [0, 5])
def test_sparse_packing_equals_a_slow_twin(numbers, zero):
    values = torch.tensor(numbers) + zero
    bitmap, kept = packing.pack_sparse(values, zero)
    assert kept.tolist() == [value for value in values.tolist() if value != zero]
    assert bitmap.tolist() == [
        sum(1 << at for at, value in enumerate(values.tolist()[start : start + 8]) if value != zero)
        for start in range(0, len(numbers), 8)
    ]
    assert packing.unpack_sparse(bitmap, kept, len(numbers), zero).tolist() == values.tolist()


HEAD = 2 * 96 + 2  # numbers of the head
META = {"kind": "classification", "labels": ["negative", "positive"]}


@pytest.mark.parametrize("method", METHODS)
def test_the_file_is_the_model_in_memory_and_counts_itself(method, wide, tmp_path):
    (student, kept), path = pruned(wide, method), tmp_path / "model.safetensors"
    artifact.save(path, student, META)
    loaded, meta = artifact.load(path)
    torch.testing.assert_close(answers(loaded), answers(student), atol=1e-5, rtol=0)
    size = artifact.size(path)
    assert size["counted_bytes"] == pytest.approx(size["file_bytes"], rel=0.01)
    assert size["fp32_bytes"] == 4 * sum(value.size for value in wide.weights.values())
    sparse = {name for name, entry in meta["packed"].items() if entry["packing"] == "sparse"}
    large = {f"bert.{name}.weight" for name in matrices(student) if "embeddings" not in name}
    assert not meta["packed"] if method == "lada_5x_svd" else large <= sparse  # a tiny table is smaller than a description
    if method != "lada_5x_8bit":
        assert size["paper_bytes"] == pytest.approx(4 * remaining(student, kept), rel=0.01)
        assert size["parameters"] == size["paper_bytes"] / 4 + HEAD


def test_bytes_of_a_sparse_file_by_hand(wide, tmp_path):
    """A bit for every number of a factor, and 4 bytes, or a code of one byte, for each that remains; a step for a grid."""
    for method, bytes_each, step in (("lada_5x", 4, 0), ("lada_5x_8bit", 1, 4)):
        (student, _), path = pruned(wide, method), tmp_path / f"{method}.safetensors"
        artifact.save(path, student, META)
        expected = 0
        for name, layer in matrices(student).items():
            if name.startswith("encoder"):
                weight = layer.quantized_weight() if step else layer.weight  # the smallest may round to zero in 8 bits
                expected += -(-weight.numel() // 8) + int(weight.count_nonzero()) * bytes_each + step
        assert artifact.size(path)["groups"]["encoder matrices"]["bytes"] == expected


def test_a_stock_bert_base_takes_418_of_the_papers_megabytes():
    meta = {**META, "config": BERT_BASE, "head": "sequence", "outputs": 2}
    assert artifact._full_bytes(meta) == 4 * 109_482_240
    assert round(artifact._full_bytes(meta) / 2**20) == 418


@pytest.mark.parametrize("part", [".bitmap", ".values"])
def test_a_damaged_sparse_matrix_is_named(part, wide, tmp_path):
    path = tmp_path / "model.safetensors"
    artifact.save(path, pruned(wide)[0], META)
    content = bytearray(path.read_bytes())
    length = int.from_bytes(content[:8], "little")
    name = f"bert.encoder.layer.1.attention.self.query.0.weight{part}"
    start, _ = json.loads(content[8 : 8 + length])[name]["data_offsets"]
    content[8 + length + start] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"damaged \(tensor '{name}' does not match its hash\)"):
        artifact.load(path)


@pytest.mark.parametrize("part", [".bitmap", ".values"])
def test_parts_that_contradict_their_description_are_refused(part, wide, tmp_path):
    path = tmp_path / "model.safetensors"
    artifact.save(path, pruned(wide)[0], META)
    arrays, meta = files.read_sealed(path)
    name = f"bert.encoder.layer.1.attention.self.query.0.weight{part}"
    files.write_sealed(path, arrays | {name: arrays[name][:-1]}, meta)
    with pytest.raises(UserError, match=rf"query.0.weight': {part[1:]} does not fit its shape and bits"):
        artifact.load(path)


def test_a_matrix_is_stored_sparse_only_where_that_is_smaller(wide, tmp_path):
    """In fp32 a bitmap pays from one zero in 32 numbers on, of a matrix that is larger than its description."""
    model = from_base(wide, "sequence", 2, 1)
    many, few = (layer.output.dense.weight for layer in model.bert.encoder.layer)  # (96, 192)
    with torch.no_grad():
        many.view(-1)[:1000], few.view(-1)[:500] = 0, 0
        model.classifier.weight[0] = 0  # (2, 96): all that could be saved is less than what would describe it
    artifact.save(tmp_path / "model.safetensors", model, META)
    loaded, meta = artifact.load(tmp_path / "model.safetensors")
    assert meta["packed"].keys() == {"bert.encoder.layer.0.output.dense.weight"}
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("method", ["lada_10x", "lada_5x_8bit"])
def test_inspect_lists_sparse_matrices_on_80_columns(method, run_method):
    told = inspection.facts(run_method(method)[1] / "last.safetensors")
    lines = inspection.page(told, layers=True).splitlines()[1:]
    assert max(map(len, lines)) <= 80
    name = "bert.encoder.layer.1.intermediate.dense.0.weight"
    entry = told["layers"][name]
    (line,) = [line for line in lines if line.startswith("layer.1.intermediate.0 ")]
    assert line.split()[1:6] == [
        "x".join(map(str, entry["shape"])),
        "8" if method == "lada_5x_8bit" else "32",
        "sparse",
        f"{100 * entry['kept'] / np.prod(entry['shape']):.0f}",
        "%",
    ]
    assert ("step" in entry) == (method == "lada_5x_8bit")
    assert any("factor: by svd, share 0." in line for line in lines)


# --- eight bits ---------------------------------------------------------------------------------------------


def test_zeros_stay_zeros_on_the_grid_and_every_factor_is_on_one(wide):
    student, _ = pruned(wide, "lada_5x_8bit")
    layers = matrices(student)
    assert len(layers) == 2 * (1 + 2 * 6 + 1)
    for layer in layers.values():
        assert isinstance(layer.weight_quantizer, Symmetric)
        assert (layer.quantized_weight()[layer.weight == 0] == 0).all()
    inputs = {name: layer.input_quantizer for name, layer in layers.items() if isinstance(layer, nn.Linear)}
    shared = {name for name, quantizer in inputs.items() if quantizer is None}
    assert shared == {f"encoder.layer.{at}.attention.self.{name}.0" for at in (0, 1) for name in ("query", "key", "value")}


# --- whole runs ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", HYBRIDS)
def test_a_run_leaves_what_the_budget_allows_and_no_more(method, run_method, wide):
    record, _ = run_method(method)
    budget = recipe_of(method).remaining * sum(value.size for value in wide.weights.values())
    for size in record["size"].values():
        assert size["counted_bytes"] == pytest.approx(size["file_bytes"], rel=0.01)
    left = record["size"]["last"]["parameters"] - HEAD
    assert left == pytest.approx(budget, rel=0.01 if method != "lada_5x_8bit" else 0.05)
    assert record["curve"][-1]["terms"].keys() == {"hidden", "attention", "logits"}


@pytest.mark.parametrize("stop_at", [5, 17])
def test_a_run_that_was_killed_ends_with_the_same_weights(stop_at, wide, sst2, device, tmp_path):
    class Stop(Exception):
        pass

    recipe = recipe_of("lada_5x", prune_every=3, terms={"labels": 1.0})

    def fitted(checkpoints=None, stop_at=None):
        given = context(budget={"epochs_scale": 0.3, "lr_scale": 1, "batch_size": 8})
        student = ladabert.student(from_base(wide, "sequence", 2, 1), recipe, given)
        (stage,) = ladabert.stages(student, recipe, given)

        def on_step(student, optimizer, step, steps):
            stage.on_step(student, optimizer, step, steps)
            if step == stop_at:
                raise Stop

        stages = [dataclasses.replace(stage, on_step=on_step)]
        scores = {"evaluate_every": 8, "checkpoints": checkpoints}
        return Trainer(student, stages, loader(sst2), lambda model: {"accuracy": 50.0}, device, **scores).fit()

    whole = fitted()
    with pytest.raises(Stop):
        fitted(Checkpoints(tmp_path, "x", steps=2), stop_at)
    resumed = fitted(Checkpoints(tmp_path, "x", steps=2))
    for name, tensor in whole.last.items():
        assert torch.equal(tensor, resumed.last[name]), name
    assert whole.state == resumed.state
    _, kept = made(from_base(wide, "sequence", 2, 1))
    assert {name: int(whole.last[f"bert.{name}.weight"].count_nonzero()) for name in kept} == kept
