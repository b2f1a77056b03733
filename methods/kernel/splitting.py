"""Ternary weight splitting: a weight as the sum of two whose binary values sum to its ternary values (BinaryBERT)."""

import torch
from torch import Tensor

from methods.kernel import grids


@torch.no_grad()
def split(w: Tensor, rows: bool) -> tuple[Tensor, Tensor]:
    """Return w1 and w2 in float64: w1 + w2 = w and BWN(w1) + BWN(w2) = TWN(w) in every group (Bai et al. 2021, section 3.1).

    What the ternary weight keeps is shared out as a w and (1 - a) w, so that both halves have its sign. What it drops
    goes to one half whole, and both are pushed apart by b, so that their signs cancel. The halves' scales, mean |w1| and
    mean |w2|, must each be half the ternary scale: b makes their sum right, and a makes them equal.
    """
    if w.numel() == 0:
        raise ValueError(f"an empty weight cannot be split (shape {tuple(w.shape)})")
    kept = (grids.ternary(w, rows).codes != 0).double()  # decided in the precision in which the model decides it
    groups = w.double()
    if not rows:
        groups, kept = groups.reshape(1, -1), kept.reshape(1, -1)  # (G, N)
    dropped, magnitude, sign = 1 - kept, groups.abs(), torch.where(groups > 0, 1.0, -1.0).double()
    sum_kept, count_kept, count_dropped = _sum(kept * magnitude), _sum(kept), _sum(dropped)  # (G, 1)
    scale = torch.where(count_kept > 0, sum_kept / count_kept, 0.0)
    missing = scale * groups.shape[1] - _sum(magnitude)
    b = torch.where(count_dropped > 0, missing / (2 * count_dropped), 0.0)

    owner = sign.clone()  # 1 where the first half takes what is dropped: by sign, as in the paper
    excess = _sum(dropped * magnitude * owner)  # of the first half over the second
    uneven = ((excess.abs() >= sum_kept) & (sum_kept > 0)).squeeze(1)
    if uneven.any():  # most of a group is small and of one sign: no a between 0 and 1 makes up for that
        owner[uneven] = _alternately(magnitude[uneven])
        excess = _sum(dropped * magnitude * owner)
    a = torch.where(sum_kept > 0, (sum_kept - excess) / (2 * sum_kept), 0.5)

    spread = 0 * _sum(magnitude)  # NaN where the group holds what is not finite
    a, b = a + spread, b + spread
    first = kept * a * groups + dropped * (torch.where(owner > 0, groups, 0.0) + owner * sign * b)
    return first.reshape(w.shape), (groups - first).reshape(w.shape)


def _sum(values: Tensor) -> Tensor:
    return values.sum(1, keepdim=True)


def _alternately(magnitude: Tensor) -> Tensor:
    """Return 1 and -1 by turns in the order of magnitude. The two halves of the smallest differ by less than one of them."""
    rank = magnitude.argsort(dim=1, stable=True).argsort(dim=1)
    return 1 - 2 * (rank % 2).double()
