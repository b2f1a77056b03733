"""TernaryBERT (Zhang et al. 2020, arXiv 2009.12812): ternary weights trained under distillation, by TWN or by LAT.

The student is the fine-tuned teacher with quantizers in it; it follows the teacher's embedding output, layer outputs,
attention scores and logits, all from the first step (equations 9 to 12), and sees no label.
"""

from dataclasses import dataclass

from torch import nn

from methods.common.options import Quantizer
from methods.kernel.layers import Quantized
from methods.kernel.quantizers import LossAware
from methods.model.edits import apply
from methods.training.context import Context
from methods.training.recipe import Stage, Training, stage


@dataclass(kw_only=True)
class Recipe(Training):
    """Quantizers of matrices, of the word embedding and of activations."""

    weights: Quantizer
    embeddings: Quantizer
    activations: Quantizer


def student(init: nn.Module, recipe: Recipe, context: Context) -> nn.Module:
    return apply(init, "quantize", weights=recipe.weights, embeddings=recipe.embeddings, activations=recipe.activations)


def stages(student: nn.Module, recipe: Recipe, context: Context) -> list[Stage]:
    loss_aware = recipe.weights["kind"] == "loss_aware"
    return [stage(recipe, context.budget, on_step=watch_curvature if loss_aware else None)]


def watch_curvature(student: nn.Module, optimizer, *_) -> None:
    """Hand Adam's second moment of every loss-aware weight to its quantizer, for the next step (Hou & Kwok 2018)."""
    for module in student.modules():
        if isinstance(module, Quantized) and isinstance(module.weight_quantizer, LossAware):
            module.weight_quantizer.watch(optimizer.state[module.weight]["exp_avg_sq"])
