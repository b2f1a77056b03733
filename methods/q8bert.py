"""Q8BERT (Zafrir et al. 2019, arXiv 1910.06188): fine-tuning with 8-bit weights and activations in the forward pass.

Weights lie on symmetric levels up to their largest magnitude, activations on levels up to a moving average of theirs, which
evaluation takes as training left it. Official code: IntelLabs/nlp-architect, nlp_architect/nn/torch/quantization.py.
"""

from dataclasses import dataclass

from torch import nn

from methods.common.options import Quantizer
from methods.model.edits import apply
from methods.training.context import Context
from methods.training.recipe import Stage, Training, stage


@dataclass(kw_only=True)
class Recipe(Training):
    """Quantizers of matrices, of the three embedding tables, and of what goes into and comes out of every linear map.

    `outputs: null` quantizes inputs alone; `head` says whether the task's head is quantized as well.
    """

    weights: Quantizer
    embeddings: Quantizer
    positions: Quantizer
    types: Quantizer
    activations: Quantizer
    outputs: Quantizer | None
    head: bool


def student(init: nn.Module, recipe: Recipe, context: Context) -> nn.Module:
    """The start with quantizers in it. Products inside the attention are left in full precision."""
    places = ("weights", "embeddings", "positions", "types", "activations", "outputs", "head")
    return apply(init, "quantize", attention=False, **{place: getattr(recipe, place) for place in places})


def stages(student: nn.Module, recipe: Recipe, context: Context) -> list[Stage]:
    return [stage(recipe, context.budget)]
