"""From a tensor to its grid: integer codes, a step and an offset, with `decode(codes) = codes * step + offset`.

Nothing here has a gradient; `quantizers/` adds those. A *group* is what shares a step: the whole tensor, or with `rows` its
last dimension: a row of a matrix, a token of a batch. Steps have shape () for a tensor and (..., 1) for rows.

An activation's padding is in no statistic. Chains with statistics therefore take `real` last, which says what is no padding
and is broadcastable to the tensor, or is None for all of it (see `trace.real`). Padding gets codes as well, the outermost
where it lies outside the range.

What is not finite spreads: a NaN or an infinity makes its own value NaN, and all values of its group where the step depends
on it. No chain turns it into a finite number, so that a run that has diverged cannot pass for a good one.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from methods.kernel.fusing import fused

TERNARY_THRESHOLD = 0.7  # times the mean magnitude: Li et al. 2016 (TWN), section 2.2
TINY = torch.finfo(torch.float32).tiny  # steps below it have no finite inverse: what needs one is all zero, or all minimum
LARGEST = torch.finfo(torch.float32).max * (1 - 2**-20)  # so far below the maximum that rounding cannot pass it


class Grid(NamedTuple):
    codes: Tensor  # integers, in a floating type
    step: Tensor  # () or (..., 1)
    offset: Tensor | None = None  # as step


def finite(grid: Grid) -> bool:
    """Return whether every code, step and offset is a finite number. Only such a grid may be stored."""
    return all(bool(part.isfinite().all()) for part in grid if part is not None)


def decode(grid: Grid) -> Tensor:
    """Return the values of a grid."""
    return _decode_(Grid(grid.codes.clone(), grid.step, grid.offset))


def _decode_(grid: Grid) -> Tensor:
    """Decode in the memory of the codes."""
    values = grid.codes.mul_(grid.step)
    return values if grid.offset is None else values.add_(grid.offset)


def _chain(make: Callable[..., Grid]) -> Callable[..., Grid]:
    """Return `make`, compiled where that is on, with a second form `values(x, dtype, ...)` that decodes in the same pass."""
    call = fused(make)
    call.values = fused(lambda x, dtype, *arguments: _decode_(make(x.float(), *arguments)).to(dtype))
    return call


def real_only(x: Tensor, real: Tensor | None, rows: bool = False) -> Tensor:
    """Return `x` with its padding replaced by a real number of the same group, which changes no minimum and no maximum."""
    if real is None:
        return x
    return torch.where(real, x, x[..., :1] if rows else x[..., :1, :1])  # the first token of every example is real


def _propagate(step: Tensor, *statistics: Tensor) -> Tensor:
    """Return `step`, or NaN where a statistic of its group is not finite, since 0 times infinity is NaN."""
    for statistic in statistics:
        step = torch.add(step, statistic, alpha=0)
    return step


def _mean(values: Tensor, rows: bool, real: Tensor | None = None) -> Tensor:
    """Mean of each group, as a sum of shares, which huge values cannot overflow."""
    if real is not None:
        return _weighted_mean(values, real.to(values.dtype).expand_as(values), rows)
    if rows:
        return (values * (1 / values.shape[-1])).sum(-1, keepdim=True)
    return (values * (1 / values.numel())).sum()


def _weighted_mean(values: Tensor, weights: Tensor, rows: bool) -> Tensor:
    """Mean of `values` under `weights` in each group; 0 where the weights are all 0 and the values finite."""
    top, bottom = _mean(values * weights, rows), _mean(weights, rows)
    return torch.where(bottom == 0, top * 0, top / bottom)


@_chain
def ternary(w: Tensor, rows: bool, real: Tensor | None = None) -> Grid:
    """TWN (Li et al. 2016, arXiv 1605.04711, equation 6): keep what exceeds 0.7 of the mean magnitude, at their mean."""
    magnitude, measured = w.abs(), real_only(w, real, rows).abs()
    mean = _mean(measured, rows, real)
    kept, counted = ((tensor > TERNARY_THRESHOLD * mean).to(w.dtype) for tensor in (magnitude, measured))
    counted = counted if real is None else counted * real
    return Grid(w.sign() * kept, _propagate(_weighted_mean(measured, counted, rows), mean))


@_chain
def binary(w: Tensor, rows: bool, real: Tensor | None = None) -> Grid:
    """BWN (Rastegari et al. 2016, arXiv 1603.05279, equation 6). Zero counts as positive: there is no third level."""
    mean = _mean(real_only(w, real, rows).abs(), rows, real)
    return Grid(_signs(w), _propagate(mean, mean))


@_chain
def signs(x: Tensor, third: bool) -> Grid:
    """-1 and 1, and with `third` zero for zero."""
    codes = x.sign() if third else _signs(x)
    return Grid(codes.add_(x, alpha=0), torch.ones((), device=x.device))  # adding 0 x keeps what is not finite


@_chain
def positive(x: Tensor) -> Grid:
    """1 for what is above zero, else 0."""
    return Grid((x > 0).to(x.dtype).add_(x, alpha=0), torch.ones((), device=x.device))


@_chain
def centred(w: Tensor, rows: bool, mean_of_rows: bool) -> Grid:
    """Two levels around a mean, that of each row or of the whole tensor, at the mean magnitude as in `binary`.

    Means of equal numbers are exact, so that all of them lie on one side.
    """
    mean = _mean(w.abs(), rows)
    middle = w.double().mean(-1, keepdim=True) if mean_of_rows else w.double().mean()
    return Grid(_signs(w - middle.to(w.dtype)), _propagate(mean, mean, middle.to(w.dtype)))


@_chain
def loss_aware(w: Tensor, curvature: Tensor, rows: bool, iterations: int) -> Grid:
    """LAT, approximate (Hou & Kwok 2018, arXiv 1802.08635, algorithm 1): minimise sum d (w - a b)^2 by turns in a and b.

    `curvature` is d > 0, a diagonal stand-in for the Hessian. From b = sign(w): `a` is the d-weighted mean magnitude of
    what is kept, and kept is what exceeds a / 2. The kept set only shrinks, so turns beyond the fixed point change nothing.
    """
    magnitude = w.abs()
    kept = (magnitude > 0).to(w.dtype)
    scale = first = _weighted_mean(magnitude, curvature * kept, rows)
    for _ in range(iterations):
        kept = (magnitude > scale / 2).to(w.dtype)
        scale = _weighted_mean(magnitude, curvature * kept, rows)
    return Grid(w.sign() * (magnitude > scale / 2), _propagate(scale, first))


@_chain
def loss_aware_exact(w: Tensor, curvature: Tensor, rows: bool) -> Grid:
    """LAT, exact (the same paper, proposition 2): the best support is a top-k set in |w|, so every k is tried at once.

    With the sums running over the k largest magnitudes, the objective falls by (sum d |w|)^2 / sum d.
    """
    groups, weights = (w, curvature) if rows else (w.flatten(), curvature.flatten())  # (..., N)
    magnitude, order = groups.abs().sort(dim=-1, descending=True, stable=True)
    weights = weights.gather(-1, order).double()
    top, bottom = (weights * magnitude).cumsum(-1), weights.cumsum(-1)  # (..., N)
    gain = torch.where(bottom > 0, top.square() / bottom, 0.0)
    best = gain.argmax(-1, keepdim=True)  # (..., 1)
    scale = torch.where(gain.gather(-1, best) > 0, top.gather(-1, best) / bottom.gather(-1, best), 0.0)
    scale = _propagate(scale, top[..., -1:], bottom[..., -1:]).to(w.dtype)  # the sums over the whole group
    kept = torch.zeros_like(groups).scatter(-1, order, (torch.arange(groups.shape[-1], device=w.device) <= best).to(w.dtype))
    codes = (groups.sign() * kept).reshape(w.shape)
    return Grid(codes, scale if rows else scale.squeeze())


def _symmetric(x: Tensor, bits: int, rows: bool, clip: float | None = None, real: Tensor | None = None) -> Grid:
    """Min-max around zero: the largest magnitude takes the outermost of 2^b - 1 levels (two at one bit)."""
    magnitude = real_only(x, real, rows).abs()
    measured = magnitude.amax(-1, keepdim=True) if rows else magnitude.amax()
    largest = measured.clamp(max=LARGEST if clip is None else clip)
    levels = max(2 ** (bits - 1) - 1, 1)
    step = _propagate(largest / levels, measured)
    if bits == 1:
        return Grid(_signs(x), step)
    codes = (x * torch.where(step >= TINY, levels / largest, 0.0)).round_()
    return Grid(codes if clip is None and real is None else codes.clamp_(-levels, levels), step)


def _asymmetric(x: Tensor, bits: int, rows: bool, clip: float | None = None, real: Tensor | None = None) -> Grid:
    """Min-max over each group's own range in 2^b levels (Bhandare et al. 2019; TernaryBERT, section 3.1.2).

    Magnitudes above half of fp32's maximum (1.7e38) are clipped to it: a wider range has no width in fp32.
    """
    measured = real_only(x, real, rows)
    low, high = measured.aminmax(dim=-1, keepdim=True) if rows else measured.aminmax()
    bound = LARGEST / 2 if clip is None else clip
    return _evenly(x, bits, low.clamp(-bound, bound), high.clamp(-bound, bound), low, high)


def _evenly(x: Tensor, bits: int, least: Tensor, most: Tensor, *statistics: Tensor) -> Grid:
    """2^b levels from `least` to `most`; what lies outside takes the outermost."""
    highest = 2**bits - 1
    step = _propagate((most - least) / highest, *statistics)
    scale = torch.where(step >= TINY, 1 / step, 0.0)
    return Grid((x - least).mul_(scale).round_().clamp_(0, highest), step, least)


symmetric, asymmetric = _chain(_symmetric), _chain(_asymmetric)


@_chain
def even(x: Tensor, bits: int, rows: bool, real: Tensor | None = None) -> Grid:
    """Min-max around zero in 2^b levels, none of them zero: the odd multiples of the step, up to the largest magnitude."""
    magnitude = real_only(x, real, rows).abs()
    measured = magnitude.amax(-1, keepdim=True) if rows else magnitude.amax()
    largest, outermost = measured.clamp(max=LARGEST), 2**bits - 1
    step = _propagate(largest / outermost, measured)
    scaled = x * torch.where(step >= TINY, outermost / largest, 0.0)
    return Grid(scaled.div_(2).floor_().mul_(2).add_(1).clamp_(-outermost, outermost), step)


@_chain
def interval(x: Tensor, low: Tensor, high: Tensor, bits: int, around_zero: bool, real: Tensor | None = None) -> Grid:
    """Min-max of what lies between two bounds (PACT, Choi et al. 2018, arXiv 1805.06085, equation 1, with two bounds)."""
    if around_zero:
        clipped = torch.maximum(torch.minimum(x, high), low)
        return _symmetric(clipped.add_(x, alpha=0), bits, rows=False, real=real)  # adding 0 x keeps what is not finite
    least, most = real_only(x, real).aminmax()
    return _evenly(x, bits, *(torch.maximum(torch.minimum(end, high), low) for end in (least, most)), least, most)


@_chain
def stepped(x: Tensor, scale: Tensor, parts: int, low: int, high: int, two_levels: bool) -> Grid:
    """A given step, `scale / parts`: LSQ's grid (Esser et al. 2020, equations 1 and 2) and KDLSQ-BERT's."""
    scaled = x / scale
    if parts != 1:
        scaled = scaled.mul_(parts)  # after the division, so that x = scale lies exactly on its level
    codes = _signs(scaled) if two_levels else scaled.clamp_(low, high).round_()
    return Grid(codes.add_(x, alpha=0), scale / parts)  # adding 0 x keeps an infinity, which the clamp would cut


@_chain
def shifted(x: Tensor, scale: Tensor, parts: int, low: int, high: int, two_levels: bool, real: Tensor | None = None) -> Grid:
    """A given step above the tensor's own minimum, for one-sided tensors (BinaryBERT's code)."""
    least = real_only(x, real).amin()
    scaled = (x - least).div_(scale)
    if parts != 1:
        scaled = scaled.mul_(parts)
    return Grid(scaled.clamp_(low, high).round_().add_(x, alpha=0), scale / parts, _propagate(least, least))


@_chain
def parts(x: Tensor, low: Tensor, high: Tensor, bits: int, symmetric: bool) -> Grid:
    """2^b equal parts of the range from `low` to `high`, or of the symmetric range around it (DeepSpeed's grid).

    The largest value, or with `symmetric` the largest positive one, has no level and takes the next lower one. Zero is
    always a level.
    """
    count = 2**bits
    largest = torch.maximum(low.abs(), high.abs())
    step = largest / (count // 2) if symmetric else high / count - low / count  # the difference first could overflow
    divisor = torch.where(step >= TINY, step, torch.inf)
    zero = None if symmetric else torch.where(step >= TINY, (low / divisor).round() * step, low)
    scaled = (x if symmetric else x - zero) / divisor
    least = -(count // 2) if symmetric else 0
    return Grid(scaled.round_().clamp_(least, least + count - 1), _propagate(step, low, high), zero)


def bounds(bits: int, signed: bool, narrow: bool) -> tuple[int, int]:
    """Return the smallest and largest code: signed grids have one level less above zero, narrow ones are cut to be even."""
    if not 1 <= bits <= 8:
        raise ValueError(f"a code has 1 to 8 bits, not {bits}")
    if not signed:
        return 0, 2**bits - 1
    high = 2 ** (bits - 1) - 1
    return (-1, 1) if bits == 1 else (-high if narrow else -high - 1, high)


def _signs(x: Tensor) -> Tensor:
    return torch.where(x >= 0, 1.0, -1.0).to(x.dtype)
