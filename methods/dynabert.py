"""DynaBERT (Hou et al. 2020, arXiv 2004.04037) at one width: a narrower BERT, distilled from the full one.

Every layer keeps its most important attention heads and feed-forward neurons. Importance is what the loss would change
by, to first order, if a part were taken out, and is measured on training data (the authors' code looks at the dev set).
"""

from collections.abc import Iterable
from itertools import islice

import torch
from torch import Tensor, nn

from methods.model.edits import edit
from methods.training import objective
from methods.training.trainer import Sample, Stage, forward


def student(init: nn.Module, spec: dict, sample: Sample) -> nn.Module:
    recipe, config = spec["recipe"], init.config
    reorder(init, *importance(init, islice(sample, recipe["importance_batches"])))
    heads, neurons = (round(recipe["width"] * full) for full in (config.num_attention_heads, config.intermediate_size))
    return edit(init, "narrow", heads=max(heads, 1), neurons=max(neurons, 1))


def stages(spec: dict, budget: dict) -> list[Stage]:
    return [Stage.of(spec["recipe"], budget)]


def importance(model: nn.Module, batches: Iterable[dict[str, Tensor]]) -> tuple[Tensor, Tensor]:
    """Importance of every head, (layers, heads), and of every neuron, (layers, neurons), summed over the batches.

    With a factor of 1 on a head's output the loss has |sum w dL/dw| for its slope, over the weights that read it. A neuron
    has that of the weights that read it and that of those that make it, added up.
    """
    model.eval()
    layers = model.base_model.encoder.layer
    readers = [layer.attention.output.dense.weight for layer in layers]  # of the heads' outputs
    makers = [layer.intermediate.dense.weight for layer in layers]
    biases = [layer.intermediate.dense.bias for layer in layers]
    users = [layer.output.dense.weight for layer in layers]
    params = [*readers, *makers, *biases, *users]
    heads = neurons = 0.0
    for batch in batches:
        loss = objective.labels(forward(model, batch), None, batch).mean()
        slopes = torch.autograd.grad(loss, params)
        shares = [param.detach() * slope for param, slope in zip(params, slopes, strict=True)]
        read, made, shifted, used = (torch.stack(shares[at : at + len(layers)]) for at in range(0, len(shares), len(layers)))
        by_head = read.sum(1).reshape(len(layers), model.config.num_attention_heads, -1)  # (layers, heads, head size)
        heads = heads + by_head.sum(2).abs()
        neurons = neurons + (made.sum(2) + shifted).abs() + used.sum(1).abs()
    return heads, neurons


@torch.no_grad()
def reorder(model: nn.Module, heads: Tensor, neurons: Tensor) -> None:
    """Put each layer's most important heads and neurons first. The model computes what it did."""
    for layer, of_heads, of_neurons in zip(model.base_model.encoder.layer, heads, neurons, strict=True):
        attention = layer.attention.self
        places = torch.arange(attention.all_head_size, device=heads.device)
        places = places.reshape(-1, attention.attention_head_size)  # (heads, head size)
        by_head = places[of_heads.argsort(descending=True, stable=True)].reshape(-1)
        by_neuron = of_neurons.argsort(descending=True, stable=True)
        for linear in (attention.query, attention.key, attention.value):
            _permute(linear, by_head)
        _permute(layer.intermediate.dense, by_neuron)
        for linear, order in ((layer.attention.output.dense, by_head), (layer.output.dense, by_neuron)):
            linear.weight.copy_(linear.weight[:, order])


def _permute(linear: nn.Linear, outputs: Tensor) -> None:
    linear.weight.copy_(linear.weight[outputs])
    linear.bias.copy_(linear.bias[outputs])
