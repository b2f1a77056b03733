"""XTC: the official code's grids, the layers and maps of shallow students, and what is left in full precision."""

import copy
import itertools

import numpy as np
import pytest
import torch

from methods import xtc
from methods.common import interrupt
from methods.kernel import grids
from methods.kernel.layers import QuantEmbedding, Quantized, QuantLinear
from methods.kernel.quantizers import Binary, Symmetric, Ternary
from methods.model import artifact
from methods.model.anatomy import layers
from methods.model.edits import show_scores
from methods.training.forward import forward
from methods.training.objective import Objective
from tests.fixtures.models import KINDS, META, answers, batch_of, bert_base, model_of
from tests.fixtures.runs_of_methods import FILES, recipe_of, request
from tests.fixtures.world import SHARED, context

GOLDEN = SHARED / "golden/more_xtc.npz"
needs_golden = pytest.mark.skipif(not GOLDEN.is_file(), reason="the official implementation's outputs are not here")
QUANTIZERS = {
    "bwn1": lambda: Binary(rows=True),
    "twn2": lambda: Ternary(rows=True),
    "sym8": lambda: xtc.Levels(8),
    "sym4": lambda: xtc.Levels(4),
    "asym8": lambda: xtc.Levels(8, symmetric=False),
    "asym4": lambda: xtc.Levels(4, symmetric=False),
}


def relative(ours: torch.Tensor, theirs) -> float:
    theirs = torch.as_tensor(theirs)
    return float((ours.detach() - theirs).abs().max() / theirs.abs().max())


# --- the official grids -----------------------------------------------------------------------------------


@needs_golden
def test_every_golden_grid_and_its_gradient():
    arrays, seen = np.load(GOLDEN), 0
    for name in [name.removesuffix(".out") for name in arrays.files if ".groups" in name and name.endswith(".out")]:
        values, kind, groups = name.split(".")
        x = torch.from_numpy(arrays[values]).requires_grad_()
        out = QUANTIZERS[kind]()(x.reshape(int(groups.removeprefix("groups")), -1)).reshape(x.shape)
        assert relative(out, arrays[f"{name}.out"]) <= 1e-5, name
        if f"{name}.grad_out" in arrays:
            out.backward(torch.from_numpy(arrays[f"{name}.grad_out"]))
            assert relative(x.grad, arrays[f"{name}.grad_in"]) <= 1e-5, name
        seen += 1
    assert seen == 3 * 6 * 3  # inputs, kinds, numbers of groups


@needs_golden
@pytest.mark.parametrize("kind", ["sym8", "sym4", "asym8", "asym4"])
def test_golden_activations(kind):
    arrays, quantizer = np.load(GOLDEN), QUANTIZERS[kind]()
    x, (family, bits) = torch.from_numpy(arrays["act"]), (kind[:-1], kind[-1])
    assert relative(quantizer(x), arrays[f"act.{family}{bits}.per_token"]) <= 1e-5
    whole = quantizer(x.reshape(1, -1)).reshape(x.shape)
    assert relative(whole, arrays[f"act.{family}{bits}.per_tensor"]) <= 1e-5


@needs_golden
@pytest.mark.parametrize(("name", "weight"), [("w1a8", Binary()), ("w2a8", Ternary())])
def test_a_golden_linear_map(name, weight):
    arrays = np.load(GOLDEN)
    linear = torch.nn.Linear(36, 24)
    with torch.no_grad():
        linear.weight.copy_(torch.from_numpy(arrays["linear.weight"]))
        linear.bias.copy_(torch.from_numpy(arrays["linear.bias"]))
    layer, x = QuantLinear(linear, weight, xtc.Levels(8)), torch.from_numpy(arrays["act"]).requires_grad_()
    out = layer(x)
    out.backward(torch.from_numpy(arrays["linear.grad_out"]))
    for ours, theirs in ((out, "out"), (x.grad, "grad_x"), (layer.weight.grad, "grad_weight")):
        assert relative(ours, arrays[f"linear.{name}.{theirs}"]) <= 1e-5, theirs


@needs_golden
def test_a_golden_embedding():
    arrays = np.load(GOLDEN)
    table = torch.nn.Embedding.from_pretrained(torch.from_numpy(arrays["outlier"]), freeze=False)
    layer, ids = QuantEmbedding(table, Binary(rows=True)), torch.from_numpy(arrays["embedding.ids"])
    for mode in (layer.train(), layer.eval()):  # looked-up rows, and the whole table
        assert relative(mode(ids), arrays["embedding.w1.out"]) <= 1e-5


@needs_golden
def test_golden_static_ranges():
    """A range that moves by a twentieth of each batch's, the first batch counted twice; XTC's runs take dynamic ones."""
    arrays, moving = np.load(GOLDEN), None
    for t in range(4):
        x = torch.from_numpy(arrays[f"static.x.{t}"])
        seen = torch.stack([x.min(), x.max()])
        moving = (seen if moving is None else moving) * 0.95 + seen * 0.05
        assert relative(moving, arrays[f"static.range.{t}"]) <= 1e-5
        errors = [
            relative(grids.decode(grids.parts(x, *moving, 8, symmetric)), arrays[f"static.out.{t}"])
            for symmetric in (True, False)
        ]
        assert min(errors) <= 1e-5


def test_levels_by_hand():
    """Two bits: parts of half the largest magnitude, or of a quarter of the range; the largest value loses its level."""
    x = torch.tensor([[-2.0, -0.6, 0.4, 2.0]])
    assert xtc.Levels(2)(x).tolist() == [[-2.0, -1.0, 0.0, 1.0]]
    assert xtc.Levels(2, symmetric=False)(torch.tensor([[-1.0, 0.4, 0.6, 3.0]])).tolist() == [[-1.0, 0.0, 1.0, 2.0]]


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", range(1, 9))
def test_levels_keep_the_laws_of_a_quantizer(bits, symmetric):
    quantizer = xtc.Levels(bits, symmetric)
    x = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(0))
    x[0, 0], x[0, 1], x[1, 1] = 0.0, x[0, 1] * 1e-40, 0.7
    values, grid = quantizer(x), quantizer.encode(x)
    assert torch.equal(values, grids.decode(grid))
    assert values.isfinite().all() and torch.equal(values[0, 0], x[0, 0])
    assert int(grid.codes.min()) >= quantizer.codes_from and int(grid.codes.max()) <= quantizer.codes_to
    assert quantizer.levels == 2**bits
    assert bool(((values - x).abs() <= 1.5 * grid.step * (1 + 1e-5) + 1e-38).all())
    for row, expected in zip(x.reshape(-1, 7), values.reshape(-1, 7), strict=True):  # rows do not depend on one another
        assert torch.equal(quantizer(row[None])[0], expected)
    x[1, 2, 3] = float("inf")
    assert quantizer(x)[1, 2].isnan().all()
    assert torch.equal(quantizer(x)[0], values[0])


# --- layers and maps --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("depth", "half", "fewer"),
    [
        (12, [1, 3, 5, 7, 9, 11], [2, 4, 6, 8, 10]),
        (24, list(range(1, 24, 2)), list(range(3, 22, 2))),
        (6, [1, 3, 5], [1, 4]),
        (3, [1], [1]),
        (2, [1], [1]),
        (1, [0], [0]),
    ],
)
def test_the_layers_that_are_kept(depth, half, fewer):
    assert (xtc.kept(depth, 6), xtc.kept(depth, 5)) == (half, fewer)


def test_the_maps_of_the_official_code():
    assert xtc.maps([1, 3, 5, 7, 9, 11]) == {"attention": [1, 3, 5, 7, 9, 11], "hidden": [0, 2, 4, 6, 8, 10, 12]}
    assert xtc.maps([2, 4, 6, 8, 10]) == {"attention": [2, 4, 6, 8, 10], "hidden": [1, 3, 5, 7, 9, 11]}
    assert xtc.maps([0])["hidden"] == [0, 1]


@pytest.mark.parametrize("depth", range(1, 30))
@pytest.mark.parametrize("of_12", [5, 6])
def test_the_maps_of_every_depth_name_layers_that_there_are(depth, of_12):
    keep = xtc.kept(depth, of_12)
    assert len(keep) == max(1, of_12 * depth // 12)
    assert len({after - before for before, after in itertools.pairwise(keep)}) <= 1
    states = xtc.maps(keep)["hidden"]
    assert states == sorted(set(states)) and states[0] >= 0 and states[-1] <= depth


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("method", "keep"), [("xtc_kd_6l", [1, 3, 5, 7, 9, 11]), ("xtc_kd_5l", [2, 4, 6, 8, 10])])
def test_a_shallow_student_equals_the_teachers_layers_before_training(kind, method, keep):
    teacher, batch = model_of(kind, num_hidden_layers=12), batch_of(kind)
    student = xtc.student(copy.deepcopy(teacher), recipe_of(method), context())
    assert student.config.num_hidden_layers == len(keep)
    whole = teacher.base_model.encoder.layer
    teacher.base_model.encoder.layer = torch.nn.ModuleList(whole[at] for at in keep)
    assert torch.equal(answers(student, batch), answers(teacher, batch))
    assert student.record.edits == [{"kind": "layers", "keep": keep}]


def test_a_run_that_starts_from_a_shallow_student_follows_the_same_layers(run_method):
    """The second run of the chain knows the layers by the file of the first."""
    record, folder = run_method("xtc_1bit_6l")
    assert record["ancestors"]["init"]["method"] == "xtc_kd_6l"
    student = run_method.students[folder]
    assert student.config.num_hidden_layers == 1
    assert xtc.layers_kept(student) == [1]
    (stage,) = xtc.stages(student, recipe_of("xtc_1bit_6l"), context())
    options = stage.passes[0].objective.options
    assert options == {"attention": {"map": [1]}, "hidden": {"map": [0, 2]}, "logits": {}}
    assert record["curve"][0]["terms"].keys() == {"attention", "hidden", "logits"}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", ["xtc_1bit", "xtc_2bit", "xtc_1bit_5l", "xtc_1bit_official"])
def test_gradients_reach_every_matrix_whatever_the_task(method, kind):
    teacher, batch = model_of(kind, num_hidden_layers=3), batch_of(kind)
    student = copy.deepcopy(teacher)
    if method.endswith("5l"):
        student = xtc.student(student, recipe_of("xtc_kd_5l"), context())
    recipe = recipe_of(method)
    student = xtc.student(student, recipe, context())
    (stage,) = xtc.stages(student, recipe, context())
    objective = stage.passes[0].objective
    show_scores(teacher)
    traces = [forward(model, batch, objective.wanted) for model in (student, teacher)]
    values = objective(*traces, batch)
    sum(value.mean() for value in values.values()).backward()
    assert all(value.shape == (5,) and bool((value > 0).all()) for value in values.values())
    matrices = {name: parameter for name, parameter in student.named_parameters() if parameter.dim() == 2}
    assert all(parameter.grad.abs().sum() > 0 for parameter in matrices.values())


def test_a_run_that_was_stopped_ends_with_the_same_bytes(run_method, monkeypatch):
    whole = run_method("xtc_1bit_6l")[1]
    looks = iter([False] * 10 + [True])
    with monkeypatch.context() as patched:
        patched.setattr(interrupt, "asked", lambda: next(looks))
        with pytest.raises(interrupt.Interrupted):
            run_method("xtc_1bit_6l", copy="stopped")
    _, resumed = run_method("xtc_1bit_6l", copy="stopped")
    for name in FILES:
        assert (resumed / name).read_bytes() == (whole / name).read_bytes(), name


def test_the_loss_of_a_student_that_is_the_mapped_teacher_is_zero_but_for_the_depth_it_lacks():
    """Its states differ, as layers are missing; but a student that shows what the map names has no loss."""
    teacher, batch = model_of(num_hidden_layers=12), batch_of()
    show_scores(teacher)
    shown = forward(teacher, batch, frozenset({"hidden", "scores"}))
    student = copy.copy(shown)
    chosen = xtc.maps(xtc.kept(12, 5))
    student.shown = {
        "hidden": [shown.shown["hidden"][at] for at in chosen["hidden"]],
        "scores": [shown.shown["scores"][at] for at in chosen["attention"]],
    }
    terms = xtc.mapped({"hidden": 1.0, "attention": {"weight": 0.5}}, xtc.kept(12, 5))
    assert terms["attention"] == {"weight": 0.5, "map": [2, 4, 6, 8, 10]}
    values = Objective(terms)(student, shown, batch)
    assert all(not value.any() for value in values.values())


def test_a_student_of_all_layers_has_no_map():
    assert xtc.mapped({"hidden": 1.0}, None) == {"hidden": 1.0}
    assert xtc.layers_kept(xtc.student(model_of(), recipe_of("xtc_1bit"), context())) is None


# --- what is quantized ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "weight"), [("xtc_1bit", Binary), ("xtc_2bit", Ternary)])
def test_linear_maps_of_the_layers_and_the_word_embedding_are_quantized_and_nothing_else(method, weight):
    student = xtc.student(model_of(), recipe_of(method), context())
    found = {name: module for name, module in student.named_modules() if isinstance(module, Quantized)}
    quantized = {name for name, module in found.items() if module.weight_quantizer is not None}
    assert len(quantized) == 2 * 6 + 1
    assert not any("pooler" in name or "position" in name or "classifier" in name for name in quantized)
    for name in quantized:
        assert isinstance(found[name].weight_quantizer, weight)
        assert found[name].weight_quantizer.rows == ("word_embeddings" in name)
    for layer in layers(student):
        assert getattr(layer.attention, "quantizers", None) is None
        inputs = [layer.attention, layer["attention output"], layer["intermediate"], layer["output"]]
        assert all(isinstance(module.input_quantizer, Symmetric) for module in inputs)
        assert all((module.input_quantizer.bits, module.input_quantizer.rows) == (8, True) for module in inputs)


def test_the_answer_to_one_text_does_not_depend_on_the_others():
    student, batch = xtc.student(model_of(), recipe_of("xtc_1bit"), context()), batch_of()
    alone = {name: x[:1] if isinstance(x, torch.Tensor) else x for name, x in batch.items()}
    length = int(alone["attention_mask"].sum())
    for name in ("input_ids", "attention_mask", "token_type_ids"):
        alone[name] = alone[name][:, :length]
    assert torch.allclose(answers(student, alone)[0, 0], answers(student, batch)[0, 0], atol=1e-5)


def test_the_official_variant_has_the_official_grid_and_its_file_too(tmp_path):
    student = xtc.student(model_of(), recipe_of("xtc_1bit_official"), context())
    inputs = [module.input_quantizer for module in student.modules() if getattr(module, "input_quantizer", None)]
    assert len(inputs) == 2 * 4
    assert all(isinstance(one, xtc.Levels) and one.role == "activations" for one in inputs)
    artifact.save(tmp_path / "model.safetensors", student, {**META, "labels": ["a", "b", "c"]})
    loaded = artifact.load(tmp_path / "model.safetensors")[0].eval()
    batch = batch_of()
    assert torch.allclose(answers(loaded, batch), answers(student, batch), atol=1e-6)
    usual = xtc.student(model_of(), recipe_of("xtc_1bit"), context())
    assert not torch.equal(answers(usual, batch), answers(loaded, batch))


def test_the_warm_up_is_one_epoch():
    recipe = request("xtc_1bit")["spec"]["recipe"]
    assert recipe["epochs"] * recipe["warmup"] == pytest.approx(1, abs=1e-2)


# --- sizes ------------------------------------------------------------------------------------------------

MATRICES, WORDS, LAYER = 84_934_656, 23_440_896, 7_087_872


@pytest.mark.parametrize(("method", "depth"), [("xtc_1bit", 12), ("xtc_1bit_6l", 6), ("xtc_1bit_5l", 5)])
def test_sizes_on_bert_base(method, depth):
    """The paper divides the size of all matrices by the bits: 13.037, 7.974 and 7.131 MiB. The file keeps positions,
    types and the pooler in full precision, and biases and LayerNorms, which the paper leaves out.
    """
    model = bert_base()
    if depth < 12:
        model = xtc.student(model, recipe_of(f"xtc_kd_{depth}l"), context())
    two_dimensional = sum(parameter.numel() for parameter in model.parameters() if parameter.dim() == 2)
    claimed = {12: (109_361_664, 13.037), 6: (66_894_336, 7.974), 5: (59_816_448, 7.131)}[depth]
    assert two_dimensional == claimed[0]
    assert two_dimensional / 8 / 2**20 == pytest.approx(claimed[1], abs=5e-4)
    body = sum(parameter.numel() for parameter in model.base_model.parameters())
    assert body == 109_482_240 - (12 - depth) * LAYER
    student = xtc.student(model, recipe_of(method), context())
    found = [module for module in student.modules() if isinstance(module, Quantized)]
    binary = sum(module.weight.numel() for module in found if module.weight_quantizer is not None)
    assert binary == WORDS + MATRICES * depth // 12
    positions_and_types, pooler, of_a_layer = 514 * 768, 768 * 768 + 768, 9 * 768 + 3072  # biases and LayerNorms
    assert body - binary == positions_and_types + 2 * 768 + pooler + depth * of_a_layer
    size = (binary / 8 + 4 * (body - binary)) / 2**20
    assert size == pytest.approx({12: 17.141, 6: 11.850, 5: 10.968}[depth], abs=5e-4)
