"""Placement of labels beside the points of a plot: no label overlaps another one, a point or the frame.

Coordinates are pixels (or typographic points of a figure) that grow to the right and downwards. Every label is tried at a
fixed list of places around its point, nearest first; a label without a free place is left out.
"""

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

SIDES = np.array(  # from the point; the earlier of equally near places is taken
    [(1, 0), (1, -1), (1, 1), (0, -1), (0, 1), (-1, 0), (-1, -1), (-1, 1)]
    + [(x, y) for share in (0.5, 0.25, 0.75) for x in (1, -1) for y in (-share, share)]
    + [(x, y) for share in (0.5, 0.25, 0.75) for y in (-1, 1) for x in (share, -share)],
    float,
)
GAP = 2.5  # between a point's edge and the label beside it
STEPS = (0, 6, 13, 21, 30, 40, 52, 66, 82, 100, 120, 145)  # how much farther than beside the point a label may be
SIDE_COST = 0.25  # of a later side, in pixels of distance
CROSSING_COST = 0.5  # of each pixel of a line under the label
LEADER_COST = 12  # of a line that a leader crosses
ALIGNED = np.where(np.abs(SIDES) < 0.6, 0.0, np.sign(SIDES))  # 0: the label is centred on the leader's end
REACH = 0.22  # of the frame's width: a name at the end of a longer leader is hard to find
RETRIES = 2
LEADER_SAMPLES = np.linspace(0.0, 1.0, 9)

LETTERS = {"ijl|.,:;'!I ()[]/ftr-": 0.42, "mwMWQ@%&": 0.98}  # widths in the font's size, of DejaVu Sans or narrower fonts
WIDTHS = {letter: width for letters, width in LETTERS.items() for letter in letters}


class Box(NamedTuple):
    left: float
    top: float
    right: float
    bottom: float

    @classmethod
    def around(cls, x: float, y: float, radius: float) -> "Box":
        return cls(x - radius, y - radius, x + radius, y + radius)


@dataclass(frozen=True)
class Label:
    """A label to place: its point, and its sizes (width, height), of which the first that finds a place is taken."""

    x: float
    y: float
    radius: float
    sizes: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Place:
    """Where a label is: `size` numbers the size taken, `leader` is a line from the point's edge to the label."""

    size: int
    box: Box
    leader: tuple[float, float, float, float] | None


def place(labels: Sequence[Label], frame: Box, points: Sequence[Box] = (), lines: Sequence[Box] = ()) -> list[Place | None]:
    """Return a place for each label, or None; earlier labels matter more.

    `points` are never covered; the labels' own points need not be among them. `lines` (thin boxes) are avoided where
    another place is about as near. Labels that found no place choose first in another try, which counts if it loses no
    label that matters more.
    """
    solid = np.array([*points, *(Box.around(label.x, label.y, label.radius) for label in labels)], float).reshape(-1, 4)
    lines = np.array(lines, float).reshape(-1, 4)
    order = range(len(labels))
    best = _in_turn(labels, order, frame, solid, lines)
    for _ in range(RETRIES):
        missing = [number for number in order if best[number] is None]
        if not missing:
            break
        order = [*missing, *(number for number in order if best[number] is not None)]
        other = _in_turn(labels, order, frame, solid, lines)
        best = max(best, other, key=lambda places: [one is not None for one in places])  # the first of equals
    return best


def _in_turn(
    labels: Sequence[Label], order: Iterable[int], frame: Box, solid: np.ndarray, lines: np.ndarray
) -> list[Place | None]:
    """Return the labels' places where each takes, in this order, the best one that is left."""
    places = [None] * len(labels)
    for number in order:
        label = labels[number]
        found = (_nearest(label, size, frame, solid, lines) for size in range(len(label.sizes)))
        if taken := next(filter(None, found), None):
            solid, lines = np.vstack([solid, taken.box]), np.vstack([lines, _along(taken.leader)])
        places[number] = taken
    return places


def text_width(text: str, size: float) -> float:
    """Return an upper estimate of a text's width in a sans-serif font."""
    return size * sum(map(_letter_width, text))


def _letter_width(letter: str) -> float:
    if letter in WIDTHS:
        return WIDTHS[letter]
    if not letter.isascii():
        return 1.0 if unicodedata.east_asian_width(letter) in "WF" else 0.85
    return 0.75 if letter.isupper() else 0.66


def _nearest(label: Label, number: int, frame: Box, solid: np.ndarray, lines: np.ndarray) -> Place | None:
    """Return the free place of least cost: its distance, its side and the lines that it crosses."""
    best, least = None, np.inf
    own = np.array([Box.around(label.x, label.y, label.radius)])
    others = solid[~_overlap(solid, own)[:, 0]]  # a leader may start within what lies on its own point
    for step in STEPS:
        if step >= least or step > REACH * (frame.right - frame.left):
            break
        starts, ends, boxes = _candidates(label, label.sizes[number], step)
        sides = np.flatnonzero((boxes[:, :2] >= frame[:2]).all(1) & (boxes[:, 2:] <= frame[2:]).all(1))
        sides = sides[~_overlap(boxes[sides], solid).any(1)]
        samples = starts[:, None] + LEADER_SAMPLES[None, :, None] * (ends - starts)[:, None]
        if step:
            sides = sides[~_contain(others, samples[sides])]
        if not len(sides):
            continue
        cost = step + SIDE_COST * sides + CROSSING_COST * _crossed(boxes[sides], lines)
        if step:
            cost += LEADER_COST * _contain(lines, samples[sides])
        side = sides[cost.argmin()]
        if cost.min() < least:
            leader = tuple(map(float, (*starts[side], *ends[side]))) if step else None
            best, least = Place(number, Box(*map(float, boxes[side])), leader), cost.min()
    return best


def _candidates(label: Label, size: tuple[float, float], step: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the leaders' starts and ends and the labels' boxes of all sides at one distance."""
    point = np.array([label.x, label.y])
    ends = point + SIDES * (label.radius + GAP + step)
    corners = ends + (ALIGNED - 1) / 2 * np.array(size)
    return point + SIDES * label.radius, ends, np.hstack([corners, corners + np.array(size)])


def _overlap(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return which boxes (rows) overlap which others (columns); touching edges do not overlap."""
    return (boxes[:, None, :2] < others[None, :, 2:]).all(2) & (boxes[:, None, 2:] > others[None, :, :2]).all(2)


def _crossed(boxes: np.ndarray, lines: np.ndarray) -> np.ndarray:
    """Return the length of all lines within each box: a line along a text is worse than one across it."""
    ends = np.minimum(boxes[:, None, 2:], lines[None, :, 2:]) - np.maximum(boxes[:, None, :2], lines[None, :, :2])
    return np.where((ends > 0).all(2), ends.max(2), 0.0).sum(1)


def _contain(boxes: np.ndarray, samples: np.ndarray) -> np.ndarray:
    """Return for each row of samples (candidates, samples, 2) whether any of them is in any box."""
    return ((samples[:, :, None] > boxes[:, :2]) & (samples[:, :, None] < boxes[:, 2:])).all(3).any((1, 2))


def _along(leader: tuple[float, float, float, float] | None) -> np.ndarray:
    """Return small boxes along a leader, which later labels avoid as they avoid lines."""
    if leader is None:
        return np.empty((0, 4))
    start, end = np.array(leader).reshape(2, 2)
    samples = start + LEADER_SAMPLES[:, None] * (end - start)
    return np.hstack([samples - 1, samples + 1])
