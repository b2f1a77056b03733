"""An even number of levels around zero, for weights of few bits, of which a level at zero would take a quarter."""

from torch import Tensor

from methods.common.options import Bits
from methods.kernel import grids
from methods.kernel.quantizers import Quantizer


class Even(Quantizer):
    """2^b levels from -m to m, m being the largest magnitude; all gradients pass.

    It is what min-max in 2^b levels (`Asymmetric`) is for a tensor as wide below zero as above, and needs no offset.
    """

    kind = "even"
    only_for_weights = True  # codes of eight bits would need nine as integers

    def __init__(self, bits: Bits, rows: bool = False):
        super().__init__()
        self.bits, self.rows = bits, rows
        self.codes_from, self.codes_to, self.codes_by = 1 - 2**bits, 2**bits - 1, 2

    def chain(self, x: Tensor, index: Tensor | None) -> tuple:
        return grids.even, x, self.bits, self.rows
