"""Even levels up to a moving maximum: measured while a model trains, and fixed from then on."""

import torch
from torch import Tensor

from methods.common.options import Bits, Share
from methods.kernel import grids, trace
from methods.kernel.quantizers import Quantizer


class Ema(Quantizer):
    """Symmetric levels up to an exponential moving average of the largest magnitude (Q8BERT, Zafrir et al. 2019; its code).

    In training every forward pass first moves the range t: the first batch sets t = max |x|, later ones
    t <- t - (1 - decay) (t - max |x|), over real tokens. Evaluation takes the range as it is. All gradients pass, those of
    values beyond the range included.

    Micro-batches of one step move the range once, by the largest magnitude that the step has shown so far: after the last
    of them it is where the whole batch would have brought it. Each of several processes keeps a range of its own, and the
    model file has that of the first. A maximum that is no finite number moves nothing. A weight's range is that of the
    weight at the start.
    """

    kind = "ema"

    def __init__(self, bits: Bits, decay: Share = 0.9999):
        super().__init__()
        self.bits, self.decay = bits, decay
        self.codes_from, self.codes_to = grids.bounds(bits, signed=True, narrow=True)
        self.codes_by, self.parts = 2 if bits == 1 else 1, self.codes_to  # the step is range / parts
        self.register_buffer("range", torch.tensor(float("nan")))  # until a batch sets it
        self.register_buffer("before", torch.tensor(float("nan")), persistent=False)  # the range when the step began
        self.register_buffer("largest", torch.tensor(0.0), persistent=False)  # magnitude in this step

    @property
    def by_rows(self) -> bool:
        return True  # one step for all rows, known beforehand

    def forward(self, x: Tensor, index: Tensor | None = None, dtype: torch.dtype | None = None) -> Tensor:
        if self.training and self.role != "weights":
            self.observe(x)
        return super().forward(x, index, dtype)

    def calibrate(self, x: Tensor) -> None:
        super().calibrate(x)
        self.observe(x)

    @torch.no_grad()
    def observe(self, x: Tensor) -> None:
        """Move the range by a batch, or by a micro-batch that continues one."""
        self.refuse_empty(x)
        running = trace.current()
        if running is None or not running.continues:
            self.before, self.largest = self.range.clone(), torch.zeros_like(self.range)
        real = trace.real(x, self.pairs) if self.role != "weights" else None
        found = grids.real_only(x, real).abs().amax().float()
        self.largest = torch.where(found.isfinite(), torch.maximum(self.largest, found), self.largest)
        moved = torch.where(self.before.isnan(), self.largest, self.before - (1 - self.decay) * (self.before - self.largest))
        self.range.copy_(torch.where(found.isfinite(), moved, self.range))

    def positive(self) -> Tensor:
        """Return the range, held above zero so that it divides."""
        return self.range.clamp(min=grids.TINY)

    def chain(self, x: Tensor, index: Tensor | None) -> tuple:
        return grids.stepped, x, self.positive(), self.parts, self.codes_from, self.codes_to, self.codes_by == 2
