"""The training loop: what is learned depends on seed and recipe alone; stopping, memory and damage leave no trace."""

import copy
import dataclasses
import json
import signal

import numpy as np
import pytest
import torch

from methods import fp32
from methods import run as harness
from methods.common import files, interrupt
from methods.common.errors import UserError
from methods.kernel.quantizers import Threshold
from methods.model.encoder import from_base
from methods.tasks import data
from methods.training import optimizers, trainer
from methods.training.ancestors import ALLOCATION, LATENT
from methods.training.checkpoints import Checkpoints
from methods.training.objective import Objective
from methods.training.recipe import Optimization, Pass, Stage
from methods.training.trainer import Trainer
from tests.fixtures.world import loader, without_dropout

OPTIMIZATION = Optimization(optimizer="adamw", epochs=2, lr=1e-3, batch_size=8, warmup=0.1, weight_decay=0.01, clip="global")


def stage(name: str = "labels", on_step=None, **changes) -> Stage:
    passes = (Pass(Objective({"labels": 1.0})),)
    return Stage(name, passes, dataclasses.replace(OPTIMIZATION, **changes), on_step)


def fitted(base, sst2, device, *, stages=None, seed=1, padding="bucket", student=None, evaluate=None, **rest):
    return Trainer(
        student or from_base(base, "sequence", 2, seed),
        stages or [stage()],
        loader(sst2, seed=seed, padding=padding),
        evaluate or (lambda model: {"accuracy": 50.0}),
        device,
        evaluate_every=4,
        **rest,
    ).fit()


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_equal_seeds_give_equal_weights_and_other_seeds_others(base, sst2, device):
    first, again, other = (fitted(base, sst2, device, seed=seed) for seed in (1, 1, 2))
    assert equal(first.last, again.last)
    assert first.state == again.state
    assert not equal(first.last, other.last)


def test_training_learns_what_single_words_do_not_tell(base, sst2, device):
    """From weights so wide that every seed tried gets there; from BERT's 0.02 a net this small often gets stuck."""
    student = from_base(without_dropout(base), "sequence", 2, 1)
    torch.manual_seed(1)
    for weight in (parameter for parameter in student.parameters() if parameter.ndim == 2):
        torch.nn.init.normal_(weight, std=0.3)
    result = fitted(base, sst2, device, stages=[stage(epochs=60, lr=5e-3)], student=student)
    assert result.state.curve[-1]["loss"] < 0.1 < 0.5 < result.state.curve[0]["loss"]


@pytest.mark.parametrize("stop_at", [3, 8, 15])
def test_a_run_that_was_stopped_anywhere_ends_with_the_same_weights(base, sst2, device, tmp_path, stop_at):
    class Stop(Exception):
        pass

    def stop(student, optimizer, step, steps):
        if step == stop_at:
            raise Stop

    scores = {4: 60.0, 8: 70.0, 12: 65.0, 16: 70.0}
    steps = []

    def evaluate(model):
        steps.append(1)
        return {"accuracy": scores[4 * len(steps)]}

    whole = fitted(base, sst2, device, evaluate=evaluate)
    steps.clear()
    with pytest.raises(Stop):
        checkpoints = Checkpoints(tmp_path, "x", steps=2)
        fitted(base, sst2, device, stages=[stage(on_step=stop)], evaluate=evaluate, checkpoints=checkpoints)
    steps[:] = steps[: (stop_at // 2 * 2 - (stop_at // 2 * 2) % 4 - (4 if stop_at // 2 * 2 % 4 == 0 else 0)) // 4]
    resumed = fitted(base, sst2, device, evaluate=evaluate, checkpoints=Checkpoints(tmp_path, "x", steps=2))
    assert equal(whole.last, resumed.last)
    assert equal(whole.best, resumed.best)
    assert whole.state == resumed.state
    assert whole.state.best_step == 8  # the first of two equal scores


def test_a_torn_checkpoint_falls_back_to_the_one_before_and_says_so(base, sst2, device, tmp_path):
    said = []
    whole = fitted(base, sst2, device, checkpoints=Checkpoints(tmp_path, "x", steps=4, say=said.append))
    newest = sorted(tmp_path.glob("step-*"))[-1]
    newest.write_bytes(newest.read_bytes()[:1000])
    resumed = fitted(base, sst2, device, checkpoints=Checkpoints(tmp_path, "x", steps=4, say=said.append))
    assert equal(whole.last, resumed.last)
    assert f"Checkpoint {newest.name} is damaged" in said[0]
    assert said[1].startswith("Resuming from step-")


def test_a_checkpoint_of_another_recipe_is_never_continued(base, sst2, device, tmp_path):
    said = []
    fitted(base, sst2, device, checkpoints=Checkpoints(tmp_path, "x", steps=4))
    fitted(base, sst2, device, checkpoints=Checkpoints(tmp_path, "y", steps=4, say=said.append))
    assert "belongs to another recipe" in said[0]
    assert not any("Resuming" in line for line in said)


def test_out_of_memory_halves_the_micro_batch_and_keeps_the_gradient(base, sst2, device):
    base = without_dropout(base)
    plain = fitted(base, sst2, device, stages=[stage(epochs=1)])
    student = from_base(base, "sequence", 2, 1)
    forward = student.forward

    def small_memory(input_ids, **inputs):
        if student.training and len(input_ids) > 3:
            raise RuntimeError("CUDA out of memory. Tried to allocate 1 GiB")
        return forward(input_ids=input_ids, **inputs)

    student.forward = small_memory
    cramped = fitted(base, sst2, device, stages=[stage(epochs=1)], student=student)
    assert cramped.state.micro_batch == 2
    assert [event.split(": ")[1] for event in cramped.state.events] == [
        "micro-batch halved to 4",
        "micro-batch halved to 2",
    ]
    assert cramped.state.curve[0]["loss"] == pytest.approx(plain.state.curve[0]["loss"], rel=1e-5)
    assert all(torch.allclose(cramped.last[name], plain.last[name], atol=2e-5) for name in plain.last)


def test_other_errors_are_not_taken_for_a_lack_of_memory(base, sst2, device):
    student = from_base(base, "sequence", 2, 1)

    def broken(**inputs):
        raise RuntimeError("shapes do not fit")

    student.forward = broken
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        fitted(base, sst2, device, student=student)


def test_padding_does_not_change_what_is_learned(base, sst2, device):
    base = without_dropout(base)
    bucket, full = (fitted(base, sst2, device, padding=padding) for padding in ("bucket", "max_length"))
    assert all(torch.allclose(bucket.last[name], full.last[name], atol=2e-5) for name in full.last)


def test_a_loss_that_is_no_number_ends_the_run_within_a_logging_step(base, sst2, device):
    def poison(student, optimizer, step, steps):
        if step == 2:
            student.classifier.weight.data.fill_(float("nan"))

    result = fitted(base, sst2, device, stages=[stage(epochs=10, on_step=poison)])
    assert "nan" in result.diverged
    assert result.state.step == trainer.LOG_EVERY
    assert result.last is None


def test_the_hook_is_told_which_of_the_stages_updates_it_follows(base, sst2, device):
    told = []
    stages = [stage(epochs=epochs, on_step=lambda _, __, *count: told.append(count)) for epochs in (1, 0.5)]
    fitted(base, sst2, device, stages=stages)
    assert told == [*((step, 8) for step in range(8)), *((step, 4) for step in range(4))]


def test_stages_follow_one_another_and_only_the_last_one_selects(base, sst2, device):
    scores = iter(range(100, 0, -1))
    stages = [stage(), stage("second", lr=1e-4)]
    result = fitted(base, sst2, device, stages=stages, evaluate=lambda model: {"accuracy": float(next(scores))})
    assert [entry["stage"] for entry in result.state.dev] == ["labels"] * 4 + ["second"] * 4
    assert result.state.best_step == 20
    assert result.state.step == 32


def test_sigterm_writes_a_checkpoint_and_leaves(base, sst2, device, tmp_path, monkeypatch):
    monkeypatch.setattr(interrupt, "_asked", False)
    told = stage(on_step=lambda student, optimizer, step, steps: step == 5 and interrupt._note(signal.SIGTERM, None))
    with pytest.raises(interrupt.Interrupted):
        fitted(base, sst2, device, stages=[told], checkpoints=Checkpoints(tmp_path, "x"))
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000006.safetensors"]


def test_bertadam_equals_a_slow_twin():
    """No bias correction, one norm for each tensor, decoupled decay: written out number by number."""
    torch.manual_seed(0)
    params = [torch.nn.Parameter(torch.randn(3, 4)), torch.nn.Parameter(torch.randn(5))]
    twins = [param.detach().double().numpy().copy() for param in params]
    moments = [(np.zeros_like(twin), np.zeros_like(twin)) for twin in twins]
    optimizer = optimizers.BertAdam(
        [{"params": params[:1], "weight_decay": 0.01}, {"params": params[1:], "weight_decay": 0.0}], lr=0.1
    )
    for step in range(20):
        grads = [torch.randn_like(param) * 3**step / 1000 for param in params]  # from below the clip to far above
        for index, grad in enumerate(grads):
            params[index].grad = grad
            grad = grad.double().numpy()
            norm = np.sqrt((grad**2).sum())
            grad = grad * min(1.0, 1.0 / (norm + 1e-6))
            first, second = moments[index]
            first[...] = 0.9 * first + 0.1 * grad
            second[...] = 0.999 * second + 0.001 * grad**2
            decay = 0.01 if index == 0 else 0.0
            twins[index] -= 0.1 * (first / (np.sqrt(second) + 1e-6) + decay * twins[index])
        optimizer.step()
        for param, twin in zip(params, twins, strict=True):
            np.testing.assert_allclose(param.detach().numpy(), twin, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize(("step", "factor"), [(0, 0.0), (5, 0.5), (10, 1.0), (55, 0.5), (100, 0.0)])
def test_the_rate_rises_and_falls_linearly(step, factor):
    optimizer = torch.optim.SGD([{"params": [torch.nn.Parameter(torch.ones(1))], "peak": 3.0}], lr=3.0)
    wanted = Optimization(optimizer="adamw", lr=3.0, epochs=1, batch_size=1, warmup=0.1)
    assert optimizers.set_rate(optimizer, step, 100, wanted) == pytest.approx(factor)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(3.0 * factor)


@pytest.mark.parametrize(
    ("progress", "factor"),
    [(0.0, 1.0), (0.1, 0.55), (0.199, 0.1045), (0.2, 1.0), (0.6, 0.75), (0.999, 0.500625), (1.0, 0.5)],
)
def test_ramps_restart_the_rate(progress, factor):
    assert optimizers.factor(progress, ramps=[[0.2, 1.0, 0.1], [1.0, 1.0, 0.5]]) == pytest.approx(factor)
    assert optimizers.factor(progress, ramps=[[1, 1, 1]]) == 1.0


def test_biases_and_layer_norms_do_not_decay_and_learned_ranges_have_their_own_rate(base):
    student = from_base(base, "sequence", 2, 1)
    student.classifier.input_quantizer = Threshold(4)
    student.classifier.input_quantizer.role = "activations"
    optimizer = optimizers.build(student, dataclasses.replace(OPTIMIZATION, quantizer_lr={"activations": 0.5}))
    quantizer = next(group for group in optimizer.param_groups if len(group["params"]) == 1)
    decayed, undecayed = (group for group in optimizer.param_groups if group is not quantizer)
    decayed, undecayed = (decayed, undecayed) if decayed["weight_decay"] else (undecayed, decayed)
    assert quantizer["params"] == [student.classifier.input_quantizer.scale]
    assert (quantizer["lr"], quantizer["weight_decay"]) == (0.5, 0.0)
    assert all(param.ndim == 2 for param in decayed["params"])
    assert all(param.ndim == 1 for param in undecayed["params"])
    assert undecayed["weight_decay"] == 0.0


def run(run_request, tmp_path, base_path, sst2_path, name="a", folders=None, **changes):
    return harness.execute(
        {**copy.deepcopy(run_request), **changes},
        fp32,
        tmp_path / name,
        data_path=sst2_path,
        base_path=base_path,
        ancestors=folders or {},
    )


def test_a_run_writes_every_file_and_its_score_is_the_loaded_files(
    run_request, tmp_path, base_path, sst2_path, sst2, device
):
    record = run(run_request, tmp_path, base_path, sst2_path)
    folder = tmp_path / "a"
    assert {path.name for path in folder.iterdir()} == {*harness.OUTPUTS, ".lock"} - {LATENT, ALLOCATION}
    for name, digest in record["files"].items():
        assert files.sha256_file(folder / name) == digest
    model, meta = harness.artifact.load(folder / "last.safetensors")
    outputs = np.stack(trainer.predict(model, loader(sst2, "validation"), device))
    stored = np.load(folder / "predictions.npz")
    np.testing.assert_array_equal(stored["last.validation"], outputs)
    right = (outputs.argmax(1) == stored["labels.validation"]).mean()
    assert record["scores"]["last"]["metrics"]["accuracy"] == pytest.approx(100 * right)
    assert meta["labels"] == ["negative", "positive"]
    for protocol, size in record["size"].items():
        parameters = 4 * sum(param.numel() for param in model.parameters())
        assert size["file_bytes"] == (folder / f"{protocol}.safetensors").stat().st_size
        assert size["counted_bytes"] == parameters + size["groups"]["description"]["bytes"]
        assert size["paper_bytes"] == parameters - 4 * (2 * 16 + 2)  # without the head
        assert size["counted_bytes"] == pytest.approx(size["file_bytes"], rel=0.01)


def test_equal_runs_have_equal_bytes_and_a_finished_run_is_left_alone(run_request, tmp_path, base_path, sst2_path, capsys):
    for name in ("a", "b"):
        run(run_request, tmp_path, base_path, sst2_path, name)
    for name in ("run.json", "last.safetensors", "best.safetensors", "predictions.npz"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    before = (tmp_path / "a/machine.json").stat().st_mtime_ns
    run(run_request, tmp_path, base_path, sst2_path, "a")
    assert "already done" in capsys.readouterr().err
    assert (tmp_path / "a/machine.json").stat().st_mtime_ns == before


def test_where_the_best_model_is_the_last_it_is_scored_once(run_request, tmp_path, base_path, sst2_path, capsys):
    once = run(run_request, tmp_path, base_path, sst2_path, budget={**run_request["budget"], "evaluate_every": 1_000_000})
    said = capsys.readouterr().err
    assert said.count("scoring its") == 1 and "scoring its last model" in said
    assert once["scores"]["best"] == once["scores"]["last"]
    stored = np.load(tmp_path / "a/predictions.npz")
    np.testing.assert_array_equal(stored["best.validation"], stored["last.validation"])


def taught(run_request, teacher: str = "fp32"):
    spec = {**run_request["spec"], "recipe": {**run_request["spec"]["recipe"], "terms": {"logits": 1.0}}}
    return {
        "method": "fp32_kd",
        "spec": spec,
        "ancestors": {"teacher": [teacher, "sst2", 1]},
        "primary": "last",
        "allow_weak_teacher": False,
    }


def test_a_weak_teacher_stops_its_students_unless_told_otherwise(run_request, tmp_path, base_path, sst2_path):
    run(run_request, tmp_path, base_path, sst2_path, "teacher")
    path = tmp_path / "teacher/run.json"
    weak = json.loads(path.read_text())
    weak["scores"]["last"]["metrics"]["accuracy"] = weak["baseline"]["metrics"]["accuracy"]
    path.write_text(json.dumps(weak))
    ancestors = {"teacher": tmp_path / "teacher"}
    with pytest.raises(UserError, match=r"no more than the constant baseline's .*allow_weak_teacher: true"):
        run(run_request, tmp_path, base_path, sst2_path, "b", ancestors, **taught(run_request))
    record = run(
        run_request, tmp_path, base_path, sst2_path, "b", ancestors, **{**taught(run_request), "allow_weak_teacher": True}
    )
    assert record["ancestors"]["teacher"]["sha256"] == weak["files"]["last.safetensors"]


def test_a_teacher_whose_model_is_damaged_or_gone_is_refused_by_name(run_request, tmp_path, base_path, sst2_path):
    run(run_request, tmp_path, base_path, sst2_path, "teacher")
    model = tmp_path / "teacher/last.safetensors"
    model.write_bytes(model.read_bytes()[:-1] + b"x")

    def student():
        changes = {**taught(run_request), "allow_weak_teacher": True}
        return run(run_request, tmp_path, base_path, sst2_path, "b", {"teacher": tmp_path / "teacher"}, **changes)

    with pytest.raises(UserError, match=r"teacher/last\.safetensors is damaged .*: delete the run\.json beside it"):
        student()
    model.unlink()
    with pytest.raises(UserError, match=r"teacher/last\.safetensors is missing: delete the run\.json beside it"):
        student()


def test_divergence_is_a_result_and_reaches_descendants(run_request, tmp_path, base_path, sst2_path):
    hot = {**run_request["budget"], "lr_scale": 1e30}
    record = run(run_request, tmp_path, base_path, sst2_path, "teacher", budget=hot)
    assert record["status"] == "diverged"
    assert record["scores"] is None
    child = run(run_request, tmp_path, base_path, sst2_path, "b", {"teacher": tmp_path / "teacher"}, **taught(run_request))
    assert child["status"] == "diverged (ancestor)"
    assert "fp32" in child["reason"]
    assert child["ancestors"]["teacher"]["sha256"] is None
    for folder in ("teacher", "b"):
        assert {path.name for path in (tmp_path / folder).iterdir()} == {"run.json", "record.json", "machine.json", ".lock"}


def test_a_divergence_leaves_nothing_of_the_run_that_stood_there(run_request, tmp_path, base_path, sst2_path):
    run(run_request, tmp_path, base_path, sst2_path, "a")
    assert (tmp_path / "a/last.safetensors").is_file()
    run(run_request, tmp_path, base_path, sst2_path, "a", budget={**run_request["budget"], "lr_scale": 1e30})
    assert not list((tmp_path / "a").glob("*.safetensors"))
    assert not (tmp_path / "a/predictions.npz").exists()


def test_batches_are_a_function_of_seed_and_epoch_and_hold_every_row_once(sst2):
    first = data.shuffled(sst2.train, 7, 1, 0)
    assert np.array_equal(np.sort(np.concatenate(first)), np.arange(len(sst2.train)))
    assert all(np.array_equal(a, b) for a, b in zip(first, data.shuffled(sst2.train, 7, 1, 0), strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(first, data.shuffled(sst2.train, 7, 1, 1), strict=True))
