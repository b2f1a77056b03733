"""Quantization error: a panel for each method, a row for each matrix, a column for each layer."""

import math
from collections.abc import Callable, Iterator

from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from report.evidence.board import Board
from report.evidence.comparison import Evidence
from report.figures.style import panels
from report.wording import short


def drawings(evidence: Evidence, axis: str) -> Iterator[tuple[str, Callable[[], Figure]]]:
    if errors := _errors(evidence.board):
        yield "errors", lambda: draw(evidence.board, errors)


def _errors(board: Board) -> dict[str, list[dict]]:
    """Return method -> errors by layer and matrix, on its first task that has them."""
    errors = {}
    for method in board.methods:
        measured = [cell["measured"].get("quantization_error") for cell in board.of_method(method)]
        if first := next(filter(None, measured), None):
            errors[method] = first
    return errors


def draw(board: Board, errors: dict[str, list[dict]]) -> Figure:
    figure, axes = panels(len(errors), width=2.3, layout="constrained")
    figure.get_layout_engine().set(h_pad=0.12)  # room for the panels' names, which must not narrow the panels
    sizes = [entry["error"] for of in errors.values() for entry in of if entry["error"]]
    scale = LogNorm(min(sizes), max(sizes)) if sizes else None
    for panel, (method, of) in zip(axes, errors.items(), strict=True):
        matrices = list(dict.fromkeys(entry["matrix"] for entry in of))
        layers = sorted({entry["layer"] for entry in of})
        grid = [[math.nan] * len(layers) for _ in matrices]
        for entry in of:
            grid[matrices.index(entry["matrix"])][layers.index(entry["layer"])] = entry["error"]
        picture = panel.imshow(grid, cmap="cividis", norm=scale, aspect="auto")
        panel.set_title(short(board.title(method)), fontsize=6).set_in_layout(False)
        panel.set_xticks(range(len(layers)), layers, fontsize=4)
        panel.set_yticks(range(len(matrices)), matrices, fontsize=4)
        panel.grid(False)
    bar = figure.colorbar(picture, ax=axes, shrink=0.8, format=FuncFormatter(lambda value, _: f"{value:g}"))
    bar.set_label("squared error / squared weights", fontsize=6)
    bar.ax.tick_params(labelsize=6)
    return figure
