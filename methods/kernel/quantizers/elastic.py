"""A learned step down to one bit, as BiT binarizes activations."""

from torch import Tensor

from methods.common.options import Bits
from methods.kernel.quantizers.gradients import Scaled
from methods.kernel.quantizers.learned import Step


class Elastic(Step):
    """BiT's elastic step (Liu et al. 2022, arXiv 2205.13016; its code: transformer/utils_quant.py).

    Signed at one bit: two levels, plus and minus the step. The step's gradient is that of its product with the sign, over
    all numbers; those beyond the step pass none on. Unsigned at one bit: zero and the step. Otherwise as `Step`, where
    unsigned numbers count from the tensor's minimum. The start is 2 E|x| / sqrt(Qp), twice that for unsigned tensors.

    Zero counts as positive, so that there are two levels; the code's sign of zero is a third one.
    """

    kind = "elastic"

    def __init__(self, bits: Bits, signed: bool = True):
        super().__init__(bits, signed, shifted=not signed and bits > 1, count="batch")
        self.one_sided = not signed

    def differentiable(self, x: Tensor, values: Tensor) -> Tensor:
        if self.codes_by == 1:
            return super().differentiable(x, values)
        return Scaled.apply(x, self.positive(), values, self.counted(x) ** -0.5)
