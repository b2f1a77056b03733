"""What calls cost by the shape of their batch, and what a run of one kind costs in all.

Costs grow with tokens, and faster with the width of a batch, in which attention is square: a few shapes of batches give
three numbers for each cost.
"""

import dataclasses
from dataclasses import dataclass

import numpy as np

HOOKS = (10, 20)  # steps of the two short stages in which a hook's work is counted


@dataclass(frozen=True)
class Cost:
    """Seconds of a call: a fixed part, and parts that grow with its tokens and with tokens times width."""

    fixed: float
    per_token: float
    per_token_and_width: float = 0.0

    def of(self, tokens: float, width: float) -> float:
        return self.fixed + self.per_token * tokens + self.per_token_and_width * tokens * width


@dataclass(frozen=True)
class Hook:
    """The seconds that a method works between steps."""

    every_step: float
    event: float  # seconds of a time that it does more
    events: tuple[int, int]  # how often it does in stages of HOOKS steps
    batches: int = 0  # of training rows that it reads each time, at most
    batch_rows: int = 1
    per_token: float = 0.0  # seconds for each of their tokens

    def of(self, steps: int, rows: int, width: float) -> float:
        """Return the seconds in a stage of so many steps on so many rows."""
        short, longer = HOOKS
        each = (self.events[1] - self.events[0]) / (longer - short)
        events = max(0.0, self.events[1] + each * (steps - longer))
        batches = min(self.batches, -(-rows // self.batch_rows))
        return self.every_step * steps + events * (self.event + self.per_token * batches * self.batch_rows * width)


@dataclass(frozen=True)
class Costs:
    """All that a kind of run costs."""

    setup: Cost  # of the tokens of a row: methods that look at rows before they train take longer where these are long
    steps: tuple[Cost, ...]  # of each stage
    hooks: tuple[Hook | None, ...]
    look: Cost  # at rows of the dev set, in the precision of training
    score: Cost  # the same in full precision
    allocation: float
    write: float
    read: float
    file_bytes: int
    latent_bytes: int
    memory: Cost  # bytes of tokens in place of seconds
    kept: tuple[float, float, float] = (0.0, 0.0, 0.0)  # bytes of what the teacher shows of a row, by powers of its tokens


def fitted(times: dict[tuple[int, int], float]) -> Cost:
    """Return the cost that these times of (rows, width) fit best, with no negative part."""
    from scipy.optimize import nnls

    shapes = list(times)
    terms = [[1.0, rows * width, rows * width * width][: len(shapes)] for rows, width in shapes]
    scaled = np.asarray(terms) / np.asarray([times[shape] for shape in shapes])[:, None]  # relative errors count alike
    weights = np.abs(scaled).max(0)
    found, _ = nnls(scaled / weights, np.ones(len(shapes)))
    return Cost(*map(float, found / weights))


def between(first: Cost, last: Cost, share: float) -> Cost:
    """Return the cost that lies so far on the way from one to another."""
    pairs = zip(dataclasses.astuple(first), dataclasses.astuple(last), strict=True)
    return Cost(*((1 - share) * a + share * b for a, b in pairs))
