"""What the benchmarks share: shapes of models, lengths of rows, and contenders that take turns.

No torch here: the memory of a contender is measured in a process that loads nothing else.
"""

import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from methods.tasks.data import Split, pack

SIZES = {
    "tiny": {"num_hidden_layers": 4, "hidden_size": 256, "num_attention_heads": 4, "intermediate_size": 1024},
    "minilm": {"num_hidden_layers": 6, "hidden_size": 384, "num_attention_heads": 12, "intermediate_size": 1536},
    "base": {"num_hidden_layers": 12, "hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072},
}
VOCABULARY = 30522
# Tokens of MRPC's training pairs under BERT's vocabulary: the shortest, every twentieth of the way, the longest.
MRPC = (19, 32, 36, 39, 41, 44, 45, 47, 50, 51, 53, 55, 57, 59, 61, 62, 64, 67, 70, 74, 103)


def mrpc_lengths(places: Iterable[float]) -> np.ndarray:
    """Return MRPC's lengths at these places between 0, the shortest, and 1, the longest."""
    return np.interp(list(places), np.linspace(0, 1, len(MRPC)), MRPC).round().astype(int)


def random_rows(lengths: Iterable[int], vocabulary: int, seed: int = 1, **rest) -> Split:
    """Return rows of random words of these lengths, their second text in the second half."""
    random = np.random.default_rng(seed)
    rows = [list(random.integers(vocabulary // 30, vocabulary, length)) for length in lengths]
    return pack(rows, [len(row) // 2 for row in rows], **rest)


def alternate(
    contenders: dict[str, Callable[[int], object]], rounds: int, least: float = 0.0, pause: float = 0.0
) -> dict[str, list[float]]:
    """Return the seconds of a call of each contender in each of `rounds` rounds. Each is called with its round's number.

    In a round every contender has one turn. A turn lasts at least `least` seconds: fast contenders are called repeatedly,
    and the mean counts. `pause` seconds before each turn let the threads of the contender before fall asleep. Round 0
    compiles and loads what there is to compile and load, untimed.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds + 1):
        for name, call in contenders.items():
            time.sleep(pause)
            seconds[name].append(_turn(call, number, least))
    return {name: times[1:] for name, times in seconds.items()}


def _turn(call: Callable[[int], object], number: int, least: float) -> float:
    calls, started = 0, time.perf_counter()
    while True:
        call(number)
        calls, passed = calls + 1, time.perf_counter() - started
        if passed >= least:
            return passed / calls


class OtherWork:
    """The processor cores that other processes keep busy, on average since this object was made or last asked."""

    def __init__(self):
        self._before = self._sample()

    def cores(self) -> float | None:
        """Return their number; None where the system does not tell."""
        before, self._before = self._before, self._sample()
        if before is None or self._before is None:
            return None
        passed, busy, own = (now - then for now, then in zip(self._before, before, strict=True))
        return max(0.0, (busy - own) / passed) if passed else 0.0

    @staticmethod
    def _sample() -> tuple[float, float, float] | None:
        """Return the clock, the seconds that all cores have worked, and the seconds of this process and its children."""
        try:
            ticks = [int(word) for word in Path("/proc/stat").read_text(encoding="utf-8").splitlines()[0].split()[1:]]
        except (OSError, ValueError, IndexError):
            return None  # not Linux
        idle = ticks[3] + ticks[4]  # waiting for a disk is idle too
        guests = sum(ticks[8:10])  # counted among the user's already
        return time.monotonic(), (sum(ticks) - idle - guests) / os.sysconf("SC_CLK_TCK"), sum(os.times()[:4])
