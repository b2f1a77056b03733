"""From a tensor to its grid: integer codes, a step and an offset, with `decode(codes) = codes * step + offset`.

Nothing here has a gradient; `quantizers.py` adds those. A *group* is what shares a step: the whole tensor, or one row.
Steps have shape () for a tensor and (rows, 1) for rows.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from methods.kernel.fusing import fused

TERNARY_THRESHOLD = 0.7  # times the mean magnitude: Li et al. 2016 (TWN), section 2.2
TINY = torch.finfo(torch.float32).tiny  # steps below it have no finite inverse: what needs one is all zero, or all minimum


class Grid(NamedTuple):
    codes: Tensor  # integers, in a floating type
    step: Tensor
    offset: Tensor | None = None


def decode(grid: Grid) -> Tensor:
    return _decode_(Grid(grid.codes.clone(), grid.step, grid.offset))


def _decode_(grid: Grid) -> Tensor:
    """`decode`, in the memory of the codes."""
    values = grid.codes.mul_(grid.step)
    return values if grid.offset is None else values.add_(grid.offset)


def _chain(make: Callable[..., Grid]) -> Callable[..., Grid]:
    """A way to make a grid; its `values(x, dtype, ...)` goes on to the values, in the same pass over memory."""
    call = fused(make)
    call.values = fused(lambda x, dtype, *arguments: _decode_(make(x.float(), *arguments)).to(dtype))
    return call


def _mean(values: Tensor, rows: bool) -> Tensor:
    """Mean of each group, as a sum of shares, which huge values cannot overflow."""
    if rows:
        return (values * (1 / values.shape[1])).sum(1, keepdim=True)
    return (values * (1 / values.numel())).sum()


def _weighted_mean(values: Tensor, weights: Tensor, rows: bool) -> Tensor:
    """Mean of `values` under `weights` in each group; 0 where the weights are all 0."""
    bottom = _mean(weights, rows)
    return torch.where(bottom > 0, _mean(values * weights, rows) / bottom, 0.0)


@_chain
def ternary(w: Tensor, rows: bool) -> Grid:
    """TWN (Li et al. 2016, arXiv 1605.04711, equation 6): keep what exceeds 0.7 of the mean magnitude, at their mean."""
    magnitude = w.abs()
    kept = (magnitude > TERNARY_THRESHOLD * _mean(magnitude, rows)).to(w.dtype)
    return Grid(w.sign() * kept, _weighted_mean(magnitude, kept, rows))


@_chain
def binary(w: Tensor, rows: bool) -> Grid:
    """BWN (Rastegari et al. 2016, arXiv 1603.05279, equation 6). Zero counts as positive: there is no third level."""
    return Grid(_signs(w), _mean(w.abs(), rows))


@_chain
def loss_aware(w: Tensor, curvature: Tensor, rows: bool, iterations: int) -> Grid:
    """LAT, approximate (Hou & Kwok 2018, arXiv 1802.08635, algorithm 1): minimise sum d (w - a b)^2 by turns in a and b.

    `curvature` is d > 0, a diagonal stand-in for the Hessian. From b = sign(w): `a` is the d-weighted mean magnitude of
    what is kept, and kept is what exceeds a / 2. The kept set only shrinks, so turns beyond the fixed point change nothing.
    """
    magnitude = w.abs()
    kept = (magnitude > 0).to(w.dtype)
    scale = _weighted_mean(magnitude, curvature * kept, rows)
    for _ in range(iterations):
        kept = (magnitude > scale / 2).to(w.dtype)
        scale = _weighted_mean(magnitude, curvature * kept, rows)
    return Grid(w.sign() * (magnitude > scale / 2), scale)


@_chain
def loss_aware_exact(w: Tensor, curvature: Tensor, rows: bool) -> Grid:
    """LAT, exact (the same paper, proposition 2): the best support is a top-k set in |w|, so every k is tried at once.

    With the sums running over the k largest magnitudes, the objective falls by (sum d |w|)^2 / sum d.
    """
    groups, weights = (w, curvature) if rows else (w.reshape(1, -1), curvature.reshape(1, -1))  # (G, N)
    magnitude, order = groups.abs().sort(dim=1, descending=True, stable=True)
    weights = weights.gather(1, order).double()
    top, bottom = (weights * magnitude).cumsum(1), weights.cumsum(1)  # (G, N)
    gain = torch.where(bottom > 0, top.square() / bottom, 0.0)
    best = gain.argmax(1, keepdim=True)  # (G, 1)
    scale = torch.where(gain.gather(1, best) > 0, top.gather(1, best) / bottom.gather(1, best), 0.0).to(w.dtype)
    kept = torch.zeros_like(groups).scatter(1, order, (torch.arange(groups.shape[1], device=w.device) <= best).to(w.dtype))
    codes = (groups.sign() * kept).reshape(w.shape)
    return Grid(codes, scale if rows else scale.squeeze())


@_chain
def symmetric(x: Tensor, bits: int, rows: bool, clip: float | None = None) -> Grid:
    """Min-max around zero: the largest magnitude takes the outermost of 2^b - 1 levels (two at one bit)."""
    x = x if clip is None else x.clamp(-clip, clip)
    largest = x.abs().amax(1, keepdim=True) if rows else x.abs().amax()
    levels = max(2 ** (bits - 1) - 1, 1)
    step = largest / levels
    if bits == 1:
        return Grid(_signs(x), step)
    return Grid((x * torch.where(step >= TINY, levels / largest, 0.0)).round_(), step)


@_chain
def asymmetric(x: Tensor, bits: int, clip: float | None = None) -> Grid:
    """Min-max over the tensor's own range in 2^b levels (Bhandare et al. 2019; TernaryBERT, section 3.1.2)."""
    x = x if clip is None else x.clamp(-clip, clip)
    low, high = x.aminmax()
    step = (high - low) / (2**bits - 1)
    scale = torch.where(step >= TINY, 1 / step, 0.0)
    return Grid((x - low).mul_(scale).round_().clamp_(max=2**bits - 1), step, low)


@_chain
def stepped(x: Tensor, scale: Tensor, parts: int, low: int, high: int, two_levels: bool) -> Grid:
    """A given step, `scale / parts`: LSQ's grid (Esser et al. 2020, equations 1 and 2) and KDLSQ-BERT's."""
    scaled = (x / scale).mul_(parts)  # in this order, so that x = scale lies exactly on its level
    return Grid(_signs(scaled) if two_levels else scaled.clamp_(low, high).round_(), scale / parts)


@_chain
def shifted(x: Tensor, scale: Tensor, parts: int, low: int, high: int, two_levels: bool) -> Grid:
    """A given step above the tensor's own minimum, for one-sided tensors (BinaryBERT's code)."""
    least = x.amin()
    return Grid((x - least).div_(scale).mul_(parts).clamp_(low, high).round_(), scale / parts, least)


def bounds(bits: int, signed: bool, narrow: bool) -> tuple[int, int]:
    """Smallest and largest code: signed grids have one level less above zero, narrow ones are cut to be even."""
    if not 1 <= bits <= 8:
        raise ValueError(f"a code has 1 to 8 bits, not {bits}")
    if not signed:
        return 0, 2**bits - 1
    high = 2 ** (bits - 1) - 1
    return (-1, 1) if bits == 1 else (-high if narrow else -high - 1, high)


def _signs(x: Tensor) -> Tensor:
    return torch.where(x >= 0, 1.0, -1.0).to(x.dtype)
