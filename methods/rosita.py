"""ROSITA (Liu et al. 2021, arXiv 2103.11367): fewer layers, then fewer heads, neurons and ranks, each time distilled.

A run prunes in equal steps early in its training: the top layer goes, or a share of the heads, of the feed-forward's neurons
and of the word embedding's rank. Each step is a stage of its own with a new optimizer, as in the official code
(llyx97/Rosita). What is pruned is gone at once, so that the rest of the training costs what the small model costs.
"""

import dataclasses
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from methods.common.options import Count, Share
from methods.dynabert import reorder
from methods.kernel.layers import Factored
from methods.model import edits
from methods.model.anatomy import Layer, anatomy, layers
from methods.training.context import Context
from methods.training.recipe import Stage, Training, stage

SUMMED = "slopes"  # a buffer beside a weight, in checkpoints and in no model file: the sum of its gradients' magnitudes
SCORED = ("attention output", "intermediate", "output")  # the linear maps that tell what a head or a neuron is worth


@dataclass(kw_only=True)
class Recipe(Training):
    """How much is left: shares of the layers, and of every layer's width and the word embedding's rank.

    Layers go one by one, widths in `prunings` equal steps, all within the share `pruning` of the training.
    """

    pruning: Share
    depth: Share = 1.0
    width: Share = 1.0
    prunings: Count = 1


def student(init: nn.Module, recipe: Recipe, context: Context) -> nn.Module:
    return init


def stages(student: nn.Module, recipe: Recipe, context: Context) -> list[Stage]:
    """Return a stage before each pruning, and one for the rest of the training."""
    config, depth, own = student.config, len(layers(student)), len(student.record.edits)
    kept = max(1, round(recipe.depth * depth))
    prunings = [partial(drop_layers, count=count) for count in range(depth - 1, kept - 1, -1)]
    if watched := recipe.width < 1:
        prunings += [partial(prune_width, **sizes) for sizes in schedule(config, recipe.width, recipe.prunings)]
    early, found = recipe.pruning if prunings else 0.0, []
    for number, pruning in enumerate([None, *prunings]):
        last = number == len(prunings)
        part = 1 - early if last else early / len(prunings)
        scaled = dataclasses.replace(recipe, epochs=recipe.epochs * part)
        on_start = partial(start, pruning=pruning, own=own, watched=watched and not last)
        found.append(stage(scaled, context.budget, on_start=on_start, on_step=add_slopes if watched and not last else None))
    return found


def schedule(config, width: float, prunings: int) -> list[dict[str, int]]:
    """Return the heads, neurons and rank that are left after each pruning, equal steps down to the share `width`."""
    shares = [1 - (1 - width) * (number + 1) / prunings for number in range(prunings)]
    full = {"heads": config.num_attention_heads, "neurons": config.intermediate_size, "rank": config.hidden_size}
    return [{name: max(1, round(share * size)) for name, size in full.items()} for share in shares]


def start(student: nn.Module, pruning, own: int, watched: bool) -> None:
    """Prune as is due at a stage's start, and begin to watch slopes or leave it.

    The student's record from `own` on is of this run. The last pruning of a kind says all that those before it did.
    """
    if pruning:
        pruning(student)
        before, new = student.record.edits[:own], student.record.edits[own:]
        student.record.edits = [*before, *{one["kind"]: one for one in new}.values()]
    watch(student) if watched else forget(student)


def drop_layers(student: nn.Module, count: int) -> None:
    """Keep the lowest `count` layers."""
    edits.apply(student, "layers", keep=list(range(count)))


def prune_width(student: nn.Module, heads: int, neurons: int, rank: int) -> None:
    """Keep each layer's heads and neurons with the highest scores, and the first columns of the word embedding's factors."""
    reorder(student, *scores(student))
    edits.apply(student, "narrow", heads=heads, neurons=neurons)
    shrink_words(student, rank)


# --- importance (code: KD/transformer/optimization.py, KD/pruning.py) -------------------------------------------------


def watched_maps(layer: Layer) -> list[nn.Linear]:
    """Return what reads the heads, what makes the neurons and what reads them."""
    return [layer[part] for part in SCORED]


def watch(model: nn.Module) -> None:
    """Begin to sum the magnitudes of gradients, from zero."""
    for layer in layers(model):
        for linear in watched_maps(layer):
            linear.register_buffer(SUMMED, torch.zeros_like(linear.weight, requires_grad=False))


def forget(model: nn.Module) -> None:
    """Take the sums away, so that a model file has none."""
    for layer in layers(model):
        for linear in watched_maps(layer):
            if hasattr(linear, SUMMED):
                delattr(linear, SUMMED)


@torch.no_grad()
def add_slopes(student: nn.Module, optimizer, step: int, steps: int) -> None:
    """Add the magnitude of this step's gradient of the whole batch."""
    for layer in layers(student):
        for linear in watched_maps(layer):
            getattr(linear, SUMMED).add_(linear.weight.grad.abs())


@torch.no_grad()
def scores(model: nn.Module) -> tuple[Tensor, Tensor]:
    """Return the score of every head, (layers, heads), and of every neuron, (layers, neurons).

    A number's score is its magnitude times its gradient's, summed over the steps; the code's mean over them ranks alike. A
    head has the sum of the numbers that read it, a neuron that of those that make it and read it, without its bias.
    """
    heads, neurons = [], []
    for layer in layers(model):
        read, made, used = (linear.weight.abs() * getattr(linear, SUMMED) for linear in watched_maps(layer))
        heads.append(read.sum(0).reshape(-1, layer.attention.attention_head_size).sum(1))
        neurons.append(made.sum(1) + used.sum(0))
    return torch.stack(heads), torch.stack(neurons)


# --- the word embedding -----------------------------------------------------------------------------------------------


@torch.no_grad()
def shrink_words(model: nn.Module, rank: int) -> None:
    """Write the word embedding as a product of this rank, or cut the product that it is already.

    The first time its singular vectors are scaled by the singular values on the table's side (code: KD/pruning.py); then
    the first columns of both factors stay, without another decomposition.
    """
    words = model.base_model.get_submodule(anatomy(model).words)
    if isinstance(words, Factored):
        inner, outer = words
        for factor in (inner, outer):
            factor.weight = nn.Parameter(factor.weight.detach()[:, :rank].clone())
        inner.embedding_dim = outer.in_features = inner.weight.shape[1]
        model.record.edits.append({"kind": "factor_words", "rank": inner.weight.shape[1]})
        return
    table = words.weight.detach()  # (words, hidden)
    rank = min(rank, *table.shape)
    left, values, right = torch.linalg.svd(table, full_matrices=False)
    edits.apply(model, "factor_words", rank=rank)
    inner, outer = model.base_model.get_submodule(anatomy(model).words)
    inner.weight.copy_(left[:, :rank] * values[:rank])
    outer.weight.copy_(right[:rank].T)
