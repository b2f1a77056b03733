"""The layout of a plot of quality against cost, in pixels: the page draws it as SVG, the figures with matplotlib.

In the close-up, methods outside the range stand in a band beyond its edge, with an arrow and their value.
"""

import itertools
import math
from dataclasses import dataclass, replace

from report.evidence.points import Cloud, Point
from report.labels import Box, Label, Place, place, text_width
from report.ticks import log_ticks, round_ticks, tick_text, ticks_within
from report.wording import score, short

ROOM = 10  # points of score that a long interval may extend the axis below the lowest mean
LINE_HEIGHT = 1.25  # of a label, in sizes of its text
MOST_ROWS = 6  # of outliers; further ones share a row


@dataclass(frozen=True)
class Canvas:
    """The inner rectangle of a plot and the sizes of what is drawn in it."""

    frame: Box
    text: float  # size of the labels' text
    radius: float  # of a point
    intervals: int = 6  # about so many steps of the axis of quality
    ticks: int = 9  # at most so many of the axis of cost
    named: bool = True  # whether names are written beside the points

    @property
    def row(self) -> float:
        """Return the height of a row of outliers: a point and its arrow."""
        return 4.4 * self.radius


@dataclass(frozen=True)
class Mark:
    """One point's place. `beyond` is -1 below the range, 1 above it and 0 within."""

    point: Point
    x: float
    y: float
    bar: tuple[float, float] | None
    beyond: int
    texts: tuple[str, ...] = ()  # the label, and a shorter one for want of room
    place: Place | None = None

    @property
    def text(self) -> str | None:
        return self.texts[self.place.size] if self.place else None

    @property
    def written_at(self) -> tuple[str, float]:
        """Return which part of the label is fixed (start, middle or end), and its place: fonts differ in their widths."""
        box = self.place.box
        if box.left >= self.x:
            return "start", box.left
        return ("end", box.right) if box.right <= self.x else ("middle", (box.left + box.right) / 2)


@dataclass(frozen=True)
class Layout:
    canvas: Canvas
    columns: list[tuple[float, str]]  # ticks of the cost
    rows: list[tuple[float, str]]  # ticks of the quality
    floor: float  # the lower edge of the range: below it are outliers
    ceiling: float
    reference: float | None
    stairs: list[tuple[float, float]]
    marks: list[Mark]

    @property
    def has_points(self) -> bool:
        """Return whether any method is within the range."""
        return any(mark.beyond == 0 for mark in self.marks)


@dataclass(frozen=True)
class Shared:
    """What several plots have in common, so that they have the same axes."""

    costs: list[float]
    rows: dict[int, int]  # of outliers, below (-1) and above (1) the range

    @classmethod
    def of(cls, clouds: list[Cloud]) -> "Shared":
        sides = {side for cloud in clouds for side in _sides(cloud, cloud.close_up).values()}
        return cls([point.x for cloud in clouds for point in cloud.points], {side: int(side in sides) for side in (-1, 1)})


def layout(cloud: Cloud, canvas: Canvas, close: bool, shared: Shared | None = None) -> Layout:
    """Return the places of points, bars, names and ticks."""
    frame = canvas.frame
    low, high = cloud.close_up if close else _whole_range(cloud)
    widths = log_ticks(shared.costs if shared else [point.x for point in cloud.points])
    first, last = math.log(widths[0] * 0.9), math.log(widths[-1] * 1.1)

    def x(cost: float) -> float:
        return frame.left + (frame.right - frame.left) * (math.log(cost) - first) / (last - first)

    beyond = _sides(cloud, (low, high))
    rows = _rows_of_outliers(cloud, canvas, beyond, x)
    needed = {side: 1 + max((rows[one] for one in rows if beyond[one] == side), default=-1) for side in (-1, 1)}
    bands = shared.rows if shared else needed
    floor, ceiling = frame.bottom - bands[-1] * canvas.row, frame.top + bands[1] * canvas.row

    def y(quality: float) -> float:
        return floor - (floor - ceiling) * (min(max(quality, low), high) - low) / (high - low)

    marks = []
    for point in cloud.points:
        side = beyond[point.method]
        edge = floor if side < 0 else ceiling
        place_y = edge - side * canvas.row * (rows[point.method] + 0.4) if side else y(point.y)
        bar = (y(point.interval[0]), y(point.interval[1])) if point.interval and not side else None
        marks.append(Mark(point, x(point.x), place_y, bar, side, _texts(point, side)))

    stairs = _stairs([point for point in cloud.points if point.on_front and not beyond[point.method]], x, y, frame)
    reference = None if cloud.reference is None or not low <= cloud.reference <= high else y(cloud.reference)
    if canvas.named:
        marks = _with_names(marks, canvas, _lines(marks, stairs, reference, frame))
    return Layout(
        canvas=canvas,
        columns=[(x(tick), tick_text(tick)) for tick in _thinned(widths, canvas.ticks)],
        rows=[(y(tick), tick_text(tick)) for tick in ticks_within(low, high, canvas.intervals)],
        floor=floor,
        ceiling=ceiling,
        reference=reference,
        stairs=stairs,
        marks=marks,
    )


def _sides(cloud: Cloud, span: tuple[float, float]) -> dict[str, int]:
    """Return for each method whether it is below (-1), within (0) or above (1) a range."""
    low, high = span
    return {point.method: (point.y > high) - (point.y < low) for point in cloud.points}


def _whole_range(cloud: Cloud) -> tuple[float, float]:
    ends = [end for point in cloud.points for end in (point.interval or (point.y, point.y))]
    lowest = max(min(ends), min(point.y for point in cloud.points) - ROOM)
    ticks = round_ticks([lowest, min(max(ends), max(100, *(point.y for point in cloud.points)))])
    return ticks[0], ticks[-1]


def _thinned(ticks: list[float], most: int) -> list[float]:
    """Return the ticks, or the powers of ten alone where they are too many."""
    powers = [tick for tick in ticks if round(math.log10(tick), 6) % 1 == 0]
    return ticks if len(ticks) <= most else powers


def _rows_of_outliers(cloud: Cloud, canvas: Canvas, beyond: dict[str, int], x) -> dict[str, int]:
    """Return a row for each outlier: the first one in which the name before it, if names are written, leaves room."""
    rows, ends = {}, {}
    most = MOST_ROWS if canvas.named else 1
    for point in cloud.points:
        if side := beyond[point.method]:
            free = [row for row in range(most) if ends.get((side, row), -math.inf) < x(point.x) - canvas.radius]
            row = free[0] if free else len(rows) % most
            rows[point.method] = row
            ends[side, row] = x(point.x) + 2 * canvas.radius + text_width(_texts(point, side)[0], canvas.text)
    return rows


def _texts(point: Point, side: int) -> tuple[str, ...]:
    """Return a point's label, and for an outlier, whose value must be written, a shorter one."""
    name = short(point.title)
    return (f"{name}: {score(point.y)}", score(point.y)) if side else (name,)


def _stairs(front: list[Point], x, y, frame: Box) -> list[tuple[float, float]]:
    """Return the corners of the Pareto front, from its cheapest point in the range to the right edge."""
    corners = []
    for point in front:
        corners += [(x(point.x), corners[-1][1])] if corners else []
        corners.append((x(point.x), y(point.y)))
    return [*corners, (frame.right, corners[-1][1])] if corners else []


def _lines(marks: list[Mark], stairs: list[tuple[float, float]], reference: float | None, frame: Box) -> list[Box]:
    """Return the lines that names avoid, as thin boxes."""
    bars = [Box(mark.x - 0.5, mark.bar[1], mark.x + 0.5, mark.bar[0]) for mark in marks if mark.bar]
    steps = [
        Box(min(a, c) - 0.5, min(b, d) - 0.5, max(a, c) + 0.5, max(b, d) + 0.5)
        for (a, b), (c, d) in itertools.pairwise(stairs)
    ]
    return bars + steps + ([] if reference is None else [Box(frame.left, reference - 0.5, frame.right, reference + 0.5)])


def _with_names(marks: list[Mark], canvas: Canvas, lines: list[Box]) -> list[Mark]:
    """Return the marks with places for their names: those of the front choose first, then the outliers."""
    order = sorted(marks, key=lambda mark: (not mark.point.on_front, mark.beyond == 0))
    height = LINE_HEIGHT * canvas.text
    labels = [
        Label(mark.x, mark.y, canvas.radius, tuple((text_width(text, canvas.text), height) for text in mark.texts))
        for mark in order
    ]
    arrows = [
        Box.around(mark.x, mark.y - mark.beyond * 1.5 * canvas.radius, 0.7 * canvas.radius) for mark in marks if mark.beyond
    ]
    places = dict(zip((mark.point.method for mark in order), place(labels, canvas.frame, arrows, lines), strict=True))
    return [replace(mark, place=places[mark.point.method]) for mark in marks]
