"""The one training loop: labels or a teacher, one stage or several, one pass a step or several, for every method.

Everything random in a step (the batch, the dropout) is a function of the seed and the step's number, so that a run that
was killed continues exactly at its checkpoint, and ends with the bytes of a run that was never disturbed.
"""

import contextlib
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from methods.common import interrupt
from methods.common.progress import Progress
from methods.model.edits import SHOWN_BY_ATTENTION, show_scores
from methods.training import optimizers
from methods.training.checkpoints import Checkpoints
from methods.training.forward import forward
from methods.training.loader import Loader
from methods.training.recipe import Pass, Stage
from methods.training.teaching import Teaching, worth_keeping

LOG_EVERY = 10  # steps between two entries of the curve, and between two looks for a loss that is no number
SHOWN = 6  # terms that a line of progress has room for
SCORING_BATCH = 64  # fixed: dynamic ranges are those of a batch's real tokens, and the same in every run


class Diverged(Exception):
    """The loss, the outputs or the weights are no longer numbers: a result of the run, not a crash."""


@dataclass
class State:
    """The position of a run, apart from its tensors; this and they are a checkpoint."""

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
    """The result of training: the weights of both protocols, or why there are none."""

    state: State
    last: dict[str, Tensor] | None
    best: dict[str, Tensor] | None
    diverged: str | None = None


class Learner(nn.Module):
    """A student and the modules of its objectives: everything that is optimized and checkpointed."""

    def __init__(self, student: nn.Module, stages: list[Stage]):
        super().__init__()
        self.student = student
        self.objectives = nn.ModuleList(one.objective for stage in stages for one in stage.passes)


class Trainer:
    """Trains `student` through `stages`.

    `evaluate` returns the dev metrics, the one that selects first. Fit's `last` holds the weights at the end, `best` those
    of the best look at the dev set in the final stage (earlier stages may train no head, so that their scores say little).
    Batch sizes are over all devices.
    """

    def __init__(
        self,
        student: nn.Module,
        stages: list[Stage],
        loader: Loader,
        evaluate: Callable[[nn.Module], dict[str, float]],
        accelerator,
        *,
        evaluate_every: int,
        teacher: nn.Module | None = None,
        checkpoints: Checkpoints | None = None,
        title: str = "",
    ):
        self.student, self.stages, self.loader = student.to(accelerator.device), stages, loader
        self.teacher = None if teacher is None else Teaching(teacher.to(accelerator.device).eval().requires_grad_(False))
        self.evaluate, self.evaluate_every = evaluate, evaluate_every
        self.accelerator, self.checkpoints = accelerator, checkpoints
        self.state, self.best, self.optimizer = State(), None, None
        self.total = sum(stage.steps(len(loader)) for stage in stages)
        self.progress = Progress(title, self.total, quiet=not accelerator.is_main_process)
        self._prepare()
        self.learner = Learner(self.student, stages).to(accelerator.device)

    def fit(self) -> Fit:
        saved_optimizer = self._restore()
        try:
            self._keep()
            for number, stage in enumerate(self.stages):
                if number < self.state.stage:
                    continue
                if number > self.state.stage:
                    self.state.stage, self.state.stage_step = number, 0
                    self._start(stage)
                self._run_stage(number, stage, saved_optimizer)
                saved_optimizer = None
        except interrupt.Interrupted:
            self._save()
            self.progress.say(f"stopped at step {self.state.step}: checkpoint written; the same command continues from here")
            raise
        except Diverged as reason:
            self.progress.say(f"diverged: {reason}")
            return Fit(self.state, None, None, diverged=str(reason))
        finally:
            self.progress.close()
        if self.stages and self.checkpoints and self.checkpoints.stale():
            self._save()  # scoring may take long, and a run that is stopped meanwhile should not train again
        last = _copy(self.student)
        if self.best is None:  # nothing was trained (post-training quantization)
            self.best, self.state.best_step = last, self.state.step
        return Fit(self.state, last, self.best)

    def _start(self, stage: Stage) -> None:
        if stage.on_start:
            stage.on_start(self.student)

    def _run_stage(self, number: int, stage: Stage, saved_optimizer: dict | None) -> None:
        state, wanted = self.state, stage.optimization
        state.micro_batch = state.micro_batch or math.ceil(wanted.batch_size / self.accelerator.num_processes)
        self.optimizer = optimizers.build(self.learner, wanted)
        if saved_optimizer is not None:
            _restore_optimizer(self.optimizer, saved_optimizer)
        steps, per_epoch = stage.steps(len(self.loader)), stage.batches(len(self.loader))
        final = number == len(self.stages) - 1
        epoch, batches = -1, []
        while True:
            at = state.stage_step
            if at and (at % self.evaluate_every == 0 or at == steps):
                self._look(stage, final)
            if at == steps:
                return
            if at // per_epoch != epoch:
                epoch = at // per_epoch
                batches = self.loader.epoch(wanted.batch_size, number * 1000 + epoch)
            self._step(stage, batches[at % per_epoch], steps)
            if self._asked_to_stop():
                raise interrupt.Interrupted
            if self.checkpoints and self.checkpoints.due(state.step):
                self._save()

    def _step(self, stage: Stage, rows: np.ndarray, steps: int) -> None:
        """One update."""
        state, at = self.state, self.state.stage_step
        factor = optimizers.set_rate(self.optimizer, at, steps, stage.optimization)
        losses = self._gradient(stage, rows)
        optimizers.clip(self.learner, stage.optimization.clip)
        self.optimizer.step()
        if stage.on_step:
            stage.on_step(self.student, self.optimizer, at, steps)
        self.optimizer.zero_grad()
        state.step, state.stage_step, state.examples = state.step + 1, at + 1, state.examples + len(rows)
        for name, value in losses.items():
            state.pending[name] = state.pending.get(name, 0.0) + value
        if state.stage_step % LOG_EVERY == 0 or state.stage_step == steps:
            self._log(stage, stage.optimization.lr * factor)

    def _gradient(self, stage: Stage, rows: np.ndarray) -> dict[str, float]:
        """Leave the gradient of the mean loss over the global batch in the learner; return the loss terms.

        Out of memory halves the micro-batch and doubles the accumulation: the effective batch, and so the gradient, stay.
        """
        state, accelerator = self.state, self.accelerator
        share = rows[accelerator.process_index :: accelerator.num_processes]
        while True:
            torch.manual_seed((self.loader.seed * 1_000_003 + state.step) * 1009 + accelerator.process_index)
            try:
                sums = accumulate(self.student, self.teacher, self.loader, stage.passes, share, rows, state, accelerator)
                break
            except RuntimeError as error:
                from accelerate.utils.memory import should_reduce_batch_size

                if state.micro_batch <= 1 or not should_reduce_batch_size(error):
                    raise
            self.learner.zero_grad()
            state.micro_batch = math.ceil(state.micro_batch / 2)
            state.events.append(f"out of memory at step {state.step}: micro-batch halved to {state.micro_batch}")
            self.progress.say(state.events[-1])
        if accelerator.num_processes > 1:
            sums = accelerator.reduce(sums, "sum")
            for param in self.learner.parameters():
                if param.requires_grad:
                    mine = param.grad if param.grad is not None else torch.zeros_like(param)
                    param.grad = accelerator.reduce(mine, "sum")
        return dict(zip(term_names(stage.passes), sums.tolist(), strict=True))

    def _look(self, stage: Stage, final: bool) -> None:
        """Evaluate on the dev set, once a step, and keep the weights if they are the best so far."""
        state = self.state
        if state.dev and state.dev[-1]["step"] == state.step:
            return
        metrics = self.evaluate(self.student)
        score = next(iter(metrics.values()))
        state.dev.append({"step": state.step, "stage": stage.name, "score": score, "metrics": metrics})
        if final and (state.best_score is None or score > state.best_score):
            state.best_score, state.best_step = score, state.step
            self.best = _copy(self.student)

    def _log(self, stage: Stage, lr: float) -> None:
        """Close an interval of the curve: mean terms since the last entry, or the end of a run that is no longer one."""
        state = self.state
        since = state.curve[-1]["step"] if state.curve else 0
        terms = {name: value / (state.step - since) for name, value in state.pending.items()}
        weights = term_weights(stage.passes)
        loss = sum(weight * terms[name] for name, weight in weights.items())  # in one order, resumed or not
        if not math.isfinite(loss):
            raise Diverged(f"the loss was {loss} by step {state.step}")
        state.curve.append({"step": state.step, "stage": stage.name, "loss": loss, "terms": terms, "lr": lr})
        state.pending = {}
        facts = {"loss": f"{loss:.4f}"}
        facts |= {name: f"{value:.4f}" for name, value in terms.items() if 1 < len(weights) <= SHOWN}
        facts |= {"dev": f"{state.dev[-1]['score']:.1f}"} if state.dev else {}
        self.progress.update(state.step, facts)

    def _asked_to_stop(self) -> bool:
        """Return whether any process was told to stop: all must stop at the same step, or the others would wait for ever."""
        if self.accelerator.num_processes == 1:
            return interrupt.asked()
        flag = torch.tensor([float(interrupt.asked())], device=self.accelerator.device)
        return bool(self.accelerator.reduce(flag, "sum").item())

    def _prepare(self) -> None:
        """Put both models in order for the objectives."""
        objectives = [one.objective for stage in self.stages for one in stage.passes]
        teacher = None if self.teacher is None else self.teacher.model
        for objective in objectives:
            objective.prepare(self.student, teacher)
        if any(objective.wanted & SHOWN_BY_ATTENTION for objective in objectives):
            for model in filter(None, (self.student, teacher)):
                show_scores(model)

    def _keep(self) -> None:
        """Keep what the teacher shows of the training rows, where the run uses it more than once."""
        wanted = worth_keeping(self.stages, len(self.loader), self.accelerator.device)
        if self.teacher is not None and wanted is not None:
            self.progress.say("the teacher answers the training rows, once for all epochs")
            self.teacher.keep(self.loader, wanted, self.accelerator)

    def _save(self) -> None:
        if not self.checkpoints or not self.accelerator.is_main_process:
            return
        found = {f"student/{name}": tensor for name, tensor in self.student.state_dict().items()}
        found |= {f"objectives/{name}": tensor for name, tensor in self.learner.objectives.state_dict().items()}
        found |= {f"best/{name}": tensor for name, tensor in (self.best or {}).items()}
        for index, values in (self.optimizer.state_dict()["state"] if self.optimizer else {}).items():
            found |= {f"optimizer/{index}/{key}": value for key, value in values.items()}
        arrays = {name: tensor.detach().cpu().numpy() for name, tensor in found.items()}
        self.checkpoints.save(self.state.step, arrays, {"state": asdict(self.state)})

    def _restore(self) -> dict | None:
        """Continue from a checkpoint, if there is one: the optimizer's tensors, for the stage that it was in."""
        saved = self.checkpoints.load() if self.checkpoints else None
        reached = saved[1]["state"]["stage"] if saved else 0
        for stage in self.stages[: reached + 1]:
            self._start(stage)
        if saved is None:
            return None
        arrays, meta = saved
        groups: dict[str, dict] = {"student": {}, "objectives": {}, "best": {}, "optimizer": {}}
        for name, array in arrays.items():
            group, _, rest = name.partition("/")
            groups[group][rest] = torch.from_numpy(array)
        self.student.load_state_dict(groups["student"])
        self.learner.objectives.load_state_dict(groups["objectives"])
        self.state, self.best = State(**meta["state"]), groups["best"] or None
        return groups["optimizer"]


def accumulate(
    student: nn.Module,
    teacher: Teaching | None,
    loader: Loader,
    passes: tuple[Pass, ...],
    share: np.ndarray,
    rows: np.ndarray,
    state: State,
    accelerator,
) -> Tensor:
    """Forward and backward over this process's `share` of a batch; the sums of all passes' terms, (terms,)."""
    student.train()
    wanted = frozenset().union(*(one.objective.wanted for one in passes))
    total = loader.tokens(rows)
    sums = torch.zeros(len(term_names(passes)), device=accelerator.device)
    for start in range(0, len(share), state.micro_batch):
        mine = share[start : start + state.micro_batch]
        batch = loader.batch(mine)
        with accelerator.autocast():
            theirs, values = None, []
            if teacher is not None and any(one.objective.needs_teacher for one in passes):
                theirs = teacher(mine, batch, wanted)
            for one in passes:
                with one.active(student):
                    ours = forward(student, batch, one.objective.wanted, total, start > 0)
                terms = one.objective(ours, theirs, batch)
                of_pass = {name: value.sum() / len(rows) for name, value in terms.items()}
                accelerator.backward(sum(one.objective.weights[name] * value for name, value in of_pass.items()))
                values += [value.detach() for value in of_pass.values()]
        sums += torch.stack(values)
    return sums


def term_names(passes: tuple[Pass, ...]) -> list[str]:
    """The terms of a step in order; those of a named pass carry its name."""
    return [f"{one.name}/{name}" if one.name else name for one in passes for name in one.objective.weights]


def term_weights(passes: tuple[Pass, ...]) -> dict[str, float]:
    weights = [weight for one in passes for weight in one.objective.weights.values()]
    return dict(zip(term_names(passes), weights, strict=True))


@torch.no_grad()
def predict(model: nn.Module, loader: Loader, accelerator, exact: bool = False) -> list[np.ndarray]:
    """Each row's outputs in the split's order: (outputs,), (2, tokens) for spans, (tokens, outputs) for words.

    Whole batches are dealt to the processes, so that scores do not depend on how many there are. `exact` computes in
    fp32 whatever the training's precision is.
    """
    model.eval()
    precision = contextlib.nullcontext if exact else accelerator.autocast
    found = []
    for number, rows in enumerate(loader.in_order(SCORING_BATCH)):
        if number % accelerator.num_processes != accelerator.process_index:
            continue
        if accelerator.num_processes == 1:
            interrupt.check()  # with several, one that left would keep the others waiting
        with precision():
            found += zip(rows.tolist(), batch_outputs(model, loader, rows), strict=True)
    if accelerator.num_processes > 1:
        from accelerate.utils import gather_object

        found = gather_object(found)
    outputs: list = [None] * len(loader)
    for row, values in found:
        outputs[row] = values
    if not all(np.isfinite(values).all() for values in outputs):
        raise Diverged("the outputs on the dev set are no longer finite numbers")
    return outputs


@torch.no_grad()
def batch_outputs(model: nn.Module, loader: Loader, rows: np.ndarray) -> list[np.ndarray]:
    """Return the outputs of some rows, computed as one batch, without its padding."""
    scores = forward(model, loader.batch(rows)).logits
    stacked = torch.stack([part.float() for part in scores], 1).cpu().numpy()  # (B, 1 or 2, outputs or S or S, outputs)
    of_tokens = len(scores) > 1 or scores[0].dim() == 3
    widths = loader.split.lengths[rows] if of_tokens else [stacked.shape[2]] * len(rows)
    outputs = (values[:, :width].copy() for values, width in zip(stacked, widths, strict=True))
    return [values if len(values) > 1 else values[0] for values in outputs]


def _copy(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}


def _restore_optimizer(optimizer, saved: dict[str, Tensor]) -> None:
    state: dict[int, dict] = {}
    for name, tensor in saved.items():
        index, _, key = name.partition("/")
        state.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
