"""A trace: what a forward pass hands down to the modules of a model, and what these show of themselves.

A module's own arguments say little: a linear map sees its input and neither the token ids nor the padding. While
`tracing(...)` is open, `current()` returns the trace of the pass that runs, so that a layer can route by token id, a
quantizer can leave padding out of its statistics, and any module can show a tensor to the objective.
"""

import contextlib
import functools
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass
class Trace:
    """One forward pass over one micro-batch.

    `wanted` names what the objective reads; a module that could show something else need not compute it. `total` is the
    number of real tokens in the whole batch, over all micro-batches and devices, or None outside training. `continues` says
    that an earlier micro-batch of the same batch went through the same model.
    """

    ids: Tensor  # (B, S) token ids
    mask: Tensor  # (B, S) 1 for real tokens, 0 for the padding behind them
    wanted: frozenset[str] = frozenset()
    total: int | None = None
    continues: bool = False
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

    @functools.cached_property
    def real(self) -> Tensor | None:
        """Return which tokens are real, (B, S); None where all are."""
        real = self.mask != 0
        return None if bool(real.all()) else real


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


# Tokens lie along the last dimension but one of a tensor, and along the last too where `pairs` is set (attention
# probabilities). A tensor of two dimensions has one row an example and no tokens.


def real(x: Tensor, pairs: bool = False, rows: bool = False) -> Tensor | None:
    """Return which numbers of `x` belong to real tokens, broadcastable to it; None for all, as without a trace.

    `rows` asks within each row of the last dimension only: which keys are real, and None where a row is one token's.
    """
    trace = current()
    if (rows and not pairs) or not _has_tokens(x) or trace.real is None:
        return None
    examples, tokens = trace.real.shape
    between = (1,) * (x.dim() - 3)  # heads
    queries, keys = trace.real.view(examples, *between, tokens, 1), trace.real.view(examples, *between, 1, tokens)
    if not pairs:
        return queries
    return keys if rows else queries & keys


def real_numbers(x: Tensor, pairs: bool = False) -> Tensor:
    """Return the numbers of `x` that belong to real tokens: `x` itself, or a flat tensor where there is padding."""
    where = real(x, pairs)
    return x if where is None else x[where.expand_as(x)]


def real_features(x: Tensor, pairs: bool = False) -> Tensor:
    """Return how many numbers of each example belong to real tokens, (B,). Without a trace every position counts as real."""
    per_example = torch.full((len(x),), float(x[0].numel()), device=x.device)
    if not _has_tokens(x):
        return per_example
    trace = current()
    share = trace.lengths / trace.mask.shape[1]  # (B,)
    return per_example * (share.square() if pairs else share)


def _has_tokens(x: Tensor) -> bool:
    """Return whether `x` is laid out as the tokens of the pass that runs now."""
    trace = current()
    return trace is not None and x.dim() > 2 and (len(x), x.shape[-2]) == tuple(trace.mask.shape)
