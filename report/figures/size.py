"""Quality against cost on a logarithmic axis, with the Pareto front: for each suite's average and for each task."""

from collections.abc import Callable, Iterator

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from report.evidence.comparison import Evidence
from report.evidence.points import Cloud, axis_of, cloud
from report.figures.style import colour, pyplot, shape, short


def drawings(evidence: Evidence, axis: str) -> Iterator[tuple[str, Callable[[], Figure]]]:
    yield from against(evidence, axis, "size")


def against(evidence: Evidence, axis: str, prefix: str) -> Iterator[tuple[str, Callable[[], Figure]]]:
    """Yield a plot for each suite's average and for each task that has points."""
    board = evidence.board
    scopes = {f"average_{suite.name}": suite.averaged for suite in board.suites if len(suite.averaged) > 1}
    scopes |= {task: [task] for task in board.tasks}
    for name, tasks in scopes.items():
        points = cloud(evidence, tasks, axis_of(board, axis))
        if points.points:
            yield f"{prefix}_{name}", lambda points=points: draw(points)


def draw(points: Cloud) -> Figure:
    figure, axes = pyplot.subplots(figsize=(6.4, 3.4), layout="constrained")
    front = [point for point in points.points if point.on_front]
    axes.step([p.x for p in front], [p.y for p in front], where="post", color="#888888", linewidth=0.9, zorder=1)
    for point in points.points:
        ink = colour(point.family)
        if point.interval:
            axes.plot([point.x] * 2, point.interval, color=ink, linewidth=0.8, zorder=2)
        face = "white" if point.diverged else ink
        axes.plot(point.x, point.y, shape(point.family), color=ink, markerfacecolor=face, markersize=5, zorder=3)
    for number, point in enumerate(front, 1):
        axes.annotate(str(number), (point.x, point.y), (0, 5), textcoords="offset points", fontsize=6, ha="center")
    key = "\n".join(f"{number}  {short(point.title)}" for number, point in enumerate(front, 1))
    axes.annotate(key, (1.02, 1), xycoords="axes fraction", fontsize=6, va="top", linespacing=1.6)
    _logarithmic(axes)
    axes.set(title=points.title, xlabel=f"{points.axis.label} ({points.axis.unit})", ylabel=points.quality)
    axes.margins(x=0.12)
    marks = {"linestyle": "", "markersize": 5}
    for family in sorted({point.family for point in points.points}, key=lambda family: family.number):
        axes.plot([], [], marker=shape(family), color=colour(family), label=family.title, **marks)
    figure.legend(loc="outside lower center", ncols=4, fontsize=7)
    return figure


def _logarithmic(axes) -> None:
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(base=10, subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
