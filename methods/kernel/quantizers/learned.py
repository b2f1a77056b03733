"""Even levels at a step that is learned: LSQ's step, KDLSQ-BERT's clip threshold, and how either is calibrated."""

from typing import Literal

import torch
from torch import Tensor, nn

from methods.common.options import Bits
from methods.kernel import grids, trace
from methods.kernel.quantizers import Quantizer
from methods.kernel.quantizers.gradients import Floored, Stepped

TRUNCATED = 0.05  # share of a tensor's values, half at each end, that the default calibration ignores (KDLSQ-BERT)
FLOOR = 1e-3  # of the calibrated step: a learned step acts as if it never fell below


class _Learned(Quantizer):
    """A grid whose step is a learned, positive scale, divided by a constant."""

    def __init__(self, bits: int, signed: bool, narrow: bool, calibration: str):
        super().__init__()
        self.bits, self.signed, self.narrow, self.calibration = bits, signed, narrow, calibration
        self.codes_from, self.codes_to = grids.bounds(bits, signed, narrow)
        self.codes_by = 2 if signed and bits == 1 else 1
        self.parts = 1  # the step is scale / parts
        self.scale = nn.Parameter(torch.tensor(float("nan")))
        self.register_buffer("floor", torch.tensor(0.0))
        self.register_buffer("batches", torch.tensor(0))

    @property
    def by_rows(self) -> bool:
        return True  # one step for all rows, known beforehand

    @torch.no_grad()
    def calibrate(self, x: Tensor) -> None:
        """Move the scale to the mean of the estimates from all batches seen so far. What is not finite makes it NaN."""
        super().calibrate(x)
        estimate = CALIBRATIONS[self.calibration](x.float(), self).clamp(min=1e-8)
        estimate = torch.where(x.isfinite().all(), estimate, torch.nan)
        self.batches += 1
        past = torch.where(self.batches == 1, estimate, self.scale)
        self.scale.copy_(past + (estimate - past) / self.batches)
        self.floor.copy_(FLOOR * self.scale)

    def positive(self) -> Tensor:
        """Return the scale, held above its floor."""
        return Floored.apply(self.scale, self.floor)

    @property
    def grid(self) -> tuple[int, int, int, bool]:
        """Parts, smallest and largest code, and whether there are only two levels: arguments of `grids.stepped`."""
        return self.parts, self.codes_from, self.codes_to, self.codes_by == 2

    def chain(self, x: Tensor, index: Tensor | None) -> tuple:
        return grids.stepped, x, self.positive(), *self.grid


class Threshold(_Learned):
    """KDLSQ-BERT's learned clip threshold (Jin et al. 2021; its code): step = threshold / n, with n levels on each side.

    No gradient scale. Weights pass all gradients (`masked=False`), activations only those inside the threshold.
    """

    kind = "threshold"

    def __init__(
        self, bits: Bits, masked: bool = True, calibration: Literal["truncation", "lsq", "histogram"] = "truncation"
    ):
        super().__init__(bits, signed=True, narrow=True, calibration=calibration)
        self.masked, self.parts = masked, self.codes_to

    def differentiable(self, x: Tensor, values: Tensor) -> Tensor:
        return Stepped.apply(x, self.positive(), None, values, self.grid, 1.0, self.masked)


class Step(_Learned):
    """LSQ (Esser et al. 2020, arXiv 1902.08153): the step itself is learned, its gradient scaled by 1 / sqrt(N Qp).

    `count` says what N counts (its section 2.2). "features": a weight's numbers, or an example's features, as in the paper.
    "batch": the numbers of the whole batch, as in BinaryBERT's code. While a trace is open, N counts real tokens and no
    padding. Each example then has its own N under "features", so that a gradient depends neither on padding nor on
    micro-batches, as long as nothing flows back from padding.
    `shifted` subtracts the tensor's minimum first, for one-sided tensors (BinaryBERT's asymmetric activations). That
    minimum is that of the micro-batch's real tokens.
    """

    kind = "step"

    def __init__(
        self,
        bits: Bits,
        signed: bool = True,
        shifted: bool = False,
        count: Literal["features", "batch"] = "features",
        calibration: Literal["truncation", "lsq", "histogram"] = "lsq",
    ):
        super().__init__(bits, signed and not shifted, narrow=False, calibration=calibration)
        self.shifted, self.one_sided, self.count, self.numbers = shifted, shifted, count, 0

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
        factor = (self.counted(x) * max(self.codes_to, 1)) ** -0.5  # () or (B,)
        offset = grids.real_only(x.detach(), self.real(x)).amin() if self.shifted else None
        return Stepped.apply(x, self.positive(), offset, values, self.grid, factor, True)

    def counted(self, x: Tensor) -> float | Tensor:
        """Return N: one number, or one an example, (B,).

        A micro-batch does not see the whole batch. Under "batch", its real numbers are therefore scaled up by the batch's
        real tokens over its own. This is exact for vectors of tokens, and an estimate for pooled vectors and for
        attention probabilities, which grow with the square of the length.
        """
        running = trace.current()
        if self.role == "weights" or running is None:
            features = self.numbers if self.role == "weights" else x[0].numel()
            return features if self.count == "features" else x.numel()
        real = trace.real_features(x, self.pairs).clamp(min=1)  # (B,)
        if self.count == "features":
            return real
        share = 1.0 if running.total is None else running.total / running.lengths.sum()
        return real.sum() * share


def truncation(x: Tensor, quantizer: _Learned) -> Tensor:
    """Return the larger magnitude of the percentiles that cut half of TRUNCATED off each end (KDLSQ-BERT, section 3.3)."""
    ordered = x.flatten().sort().values
    cut = int(len(ordered) * TRUNCATED / 2)
    largest = torch.maximum(ordered[cut].abs(), ordered[len(ordered) - 1 - cut].abs())
    largest = torch.where(largest > 0, largest, ordered.abs().amax())
    return largest if isinstance(quantizer, Threshold) else largest / max(quantizer.codes_to, 1)


def lsq(x: Tensor, quantizer: _Learned) -> Tensor:
    """Return 2 E|x| / sqrt(Qp) (Esser et al. 2020, section 2.1); twice that for one-sided tensors (BinaryBERT's code)."""
    start = (4.0 if getattr(quantizer, "one_sided", False) else 2.0) * x.abs().mean() / max(quantizer.codes_to, 1) ** 0.5
    return start * quantizer.codes_to if isinstance(quantizer, Threshold) else start


def histogram(x: Tensor, quantizer: _Learned) -> Tensor:
    """Return the clip threshold whose coarse cumulative histogram differs least from the fine one (KDLSQ-BERT's code).

    The cumulative histogram of |x|, cut at a candidate, is resampled to 2^(b-1) points and back; the candidate with the
    smallest sum of (fine - coarse) log2(fine / coarse) wins. Too few bins for any candidate: the largest magnitude.
    """
    magnitude = x.abs().flatten()
    bins, points = max(int(len(magnitude) ** 0.5), 1), 2 ** (quantizer.bits - 1)
    largest = magnitude.amax()
    if not largest.isfinite():
        return largest
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
