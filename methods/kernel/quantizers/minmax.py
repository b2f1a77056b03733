"""Even levels over the range that a tensor, or each of its rows, has at the moment.

The range of an activation is that of the micro-batch's real tokens. Micro-batches therefore change the values of activations
a little, and with them gradients (by 1e-4), where padding changes none. Ranges by rows, one for each token, know neither.
"""

from torch import Tensor

from methods.common.options import Bits, Positive
from methods.kernel import grids
from methods.kernel.quantizers import Quantizer
from methods.kernel.quantizers.gradients import Straight


class Symmetric(Quantizer):
    """Dynamic min-max around zero, optionally clipped first. Clipped values, the bound included, get no gradient."""

    kind = "symmetric"

    def __init__(self, bits: Bits, rows: bool = False, clip: Positive | None = None):
        super().__init__()
        self.bits, self.rows, self.clip = bits, rows, clip
        self.codes_from, self.codes_to = grids.bounds(bits, signed=True, narrow=True)
        self.codes_by = 2 if bits == 1 else 1

    def chain(self, x: Tensor, index: Tensor | None) -> tuple:
        return grids.symmetric, x, self.bits, self.rows, self.clip

    def differentiable(self, x: Tensor, values: Tensor) -> Tensor:
        return Straight.apply(x, values, self.clip)


class Asymmetric(Quantizer):
    """Dynamic min-max over the own range (TernaryBERT, section 3.1.2), optionally clipped first as in `Symmetric`."""

    kind = "asymmetric"

    def __init__(self, bits: Bits, rows: bool = False, clip: Positive | None = None):
        super().__init__()
        self.bits, self.rows, self.clip = bits, rows, clip
        self.codes_from, self.codes_to = grids.bounds(bits, signed=False, narrow=False)

    def chain(self, x: Tensor, index: Tensor | None) -> tuple:
        return grids.asymmetric, x, self.bits, self.rows, self.clip

    def differentiable(self, x: Tensor, values: Tensor) -> Tensor:
        return Straight.apply(x, values, self.clip)
