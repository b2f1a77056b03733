"""Work shared out over the cores by forked processes. They inherit everything, so that nothing has to be sent to them."""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context

from report.files import ReportError

_shared: tuple[Callable, Sequence] | None = None  # what the forked processes work on, and on what


def on_all_cores(work: Callable, items: Sequence) -> Iterator:
    """`map(work, items)`; by one process where another system forks unsafely, and within one that was forked here."""
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
        raise ReportError("a process of the report was killed, as for want of memory; free some and try again") from None
    finally:
        _shared = None


def _do(number: int):
    work, items = _shared
    return work(items[number])
