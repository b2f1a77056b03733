"""BiT (Liu et al. 2022, arXiv 2205.13016): binary weights and activations, by a chain of ever narrower teachers.

A student has binary weights on either side of their mean, and activations on learned steps behind learned shifts. It is
trained first with wider activations; then the same student goes on with one bit, and the wider one is its teacher. Official
code: facebookresearch/bit, which scripts the single step and not the chain.
"""

from dataclasses import dataclass
from itertools import islice
from typing import Literal

from torch import nn

from methods.common.options import Quantizer, Whole
from methods.model.edits import apply, calibrate
from methods.training.context import Context
from methods.training.recipe import Stage, Training, stage


@dataclass(kw_only=True)
class Recipe(Training):
    """The start of the student, its grids, and the batches that set its steps.

    `start: full` puts quantizers into a full-precision model. `wider` takes a model of this family on, whose activations get
    other grids: its steps stay as they were learned, unless `calibration_batches` are given.
    """

    start: Literal["full", "wider"]
    weights: Quantizer
    embeddings: Quantizer
    activations: Quantizer
    one_sided: Quantizer
    feed_forward: Literal["gelu", "relu"] = "relu"
    calibration_batches: Whole = 0


def student(init: nn.Module, recipe: Recipe, context: Context) -> nn.Module:
    activations = {"activations": recipe.activations, "one_sided": recipe.one_sided}
    if recipe.start == "full":
        apply(init, "activate", function=recipe.feed_forward)
        weights = {"weights": recipe.weights, "embeddings": recipe.embeddings}
        apply(init, "quantize", **weights, **activations, own_inputs=True, shift=True)
    else:
        apply(init, "requantize_activations", **activations)
    calibrate(init, islice(context.sample, recipe.calibration_batches))
    return init


def stages(student: nn.Module, recipe: Recipe, context: Context) -> list[Stage]:
    return [stage(recipe, context.budget)]
