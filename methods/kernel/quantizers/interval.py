"""Even levels inside bounds that are learned."""

import torch
from torch import Tensor, nn

from methods.common.options import Bits, Positive
from methods.kernel import grids
from methods.kernel.quantizers import Quantizer
from methods.kernel.quantizers.gradients import Bounded


class Interval(Quantizer):
    """Min-max inside a learned interval (PACT, Choi et al. 2018, arXiv 1805.06085; BinaryBERT's 8-bit activations).

    The minimum and maximum of an activation are those of the micro-batch's real tokens.
    A bound gets the gradient of all values that it cuts off, as they move with it (its equation 3).
    """

    kind = "interval"

    def __init__(self, bits: Bits, bound: Positive = 2.5, symmetric: bool = False):
        super().__init__()
        self.bits, self.symmetric = bits, symmetric
        self.codes_from, self.codes_to = grids.bounds(bits, signed=symmetric, narrow=True)
        self.codes_by = 2 if symmetric and bits == 1 else 1
        self.low, self.high = nn.Parameter(torch.tensor(-float(bound))), nn.Parameter(torch.tensor(float(bound)))

    def chain(self, x: Tensor, index: Tensor | None) -> tuple:
        return grids.interval, x, self.low.detach(), self.high.detach(), self.bits, self.symmetric

    def differentiable(self, x: Tensor, values: Tensor) -> Tensor:
        return Bounded.apply(x, self.low, self.high, values)
