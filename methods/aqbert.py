"""AQ-BERT-style (after Zhao et al. 2021, arXiv 2112.14938): bits of each matrix, found by a search that is differentiable.

A matrix is at first a mixture of itself at all widths, 0 among them, whose shares learn on held-out rows what the loss and
the size ask for, while the weights learn on the others. The likeliest widths that fit the budget are then trained. A simpler
search measures what each width of each matrix costs, and solves a knapsack. The authors published no code.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from methods.binarybert import best_choices, sensitivities
from methods.common.options import Count, NonNegative, Positive, Quantizer, Share, Whole
from methods.kernel import quantizers
from methods.kernel.layers import QuantLinear
from methods.model import anatomy
from methods.model.edits import apply, weight_quantizer
from methods.training import objective
from methods.training.context import Context
from methods.training.forward import forward
from methods.training.loader import Loader
from methods.training.objective import term
from methods.training.recipe import Stage, Training, stage
from methods.training.zeros import hold_zeros

FULL = 32  # bits of a number in full precision
MODULUS = 1_000_003  # of the hash that deals rows to the two sides of a search
EMPTY = 2  # bits of the grid on which a removed matrix lies: all zeros, of which a file keeps none


@dataclass(kw_only=True)
class Recipe(Training):
    """The widths to choose from, the budget, and how the search goes. `terms` are the student's; the search has the labels.

    `role`: `search` learns the widths, `measure` weighs them by measured losses, `student` trains with what was found.
    `grid` is the quantizer of the pooler, and with another number of bits that of each matrix. `share` is the size to reach,
    of the matrices' size in full precision. `held` is the share of training rows that the widths are learned on, after a
    first part `weights_alone` of the search, at the rate `choice_lr`; `size_weight` and `tolerance` weigh the size. The
    temperature is `temperature` * exp(-`cooling` * epochs). `batches` are those of `measure`.
    """

    role: Literal["search", "measure", "student"]
    grid: Quantizer
    embeddings: Quantizer
    activations: Quantizer
    choices: list[Whole]
    share: Share
    held: Share = 0.2
    weights_alone: Share = 0.33
    choice_lr: Positive = 0.1
    size_weight: NonNegative = 1.0
    tolerance: Share = 0.05
    temperature: Positive = 1.0
    cooling: NonNegative = 0.1
    batches: Count = 4


def student(init: nn.Module, recipe: Recipe, context: Context) -> nn.Module:
    apply(init, "quantize", weights=recipe.grid, embeddings=recipe.embeddings, activations=recipe.activations)
    matrices = encoder_matrices(init)
    if recipe.role == "student":
        assign(init, recipe.grid, context.ancestors["allocation"].allocation()["bits"])
    elif recipe.role == "measure":
        for layer in matrices.values():
            layer.weight_quantizer = None
    else:
        for number, layer in enumerate(matrices.values()):
            layer.weight_quantizer = Mixture(recipe.grid, recipe.choices, layer.weight.detach(), number)
        renew(init, recipe.temperature, context.loader.seed, 0)
    return init


def stages(student: nn.Module, recipe: Recipe, context: Context) -> list[Stage]:
    import methods.aqbert

    if recipe.role == "measure":
        return []
    if recipe.role == "search":
        terms, rows = {"labels_of_kept": {"share": recipe.held}}, held_rows(context.loader, recipe.held)
        on_step = partial(learn_choices, recipe=recipe, loader=context.loader, rows=rows)
        return [stage(recipe, context.budget, terms, on_step=on_step, paper=methods.aqbert)]
    for layer in encoder_matrices(student).values():
        if not layer.weight.any():
            hold_zeros(layer.weight)
    return [stage(recipe, context.budget)]


def allocation(student: nn.Module, recipe: Recipe, context: Context) -> dict:
    """Return the bits of each matrix of the encoder: the best together that fit the budget."""
    matrices = encoder_matrices(student)
    if recipe.role == "measure":
        gains = measured(student, matrices, recipe, context)
    else:
        gains = [layer.weight_quantizer.logits.log_softmax(0).tolist() for layer in matrices.values()]
    costs = [[bits * layer.weight.numel() for bits in recipe.choices] for layer in matrices.values()]
    chosen = best_choices(gains, costs, int(recipe.share * FULL * sum(layer.weight.numel() for layer in matrices.values())))
    bits = [recipe.choices[choice] for choice in chosen]
    return {"bits": dict(zip(matrices, bits, strict=True)), "gains": dict(zip(matrices, gains, strict=True))}


def encoder_matrices(model: nn.Module) -> dict[str, QuantLinear]:
    """Return the linears of the encoder's layers by name: those that the paper's sizes count."""
    return {name: matrix for of_layer in anatomy.matrices(model) for name, matrix in of_layer.items()}


def assign(model: nn.Module, grid: dict, bits: dict[str, int]) -> None:
    """Give each matrix its bits; one of 0 bits becomes zeros."""
    for width in sorted(set(bits.values())):
        names = [name for name, one in bits.items() if one == width]
        with torch.no_grad():
            for name in names if width == 0 else ():
                model.get_submodule(name).weight.zero_()
        apply(model, "requantize", modules=names, weights={**grid, "bits": width or EMPTY})


def measured(model: nn.Module, matrices: dict[str, QuantLinear], recipe: Recipe, context: Context) -> list[list[float]]:
    """Return minus the rise of the loss for each matrix at each width, all others being in full precision.

    A measured fall counts as it is. Every loss is a question of the journal: a killed search resumes there.
    """
    batches, rises = list(islice(context.sample, recipe.batches)), []
    for bits in recipe.choices:

        def once(question: str, compute: Callable, bits=bits):
            return context.journal.once(f"{bits} bits: {question}", compute)

        grids = {"weights": {**recipe.grid, "bits": bits}}
        rises.append(sensitivities(model, matrices, grids, batches, once))
    return [[-rise for rise in one] for one in zip(*rises, strict=True)]


# --- the mixture ------------------------------------------------------------------------------------------


class Mixture(quantizers.Quantizer):
    """A weight as the sum of itself at several widths, by shares that are learned (our reading of the paper).

    The shares are softmax((log beta + Gumbel noise) / t); `logits` are log beta, `noise` what was drawn for a step. In
    evaluation there is no noise. Each width has its own grid, fitted to the weight that the search starts from.
    """

    role = "weights"

    def __init__(self, grid: dict, choices: list[int], weight: Tensor, number: int):
        super().__init__()
        self.choices, self.number = choices, number
        self.grids = nn.ModuleList(weight_quantizer({**grid, "bits": bits}, weight) for bits in choices if bits)
        for name in ("logits", "noise"):
            self.register_buffer(name, torch.zeros(len(choices), device=weight.device))
        self.register_buffer("widths", torch.tensor(choices, dtype=torch.float32, device=weight.device))
        self.register_buffer("temperature", torch.ones((), device=weight.device))

    def shares(self) -> Tensor:
        """Return the share of each width, (choices,)."""
        noise = self.noise if self.training else 0.0
        return ((self.logits.log_softmax(0) + noise) / self.temperature).softmax(0)

    def mixed(self, x: Tensor) -> Tensor:
        shares = [share for share, bits in zip(self.shares(), self.choices, strict=True) if bits]
        return sum((share * grid(x) for share, grid in zip(shares, self.grids, strict=True)), torch.zeros_like(x))

    @torch.no_grad()
    def values(self, x: Tensor, index: Tensor | None = None, dtype: torch.dtype | None = None) -> Tensor:
        return self.mixed(x).to(dtype or x.dtype)

    def attached(self, x: Tensor, values: Tensor) -> Tensor:
        return self.mixed(x).to(values.dtype) if torch.is_grad_enabled() else values

    def state(self) -> tuple[int, ...]:
        return (*super().state(), self.training)


def mixtures_of(model: nn.Module) -> list[Mixture]:
    return [module for module in model.modules() if isinstance(module, Mixture)]


def renew(model: nn.Module, temperature: float, seed: int, step: int) -> None:
    """Set the temperature, and draw the noise of a step as a function of seed, step and matrix, so that a search resumes."""
    for mixture in mixtures_of(model):
        uniform = np.random.default_rng([seed, step, mixture.number]).uniform(1e-6, 1 - 1e-6, len(mixture.choices))
        mixture.noise.copy_(torch.from_numpy(-np.log(-np.log(uniform))))
        mixture.temperature.fill_(temperature)


# --- the search -------------------------------------------------------------------------------------------


def held(batch: dict, share: float) -> Tensor:
    """Return which rows of a batch are held out, (B,): about a share of all, by a hash of their tokens.

    Padding is not read, so that a row is always on the same side, as are rows of equal tokens.
    """
    places = torch.arange(1, batch["input_ids"].shape[1] + 1, device=batch["input_ids"].device)
    hashes = (batch["input_ids"] * batch["attention_mask"] * (places * 7919 % MODULUS) % MODULUS).sum(1)
    return hashes * 48_271 % MODULUS < share * MODULUS


def held_rows(loader: Loader, share: float) -> np.ndarray:
    """Return the numbers of the rows that are held out."""
    return np.concatenate([rows[held(loader.batch(rows), share).cpu().numpy()] for rows in loader.in_order(512)])


@term(teacher=False)
def labels_of_kept(student, teacher, batch, *, share: Share) -> Tensor:
    """`labels` of the rows that are not held out, 0 for the `share` that is."""
    return torch.where(held(batch, share), 0.0, objective.labels(student, None, batch))


def learn_choices(student: nn.Module, optimizer, step: int, steps: int, *, recipe: Recipe, loader: Loader, rows) -> None:
    """Take a step of SGD in the shares, on held-out rows; then set the temperature and the noise of the next step."""
    done = (step + 1) / steps
    if done > recipe.weights_alone and len(rows):
        count = min(recipe.batch_size, len(rows))
        drawn = np.random.default_rng([loader.seed, step]).choice(rows, count, replace=False)
        batch = loader.batch(np.sort(drawn))
        step_of_choices(
            mixtures_of(student),
            [layer.weight.numel() for layer in encoder_matrices(student).values()],
            lambda: objective.labels(forward(student, batch), None, batch).mean(),
            recipe,
        )
    renew(student, recipe.temperature * math.exp(-recipe.cooling * done * recipe.epochs), loader.seed, step + 1)


def step_of_choices(mixtures: list[Mixture], numbers: list[int], loss: Callable[[], Tensor], recipe: Recipe) -> None:
    """Take one step of SGD in the logits of mixtures, of so many `numbers` each, down the loss and towards the budget."""
    logits = [mixture.logits for mixture in mixtures]
    for one in logits:
        one.requires_grad_(True)
    try:
        budget = recipe.share * FULL * sum(numbers)
        total = loss() + recipe.size_weight * size_loss(mixtures, numbers, budget, recipe.tolerance)
        gradients = torch.autograd.grad(total, logits, allow_unused=True)
    finally:
        for one in logits:
            one.requires_grad_(False)
    for one, gradient in zip(logits, gradients, strict=True):
        if gradient is not None:
            one.sub_(recipe.choice_lr * gradient)


def size_loss(mixtures: list[Mixture], numbers: list[int], budget: float, tolerance: float) -> Tensor:
    """Return log E[C] where the size C is above the budget, minus that where it is below, 0 within the tolerance.

    C sums the 2-norm of bits times shares over matrices, as the paper has it; only the expected bits E[C] have a gradient.
    """
    pairs = list(zip(mixtures, numbers, strict=True))
    size = float(sum(number * (one.widths * one.shares().detach()).norm() for one, number in pairs))
    expected = sum(number * (one.widths * one.logits.softmax(0)).sum() for one, number in pairs)
    sign = (size > (1 + tolerance) * budget) - (size < (1 - tolerance) * budget)
    return sign * (expected + 1e-6).log()
