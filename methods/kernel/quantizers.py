"""The quantizers: modules that put a tensor on a grid and say what its gradient is.

Every quantizer has two faces under one law, tested for all of them: `forward(x)` is differentiable and equals
`decode(encode(x))` bit for bit. Learned steps are set by `calibrate` before training, never by a first `forward`: until
then they are NaN, so that forgetting it cannot pass unseen.
"""

import torch
from torch import Tensor, nn

from methods.kernel import grids, products
from methods.kernel.fusing import fused
from methods.kernel.grids import Grid

TRUNCATED = 0.05  # share of a tensor's values, half at each end, that the default calibration ignores (KDLSQ-BERT)
FLOOR = 1e-3  # of the calibrated step: a learned step acts as if it never fell below


class Quantizer(nn.Module):
    """Puts tensors on a grid. `rows`: each row of a matrix has a step of its own."""

    role = ""  # "weights" or "activations", once it has a place in a model
    rows = False
    codes_from, codes_to, codes_by = -1, 1, 1  # smallest and largest code, and the distance between codes

    def chain(self, x: Tensor, index: Tensor | None) -> tuple:
        """The function of `grids` that makes the grid of `x`, and its arguments.

        `index` says which rows of the whole tensor `x` holds, for quantizers that remember something of every row.
        """
        raise NotImplementedError

    @torch.no_grad()
    def encode(self, x: Tensor, index: Tensor | None = None) -> Grid:
        make, *arguments = self.chain(x.float(), index)
        return make(*arguments)

    @torch.no_grad()
    def values(self, x: Tensor, index: Tensor | None = None, dtype: torch.dtype | None = None) -> Tensor:
        """`decode(encode(x))`, in one pass; statistics are taken in fp32 whatever the precision of training is.

        The values come in `x`'s precision, or in `dtype`, that of the product they go into, which saves casting them there.
        """
        make, wanted, *arguments = self.chain(x, index)
        if products.on_codes():
            return products.with_grid(make(wanted.float(), *arguments), (self.codes_from + self.codes_to + 1) // 2)
        return make.values(wanted, dtype or x.dtype, *arguments)

    def forward(self, x: Tensor, index: Tensor | None = None, dtype: torch.dtype | None = None) -> Tensor:
        return self.attached(x, self.values(x, index, dtype))

    def attached(self, x: Tensor, values: Tensor) -> Tensor:
        """`values` with their gradient, and with their grid where they remember one."""
        return products.same_grid(self.differentiable(x, values), values)

    def differentiable(self, x: Tensor, values: Tensor) -> Tensor:
        """`values` as a function of `x` and of learned parameters; by default the identity's gradient (STE)."""
        return _Straight.apply(x, values, None)

    def calibrate(self, x: Tensor) -> None:
        """Set what is learned or remembered from a sample. Called once for a weight, once a batch for an activation."""

    @property
    def by_rows(self) -> bool:
        """Whether rows can be quantized apart from one another, with equal values."""
        return self.rows

    @property
    def levels(self) -> int:
        return (self.codes_to - self.codes_from) // self.codes_by + 1

    def state(self) -> tuple[int, ...]:
        """Changes whenever the grid of an unchanged tensor may."""
        return tuple(tensor._version for tensor in (*self.parameters(), *self.buffers()))


class Ternary(Quantizer):
    """TWN: see `grids.ternary`."""

    def __init__(self, rows: bool = False):
        super().__init__()
        self.rows = rows

    def chain(self, x: Tensor, index: Tensor | None) -> tuple:
        return grids.ternary, x, self.rows


class Binary(Quantizer):
    """BWN: see `grids.binary`."""

    codes_by = 2

    def __init__(self, rows: bool = False):
        super().__init__()
        self.rows = rows

    def chain(self, x: Tensor, index: Tensor | None) -> tuple:
        return grids.binary, x, self.rows


class LossAware(Quantizer):
    """LAT: ternary under the optimizer's curvature, which `watch` takes over after every step (Hou & Kwok 2018)."""

    def __init__(self, rows: bool = False, solver: str = "approximate", iterations: int = 10):
        super().__init__()
        self.rows, self.solver, self.iterations = rows, solver, iterations
        self.register_buffer("curvature", None)

    def calibrate(self, x: Tensor) -> None:
        self.curvature = torch.ones_like(x)

    @torch.no_grad()
    def watch(self, second_moment: Tensor) -> None:
        """d = sqrt(v) + 1e-8 of the previous step, v being Adam's second moment; a common factor does not matter."""
        torch.sqrt(second_moment, out=self.curvature).add_(1e-8)

    def chain(self, x: Tensor, index: Tensor | None) -> tuple:
        curvature = self.curvature if index is None else self.curvature[index]
        if self.solver == "exact":
            return grids.loss_aware_exact, x, curvature, self.rows
        return grids.loss_aware, x, curvature, self.rows, self.iterations


class Symmetric(Quantizer):
    """Dynamic min-max around zero, optionally clipped first; clipped values, the bound included, get no gradient."""

    def __init__(self, bits: int, rows: bool = False, clip: float | None = None):
        super().__init__()
        self.bits, self.rows, self.clip = bits, rows, clip
        self.codes_from, self.codes_to = grids.bounds(bits, signed=True, narrow=True)
        self.codes_by = 2 if bits == 1 else 1

    def chain(self, x: Tensor, index: Tensor | None) -> tuple:
        return grids.symmetric, x, self.bits, self.rows, self.clip

    def differentiable(self, x: Tensor, values: Tensor) -> Tensor:
        return _Straight.apply(x, values, self.clip)


class Asymmetric(Quantizer):
    """Dynamic min-max over the tensor's own range, optionally clipped first as in `Symmetric`."""

    def __init__(self, bits: int, clip: float | None = None):
        super().__init__()
        self.bits, self.clip = bits, clip
        self.codes_from, self.codes_to = grids.bounds(bits, signed=False, narrow=False)

    def chain(self, x: Tensor, index: Tensor | None) -> tuple:
        return grids.asymmetric, x, self.bits, self.clip

    def differentiable(self, x: Tensor, values: Tensor) -> Tensor:
        return _Straight.apply(x, values, self.clip)


class Interval(Quantizer):
    """Min-max inside a learned interval (PACT, Choi et al. 2018, arXiv 1805.06085; BinaryBERT's 8-bit activations).

    A bound gets the gradient of all values that it cuts off, as they move with it.
    """

    def __init__(self, bits: int, bound: float = 2.5, symmetric: bool = False):
        super().__init__()
        self.bits, self.symmetric = bits, symmetric
        self.codes_from, self.codes_to = grids.bounds(bits, signed=symmetric, narrow=True)
        self.codes_by = 2 if symmetric and bits == 1 else 1
        self.low, self.high = _learned(-bound), _learned(bound)

    def chain(self, x: Tensor, index: Tensor | None) -> tuple:
        clipped = torch.maximum(torch.minimum(x.float(), self.high), self.low)
        return (grids.symmetric, clipped, self.bits, False) if self.symmetric else (grids.asymmetric, clipped, self.bits)

    def differentiable(self, x: Tensor, values: Tensor) -> Tensor:
        return _Interval.apply(x, self.low, self.high, values)


class _Learned(Quantizer):
    """A grid whose step is a learned, positive scale, divided by a constant."""

    def __init__(self, bits: int, signed: bool, narrow: bool, calibration: str):
        super().__init__()
        self.bits, self.signed, self.narrow, self.calibration = bits, signed, narrow, calibration
        self.codes_from, self.codes_to = grids.bounds(bits, signed, narrow)
        self.codes_by = 2 if signed and bits == 1 else 1
        self.parts = 1  # the step is scale / parts
        self.scale = _learned(float("nan"))
        self.register_buffer("floor", torch.tensor(0.0))
        self.register_buffer("batches", torch.tensor(0))

    @property
    def by_rows(self) -> bool:
        return True  # one step for all rows, known beforehand

    @torch.no_grad()
    def calibrate(self, x: Tensor) -> None:
        """Running mean of the estimates from all batches seen so far."""
        estimate = CALIBRATIONS[self.calibration](x.float(), self).clamp(min=1e-8)
        self.batches += 1
        past = torch.where(self.batches == 1, estimate, self.scale)
        self.scale.copy_(past + (estimate - past) / self.batches)
        self.floor.copy_(FLOOR * self.scale)

    def positive(self) -> Tensor:
        """The scale, held above its floor; the gradient passes as if it were not, so that it can come back."""
        return _Floor.apply(self.scale, self.floor)

    @property
    def grid(self) -> tuple[int, int, int, bool]:
        return self.parts, self.codes_from, self.codes_to, self.codes_by == 2

    def chain(self, x: Tensor, index: Tensor | None) -> tuple:
        return grids.stepped, x, self.positive(), *self.grid


class Threshold(_Learned):
    """KDLSQ-BERT's learned clip threshold (Jin et al. 2021; its code): step = threshold / n, with n levels on each side.

    No gradient scale. Weights pass all gradients (`masked=False`), activations only those inside the threshold.
    """

    def __init__(self, bits: int, masked: bool = True, calibration: str = "truncation"):
        super().__init__(bits, signed=True, narrow=True, calibration=calibration)
        self.masked, self.parts = masked, self.codes_to

    def differentiable(self, x: Tensor, values: Tensor) -> Tensor:
        return _Stepped.apply(x, self.positive(), None, values, self.grid, 1.0, self.masked)


class Step(_Learned):
    """LSQ (Esser et al. 2020, arXiv 1902.08153): the step itself is learned, its gradient scaled by 1 / sqrt(N Qp).

    `count` says what N counts: a weight's numbers or an example's features, as in the paper, or the whole batch, as in
    BinaryBERT's code.
    `shifted` subtracts the tensor's minimum first, for one-sided tensors (BinaryBERT's asymmetric activations).
    """

    def __init__(
        self, bits: int, signed: bool = True, shifted: bool = False, count: str = "features", calibration: str = "lsq"
    ):
        super().__init__(bits, signed and not shifted, narrow=False, calibration=calibration)
        self.shifted, self.count, self.numbers = shifted, count, 0

    @property
    def by_rows(self) -> bool:
        return not self.shifted  # the minimum is the whole tensor's

    def calibrate(self, x: Tensor) -> None:
        super().calibrate(x)
        self.numbers = x.numel()  # of the whole weight, though only looked-up rows may follow

    def chain(self, x: Tensor, index: Tensor | None) -> tuple:
        if not self.shifted:
            return super().chain(x, index)
        return grids.shifted, x, self.positive(), *self.grid

    def differentiable(self, x: Tensor, values: Tensor) -> Tensor:
        features = self.numbers if self.role == "weights" else x[0].numel()
        scale = ((features if self.count == "features" else x.numel()) * max(self.codes_to, 1)) ** -0.5
        offset = x.detach().amin() if self.shifted else None
        return _Stepped.apply(x, self.positive(), offset, values, self.grid, scale, True)


def truncation(x: Tensor, quantizer: _Learned) -> Tensor:
    """The larger magnitude of the two percentiles that cut half of TRUNCATED off each end (KDLSQ-BERT, section 3.3)."""
    ordered = x.flatten().sort().values
    cut = int(len(ordered) * TRUNCATED / 2)
    largest = torch.maximum(ordered[cut].abs(), ordered[len(ordered) - 1 - cut].abs())
    largest = torch.where(largest > 0, largest, ordered.abs().amax())
    return largest if isinstance(quantizer, Threshold) else largest / max(quantizer.codes_to, 1)


def lsq(x: Tensor, quantizer: _Learned) -> Tensor:
    """2 E|x| / sqrt(Qp) (Esser et al. 2020, section 2.1); twice that for one-sided tensors, as in BinaryBERT's code."""
    start = (4.0 if getattr(quantizer, "shifted", False) else 2.0) * x.abs().mean() / max(quantizer.codes_to, 1) ** 0.5
    return start * quantizer.codes_to if isinstance(quantizer, Threshold) else start


def histogram(x: Tensor, quantizer: _Learned) -> Tensor:
    """The clip threshold whose coarse cumulative histogram differs least from the fine one (KDLSQ-BERT's code).

    The cumulative histogram of |x|, cut at a candidate, is resampled to 2^(b-1) points and back; the candidate with the
    smallest sum of (fine - coarse) log2(fine / coarse) wins. Too few bins for any candidate: the largest magnitude.
    """
    magnitude = x.abs().flatten()
    bins, points = max(int(len(magnitude) ** 0.5), 1), 2 ** (quantizer.bits - 1)
    largest = magnitude.amax()
    width = largest / bins
    cumulative = torch.histc(magnitude, bins, 0, max(float(largest), 1e-8)).cumsum(0) / len(magnitude)
    best, chosen = float("inf"), largest
    for cut in range(points + 1, bins):
        fine = cumulative[: cut + 1].clone()
        fine[-1] = 1.0  # what is clipped lands on the threshold
        coarse = _resampled(_resampled(fine, points), len(fine))
        difference = float(((fine - coarse) * (fine.clamp(min=1e-12) / coarse.clamp(min=1e-12)).log2()).sum())
        if difference < best:
            best, chosen = difference, (cut + 0.5) * width
    return chosen if isinstance(quantizer, Threshold) else chosen / max(quantizer.codes_to, 1)


CALIBRATIONS = {"truncation": truncation, "lsq": lsq, "histogram": histogram}


def _resampled(values: Tensor, points: int) -> Tensor:
    return nn.functional.interpolate(values[None, None], size=points, mode="linear", align_corners=True)[0, 0]


def _learned(value: float) -> nn.Parameter:
    """A parameter that the optimizer treats as a quantizer's: its own rate, no decay."""
    parameter = nn.Parameter(torch.tensor(value))
    parameter.quantizer = True
    return parameter


class _Straight(torch.autograd.Function):
    """`values` forward; backward the gradient as it comes, or only strictly inside +-clip."""

    @staticmethod
    def forward(ctx, x: Tensor, values: Tensor, clip: float | None) -> Tensor:
        ctx.clip = clip
        if clip is not None:
            ctx.save_for_backward(x)
        return values.view_as(values)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        if ctx.clip is not None:
            (x,) = ctx.saved_tensors
            gradient = gradient * (x.abs() < ctx.clip)
        return gradient, None, None


class _Interval(torch.autograd.Function):
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
    gradient: Tensor, x: Tensor, scale: Tensor, parts: int, low: int, high: int, two_levels: bool, masked: bool
):
    """Gradients to the input and to the scale (Esser et al. 2020, equations 3 and 5, divided by `parts`)."""
    scaled = x.float() / scale * parts
    inside = (scaled >= low) & (scaled <= high)
    cut = scaled.clamp(low, high)
    level = torch.where(scaled >= 0, 1.0, -1.0) if two_levels else cut.round()
    to_scale = (gradient.float() * torch.where(inside, level - scaled, cut)).sum() / parts
    return (gradient * inside if masked else gradient), to_scale


class _Stepped(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, scale: Tensor, offset: Tensor | None, values: Tensor, grid, factor: float, masked: bool):
        ctx.save_for_backward(x, scale, *(() if offset is None else (offset,)))
        ctx.grid, ctx.factor, ctx.masked = grid, factor, masked
        return values.view_as(values)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        x, scale, *offset = ctx.saved_tensors
        x = x - offset[0] if offset else x
        to_x, to_scale = _stepped_gradients(gradient, x, scale, *ctx.grid, ctx.masked)
        return to_x, (to_scale * ctx.factor).to(scale.dtype), None, None, None, None, None


class _Floor(torch.autograd.Function):
    @staticmethod
    def forward(ctx, scale: Tensor, floor: Tensor) -> Tensor:
        return torch.maximum(scale, floor)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        return gradient, None


KINDS: dict[str, type[Quantizer]] = {
    "ternary": Ternary,
    "binary": Binary,
    "loss_aware": LossAware,
    "symmetric": Symmetric,
    "asymmetric": Asymmetric,
    "interval": Interval,
    "threshold": Threshold,
    "step": Step,
}


def make(spec: dict | None) -> Quantizer | None:
    """The quantizer of a stanza such as `{kind: asymmetric, bits: 8}`; None for full precision."""
    if spec is None:
        return None
    options = {key: value for key, value in spec.items() if key != "kind"}
    return KINDS[spec["kind"]](**options)
