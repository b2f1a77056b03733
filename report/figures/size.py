"""Quality against cost on a logarithmic axis, close up, with the Pareto front: for each suite's average and for each task.

The places of points and names are those of `report.scatter`, in typographic points: the page draws the same.
"""

import math
from collections.abc import Callable, Iterable, Iterator

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from report.evidence.board import Family
from report.evidence.comparison import Evidence
from report.evidence.points import Cloud, axis_of, cloud
from report.figures.style import colour, pyplot, shape
from report.labels import Box
from report.scatter import Canvas, Layout, layout

WIDTH = 461  # of the figure, in points, as all lengths here
CANVAS = Canvas(Box(32, 20, WIDTH - 8, 220), text=6, radius=2.6)
BELOW = 32  # the ticks and the name of the axis of cost
LEGEND = 12  # of a row of the legend
COLUMNS = 4  # of the legend
ALIGNED = {"start": "left", "middle": "center", "end": "right"}


def drawings(evidence: Evidence, axis: str) -> Iterator[tuple[str, Callable[[], Figure]]]:
    yield from against(evidence, axis, "size")


def against(evidence: Evidence, axis: str, prefix: str) -> Iterator[tuple[str, Callable[[], Figure]]]:
    """Yield a plot for each suite's average and for each task that has points."""
    board = evidence.board
    averaged = {f"average_{suite.name}": board.averaged_of(suite) for suite in board.suites}
    scopes = {name: tasks for name, tasks in averaged.items() if len(tasks) > 1}
    scopes |= {task: [task] for task in board.tasks}
    for name, tasks in scopes.items():
        points = cloud(evidence, tasks, axis_of(board, axis))
        if points.points:
            yield f"{prefix}_{name}", lambda points=points: draw(points)


def draw(points: Cloud) -> Figure:
    families = sorted({point.family for point in points.points}, key=lambda family: family.number)
    frame, legend = CANVAS.frame, LEGEND * math.ceil(len(families) / COLUMNS)
    figure = pyplot.figure(figsize=(WIDTH / 72, (frame.bottom + BELOW + legend) / 72))
    axes = place_axes(figure, frame)
    plot(axes, layout(points, CANVAS, close=True))
    axes.set(title=points.title, xlabel=f"{points.axis.label} ({points.axis.unit})", ylabel=points.quality)
    add_legend(figure, families)
    return figure


def place_axes(figure: Figure, frame: Box) -> Axes:
    """Return axes at the frame's place whose data are lengths in points from the figure's upper left corner."""
    width, height = 72 * figure.get_size_inches()
    size = ((frame.right - frame.left) / width, (frame.bottom - frame.top) / height)
    axes = figure.add_axes((frame.left / width, 1 - frame.bottom / height, *size))
    axes.set(xlim=(frame.left, frame.right), ylim=(frame.bottom, frame.top))
    return axes


def plot(axes: Axes, found: Layout) -> None:
    """Draw a layout into axes of its frame."""
    frame, radius = found.canvas.frame, found.canvas.radius
    axes.set_xticks(*zip(*found.columns, strict=True))
    axes.set_yticks(*zip(*found.rows, strict=True))
    for edge in (found.floor, found.ceiling):
        if edge not in (frame.bottom, frame.top):
            axes.axhline(edge, color="#666666", linewidth=0.6, linestyle=(0, (8, 3)), zorder=1)
    if found.reference is not None:
        axes.axhline(found.reference, color="#666666", linewidth=0.7, linestyle=":", zorder=1)
    if found.stairs:
        axes.plot(*zip(*found.stairs, strict=True), color="#888888", linewidth=0.9, linestyle="--", zorder=1)
    for mark in found.marks:
        ink, hollow = colour(mark.point.family), mark.point.diverged or not mark.point.comparable
        if mark.bar:
            axes.plot([mark.x] * 2, mark.bar, color=ink, linewidth=0.8, zorder=2)
        sign = {"color": ink, "clip_on": False, "zorder": 3}
        face = "white" if hollow else ink
        axes.plot(mark.x, mark.y, shape(mark.point.family), markersize=2 * radius, markerfacecolor=face, **sign)
        if mark.beyond:
            arrow = "^" if mark.beyond > 0 else "v"
            axes.plot(mark.x, mark.y - 1.9 * radius * mark.beyond, arrow, markersize=radius, markeredgewidth=0, **sign)
        if mark.place:
            _write_name(axes, mark, found.canvas.text)


def _write_name(axes: Axes, mark, size: float) -> None:
    box, leader = mark.place.box, mark.place.leader
    if leader:
        axes.plot(leader[::2], leader[1::2], color="#888888", linewidth=0.4, zorder=2)
    anchor, x = mark.written_at
    looks = {"fontsize": size, "color": "#000000" if mark.point.on_front else "#555555", "zorder": 4}
    halo = [withStroke(linewidth=1.5, foreground="white")]  # a line under a name does not strike it through
    height = (box.top + box.bottom) / 2
    axes.text(x, height, mark.text, ha=ALIGNED[anchor], va="center_baseline", path_effects=halo, **looks)


def add_legend(figure: Figure, families: Iterable[Family]) -> None:
    marks = [
        pyplot.Line2D([], [], linestyle="", marker=shape(family), color=colour(family), markersize=5, label=family.title)
        for family in families
    ]
    figure.legend(handles=marks, loc="lower center", ncols=COLUMNS, fontsize=7, borderaxespad=0.2)
