"""oBERT, the Optimal BERT Surgeon (Kurtic et al. 2022, arXiv 2203.07259), and oBERTa (Campos et al. 2023, arXiv 2303.17612).

The weights of the encoder are pruned step by step, those first whose loss costs least by a second-order estimate, while the
student follows its teacher; what remains is moved to make up for what went. The estimate is the empirical Fisher matrix, cut
into small blocks along its diagonal. Official code: neuralmagic/sparseml, src/sparseml/pytorch/sparsification/pruning.

Shapes: a weight's numbers in their flattened order are cut into blocks of `block`, the last one filled up with zeros, so
that a Fisher matrix is (blocks, block, block). Memory: bert-base takes 0.34 GB times `block`, 3.4 GB for blocks of 10.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from methods.common.errors import UserError
from methods.common.options import Count, Positive, Quantizer, Share
from methods.model.anatomy import anatomy, matrices
from methods.model.edits import apply
from methods.training.context import Context
from methods.training.forward import forward
from methods.training.loader import SAMPLE_EPOCH, Loader
from methods.training.objective import labels
from methods.training.recipe import Stage, Training, stage
from methods.training.trainer import Diverged
from methods.training.zeros import hold_zeros, set_zeros

EPSILON = torch.finfo(torch.float32).eps  # code: modifier_pruning_obs.py, added to what is divided by
CHUNK = 2**22  # numbers of a Fisher matrix that are inverted together, in float64


@dataclass(kw_only=True)
class Recipe(Training):
    """When and how much is pruned, by which saliency, and the grids of a student that is quantized too.

    `prunings` events lie evenly from `prune_from` to `prune_until`, shares of the steps; the first leaves `first_sparsity`
    of the encoder's matrices zero, the last `sparsity`. `rounds` split each event. `group` numbers in a row are pruned
    together. With `saliency: none` nothing is pruned, and the zeros of the start are held.
    """

    saliency: Literal["fisher", "magnitude", "none"]
    sparsity: Share = 0.0
    first_sparsity: Share = 0.0
    prune_from: Share = 0.0
    prune_until: Share = 0.0
    prunings: Count = 1
    rounds: Count = 1
    group: Count = 1
    block: Count = 10
    gradients: Count = 1024
    gradient_batch: Count = 16
    damping: Positive = 1e-7
    freeze_embeddings: bool = False
    weights: Quantizer | None = None
    embeddings: Quantizer | None = None
    positions: Quantizer | None = None
    activations: Quantizer | None = None


def student(init: nn.Module, recipe: Recipe, context: Context) -> nn.Module:
    """Return the start, with quantizers where the recipe has them; the pooler stays in full precision."""
    grids = {place: getattr(recipe, place) for place in ("weights", "embeddings", "positions", "activations")}
    if any(grids.values()):
        apply(init, "quantize", **grids, pooler=False)
    if recipe.freeze_embeddings:
        tables, _, _ = anatomy(init).words.rpartition(".")
        init.base_model.get_submodule(tables).requires_grad_(False)
    return init


def stages(student: nn.Module, recipe: Recipe, context: Context) -> list[Stage]:
    weights = encoder_weights(student)
    for weight in weights:
        hold_zeros(weight)
    on_step = None
    if recipe.saliency != "none":
        _check_groups(weights, recipe)
        on_step = partial(prune, weights=weights, recipe=recipe, loader=context.loader)
    return [stage(recipe, context.budget, on_step=on_step)]


def encoder_weights(model: nn.Module) -> list[nn.Parameter]:
    """Return the weights that are pruned: every matrix of every layer; embeddings, pooler and head are not."""
    return [matrix.weight for of_layer in matrices(model) for matrix in of_layer.values()]


def _check_groups(weights: list[nn.Parameter], recipe: Recipe) -> None:
    """Raise where groups do not fit into blocks and weights (code: the same is asserted for groups of four)."""
    group = recipe.group
    if recipe.saliency == "fisher" and recipe.block % group:
        raise UserError(f"block: {recipe.block} is no multiple of group: {group}; change one of them in the recipe.")
    if any(weight.numel() % group for weight in weights):
        raise UserError(f"group: {group} divides not every matrix of this model evenly; take 1, 2 or 4.")


# --- schedule -----------------------------------------------------------------------------------------------


def schedule(first: float, last: float, prunings: int) -> list[float]:
    """Return the sparsity after each pruning, a cubic (Zhu & Gupta 2017, arXiv 1710.01878, equation 1)."""
    places = [number / (prunings - 1) if prunings > 1 else 1.0 for number in range(prunings)]
    return [last + (first - last) * (1 - place) ** 3 for place in places]


def events(recipe: Recipe, steps: int) -> dict[int, float]:
    """Return the sparsity that is due after so many updates, for each number of updates after which something is pruned.

    Where a short run has several prunings after one update, the last counts.
    """
    distance = (recipe.prune_until - recipe.prune_from) / max(1, recipe.prunings - 1)
    found = {}
    for number, sparsity in enumerate(schedule(recipe.first_sparsity, recipe.sparsity, recipe.prunings)):
        at = recipe.prune_from + number * distance if recipe.prunings > 1 else recipe.prune_until
        found[min(max(1, round(at * steps)), steps)] = sparsity
    return found


# --- pruning during training --------------------------------------------------------------------------------


def prune(
    student: nn.Module,
    optimizer: Optimizer,
    step: int,
    steps: int,
    *,
    weights: list[nn.Parameter],
    recipe: Recipe,
    loader: Loader,
) -> None:
    """Prune after the updates that `events` names, over all weights by one threshold.

    `rounds` part the way from the present sparsity evenly, each with gradients of its own. What they are taken from is a
    function of the step, so that a run that is resumed prunes the same.
    """
    due = events(recipe, steps).get(step + 1)
    if due is None:
        return
    numbers = sum(weight.numel() for weight in weights)
    present = 1 - sum(int(weight.count_nonzero()) for weight in weights) / numbers
    for number in range(recipe.rounds):
        target = present + (due - present) * (number + 1) / recipe.rounds
        if recipe.saliency == "magnitude":
            scores = [magnitude(weight, recipe.group) for weight in weights]
            kept = masks(scores, target, recipe.group)
        else:
            found = gradients(student, weights, loader, recipe, step * recipe.rounds + number)
            kept = surgery(weights, found, target, block=recipe.block, group=recipe.group, damping=recipe.damping)
        for weight, stays in zip(weights, kept, strict=True):
            set_zeros(weight, stays, optimizer)


def gradients(
    student: nn.Module, weights: list[nn.Parameter], loader: Loader, recipe: Recipe, number: int
) -> Iterator[list[Tensor]]:
    """Yield the gradients of the labels' loss on small batches of training rows, in evaluation mode and full precision.

    `number` picks an order that no epoch of training has. There are as many as the recipe wants, at most one for each batch
    of an epoch. Zeros have no gradient (`hold_zeros`). Gradients that wait for the optimizer are left alone.
    """
    student.eval()
    for rows in loader.epoch(recipe.gradient_batch, SAMPLE_EPOCH - 1 - number)[: recipe.gradients]:
        batch = loader.batch(rows)
        with torch.enable_grad():
            loss = labels(forward(student, batch), None, batch).mean()
            found = torch.autograd.grad(loss, weights)
        yield found


@torch.no_grad()
def surgery(
    weights: list[Tensor],
    gradients: Iterator[list[Tensor]],
    sparsity: float,
    *,
    block: int,
    group: int = 1,
    damping: float = 1e-7,
) -> list[Tensor]:
    """Prune weights in place to a sparsity that they have together, move what remains, and return what is kept.

    `gradients` yields one gradient of every weight at a time, in which what is zero already has gradient 0.
    """
    fishers = [empty(weight, block) for weight in weights]
    count = 0
    for sample in gradients:
        count += 1
        for fisher, gradient in zip(fishers, sample, strict=True):
            add(fisher, gradient)
    if not all(bool(fisher.isfinite().all()) for fisher in fishers):
        raise Diverged("the gradients that saliencies are estimated from are not finite")
    for fisher in fishers:
        invert(fisher, count, damping)
    pairs = list(zip(weights, fishers, strict=True))
    kept = masks([saliency(weight, inverse, group) for weight, inverse in pairs], sparsity, group)
    for (weight, inverse), stays in zip(pairs, kept, strict=True):
        weight.copy_(updated(weight, inverse, stays, group))
    return kept


# --- the empirical Fisher matrix in blocks ------------------------------------------------------------------


def empty(weight: Tensor, block: int) -> Tensor:
    """Return the sum of no outer products yet, (blocks, block, block)."""
    return weight.new_zeros(-(-weight.numel() // block), block, block, dtype=torch.float32)


def add(fisher: Tensor, gradient: Tensor) -> None:
    """Add a gradient's outer product with itself, within each block."""
    rows = in_blocks(gradient, fisher.shape[1])
    fisher.addcmul_(rows.unsqueeze(2), rows.unsqueeze(1))


def invert(fisher: Tensor, count: int, damping: float) -> None:
    """Make a sum of `count` outer products the inverse of the damped Fisher matrix, damping * I + sum / count, in place.

    The official code reaches the same inverse by one rank-one update for each gradient (code: EmpiricalBlockFisherInverse).
    A block that rounding of the sum has left indefinite gets a damping of the size of that rounding instead.
    """
    block = fisher.shape[1]
    unit = torch.eye(block, dtype=torch.float64, device=fisher.device)
    for part in fisher.split(max(1, CHUNK // block**2)):
        damped = part.double() / count + damping * unit
        if block == 1:
            part.copy_(1 / damped)
            continue
        factor, wrong = torch.linalg.cholesky_ex(damped)
        if bool(wrong.any()):
            rounding = 10 * EPSILON * damped.diagonal(dim1=1, dim2=2).sum(1)
            factor = torch.linalg.cholesky(damped + (rounding * (wrong > 0))[:, None, None] * unit)
        part.copy_(torch.cholesky_inverse(factor))


def in_blocks(tensor: Tensor, block: int) -> Tensor:
    """Return a tensor's numbers in blocks, (blocks, block), the last one filled up with zeros."""
    flat = tensor.reshape(-1)
    return F.pad(flat, (0, -len(flat) % block)).view(-1, block)


def diagonal(inverse: Tensor, weight: Tensor) -> Tensor:
    """Return the inverse's entry for each number of a weight, in the weight's shape."""
    return inverse.diagonal(dim1=1, dim2=2).reshape(-1)[: weight.numel()].view(weight.shape)


def of_groups(inverse: Tensor, weight: Tensor, group: int) -> Tensor:
    """Return the inverse within each group of neighbours, (groups, group, group)."""
    blocks, block, _ = inverse.shape
    parts = inverse.view(blocks, block // group, group, block // group, group).diagonal(dim1=1, dim2=3)
    return parts.movedim(3, 1).reshape(-1, group, group)[: weight.numel() // group]


# --- saliency, mask, update ---------------------------------------------------------------------------------


def saliency(weight: Tensor, inverse: Tensor, group: int = 1) -> Tensor:
    """Return what the loss rises by without each number, by the second-order estimate; minus infinity where it is zero.

    w^2 / (2 [F^-1]_ii), or w_Q' ([F^-1]_QQ)^-1 w_Q / 2 for a group Q, which all its numbers get (code: score_parameters).
    """
    if group == 1:
        return (weight.square() / (2 * diagonal(inverse, weight) + EPSILON)).masked_fill(weight == 0, -torch.inf)
    numbers = weight.reshape(-1, group)
    scores = (numbers * _solved(weight, inverse, group)).sum(1) / 2
    return _of_all(scores.masked_fill((numbers == 0).all(1), -torch.inf), weight, group)


def magnitude(weight: Tensor, group: int = 1) -> Tensor:
    """Return each number's square, or the sum of its group's; minus infinity where it is zero."""
    scores = weight.reshape(-1, group).square().sum(1)
    return _of_all(scores.masked_fill(scores == 0, -torch.inf), weight, group)


def masks(scores: list[Tensor], sparsity: float, group: int = 1) -> list[Tensor]:
    """Return what is kept: all but the lowest `sparsity` of all scores together, those that are zero already included.

    Of equal scores at the threshold the first ones go, as many as the number asks for.
    """
    flat = torch.cat([score.reshape(-1)[::group] for score in scores])
    count = round(sparsity * len(flat))
    kept = torch.ones_like(flat, dtype=torch.bool)
    if count:
        threshold = flat.kthvalue(count).values
        kept = flat > threshold
        equal = (flat == threshold).nonzero().flatten()
        kept[equal[count - int((flat < threshold).sum()) :]] = True
    parts = kept.split([score.numel() // group for score in scores])
    return [_of_all(part, score, group) for part, score in zip(parts, scores, strict=True)]


def updated(weight: Tensor, inverse: Tensor, kept: Tensor, group: int = 1) -> Tensor:
    """Return a weight without what is not kept, the rest moved to make up for what goes now.

    w - F^-1 (w / [F^-1]_ii on what goes), as if each went alone; within a group, exactly (code: mask_update). What was zero
    before stays zero.
    """
    goes = ~kept & (weight != 0)
    if group == 1:
        pull = weight / (diagonal(inverse, weight) + EPSILON)
    else:
        pull = _solved(weight, inverse, group).reshape(weight.shape)
    moved = inverse @ in_blocks(pull * goes, inverse.shape[1]).unsqueeze(2)
    moved = moved.reshape(-1)[: weight.numel()].view(weight.shape)
    return torch.where(kept & (weight != 0), weight - moved, 0.0)


def _solved(weight: Tensor, inverse: Tensor, group: int) -> Tensor:
    """Return ([F^-1]_QQ)^-1 w_Q of each group, (groups, group)."""
    parts = of_groups(inverse, weight, group).double()
    return torch.linalg.solve(parts, weight.reshape(-1, group).double()).to(weight.dtype)


def _of_all(scores: Tensor, weight: Tensor, group: int) -> Tensor:
    """Return each group's value for all its numbers, in the weight's shape."""
    return scores.repeat_interleave(group).view(weight.shape)
