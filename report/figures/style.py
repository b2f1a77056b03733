"""Figures for papers: SVG and PDF by matplotlib, byte-equal for equal cells, readable in print and without colour vision.

Colours are Okabe and Ito's (2008); every family has a shape as well, and no text is read as mathematics.
"""

import io
import math
from collections.abc import Callable, Iterator

import matplotlib

matplotlib.use("agg")  # draws to files: no window system is needed or looked for
from matplotlib import pyplot
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from report.board import UNAVERAGED, Board
from report.cores import on_all_cores
from report.points import AXES, FAMILY_TITLES, BitLine, Cloud, cloud, drops_by_bits, family
from report.tables import SUITES
from report.wording import metric_title, task_title

COLOURS = ["#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"]
SHAPES = ["s", "v", "^", "D", "o", "P", "X"]
STROKES = ["-", "--", "-.", ":", (0, (5, 1, 1, 1))]
STYLE = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, so it is the same everywhere
    "font.size": 8,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.titley": 1.0,  # nothing stands above the axes that a title would have to avoid: looking for it takes long
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


def figures(board: Board, axis: str = "paper") -> Iterator[tuple[str, dict[str, bytes]]]:
    """(name, {ending: content}) of every figure that the cells have something for."""
    yield from on_all_cores(_draw, list(_drawings(board, axis)))


def _draw(drawing: tuple[str, Callable[[], Figure]]) -> tuple[str, dict[str, bytes]]:
    name, draw = drawing
    with pyplot.style.context(["default", STYLE]):  # whatever this machine's matplotlibrc says
        figure = draw()
        if figure.get_layout_engine():  # once for all files: it takes longer than writing one
            figure.draw_without_rendering()
            figure.set_layout_engine(None)
        contents = {ending: _bytes(figure, ending) for ending in NO_DATE}
        pyplot.close(figure)
    return name, contents


def _bytes(figure: Figure, ending: str) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format=ending, metadata=NO_DATE[ending])
    return file.getvalue()


def _drawings(board: Board, axis: str) -> Iterator[tuple[str, Callable[[], Figure]]]:
    # The slowest first, so that no core still draws one when the others are done.
    if errors := _errors(board):
        yield "errors", lambda: draw_errors(board, errors)
    shown = [task for task in board.tasks if board.of_task(task)]
    for task in shown:
        yield f"curves_{task}", lambda task=task: draw_curves(board, task)
    for task in shown:
        yield f"seeds_{task}", lambda task=task: draw_seeds(board, task)
    glue = [task for task in board.tasks if task in SUITES["glue"][1] and task not in UNAVERAGED]
    scopes = ({"average": glue} if len(glue) > 1 else {}) | {task: [task] for task in board.tasks}
    for name, tasks in scopes.items():
        found = cloud(board, tasks, AXES[axis], board.primary)
        if found.points:
            yield f"size_{name}", lambda found=found: draw_cloud(found)
    if lines := drops_by_bits(board):
        yield "bits", lambda: draw_bits(lines)


def draw_cloud(found: Cloud) -> Figure:
    """Quality against cost on a logarithmic axis, the front drawn as the stairs that no method rises above."""
    figure, axes = pyplot.subplots(figsize=(6.4, 3.4), layout="constrained")
    front = [point for point in found.points if point.on_front]
    axes.step([p.x for p in front], [p.y for p in front], where="post", color="#888888", linewidth=0.9, zorder=1)
    for point in found.points:
        colour = COLOURS[point.family]
        if point.interval:
            axes.plot([point.x] * 2, point.interval, color=colour, linewidth=0.8, zorder=2)
        face = "white" if point.simulated or point.diverged else colour
        axes.plot(point.x, point.y, SHAPES[point.family], color=colour, markerfacecolor=face, markersize=5, zorder=3)
    for number, point in enumerate(front, 1):
        axes.annotate(str(number), (point.x, point.y), (0, 5), textcoords="offset points", fontsize=6, ha="center")
    key = "\n".join(f"{number}  {_short(point.title)}" for number, point in enumerate(front, 1))
    axes.annotate(key, (1.02, 1), xycoords="axes fraction", fontsize=6, va="top", linespacing=1.6)
    _logarithmic(axes)
    axes.set(title=found.title, xlabel=f"{found.axis.label} ({found.axis.unit})", ylabel=found.quality)
    axes.margins(x=0.12)
    shown = sorted({point.family for point in found.points})
    marks = {"linestyle": "", "markersize": 5}
    for number in shown:
        axes.plot([], [], marker=SHAPES[number], color=COLOURS[number], label=FAMILY_TITLES[number], **marks)
    figure.legend(loc="outside lower center", ncols=4, fontsize=7)
    return figure


def _logarithmic(axes) -> None:
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(base=10, subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def draw_bits(lines: list[BitLine]) -> Figure:
    """What each bit is worth: the drop from the teacher, task by task and on average."""
    figure, axes = pyplot.subplots(figsize=(5.2, 3.2), layout="constrained")
    mean, tasks = [line for line in lines if line.mean], [line for line in lines if not line.mean]
    for line in tasks:
        axes.plot(*zip(*line.points, strict=True), color="#bbbbbb", linewidth=0.8)
    heights = [drop for line in tasks for _, drop in line.points]
    starts = sorted((line.points[0][1], line.points[0][0], line.title) for line in tasks)
    places = apart([drop for drop, _, _ in starts], (max(heights) - min(heights)) / 24)
    words = {"textcoords": "offset points", "fontsize": 6, "ha": "right", "va": "center"}
    for (_, bits, title), place in zip(starts, places, strict=True):
        axes.annotate(title, (bits, place), (-5, 0), **words)
    for line in mean:
        axes.plot(*zip(*line.points, strict=True), "o-", color=COLOURS[4], label=line.title)
        axes.legend()
    axes.axhline(0, color="#000000", linewidth=0.6)
    axes.invert_yaxis()
    axes.set(title="KDLSQ-BERT", xlabel="Bits of weights and embeddings", ylabel="Points below the teacher")
    axes.margins(x=0.12)
    return figure


def _short(title: str) -> str:
    """A title that leaves room for the plot."""
    return title if len(title) <= 26 else title[:25] + "…"


def apart(values: list[float], gap: float) -> list[float]:
    """Rising values moved up just so far that no two are nearer than `gap`: labels that do not overlap."""
    moved = []
    for value in values:
        moved.append(max(value, moved[-1] + gap) if moved else value)
    return moved


def draw_seeds(board: Board, task: str) -> Figure:
    """Every seed a dot, the mean a bar, its interval a line: what the table's deviation is made of."""
    cells = board.of_task(task)
    figure, axes = pyplot.subplots(figsize=(5.2, 0.7 + 0.19 * len(cells)), layout="constrained")
    for row, cell in enumerate(cells):
        method = cell["request"]["method"]
        number, scores = family(board, method), board.scores(method, task, board.primary)
        estimate = board.estimate(method, task, board.primary)
        if estimate:
            axes.plot(estimate.interval(), [row, row], color=COLOURS[number], linewidth=0.8)
        axes.plot(
            list(scores.values()), [row] * len(scores), SHAPES[number], color=COLOURS[number], markersize=3.2, alpha=0.75
        )
        if not scores:
            axes.annotate(board.word(method, task), (0.01, row), xycoords=("axes fraction", "data"), fontsize=6, va="center")
    axes.axvline(cells[0]["measured"]["baseline"]["metrics"][cells[0]["measured"]["metric"]], color="#888888", linestyle=":")
    axes.set_yticks(range(len(cells)), [_short(board.title(cell["request"]["method"])) for cell in cells], fontsize=6)
    axes.invert_yaxis()
    axes.set(title=task_title(task), xlabel=f"{metric_title(cells[0]['measured']['metric'])}; dotted: a constant answer")
    return figure


def draw_curves(board: Board, task: str) -> Figure:
    """Score on the development set by step, a panel for each method and a line for each seed."""
    cells = board.of_task(task)
    # Equal panels with equal labels have their places by arithmetic (in inches), which is much faster than by search.
    figure, panels = _panels(len(cells), sharex=True, sharey=True)
    width, height = figure.get_size_inches()
    figure.subplots_adjust(0.5 / width, 0.45 / height, 1 - 0.1 / width, 1 - 0.25 / height, wspace=0.1, hspace=0.4)
    for panel, cell in zip(panels, cells, strict=True):
        for number, seed in enumerate(cell["measured"]["seeds"]):
            if points := seed["curve"]["dev"]:
                stroke, colour = STROKES[number % len(STROKES)], COLOURS[1 + number % (len(COLOURS) - 1)]
                panel.plot(*zip(*points, strict=True), linestyle=stroke, color=colour, linewidth=0.8)
        panel.set_title(_short(board.title(cell["request"]["method"])), fontsize=6)
        panel.tick_params(labelsize=5)
    panels[0].locator_params(nbins=4)  # shared by all
    figure.supxlabel("Step", fontsize=7)
    figure.supylabel(f"{task_title(task)}, {metric_title(cells[0]['measured']['metric'])}", fontsize=7)
    return figure


def _panels(count: int, width: float = 1.6, **options):
    rows, columns = math.ceil(count / PANELS), min(count, PANELS)
    size = (width * columns + 1, 1.15 * rows + 0.7)
    figure, grid = pyplot.subplots(rows, columns, figsize=size, squeeze=False, **options)
    panels = list(grid.flat)
    for panel in panels[count:]:
        panel.set_visible(False)
    return figure, panels[:count]


def _errors(board: Board) -> dict[str, list[dict]]:
    """Method -> errors by layer and matrix, of its first task that has them."""
    found = {}
    for method in board.methods:
        measured = [cell["measured"].get("quantization_error") for cell in board.of_method(method)]
        if errors := next(filter(None, measured), None):
            found[method] = errors
    return found


def draw_errors(board: Board, errors: dict[str, list[dict]]) -> Figure:
    """Where quantization takes most: a panel for each method, a row for each matrix, a column for each layer."""
    figure, panels = _panels(len(errors), width=2.3, layout="constrained")
    figure.get_layout_engine().set(h_pad=0.12)  # room for the panels' names, which must not narrow the panels
    sizes = [entry["error"] for of in errors.values() for entry in of if entry["error"]]
    scale = LogNorm(min(sizes), max(sizes)) if sizes else None
    for panel, (method, of) in zip(panels, errors.items(), strict=True):
        matrices = list(dict.fromkeys(entry["matrix"] for entry in of))
        layers = sorted({entry["layer"] for entry in of})
        grid = [[math.nan] * len(layers) for _ in matrices]
        for entry in of:
            grid[matrices.index(entry["matrix"])][layers.index(entry["layer"])] = entry["error"]
        picture = panel.imshow(grid, cmap="cividis", norm=scale, aspect="auto")
        panel.set_title(_short(board.title(method)), fontsize=6).set_in_layout(False)
        panel.set_xticks(range(len(layers)), layers, fontsize=4)
        panel.set_yticks(range(len(matrices)), matrices, fontsize=4)
        panel.grid(False)
    bar = figure.colorbar(picture, ax=panels, shrink=0.8, format=FuncFormatter(lambda value, _: f"{value:g}"))
    bar.set_label("squared error / squared weights", fontsize=6)
    bar.ax.tick_params(labelsize=6)
    return figure
