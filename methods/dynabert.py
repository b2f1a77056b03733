"""DynaBERT (Hou et al. 2020, arXiv 2004.04037): one BERT whose sub-networks of several widths and depths all work.

Heads and neurons of each layer are sorted by importance, so that a narrower network is the first of them. Every step of
training then runs several widths, and in a second phase several depths as well; the gradients of all of them add up.
Importance is what the loss would change by, to first order, if a part were taken out. It is measured on training data (the
authors' code looks at the dev set). A trained model serves as any of its sub-networks: `methods/subnetwork.py` cuts one out.
"""

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import islice, product

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from methods.common.options import Share, Whole
from methods.model.anatomy import Layer, anatomy, layers
from methods.model.edits import apply
from methods.training.context import Context
from methods.training.forward import forward
from methods.training.objective import Objective, labels
from methods.training.recipe import Pass, Stage, Training, stage

STATES = ("hidden", "hidden_padded")  # terms whose map names the teacher's hidden states
SCORES = ("attention", "attention_padded")  # terms whose map names the teacher's layers


@dataclass(kw_only=True)
class Recipe(Training):
    """The width that the student is cut to, and the sub-networks that every step trains.

    `importance_batches` of training rows decide which heads and neurons come first; with 0 the order stays. Every step has
    a pass for each of `depths` times `widths`; where both are empty it has one of the whole student.
    """

    width: Share = 1.0
    importance_batches: Whole = 0
    widths: list[Share] = field(default_factory=list)
    depths: list[Share] = field(default_factory=list)


def student(init: nn.Module, recipe: Recipe, context: Context) -> nn.Module:
    if recipe.importance_batches:
        reorder(init, *importance(init, islice(context.sample, recipe.importance_batches)))
    return cut(init, recipe.width, 1.0)


def stages(student: nn.Module, recipe: Recipe, context: Context) -> list[Stage]:
    return [stage(recipe, context.budget, passes=passes(student, recipe.terms, recipe.widths, recipe.depths))]


def passes(student: nn.Module, terms: dict, widths: list[float], depths: list[float]) -> tuple[Pass, ...]:
    """Return a pass for each sub-network, deep and wide ones first (code: run_glue.py); none where no share is given."""
    if not widths and not depths:
        return ()
    full, found = len(layers(student)), []
    for depth, width in product(*(sorted(shares or [1.0], reverse=True) for shares in (depths, widths))):
        keep = kept_layers(depth, full)
        active = partial(subnetwork, keep=keep, **first_units(width, student))
        found.append(Pass(Objective(mapped(terms, keep, full)), active, f"w{width:g} d{depth:g}"))
    return tuple(found)


# --- sub-networks -----------------------------------------------------------------------------------------


def kept_layers(depth: float, count: int) -> list[int]:
    """Return the layers of a sub-network of `count` layers, from 0: the i-th is floor(i / depth).

    Code: transformers/modeling_bert.py. Half of twelve are 0, 2, 4, 6, 8 and 10.
    """
    return [int(at / depth) if at else 0 for at in range(max(1, round(depth * count)))]


def first_units(width: float, model: nn.Module) -> dict[str, int]:
    """Return how many heads and neurons a layer of this width has: neurons in proportion to its whole heads.

    Code: transformers/modeling_bert.py. At least one head stays.
    """
    config = model.config
    heads = max(1, round(width * config.num_attention_heads))
    return {"heads": heads, "neurons": max(1, heads * config.intermediate_size // config.num_attention_heads)}


def cut(model: nn.Module, width: float, depth: float) -> nn.Module:
    """Cut a model down to its sub-network, in place."""
    if depth < 1:
        apply(model, "layers", keep=kept_layers(depth, len(layers(model))))
    return apply(model, "narrow", **first_units(width, model)) if width < 1 else model


@contextlib.contextmanager
def subnetwork(model: nn.Module, keep: list[int], heads: int, neurons: int) -> Iterator[None]:
    """Let a model compute as its sub-network of these layers, with the first heads and neurons of each.

    It uses the model's own parameters, so that their gradients add up over all sub-networks.
    """
    place = anatomy(model).layers
    found, every = layers(model), model.base_model.get_submodule(place)
    replaced = []
    try:
        model.base_model.set_submodule(place, Shallow(every, keep))
        for layer in (found[at] for at in keep):
            for part, size in _sizes(layer, heads, neurons).items():
                replaced.append((layer, part, layer[part]))
                layer[part] = Sliced(layer[part], **size)
        yield
    finally:
        for layer, part, module in replaced:
            layer[part] = module
        model.base_model.set_submodule(place, every)


class Sliced(nn.Module):
    """The first outputs and inputs of a linear map, whose parameters it uses."""

    def __init__(self, linear: nn.Linear, outputs: int | None = None, inputs: int | None = None):
        super().__init__()
        if type(linear) is not nn.Linear:  # a quantizer would be left out without a word
            raise TypeError(f"sub-networks are cut out of nn.Linear, not {type(linear).__name__}")
        self.linear, self.outputs, self.inputs = linear, outputs, inputs

    def forward(self, x: Tensor) -> Tensor:  # (..., inputs) -> (..., outputs)
        return F.linear(x, self.linear.weight[: self.outputs, : self.inputs], self.linear.bias[: self.outputs])


class Shallow(nn.ModuleList):
    """All layers of an encoder, of which it runs some.

    The others stay its modules: transformers hooks every layer for its hidden states when it is first asked for them.
    """

    def __init__(self, every: nn.ModuleList, keep: list[int]):
        super().__init__(every)
        self.keep = keep

    def __iter__(self) -> Iterator[nn.Module]:
        return (self[at] for at in self.keep)


def _sizes(layer, heads: int, neurons: int) -> dict[str, dict[str, int]]:
    """Return the sides of a layer's linear maps that are cut; none where the layer is not wider."""
    inside, sizes = heads * layer.attention.attention_head_size, {}
    if inside < layer["query"].out_features:
        sizes |= {part: {"outputs": inside} for part in ("query", "key", "value")}
        sizes["attention output"] = {"inputs": inside}
    if neurons < layer["intermediate"].out_features:
        sizes |= {"intermediate": {"outputs": neurons}, "output": {"inputs": neurons}}
    return sizes


def mapped(terms: dict, keep: list[int], full: int) -> dict:
    """Return terms whose maps name what of a teacher of `full` layers the sub-network of layers `keep` follows.

    What enters a layer follows the teacher's state before the same layer, the output that after the last (code:
    run_glue.py and transformers/modeling_bert.py).
    """
    maps = {name: [*keep, full] for name in STATES} | {name: list(keep) for name in SCORES}

    def options(given) -> dict:
        return given if isinstance(given, dict) else {"weight": given}

    return {name: {**options(given), "map": maps[name]} if name in maps else given for name, given in terms.items()}


# --- importance -------------------------------------------------------------------------------------------


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
        layer["attention output"].weight.copy_(layer["attention output"].weight[:, by_head])
        order_neurons(layer, by_neuron)


@torch.no_grad()
def order_neurons(layer: Layer, order: Tensor) -> None:
    """Put a layer's neurons in an order, (neurons,). The layer computes what it did."""
    _permute(layer["intermediate"], order)
    layer["output"].weight.copy_(layer["output"].weight[:, order])


def _permute(linear: nn.Linear, outputs: Tensor) -> None:
    linear.weight.copy_(linear.weight[outputs])
    linear.bias.copy_(linear.bias[outputs])
