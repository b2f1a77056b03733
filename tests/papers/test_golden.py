"""The official implementations' outputs on fixed inputs, where they are at hand (they are not part of the project)."""

import json
import re

import numpy as np
import pytest
import torch

from methods.kernel import quantizers, trace
from methods.kernel.splitting import split
from methods.model.edits import apply, show_scores
from methods.model.encoder import build, known
from methods.tasks import kinds
from methods.training import objective
from methods.training.forward import forward
from tests.fixtures.world import SHARED

GOLDEN = SHARED / "golden"
TASK_KINDS = {"cls3": "classification", "reg": "regression", "qa": "span"}
pytestmark = pytest.mark.skipif(not GOLDEN.is_dir(), reason="the official implementations' outputs are not here")


def quantizer_of(name: str, arrays) -> quantizers.Quantizer:
    """Our quantizer for an entry such as `gauss.twn.row` or `act.kdlsq_a4`."""
    values, kind, *grouping = name.split(".")
    rows = grouping == ["row"]
    family, bits = re.fullmatch(r"(.*?)(\d?)", kind).groups()
    bits = int(bits or 0)
    if family == "laq":
        made = quantizers.LossAware(rows)
        made.calibrate(torch.from_numpy(arrays[values]))
    elif family in ("symlsq", "asymlsq"):
        made = quantizers.Step(bits, shifted=family == "asymlsq", count="batch")
    elif family in ("kdlsq_w", "kdlsq_a"):
        made = quantizers.Threshold(bits, masked=family == "kdlsq_a")
    else:
        made = {
            "twn": lambda: quantizers.Ternary(rows),
            "bwn": lambda: quantizers.Binary(rows),
            "sym": lambda: quantizers.Symmetric(bits, rows, clip=2.5),
            "asym": lambda: quantizers.Asymmetric(bits, clip=2.5),
        }[family]()
    for learned in ("step", "alpha"):
        if f"{name}.{learned}" in arrays:
            made.scale.data = torch.from_numpy(arrays[f"{name}.{learned}"]).clone()
    return made


def test_every_golden_quantizer():
    arrays = np.load(GOLDEN / "quantizers.npz")
    names = [name.removesuffix(".out") for name in arrays.files if name.endswith(".out") and "laq4" not in name]
    assert len(names) == 78
    for name in names:
        x = torch.from_numpy(arrays[name.split(".")[0]]).requires_grad_()
        quantizer = quantizer_of(name, arrays)
        out = quantizer(x)
        out.backward(torch.from_numpy(arrays[f"{name}.grad_out"]))
        assert relative(out, arrays[f"{name}.out"]) <= 1e-5, name
        assert relative(x.grad, arrays[f"{name}.grad_in"]) <= 1e-5, name
        for learned in ("step", "alpha"):
            if f"{name}.grad_{learned}" in arrays:
                assert relative(quantizer.scale.grad, arrays[f"{name}.grad_{learned}"]) <= 1e-5, name


def test_ternary_weight_splitting():
    arrays = np.load(GOLDEN / "quantizers.npz")
    for name in ("gauss", "skew", "outlier"):
        for layer, rows in (("x.dense", False), ("embeddings.word_embeddings", True)):
            for number, half in enumerate(split(torch.from_numpy(arrays[name]), rows), start=1):
                expected = torch.from_numpy(arrays[f"{name}.tws.bert.{layer}_{number}.weight"])
                assert float((half - expected).abs().max()) <= 1e-6
        halves = [arrays[f"{name}.tws.bert.x.dense_{number}.bias"] for number in (1, 2)]
        assert np.array_equal(*halves)  # so that one bias, their sum, is the same model


@pytest.mark.parametrize("kind", ["cls3", "reg", "qa"])
def test_a_whole_distillation_step(kind, monkeypatch):
    monkeypatch.setattr(trace, "real", lambda *_: None)  # the official code counts padding into ranges
    arrays = np.load(GOLDEN / f"ternarybert_step_{kind}.npz")
    student, teacher = (model_of(arrays, who, kind).eval() for who in ("student", "teacher"))
    symmetric = {"kind": "symmetric", "bits": 8, "clip": 2.5}
    rows = {"kind": "ternary", "rows": True}
    apply(student, "quantize", weights={"kind": "ternary"}, embeddings=rows, activations=symmetric)
    show_scores(teacher)
    names = ("input_ids", "attention_mask", "token_type_ids")
    batch = {name: torch.from_numpy(arrays[name]).long() for name in names} | {"kind": kinds.of(TASK_KINDS[kind])}
    terms = {"loss_pred": "logits_mean", "loss_att": "attention_padded", "loss_rep": "hidden_padded"}
    with torch.no_grad():
        theirs = forward(teacher, batch, frozenset({"hidden", "scores"}))
    ours = forward(student, batch, frozenset({"hidden", "scores"}))
    losses = {name: getattr(objective, term)(ours, theirs, batch).mean() for name, term in terms.items()}
    sum(losses.values()).backward()
    for name, loss in losses.items():
        assert float(loss.detach()) == pytest.approx(float(arrays[name]), rel=1e-5), name
    for mine, name in zip(
        ours.logits, ("student_start", "student_end") if kind == "qa" else ("student_logits",), strict=True
    ):
        assert float((mine.detach() - torch.from_numpy(arrays[name])).abs().max()) <= 1e-4
    grads = {name.removeprefix("grad."): arrays[name] for name in arrays.files if name.startswith("grad.")}
    parameters = dict(student.named_parameters())
    assert len(grads) > 50
    for name, expected in grads.items():
        error = np.linalg.norm(parameters[name].grad.numpy() - expected)
        assert error <= 1e-3 * np.linalg.norm(expected) + 1e-8, name  # a span head's bias has gradient 0 but for rounding


def model_of(arrays, who: str, kind: str):
    config = json.loads(str(arrays["config"]))
    weights = {
        key.removeprefix(f"{who}."): torch.from_numpy(arrays[key]) for key in arrays.files if key.startswith(f"{who}.")
    }
    outputs = 2 if kind == "qa" else len(weights["classifier.bias"])
    model = build({**known(config), "model_type": "bert"}, kinds.of(TASK_KINDS[kind]).head, outputs)
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert all("pooler" in name for name in unexpected)  # the official span model has one and never uses it
    assert all("pooler" in name for name in missing)
    return model


def relative(ours: torch.Tensor, theirs) -> float:
    theirs = torch.as_tensor(theirs)
    return float(((ours - theirs).abs().max() / theirs.abs().max().clamp(min=1e-12)).detach())
