"""Full precision (Devlin et al. 2019, arXiv 1810.04805): fine-tuning, the baseline and teacher of every method."""

from torch import nn

from methods.training.context import Context
from methods.training.recipe import Stage, Training, stage


class Recipe(Training):
    """Plain fine-tuning, on labels or after a teacher."""


def student(init: nn.Module, recipe: Recipe, context: Context) -> nn.Module:
    return init


def stages(student: nn.Module, recipe: Recipe, context: Context) -> list[Stage]:
    return [stage(recipe, context.budget)]
