"""BinaryBERT (Bai et al. 2021, arXiv 2012.15701): a ternary BERT of half the width, split into a binary one of the whole.

Three runs make one: DynaBERT's half-width model is trained with ternary weights, and where that ends, every ternary weight
becomes the sum of two binary ones that compute the same, and the training goes on. With adaptive splitting a search run
decides which layers need it; the others are binary before. Official code: Pretrained-Language-Model, BinaryBERT.
"""

import math
from dataclasses import dataclass
from itertools import islice
from typing import Literal

import numpy as np
import torch
from torch import nn

from methods.common.errors import UserError
from methods.common.options import Count, Positive, Quantizer, Share, Terms, Whole
from methods.kernel import splitting
from methods.kernel.layers import QuantEmbedding, Quantized
from methods.kernel.quantizers import Ternary
from methods.model.edits import apply, calibrate, weight_quantizer
from methods.training.context import Context
from methods.training.forward import forward
from methods.training.objective import labels
from methods.training.recipe import Optimization, Stage, stage


@dataclass(kw_only=True)
class Part:
    """One of the stages after each other: its terms, and its factor on the learning rate."""

    terms: Terms
    lr_factor: Positive = 1.0


@dataclass(kw_only=True)
class Recipe(Optimization):
    """The start of the student, the grids of its weights, and its stages.

    `quantized` puts quantizers into a full-precision model, `mixed` makes the layers binary that an allocation names, and
    `split` splits every ternary layer. `split_share` and `sensitivity_batches` are a search's (`start: searched`).
    """

    start: Literal["quantized", "searched", "mixed", "split"]
    weights: Quantizer
    embeddings: Quantizer
    stages: list[Part]
    activations: Quantizer | None = None
    one_sided: Quantizer | None = None
    feed_forward: Literal["gelu", "relu"] = "gelu"
    calibration_batches: Whole = 0
    split_share: Share = 1.0
    sensitivity_batches: Count = 16


def student(init: nn.Module, recipe: Recipe, context: Context) -> nn.Module:
    return STARTS[recipe.start](init, recipe, context)


def stages(student: nn.Module, recipe: Recipe, context: Context) -> list[Stage]:
    parts = [Part(**part) for part in recipe.stages]
    return [stage(recipe, context.budget, part.terms, lr_factor=part.lr_factor) for part in parts]


def allocation(student: nn.Module, recipe: Recipe, context: Context) -> dict:
    """Decide which layers bear binary weights best (section 3.4); the others stay ternary, as far as the budget goes.

    A model is smallest with all layers binary and twice as large with all of them split; `split_share` says where between
    these the budget lies. One question of the journal is the loss with one layer binary: a killed search resumes there.
    """
    found = ternary(student)
    grids = {"weights": recipe.weights, "embeddings": recipe.embeddings}
    batches = list(islice(context.sample, recipe.sensitivity_batches))
    gains = sensitivities(student, found, grids, batches, context.journal.once)
    costs = [layer.weight.numel() for layer in found.values()]
    chosen = knapsack(gains, costs, int(recipe.split_share * sum(costs)))
    return {
        "binary": [name for at, name in enumerate(found) if at not in chosen],
        "split": [name for at, name in enumerate(found) if at in chosen],
        "rises": dict(zip(found, gains, strict=True)),
    }


def quantized(init: nn.Module, recipe: Recipe, context: Context) -> nn.Module:
    """Quantizers in a full-precision model."""
    apply(init, "activate", function=recipe.feed_forward)
    places = ("weights", "embeddings", "activations", "one_sided")
    apply(init, "quantize", **{place: getattr(recipe, place) for place in places})
    calibrate(init, islice(context.sample, recipe.calibration_batches))
    return init


def searched(init: nn.Module, recipe: Recipe, context: Context) -> nn.Module:
    """The ternary model that a search asks about."""
    return init


def mixed(init: nn.Module, recipe: Recipe, context: Context) -> nn.Module:
    """Binary weights in the layers that the allocation names."""
    names = context.ancestors["allocation"].allocation()["binary"]
    return apply(init, "requantize", modules=names, weights=recipe.weights, embeddings=recipe.embeddings)


def split(init: nn.Module, recipe: Recipe, context: Context) -> nn.Module:
    """Every ternary weight as the sum of two binary ones."""
    names = list(ternary(init))
    apply(init, "split", modules=names, weights=recipe.weights, embeddings=recipe.embeddings)
    for name in names:
        pair = init.get_submodule(name)
        halves = splitting.split(pair.first.weight, pair.first.weight_quantizer.rows)
        with torch.no_grad():
            pair.first.weight.copy_(halves[0])
            pair.second.weight.copy_(halves[1])
    return init


STARTS = {"quantized": quantized, "searched": searched, "mixed": mixed, "split": split}


def ternary(model: nn.Module) -> dict[str, Quantized]:
    """Return the layers with ternary weights, by name."""
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, Quantized)}
    found = {name: layer for name, layer in layers.items() if isinstance(layer.weight_quantizer, Ternary)}
    if not found:
        raise UserError("There is no ternary weight to split: `init` must name a method with ternary weights.")
    return found


@torch.no_grad()
def sensitivities(
    model: nn.Module, layers: dict[str, Quantized], grids: dict, batches: list[dict], once=lambda _, compute: compute()
) -> list[float]:
    """Return what the loss rises by when one layer gets the quantizer of `grids` and all others stay as they are."""

    def loss() -> float:
        return float(sum(labels(forward(model, batch), None, batch).sum() for batch in batches))

    def requantized(layer: Quantized) -> float:
        usual = layer.weight_quantizer
        spec = grids["embeddings" if isinstance(layer, QuantEmbedding) else "weights"]
        layer.weight_quantizer = weight_quantizer(spec, layer.weight)
        try:
            return loss()
        finally:
            layer.weight_quantizer = usual

    model.eval()
    before = once("loss", loss)
    losses = [once(f"loss with {name} on it", lambda layer=layer: requantized(layer)) for name, layer in layers.items()]
    return [one - before for one in losses]


def knapsack(gains: list[float], costs: list[int], budget: int) -> set[int]:
    """Return the items with the greatest sum of gains whose costs fit the budget together, by dynamic programming."""
    chosen = best_choices([[0.0, gain] for gain in gains], [[0, cost] for cost in costs], budget)
    return {item for item, taken in enumerate(chosen) if taken}


def best_choices(gains: list[list[float]], costs: list[list[int]], budget: int) -> list[int]:
    """Return a choice for each item, with the greatest sum of gains among those whose costs fit the budget together.

    `gains` and `costs` hold a number for each choice of each item. Of equal choices the first is taken.
    """
    unit = math.gcd(*(cost for item in costs for cost in item)) or 1
    capacity = budget // unit
    best = np.zeros(capacity + 1)  # by what may be spent
    taken = np.zeros((len(costs), capacity + 1), int)
    for item, pairs in enumerate(zip(gains, costs, strict=True)):
        each = np.full((len(pairs[0]), capacity + 1), -np.inf)
        for choice, (gain, cost) in enumerate(zip(*pairs, strict=True)):
            if (cost := cost // unit) <= capacity:
                each[choice, cost:] = best[: capacity + 1 - cost] + gain
        taken[item], best = each.argmax(0), each.max(0)
    if not np.isfinite(best[capacity]):
        raise UserError(f"No choice fits a budget of {budget}: the cheapest of all cost {sum(map(min, costs))} together.")
    chosen = []
    for item in reversed(range(len(costs))):
        chosen.append(int(taken[item, capacity]))
        capacity -= costs[item][chosen[-1]] // unit
    return chosen[::-1]
