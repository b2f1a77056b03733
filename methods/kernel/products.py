"""Products of two tensors on grids, computed on their integer codes: fp32's result at nearly bf16's speed.

Codes of up to eight bits are exact in bf16, whose matrix units add up in fp32, so a product of codes has no rounding error;
the steps are multiplied in afterwards. It costs a pass or two more than autocast, which rounds every operand and result.
Inside `on_codes(True)` every other fp32 product takes bf16 operands too, and keeps fp32 sums and results.

A tensor of values carries its codes as an attribute, `tensor.grid`: set by `with_grid` and `same_grid`, which quantizers
call inside `on_codes(True)`, and read by `linear` and `matmul`, nowhere else. Any operation on the tensor loses it, so that
codes never outlive their values; a view or a sum is simply multiplied as it is.
"""

import contextlib
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from methods.kernel.grids import Grid, decode

_on = False


@contextlib.contextmanager
def on_codes(on: bool) -> Iterator[None]:
    """Multiply codes inside, or values; afterwards all is as before."""
    before = _on
    try:
        _set(on)
        yield
    finally:
        _set(before)


def _set(on: bool) -> None:
    global _on
    _on = on
    torch.backends.mkldnn.matmul.fp32_precision = "bf16" if on else "ieee"
    torch.backends.cuda.matmul.fp32_precision = "tf32" if on else "ieee"  # ten bits: codes are exact in it as well


def are_on_codes() -> bool:
    """Return whether products are computed on codes now."""
    return _on


def with_grid(grid: Grid, middle: int) -> Tensor:
    """Return the values of a grid, which carry it. Its codes count from their middle, which keeps rounding errors small."""
    values = decode(grid)
    if grid.offset is not None:
        grid = Grid(grid.codes - middle, grid.step, grid.offset + middle * grid.step)
    return same_grid(values, grid)


def same_grid(values: Tensor, grid: Grid | Tensor) -> Tensor:
    """Let values carry a grid, or the one that another tensor of the same values carries."""
    grid = getattr(grid, "grid", None) if isinstance(grid, Tensor) else grid
    if grid is not None:
        values.grid = grid
    return values


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:  # (..., K), (N, K), (N,) -> (..., N)
    if not _both_on_grids(x, weight):
        return F.linear(x, weight, bias)
    y = _CodeProduct.apply(x, weight.t(), x.grid, _transposed(weight.grid))
    return y if bias is None else y + bias


def matmul(a: Tensor, b: Tensor, real: Tensor | None = None) -> Tensor:  # (..., M, K), (..., K, N) -> (..., M, N)
    """Return `a @ b`, over those rows of `b` alone that are `real`, (..., K, 1), where that is given."""
    if not _both_on_grids(a, b):
        return a @ (b if real is None else torch.where(real, b, 0.0))
    return _CodeProduct.apply(a, b, a.grid, b.grid, None if real is None else real.to(b.grid.codes.dtype))


def matmul_transposed(a: Tensor, b: Tensor) -> Tensor:  # (..., M, K), (..., N, K) -> (..., M, N)
    """Return `a @ b.mT`."""
    if not _both_on_grids(a, b):
        return a @ b.mT
    return _CodeProduct.apply(a, b.mT, a.grid, _transposed(b.grid))


def _both_on_grids(a: Tensor, b: Tensor) -> bool:
    grids = getattr(a, "grid", None), getattr(b, "grid", None)
    return _on and all(grid is not None and grid.step.dim() == 0 for grid in grids)


def _transposed(grid: Grid) -> Grid:
    return grid._replace(codes=grid.codes.mT)


class _CodeProduct(torch.autograd.Function):
    """With a = s A + o and b = t B + p for codes A and B: a b = st AB + sp A1 + ot 1B + op K, A1 being A's row sums.

    `real` is 1 for the rows of b that are multiplied and 0 for the others, (..., K, 1): it takes the place of the ones.
    """

    @staticmethod
    def forward(ctx, a: Tensor, b: Tensor, first: Grid, second: Grid, real: Tensor | None = None) -> Tensor:
        if real is not None:
            second = second._replace(codes=second.codes * real)
        ctx.grids, ctx.real = (first, second), real
        product = (first.codes @ second.codes).mul_(first.step * second.step)
        if second.offset is not None:
            sums = first.codes.sum(-1, keepdim=True) if real is None else first.codes @ real
            product += sums * (first.step * second.offset)
        if first.offset is not None:
            product += second.codes.sum(-2, keepdim=True) * (first.offset * second.step)
        if first.offset is not None and second.offset is not None:
            count = first.codes.shape[-1] if real is None else real.sum(-2, keepdim=True)
            product += count * first.offset * second.offset
        return product

    @staticmethod
    def backward(ctx, gradient: Tensor):
        """Return g b^T and a^T g: the codes stay exact, the gradient is rounded to bf16 on its way into the product."""
        first, second = ctx.grids
        to_a = (gradient @ second.codes.mT).mul_(second.step)
        if second.offset is not None:
            offset = second.offset if ctx.real is None else second.offset * ctx.real.mT
            to_a += gradient.sum(-1, keepdim=True) * offset
        codes, rows = first.codes, gradient
        if second.codes.dim() == 2:  # one matrix for all examples
            codes, rows = codes.flatten(0, -2), gradient.flatten(0, -2)
        to_b = (codes.mT @ rows).mul_(first.step)
        if first.offset is not None:
            to_b += rows.sum(-2, keepdim=True) * first.offset
        if ctx.real is not None:
            to_b *= ctx.real
        return to_a, to_b, None, None, None
