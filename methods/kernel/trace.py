"""A trace: what a forward pass hands down to the modules of a model, and what these show of themselves.

A module's own arguments say little: a linear map sees its input and neither the token ids nor the padding. While
`tracing(...)` is open, `current()` returns the trace of the pass that runs, so that a layer can route by token id, a
quantizer can leave padding out of its statistics, and any module can show a tensor to the objective.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass
class Trace:
    """One forward pass over one micro-batch.

    `wanted` names what the objective reads; a module that could show something else need not compute it. `total` is the
    number of real tokens in the whole batch, over all micro-batches and devices, or None outside training.
    """

    ids: Tensor  # (B, S) token ids
    mask: Tensor  # (B, S) 1 for real tokens, 0 for padding
    wanted: frozenset[str] = frozenset()
    total: int | None = None
    logits: tuple[Tensor, ...] = ()  # (B, labels) once, or (B, S) twice for spans
    shown: dict[str, list[Tensor]] = field(default_factory=dict)

    def show(self, name: str, tensor: Tensor) -> None:
        """Append a tensor to what modules showed under `name`, in the order of the forward pass."""
        if name in self.wanted:
            self.shown.setdefault(name, []).append(tensor)

    @property
    def lengths(self) -> Tensor:
        """Real tokens of each example, (B,)."""
        return self.mask.sum(1)


_current: Trace | None = None


def current() -> Trace | None:
    """The trace of the forward pass that runs now; None outside `tracing`."""
    return _current


@contextlib.contextmanager
def tracing(trace: Trace) -> Iterator[Trace]:
    """Let the modules that run inside see `trace`. Passes may nest; each sees its own."""
    global _current
    outer, _current = _current, trace
    try:
        yield trace
    finally:
        _current = outer


def real_features(x: Tensor, pairs: bool = False) -> Tensor:
    """Return how many numbers of each example belong to real tokens, (B,).

    Tokens lie along the last dimension but one, and along the last too where `pairs` is set (attention probabilities). A
    tensor of two dimensions has one row an example and no tokens. Without a trace every position counts as real.
    """
    per_example = torch.full((len(x),), float(x[0].numel()), device=x.device)
    trace = current()
    if trace is None or x.dim() < 3 or len(x) != len(trace.mask) or x.shape[-2] != trace.mask.shape[1]:
        return per_example
    share = trace.lengths / trace.mask.shape[1]  # (B,)
    return per_example * (share.square() if pairs else share)
