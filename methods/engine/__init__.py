"""The packed engine: inference on packed weights in C, without torch."""

from pathlib import Path

from methods.common.errors import UserError

MOST_THREADS = 256  # more help nobody


class Unsupported(UserError):
    """The engine cannot run this model; the message says why."""


class NoCompiler(UserError):
    """The engine cannot be built or loaded here; the message says what to do."""


def open_session(path: Path, threads: int | None = None, kernels: str | None = None):
    """Return a session that runs a model file. `threads`: all cores by default; `kernels`: an instruction set."""
    from methods.engine.session import Session

    return Session(path, threads, kernels)
