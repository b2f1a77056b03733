"""Q-BERT (Shen et al. 2020, arXiv 1909.05840): weights of few bits in small groups, and more bits where the loss is curved.

Every group of a matrix, here each row, has a range of its own. A mixed model gives some encoder layers more bits than the
others: a search measures how curved the loss is in each layer's weights, by the Hessian's top eigenvalue on disjoint shares
of the training rows. There is no official code.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from methods.common.options import Count, Quantizer, Share
from methods.model.anatomy import matrices
from methods.model.edits import apply, show_scores
from methods.training.context import Context
from methods.training.forward import forward
from methods.training.loader import Loader
from methods.training.objective import labels
from methods.training.recipe import Stage, Training, stage

BATCH = 8  # rows that second derivatives are taken of at once: their graph takes several times the memory of a gradient's


@dataclass(kw_only=True)
class Recipe(Training):
    """The grids of a student, and what a search measures.

    A uniform student has `weights` in every layer. A mixed one has `sensitive` in the layers that its allocation names,
    and `others` in the rest. A search looks at `rows` rows of each of `shares` disjoint shares of the training rows, in
    `iterations` steps of power iteration, and names the `more_bits` share of the layers.
    """

    role: Literal["uniform", "mixed", "search"]
    weights: Quantizer | None = None
    sensitive: Quantizer | None = None
    others: Quantizer | None = None
    embeddings: Quantizer
    positions: Quantizer
    activations: Quantizer
    more_bits: Share = 0.5
    shares: Count = 10
    rows: Count = 32
    iterations: Count = 10


def student(init: nn.Module, recipe: Recipe, context: Context) -> nn.Module:
    if recipe.role == "search":
        return init
    tables = {"embeddings": recipe.embeddings, "positions": recipe.positions}
    weights = recipe.weights if recipe.role == "uniform" else recipe.sensitive
    apply(init, "quantize", weights=weights, **tables, activations=recipe.activations, pooler=False)
    if recipe.role == "mixed":
        sensitive = context.ancestors["allocation"].allocation()["sensitive"]
        if names := [name for at, of_layer in enumerate(matrices(init)) if at not in sensitive for name in of_layer]:
            apply(init, "requantize", modules=names, weights=recipe.others)
    return init


def stages(student: nn.Module, recipe: Recipe, context: Context) -> list[Stage]:
    return [] if recipe.role == "search" else [stage(recipe, context.budget)]


def allocation(student: nn.Module, recipe: Recipe, context: Context) -> dict:
    """Name the layers whose weights the loss is most curved in: |mean| + standard deviation of their top eigenvalues.

    A question of the journal is one layer on one share: a killed search resumes there.
    """
    student.eval()
    show_scores(student)  # fused attention has no second derivative
    found, parts = matrices(student), shares(context.loader, recipe.shares, recipe.rows)

    def curvature(layer: int, share: int) -> float:
        weights = [matrix.weight for matrix in found[layer].values()]
        generator = torch.Generator().manual_seed(context.loader.seed)
        losses = partial(mean_loss, student, context.loader, parts[share])
        return top_eigenvalue(losses, weights, recipe.iterations, generator)

    eigenvalues = [
        [
            context.journal.once(f"layer {layer}, share {share}", lambda at=(layer, share): curvature(*at))
            for share in range(len(parts))
        ]
        for layer in range(len(found))
    ]
    sensitivities = [sensitivity(values) for values in eigenvalues]
    order = sorted(range(len(found)), key=lambda layer: -sensitivities[layer])
    chosen = order[: round(recipe.more_bits * len(order))]
    return {"sensitive": sorted(chosen), "order": order, "sensitivities": sensitivities, "eigenvalues": eigenvalues}


def sensitivity(eigenvalues: list[float]) -> float:
    """Return |mean| + standard deviation, as we read the paper, whose text was at hand in part only."""
    return float(abs(np.mean(eigenvalues)) + np.std(eigenvalues))


def shares(loader: Loader, count: int, rows: int) -> list[np.ndarray]:
    """Deal the training rows, shuffled, into `count` disjoint shares; return at most `rows` row numbers of each."""
    order = np.random.default_rng(loader.seed).permutation(len(loader))
    return [share[:rows] for share in np.array_split(order, min(count, len(order)))]


def mean_loss(model: nn.Module, loader: Loader, rows: np.ndarray) -> Iterator[Tensor]:
    """Yield the parts of the mean loss over some rows, batch by batch."""
    for start in range(0, len(rows), BATCH):
        batch = loader.batch(rows[start : start + BATCH])
        yield labels(forward(model, batch), None, batch).sum() / len(rows)


def top_eigenvalue(
    losses: Callable[[], Iterable[Tensor]],
    parameters: list[Tensor],
    iterations: int,
    generator: torch.Generator | None = None,
) -> float:
    """Return the eigenvalue of the largest magnitude of a loss's Hessian with respect to `parameters`, by power iteration.

    `losses()` computes the terms of the loss, whose sum it is, anew and one after another. From a random direction v, each
    step takes v <- Hv / |Hv|; the eigenvalue is the last v . Hv.
    """
    direction = [torch.randn(one.shape, generator=generator, dtype=one.dtype).to(one.device) for one in parameters]
    value = 0.0
    for _ in range(iterations):
        norm = _dot(direction, direction).sqrt()
        if norm == 0:  # the loss is flat, or straight
            return 0.0
        direction = [one / norm for one in direction]
        product = hessian_product(losses, parameters, direction)
        value, direction = float(_dot(direction, product)), product
    return value


def hessian_product(
    losses: Callable[[], Iterable[Tensor]], parameters: list[Tensor], direction: list[Tensor]
) -> list[Tensor]:
    """Return Hv, the gradient of the product of the loss's gradient with v = `direction` (Pearlmutter 1994)."""
    product = [torch.zeros_like(one) for one in parameters]
    for loss in losses():
        slope = _dot(torch.autograd.grad(loss, parameters, create_graph=True), direction)
        for sum_, part in zip(product, torch.autograd.grad(slope, parameters), strict=True):
            sum_ += part
    return product


def _dot(a: Iterable[Tensor], b: Iterable[Tensor]) -> Tensor:
    return sum((x * y).sum() for x, y in zip(a, b, strict=True))
