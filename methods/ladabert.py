"""LadaBERT-style (after Mao et al. 2020, arXiv 2004.04124): matrix factorisation, pruning and distillation together.

Every weight matrix becomes the product of two thin ones, whose smallest numbers are pruned little by little while the
student follows its teacher. The authors published no code; what their paper leaves open is said in the stanzas.
"""

from functools import partial

import torch
from torch import nn

from methods.common.errors import UserError
from methods.model.edits import edit, matrices
from methods.training.trainer import Sample, Stage


def student(init: nn.Module, spec: dict, sample: Sample) -> nn.Module:
    """The start in factors, its weights marked for pruning; both together will leave the recipe's share of parameters."""
    recipe = spec["recipe"]
    target = recipe["remaining"] * sum(parameter.numel() for parameter in init.base_model.parameters())
    share = share_left(init, target)
    if share <= 0:
        raise UserError(
            f"remaining: {recipe['remaining']} leaves nothing of this model's weight matrices, because its biases, "
            "LayerNorms and small tables alone are more: raise it in config/methods.yaml, or take a larger base model."
        )
    if recipe["svd_part"] > 0:
        edit(init, "factor", share=round(share ** recipe["svd_part"], 4), by="svd")
    density = min(1.0, share_left(init, target))
    for layer in matrices(init).values():
        mark(layer.weight, kept=round(density * layer.weight.numel()))
    if "quantizers" in recipe:
        edit(init, "quantize", **recipe["quantizers"])
    return init


def stages(spec: dict, budget: dict) -> list[Stage]:
    recipe = spec["recipe"]
    return [Stage.of(recipe, budget, on_step=partial(prune, every=recipe["prune_every"], ramp=recipe["ramp"]))]


def share_left(model: nn.Module, target: float) -> float:
    """The share of its matrices' numbers that a model may keep to be left with `target` parameters."""
    inside = sum(layer.weight.numel() for layer in matrices(model).values())
    outside = sum(parameter.numel() for parameter in model.base_model.parameters()) - inside
    return (target - outside) / inside


def mark(weight: nn.Parameter, kept: int) -> None:
    """Note how many numbers remain at the end, and let no gradient reach those that are zero.

    The zeros themselves are the mask, so that a checkpoint or a model file holds it without holding anything more.
    """
    weight.kept = kept
    weight.register_hook(lambda gradient: gradient * (weight != 0))


@torch.no_grad()
def prune(student: nn.Module, optimizer, step: int, steps: int, *, every: int, ramp: float) -> None:
    """Set the smallest of every marked weight to zero, as many as are due, and forget the optimizer's moments of them.

    Without gradient and moments they stay zero, whatever the optimizer.
    """
    done = step + 1
    if done % every and done < steps:
        return
    for weight in student.parameters():
        dropped = round(due(done / steps, ramp) * (weight.numel() - getattr(weight, "kept", weight.numel())))
        if dropped:
            kept = weight.abs() > weight.abs().flatten().sort().values[dropped - 1]
            weight.mul_(kept)
            for moment in optimizer.state[weight].values():
                if moment.shape == weight.shape:
                    moment.mul_(kept)


def due(progress: float, ramp: float) -> float:
    """The share of the pruning that is due (Zhu & Gupta 2017, arXiv 1710.01878, equation 1): fast first, then slower."""
    return 1 - (1 - min(progress / ramp, 1.0)) ** 3
