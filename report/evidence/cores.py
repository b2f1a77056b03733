"""Parallel map by forked processes, which inherit all data, so that none has to be sent to them."""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context

from methods.common.errors import UserError

_shared: tuple[Callable, Sequence] | None = None  # function and items that the forked processes inherit


def on_all_cores(work: Callable, items: Sequence) -> Iterator:
    """Yield `map(work, items)`, by one process where forking is unsafe and within a process that was forked here."""
    global _shared
    workers = min(len(os.sched_getaffinity(0)), len(items)) if sys.platform == "linux" else 1
    if workers < 2 or _shared:
        yield from map(work, items)
        return
    _shared = work, items
    try:
        with ProcessPoolExecutor(workers, mp_context=get_context("fork")) as pool:
            yield from pool.map(_do, range(len(items)))
    except BrokenProcessPool:
        raise UserError("A process of the report was killed, perhaps for lack of memory: free some and try again.") from None
    finally:
        _shared = None


def _do(number: int):
    work, items = _shared
    return work(items[number])
