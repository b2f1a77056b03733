"""DynaBERT (Hou et al. 2020, arXiv 2004.04037) at one width: a narrower BERT, distilled from the full one.

Every layer keeps its most important attention heads and feed-forward neurons. Importance is what the loss would change
by, to first order, if a part were taken out, and is measured on training data (the authors' code looks at the dev set).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor, nn

from methods.common.options import Count, Share
from methods.model.anatomy import layers
from methods.model.edits import apply
from methods.training.context import Context
from methods.training.objective import labels
from methods.training.recipe import Stage, Training, stage
from methods.training.trainer import forward


@dataclass(kw_only=True)
class Recipe(Training):
    """The share of heads and neurons that is kept, and the batches that importance is measured on."""

    width: Share
    importance_batches: Count


def student(init: nn.Module, recipe: Recipe, context: Context) -> nn.Module:
    config = init.config
    reorder(init, *importance(init, islice(context.sample, recipe.importance_batches)))
    heads, neurons = (round(recipe.width * full) for full in (config.num_attention_heads, config.intermediate_size))
    return apply(init, "narrow", heads=max(heads, 1), neurons=max(neurons, 1))


def stages(student: nn.Module, recipe: Recipe, context: Context) -> list[Stage]:
    return [stage(recipe, context.budget)]


def importance(model: nn.Module, batches: Iterable[dict]) -> tuple[Tensor, Tensor]:
    """Importance of every head, (layers, heads), and of every neuron, (layers, neurons), summed over the batches.

    With a factor of 1 on a head's output the loss has |sum w dL/dw| for its slope, over the weights that read it. A neuron
    has that of the weights that read it and that of those that make it, added up.
    """
    model.eval()
    found = layers(model)
    readers = [layer["attention output"].weight for layer in found]  # of the heads' outputs
    makers = [layer["intermediate"].weight for layer in found]
    biases = [layer["intermediate"].bias for layer in found]
    users = [layer["output"].weight for layer in found]
    params = [*readers, *makers, *biases, *users]
    heads = neurons = 0.0
    for batch in batches:
        loss = labels(forward(model, batch), None, batch).mean()
        slopes = torch.autograd.grad(loss, params)
        shares = [param.detach() * slope for param, slope in zip(params, slopes, strict=True)]
        read, made, shifted, used = (torch.stack(shares[at : at + len(found)]) for at in range(0, len(shares), len(found)))
        by_head = read.sum(1).reshape(len(found), model.config.num_attention_heads, -1)  # (layers, heads, head size)
        heads = heads + by_head.sum(2).abs()
        neurons = neurons + (made.sum(2) + shifted).abs() + used.sum(1).abs()
    return heads, neurons


@torch.no_grad()
def reorder(model: nn.Module, heads: Tensor, neurons: Tensor) -> None:
    """Put each layer's most important heads and neurons first. The model computes what it did."""
    for layer, of_heads, of_neurons in zip(layers(model), heads, neurons, strict=True):
        places = torch.arange(layer.attention.all_head_size, device=heads.device)
        places = places.reshape(-1, layer.attention.attention_head_size)  # (heads, head size)
        by_head = places[of_heads.argsort(descending=True, stable=True)].reshape(-1)
        by_neuron = of_neurons.argsort(descending=True, stable=True)
        for name in ("query", "key", "value"):
            _permute(layer[name], by_head)
        _permute(layer["intermediate"], by_neuron)
        for name, order in (("attention output", by_head), ("output", by_neuron)):
            layer[name].weight.copy_(layer[name].weight[:, order])


def _permute(linear: nn.Linear, outputs: Tensor) -> None:
    linear.weight.copy_(linear.weight[outputs])
    linear.bias.copy_(linear.bias[outputs])
