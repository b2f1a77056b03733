"""Training as a recipe describes it, and the stage that follows.

A paper's file declares `class Recipe(Training)` with the options of its own; the catalogue reads the annotations and
checks every stanza against them (see methods/common/options.py).
"""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Literal

from torch import nn

from methods.common.options import Count, NonNegative, Positive, Share, Terms
from methods.training.objective import Objective


@dataclass(kw_only=True)
class Optimization:
    """Settings of the optimizer and its schedule."""

    optimizer: Literal["adamw", "bertadam"]
    lr: Positive  # peak learning rate
    epochs: Positive
    batch_size: Count  # over all devices
    warmup: Share = 0.0  # share of the steps in which the rate rises; it falls linearly afterwards
    ramps: list[list[NonNegative]] = field(default_factory=list)  # another schedule: see `optimizers.factor`
    weight_decay: NonNegative = 0.0
    clip: Literal["global"] | None = None  # gradient norm 1.0 over all parameters
    quantizer_lr: dict[str, Positive] = field(default_factory=dict)  # learned ranges of `weights` or `activations`
    quantizer_decay: dict[str, NonNegative] = field(default_factory=dict)


@dataclass(kw_only=True)
class Training(Optimization):
    """Training in one stage with one objective."""

    terms: Terms


@dataclass(frozen=True)
class Pass:
    """One forward and backward pass of a step.

    `active(student)` is open during the pass and may make the student another network for the moment, such as a narrower
    one; gradients of all passes add up.
    """

    objective: Objective
    active: Callable[[nn.Module], AbstractContextManager] = nullcontext
    name: str = ""


@dataclass(frozen=True)
class Stage:
    """A stretch of training with one way to take a step.

    `on_step(student, optimizer, step, steps)` is called after each of the stage's `steps` updates, counted from 0, before
    the gradients are cleared. `on_start(student)` is called before the first update and may change the student's structure.
    A run that resumes calls it again for every stage up to its own, and then loads the numbers.
    """

    name: str
    passes: tuple[Pass, ...]
    optimization: Optimization
    on_step: Callable | None = None
    on_start: Callable[[nn.Module], None] | None = None

    def batches(self, rows: int) -> int:
        """Batches of one epoch over so many rows."""
        return math.ceil(rows / self.optimization.batch_size)

    def steps(self, rows: int) -> int:
        """Updates of the whole stage."""
        return max(1, round(self.optimization.epochs * self.batches(rows)))


def stage(
    recipe: Optimization,
    budget: dict,
    terms: dict | None = None,
    *,
    passes: tuple[Pass, ...] = (),
    lr_factor: float = 1.0,
    on_step: Callable | None = None,
    on_start: Callable[[nn.Module], None] | None = None,
    paper=None,
) -> Stage:
    """Return the stage that a recipe describes, scaled by the preset's budget.

    It has one pass with the recipe's terms, or with `terms`, unless `passes` are given. `paper` is the module whose own
    terms the recipe may name.
    """
    if not passes:
        passes = (Pass(Objective(terms or recipe.terms, paper)),)
    scaled = Optimization(
        optimizer=recipe.optimizer,
        lr=recipe.lr * lr_factor * budget["lr_scale"],
        epochs=recipe.epochs * budget["epochs_scale"],
        batch_size=budget["batch_size"] or recipe.batch_size,
        warmup=recipe.warmup,
        ramps=recipe.ramps,
        weight_decay=recipe.weight_decay,
        clip=recipe.clip,
        quantizer_lr=recipe.quantizer_lr,
        quantizer_decay=recipe.quantizer_decay,
    )
    names = dict.fromkeys(name for one in passes for name in one.objective.weights)
    return Stage("+".join(names), tuple(passes), scaled, on_step, on_start)
