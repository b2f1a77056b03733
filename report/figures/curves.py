"""Score on the development set by step on one task: a panel for each method and a line for each seed."""

from collections.abc import Callable, Iterator

from matplotlib.figure import Figure

from report.evidence.board import Board
from report.evidence.comparison import Evidence
from report.figures.style import PALETTE, STROKES, panels
from report.wording import metric_title, short


def drawings(evidence: Evidence, axis: str) -> Iterator[tuple[str, Callable[[], Figure]]]:
    for task in evidence.board.tasks:
        if evidence.board.of_task(task):
            yield f"curves_{task}", lambda task=task: draw(evidence.board, task)


def draw(board: Board, task: str) -> Figure:
    cells = board.of_task(task)
    # Equal panels with equal labels are placed by arithmetic (in inches), which is much faster than a layout engine.
    figure, axes = panels(len(cells), sharex=True, sharey=True)
    width, height = figure.get_size_inches()
    figure.subplots_adjust(0.5 / width, 0.45 / height, 1 - 0.1 / width, 1 - 0.25 / height, wspace=0.1, hspace=0.4)
    for panel, cell in zip(axes, cells, strict=True):
        for number, seed in enumerate(cell["measured"]["seeds"]):
            if points := seed["curve"]["dev"]:
                stroke, colour = STROKES[number % len(STROKES)], PALETTE[1 + number % (len(PALETTE) - 1)]
                panel.plot(*zip(*points, strict=True), linestyle=stroke, color=colour, linewidth=0.8)
        panel.set_title(short(board.title(cell["request"]["method"])), fontsize=6)
        panel.tick_params(labelsize=5)
    axes[0].locator_params(nbins=4)  # shared by all
    figure.supxlabel("Step", fontsize=7)
    figure.supylabel(f"{board.task_title(task)}, {metric_title(cells[0]['measured']['metric'])}", fontsize=7)
    return figure
