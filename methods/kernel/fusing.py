"""Element-wise chains in one pass over memory: compiled where that was switched on, the same chain in eager mode elsewhere.

Compiling a chain costs seconds once for a machine (torch's cache on disk is shared by all runs), so it is switched on only
for runs that are long enough to win it back; see `methods/core/speed.py` for the decision.
"""

import functools
from collections.abc import Callable

import torch

_on = False


def switch(on: bool) -> None:
    """Compile the chains of this process from now on, or stop doing so."""
    global _on
    _on = on
    if on:  # all chains of one kind share their code, which torch would otherwise stop specialising after eight variants
        torch._dynamo.config.recompile_limit = 256


def fused(chain: Callable) -> Callable:
    """`chain`, compiled on its first use after `switch(True)`; both ways give equal numbers but for sums' order."""
    compiled = None

    @functools.wraps(chain)
    def call(*arguments):
        nonlocal compiled
        if not _on:
            return chain(*arguments)
        compiled = compiled or torch.compile(chain, dynamic=True, fullgraph=True)
        return compiled(*arguments)

    return call
