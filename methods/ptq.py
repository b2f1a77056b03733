"""Post-training baselines: the fine-tuned model edited as it is, with no training at all."""

from dataclasses import dataclass

from torch import nn

from methods.common.options import Edit
from methods.model.edits import apply
from methods.training.context import Context
from methods.training.recipe import Stage


@dataclass(kw_only=True)
class Recipe:
    """Edits, made one after another."""

    edits: list[Edit]


def student(init: nn.Module, recipe: Recipe, context: Context) -> nn.Module:
    for one in recipe.edits:
        apply(init, **one)
    return init


def stages(student: nn.Module, recipe: Recipe, context: Context) -> list[Stage]:
    return []
