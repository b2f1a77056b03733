"""ONNX graphs return what the model files do, in ONNX Runtime, whatever was done to the model."""

import subprocess
import sys
from textwrap import dedent

import numpy as np
import pytest
import torch

from methods.__main__ import main
from methods.common.errors import UserError
from methods.common.files import read_json
from methods.kernel import quantizers
from methods.model import artifact
from methods.model.edits import apply, calibrate
from tests.fixtures.models import KINDS, answers, batch_of, model_of

onnx = pytest.importorskip("onnx", reason="onnx is not installed: pip install -r requirements-export.txt -c constraints.txt")
runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed (requirements-export.txt)")
from methods.use import export_onnx, onnx_graph  # noqa: E402  it needs onnx

THRESHOLD = {"kind": "threshold", "bits": 8}
KDLSQ = {
    "weights": {"kind": "threshold", "bits": 4},
    "embeddings": {"kind": "threshold", "bits": 2},
    "activations": THRESHOLD,
}
TERNARYBERT = {
    "weights": {"kind": "ternary"},
    "embeddings": {"kind": "ternary", "rows": True},
    "activations": {"kind": "asymmetric", "bits": 8},
}
ELASTIC = {"activations": {"kind": "elastic", "bits": 2}, "one_sided": {"kind": "elastic", "bits": 2, "signed": False}}
MODULES = [
    "bert.embeddings.word_embeddings",
    "bert.encoder.layer.0.attention.self.query",
    "bert.encoder.layer.1.output.dense",
]


def quantize(**options) -> tuple:
    return "quantize", {"weights": {"kind": "symmetric", "bits": 4}, **options}


def activations(spec: dict, one_sided: dict | None = None) -> list[tuple]:
    return [quantize(activations=spec, one_sided=one_sided)]


EDITS = {
    "nothing": [],
    "learned thresholds": [("quantize", KDLSQ)],
    "a learned step": activations({"kind": "step", "bits": 4}),
    "an unsigned step": activations(THRESHOLD, {"kind": "step", "bits": 8, "signed": False}),
    "a step above the minimum": activations({"kind": "step", "bits": 4}, {"kind": "step", "bits": 4, "shifted": True}),
    "min-max": [("quantize", TERNARYBERT)],
    "min-max in four bits": activations({"kind": "asymmetric", "bits": 4}),
    "min-max of each token": activations({"kind": "asymmetric", "bits": 8, "rows": True}),
    "min-max of each token around zero": activations({"kind": "symmetric", "bits": 8, "rows": True}),
    "min-max clipped around zero": activations({"kind": "symmetric", "bits": 8, "clip": 2.5}),
    "an interval": activations({"kind": "interval", "bits": 8, "symmetric": True}, {"kind": "interval", "bits": 8}),
    "moving ranges": activations({"kind": "ema", "bits": 8}),
    "moving ranges of inputs and outputs, the head too": [
        quantize(activations={"kind": "ema", "bits": 8}, outputs={"kind": "ema", "bits": 4}, attention=False, head=True)
    ],
    "weights alone": [quantize(positions={"kind": "symmetric", "bits": 8})],
    "weights by rows": [quantize(weights={"kind": "symmetric", "bits": 8, "rows": True}, activations=THRESHOLD)],
    "elastic steps behind shifts": [quantize(**ELASTIC, own_inputs=True, shift=True)],
    "signs, and attention without softmax": [quantize(activations={"kind": "sign"}, probs={"kind": "bool"})],
    "a shift of the shared input": [quantize(activations=THRESHOLD, shift=True)],
    "an even number of levels": [quantize(weights={"kind": "even", "bits": 2, "rows": True}, activations=THRESHOLD)],
    "activations alone": [quantize(weights=None, activations=THRESHOLD)],
    "factors": [("factor", {"share": 0.6, "by": "svd"}), ("quantize", KDLSQ)],
    "a split": [
        ("quantize", {**KDLSQ, "weights": {"kind": "ternary"}}),
        ("split", {"modules": MODULES, "weights": {"kind": "binary"}, "embeddings": {"kind": "binary", "rows": True}}),
    ],
    "fewer heads": [("narrow", {"heads": 1, "neurons": 16}), ("quantize", KDLSQ)],
    "fewer layers": [("layers", {"keep": [1]}), ("activate", {"function": "relu"})],
}


GRIDS = [
    {"kind": "sign"},
    {"kind": "sign", "third": True},
    {"kind": "bool"},
    *({"kind": "elastic", "bits": bits, "signed": signed} for bits in (1, 2, 4) for signed in (True, False)),
    *({"kind": kind, "bits": bits} for kind in ("threshold", "ema") for bits in (1, 2, 4, 8)),
    *(
        {"kind": "step", "bits": bits, **option}
        for bits in (1, 4, 8)
        for option in ({}, {"signed": False}, {"shifted": True})
    ),
    *(
        {"kind": kind, "bits": bits, "rows": rows, "clip": clip}
        for kind in ("symmetric", "asymmetric")
        for bits in (1, 4, 8)
        for rows in (False, True)
        for clip in (None, 1.5)
    ),
    *(
        {"kind": "interval", "bits": bits, "bound": 1.5, "symmetric": symmetric}
        for bits in (4, 8)
        for symmetric in (False, True)
    ),
]


@pytest.mark.parametrize("spec", GRIDS, ids=str)
def test_the_grid_of_every_quantizer_is_the_methods(spec):
    quantizer = quantizers.make(spec)
    x = torch.randn(3, 5, 7, generator=torch.Generator().manual_seed(0))
    x[1, 2] = 0
    quantizer.calibrate(x)
    expected = quantizer(x).detach().numpy()
    graph = onnx_graph.Graph()
    graph.renamed(onnx_graph.quantized(graph, "x", quantizer, exact=True).values(graph), "values")
    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in ("x", "values")]
    whole = onnx.helper.make_graph(graph.nodes, "grid", ends[:1], ends[1:], graph.initializers)
    model = onnx.helper.make_model(whole, opset_imports=[onnx.helper.make_opsetid("", 21)], ir_version=10)
    (found,) = runtime.InferenceSession(model.SerializeToString()).run(None, {"x": x.numpy()})
    assert np.allclose(found, expected, rtol=1e-5, atol=1e-6)


def packed(folder, edits=(), kind: str = "classification", **changes):
    """Return a model as read back from its file, and the file's arrays."""
    model = model_of(kind, **changes)
    for name, options in edits:
        apply(model, name, **options)
    calibrate(model, [batch_of(kind)])
    artifact.save(folder / "model.safetensors", model, {})
    return artifact.load(folder / "model.safetensors")[0].eval(), artifact.read(folder / "model.safetensors")[0]


def ran(graph, batch: dict) -> np.ndarray:
    """Return the outputs of a graph in the order of `answers`."""
    session = runtime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.stack(session.run(None, {name: batch[name].numpy() for name in export_onnx.INPUTS}))


def require_rounding(found: np.ndarray, expected: torch.Tensor) -> None:
    """Assert that differences are those of rounding: a few codes are another where values lie between two."""
    difference = np.abs(found - expected.numpy()) / np.abs(expected.numpy()).max()
    assert np.median(difference) <= 1e-6
    assert np.quantile(difference, 0.9) <= 2e-3


def unpadded(rows: int = 5) -> dict:
    batch = batch_of(rows=rows)
    ids = torch.where(batch["attention_mask"] > 0, batch["input_ids"], 5)
    return {**batch, "input_ids": ids, "attention_mask": torch.ones_like(ids)}


@pytest.mark.parametrize("edits", EDITS.values(), ids=EDITS)
def test_every_edit_returns_the_same_scores(tmp_path, edits):
    model, arrays = packed(tmp_path, edits)
    graph = export_onnx.build(model, arrays, exact=True)
    onnx.checker.check_model(graph, full_check=True)
    batch = unpadded(20)
    batch["token_type_ids"][:, 6:] = 1
    require_rounding(ran(graph, batch), answers(model, batch))


@pytest.mark.parametrize("kind", KINDS)
def test_every_head_returns_the_same_scores(tmp_path, kind):
    model, arrays = packed(tmp_path, [("quantize", KDLSQ)], kind)
    batch = batch_of(kind)
    found, expected = ran(export_onnx.build(model, arrays), batch), answers(model, batch)
    if kind == "span":  # of padding the model says nothing
        found, expected = (one * batch["attention_mask"].numpy() for one in (found, expected.numpy()))
        expected = torch.from_numpy(expected)
    require_rounding(found, expected)


def test_padding_changes_nothing_where_ranges_are_learned(tmp_path):
    model, arrays = packed(tmp_path, [("quantize", KDLSQ)])
    graph, batch = export_onnx.build(model, arrays), batch_of()
    lengths = batch["attention_mask"].sum(1).tolist()
    assert len(set(lengths)) > 1
    together = ran(graph, batch)[0]
    for row, length in enumerate(lengths):
        alone = {name: batch[name][row : row + 1, :length] for name in export_onnx.INPUTS}
        assert np.allclose(ran(graph, alone)[0, 0], together[row], rtol=0, atol=1e-5)


@pytest.mark.parametrize(("bits", "types"), [(8, {"INT8"}), (4, {"INT8", "INT4"}), (2, {"INT8", "INT4", "INT2"})])
def test_codes_are_stored_in_the_width_that_is_asked_for(tmp_path, bits, types):
    edits = [("quantize", {**KDLSQ, "positions": {"kind": "symmetric", "bits": 8}})]
    model, arrays = packed(tmp_path, edits)
    graph = export_onnx.build(model, arrays, bits)
    stored = {one.name: one for one in graph.graph.initializer}
    names = {onnx.TensorProto.DataType.Name(one.data_type) for name, one in stored.items() if name.endswith(".weight")}
    assert {name for name in names if name.startswith("INT")} == types
    name = "bert.encoder.layer.0.output.dense.weight"
    codes = onnx.numpy_helper.to_array(stored[name]).astype(np.float32)
    weight = model.get_submodule(name.removesuffix(".weight")).weight.detach().numpy()
    assert np.array_equal(codes.T * arrays[f"{name}.step"], weight)
    batch = batch_of(rows=20)
    require_rounding(ran(graph, batch), answers(model, batch))


def operators(graph) -> set[str]:
    return {node.op_type for node in graph.graph.node}


def test_learned_ranges_become_pairs_of_quantizers_and_dynamic_ones_the_operator_that_runtimes_fuse(tmp_path):
    model, arrays = packed(tmp_path, [("quantize", KDLSQ)])
    learned = export_onnx.build(model, arrays)
    assert {"QuantizeLinear", "DequantizeLinear"} <= operators(learned)
    assert "MatMulInteger" not in operators(learned)
    assert export_onnx.is_static(model)
    assert export_onnx.notes(model, exact=False) == []
    model, arrays = packed(tmp_path, [("quantize", TERNARYBERT)])
    dynamic, exact = (export_onnx.build(model, arrays, exact=exact) for exact in (False, True))
    assert {"DynamicQuantizeLinear", "MatMulInteger"} <= operators(dynamic)
    assert "DynamicQuantizeLinear" not in operators(exact)
    assert not export_onnx.is_static(model)
    assert "rounded" in export_onnx.notes(model, exact=False)[0]
    assert ["padding" in note for note in export_onnx.notes(model, exact=True)] == [True]


def test_dynamic_ranges_of_the_operator_stay_near(tmp_path):
    for edits in ([("quantize", TERNARYBERT)], [("int8_dynamic", {})]):
        model, arrays = packed(tmp_path, edits)
        batch = unpadded(1)
        found, expected = ran(export_onnx.build(model, arrays), batch), answers(model, batch).numpy()
        assert 0 < np.abs(found - expected).max() < 0.2 * np.abs(expected).max()


def test_another_encoder_has_its_positions(tmp_path):
    changes = {"model_type": "roberta", "pad_token_id": 1, "type_vocab_size": 1}
    model, arrays = packed(tmp_path, [("quantize", KDLSQ)], **changes)
    batch = batch_of(rows=20)
    batch["input_ids"] = torch.where(batch["attention_mask"] > 0, batch["input_ids"], 1)
    require_rounding(ran(export_onnx.build(model, arrays), batch), answers(model, batch))


def test_what_has_no_form_in_onnx_is_refused_in_one_line(tmp_path):
    model, arrays = packed(tmp_path)
    model.set_submodule("bert.encoder.layer.1.output.dense", torch.nn.Bilinear(1, 1, 1))
    with pytest.raises(UserError, match=r"bert.encoder.layer.1.output.dense is a Bilinear.*--to hf"):
        export_onnx.build(model, arrays)
    model, arrays = packed(tmp_path, activations({"kind": "ternary"}))
    with pytest.raises(UserError, match="'ternary' cannot be exported"):
        export_onnx.build(model, arrays)


def test_the_command_writes_a_graph_that_was_checked(run_method, base_path, tmp_path, capsys):
    out = tmp_path / "out"
    assert export_of(run_method("lsq_4bit")[1] / "last.safetensors", base_path, out) == 0
    told = capsys.readouterr().out
    assert "Checked in onnxruntime, 12 rows" in told
    assert "the same answer in every row" in told
    assert sorted(file.name for file in out.iterdir()) == ["README.md", "config.json", "model.onnx", "tokenizer.json"]
    assert read_json(out / "config.json")["labels"] == ["negative", "positive"]
    example = "\n".join(line for line in (out / "README.md").read_text().splitlines() if line.startswith("    "))
    shown = subprocess.run([sys.executable, "-c", dedent(example)], cwd=out, capture_output=True, text=True, check=True)
    assert shown.stdout.startswith("[array([[")


def export_of(path, base_path, out, *words) -> int:
    return main(["export", str(path), "--to", "onnx", str(out), "--base", str(base_path), *words])


def test_a_graph_that_computes_something_else_is_not_written(run_method, base_path, tmp_path, capsys, monkeypatch):
    path = run_method("lsq_4bit")[1] / "last.safetensors"
    monkeypatch.setitem(export_onnx.ACTIVATIONS, "GELUActivation", ("Relu", {}))
    assert export_of(path, base_path, tmp_path / "out") == 1
    assert "computes other numbers than the model file" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_runtimes_that_are_absent_or_refuse_a_width_are_named(run_method, base_path, tmp_path, capsys, monkeypatch):
    path = run_method("lsq_4bit")[1] / "last.safetensors"
    assert export_of(path, base_path, tmp_path / "out", "--for", "openvino", "--width", "2") == 1
    assert "OpenVINO refuses codes of 2 bits" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "openvino", None)
    assert export_of(path, base_path, tmp_path / "out", "--for", "openvino") == 0
    assert "not checked, because openvino is not installed" in capsys.readouterr().out
