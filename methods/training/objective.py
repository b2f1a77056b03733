"""Objectives: what a student is trained on, as a weighted sum of terms.

A term compares what the student shows with labels or with what the teacher shows, and returns one number for each example,
(B,), from which the trainer takes the mean over the *global* batch. Padding never enters a term nor a range of activations,
so that it changes a loss by rounding only. So do micro-batches and the number of devices, but for dynamic ranges: these are
those of a micro-batch's real tokens, and change the student's outputs a little, and so its gradients.
"""

import inspect
from collections.abc import Callable
from types import ModuleType

import torch
from torch import Tensor, nn

from methods.common.options import Positive
from methods.kernel.fusing import fused
from methods.kernel.trace import Trace


def term(*reads: str, teacher: bool = True, padding: bool = False) -> Callable:
    """Mark a function or a module class as a term.

    `reads` names what both models have to show: `hidden` (embedding output and every layer's), `scores` (attention before
    softmax), `queries`, `keys` and `values` (before any quantizer, (B, heads, S, width)), or whatever a module shows by
    `trace.show`. A function takes (student's trace, teacher's trace, batch) and its options. A class is a module with
    parameters of its own, made as `cls(student, teacher, **options)`, whose forward takes the same three; its parameters are
    trained and checkpointed with the student. `padding` says that it reads what the teacher shows of padding too.
    """

    def mark(thing):
        thing.reads, thing.needs_teacher, thing.reads_padding = frozenset(reads), teacher, padding
        return thing

    return mark


class Objective(nn.Module):
    """A weighted sum of terms, built from a recipe's `terms`: {name: weight} or {name: {weight, options}}."""

    def __init__(self, terms: dict, paper: ModuleType | None = None):
        super().__init__()
        known = terms_of(globals()) | (terms_of(vars(paper)) if paper else {})
        self.weights: dict[str, float] = {}
        self.options: dict[str, dict] = {}
        self.functions: dict[str, Callable] = {}
        self.modules_of_terms = nn.ModuleDict()
        for name in sorted(terms):  # one order, whoever wrote the recipe: sums of floats depend on it
            given = dict(terms[name]) if isinstance(terms[name], dict) else {"weight": terms[name]}
            self.weights[name] = given.pop("weight", 1.0)
            self.options[name], self.functions[name] = given, known[name]

    @property
    def wanted(self) -> frozenset[str]:
        """Names of what both models have to show."""
        return frozenset().union(*(function.reads for function in self.functions.values()))

    @property
    def needs_teacher(self) -> bool:
        return any(function.needs_teacher for function in self.functions.values())

    @property
    def reads_padding(self) -> bool:
        return any(function.reads_padding for function in self.functions.values())

    def prepare(self, student: nn.Module, teacher: nn.Module | None) -> None:
        """Make the modules of terms that have parameters."""
        for name, function in self.functions.items():
            if inspect.isclass(function) and name not in self.modules_of_terms:
                self.modules_of_terms[name] = function(student, teacher, **self.options[name])

    def forward(self, student: Trace, teacher: Trace | None, batch: dict) -> dict[str, Tensor]:
        """Each term's value for each example, (B,)."""
        values = {}
        for name, function in self.functions.items():
            if name in self.modules_of_terms:
                values[name] = self.modules_of_terms[name](student, teacher, batch)
            else:
                values[name] = function(student, teacher, batch, **self.options[name])
        return values


def terms_of(names: dict) -> dict[str, Callable]:
    """The terms among a module's names."""
    return {name: thing for name, thing in names.items() if hasattr(thing, "reads") and hasattr(thing, "needs_teacher")}


@term(teacher=False)
def labels(student: Trace, teacher: Trace | None, batch: dict) -> Tensor:
    """The task's own loss against its labels."""
    return batch["kind"].loss(student.logits, batch)


@term()
def logits(student: Trace, teacher: Trace, batch: dict, *, temperature: Positive = 1.0) -> Tensor:
    """Soft cross-entropy with the teacher's distribution; squared error where the output is a number.

    A temperature divides the logits of both and multiplies the loss by its square, so that gradients keep their size
    (Hinton et al. 2015, arXiv 1503.02531, section 2). The squared error does not depend on it.
    """
    cooled = ([scores.float() / temperature for scores in one.logits] for one in (student, teacher))
    return batch["kind"].soft_loss(*map(tuple, cooled), batch) * temperature**2


@term(padding=True)
def logits_mean(student: Trace, teacher: Trace, batch: dict) -> Tensor:
    """`logits` as the official codes average it: over classes, or over all of a span's positions, as well as over rows."""
    return batch["kind"].soft_loss_mean(student.logits, teacher.logits, batch)


@term("hidden")
def hidden(student: Trace, teacher: Trace, batch: dict, *, map: list[int] | None = None) -> Tensor:
    """Squared error of the embedding output and of every layer's, averaged over real tokens, summed over states.

    `map` names the teacher's state for each of the student's; state 0 is the embedding output.
    """
    mask = batch["attention_mask"].float().unsqueeze(2)  # (B, S, 1)
    pairs = _pairs(student, teacher, "hidden", map)
    total = sum(_distance(a, b, mask) for a, b in pairs)
    return total / (mask.sum((1, 2)) * pairs[0][0].shape[2])


@term("hidden", padding=True)
def hidden_padded(student: Trace, teacher: Trace, batch: dict, *, map: list[int] | None = None) -> Tensor:
    """`hidden` as the official codes average it: padding counts like any token, so that padding changes the loss."""
    return sum(((a.float() - b.float()) ** 2).mean((1, 2)) for a, b in _pairs(student, teacher, "hidden", map))


@term("scores")
def attention(student: Trace, teacher: Trace, batch: dict, *, map: list[int] | None = None) -> Tensor:
    """Squared error of the attention scores before softmax between real tokens, averaged, summed over layers.

    `map` names the teacher's layer, counted from 0, for each of the student's.
    """
    mask = batch["attention_mask"].float()
    real = (mask[:, :, None] * mask[:, None, :]).unsqueeze(1)  # (B, 1, S, S)
    pairs = _pairs(student, teacher, "scores", map)
    total = sum(_distance(a, b, real) for a, b in pairs)
    return total / (real.sum((1, 2, 3)) * pairs[0][0].shape[1])


@term("scores", padding=True)
def attention_padded(student: Trace, teacher: Trace, batch: dict, *, map: list[int] | None = None) -> Tensor:
    """`attention` as the official codes average it: masked scores are set to zero, and count."""
    unmasked = batch["attention_mask"][:, None, None, :] != 0  # (B, 1, 1, S)
    pairs = _pairs(student, teacher, "scores", map)
    return sum((torch.where(unmasked, a.float() - b.float(), 0.0) ** 2).mean((1, 2, 3)) for a, b in pairs)


@term("shown_losses", teacher=False)
def shown_losses(student: Trace, teacher: Trace | None, batch: dict) -> Tensor:
    """The sum of what modules showed as losses of their own, (B,) each, such as a router's balance loss."""
    return sum(student.shown["shown_losses"])


@fused
def _distance(a: Tensor, b: Tensor, mask: Tensor) -> Tensor:
    """Each example's squared distance where `mask` is 1, summed; (B, ...) -> (B,).

    Masked scores are very low but finite (transformers adds the smallest number), so that a product with 0 is 0. Compiled,
    it takes a sixth of the time of choosing by `where`.
    """
    return ((a.float() - b.float()) * mask).square().sum(tuple(range(1, a.dim())))


def _pairs(student: Trace, teacher: Trace, what: str, map: list[int] | None) -> list[tuple[Tensor, Tensor]]:
    """The student's tensors beside those of the teacher that they follow. None shown would make a term silently zero."""
    ours, theirs = student.shown.get(what, []), teacher.shown.get(what, [])
    if map is not None and theirs:
        if outside := [at for at in map if not -len(theirs) <= at < len(theirs)]:
            raise ValueError(f"{what}: the map names {outside[0]}, and the teacher shows {len(theirs)}, counted from 0")
        theirs = [theirs[at] for at in map]
    if not ours or len(ours) != len(theirs):
        what_for = f"the map {map}" if map is not None else "no map"
        raise ValueError(f"{what}: the student shows {len(ours)}, the teacher {len(theirs)}, with {what_for}")
    return list(zip(ours, theirs, strict=True))
