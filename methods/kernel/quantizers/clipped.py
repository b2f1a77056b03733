"""Even levels over a range that is searched once: the one that a weight is rounded best in."""

import torch
from torch import Tensor

from methods.common.options import Bits, Count, Positive, Share
from methods.kernel import grids
from methods.kernel.quantizers import Quantizer

TRIED = {"cpu": 2**18, "meta": 2**60}  # numbers tried at once: what fits a processor's cache; shapes take no room
TRIED_ELSEWHERE = 2**26


class Clipped(Quantizer):
    """Levels around zero, over the part of the largest magnitude that leaves the least error (code: GPTQ, quant.py).

    The range of a tensor, or with `rows` of each row, is shrunk by 1 - i / `grid`, i = 0, 1, ... up to a share of `shrink`;
    the best has the least sum |w - q|^`norm`. As in that code, 2^b levels have one more below zero than above; `narrow`
    leaves it out. The range is set by `calibrate` and stays, so that a weight on the grid is encoded as it is.
    """

    kind = "clipped"
    only_for_weights = True

    def __init__(
        self,
        bits: Bits,
        rows: bool = False,
        narrow: bool = False,
        norm: Positive = 2.4,
        grid: Count = 100,
        shrink: Share = 0.8,
    ):
        super().__init__()
        self.bits, self.rows, self.narrow = bits, rows, narrow
        self.norm, self.grid, self.shrink = norm, grid, shrink
        self.codes_from, self.codes_to = grids.bounds(bits, signed=True, narrow=narrow)
        self.codes_by = 2 if bits == 1 else 1
        self.register_buffer("step", torch.tensor(float("nan")))

    def calibrate(self, x: Tensor) -> None:
        super().calibrate(x)
        options = {"narrow": self.narrow, "norm": self.norm, "grid": self.grid, "shrink": self.shrink}
        self.step = search(x, self.bits, self.rows, **options)[0]

    def chain(self, x: Tensor, index: Tensor | None) -> tuple:
        step = self.step if index is None or not self.rows else self.step[index]
        return grids.stepped, x, step, 1, self.codes_from, self.codes_to, self.codes_by == 2


@torch.no_grad()
def search(
    x: Tensor,
    bits: int,
    rows: bool,
    *,
    symmetric: bool = True,
    narrow: bool = False,
    norm: float = 2.4,
    grid: int = 100,
    shrink: float = 0.8,
) -> tuple[Tensor, Tensor]:
    """Return the step and the zero of the grid with the least error (code: GPTQ, quant.py).

    Values are step * (code - zero), with codes 0 to 2^b - 1, one less if `narrow`; at one bit, symmetric ones are -step and
    step. Both have shape (), or with `rows` (..., 1). A range holds zero, and is mirrored where it is symmetric. (The
    code mirrors no row without negative numbers, and so cuts off the upper half of it.) `shrink` 0 is min-max.
    """
    groups = x.float().reshape(-1, x.shape[-1]) if rows else x.float().reshape(1, -1)  # (G, N)
    least, most = (end.unsqueeze(1) for end in groups.aminmax(dim=1))  # (G, 1)
    least, most = least.clamp(max=0), most.clamp(min=0)
    levels = 2**bits - 1 - narrow
    if symmetric:
        most = torch.maximum(-least, most)
        full = most if bits == 1 else most / (levels / 2)
        zero = torch.full_like(full, 2 ** (bits - 1) - narrow)
    else:
        full = (most / levels - least / levels).clamp(min=grids.TINY)
        zero = (-least / full).round()
    full = full.clamp(min=grids.TINY)
    factors = 1 - torch.arange(max(1, int(shrink * grid + 1e-6)), device=x.device) / grid  # (F,)
    factor = _best(groups / full, factors, -zero, levels - zero, symmetric and bits == 1, norm)
    shape = (*x.shape[:-1], 1) if rows else ()
    return (full * factor).clamp(min=grids.TINY).reshape(shape), zero.reshape(shape)


def _best(x: Tensor, factors: Tensor, low: Tensor, high: Tensor, two_levels: bool, norm: float) -> Tensor:
    """Return the factor of each row's step, 1, that leaves the least error, the first of equals; (G, N) -> (G, 1)."""
    best, numbers = [], max(1, TRIED.get(x.device.type, TRIED_ELSEWHERE) // len(factors))
    wide = factors[:, None, None]  # (F, 1, 1)
    for part, down, up in zip(*(tensor.split(max(1, numbers // x.shape[1])) for tensor in (x, low, high)), strict=True):
        errors = torch.zeros(len(factors), len(part), dtype=torch.float64, device=x.device)
        for columns in part.split(numbers, 1):
            scaled = columns / wide  # (F, g, n)
            codes = torch.where(scaled >= 0, 1.0, -1.0) if two_levels else scaled.round_().clamp_(down, up)
            errors += _powers(codes.mul_(wide).sub_(columns).abs_(), norm).sum(2)
        best.append(factors[errors.argmin(0)])
    return torch.cat(best).unsqueeze(1)


def _powers(x: Tensor, norm: float) -> Tensor:
    """Return x^norm of numbers from 0 upwards, in their memory; on a processor at half the price of torch's `pow`."""
    return x.square_() if norm == 2 else x.log_().mul_(norm).exp_()
