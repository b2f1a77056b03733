"""Points lost from full precision against size: a panel for each task, all with the same axes."""

import math
from collections.abc import Callable, Iterator

from matplotlib.figure import Figure

from report.evidence.comparison import Evidence
from report.evidence.points import Cloud, axis_of, loss_cloud
from report.figures.size import add_legend, place_axes, plot
from report.figures.style import PANELS, pyplot
from report.labels import Box
from report.scatter import Canvas, Shared, layout

WIDTH, HEIGHT = 112, 104  # of a panel with its title and ticks, in points
INSIDE = Box(22, 16, 108, 88)  # its frame
LEGEND = 40


def drawings(evidence: Evidence, axis: str) -> Iterator[tuple[str, Callable[[], Figure]]]:
    board = evidence.board
    if board.full_precision is None:
        return
    clouds = [loss_cloud(evidence, task, axis_of(board, axis)) for task in board.tasks]
    if shown := [cloud for cloud in clouds if len(cloud.points) > 1]:
        yield "loss_by_task", lambda: draw(shown)


def draw(clouds: list[Cloud]) -> Figure:
    rows, shared = math.ceil(len(clouds) / PANELS), Shared.of(clouds)
    columns = max(min(len(clouds), PANELS), 3)  # room for the names below
    width, height = WIDTH * columns + 16, HEIGHT * rows + LEGEND
    figure = pyplot.figure(figsize=(width / 72, height / 72))
    for number, cloud in enumerate(clouds):
        left, top = 14 + WIDTH * (number % PANELS), 2 + HEIGHT * (number // PANELS)
        frame = Box(left + INSIDE.left, top + INSIDE.top, left + INSIDE.right, top + INSIDE.bottom)
        found = layout(cloud, Canvas(frame, text=6, radius=2, intervals=3, ticks=5, named=False), True, shared)
        axes = place_axes(figure, frame)
        plot(axes, found)
        axes.set_title(cloud.title, fontsize=7)
        axes.set_yticks([y for y, _ in found.rows], [text.removeprefix("\N{MINUS SIGN}") for _, text in found.rows])
        axes.tick_params(labelsize=6)
    axis = clouds[0].axis
    figure.text(4 / width, 0.5, "Points lost from full precision", rotation=90, va="center", fontsize=7)
    figure.text(0.5, (LEGEND - 6) / height, f"{axis.label} ({axis.unit})", ha="center", va="center", fontsize=7)
    add_legend(figure, sorted({point.family for cloud in clouds for point in cloud.points}, key=lambda one: one.number))
    return figure
