"""Two and three levels at a scale that follows from the weight: TWN, BWN and loss-aware ternarization (LAT)."""

from typing import Literal

import torch
from torch import Tensor

from methods.common.options import Whole
from methods.kernel import grids
from methods.kernel.quantizers import Quantizer


class Ternary(Quantizer):
    """TWN (Li et al. 2016, arXiv 1605.04711): see `grids.ternary`."""

    kind = "ternary"
    bits = 2

    def __init__(self, rows: bool = False):
        super().__init__()
        self.rows = rows

    def chain(self, x: Tensor, index: Tensor | None) -> tuple:
        return grids.ternary, x, self.rows


class Binary(Quantizer):
    """BWN (Rastegari et al. 2016, arXiv 1603.05279): see `grids.binary`."""

    kind = "binary"
    bits = 1
    codes_by = 2

    def __init__(self, rows: bool = False):
        super().__init__()
        self.rows = rows

    def chain(self, x: Tensor, index: Tensor | None) -> tuple:
        return grids.binary, x, self.rows


class LossAware(Quantizer):
    """LAT (Hou & Kwok 2018, arXiv 1802.08635): ternary under the optimizer's curvature, which `watch` takes over.

    The loss is approximated around the latest step, with the diagonal curvature that Adam estimates (its section 3.1).
    """

    kind = "loss_aware"
    bits = 2
    only_for_weights = True  # it follows the optimizer's curvature, which activations do not have

    def __init__(self, rows: bool = False, solver: Literal["approximate", "exact"] = "approximate", iterations: Whole = 10):
        super().__init__()
        self.rows, self.solver, self.iterations = rows, solver, iterations
        self.register_buffer("curvature", None)

    def calibrate(self, x: Tensor) -> None:
        super().calibrate(x)
        self.curvature = torch.ones_like(x)

    @torch.no_grad()
    def watch(self, second_moment: Tensor) -> None:
        """Set d = sqrt(v) + 1e-8, v being Adam's second moment after the latest step. A common factor changes nothing."""
        torch.sqrt(second_moment, out=self.curvature).add_(1e-8)

    def chain(self, x: Tensor, index: Tensor | None) -> tuple:
        curvature = self.curvature if index is None else self.curvature[index]
        if self.solver == "exact":
            return grids.loss_aware_exact, x, curvature, self.rows
        return grids.loss_aware, x, curvature, self.rows, self.iterations
