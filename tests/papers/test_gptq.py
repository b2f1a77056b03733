"""Post-training: the searched range, GPTQ on one matrix and in a whole model, sizes, and the official code's outputs."""

import math

import numpy as np
import pytest
import torch

from methods import gptq
from methods.common import options
from methods.common.errors import UserError
from methods.kernel import grids
from methods.kernel.layers import QuantLinear
from methods.kernel.quantizers import Clipped, Symmetric
from methods.kernel.quantizers.clipped import search
from methods.model import artifact
from methods.model.edits import apply
from methods.training.forward import INPUTS
from tests.fixtures.models import KINDS, META, answers, batch_of, bert_base, model_of
from tests.fixtures.runs_of_methods import recipe_of, request
from tests.fixtures.world import SHARED, context

METHODS = ["gptq_4bit", "gptq_2bit"]


def student_of(method: str = "gptq_3bit", kind: str = "classification", batches=None, **changes):
    """Return what GPTQ makes of a small model, and the model that it started from."""
    model, batches = model_of(kind), batches or [batch_of(kind, seed=seed) for seed in range(4)]
    return gptq.student(model, recipe_of(method, **changes), context(batches)), model_of(kind)


def correlated(rows: int = 12, columns: int = 20, tokens: int = 400) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a weight and inputs of which neighbours are alike."""
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(columns, columns, generator=generator) + 2 * torch.eye(columns)
    return torch.randn(rows, columns, generator=generator), torch.randn(tokens, columns, generator=generator) @ mixing


def fitted(bits: int = 3, **changes):
    """Return what fits a grid by rows to a matrix, for `gptq.rounded`."""

    def fit(weight):
        quantizer = Clipped(bits, rows=True, **changes)
        quantizer.calibrate(weight)
        return quantizer.values

    return fit


# --- the searched range -----------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", [2.0, 2.4])
@pytest.mark.parametrize("narrow", [False, True])
@pytest.mark.parametrize("bits", [1, 2, 3, 8])
def test_the_range_is_the_best_of_all_that_are_tried(bits, narrow, norm):
    """Against a loop over rows and ranges, in fp64."""
    x = np.random.default_rng(bits).standard_t(4, size=(5, 40)).astype(np.float32)
    quantizer = Clipped(bits, rows=True, narrow=narrow, norm=norm)
    quantizer.calibrate(torch.from_numpy(x))
    low, high = (-1, 1) if bits == 1 else (-(2 ** (bits - 1)) + narrow, 2 ** (bits - 1) - 1)
    for row, step in zip(x.astype(np.float64), quantizer.step[:, 0].tolist(), strict=True):

        def error(step, row=row):
            codes = np.where(row >= 0, 1, -1) if bits == 1 else np.clip(np.round(row / step), low, high)
            return (abs(row - codes * step) ** norm).sum()

        full = abs(row).max() * 2 / (2 if bits == 1 else high - low)
        steps = [full * (1 - i / 100) for i in range(80)]
        assert min(abs(step / other - 1) for other in steps) <= 1e-5
        assert error(step) == pytest.approx(min(map(error, steps)), rel=1e-4)


def test_without_shrinking_it_is_min_max_and_with_it_never_worse():
    x = torch.randn(6, 50, generator=torch.Generator().manual_seed(0))
    plain, best = Clipped(3, rows=True, narrow=True, shrink=0.0), Clipped(3, rows=True, narrow=True)
    for quantizer in (plain, best):
        quantizer.calibrate(x)
    assert torch.allclose(plain(x), Symmetric(3, rows=True)(x), atol=1e-6)
    errors = [(quantizer(x) - x).abs().pow(2.4).sum(1) for quantizer in (best, plain)]
    assert (errors[0] <= errors[1]).all()
    assert errors[0].sum() < 0.8 * errors[1].sum()


def test_the_search_takes_long_rows_apart(monkeypatch):
    x = torch.randn(3, 500, generator=torch.Generator().manual_seed(0))
    whole = search(x, 3, True)[0], search(x, 3, False)[0]
    monkeypatch.setattr("methods.kernel.quantizers.clipped.TRIED", {"cpu": 80 * 7})
    assert torch.equal(search(x, 3, True)[0], whole[0]) and torch.equal(search(x, 3, False)[0], whole[1])


@pytest.mark.parametrize("rows", [False, True])
def test_a_weight_on_the_grid_is_encoded_as_it_is(rows):
    x = torch.randn(8, 30, generator=torch.Generator().manual_seed(0))
    quantizer = Clipped(3, rows=rows)
    quantizer.calibrate(x)
    once, grid = quantizer.values(x), quantizer.encode(x)
    again = quantizer.encode(once)
    assert torch.equal(quantizer.values(once), once)
    assert torch.equal(again.codes, grid.codes) and torch.equal(again.step, grid.step)


def test_looked_up_rows_have_their_own_steps_and_the_gradient_passes():
    table = torch.randn(6, 10, generator=torch.Generator().manual_seed(0)).requires_grad_()
    quantizer, index = Clipped(2, rows=True), torch.tensor([4, 1])
    quantizer.calibrate(table.detach())
    values = quantizer(table[index], index)
    assert torch.equal(values, quantizer(table)[index])
    values.sum().backward()
    assert table.grad.sum(1).tolist() == [0, 10, 0, 0, 10, 0]


def test_a_range_that_was_never_searched_ends_the_run():
    assert Clipped(4)(torch.ones(3)).isnan().all()


@pytest.mark.parametrize("place", ["activations", "one_sided"])
@pytest.mark.parametrize("spec", [{"kind": "clipped", "bits": 8}, {"kind": "loss_aware"}])
def test_activations_cannot_have_it(place, spec):
    edit = {"kind": "quantize", "weights": spec, "embeddings": spec}
    options.check_edit(edit, "edits.0")
    with pytest.raises(options.WrongOption, match=rf"edits\.0\.{place}: '{spec['kind']}' is a quantizer of weights"):
        options.check_edit({**edit, place: spec}, "edits.0")


# --- one matrix -------------------------------------------------------------------------------------------


def test_uncorrelated_inputs_change_nothing_about_rounding():
    weight, _ = correlated()
    found = gptq.rounded(weight, 3.0 * torch.eye(20), fitted())
    assert torch.equal(found, fitted()(weight)(weight))


@pytest.mark.parametrize("ordered", [False, True])
def test_columns_are_rounded_as_in_a_slow_twin_that_inverts_anew(ordered):
    """After each column the rest is moved by the least squares solution; the inverse is that of the columns left."""
    weight, x = correlated()
    moments = gptq.hessian([x[:, None]])
    damped = moments + 0.01 * moments.diagonal().mean() * torch.eye(20)
    latest, place = weight.double().clone(), fitted()(weight)
    order = damped.diagonal().argsort(descending=True).tolist() if ordered else list(range(20))
    expected = torch.empty_like(weight)
    for number, at in enumerate(order):
        left = order[number:]
        inverse = torch.linalg.inv(damped[left][:, left])
        expected[:, at] = place(latest[:, [at]].float())[:, 0]
        error = (latest[:, at] - expected[:, at]) / inverse[0, 0]
        latest[:, left] -= error[:, None] * inverse[0]
    for block in (1, 7, 128):
        assert torch.equal(gptq.rounded(weight, moments, fitted(), ordered=ordered, block=block), expected)


def test_outputs_are_closer_than_those_of_rounding():
    weight, x = correlated()
    moments = gptq.hessian([x[:, None]])
    for bits in (2, 3, 4):
        plain = fitted(bits)(weight)(weight)
        errors = [((found - weight) @ x.T).square().sum() for found in (gptq.rounded(weight, moments, fitted(bits)), plain)]
        assert errors[0] < 0.8 * errors[1]


def test_a_column_of_zeros_stays_and_one_that_is_never_read_becomes_zero():
    weight, x = correlated()
    weight[:, 3] = 0
    x = x.clone()
    x[:, 5] = 0
    x[:, 3] = torch.randn(len(x), generator=torch.Generator().manual_seed(1))  # like no other input
    found = gptq.rounded(weight, gptq.hessian([x[:, None]]), fitted(), damping=1e-9)
    assert not found[:, 5].any() and not found[:, 3].any()
    assert found[:, 4].any()


# --- a whole model ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["classification", "span"])
def test_every_linear_is_rounded_for_the_inputs_that_those_before_it_make(kind):
    """Against a twin that runs the whole model anew for each linear, and looks at one unpadded row at a time."""
    batches = [batch_of(kind, rows=4)]
    student, twin = student_of(kind=kind, batches=batches, activations=None)
    recipe = recipe_of("gptq_3bit")
    apply(twin, "quantize", weights=recipe.weights, embeddings=recipe.embeddings, activations=None)
    linears = [module for module in twin.modules() if isinstance(module, QuantLinear)]
    assert len(linears) == 2 * 6 + (kind != "span")
    for linear in linears:
        seen = []
        handle = linear.register_forward_pre_hook(lambda _, given, seen=seen: seen.append(given[0]))
        for batch in batches:
            for row, length in enumerate(batch["attention_mask"].sum(1).tolist()):
                one = {name: x[[row], :length] for name, x in batch.items() if name in INPUTS}
                answers(twin, {**one, "kind": batch["kind"]})
        handle.remove()
        gptq.round_weight(linear, gptq.hessian(seen))
    found = [module for module in student.modules() if isinstance(module, QuantLinear)]
    for ours, theirs in zip(found, linears, strict=True):
        differ = (ours.weight - theirs.weight).abs() > 1e-6
        assert differ.float().mean() <= 0.01  # where rounding noise decides between two levels
    assert torch.allclose(answers(student, batches[0]), answers(twin, batches[0]), atol=0.05)


def test_padding_and_the_size_of_batches_change_no_weight():
    batch = batch_of(rows=6)
    longer = {name: torch.nn.functional.pad(x, (0, 4)) if getattr(x, "ndim", 0) == 2 else x for name, x in batch.items()}
    halves = [{name: x[part] if torch.is_tensor(x) else x for name, x in batch.items()} for part in (slice(3), slice(3, 6))]
    students = [student_of(batches=batches, activations=None)[0] for batches in ([batch], [longer], halves)]
    for weights in zip(*(student.parameters() for student in students), strict=True):
        for other in weights[1:]:
            assert ((weights[0] - other).abs() > 1e-6).float().mean() <= 0.01


@pytest.mark.parametrize(("method", "kind"), [*(("gptq_3bit", kind) for kind in KINDS), *((one, "span") for one in METHODS)])
def test_the_file_answers_as_the_student_does_and_holds_the_very_weights(method, kind, tmp_path):
    student, _ = student_of(method, kind)
    path = tmp_path / "model.safetensors"
    artifact.save(path, student, META)
    loaded, _ = artifact.load(path)
    for name, module in student.named_modules():
        if isinstance(module, QuantLinear) and module.weight_quantizer is not None:
            assert torch.equal(module.weight, module.quantized_weight())
            assert torch.equal(module.weight, loaded.get_submodule(name).weight)
    assert torch.allclose(answers(loaded.eval(), batch_of(kind)), answers(student, batch_of(kind)), atol=1e-5)


def test_it_answers_more_like_the_model_than_rounding_does():
    batches = [batch_of(seed=seed) for seed in range(8)]
    student, before = student_of("gptq_3bit", batches=batches)
    plain, recipe = model_of(), request("clip_3bit")["spec"]["recipe"]
    apply(plain, **recipe["edits"][0])
    unseen = [batch_of(seed=seed) for seed in range(20, 30)]
    errors = [
        sum((answers(model, batch) - answers(before, batch)).square().sum() for batch in unseen)
        for model in (student, plain)
    ]
    assert errors[0] < 0.8 * errors[1]


def test_learned_ranges_of_activations_are_calibrated():
    student, _ = student_of(activations={"kind": "step", "bits": 8})
    assert answers(student, batch_of()).isfinite().all()


def test_a_grid_that_moves_with_the_weights_is_refused():
    with pytest.raises(UserError, match="and 'symmetric' does: use `clipped`"):
        student_of(weights={"kind": "symmetric", "bits": 3, "rows": True})


def test_no_rows_to_look_at_is_an_error():
    with pytest.raises(UserError, match="there are none"):
        gptq.student(model_of(), recipe_of("gptq_3bit"), context())


# --- sizes ------------------------------------------------------------------------------------------------

STEPS = 4 * (83_712 + 30_522)  # bytes: one step a row of a matrix or of the vocabulary


@pytest.mark.parametrize(
    ("method", "mebibytes", "with_steps"),
    [
        ("rtn_rows_8bit", 105.889, 106.325),
        ("rtn_rows_4bit", 53.930, 54.366),
        ("rtn_rows_3bit", 40.941, 41.377),
        ("clip_2bit", 27.951, 28.387),
    ],
)
def test_bert_bases_size_is_what_its_shapes_say(method, mebibytes, with_steps):
    recipe = request(method)["spec"]["recipe"]
    model = bert_base(*recipe["edits"])
    bits, steps = 0, 0
    for module in model.modules():
        quantizer = getattr(module, "weight_quantizer", None)
        if quantizer is not None:
            bits += module.weight.numel() * (quantizer.levels - 1).bit_length()
            steps += 4 * len(module.weight)
            if isinstance(quantizer, Clipped):
                assert quantizer.step.shape == (len(module.weight), 1)
    on_grid = {id(m.weight) for m in model.modules() if getattr(m, "weight_quantizer", None) is not None}
    others = [p for n, p in model.named_parameters() if id(p) not in on_grid and "classifier" not in n]
    assert steps == STEPS
    published = bits / 8 + 4 * sum(map(torch.numel, others))
    assert published / 2**20 == pytest.approx(mebibytes, abs=6e-4)
    assert (published + steps) / 2**20 == pytest.approx(with_steps, abs=6e-4)


@pytest.mark.parametrize(("method", "bits"), [("rtn_rows_3bit", 3), ("clip_2bit", 2), ("gptq_4bit", 4)])
def test_a_run_leaves_its_bits_and_a_step_for_each_row(method, bits, run_method):
    record, folder = run_method(method)
    assert record["status"] == "ok"
    assert record["steps"] == 0
    assert record["bits"] == {"weights": bits, "embeddings": bits, "activations": 8}
    arrays, meta = artifact.read(folder / "last.safetensors")
    for name, entry in meta["packed"].items():
        assert arrays[f"{name}.step"].shape == (entry["shape"][0], 1)


# --- the official code ------------------------------------------------------------------------------------

GOLDEN = SHARED / "golden/more_ptq.npz"
official = pytest.mark.skipif(not GOLDEN.is_file(), reason="the official implementation's outputs are not here")


def tensors() -> dict[str, torch.Tensor]:
    arrays = np.load(GOLDEN)
    return {name: torch.from_numpy(arrays[name]) for name in arrays.files if name != "config"}


def official_grid(weight: torch.Tensor, bits: int, symmetric: bool, rows: bool = True, searched: bool = True):
    """Return step, zero, and the function that puts numbers on the grid."""
    step, zero = search(weight, bits, rows, symmetric=symmetric, shrink=0.8 if searched else 0.0)
    return step, zero, lambda x: ((x / step).round() + zero).clamp(0, 2**bits - 1).sub(zero).mul(step)


def close(ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    return torch.allclose(ours, theirs, rtol=0, atol=1e-5 * float(theirs.abs().max()))


@official
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
def test_official_grids(bits, symmetric):
    arrays = tensors()
    weight = arrays["weight"]
    for rows in (True, False):
        for searched in (True, False):
            words = ("sym" if symmetric else "asym", "row" if rows else "tensor", "mse" if searched else "minmax")
            name = ".".join(("grid", str(bits), *words))
            step, zero, put = official_grid(weight, bits, symmetric, rows, searched)
            assert close(step.expand(24, 1)[:, 0], arrays[f"{name}.scale"]), name
            assert torch.equal(zero.expand(24, 1)[:, 0], arrays[f"{name}.zero"]), name
            assert close(put(weight), arrays[f"{name}.out"]), name
            if symmetric:
                quantizer = Clipped(bits, rows=rows, shrink=0.8 if searched else 0.0)
                quantizer.calibrate(weight)
                assert close(quantizer(weight), arrays[f"{name}.out"]), name
                assert close(grids.decode(quantizer.encode(weight)), arrays[f"{name}.out"]), name


@official
def test_the_official_hessian():
    arrays = tensors()
    assert close(gptq.hessian(arrays["inputs"]).float(), arrays["hessian"])


@official
@pytest.mark.parametrize(
    ("name", "bits", "symmetric", "options"),
    [
        *(
            (f"{bits}.{'sym' if symmetric else 'asym'}", bits, symmetric, {})
            for bits in (2, 3, 4)
            for symmetric in (True, False)
        ),
        ("3.asym.actorder", 3, False, {"ordered": True}),
        ("3.asym.groups8", 3, False, {"group": 8}),
        ("3.asym.minmax", 3, False, {}),
    ],
)
def test_official_roundings(name, bits, symmetric, options):
    arrays = tensors()
    weight, moments = arrays["weight"], gptq.hessian(arrays["inputs"])
    searched = name != "3.asym.minmax"

    def fit(part):
        return official_grid(part, bits, symmetric, searched=searched)[2]

    found = gptq.rounded(weight, moments, fit, **options)
    assert close(found, arrays[f"gptq.{name}.out"])
    if f"error.gptq.{name}.out" in arrays:
        error = ((found - weight) @ arrays["inputs"].flatten(0, 2).T).double().square().sum()
        assert float(error) == pytest.approx(float(arrays[f"error.gptq.{name}.out"]), rel=1e-5)
        plain = f"error.grid.{bits}.asym.row.mse.out"
        assert float(error) < float(arrays[plain])
    if symmetric:
        assert close(gptq.rounded(weight, moments, fitted(bits)), arrays[f"gptq.{name}.out"])


@official
def test_official_grids_leave_no_more_error_than_the_table_says():
    """The greedy rounding that inverts anew for every entry (OBQ) is better still, and takes minutes a layer."""
    arrays = tensors()
    for bits in (3, 4):
        assert float(arrays[f"error.obq.{bits}.out"]) < float(arrays[f"error.gptq.{bits}.asym.out"])
    assert math.isclose(float(arrays["error.grid.3.asym.row.minmax.out"]), 293.03, rel_tol=1e-4)
