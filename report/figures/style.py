"""The style that all figures share: palette, shapes, strokes and helpers.

Colours are Okabe and Ito's (2008); every family has a shape as well, and no text is read as mathematics.
"""

import math

import matplotlib

matplotlib.use("agg")  # draws to files: no window system is needed or looked for
from matplotlib import pyplot

from report.evidence.board import COLOURS, Family

PALETTE = ["#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"]
SHAPES = ["s", "v", "^", "D", "o", "P", "X"]
STROKES = ["-", "--", "-.", ":", (0, (5, 1, 1, 1))]
STYLE = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, so it is the same everywhere
    "font.size": 8,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.titley": 1.0,  # nothing is above the axes that a title would have to avoid: searching for it is slow
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.5,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "legend.frameon": False,
    "svg.hashsalt": "bert-quantization-benchmark",
    "pdf.fonttype": 42,
    "text.parse_math": False,
}
NO_DATE = {"svg": {"Date": None, "Creator": None}, "pdf": {"CreationDate": None, "Creator": None, "Producer": None}}
PANELS = 4  # in a row of small multiples

assert len(PALETTE) == len(SHAPES) == COLOURS


def colour(family: Family) -> str:
    return PALETTE[family.colour]


def shape(family: Family) -> str:
    return SHAPES[family.shape]


def panels(count: int, width: float = 1.6, **options):
    """Return a figure and `count` small multiples in rows of four."""
    rows, columns = math.ceil(count / PANELS), min(count, PANELS)
    size = (width * columns + 1, 1.15 * rows + 0.7)
    figure, grid = pyplot.subplots(rows, columns, figsize=size, squeeze=False, **options)
    cells = list(grid.flat)
    for panel in cells[count:]:
        panel.set_visible(False)
    return figure, cells[:count]


def apart(values: list[float], gap: float) -> list[float]:
    """Return rising values moved up until no two are nearer than `gap`, for labels that do not overlap."""
    moved = []
    for value in values:
        moved.append(max(value, moved[-1] + gap) if moved else value)
    return moved
