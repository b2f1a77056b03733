"""LadaBERT-style (after Mao et al. 2020, arXiv 2004.04124): matrix factorisation, pruning and distillation together.

Every weight matrix becomes the product of two thin ones, whose smallest numbers are pruned little by little while the
student follows its teacher. The authors published no code; the stanzas say what their paper leaves open.
"""

from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from methods.common.errors import UserError
from methods.common.options import Count, Positive, Quantizer, Share
from methods.model.edits import apply, matrices
from methods.training.context import Context
from methods.training.recipe import Stage, Training, stage
from methods.training.zeros import hold_zeros, set_zeros


@dataclass(kw_only=True)
class Quantizers:
    """Grids of the factors, for the variant that quantizes them too."""

    weights: Quantizer
    embeddings: Quantizer
    activations: Quantizer


@dataclass(kw_only=True)
class Recipe(Training):
    """The share of parameters that remains, how factors and pruning divide it, and the schedule of pruning."""

    remaining: Share
    svd_part: Share
    ramp: Positive
    prune_every: Count
    quantizers: Quantizers | None = None


def student(init: nn.Module, recipe: Recipe, context: Context) -> nn.Module:
    """The start in factors; with pruning, they will leave the recipe's share of parameters."""
    target = recipe.remaining * sum(parameter.numel() for parameter in init.base_model.parameters())
    share = share_left(init, target)
    if share <= 0:
        raise UserError(
            f"remaining: {recipe.remaining} leaves nothing of this model's weight matrices, because its biases, "
            "LayerNorms and small tables alone are more: raise it in config/methods/ladabert.yaml, or take a larger base."
        )
    if recipe.svd_part > 0:
        apply(init, "factor", share=round(share**recipe.svd_part, 4), by="svd")
    context.notes["density"] = min(1.0, share_left(init, target))
    if recipe.quantizers:
        apply(init, "quantize", **recipe.quantizers)
    return init


def stages(student: nn.Module, recipe: Recipe, context: Context) -> list[Stage]:
    density = context.notes["density"]
    kept = {weight: round(density * weight.numel()) for weight in (layer.weight for layer in matrices(student).values())}
    for weight in kept:
        hold_zeros(weight)
    return [stage(recipe, context.budget, on_step=partial(prune, kept=kept, every=recipe.prune_every, ramp=recipe.ramp))]


def share_left(model: nn.Module, target: float) -> float:
    """The share of its matrices' numbers that a model may keep to be left with `target` parameters."""
    inside = sum(layer.weight.numel() for layer in matrices(model).values())
    outside = sum(parameter.numel() for parameter in model.base_model.parameters()) - inside
    return (target - outside) / inside


@torch.no_grad()
def prune(student: nn.Module, optimizer, step: int, steps: int, *, kept: dict, every: int, ramp: float) -> None:
    """Set the smallest numbers of every weight to zero, as many as are due, and forget the optimizer's moments of them.

    `kept` says how many numbers of each weight remain at the end.
    """
    done = step + 1
    if done % every and done < steps:
        return
    for weight, remaining in kept.items():
        dropped = round(due(done / steps, ramp) * (weight.numel() - remaining))
        if dropped:
            stays = weight.abs() > weight.abs().flatten().sort().values[dropped - 1]
            set_zeros(weight, stays, optimizer)


def due(progress: float, ramp: float) -> float:
    """The share of the pruning that is due (Zhu & Gupta 2017, arXiv 1710.01878, equation 1): fast first, then slower."""
    return 1 - (1 - min(progress / ramp, 1.0)) ** 3
