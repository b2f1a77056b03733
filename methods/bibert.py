"""BiBERT (Qin et al. 2022, arXiv 2203.06390): weights and activations of one bit, and attention without softmax.

Activations are signs without a scale, and a token attends to all tokens with a score above zero alike. The student follows
the directions of its teacher's hidden states and of the similarities between its queries, keys and values. Official code:
htqin/BiBERT, which its authors call not final.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from methods.common.options import Quantizer
from methods.model.edits import apply
from methods.training.context import Context
from methods.training.objective import term
from methods.training.recipe import Stage, Training, stage


@dataclass(kw_only=True)
class Recipe(Training):
    """Quantizers of matrices, of the word embedding, of activations, and of attention scores in softmax's place."""

    weights: Quantizer
    embeddings: Quantizer
    activations: Quantizer
    probs: Quantizer


def student(init: nn.Module, recipe: Recipe, context: Context) -> nn.Module:
    places = ("weights", "embeddings", "activations", "probs")
    return apply(init, "quantize", **{place: getattr(recipe, place) for place in places})


def stages(student: nn.Module, recipe: Recipe, context: Context) -> list[Stage]:
    import methods.bibert

    return [stage(recipe, context.budget, paper=methods.bibert)]


# --- direction-matching distillation (code: quant_task_glue.py) ---------------------------------------------
#
# Two tensors of any scale are compared by the distance of their directions, || a / ||a|| - b / ||b|| ||: a norm, and not its
# square. The code takes the norms over a batch at once, padding included (`whole_batch`), so that a loss depends on the
# micro-batch; here every example has its own, over real tokens.


@term("queries", padding=True)
def queries(student, teacher, batch, *, whole_batch: bool = False) -> Tensor:
    """Distance between directions of the similarities of queries, summed over layers, for each example."""
    return _of_similarities(student, teacher, batch, "queries", whole_batch)


@term("keys", padding=True)
def keys(student, teacher, batch, *, whole_batch: bool = False) -> Tensor:
    """As `queries`, of keys."""
    return _of_similarities(student, teacher, batch, "keys", whole_batch)


@term("values", padding=True)
def values(student, teacher, batch, *, whole_batch: bool = False) -> Tensor:
    """As `queries`, of values."""
    return _of_similarities(student, teacher, batch, "values", whole_batch)


@term("hidden", padding=True)
def hidden_direction(student, teacher, batch, *, whole_batch: bool = False) -> Tensor:
    """Distance between the directions of hidden states, summed over the embedding output and all layers."""
    mask = batch["attention_mask"].float().unsqueeze(2)  # (B, S, 1)
    pairs = zip(student.shown["hidden"], teacher.shown["hidden"], strict=True)
    if whole_batch:
        return sum(distance(a, b, whole_batch=True) for a, b in pairs)
    return sum(distance(a.float() * mask, b.float() * mask) for a, b in pairs)


def similarity(x: Tensor, mask: Tensor | None = None) -> Tensor:  # (B, heads, S, width) -> (B, heads, S, S)
    """Return the products of each head's vectors with one another, 0 where a token is padding by `mask`, (B, S).

    The code divides them by the root of the width, which changes no direction.
    """
    x = x.float() if mask is None else x.float() * mask.float()[:, None, :, None]
    return x @ x.mT


def distance(a: Tensor, b: Tensor, whole_batch: bool = False) -> Tensor:  # (B, ...) twice -> (B,)
    """Return the distance between the directions of two tensors: of each example, or for all the batch's."""
    if whole_batch:
        return distance(a[None], b[None]).expand(len(a))
    return torch.linalg.vector_norm(_direction(a) - _direction(b), dim=1)


def _direction(x: Tensor) -> Tensor:  # (B, ...) -> (B, numbers)
    flat = x.float().flatten(1)
    return flat / torch.linalg.vector_norm(flat, dim=1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)


def _of_similarities(student, teacher, batch, name: str, whole_batch: bool) -> Tensor:
    mask = None if whole_batch else batch["attention_mask"]
    pairs = zip(student.shown[name], teacher.shown[name], strict=True)
    return sum(distance(*(similarity(x, mask) for x in pair), whole_batch) for pair in pairs)
