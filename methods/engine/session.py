"""A model file, opened by the engine: token ids in, outputs out."""

import ctypes
import os
import threading
import weakref
from pathlib import Path

import numpy as np

from methods.common.errors import UserError
from methods.engine import MOST_THREADS, Unsupported, abi
from methods.engine.library import library
from methods.engine.plan import Plan
from methods.model import description

KERNELS = "ENGINE_KERNELS"  # the environment variable that forces an instruction set


class Session:
    """A model file, ready to run on the CPU. The rows of one call share what their quantizers take from a batch."""

    def __init__(
        self, path: Path, threads: int | None = None, kernels: str | None = None, engine: ctypes.CDLL | None = None
    ):
        self.path, self.threads = path, min(threads or available_cores(), MOST_THREADS)
        arrays, self.meta = description.read(path)  # first: a file that holds no model needs no engine to be built
        self._library = engine or abi.declare(library())
        plan = Plan(path, arrays, self.meta)
        self._anatomy = plan.anatomy
        wanted = kernels or os.environ.get(KERNELS, "")
        if wanted and wanted not in usable(self._library):
            raise UserError(
                f"There are no kernels {wanted!r:.60} on this machine. There are: {', '.join(usable(self._library))}."
            )
        error = ctypes.create_string_buffer(abi.ERROR)
        self._engine = self._library.engine_open(plan.model, wanted.encode(), self.threads, error, abi.ERROR)
        if not self._engine:
            raise Unsupported(f"{path}: {error.value.decode()}.")
        self._lock = threading.Lock()  # one call at a time, and none while the engine is closed
        self._close = weakref.finalize(self, _close_engine, self._library, self._engine, self._lock, os.getpid())
        self.kernels = self._library.engine_set(self._engine).decode()

    def __call__(self, ids: np.ndarray, ends: np.ndarray, first: np.ndarray) -> list[np.ndarray]:
        """Return each row's outputs: (outputs,), (2, tokens) for spans, (tokens, outputs) for words.

        `ids` (tokens,) holds the rows one after another, `ends` (rows,) says where each ends, and `first` (rows,) how many
        tokens its first segment has.
        """
        if not len(ends):
            return []
        ids, ends = np.ascontiguousarray(ids, np.int32), np.ascontiguousarray(ends, np.int64)
        lengths = np.diff(ends, prepend=0)
        if len(ids) != ends[-1] or lengths.min() < 1:
            raise ValueError("rows stand one after another, each with a token at least")
        places, types = self._places(ids, lengths), self._types(lengths, first)
        of_tokens, outputs = self.meta["head"] != "sequence", self.meta["outputs"]
        out = np.empty((len(ids) if of_tokens else len(ends), outputs), np.float32)
        error = ctypes.create_string_buffer(abi.ERROR)
        tokens = [abi.address(array) for array in (ids, places, types)]
        with self._lock:
            if not self._close.alive:
                raise ValueError("the session is closed")
            if not self._library.engine_run(
                self._engine, *tokens, len(ids), abi.address(ends), len(ends), abi.address(out), error, abi.ERROR
            ):
                raise UserError(f"{self.path}: {error.value.decode()}.")
        if not of_tokens:
            return list(out)
        rows = np.split(out, ends[:-1])
        return [row.T for row in rows] if self.meta["head"] == "span" else rows

    def _places(self, ids: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """The position of every token in the table. RoBERTa counts from behind its padding, and no padding between."""
        starts = np.repeat(np.cumsum(lengths) - lengths, lengths)
        if not self._anatomy.skipped:
            return (np.arange(len(ids)) - starts).astype(np.int32)
        pad = self.meta["config"]["pad_token_id"]
        real = (ids != pad).astype(np.int64)
        before = np.cumsum(real) - real
        counted = np.cumsum(real) - before[starts]
        return (np.where(real, counted, 0) + pad).astype(np.int32)

    def _types(self, lengths: np.ndarray, first: np.ndarray) -> np.ndarray:
        """0 for the tokens of the first segment, 1 for those behind."""
        if not self._anatomy.segments:
            return np.zeros(int(lengths.sum()), np.int32)
        second = np.maximum(lengths - first, 0)
        return np.repeat(np.tile([0, 1], len(lengths)), np.stack([lengths - second, second], 1).reshape(-1)).astype(np.int32)

    @property
    def memory(self) -> int:
        """Bytes that the engine holds: the packed model, and the buffers of the largest batch so far."""
        with self._lock:
            return self._library.engine_memory(self._engine) if self._close.alive else 0

    def close(self) -> None:
        """Let the model go."""
        self._close()

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *_) -> None:
        self.close()


def _close_engine(library: ctypes.CDLL, engine: int, lock: threading.Lock, owner: int) -> None:
    """Close the engine once no call runs in it. A forked child has none of its threads and leaves it to the parent."""
    if os.getpid() == owner:
        with lock:
            library.engine_close(engine)


def usable(engine: ctypes.CDLL) -> list[str]:
    """Return the names of the kernels that this machine can use, best first."""
    return engine.engine_sets().decode().split()


def available_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
