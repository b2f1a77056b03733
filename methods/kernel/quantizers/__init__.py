"""The quantizers: modules that put a tensor on a grid and say what its gradient is.

A quantizer is one file here and one test. Every class of this folder's files that sets `kind = "..."` is found, and can be
named in a stanza such as `{kind: step, bits: 4}`: its options are those of its `__init__`, each with a type from
`methods/common/options.py` and a plain default, so that a stanza is checked before anything imports torch.

Every quantizer keeps one law, tested for all of them: `forward(x)` is differentiable and equals `decode(encode(x))` bit
for bit. Learned steps are set by `calibrate` before training, never by a first `forward`: until then they are NaN, so that
a forgotten calibration ends the run.
"""

import importlib
import pkgutil

import torch
from torch import Tensor, nn

from methods.kernel import products, trace
from methods.kernel.grids import Grid
from methods.kernel.quantizers.gradients import Straight


class Quantizer(nn.Module):
    """Puts tensors on a grid. With `rows`, each row of the last dimension has a step of its own."""

    kind: str  # its name in stanzas
    role = ""  # "weights" or "activations", once it has a place in a model
    rows = False
    only_for_weights = False  # a stanza or file that quantizes activations by such a kind is refused
    pairs = False  # set where the last two dimensions are both tokens: attention probabilities
    of_scores = False  # whether, as the quantizer of attention probabilities, it replaces softmax
    bits: int  # of one code, in the papers' count
    codes_from, codes_to, codes_by = -1, 1, 1  # smallest and largest code, and the distance between codes

    def chain(self, x: Tensor, index: Tensor | None) -> tuple:
        """Return the function of `grids` that makes the grid of `x`, and its arguments.

        `index` says which rows of the whole tensor `x` holds, for quantizers that remember something of every row.
        """
        raise NotImplementedError

    @torch.no_grad()
    def encode(self, x: Tensor, index: Tensor | None = None) -> Grid:
        """Return the grid of `x`. Statistics are taken in fp32 whatever the precision of training is."""
        self.refuse_empty(x)
        make, *arguments = self._call(x.float(), index)
        return make(*arguments)

    @torch.no_grad()
    def values(self, x: Tensor, index: Tensor | None = None, dtype: torch.dtype | None = None) -> Tensor:
        """Return `decode(encode(x))`, made in one pass.

        The values come in `x`'s precision, or in `dtype`, that of the product they go into, which saves a cast.
        """
        self.refuse_empty(x)
        make, wanted, *arguments = self._call(x, index)
        if products.are_on_codes():
            return products.with_grid(make(wanted.float(), *arguments), (self.codes_from + self.codes_to + 1) // 2)
        return make.values(wanted, dtype or x.dtype, *arguments)

    def forward(self, x: Tensor, index: Tensor | None = None, dtype: torch.dtype | None = None) -> Tensor:
        return self.attached(x, self.values(x, index, dtype))

    def attached(self, x: Tensor, values: Tensor) -> Tensor:
        """Return `values` with their gradient, and with their grid where they remember one."""
        return products.same_grid(self.differentiable(x, values), values)

    def differentiable(self, x: Tensor, values: Tensor) -> Tensor:
        """Return `values` as a function of `x` and of learned parameters; by default with the identity's gradient (STE)."""
        return Straight.apply(x, values, None)

    def real(self, x: Tensor) -> Tensor | None:
        """Return which numbers of an activation its statistics are taken over, broadcastable to it; None for all of them."""
        measures = self.rows or not self.by_rows
        return trace.real(x, self.pairs, self.rows) if measures and self.role != "weights" else None

    def _call(self, x: Tensor, index: Tensor | None) -> tuple:
        """Return `chain`, with what is real as its last argument where there is padding to leave out."""
        real = self.real(x)
        return self.chain(x, index) if real is None else (*self.chain(x, index), real)

    def calibrate(self, x: Tensor) -> None:
        """Set what is learned or remembered from a sample. Called once for a weight, once a batch for an activation."""
        self.refuse_empty(x)

    def refuse_empty(self, x: Tensor) -> None:
        """Raise ValueError where there is nothing to quantize."""
        if x.numel() == 0:
            raise ValueError(f"{type(self).__name__} cannot quantize an empty tensor (shape {tuple(x.shape)})")

    @property
    def by_rows(self) -> bool:
        """Return whether rows can be quantized apart from one another, with equal values."""
        return self.rows

    @property
    def levels(self) -> int:
        """Number of different codes."""
        return (self.codes_to - self.codes_from) // self.codes_by + 1

    def state(self) -> tuple[int, ...]:
        """Return numbers that change whenever the grid of an unchanged tensor may."""
        return tuple(tensor._version for tensor in (*self.parameters(), *self.buffers()))


def make(spec: dict | None) -> Quantizer | None:
    """Return the quantizer of a stanza such as `{kind: asymmetric, bits: 8}`; None for full precision."""
    if spec is None:
        return None
    options = {key: value for key, value in spec.items() if key != "kind"}
    return KINDS[spec["kind"]](**options)


def _kinds() -> dict[str, type[Quantizer]]:
    """Return every class with a `kind` that a file of this folder defines, by its kind."""
    kinds = {}
    for file in pkgutil.iter_modules(__path__):
        module = importlib.import_module(f"{__name__}.{file.name}")
        for value in vars(module).values():
            if isinstance(value, type) and value.__module__ == module.__name__ and "kind" in vars(value):
                kinds[value.kind] = value
    return kinds


KINDS = _kinds()
globals().update({cls.__name__: cls for cls in KINDS.values()})  # `from methods.kernel.quantizers import Ternary`
