"""Folders for transformers hold the values of the model files, and load as they are."""

import json
import subprocess
import sys

import pytest
import torch
from huggingface_hub import ModelCard

from methods.__main__ import main
from methods.common.errors import UserError
from methods.model import artifact
from methods.model.edits import apply, calibrate
from methods.use import export_hf
from tests.fixtures.models import KINDS, batch_of, model_of

SPLIT = ["bert.embeddings.word_embeddings", "bert.encoder.layer.0.attention.self.query"]
GRIDS = {
    "weights": {"kind": "ternary"},
    "embeddings": {"kind": "ternary", "rows": True},
    "activations": {"kind": "asymmetric", "bits": 8},
}
BINARY = {"weights": {"kind": "binary"}, "embeddings": {"kind": "binary", "rows": True}}
EDITS = {
    "nothing": [],
    "grids": [("quantize", GRIDS)],
    "a split": [("quantize", GRIDS), ("split", {"modules": SPLIT, **BINARY})],
    "factors": [("factor", {"share": 0.6, "by": "svd"}), ("quantize", GRIDS)],
    "fewer heads and neurons": [("narrow", {"heads": 1, "neurons": 16})],
    "fewer layers": [("layers", {"keep": [1]}), ("activate", {"function": "relu"})],
    "dynamic int8": [("int8_dynamic", {})],
}


def packed(folder, edits, kind: str = "classification"):
    """Return a model as read back from its file, and what its header says of the task."""
    model = model_of(kind)
    for name, options in edits:
        apply(model, name, **options)
    calibrate(model, [batch_of(kind)])
    artifact.save(folder / "model.safetensors", model, {"kind": kind, "labels": KINDS[kind]})
    model, meta = artifact.load(folder / "model.safetensors")
    return model.eval(), meta


@pytest.mark.parametrize("edits", EDITS.values(), ids=EDITS)
def test_the_stock_model_computes_what_ours_does_without_quantized_activations(tmp_path, edits):
    model, meta = packed(tmp_path, edits)
    stock = export_hf.decoded(model, meta)
    batch = {name: batch_of()[name] for name in export_hf.INPUTS}
    with torch.no_grad():
        found = stock(**batch).logits
        assert torch.allclose(found, export_hf.without_activations(model)(**batch).logits, atol=1e-5)
    assert {type(module).__module__.partition(".")[0] for module in stock.modules()} <= {"torch", "transformers"}


def test_values_are_those_of_the_file(tmp_path):
    model, meta = packed(tmp_path, [("quantize", GRIDS)])
    stock, ours = export_hf.decoded(model, meta).state_dict(), dict(model.named_parameters())
    assert all(torch.equal(tensor, ours[name]) for name, tensor in stock.items())


def test_removed_heads_are_zeros(tmp_path):
    model, meta = packed(tmp_path, [("narrow", {"heads": 1, "neurons": 16})])
    attention = export_hf.decoded(model, meta).bert.encoder.layer[0].attention
    assert attention.self.value.weight.shape == (16, 16)
    assert not attention.self.value.weight[4:].any()
    assert not attention.output.dense.weight[:, 4:].any()
    assert attention.self.value.weight[:4].all()


@pytest.mark.parametrize(
    ("kind", "problem"), [("classification", "single_label_classification"), ("regression", "regression")]
)
def test_the_configuration_names_labels_and_problem(tmp_path, kind, problem):
    config = export_hf.decoded(*packed(tmp_path, [], kind)).config
    assert config.problem_type == problem
    assert list(config.id2label.values()) == (KINDS[kind] or ["LABEL_0"])


def test_a_layer_without_a_stock_form_is_refused_in_one_line(tmp_path):
    model, meta = packed(tmp_path, [])
    model.bert.encoder.layer[0].output.dense = torch.nn.Bilinear(1, 1, 1)
    with pytest.raises(UserError, match=r"output.dense.weight' has no stock form"):
        export_hf.decoded(model, meta)


def test_a_shift_before_a_layer_is_refused_in_one_line(tmp_path):
    model, meta = packed(tmp_path, [("quantize", {**GRIDS, "shift": True})])
    with pytest.raises(UserError, match="shifts the inputs"):
        export_hf.decoded(model, meta)


def test_attention_without_softmax_is_refused_in_one_line(tmp_path):
    model, meta = packed(tmp_path, [("quantize", {**GRIDS, "probs": {"kind": "bool"}})])
    with pytest.raises(UserError, match="attention without softmax"):
        export_hf.decoded(model, meta)


LOAD = """
import json, sys
from transformers import AutoModelForSequenceClassification, AutoTokenizer
folder = sys.argv[1]
tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForSequenceClassification.from_pretrained(folder)
row = tokenizer("the film is good", "not dull", return_tensors="pt")
print(json.dumps([row["input_ids"].tolist(), row["token_type_ids"].tolist(), model(**row).logits.tolist()]))
"""


def test_the_command_writes_a_folder_that_transformers_loads(run_method, base_path, tmp_path, capsys):
    record, folder = run_method("lsq_4bit")
    path = folder / "last.safetensors"
    assert main(["export", str(path), "--to", "hf", str(tmp_path / "out"), "--base", str(base_path)]) == 0
    told = capsys.readouterr().out
    assert "full precision" in told
    assert "Checked in transformers" in told
    loaded = subprocess.run([sys.executable, "-c", LOAD, tmp_path / "out"], capture_output=True, text=True, check=True)
    ids, types, logits = json.loads(loaded.stdout)
    assert types == [[0] * 6 + [1] * 3]
    model = export_hf.without_activations(artifact.load(path)[0].eval())
    with torch.no_grad():
        expected = model(torch.tensor(ids), torch.ones(1, 9).long(), torch.tensor(types)).logits
    assert torch.allclose(torch.tensor(logits), expected, atol=1e-5)
    card = ModelCard.load(tmp_path / "out/README.md")
    (result,) = card.data.eval_results
    assert result.metric_type == "accuracy"
    assert result.metric_value == round(record["scores"]["last"]["metrics"]["accuracy"], 2)
    assert "KDLSQ-BERT (Jin et al. 2021, arXiv 2101.05938)" in card.text
    assert main(["export", str(path), "--to", "hf", str(tmp_path / "out"), "--base", str(base_path)]) == 1
    assert "exists and is not empty" in capsys.readouterr().err


def test_a_file_without_its_run_has_a_card_without_scores(run_method, base_path, tmp_path, capsys):
    path = run_method("lsq_4bit")[1] / "last.safetensors"
    (tmp_path / path.name).write_bytes(path.read_bytes())
    assert main(["export", str(tmp_path / path.name), "--to", "hf", str(tmp_path / "out"), "--base", str(base_path)]) == 0
    assert "no scores" in capsys.readouterr().out
    assert ModelCard.load(tmp_path / "out/README.md").data.eval_results is None


def test_without_the_extras_a_line_names_them(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert main(["export", "any.safetensors", "--to", "onnx", str(tmp_path / "out")]) == 1
    assert "pip install -r requirements-export.txt -c constraints.txt" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
