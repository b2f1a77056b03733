"""Points lost by the bits of the weights, task by task and on average: for each family with several bit widths."""

import re
from collections.abc import Callable, Iterator

from matplotlib.figure import Figure

from report.evidence.comparison import Evidence
from report.evidence.points import BitLines, drops_by_bits
from report.figures.style import apart, colour, pyplot


def drawings(evidence: Evidence, axis: str) -> Iterator[tuple[str, Callable[[], Figure]]]:
    for chart in drops_by_bits(evidence):
        yield f"bits_{re.sub(r'[^A-Za-z0-9_]+', '-', chart.family.name)}", lambda chart=chart: draw(chart)


def draw(chart: BitLines) -> Figure:
    figure, axes = pyplot.subplots(figsize=(5.2, 3.2), layout="constrained")
    tasks = [line for line in chart.lines if not line.mean]
    for line in tasks:
        axes.plot(*zip(*line.points, strict=True), color="#bbbbbb", linewidth=0.8)
    heights = [drop for line in tasks for _, drop in line.points]
    starts = sorted((line.points[0][1], line.points[0][0], line.title) for line in tasks)
    places = apart([drop for drop, _, _ in starts], (max(heights) - min(heights)) / 24)
    words = {"textcoords": "offset points", "fontsize": 6, "ha": "right", "va": "center"}
    for (_, bits, title), place in zip(starts, places, strict=True):
        axes.annotate(title, (bits, place), (-5, 0), **words)
    for line in (line for line in chart.lines if line.mean):
        axes.plot(*zip(*line.points, strict=True), "o-", color=colour(chart.family), label=line.title)
        axes.legend()
    axes.axhline(0, color="#000000", linewidth=0.6)
    axes.invert_yaxis()
    axes.set(title=chart.family.title, xlabel="Bits of weights", ylabel="Points lost")
    axes.margins(x=0.12)
    return figure
