"""SIGTERM and Ctrl-C ask a run to leave: it writes a checkpoint at the next safe point and ends within seconds."""

import signal

EXIT_CODE = 143  # 128 + SIGTERM, what a shell reports of a process that SIGTERM ended
_asked = False


class Interrupted(Exception):
    """The run was asked to leave; its progress is in its checkpoint."""


def listen() -> None:
    signal.signal(signal.SIGTERM, _note)
    signal.signal(signal.SIGINT, _note)


def asked() -> bool:
    return _asked


def check() -> None:
    if _asked:
        raise Interrupted


def _note(number, frame) -> None:
    global _asked
    _asked = True
