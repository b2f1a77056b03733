"""KDLSQ-BERT (Jin et al. 2021, arXiv 2101.05938): learned quantization ranges under layer-wise distillation, 2 to 8 bits.

The authors' code learns a clip threshold for every weight and activation tensor, without LSQ's gradient scale; true LSQ
steps are the `step` kind of quantizer. Ranges are set on training batches before the first step.
"""

from dataclasses import dataclass
from itertools import islice

from torch import nn

from methods.common.options import Quantizer, Whole
from methods.model.edits import apply, calibrate
from methods.training.context import Context
from methods.training.recipe import Stage, Training, stage


@dataclass(kw_only=True)
class Recipe(Training):
    """Quantizers of matrices, of both large tables and of activations, and the batches that set their ranges."""

    weights: Quantizer
    embeddings: Quantizer
    positions: Quantizer
    activations: Quantizer
    calibration_batches: Whole


def student(init: nn.Module, recipe: Recipe, context: Context) -> nn.Module:
    places = ("weights", "embeddings", "positions", "activations")
    apply(init, "quantize", **{place: getattr(recipe, place) for place in places})
    calibrate(init, islice(context.sample, recipe.calibration_batches))
    return init


def stages(student: nn.Module, recipe: Recipe, context: Context) -> list[Stage]:
    return [stage(recipe, context.budget)]
