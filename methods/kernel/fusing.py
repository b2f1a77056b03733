"""Element-wise chains in one pass over memory: compiled inside `compiled(True)`, the same chain in eager mode elsewhere.

Compiling a chain costs seconds once for a machine (torch's cache on disk is shared by all runs), so it is switched on only
for runs that are long enough to win it back; see `methods/training/compiling.py` for the decision.
"""

import contextlib
import functools
import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

_on = False  # of the whole process, since autograd calls backward from threads of its own


@contextlib.contextmanager
def compiled(on: bool) -> Iterator[None]:
    """Compile the chains of this process inside, or do not; afterwards all is as before."""
    global _on
    before, _on = _on, on
    try:
        if on:  # all chains of one kind share their code, which torch would otherwise stop specialising after eight variants
            torch._dynamo.config.recompile_limit = 256
            _keep_code_by_processor()
        yield
    finally:
        _on = before


def trouble(device: str) -> str | None:
    """Return why nothing can be compiled here, on one line; None where compiling works."""
    try:
        _keep_code_by_processor()
        torch.compile(lambda x: x.abs() + 1, fullgraph=True)(torch.zeros(8, device=device))
    except Exception as error:  # whatever is amiss: there is the eager path
        return str(error).strip().splitlines()[0][:120] if str(error).strip() else type(error).__name__
    return None


def fused(chain: Callable) -> Callable:
    """Return `chain`, compiled on its first use inside `compiled(True)`. Both ways agree but for the order of sums."""
    code = None

    @functools.wraps(chain)
    def call(*arguments):
        nonlocal code
        if not _on:
            return chain(*arguments)
        code = code or torch.compile(chain, dynamic=True, fullgraph=True)
        return code(*arguments)

    return call


def _keep_code_by_processor() -> None:
    """Give torch's cache of compiled code a folder for this processor and for the vectors torch is to use on it.

    torch itself takes up what it finds in its cache, whichever machine put it there. On a disk that several share, code
    for vectors of 16 numbers then computes NaN with vectors of 8, and a run ends as diverged that would have gone well.
    """
    from torch._inductor.runtime.cache_dir_utils import cache_dir  # here, because it takes a second

    able = [value for value in torch.cpu.get_capabilities().items() if isinstance(value[1], (bool, str))]
    tag = hashlib.sha256(repr([torch.backends.cpu.get_cpu_capability(), *sorted(able)]).encode()).hexdigest()[:16]
    folder = Path(cache_dir())
    if folder.name != tag:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder / tag)
