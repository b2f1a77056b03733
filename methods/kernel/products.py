"""Products of two tensors on grids, computed on their integer codes: fp32's result at nearly bf16's speed.

Codes of up to eight bits are exact in bf16, whose matrix units add up in fp32, so a product of codes has no rounding error;
the steps are multiplied in afterwards. It costs a pass or two more than autocast, which rounds every operand and result.
Inside `on_codes(True)` every other fp32 product takes bf16 operands too, and keeps fp32 sums and results.

A tensor of values carries its codes as an attribute, `tensor.grid`: set by `with_grid` and `same_grid`, which quantizers
call inside `on_codes(True)`, and read by `linear` and `matmul`, nowhere else. Any operation on the tensor loses it, so that
codes never outlive their values; a view or a sum is simply multiplied as it is.

For finished models there are products in integers: inside `in_integers()` a linear layer multiplies codes of eight bits with
32-bit sums, if its weight was given its codes by `give_integers`. All else is computed in fp32 there.
"""

import contextlib
import functools
from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from methods.kernel.grids import Grid, decode

_on = False
_in_integers = False


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
    """Return whether products are computed on codes now, in bf16 or in integers."""
    return _on or _in_integers


@contextlib.contextmanager
def in_integers() -> Iterator[None]:
    """Multiply linear layers in integers inside, without gradients; afterwards all is as before."""
    global _in_integers
    before, _in_integers = _in_integers, True
    try:
        yield
    finally:
        _in_integers = before


def with_grid(grid: Grid, middle: int) -> Tensor:
    """Return the values of a grid, which carry it.

    Codes above an offset count from their middle, which keeps rounding errors small. In integers all do, to fit into
    eight bits.
    """
    values = decode(grid)
    if grid.offset is not None or (_in_integers and middle):
        offset = 0 if grid.offset is None else grid.offset
        grid = Grid(grid.codes - middle, grid.step, offset + middle * grid.step)
    if _in_integers:
        grid = grid._replace(codes=grid.codes.to(torch.int8))
    return same_grid(values, grid)


def same_grid(values: Tensor, grid: Grid | Tensor) -> Tensor:
    """Let values carry a grid, or the one that another tensor of the same values carries."""
    grid = getattr(grid, "grid", None) if isinstance(grid, Tensor) else grid
    if grid is not None:
        values.grid = grid
    return values


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:  # (..., K), (N, K), (N,) -> (..., N)
    if _in_integers and hasattr(x, "grid") and hasattr(weight, "integers"):
        return _linear_in_integers(x.grid, weight.integers, bias)
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


class Integers(NamedTuple):
    """A weight as `torch._int_mm` takes it."""

    codes: Tensor  # (K, N) int8
    step: Tensor  # () or (N,)
    sums: Tensor  # (N,) of the values of each output's weights


def give_integers(weight: Tensor, step: Tensor) -> bool:
    """Let a weight (N, K) whose values are codes times `step`, () or (N, 1), carry its codes; return whether it does.

    It does not where torch's products of such codes are not exact on this machine.
    """
    codes = (weight.detach() / step).round()
    largest = int(codes.abs().amax())
    if weight.shape[1] == 1 or largest > 128 or not integers_are_exact(largest):  # torch mixes up the strides of one column
        return False
    step = step.flatten() if step.dim() else step
    weight.integers = Integers(codes.to(torch.int8).t(), step, codes.sum(1) * step)
    return True


@functools.cache
def integers_are_exact(largest: int) -> bool:
    """Return whether torch multiplies codes exactly here, those of weights being `largest` at most.

    Processors without instructions for such products add pairs in 16 bits, which overflow: exact for two or three levels
    only. What would be largest is tried.
    """
    for inputs, weights in ((-128, -largest), (-128, largest), (127, -largest), (127, largest)):
        a = torch.full((32, 128), inputs, dtype=torch.int8)
        b = torch.full((64, 128), max(-128, min(weights, 127)), dtype=torch.int8)
        try:
            product = torch._int_mm(a, b.t())
        except RuntimeError:
            return False
        if not bool((product == 128 * int(a[0, 0]) * int(b[0, 0])).all()):
            return False
    return True


def _linear_in_integers(grid: Grid, weight: Integers, bias: Tensor | None) -> Tensor:
    """With a = s A + o and b = t B: a b + c = st AB + (o tB1 + c), A's codes having a middle of zero."""
    product = torch._int_mm(grid.codes.flatten(0, -2), weight.codes)
    product = product.view(*grid.codes.shape[:-1], -1)  # (..., N) int32
    constant = 0.0 if bias is None else bias  # (N,), or (..., N) where rows have offsets of their own
    if grid.offset is not None:
        constant = constant + grid.offset * weight.sums
    return (product * (grid.step * weight.step)).add_(constant)
