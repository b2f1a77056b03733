"""The one training loop: labels or a teacher, one stage or several, for every method.

Everything random in a step (the batch, the dropout) is a function of the seed and the step's number, so that a run that
was killed goes on exactly where its checkpoint stands, and ends with the bytes of a run that was never disturbed.
"""

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from accelerate.utils.memory import should_reduce_batch_size
from torch import Tensor, nn

from methods.common import interrupt
from methods.common.progress import Progress
from methods.model.edits import show_scores
from methods.model.encoder import logits
from methods.tasks.data import Split, collate, in_order, shuffled
from methods.training import objective, optimizers
from methods.training.checkpoints import Checkpoints

LOG_EVERY = 10  # steps between two entries of the curve, and between two looks for a loss that is no number
SAMPLE_EPOCH = 999_999_999
SCORING_BATCH = 64  # fixed: quantizers with dynamic ranges see the same batches in every run


Sample = Iterator[dict[str, Tensor]]  # batches of training rows, for methods that look at data before they train


class Diverged(Exception):
    """The loss or the outputs are no longer numbers: a result of the run, not a crash."""


@dataclass(frozen=True)
class Stage:
    """A stretch of training with one objective.

    `on_step(student, optimizer, step, steps)` is the only hook: it is called after each of the stage's `steps` updates,
    which are counted from 0.
    """

    name: str
    epochs: float
    lr: float
    batch_size: int
    terms: dict[str, float]  # term of objective.TERMS -> weight
    optimizer: str = "adamw"  # or "bertadam"
    warmup: float = 0.0  # share of the steps in which the rate rises
    weight_decay: float = 0.0
    clip: str | None = None  # "global", or None
    quantizer_lr: dict[str, float] = field(default_factory=dict)  # tag of learned ranges -> their own rate
    quantizer_decay: dict[str, float] = field(default_factory=dict)
    on_step: Callable | None = None

    @classmethod
    def of(cls, recipe: dict, budget: dict, **changes) -> "Stage":
        """The stage that a recipe describes, scaled by the preset's budget; `changes` replace what differs."""
        described = {key: recipe[key] for key in cls.__dataclass_fields__.keys() & recipe.keys()}
        scaled = {
            "name": "+".join(recipe["terms"]),
            "epochs": recipe["epochs"] * budget["epochs_scale"],
            "lr": recipe["lr"] * budget["lr_scale"],
            "batch_size": budget["batch_size"] or recipe["batch_size"],
        }
        return cls(**{**described, **scaled, **changes})

    def batches(self, train: Split) -> int:
        return math.ceil(len(train) / self.batch_size)

    def steps(self, train: Split) -> int:
        return max(1, round(self.epochs * self.batches(train)))


@dataclass
class State:
    """Where a run stands, apart from its tensors; this and they are a checkpoint."""

    stage: int = 0
    step: int = 0  # of the whole run
    stage_step: int = 0
    micro_batch: int | None = None  # rows of one forward pass on one device; halved when memory runs out
    examples: int = 0
    best_step: int | None = None
    best_score: float | None = None
    curve: list[dict] = field(default_factory=list)
    dev: list[dict] = field(default_factory=list)
    events: list[str] = field(default_factory=list)
    pending: dict[str, float] = field(default_factory=dict)  # loss terms summed since the last entry of the curve


@dataclass(frozen=True)
class Fit:
    """What training leaves: the weights of both protocols, or why there are none."""

    state: State
    last: dict[str, Tensor] | None
    best: dict[str, Tensor] | None
    diverged: str | None = None


def fit(
    student: nn.Module,
    stages: list[Stage],
    train: Split,
    evaluate: Callable[[nn.Module], dict[str, float]],
    *,
    accelerator: Accelerator,
    seed: int,
    padding: str,
    max_length: int,
    evaluate_every: int,
    teacher: nn.Module | None = None,
    checkpoints: Checkpoints | None = None,
    title: str = "",
) -> Fit:
    """Train `student` through `stages`; `evaluate` returns the dev metrics, the one that selects first.

    `last` holds the weights at the end, `best` those of the best look at the dev set in the final stage (earlier stages
    may train no head, so that their scores say little). Batch sizes are over all devices.
    """
    models = [student.to(accelerator.device)]
    if teacher is not None:
        models.append(teacher.to(accelerator.device).eval().requires_grad_(False))
    if any("output_attentions" in objective.shown(stage.terms) for stage in stages):
        for model in models:
            show_scores(model)
    state, best, optimizer_state = State(), None, None
    if checkpoints and (saved := checkpoints.load()):
        state, best, optimizer_state = _restore(student, *saved)
    total = sum(stage.steps(train) for stage in stages)
    progress = Progress(title, total, quiet=not accelerator.is_main_process)

    def save() -> None:
        if checkpoints and accelerator.is_main_process:
            checkpoints.save(state.step, _tensors(student, best, optimizer), {"state": asdict(state)})

    try:
        for number, stage in enumerate(stages):
            if number < state.stage:
                continue
            if number > state.stage:
                state.stage, state.stage_step = number, 0
            state.micro_batch = state.micro_batch or math.ceil(stage.batch_size / accelerator.num_processes)
            optimizer = optimizers.build(student, stage)
            if optimizer_state is not None:
                _restore_optimizer(optimizer, optimizer_state)
                optimizer_state = None
            steps, final = stage.steps(train), number == len(stages) - 1
            epoch, batches = -1, []
            while True:
                at = state.stage_step
                looked = bool(state.dev) and state.dev[-1]["step"] == state.step
                if at and not looked and (at % evaluate_every == 0 or at == steps):
                    metrics = evaluate(student)
                    score = next(iter(metrics.values()))
                    state.dev.append({"step": state.step, "stage": stage.name, "score": score, "metrics": metrics})
                    if final and (state.best_score is None or score > state.best_score):
                        state.best_score, state.best_step = score, state.step
                        best = {name: tensor.detach().cpu().clone() for name, tensor in student.state_dict().items()}
                if at == steps:
                    break
                if at // stage.batches(train) != epoch:
                    epoch = at // stage.batches(train)
                    batches = shuffled(train, stage.batch_size, seed, number * 1000 + epoch)
                rows = batches[at % stage.batches(train)]
                factor = optimizers.set_rate(optimizer, at, steps, stage.warmup)
                losses = _gradient(
                    student,
                    teacher,
                    train,
                    rows,
                    stage.terms,
                    state,
                    accelerator,
                    seed,
                    padding,
                    max_length,
                    progress,
                )
                optimizers.clip(student, stage.clip)
                optimizer.step()
                if stage.on_step:
                    stage.on_step(student, optimizer, at, steps)
                optimizer.zero_grad()
                state.step, state.stage_step, state.examples = (
                    state.step + 1,
                    at + 1,
                    state.examples + len(rows),
                )
                for name, value in losses.items():
                    state.pending[name] = state.pending.get(name, 0.0) + value
                if state.stage_step % LOG_EVERY == 0 or state.stage_step == steps:
                    _log(state, stage, stage.lr * factor)
                    facts = {"loss": f"{state.curve[-1]['loss']:.4f}"}
                    facts |= {
                        name: f"{value:.4f}" for name, value in state.curve[-1]["terms"].items() if len(stage.terms) > 1
                    }
                    facts |= {"dev": f"{state.dev[-1]['score']:.1f}"} if state.dev else {}
                    progress.update(state.step, facts)
                if _told_to_leave(accelerator):
                    raise interrupt.Interrupted
                if checkpoints and checkpoints.due(state.step):
                    save()
    except interrupt.Interrupted:
        save()
        progress.say(f"told to leave at step {state.step}: checkpoint written; the same command goes on from here")
        raise
    except Diverged as reason:
        progress.say(f"diverged: {reason}")
        return Fit(state, None, None, diverged=str(reason))
    finally:
        progress.close()
    if stages and checkpoints and checkpoints.stale():
        save()  # scoring may take long, and a run that is told to leave meanwhile should not train again
    last = {name: tensor.detach().cpu().clone() for name, tensor in student.state_dict().items()}
    if best is None:  # nothing was trained (post-training quantization)
        best, state.best_step = last, state.step
    return Fit(state, last, best)


def _gradient(student, teacher, train, rows, terms, state, accelerator, seed, padding, max_length, progress) -> dict:
    """Leave the gradient of the mean loss over the global batch in the student; the loss terms as floats.

    Out of memory halves the micro-batch and doubles the accumulation: the effective batch, and so the gradient, stay.
    """
    share = rows[accelerator.process_index :: accelerator.num_processes]
    while True:
        torch.manual_seed((seed * 1_000_003 + state.step) * 1009 + accelerator.process_index)
        try:
            sums = accumulate(student, teacher, train, share, len(rows), terms, state, accelerator, padding, max_length)
            break
        except RuntimeError as error:
            if state.micro_batch <= 1 or not should_reduce_batch_size(error):
                raise
        student.zero_grad()
        state.micro_batch = math.ceil(state.micro_batch / 2)
        state.events.append(f"out of memory at step {state.step}: micro-batch halved to {state.micro_batch}")
        progress.say(state.events[-1])
    if accelerator.num_processes > 1:
        sums = accelerator.reduce(sums, "sum")
        for param in student.parameters():
            if param.requires_grad:
                mine = param.grad if param.grad is not None else torch.zeros_like(param)
                param.grad = accelerator.reduce(mine, "sum")
    return dict(zip(terms, sums.tolist(), strict=True))


def accumulate(student, teacher, train, share, count, terms, state, accelerator, padding, max_length) -> Tensor:
    """Forward and backward over this process's share of a batch of `count` rows; the sums of its terms, (terms,)."""
    student.train()
    shown = objective.shown(terms)
    sums = torch.zeros(len(terms), device=accelerator.device)
    for start in range(0, len(share), state.micro_batch):
        batch = tensors(collate(train, share[start : start + state.micro_batch], padding, max_length), accelerator)
        with accelerator.autocast():
            theirs = None
            if teacher is not None:
                with torch.no_grad():
                    theirs = forward(teacher, batch, **shown)
            ours = forward(student, batch, **shown)
        values = [objective.TERMS[name](ours, theirs, batch).sum() / count for name in terms]
        accelerator.backward(sum(weight * value for weight, value in zip(terms.values(), values, strict=True)))
        sums += torch.stack([value.detach() for value in values])
    return sums


def forward(model: nn.Module, batch: dict[str, Tensor], **shown: bool):
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "token_type_ids")}
    return model(**inputs, **shown)


def tensors(batch: dict[str, np.ndarray], accelerator: Accelerator) -> dict[str, Tensor]:
    return {name: torch.from_numpy(np.ascontiguousarray(array)).to(accelerator.device) for name, array in batch.items()}


def sample(train: Split, accelerator: Accelerator, *, batch_size: int, seed: int, padding: str, max_length: int) -> Sample:
    """Training batches in an order that no epoch of training has."""
    for rows in shuffled(train, batch_size, seed, SAMPLE_EPOCH):
        yield tensors(collate(train, rows, padding, max_length), accelerator)


@torch.no_grad()
def predict(
    model: nn.Module,
    split: Split,
    *,
    accelerator: Accelerator,
    padding: str,
    max_length: int,
    exact: bool = False,
) -> list[np.ndarray]:
    """Each row's outputs in the split's order: (outputs,), (2, tokens) for spans, (tokens, outputs) for words.

    Whole batches are dealt to the processes, so that scores do not depend on how many there are. `exact` computes in
    fp32 whatever the training's precision is.
    """
    model.eval()
    precision = contextlib.nullcontext if exact else accelerator.autocast
    found = []
    for number, rows in enumerate(in_order(split, SCORING_BATCH)):
        if number % accelerator.num_processes != accelerator.process_index:
            continue
        if accelerator.num_processes == 1:
            interrupt.check()  # with several, one that left would keep the others waiting
        with precision():
            scores = logits(forward(model, tensors(collate(split, rows, padding, max_length), accelerator)))
        stacked = torch.stack([part.float() for part in scores], 1).cpu().numpy()  # (B, 1 or 2, outputs or S or S, outputs)
        of_tokens = len(scores) > 1 or scores[0].dim() == 3
        for row, values in zip(rows, stacked, strict=True):
            width = split.lengths[row] if of_tokens else values.shape[1]
            found.append((int(row), values[:, :width].copy()))
    if accelerator.num_processes > 1:
        found = gather_object(found)
    outputs: list = [None] * len(split)
    for row, values in found:
        outputs[row] = values if len(values) > 1 else values[0]
    if not all(np.isfinite(values).all() for values in outputs):
        raise Diverged("the outputs on the dev set are no longer finite numbers")
    return outputs


def _log(state: State, stage: Stage, lr: float) -> None:
    """Close an interval of the curve: mean terms since the last entry, or the end of a run that is no longer one."""
    since = state.curve[-1]["step"] if state.curve else 0
    terms = {name: value / (state.step - since) for name, value in state.pending.items()}
    loss = sum(stage.terms[name] * value for name, value in terms.items())
    if not math.isfinite(loss):
        raise Diverged(f"the loss was {loss} by step {state.step}")
    state.curve.append({"step": state.step, "stage": stage.name, "loss": loss, "terms": terms, "lr": lr})
    state.pending = {}


def _told_to_leave(accelerator: Accelerator) -> bool:
    """Whether any process was told to: all must leave at the same step, or the others would wait for ever."""
    if accelerator.num_processes == 1:
        return interrupt.asked()
    flag = torch.tensor([float(interrupt.asked())], device=accelerator.device)
    return bool(accelerator.reduce(flag, "sum").item())


def _tensors(student: nn.Module, best: dict[str, Tensor] | None, optimizer) -> dict[str, np.ndarray]:
    """Every tensor of a checkpoint under a name that says where it belongs."""
    found = {f"student/{name}": tensor for name, tensor in student.state_dict().items()}
    found |= {f"best/{name}": tensor for name, tensor in (best or {}).items()}
    for index, values in optimizer.state_dict()["state"].items():
        found |= {f"optimizer/{index}/{key}": value for key, value in values.items()}
    return {name: tensor.detach().cpu().numpy() for name, tensor in found.items()}


def _restore(student: nn.Module, arrays: dict[str, np.ndarray], meta: dict):
    """State, best weights and optimizer state of a checkpoint; the student is restored in place."""
    groups: dict[str, dict] = {"student": {}, "best": {}, "optimizer": {}}
    for name, array in arrays.items():
        group, _, rest = name.partition("/")
        groups[group][rest] = torch.from_numpy(array)
    student.load_state_dict(groups["student"])
    return State(**meta["state"]), groups["best"] or None, groups["optimizer"]


def _restore_optimizer(optimizer, saved: dict[str, Tensor]) -> None:
    state: dict[int, dict] = {}
    for name, tensor in saved.items():
        index, _, key = name.partition("/")
        state.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
