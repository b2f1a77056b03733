"""Compiled chains give the eager chains' numbers, and are used only where that pays."""

import copy
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from methods.kernel import fusing
from methods.model.edits import apply, calibrate, show_scores
from methods.tasks import kinds
from methods.training import compiling, optimizers
from methods.training.forward import forward
from methods.training.objective import Objective
from methods.training.recipe import Optimization, Pass, Stage
from tests.fixtures.world import CONFIG, tiny

TERMS = {"hidden": 1.0, "attention": 1.0, "logits": 1.0}
LEARNED = {"kind": "threshold", "bits": 4}
STUDENTS = {
    "ternary": {
        "weights": {"kind": "ternary"},
        "embeddings": {"kind": "ternary", "rows": True},
        "activations": {"kind": "asymmetric", "bits": 8},
    },
    "learned": {"weights": LEARNED, "embeddings": LEARNED, "activations": {"kind": "step", "bits": 8}},
}


def a_step(options: dict, compiled: bool) -> list[torch.Tensor]:
    """Loss, gradients and updated parameters of one distilled step with dropout."""
    torch.manual_seed(0)
    teacher = tiny().eval()
    student = apply(copy.deepcopy(teacher), "quantize", **options)
    show_scores(teacher)
    ids = torch.randint(5, 20, (4, 9))
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "token_type_ids": torch.zeros_like(ids)}
    batch["attention_mask"][0, 6:] = 0
    calibrate(student, [batch])
    batch["kind"] = kinds.of("classification")
    optimizer = optimizers.build(student, Optimization(optimizer="bertadam", lr=1e-3, epochs=1, batch_size=4))
    objective = Objective(TERMS)
    torch.manual_seed(1)
    with fusing.compiled(compiled):
        with torch.no_grad():
            theirs = forward(teacher, batch, objective.wanted)
        ours = forward(student.train(), batch, objective.wanted)
        loss = sum(value.mean() for value in objective(ours, theirs, batch).values())
        loss.backward()
        gradients = [param.grad.clone() for param in student.parameters() if param.grad is not None]
        optimizer.step()
    return [loss.detach(), *gradients, *(param.detach() for param in student.parameters())]


def test_compiling_ends_with_its_block_and_nests(monkeypatch):
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda chain, **_: compiled.append(chain) or chain)
    chains = iter([fusing.fused(lambda: 0) for _ in range(9)])  # a chain is compiled once

    def compiles() -> bool:
        before = len(compiled)
        next(chains)()
        return len(compiled) > before

    with fusing.compiled(True):
        with fusing.compiled(False):
            assert not compiles()
        assert compiles()
        with pytest.raises(KeyError), fusing.compiled(False):
            raise KeyError
        assert compiles()
    assert not compiles()
    with pytest.raises(KeyError), fusing.compiled(True):
        raise KeyError
    assert not compiles()


@pytest.mark.slow
@pytest.mark.parametrize("options", STUDENTS)
def test_a_compiled_step_is_the_eager_step(options):
    eager, compiled = (a_step(STUDENTS[options], compiled) for compiled in (False, True))
    assert len(eager) == len(compiled) > 40
    for one, other in zip(eager, compiled, strict=True):
        assert torch.allclose(one, other, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_a_compiled_update_counts_as_a_change_of_the_weight():
    """Layers keep a weight's values until its version moves: an update that did not move it would never be seen."""
    weight = torch.nn.Parameter(torch.randn(8, 8))
    optimizer = optimizers.BertAdam([weight], lr=1e-3)
    weight.grad, before, version = torch.randn(8, 8), weight.detach().clone(), weight._version
    with fusing.compiled(True):
        optimizer.step()
    assert not torch.equal(weight, before)
    assert weight._version > version


A_CHAIN = """
import torch
from methods.kernel import fusing

chain = fusing.fused(lambda x: (x.abs() + 1).sum(-1))
x = torch.arange(-50.0, 50.0).view(4, 25)
expected = chain(x)
assert fusing.trouble("cpu") is None
with fusing.compiled(True):
    assert torch.equal(chain(x), expected), chain(x)
"""


@pytest.mark.slow
def test_code_compiled_for_another_processor_is_not_taken_up(tmp_path):
    """Two machines with different vectors and one cache, as on a cluster's shared disk."""
    for vectors in ({}, {"ATEN_CPU_CAPABILITY": "default"}):
        places = {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[2])}
        done = subprocess.run(
            [sys.executable, "-c", A_CHAIN], env={**os.environ, **places, **vectors}, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr


def test_a_cache_that_cannot_be_written_is_told_of(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "file" / "cache"))
    assert "Not a directory" in fusing.trouble("cpu")


def rows(count: int):
    class Rows:
        lengths = torch.full((count,), 30.0).numpy()

        def __len__(self):
            return count

    return Rows()


def test_only_long_quantized_runs_are_compiled(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda chain, **_: chain)
    plain = tiny()
    student = apply(copy.deepcopy(plain), "quantize", weights={"kind": "ternary"})
    wanted = Optimization(optimizer="adamw", epochs=3, lr=1e-4, batch_size=32)
    stages = [Stage("all", (Pass(Objective(TERMS)),), wanted)]
    work = 3 * 30 * CONFIG["num_hidden_layers"] * CONFIG["hidden_size"]  # of one row
    enough = int(1.1 * compiling.BREAK_EVEN["cpu"] / work)
    assert compiling.compiles("auto", student, stages, rows(enough), "cpu") == (True, None)
    assert compiling.compiles("auto", student, stages, rows(enough // 2), "cpu") == (False, None)
    assert compiling.compiles("auto", student, stages, rows(enough), "cuda") == (False, None)
    assert compiling.compiles("auto", plain, stages, rows(enough), "cpu") == (False, None)
    assert compiling.compiles("always", student, stages, rows(9), "cpu") == (True, None)
    assert compiling.compiles("never", student, stages, rows(enough), "cpu") == (False, None)


def test_a_machine_without_a_compiler_trains_uncompiled_and_says_so(monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("No working C++ compiler found\nin a long trace")

    monkeypatch.setattr(torch, "compile", broken)
    student = apply(tiny(), "quantize", weights={"kind": "ternary"})
    compiled, line = compiling.compiles("always", student, [], rows(9), "cpu")
    assert not compiled
    assert "No working C++ compiler found)" in line and "\n" not in line
