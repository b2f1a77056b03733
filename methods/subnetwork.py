"""Sub-networks: some of a trained model's layers, and the first heads and neurons of each, with no further training.

DynaBERT (arXiv 2004.04037) trains a model for it: each of its sub-networks is then a row of the table and a file of its own.
"""

from dataclasses import dataclass

from torch import nn

from methods.common.options import Share
from methods.dynabert import cut
from methods.training.context import Context
from methods.training.recipe import Stage


@dataclass(kw_only=True)
class Recipe:
    """The shares of heads and neurons, and of layers, that stay."""

    width: Share
    depth: Share


def student(init: nn.Module, recipe: Recipe, context: Context) -> nn.Module:
    return cut(init, recipe.width, recipe.depth)


def stages(student: nn.Module, recipe: Recipe, context: Context) -> list[Stage]:
    return []
