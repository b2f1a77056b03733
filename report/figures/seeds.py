"""Seeds of every method on one task, with intervals of their means: the spread behind the tables' deviations."""

from collections.abc import Callable, Iterator

from matplotlib.figure import Figure

from report.evidence.comparison import Evidence
from report.figures.style import colour, pyplot, shape
from report.wording import metric_title, short


def drawings(evidence: Evidence, axis: str) -> Iterator[tuple[str, Callable[[], Figure]]]:
    for task in evidence.board.tasks:
        if evidence.board.of_task(task):
            yield f"seeds_{task}", lambda task=task: draw(evidence, task)


def draw(evidence: Evidence, task: str) -> Figure:
    board = evidence.board
    cells = board.of_task(task)
    figure, axes = pyplot.subplots(figsize=(5.2, 0.7 + 0.19 * len(cells)), layout="constrained")
    for row, cell in enumerate(cells):
        method = cell["request"]["method"]
        family, scores = board.family(method), list(board.scores(method, task, board.primary).values())
        if interval := evidence.score(method, task).interval:
            axes.plot(interval, [row, row], color=colour(family), linewidth=0.8)
        axes.plot(scores, [row] * len(scores), shape(family), color=colour(family), markersize=3.2, alpha=0.75)
        if not scores:
            place = {"xycoords": ("axes fraction", "data"), "fontsize": 6, "va": "center"}
            axes.annotate(evidence.status(method, task), (0.01, row), **place)
    metric = cells[0]["measured"]["metric"]
    axes.axvline(cells[0]["measured"]["baseline"]["metrics"][metric], color="#888888", linestyle=":")
    axes.set_yticks(range(len(cells)), [short(board.title(cell["request"]["method"])) for cell in cells], fontsize=6)
    axes.invert_yaxis()
    axes.set(title=board.task_title(task), xlabel=f"{metric_title(metric)}; dotted: a constant answer")
    return figure
