"""`python -m methods bench train`: a distilled ternary training step as of 2020 against this project's, in one process."""

import copy
import functools
import statistics
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from methods.common import provenance
from methods.kernel import fusing, products
from methods.model.anatomy import anatomy, layers
from methods.model.edits import apply, show_scores
from methods.model.encoder import build
from methods.tasks import kinds
from methods.tasks.data import Split, collate, shuffled
from methods.training import objective, optimizers, trainer
from methods.training.device import Device
from methods.training.forward import forward
from methods.training.loader import Loader
from methods.training.objective import Objective
from methods.training.recipe import Optimization, Pass
from methods.training.teaching import Teaching
from methods.use.bench.timing import SIZES, VOCABULARY, alternate, mrpc_lengths, random_rows

FULL_LENGTH = 128  # what the codes of 2020 pad GLUE's pair tasks to
KIND = kinds.of("classification")
TERMS = {"hidden": 1.0, "attention": 1.0, "logits": 1.0}


def bench_train(size: str, batch: int, rounds: int, threads: int) -> str:
    """The table of all contenders on both workloads."""
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
    torch.manual_seed(0)
    teacher = build({"vocab_size": VOCABULARY, **SIZES[size]}, "sequence", 2).eval().requires_grad_(False)
    teacher.to(Device().device)
    show_scores(teacher)
    precision, _ = provenance.precision("auto", torch.cuda.is_available())
    contenders: dict[str, Callable[[Split, np.ndarray], None]] = {"2020: eager, fp32, padded": Naive(teacher).step}
    contenders[f"here, {precision}"] = Here(teacher, precision, compiled=False).step
    contenders[f"here, {precision}, fused"] = Here(teacher, precision, compiled=True).step
    contenders[f"here, {precision}, fused, taught once"] = Here(teacher, precision, compiled=True, keeps=True).step
    contenders["here, exact on codes, fused"] = Here(teacher, "codes", compiled=True).step
    lines = [f"A step of TernaryBERT's training, {size}, batch {batch}, {threads} threads, medians of {rounds} turns."]
    for what, lengths in (
        (f"every row {FULL_LENGTH} tokens", np.full(50 * batch, FULL_LENGTH)),
        ("rows as long as MRPC's", _lengths(50 * batch)),
    ):
        seconds = _mean_step(contenders, _rows(lengths), batch, rounds)
        first = next(iter(seconds.values()))
        lines += ["", f"{what:34}{'s a step':>10}{'speed-up':>10}"]
        lines += [f"  {name:32}{time_:>10.3f}{first / time_:>9.2f}x" for name, time_ in seconds.items()]
    calls = f"{_overhead(size, precision, rounds):.3f} s"
    lines += [
        "",
        f"Of a fused step here {calls} are Python and calls: what is left of it where each layer has a few numbers",
    ]
    lines += ["and the batch is one short row."]
    return "\n".join(lines)


def _overhead(size: str, precision: str, rounds: int) -> float:
    """Return the seconds of a step that computes next to nothing: the calls of a step of as many layers and tensors."""
    heads = SIZES[size]["num_attention_heads"]
    small = {"hidden_size": 2 * heads, "intermediate_size": 2 * heads, "vocab_size": 64}
    teacher = build({**SIZES[size], **small}, "sequence", 2).eval().requires_grad_(False).to(Device().device)
    show_scores(teacher)
    contender = Here(teacher, precision, compiled=True)
    split = random_rows([8], 64, targets={"labels": np.zeros(1, int)})
    return statistics.median(alternate({"": lambda turn: contender.step(split, np.arange(1))}, rounds)[""])


class Here:
    """A step of the trainer with TernaryBERT's student, as a run takes it.

    With `keeps` the rows of a workload are shown to the teacher before its first step, which is not timed: every epoch of
    a run but the first is like this.
    """

    def __init__(self, teacher: nn.Module, precision: str, compiled: bool, keeps: bool = False):
        self.device = Device(precision)
        self.teacher, self.compiled, self.on_codes = Teaching(teacher), compiled, precision == "codes"
        self.keeps, self.kept_of = keeps, None
        self.student = copy.deepcopy(teacher).requires_grad_(True)
        rows = {"kind": "ternary", "rows": True}
        activations = {"kind": "asymmetric", "bits": 8}
        apply(self.student, "quantize", weights={"kind": "ternary"}, embeddings=rows, activations=activations)
        self.passes = (Pass(Objective(TERMS)),)
        wanted = Optimization(optimizer="bertadam", lr=2e-5, epochs=1, batch_size=1, weight_decay=0.01)
        self.optimizer = optimizers.build(self.student, wanted)

    def step(self, split: Split, rows: np.ndarray) -> None:
        loader = Loader(split, KIND, self.device.device, max_length=FULL_LENGTH)
        if self.keeps and self.kept_of is not split:
            self.teacher, self.kept_of = Teaching(self.teacher.model), split
            self.teacher.keep(loader, self.passes[0].objective.wanted, self.device)
        state = trainer.State(micro_batch=len(rows))
        with fusing.compiled(self.compiled), products.on_codes(self.on_codes):
            trainer.accumulate(self.student, self.teacher, loader, self.passes, rows, rows, state, self.device)
            self.optimizer.step()
            self.optimizer.zero_grad()


class Naive:
    """A step as the research codes of 2020 take it.

    fp32 throughout, everything padded to the full length, a weight ternarized in many passes at every use (the whole
    embedding table too), inputs of queries, keys and values quantized three times, an optimizer that goes tensor by tensor.
    """

    def __init__(self, teacher: nn.Module):
        self.teacher, self.student = teacher, copy.deepcopy(teacher).requires_grad_(True).train()
        parts, body = anatomy(self.student), self.student.base_model
        body.get_submodule(parts.words).__class__ = _NaiveEmbedding
        for layer in layers(self.student):
            for name in parts.parts:
                layer[name].__class__ = _NaiveLinear
            operands = ("query", "key", "probs", "value")
            layer.attention.quantizers = nn.ModuleDict({name: _NaiveActivation() for name in operands})
        body.get_submodule(parts.pooler).__class__ = _NaiveLinear
        for parent in list(self.student.modules()):
            for name, module in parent.named_children():
                if isinstance(module, nn.Dropout):
                    setattr(parent, name, nn.Dropout(module.p))
        self.moments: dict[Tensor, tuple[Tensor, Tensor]] = {}

    def step(self, split: Split, rows: np.ndarray) -> None:
        batch = Loader(split, KIND, Device().device, padding="max_length", max_length=FULL_LENGTH).batch(rows)
        wanted = frozenset({"hidden", "scores"})
        with torch.no_grad():
            teacher = forward(self.teacher, batch, wanted)
        student = forward(self.student, batch, wanted)
        loss = objective.logits_mean(student, teacher, batch).mean()
        for mine, other in zip(student.shown["scores"], teacher.shown["scores"], strict=True):
            mine, other = (torch.where(scores <= -1e2, torch.zeros_like(scores), scores) for scores in (mine, other))
            loss = loss + F.mse_loss(mine, other)
        for mine, other in zip(student.shown["hidden"], teacher.shown["hidden"], strict=True):
            loss = loss + F.mse_loss(mine, other)
        loss.backward()
        self._update(rate=2e-5)

    @torch.no_grad()
    def _update(self, rate: float) -> None:
        for param in self.student.parameters():
            torch.nn.utils.clip_grad_norm_([param], 1.0)
            first, second = self.moments.setdefault(param, (torch.zeros_like(param), torch.zeros_like(param)))
            first.mul_(0.9).add_(param.grad, alpha=0.1)
            second.mul_(0.999).addcmul_(param.grad, param.grad, value=0.001)
            update = first / (second.sqrt() + 1e-6)
            update += 0.01 * param
            param.add_(-rate * update)
            param.grad = None


class _Ternarized(torch.autograd.Function):
    @staticmethod
    def forward(ctx, w: Tensor, rows: bool) -> Tensor:
        axes = (1,) if rows else (0, 1)
        threshold = 0.7 * w.norm(p=1, dim=axes, keepdim=True) / w[0].numel() / (1 if rows else len(w))
        above, below = (w > threshold).float(), (w < -threshold).float()
        kept = (w.abs() > threshold).float()
        scale = (kept * w).abs().sum(axes, keepdim=True) / kept.sum(axes, keepdim=True)
        return scale * above - scale * below

    @staticmethod
    def backward(ctx, gradient: Tensor):
        return gradient, None


class _Clipped(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        x = torch.where(x < 2.5, x, torch.full_like(x, 2.5))
        x = torch.where(x > -2.5, x, torch.full_like(x, -2.5))
        scale = 127 / x.abs().max().expand_as(x)
        return torch.round(x * scale).div(scale + 1e-6)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        (x,) = ctx.saved_tensors
        gradient = gradient.clone()
        gradient[x.ge(2.5)] = 0
        gradient[x.le(-2.5)] = 0
        return gradient


class _NaiveActivation(nn.Module):
    def forward(self, x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        return _Clipped.apply(x)


class _NaiveLinear(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return F.linear(_Clipped.apply(x), _Ternarized.apply(self.weight, False), self.bias)


class _NaiveEmbedding(nn.Embedding):
    def forward(self, ids: Tensor) -> Tensor:
        return F.embedding(ids, _Ternarized.apply(self.weight, True), self.padding_idx)


def _mean_step(contenders: dict, split: Split, batch: int, rounds: int) -> dict[str, float]:
    """Return the seconds of a mean step of an epoch: for every width the median of `rounds` turns, weighted by its share.

    All contenders take turns on the same rows.
    """
    widths: dict[int, list[np.ndarray]] = {}
    for rows in shuffled(split, batch, seed=0, epoch=0):
        widths.setdefault(collate(split, rows, "bucket", FULL_LENGTH)["input_ids"].shape[1], []).append(rows)
    total = dict.fromkeys(contenders, 0.0)
    for batches in widths.values():
        steps = {name: functools.partial(_step, step, split, batches) for name, step in contenders.items()}
        for name, times in alternate(steps, rounds).items():
            total[name] += statistics.median(times) * len(batches)
    return {name: time_ / sum(map(len, widths.values())) for name, time_ in total.items()}


def _step(step: Callable, split: Split, batches: list[np.ndarray], turn: int) -> None:
    step(split, batches[turn % len(batches)])


def _lengths(count: int) -> np.ndarray:
    return mrpc_lengths(np.random.default_rng(0).random(count))


def _rows(lengths: Sequence[int]) -> Split:
    labels = np.random.default_rng(2).integers(0, 2, len(lengths))
    return random_rows(lengths, VOCABULARY, targets={"labels": labels})
