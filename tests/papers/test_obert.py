"""oBERT: the official outputs, saliency and update by hand and against slow twins, schedule, sizes, whole runs."""

import copy
import dataclasses
import itertools
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from methods import obert
from methods.common import interrupt
from methods.common.errors import UserError
from methods.model import artifact, description
from methods.model.anatomy import layers
from methods.model.edits import calibrate
from methods.model.encoder import from_base
from methods.training import optimizers, trainer
from methods.training.forward import forward
from methods.training.objective import labels
from methods.training.recipe import Optimization
from methods.training.trainer import Diverged
from tests.fixtures.models import KINDS, answers, batch_of, bert_base, model_of
from tests.fixtures.runs_of_methods import CATALOGUE, FILES, recipe_of
from tests.fixtures.world import SHARED, context, loader

GOLDEN = SHARED / "golden/more_obs.npz"
OPTIMIZATION = Optimization(optimizer="adamw", epochs=3, lr=1e-3, batch_size=8, weight_decay=0.01, clip="global")
MIB = 2**20


def fisher_of(gradients: torch.Tensor, block: int, damping: float) -> torch.Tensor:
    """Return the inverse of gradients' Fisher matrix, (gradients, ...) -> (blocks, block, block)."""
    found = obert.empty(gradients[0], block)
    for gradient in gradients:
        obert.add(found, gradient)
    obert.invert(found, len(gradients), damping)
    return found


def relative(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """Return the largest error, as a share of the largest number."""
    return float((ours - theirs).abs().max() / theirs.abs().max())


# --- the official code's outputs ----------------------------------------------------------------------------


@pytest.mark.skipif(not GOLDEN.is_file(), reason="the official implementations' outputs are not here")
@pytest.mark.parametrize(
    ("setting", "block", "group", "damping", "tolerance"),
    [
        ("unstructured.B50.damp0.0001", 50, 1, 1e-4, 1e-5),
        ("unstructured.B1.damp0.0001", 1, 1, 1e-4, 1e-5),
        ("block4.B16.damp0.0001", 16, 4, 1e-4, 1e-5),
        ("unstructured.B10.damp1e-07", 10, 1, 1e-7, 1e-2),  # the official code's fp32 is ill-conditioned there
    ],
)
def test_two_prunings_are_those_of_the_official_code(setting, block, group, damping, tolerance):
    arrays = np.load(GOLDEN)
    weights = [torch.from_numpy(arrays[f"weight.{number}"]) for number in (0, 1)]
    samples = [torch.from_numpy(arrays[f"grads.{number}"]) for number in (0, 1)]
    for step, sparsity in enumerate((0.5, 0.75)):
        expected = {
            name: [torch.from_numpy(arrays[f"{setting}.{name}.{step}.{number}"]) for number in (0, 1)]
            for name in ("inverse_diag", "score", "mask", "weight")
        }
        masked = [sample * (weight != 0) for sample, weight in zip(samples, weights, strict=True)]
        for number, weight in enumerate(weights):
            inverse = fisher_of(masked[number], block, damping)
            if step == 0 and f"{setting}.fisher_inverse.{number}" in arrays:
                assert relative(inverse, torch.from_numpy(arrays[f"{setting}.fisher_inverse.{number}"])) <= tolerance
            diagonal = obert.diagonal(inverse, weight).flatten()
            assert relative(diagonal, expected["inverse_diag"][number]) <= tolerance
            ours, theirs = obert.saliency(weight, inverse, group), expected["score"][number]
            finite = theirs.isfinite()
            assert torch.equal(ours.isfinite(), finite)
            torch.testing.assert_close(ours[finite], theirs[finite], rtol=tolerance, atol=0)
        pruned = [weight.clone() for weight in weights]
        kept = obert.surgery(pruned, zip(*masked, strict=True), sparsity, block=block, group=group, damping=damping)
        for number in (0, 1):
            assert torch.equal(kept[number], expected["mask"][number].bool())
            assert relative(pruned[number], expected["weight"][number]) <= min(tolerance, 1e-3)
        weights = expected["weight"]


@pytest.mark.skipif(not GOLDEN.is_file(), reason="the official implementations' outputs are not here")
def test_the_schedule_is_that_of_the_official_code():
    assert obert.schedule(0.7, 0.9, 7) == pytest.approx(np.load(GOLDEN)["schedule.cubic_0.7_0.9"].tolist(), rel=1e-6)


# --- the Fisher matrix --------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", [1, 3, 5, 16, 40])
@pytest.mark.parametrize("chunk", [1, 50, obert.CHUNK])
def test_the_inverse_in_blocks_is_that_of_each_block(block, chunk, monkeypatch):
    """Of 5 x 7 numbers the last block is filled up with zeros, whose inverse is that of the damping."""
    monkeypatch.setattr(obert, "CHUNK", chunk)
    samples = torch.randn(9, 5, 7, generator=torch.Generator().manual_seed(0))
    inverse = fisher_of(samples, block, 0.01)
    flat = samples.reshape(9, 35).double().numpy()
    for number, start in enumerate(range(0, 35, block)):
        part = flat[:, start : start + block]
        expected = np.linalg.inv(0.01 * np.eye(part.shape[1]) + part.T @ part / 9)
        size = len(expected)
        np.testing.assert_allclose(inverse[number, :size, :size].numpy(), expected, rtol=1e-4, atol=1e-4 * expected.max())
        filling = inverse[number, size:, size:]
        torch.testing.assert_close(filling, 100 * torch.eye(block - size))
    assert len(inverse) == -(-35 // block)


def test_a_block_that_rounding_has_made_indefinite_gets_a_damping_of_that_size():
    """The sum says that two numbers are more alike than equal; the other block keeps the damping that was asked for."""
    fisher = torch.tensor([[[1.0, 1 + 3e-7], [1 + 3e-7, 1.0]], [[1.0, 0.0], [0.0, 1.0]]])
    obert.invert(fisher, 1, 1e-9)
    assert bool(torch.isfinite(fisher).all())
    assert bool((fisher.diagonal(dim1=1, dim2=2) > 0).all())
    torch.testing.assert_close(fisher[1], torch.eye(2))


def test_gradients_that_are_not_finite_end_the_run():
    weight = torch.ones(2, 2)
    with pytest.raises(Diverged, match="gradients that saliencies are estimated from are not finite"):
        obert.surgery([weight], iter([[torch.full((2, 2), torch.nan)]]), 0.5, block=2)


# --- saliency, mask, update ---------------------------------------------------------------------------------


def least(hessian: torch.Tensor, weight: torch.Tensor, gone: list[int]) -> torch.Tensor:
    """Return the step d that is least in d' H d / 2 among those that take the numbers `gone` to zero, by its definition."""
    rest = [number for number in range(len(weight)) if number not in gone]
    step = torch.zeros(len(weight), dtype=torch.float64)
    step[gone] = -weight[gone]
    if rest:
        step[rest] = -torch.linalg.solve(hessian[rest][:, rest], hessian[rest][:, gone] @ step[gone])
    return step


@pytest.mark.parametrize("group", [1, 2, 4])
def test_saliency_and_update_are_those_of_the_least_rise(group):
    """Each group of a block of eight by itself: what its best removal costs, and where it takes the others."""
    generator = torch.Generator().manual_seed(1)
    weight, samples = torch.randn(2, 4, generator=generator), torch.randn(12, 2, 4, generator=generator)
    inverse = fisher_of(samples, 8, 0.1)
    flat, outer = weight.flatten().double(), samples.reshape(12, 8).double()
    hessian = 0.1 * torch.eye(8, dtype=torch.float64) + outer.T @ outer / 12
    scores = obert.saliency(weight, inverse, group).flatten()
    for start in range(0, 8, group):
        gone = list(range(start, start + group))
        step = least(hessian, flat, gone)
        expected = float(step @ hessian @ step / 2)
        assert scores[gone].tolist() == pytest.approx([expected] * group, rel=1e-4)
        kept = torch.ones(8, dtype=torch.bool)
        kept[gone] = False
        after = obert.updated(weight, inverse, kept.view(2, 4), group)
        torch.testing.assert_close(after.flatten().double(), (flat + step) * kept, rtol=1e-4, atol=1e-5)
        assert (after.flatten()[gone] == 0).all()


def test_two_that_go_together_are_moved_for_as_if_each_went_alone():
    """By hand: F^-1 = [[2, 1, 0], [1, 2, 1], [0, 1, 2]], w = (4, 6, 8), and the outer two go: 6 - 4/2 - 8/2 = 0."""
    inverse = torch.tensor([[[2.0, 1, 0], [1, 2, 1], [0, 1, 2]]])
    after = obert.updated(torch.tensor([4.0, 7.0, 8.0]), inverse, torch.tensor([False, True, False]))
    torch.testing.assert_close(after, torch.tensor([0.0, 1.0, 0.0]))


def test_scores_by_hand_and_what_is_zero_has_none():
    inverse = torch.tensor([[[2.0, 0], [0, 0.5]], [[1.0, 0], [0, 1]]])
    torch.testing.assert_close(
        obert.saliency(torch.tensor([2.0, -1.0, 0.0, 3.0]), inverse), torch.tensor([1.0, 1.0, -torch.inf, 4.5])
    )
    scores = obert.saliency(torch.tensor([0.0, 0.0, 0.0, 3.0]), inverse, group=2)
    torch.testing.assert_close(scores, torch.tensor([-torch.inf, -torch.inf, 4.5, 4.5]))
    scores = obert.magnitude(torch.tensor([[1.0, -2.0], [0.0, 0.0]]), group=2)
    torch.testing.assert_close(scores, torch.tensor([[5.0, 5.0], [-torch.inf, -torch.inf]]))


def test_one_threshold_over_all_matrices_prunes_them_unequally():
    """Half of ten: the five lowest, of which four lie in the first."""
    scores = [torch.tensor([[1.0, 2.0], [3.0, 9.0], [4.0, 8.0]]), torch.tensor([7.0, 5.0, 10.0, 6.0])]
    first, second = obert.masks(scores, 0.5)
    assert first.tolist() == [[False, False], [False, True], [False, True]]
    assert second.tolist() == [True, False, True, True]
    assert all(bool(one.all()) for one in obert.masks(scores, 0.0))
    assert not any(bool(one.any()) for one in obert.masks(scores, 1.0))


def test_ties_at_the_threshold_are_cut_at_the_number_that_is_asked_for():
    (kept,) = obert.masks([torch.tensor([1.0, 0.0, 1.0, 1.0, 2.0, 1.0])], 0.5)
    assert kept.tolist() == [False, False, False, True, True, True]
    (kept,) = obert.masks([torch.tensor([1.0, 1.0, 3.0, 3.0, 1.0, 1.0, 2.0, 2.0])], 0.25, group=2)
    assert kept.tolist() == [False, False, True, True, True, True, True, True]


def test_what_is_pruned_never_moves_and_counts_among_the_pruned():
    generator = torch.Generator().manual_seed(2)
    weight, samples = torch.randn(6, 10, generator=generator), torch.randn(8, 6, 10, generator=generator)
    obert.surgery([weight], iter(samples[:, None]), 0.4, block=10, damping=1e-3)
    before = weight.clone()
    zeros = before == 0
    assert int(zeros.sum()) == 24
    obert.surgery([weight], iter((samples * ~zeros)[:, None]), 0.7, block=10, damping=1e-3)
    assert (weight[zeros] == 0).all()
    assert int((weight == 0).sum()) == 42
    assert bool((weight != before)[weight != 0].any())


# --- the schedule -------------------------------------------------------------------------------------------


def test_prunings_lie_at_epochs_2_to_26_of_30_where_the_rate_starts_again():
    recipe, per_epoch = recipe_of("obert_90"), 1000
    found = obert.events(recipe, 30 * per_epoch)
    assert list(found) == [1000 * epoch for epoch in (2, 6, 10, 14, 18, 22, 26)]
    by_hand = [0.9 - 0.2 * (1 - number / 6) ** 3 for number in range(7)]
    assert list(found.values()) == pytest.approx(by_hand)
    for step in found:
        before, after = (optimizers.factor(at / 30_000, 0.0, recipe.ramps) for at in (step - 1, step + 1))
        assert before < 0.11 and after > 0.99
    assert optimizers.factor(1.0, 0.0, recipe.ramps) == 0.1


@pytest.mark.parametrize("method", ["obert_80", "obert_90", "obert_97", "magnitude_90", "oberta_90"])
@pytest.mark.parametrize("steps", [1, 2, 5, 20, 333])
def test_the_last_pruning_always_happens(method, steps):
    recipe = recipe_of(method)
    found = obert.events(recipe, steps)
    assert all(1 <= at <= steps for at in found)
    assert list(found.values())[-1] == recipe.sparsity
    assert list(found.values()) == sorted(found.values())


# --- gradients ----------------------------------------------------------------------------------------------


@pytest.fixture
def trained(base):
    """A student with some zeros that are held, and its weights."""
    student = from_base(base, "sequence", 2, 1)
    weights = obert.encoder_weights(student)
    with torch.no_grad():
        for weight in weights:
            weight.view(-1)[::3] = 0
    for weight in weights:
        obert.hold_zeros(weight)
    return student, weights


def test_every_matrix_of_every_layer_is_pruned_and_no_other(trained):
    student, weights = trained
    names = {id(param): name for name, param in student.named_parameters()}
    expected = {name for name in names.values() if "encoder" in name and name.endswith("weight") and "Norm" not in name}
    assert {names[id(weight)] for weight in weights} == expected
    assert len(weights) == 6 * 2
    assert sum(weight.numel() for weight in obert.encoder_weights(bert_base())) == 84_934_656


def test_gradients_are_those_of_the_labels_loss_of_each_batch_in_evaluation_mode(trained, sst2):
    student, weights = trained
    student.train()
    for param in student.parameters():
        param.grad = torch.ones_like(param)
    recipe, rows = recipe_of("obert_90", gradient_batch=8, gradients=3), loader(sst2)
    with torch.no_grad():  # as in `surgery`
        found = list(obert.gradients(student, weights, rows, recipe, 4))
    assert len(found) == 3
    assert all(bool((param.grad == 1).all()) for param in student.parameters())
    student.zero_grad()
    batches = rows.epoch(8, obert.SAMPLE_EPOCH - 5)
    for chosen, ours in zip(batches, found, strict=False):
        labels(forward(student.eval(), rows.batch(chosen)), None, rows.batch(chosen)).mean().backward()
        for weight, gradient in zip(weights, ours, strict=True):
            torch.testing.assert_close(gradient, weight.grad)
            assert (gradient[weight == 0] == 0).all()
        student.zero_grad()


def test_what_is_sampled_is_a_function_of_the_step(trained, sst2):
    student, weights = trained
    recipe, rows = recipe_of("obert_90"), loader(sst2)
    first, again, other = (list(obert.gradients(student, weights, rows, recipe, number)) for number in (1, 1, 2))
    assert len(first) == -(-60 // 16)  # once round the rows
    assert all(torch.equal(*pair) for pair in zip(itertools.chain(*first), itertools.chain(*again), strict=True))
    assert not torch.equal(first[0][0], other[0][0])


# --- pruning a model ----------------------------------------------------------------------------------------


def pruned(model: nn.Module, rows, method: str = "obert_90", **changes) -> nn.Module:
    """Return a model pruned at once to the end of a method's schedule."""
    recipe = recipe_of(method, prunings=1, **changes)
    given = SimpleNamespace(**vars(context()), loader=rows)
    student = obert.student(model, recipe, given)
    (stage,) = obert.stages(student, recipe, given)
    stage.on_step(student, optimizers.build(student, OPTIMIZATION), 0, 1)
    return student


def zeros(model: nn.Module) -> float:
    """Return the share of the encoder's matrices that is zero."""
    weights = obert.encoder_weights(model)
    return 1 - sum(int(weight.count_nonzero()) for weight in weights) / sum(weight.numel() for weight in weights)


@pytest.mark.parametrize(
    ("method", "changes"),
    [
        ("obert_90", {}),
        ("obert_97", {}),
        ("magnitude_90", {}),
        ("obert_90", {"rounds": 3}),
        ("obert_90", {"block": 1}),
        ("obert_90", {"block": 16, "group": 4}),
        ("magnitude_90", {"group": 4}),
    ],
)
def test_a_model_is_pruned_to_the_share_that_is_asked_for(method, changes, base, sst2):
    model = from_base(base, "sequence", 2, 1)
    before = copy.deepcopy(model)
    student = pruned(model, loader(sst2), method, **changes)
    sparsity = recipe_of(method).sparsity
    assert zeros(student) == pytest.approx(sparsity, abs=1e-3)
    shares = [float((weight == 0).float().mean()) for weight in obert.encoder_weights(student)]
    assert max(shares) - min(shares) > 0.01
    moved = 0.0
    for weight, old in zip(obert.encoder_weights(student), obert.encoder_weights(before), strict=True):
        if group := changes.get("group"):
            gone = (weight.view(-1, group) == 0).sum(1)
            assert set(gone.tolist()) <= {0, group}
        moved += float((weight - old)[weight != 0].abs().sum())
    makes_up = method != "magnitude_90" and changes.get("block") != 1  # a block of one has no others to move
    assert (moved > 0) == makes_up
    others = set(student.state_dict()) - {name for name in student.state_dict() if ".layer." in name}
    assert all(torch.equal(student.state_dict()[name], before.state_dict()[name]) for name in others)


def test_the_second_order_costs_less_than_magnitude_and_blocks_less_than_a_diagonal():
    """Least squares with correlated inputs of unequal size, where the least rise is known: half of its numbers go."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(4000, 20, generator=generator) @ torch.randn(20, 20, generator=generator)
    inputs = inputs * torch.linspace(0.2, 3, 20)
    targets = inputs @ torch.randn(20, generator=generator) + torch.randn(4000, generator=generator)
    weight = torch.linalg.lstsq(inputs, targets[:, None]).solution.flatten()
    samples = (inputs @ weight - targets)[:, None] * inputs  # the gradient of each row's halved squared error

    def rise(pruned: torch.Tensor) -> float:
        assert int((pruned == 0).sum()) == 10
        return float(((inputs @ pruned - targets).square() - (inputs @ weight - targets).square()).mean())

    (kept,) = obert.masks([obert.magnitude(weight)], 0.5)
    rises = [rise(weight * kept)]
    for block in (1, 20):
        pruned = weight.clone()
        for sparsity in (0.1, 0.2, 0.3, 0.4, 0.5):
            obert.surgery([pruned], iter((samples * (pruned != 0))[:, None]), sparsity, block=block)
        rises.append(rise(pruned))
    assert rises[0] > 1.5 * rises[1] > 1.5 * rises[2] > 0


def test_the_optimizer_forgets_what_goes_and_zeros_stay(base, sst2):
    rows, recipe = loader(sst2), recipe_of("obert_90", prunings=1)
    given = SimpleNamespace(**vars(context()), loader=rows)
    student = from_base(base, "sequence", 2, 1)
    (stage,) = obert.stages(student, recipe, given)
    optimizer = optimizers.build(student, OPTIMIZATION)

    def step() -> None:
        batch = rows.batch(np.arange(8))
        labels(forward(student.train(), batch), None, batch).mean().backward()
        optimizer.step()

    step()
    stage.on_step(student, optimizer, 0, 1)
    optimizer.zero_grad()
    masks = [weight == 0 for weight in obert.encoder_weights(student)]
    for weight, mask in zip(obert.encoder_weights(student), masks, strict=True):
        assert all((value[mask] == 0).all() for value in optimizer.state[weight].values() if value.dim())
    for _ in range(3):
        step()
        optimizer.zero_grad()
    for weight, mask in zip(obert.encoder_weights(student), masks, strict=True):
        assert torch.equal(weight == 0, mask)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"block": 10, "group": 4}, "block: 10 is no multiple of group: 4"),
        ({"block": 9, "group": 3}, "group: 3 divides not"),
    ],
)
def test_groups_that_do_not_fit_are_one_line(changes, message, base, sst2):
    with pytest.raises(UserError, match=message):
        pruned(from_base(base, "sequence", 2, 1), loader(sst2), **changes)


# --- sizes --------------------------------------------------------------------------------------------------

GRIDS = {"weights": {"kind": "symmetric", "bits": 8}, "embeddings": {"kind": "symmetric", "bits": 8}}
GRIDS |= {"positions": {"kind": "symmetric", "bits": 8}, "pooler": False}


def bytes_of(model: nn.Module, kept: list[int]) -> int:
    """Return the bytes of a file without its head, steps and description; `kept` is how many numbers each matrix keeps."""
    prunable = {id(weight): count for weight, count in zip(obert.encoder_weights(model), kept, strict=True)}
    grids = artifact._on_grid(model)
    total = 0
    for name, param in model.named_parameters():
        bits = 8 if name in grids else 32
        entry = {"shape": list(param.shape), "bits": bits, "packing": "bits"}
        if id(param) in prunable:
            entry |= {"packing": "sparse", "kept": prunable[id(param)]}
        if "classifier" not in name and "quantizer" not in name:
            total += description.stored_bytes(entry)
    return total


@pytest.mark.parametrize(
    ("sparsity", "left", "parameters", "full", "eight_bits"),
    [
        (0.8, 16_986_931, 41_534_515, 168.57, 51.77),
        (0.9, 8_493_466, 33_041_050, 136.17, 43.67),
        (0.95, 4_246_733, 28_794_317, 119.97, 39.62),
        (0.97, 2_548_040, 27_095_624, 113.49, 38.00),
    ],
)
def test_a_pruned_bert_base_takes_what_it_should(sparsity, left, parameters, full, eight_bits):
    """A bitmap and what is not zero for the encoder's matrices; token types (6 kB) keep their full precision in 8 bits."""
    model, quantized = bert_base(), bert_base({"kind": "quantize", **GRIDS})
    numbers = [weight.numel() for weight in obert.encoder_weights(model)]
    assert sum(numbers) - round(sparsity * sum(numbers)) == left
    kept = [count * left // sum(numbers) for count in numbers]
    kept[0] += left - sum(kept)
    others = sum(param.numel() for name, param in model.base_model.named_parameters()) - sum(numbers)
    assert others + left == parameters
    assert bytes_of(model, kept) / MIB == pytest.approx(full, abs=0.005)
    assert bytes_of(quantized, kept) / MIB == pytest.approx(eight_bits, abs=0.01)


@pytest.mark.parametrize("eight_bits", [False, True])
def test_a_real_file_takes_the_same_bytes(eight_bits, wide, sst2, tmp_path):
    student = pruned(from_base(wide, "sequence", 2, 1), loader(sst2))
    if eight_bits:
        student = obert.student(student, recipe_of("obert_90_8bit"), context())
        calibrate(student, [])
    path = tmp_path / "model.safetensors"
    artifact.save(path, student, {"kind": "classification", "labels": ["negative", "positive"]})
    _, meta = artifact.read(path)
    names = [name for name in meta["packed"] if "encoder.layer" in name]
    assert len(names) == 12 and all(meta["packed"][name]["packing"] == "sparse" for name in names)
    stored = [meta["packed"][f"bert.encoder.layer.{at}.{part}.weight"]["kept"] for at, part in places(student)]
    size = artifact.size(path)
    if eight_bits:  # the smallest may round to zero
        assert sum(stored) <= sum(int(weight.count_nonzero()) for weight in obert.encoder_weights(student))
        layered = [layer[part] for layer in layers(student) for part in PARTS]
        assert stored == [int(layer.quantized_weight().count_nonzero()) for layer in layered]
    else:
        assert stored == [int(weight.count_nonzero()) for weight in obert.encoder_weights(student)]
    steps = sum(4 for name in artifact._on_grid(student))
    groups = {name: group["bytes"] for name, group in size["groups"].items() if name not in ("description", "head")}
    assert sum(groups.values()) - steps == bytes_of(student, stored)


PARTS = ("query", "key", "value", "attention output", "intermediate", "output")
PATHS = [f"attention.self.{name}" for name in PARTS[:3]] + ["attention.output.dense", "intermediate.dense", "output.dense"]


def places(model) -> list[tuple[int, str]]:
    return [(number, path) for number in range(len(layers(model))) for path in PATHS]


# --- whole runs ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["obert_80", "obert_90", "obert_97", "magnitude_90", "oberta_90"])
def test_a_run_ends_at_its_sparsity(method, run_method):
    record, folder = run_method(method)
    assert record["status"] == "ok"
    assert "init" not in record["ancestors"]  # it starts from the pretrained model
    for protocol in ("last", "best"):
        model, _ = artifact.load(folder / f"{protocol}.safetensors")
        if protocol == "last":
            assert zeros(model) == pytest.approx(recipe_of(method).sparsity, abs=1e-3)
        assert bool((model.bert.embeddings.word_embeddings.weight[1:] != 0).any(1).all())


@pytest.mark.parametrize("method", ["obert_90_8bit", "oberta_90_8bit"])
def test_eight_bits_keep_the_zeros_of_the_pruned_model(method, run_method):
    _, folder = run_method(method)
    _, start = run_method(CATALOGUE.methods[method]["ancestors"]["init"])
    student, before = run_method.students[folder], artifact.load(start / "last.safetensors")[0]
    model, _ = artifact.load(folder / "last.safetensors")
    for ours, stored, old in zip(*map(obert.encoder_weights, (student, model, before)), strict=True):
        assert torch.equal(ours == 0, old == 0)
        assert (stored[old == 0] == 0).all()
        assert not torch.equal(ours, old)
        assert len(stored.unique()) <= 255
    for place in ("word_embeddings", "position_embeddings"):
        assert getattr(student.bert.embeddings, place).weight_quantizer is not None
    assert not hasattr(student.bert.pooler.dense, "weight_quantizer")


def test_frozen_embeddings_stay_those_of_the_pretrained_model(run_method, base):
    _, folder = run_method("oberta_90")
    student = run_method.students[folder]
    for name, param in student.bert.embeddings.named_parameters():
        assert torch.equal(param.cpu(), torch.from_numpy(base.weights[f"embeddings.{name}"])), name
        assert not param.requires_grad
    trained = run_method.students[run_method("obert_90")[1]].bert.embeddings
    assert not torch.equal(trained.word_embeddings.weight, student.bert.embeddings.word_embeddings.weight)


@pytest.mark.parametrize("steps", [3, 20])
@pytest.mark.parametrize("method", ["obert_90", "oberta_90_8bit"])
def test_a_run_that_was_stopped_ends_with_the_same_bytes(method, steps, run_method, monkeypatch):
    """After step 14 of 204 the first pruning has happened; the others come after the checkpoint."""
    whole = run_method(method)[1]
    looks = iter([False] * (steps - 1) + [True])
    with monkeypatch.context() as patched:
        patched.setattr(interrupt, "asked", lambda: next(looks))
        with pytest.raises(interrupt.Interrupted):
            run_method(method, copy=f"stopped at {steps}")
    _, resumed = run_method(method, copy=f"stopped at {steps}")
    assert json.loads((resumed / "machine.json").read_text())["resumed"] == 1
    for name in FILES:
        assert (resumed / name).read_bytes() == (whole / name).read_bytes(), name


def test_spans_take_the_mean_of_start_and_end():
    assert recipe_of("obert_90", "squad").terms == {"logits": {"weight": 0.5, "temperature": 2.0}}
    assert recipe_of("obert_90", "mnli").terms == {"logits": {"weight": 1.0, "temperature": 2.0}}
    assert (recipe_of("obert_90", "squad").lr, recipe_of("obert_90", "squad").gradient_batch) == (8e-5, 8)
    assert dataclasses.asdict(recipe_of("magnitude_90"))["saliency"] == "magnitude"


@pytest.mark.parametrize("kind", KINDS)
def test_a_student_of_any_kind_of_task_is_pruned(kind):
    """For spans, where the model has no pooler, and for numbers too."""
    rows = SimpleNamespace(epoch=lambda *_: [1, 2, 3], batch=lambda seed: batch_of(kind, seed=seed))
    student = pruned(model_of(kind), rows)
    assert zeros(student) == pytest.approx(0.9, abs=1e-3)
    assert bool(answers(student, batch_of(kind)).isfinite().all())


def test_predictions_are_those_of_the_file(run_method, sst2, device):
    _, folder = run_method("obert_90_8bit")
    model, _ = artifact.load(folder / "last.safetensors")
    outputs = np.stack(trainer.predict(model, loader(sst2, "validation"), device, exact=True))
    np.testing.assert_array_equal(np.load(folder / "predictions.npz")["last.validation"], outputs)
