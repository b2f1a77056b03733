"""An ablation of distillation: one ternary student, one budget, and one choice of what it follows in each row.

After Dankar et al. 2023 (arXiv 2308.13958), who vary the losses, the layer map and the weights of attention and hidden
states. They compare TinyBERTs; here every row has TernaryBERT's student, of the teacher's depth, so that rows differ in
what is distilled and in nothing else. A map therefore names the layers that are followed, half of them, on both sides.
"""

import dataclasses
from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from methods.common.options import Positive, Quantizer, Whole
from methods.kernel.trace import Trace
from methods.model.edits import apply
from methods.training import objective
from methods.training.context import Context
from methods.training.objective import term
from methods.training.recipe import Stage, Training, stage


@dataclass(kw_only=True)
class Recipe(Training):
    """The student's quantizers, and the layers that it follows: every one, every second, the first or the last half.

    The embedding output is always followed.
    """

    weights: Quantizer
    embeddings: Quantizer
    activations: Quantizer
    layers: Literal["every", "second", "first", "last"] = "every"


def student(init: nn.Module, recipe: Recipe, context: Context) -> nn.Module:
    return apply(init, "quantize", weights=recipe.weights, embeddings=recipe.embeddings, activations=recipe.activations)


def stages(student: nn.Module, recipe: Recipe, context: Context) -> list[Stage]:
    import methods.distil

    terms = chosen(recipe.terms, followed(student.config.num_hidden_layers, recipe.layers))
    return [stage(recipe, context.budget, terms, paper=methods.distil)]


def followed(depth: int, which: str) -> list[int]:
    """Return the layers that are followed, counted from 0. Half of an odd number is rounded up."""
    half = (depth + 1) // 2
    return {
        "every": list(range(depth)),
        "second": list(range(depth - 1, -1, -2))[::-1],  # the last layer is among them
        "first": list(range(half)),
        "last": list(range(depth - half, depth)),
    }[which]


OF_LAYERS = {name: name for name in ("hidden_of", "attention_of", "cosine", "probabilities")}
OF_LAYERS |= {"hidden": "hidden_of", "attention": "attention_of"}


def chosen(terms: dict, layers: list[int]) -> dict:
    """Return a recipe's terms, with those that compare layers narrowed to these."""
    options = {name: given if isinstance(given, dict) else {"weight": given} for name, given in terms.items()}
    return {
        OF_LAYERS.get(name, name): {**given, "layers": layers} if name in OF_LAYERS else given
        for name, given in options.items()
    }


@term("hidden")
def hidden_of(student: Trace, teacher: Trace, batch: dict, *, layers: list[Whole]) -> Tensor:
    """`hidden` of the embedding output and of what comes out of these layers, counted from 0."""
    return objective.hidden(*_showing("hidden", _states(layers), student, teacher), batch)


@term("scores")
def attention_of(student: Trace, teacher: Trace, batch: dict, *, layers: list[Whole]) -> Tensor:
    """`attention` of these layers, counted from 0."""
    return objective.attention(*_showing("scores", layers, student, teacher), batch)


@term()
def divergence(student: Trace, teacher: Trace, batch: dict, *, temperature: Positive = 1.0) -> Tensor:
    """Kullback-Leibler divergence from the teacher's distribution at a temperature T, times T^2 (Hinton et al. 2015).

    At T = 1 its gradient is that of `logits`, whose soft cross-entropy exceeds it by the teacher's entropy. Where the
    output is a number it is the squared error, at every temperature.
    """
    ours, theirs = (tuple(part.float() / temperature for part in trace.logits) for trace in (student, teacher))
    kind = batch["kind"]
    return (kind.soft_loss(ours, theirs, batch) - kind.soft_loss(theirs, theirs, batch)) * temperature**2


@term("hidden")
def cosine(student: Trace, teacher: Trace, batch: dict, *, layers: list[Whole] | None = None) -> Tensor:
    """One minus the cosine between hidden states, averaged over real tokens, summed over states; `layers` as above."""
    states = range(len(student.shown["hidden"])) if layers is None else _states(layers)
    mask = batch["attention_mask"].float()  # (B, S)
    pairs = zip(*(trace.shown["hidden"] for trace in _showing("hidden", states, student, teacher)), strict=True)
    total = sum(((1 - F.cosine_similarity(a.float(), b.float(), dim=2)) * mask).sum(1) for a, b in pairs)
    return total / mask.sum(1)


@term("scores")
def probabilities(student: Trace, teacher: Trace, batch: dict, *, layers: list[Whole] | None = None) -> Tensor:
    """Kullback-Leibler divergence of attention probabilities, averaged over heads and real tokens, summed over layers."""
    layers = range(len(student.shown["scores"])) if layers is None else layers
    mask = batch["attention_mask"]
    pairs = zip(*(trace.shown["scores"] for trace in _showing("scores", layers, student, teacher)), strict=True)
    total = 0.0
    for shown in pairs:
        ours, theirs = (
            scores.float().masked_fill(mask[:, None, None, :] == 0, -1e9).log_softmax(-1) for scores in shown
        )  # (B, heads, S, S)
        by_token = (theirs.exp() * (theirs - ours)).sum(-1).mean(1)  # (B, S)
        total = total + (by_token * mask).sum(1)
    return total / mask.sum(1)


def _states(layers: list[int]) -> list[int]:
    """The embedding output and what comes out of some layers, as hidden states are counted."""
    return [0, *(layer + 1 for layer in layers)]


def _showing(what: str, chosen, *traces: Trace) -> list[Trace]:
    """Traces that show these of `what`, and nothing else."""
    return [dataclasses.replace(trace, shown={what: [trace.shown[what][at] for at in chosen]}) for trace in traces]
