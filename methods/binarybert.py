"""BinaryBERT (Bai et al. 2021, arXiv 2012.15701): a ternary BERT of half the width, split into a binary one of the whole.

Three runs make one: DynaBERT's half-width model is trained with ternary weights, and where that ends, every ternary weight
becomes the sum of two binary ones that compute the same, and the training goes on. With adaptive splitting only the layers
that need it are split, and the others are binary before. Official code: Pretrained-Language-Model, BinaryBERT.
"""

import math
from itertools import islice

import numpy as np
import torch
from torch import nn

from methods.common.errors import UserError
from methods.kernel import splitting
from methods.kernel.layers import QuantEmbedding, Quantized
from methods.kernel.quantizers import Ternary
from methods.model.edits import calibrate, edit, weight_quantizer
from methods.training import objective
from methods.training.trainer import Sample, Stage, forward


def student(init: nn.Module, spec: dict, sample: Sample) -> nn.Module:
    recipe = spec["recipe"]
    return STARTS[recipe["start"]](init, recipe, sample)


def stages(spec: dict, budget: dict) -> list[Stage]:
    recipe = spec["recipe"]
    return [
        Stage.of({**recipe, "terms": stage["terms"], "lr": recipe["lr"] * stage["lr_factor"]}, budget)
        for stage in recipe["stages"]
    ]


def quantized(init: nn.Module, recipe: dict, sample: Sample) -> nn.Module:
    """Quantizers in a full-precision model."""
    edit(init, "activate", function=recipe["feed_forward"])
    edit(init, "quantize", **{part: recipe[part] for part in ("weights", "embeddings", "activations", "one_sided")})
    calibrate(init, islice(sample, recipe["calibration_batches"]))
    return init


def mixed(init: nn.Module, recipe: dict, sample: Sample) -> nn.Module:
    """The layers that bear binary weights best get them; the others stay ternary, to be split, as far as the budget goes.

    A model is smallest with all layers binary and twice as large with all of them split; `split_share` says where between
    these the budget lies.
    """
    found = ternary(init)
    grids = {part: recipe[part] for part in ("weights", "embeddings")}
    gains = sensitivities(init, found, grids, list(islice(sample, recipe["sensitivity_batches"])))
    costs = [layer.weight.numel() for layer in found.values()]
    split = knapsack(gains, costs, int(recipe["split_share"] * sum(costs)))
    return edit(init, "requantize", modules=[name for at, name in enumerate(found) if at not in split], **grids)


def split(init: nn.Module, recipe: dict, sample: Sample) -> nn.Module:
    """Every ternary weight as the sum of two binary ones."""
    names = list(ternary(init))
    edit(init, "split", modules=names, weights=recipe["weights"], embeddings=recipe["embeddings"])
    for name in names:
        pair = init.get_submodule(name)
        halves = splitting.split(pair.first.weight, pair.first.weight_quantizer.rows)
        with torch.no_grad():
            pair.first.weight.copy_(halves[0])
            pair.second.weight.copy_(halves[1])
    return init


STARTS = {"quantized": quantized, "mixed": mixed, "split": split}


def ternary(model: nn.Module) -> dict[str, Quantized]:
    """The layers with ternary weights, by name."""
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, Quantized)}
    found = {name: layer for name, layer in layers.items() if isinstance(layer.weight_quantizer, Ternary)}
    if not found:
        raise UserError("There is no ternary weight to split: `init` must name a method with ternary weights.")
    return found


@torch.no_grad()
def sensitivities(model: nn.Module, layers: dict[str, Quantized], grids: dict, batches: list[dict]) -> list[float]:
    """What the loss rises by when one layer becomes binary and all others stay ternary."""

    def loss() -> float:
        return float(sum(objective.labels(forward(model, batch), None, batch).sum() for batch in batches))

    model.eval()
    before, found = loss(), []
    for layer in layers.values():
        usual = layer.weight_quantizer
        spec = grids["embeddings" if isinstance(layer, QuantEmbedding) else "weights"]
        layer.weight_quantizer = weight_quantizer(spec, layer.weight)
        found.append(loss() - before)
        layer.weight_quantizer = usual
    return found


def knapsack(gains: list[float], costs: list[int], budget: int) -> set[int]:
    """The items with the greatest sum of gains whose costs fit the budget together, by dynamic programming."""
    unit = math.gcd(*costs)
    costs, capacity = [cost // unit for cost in costs], budget // unit
    best = np.zeros(capacity + 1)  # by what may be spent
    taken = np.zeros((len(costs), capacity + 1), bool)
    for item, (gain, cost) in enumerate(zip(gains, costs, strict=True)):
        if cost > capacity:
            continue
        with_it = best[: capacity + 1 - cost] + gain
        taken[item, cost:] = with_it > best[cost:]
        best[cost:] = np.maximum(best[cost:], with_it)
    chosen = set()
    for item in reversed(range(len(costs))):
        if taken[item, capacity]:
            chosen.add(item)
            capacity -= costs[item]
    return chosen
