"""The gradients of the quantizers, as autograd functions: each returns given values and says what flows back."""

import torch
from torch import Tensor

from methods.kernel.fusing import fused


class Straight(torch.autograd.Function):
    """The straight-through estimator (Bengio et al. 2013): all of the gradient, or only that inside +-clip.

    The bounds themselves get a gradient where they are `included`.
    """

    @staticmethod
    def forward(ctx, x: Tensor, values: Tensor, clip: float | None, included: bool = False) -> Tensor:
        ctx.clip, ctx.included = clip, included
        if clip is not None:
            ctx.save_for_backward(x)
        return values.view_as(values)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        if ctx.clip is not None:
            (x,) = ctx.saved_tensors
            gradient = gradient * (x.abs() <= ctx.clip if ctx.included else x.abs() < ctx.clip)
        return gradient, None, None, None


class Centring(torch.autograd.Function):
    """The gradient through x - mean(x), where that is within +-clip: less its own mean, of each row or of the tensor."""

    @staticmethod
    def forward(ctx, x: Tensor, values: Tensor, clip: float, by_rows: bool) -> Tensor:
        ctx.clip, ctx.by_rows = clip, by_rows
        ctx.save_for_backward(x)
        return values.view_as(values)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        (x,) = ctx.saved_tensors
        where = {"dim": -1, "keepdim": True} if ctx.by_rows else {}
        x = x.float()
        inside = gradient * ((x - x.mean(**where)).abs() <= ctx.clip)
        return inside - inside.mean(**where), None, None, None


class Scaled(torch.autograd.Function):
    """Two levels at plus and minus a learned scale: that of each level to the scale, and the identity's within it to x.

    `factor` multiplies the scale's gradient.
    """

    @staticmethod
    def forward(ctx, x: Tensor, scale: Tensor, values: Tensor, factor: float | Tensor) -> Tensor:
        ctx.save_for_backward(x, scale)
        ctx.factor = factor
        return values.view_as(values)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        x, scale = ctx.saved_tensors
        to_scale = (gradient.float() * torch.where(x >= 0, 1.0, -1.0)).sum() * ctx.factor
        return gradient * (x.float().abs() <= scale), to_scale.to(scale.dtype), None, None


class Bounded(torch.autograd.Function):
    """A learned interval (PACT, Choi et al. 2018, equation 3): each bound gets the gradient of what it cuts off."""

    @staticmethod
    def forward(ctx, x: Tensor, low: Tensor, high: Tensor, values: Tensor) -> Tensor:
        ctx.save_for_backward(x, low, high)
        return values.view_as(values)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        x, low, high = ctx.saved_tensors
        below, above = x.float() <= low, x.float() >= high
        inside = gradient * ~(below | above)
        return inside, (gradient * below).sum().to(low.dtype), (gradient * above).sum().to(high.dtype), None


@fused
def _stepped_gradients(
    gradient: Tensor,
    x: Tensor,
    scale: Tensor,
    parts: int,
    low: int,
    high: int,
    two_levels: bool,
    masked: bool,
    by_example: bool,
):
    """Gradients to the input and to the scale (Esser et al. 2020, equations 3 and 5, divided by `parts`).

    The scale's is summed over everything, (), or over each example, (B,).
    """
    scaled = x.float() / scale * parts
    inside = (scaled >= low) & (scaled <= high)
    cut = scaled.clamp(low, high)
    level = torch.where(scaled >= 0, 1.0, -1.0) if two_levels else cut.round()
    terms = gradient.float() * torch.where(inside, level - scaled, cut)
    to_scale = (terms.flatten(1).sum(1) if by_example else terms.sum()) / parts
    return (gradient * inside if masked else gradient), to_scale


class Stepped(torch.autograd.Function):
    """A learned step. `factor` multiplies its gradient: one number, or one an example, (B,)."""

    @staticmethod
    def forward(
        ctx,
        x: Tensor,
        scale: Tensor,
        offset: Tensor | None,
        values: Tensor,
        grid: tuple[int, int, int, bool],
        factor: float | Tensor,
        masked: bool,
    ) -> Tensor:
        ctx.save_for_backward(x, scale, *(() if offset is None else (offset,)))
        ctx.grid, ctx.factor, ctx.masked = grid, factor, masked
        return values.view_as(values)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        x, scale, *offset = ctx.saved_tensors
        x = x - offset[0] if offset else x
        by_example = isinstance(ctx.factor, Tensor) and ctx.factor.dim() == 1
        to_x, to_scale = _stepped_gradients(gradient, x, scale, *ctx.grid, ctx.masked, by_example)
        to_scale = to_scale * ctx.factor  # () or (B,)
        return to_x, (to_scale.sum() if by_example else to_scale).to(scale.dtype), None, None, None, None, None


class Floored(torch.autograd.Function):
    """A scale held above a floor. Its gradient passes as if it were not, so that it can come back."""

    @staticmethod
    def forward(ctx, scale: Tensor, floor: Tensor) -> Tensor:
        return torch.maximum(scale, floor)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        return gradient, None
