"""LadaBERT's pieces against hand-computed values and slow twins, and whole runs: budgets, zeros, files, resuming."""

import copy
import dataclasses
import json

import numpy as np
import pytest
import torch
from torch import nn
from transformers.models.bert.configuration_bert import BertConfig

from methods import ladabert
from methods import run as harness
from methods.common.errors import UserError
from methods.kernel import packing
from methods.kernel.layers import Factored
from methods.kernel.quantizers import Symmetric
from methods.model import artifact
from methods.model.edits import edit, matrices
from methods.model.encoder import bert, from_base, write_base
from methods.training import optimizers, trainer
from methods.training.checkpoints import Checkpoints
from methods.training.trainer import Stage
from methods.use import inspection
from tests.fixtures.world import CONFIG
from workflow import catalogue

WIDE = {**CONFIG, "hidden_size": 96, "intermediate_size": 192, "max_position_embeddings": 32}  # mostly matrices, as BERT is
BERT_BASE = {"vocab_size": 30522, "hidden_size": 768, "num_hidden_layers": 12, "intermediate_size": 3072}
METHODS = ["lada_2x", "lada_3x", "lada_5x", "lada_10x", "lada_5x_svd", "lada_5x_prune", "lada_5x_8bit"]
HYBRIDS = ["lada_2x", "lada_10x", "lada_5x_8bit"]


@pytest.fixture(scope="module")
def wide(base):
    torch.manual_seed(0)
    weights = bert(BertConfig(**WIDE), "classification", 2).bert.state_dict()
    return dataclasses.replace(base, weights={name: tensor.numpy() for name, tensor in weights.items()}, config=WIDE)


def spec_of(method: str, **changes) -> dict:
    spec = json.loads(catalogue.dump(catalogue.load({"preset": "demo"}).request(method, "sst2", 1)))["spec"]
    return {**spec, "recipe": {**spec["recipe"], **changes}}


def student_of(base, method: str = "lada_5x", **changes) -> nn.Module:
    return ladabert.student(from_base(base, "classification", 2, 1), spec_of(method, **changes), None)


def pruned(student: nn.Module) -> nn.Module:
    """Pruned at once, as far as it will be."""
    ladabert.prune(student, optimizers.build(student, STAGE), 0, 1, every=1, ramp=1.0)
    return student


STAGE = Stage(name="labels", epochs=3, lr=1e-3, batch_size=8, terms={"labels": 1.0}, weight_decay=0.01, clip="global")
WORDS = {"input_ids": torch.arange(4, 24).reshape(2, 10), "attention_mask": torch.ones(2, 10, dtype=torch.long)}


def answers(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(**WORDS).logits


# --- factors ------------------------------------------------------------------------------------------------


def test_at_full_rank_the_factored_model_is_the_plain_one(wide):
    plain = from_base(wide, "classification", 2, 1)
    factored = edit(copy.deepcopy(plain), "factor", share=2.0, by="svd")
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


def marked(numbers, kept: int) -> nn.Linear:
    layer = nn.Linear(len(numbers), 1, bias=False)
    layer.weight.data = torch.tensor([numbers])
    ladabert.mark(layer.weight, kept)
    return layer


def test_the_smallest_go_first_and_the_last_step_completes_it():
    """Of ten, three remain. Every second step of five, ramp 0.8: at 2 of 5, 1 - (1 - 0.5)^3 = 0.875 of seven go."""
    layer = marked([0.5, -0.1, 0.9, -0.8, 0.2, 0.3, -0.4, 0.6, 0.05, -0.7], kept=3)
    optimizer = torch.optim.AdamW(layer.parameters())
    left = []
    for step in range(5):
        ladabert.prune(layer, optimizer, step, 5, every=2, ramp=0.8)
        left.append(torch.nonzero(layer.weight[0]).flatten().tolist())
    assert left == [[*range(10)], [2, 3, 7, 9], [2, 3, 7, 9], [2, 3, 9], [2, 3, 9]]
    layer = marked([1.0, 2.0, 3.0, 4.0], kept=1)
    for step in range(3):
        ladabert.prune(layer, optimizer, step, 3, every=10, ramp=0.8)
        assert layer.weight.count_nonzero() == (4 if step < 2 else 1)


@pytest.mark.parametrize("optimizer", ["adamw", "bertadam"])
def test_what_was_pruned_stays_exactly_zero_and_the_rest_learns_as_if_it_were_alone(optimizer):
    """The twin has the kept weights only, in the same places; weight decay and momentum from before pruning included."""
    torch.manual_seed(0)
    layer = marked(torch.randn(40).tolist(), kept=15)
    stage = dataclasses.replace(STAGE, optimizer=optimizer, weight_decay=0.1)
    ours = optimizers.build(layer, stage)

    def train_both(steps: int, *pairs) -> None:
        for _ in range(steps):
            x, y = torch.randn(8, 40), torch.randn(8, 1)
            for model, optimizer, inputs in pairs:
                ((model(inputs(x)) - y) ** 2).mean().backward()
                optimizer.step()
                optimizer.zero_grad()

    train_both(10, (layer, ours, lambda x: x))
    ladabert.prune(layer, ours, 0, 1, every=1, ramp=1.0)
    kept = layer.weight[0] != 0
    assert kept.sum() == 15
    twin = nn.Linear(15, 1, bias=False)
    twin.weight.data = layer.weight.data[:, kept].clone()
    theirs = optimizers.build(twin, stage)
    moments = {key: value[:, kept] if value.dim() else value for key, value in ours.state[layer.weight].items()}
    theirs.state[twin.weight] = {key: value.clone() for key, value in moments.items()}
    train_both(10, (layer, ours, lambda x: x), (twin, theirs, lambda x: x[:, kept]))
    assert torch.equal(layer.weight[0] != 0, kept)
    torch.testing.assert_close(layer.weight[:, kept], twin.weight, rtol=1e-5, atol=1e-7)
    assert all((value[0, ~kept] == 0).all() for value in ours.state[layer.weight].values() if value.dim())


# --- budgets ------------------------------------------------------------------------------------------------


def remaining(student: nn.Module) -> int:
    """Parameters of the body that are left when all is pruned."""
    return sum(getattr(parameter, "kept", parameter.numel()) for parameter in student.base_model.parameters())


@pytest.mark.parametrize(("method", "millions"), [*zip(METHODS, (44, 33, 22, 11, 22, 22, 22), strict=True)])
def test_bert_bases_budgets_are_the_papers(method, millions):
    with torch.device("meta"):
        plain = bert(BertConfig(**BERT_BASE), "classification", 2)
    assert sum(parameter.numel() for parameter in plain.base_model.parameters()) == 109_482_240
    student = ladabert.student(plain, spec_of(method), None)
    assert remaining(student) == pytest.approx(millions * 1e6, rel=0.01)
    assert all(layer.weight.kept <= layer.weight.numel() for layer in matrices(student).values())


def test_the_split_is_even_in_the_hybrid_and_one_sided_in_its_ablations(wide):
    plain = from_base(wide, "classification", 2, 1)
    full = sum(layer.weight.numel() for layer in matrices(plain).values())
    shares = {}
    for method in ("lada_5x", "lada_5x_svd", "lada_5x_prune"):
        layers = matrices(student_of(wide, method)).values()
        numbers = sum(layer.weight.numel() for layer in layers)
        shares[method] = numbers / full, sum(layer.weight.kept for layer in layers) / numbers
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
    student, path = pruned(student_of(wide, method)), tmp_path / "model.safetensors"
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
        assert size["paper_bytes"] == pytest.approx(4 * remaining(student), rel=0.01)
        assert size["parameters"] == size["paper_bytes"] / 4 + HEAD


def test_bytes_of_a_sparse_file_by_hand(wide, tmp_path):
    """A bit for every number of a factor, and 4 bytes, or a code of one byte, for each that remains; a step for a grid."""
    for method, bytes_each, step in (("lada_5x", 4, 0), ("lada_5x_8bit", 1, 4)):
        student, path = pruned(student_of(wide, method)), tmp_path / f"{method}.safetensors"
        artifact.save(path, student, META)
        expected = 0
        for name, layer in matrices(student).items():
            if name.startswith("encoder"):
                weight = layer.quantized_weight() if step else layer.weight  # the smallest may round to zero in 8 bits
                expected += -(-weight.numel() // 8) + int(weight.count_nonzero()) * bytes_each + step
        assert artifact.size(path)["groups"]["encoder matrices"]["bytes"] == expected


def test_a_stock_bert_base_takes_418_of_the_papers_megabytes():
    meta = {**META, "config": BERT_BASE}
    assert artifact._full_bytes(meta) == 4 * 109_482_240
    assert round(artifact._full_bytes(meta) / 2**20) == 418


@pytest.mark.parametrize("part", [".bitmap", ".values"])
def test_a_damaged_sparse_matrix_is_named(part, wide, tmp_path):
    path = tmp_path / "model.safetensors"
    artifact.save(path, pruned(student_of(wide)), META)
    content = bytearray(path.read_bytes())
    length = int.from_bytes(content[:8], "little")
    name = f"bert.encoder.layer.1.attention.self.query.0.weight{part}"
    start, _ = json.loads(content[8 : 8 + length])[name]["data_offsets"]
    content[8 + length + start] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"damaged \(tensor '{name}' does not match its hash\)"):
        artifact.load(path)


@pytest.mark.parametrize("part", [".bitmap", ".values"])
def test_parts_that_contradict_their_description_are_refused(part):
    entry, parts = artifact._sparse(torch.tensor([[0.0] * 9, [1.0] * 9]))
    parts[part] = parts[part][:-1]
    with pytest.raises(ValueError, match="'query' does not fit"):
        artifact._unpacked("query", entry, parts)


def test_a_matrix_is_stored_sparse_only_where_that_is_smaller(wide, tmp_path):
    """In fp32 a bitmap pays from one zero in 32 numbers on, of a matrix that is larger than its description."""
    model = from_base(wide, "classification", 2, 1)
    many, few = (layer.output.dense.weight for layer in model.bert.encoder.layer)  # (96, 192)
    with torch.no_grad():
        many.view(-1)[:1000], few.view(-1)[:500] = 0, 0
        model.classifier.weight[0] = 0  # (2, 96): all that could be saved is less than what would describe it
    artifact.save(tmp_path / "model.safetensors", model, META)
    loaded, meta = artifact.load(tmp_path / "model.safetensors")
    assert meta["packed"].keys() == {"bert.encoder.layer.0.output.dense.weight"}
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("method", ["lada_10x", "lada_5x_8bit"])
def test_inspect_lists_sparse_matrices_on_80_columns(method, ran):
    told = inspection.facts(ran(method) / "last.safetensors")
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
    student = pruned(student_of(wide, "lada_5x_8bit"))
    layers = matrices(student)
    assert len(layers) == 2 * (1 + 2 * 6 + 1)
    for layer in layers.values():
        assert isinstance(layer.weight_quantizer, Symmetric)
        assert (layer.quantized_weight()[layer.weight == 0] == 0).all()
    inputs = {name: layer.input_quantizer for name, layer in layers.items() if isinstance(layer, nn.Linear)}
    shared = {name for name, quantizer in inputs.items() if quantizer is None}
    assert shared == {f"encoder.layer.{at}.attention.self.{name}.0" for at in (0, 1) for name in ("query", "key", "value")}


# --- whole runs ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ran(wide, write_task, tmp_path_factory):
    """`ran("lada_2x")`: the folder of a short run on the tiny task, taught by a short run of fp32."""
    from methods import fp32
    from tests.fixtures.world import rows_of_sst2

    folder = tmp_path_factory.mktemp("lada")
    write_base(folder / "base.safetensors", wide)
    data = write_task("sst2", {"train": rows_of_sst2(60, 1), "validation": rows_of_sst2(30, 2)})
    settings = {
        "preset": "demo",
        "allow_weak_teacher": True,
        "budget": {"batch_size": 8, "lr_scale": 20, "epochs_scale": 1, "student_epochs_scale": None},
    }

    def run(method: str):
        run_request = json.loads(catalogue.dump(catalogue.load(settings).request(method, "sst2", 1)))
        ancestors = {role: run("fp32") for role in run_request["ancestors"]}
        paths = {"data_path": data, "base_path": folder / "base.safetensors", "ancestors": ancestors}
        harness.run(run_request, fp32 if method == "fp32" else ladabert, folder / method, **paths)
        return folder / method

    return run


@pytest.mark.parametrize("method", HYBRIDS)
def test_a_run_leaves_what_the_budget_allows_and_no_more(method, ran, wide):
    record = json.loads((ran(method) / "run.json").read_text())
    budget = spec_of(method)["recipe"]["remaining"] * sum(value.size for value in wide.weights.values())
    for size in record["size"].values():
        assert size["counted_bytes"] == pytest.approx(size["file_bytes"], rel=0.01)
    left = record["size"]["last"]["parameters"] - HEAD
    assert left == pytest.approx(budget, rel=0.01 if method != "lada_5x_8bit" else 0.05)
    assert record["curve"][-1]["terms"].keys() == {"hidden", "attention", "logits"}


@pytest.mark.parametrize("stop_at", [5, 17])
def test_a_run_that_was_killed_ends_with_the_same_weights(stop_at, wide, sst2, accelerator, tmp_path):
    class Stop(Exception):
        pass

    def fitted(checkpoints=None, stop_at=None):
        student, spec = student_of(wide), spec_of("lada_5x", prune_every=3)
        hook = ladabert.stages(spec, {"epochs_scale": 1, "lr_scale": 1, "batch_size": 8})[0].on_step

        def on_step(student, optimizer, step, steps):
            hook(student, optimizer, step, steps)
            if step == stop_at:
                raise Stop

        return trainer.fit(
            student,
            [dataclasses.replace(STAGE, on_step=on_step)],
            sst2.train,
            lambda model: {"accuracy": 50.0},
            accelerator=accelerator,
            seed=1,
            padding="bucket",
            max_length=32,
            evaluate_every=8,
            checkpoints=checkpoints,
        )

    whole = fitted()
    with pytest.raises(Stop):
        fitted(Checkpoints(tmp_path, "x", steps=2), stop_at)
    resumed = fitted(Checkpoints(tmp_path, "x", steps=2))
    for name, tensor in whole.last.items():
        assert torch.equal(tensor, resumed.last[name]), name
    assert whole.state == resumed.state
    kept = {name: layer.weight.kept for name, layer in matrices(student_of(wide)).items()}
    assert {name: int(whole.last[f"bert.{name}.weight"].count_nonzero()) for name in kept} == kept
