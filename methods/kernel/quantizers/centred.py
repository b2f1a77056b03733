"""Two levels on either side of the weights' mean: BiT's weights, and by rows BiBERT's."""

from typing import Literal

from torch import Tensor

from methods.common.options import Positive
from methods.kernel import grids
from methods.kernel.quantizers import Quantizer
from methods.kernel.quantizers.gradients import Centring, Straight


class Centred(Quantizer):
    """Two levels with the sign of the weight less a mean, at the mean magnitude of the weight itself.

    `rows` gives each row a scale of its own. `mean` says whose mean is subtracted: that of the whole tensor (BiT, Liu et al.
    2022, arXiv 2205.13016; its code) or of each row (BiBERT, Qin et al. 2022, arXiv 2203.06390; its code). A weight that
    equals the mean counts as positive.

    The gradient is the identity's (BiT's code). With `clip` it passes where a centred weight is at most `clip`, and then
    through the subtraction of the mean (BiBERT's code, where `clip` is 1).
    """

    kind = "centred"
    only_for_weights = True  # its means are those of all numbers, padding included
    bits = 1
    codes_by = 2

    def __init__(self, rows: bool = False, mean: Literal["tensor", "rows"] = "tensor", clip: Positive | None = None):
        super().__init__()
        self.rows, self.mean, self.clip = rows, mean, clip

    @property
    def by_rows(self) -> bool:
        return self.rows and self.mean == "rows"

    def chain(self, x: Tensor, index: Tensor | None) -> tuple:
        return grids.centred, x, self.rows, self.mean == "rows"

    def differentiable(self, x: Tensor, values: Tensor) -> Tensor:
        if self.clip is None:
            return Straight.apply(x, values, None)
        return Centring.apply(x, values, self.clip, self.mean == "rows")
