"""Levels without a step: signs, and truth values of attention scores, as BiBERT binarizes activations."""

from torch import Tensor

from methods.kernel import grids
from methods.kernel.quantizers import Quantizer
from methods.kernel.quantizers.gradients import Straight


class _Fixed(Quantizer):
    """Levels that are known beforehand. Gradients pass between -1 and 1, and at these bounds where they are `included`."""

    bits = 1
    included = False

    @property
    def by_rows(self) -> bool:
        return True

    def differentiable(self, x: Tensor, values: Tensor) -> Tensor:
        return Straight.apply(x, values, 1.0, self.included)


class Sign(_Fixed):
    """-1 and 1 (BiBERT, Qin et al. 2022, arXiv 2203.06390; its code: transformer/utils_quant.py).

    Zero counts as positive. With `third` it stays zero, as in the code: sums of signs often are zero, and a third level is
    more than one bit. `included` says whether -1 and 1 themselves get a gradient, as sums of signs often are these too: they
    do in the code before a linear map, and not at queries, keys and values, which never are.
    """

    kind = "sign"

    def __init__(self, third: bool = False, included: bool = True):
        super().__init__()
        self.included, self.third = included, third
        self.bits, self.codes_by = (2, 1) if third else (1, 2)

    def chain(self, x: Tensor, index: Tensor | None) -> tuple:
        return grids.signs, x, self.third


class Bool(_Fixed):
    """1 for what is above zero and 0 for all else (BiBERT's bool function; its code: transformer/modeling_quant.py).

    As the quantizer of attention probabilities it takes the place of softmax, and sees the scores themselves.
    """

    kind = "bool"
    of_scores = True
    codes_from = 0

    def __init__(self):
        super().__init__()

    def chain(self, x: Tensor, index: Tensor | None) -> tuple:
        return grids.positive, x
