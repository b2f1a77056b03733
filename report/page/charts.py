"""The page's charts: coordinates for plain SVG, so that a chart needs no script and follows the page's colours."""

import itertools
import math
from dataclasses import dataclass

from report.evidence.cells import thin
from report.evidence.comparison import Evidence
from report.evidence.points import BitLines
from report.ticks import round_ticks, tick_text
from report.wording import count, metric_title, score, width

SEED_STYLES = 5  # strokes in the style sheet; the sixth seed has the first again
SHADES = 7  # steps of the heat map


@dataclass(frozen=True)
class Frame:
    """The inner rectangle of a plot."""

    left: float
    right: float
    top: float
    bottom: float

    def x(self, share: float) -> str:
        return _place(self.left + (self.right - self.left) * share)

    def y(self, share: float) -> str:
        return _place(self.bottom - (self.bottom - self.top) * share)


def _place(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


# Points lost by bits

BITS = Frame(left=36, right=400, top=14, bottom=220)


def draw_bits(chart: BitLines) -> dict:
    """Return lines of points lost by the bits of the weights, with no loss at the top."""
    ticks = round_ticks([drop for line in chart.lines for _, drop in line.points] + [0.0])
    widths = sorted({bits for line in chart.lines for bits, _ in line.points})

    def x(bits: float) -> str:
        return BITS.x((bits - widths[0]) / (widths[-1] - widths[0]))

    def y(drop: float) -> str:
        return BITS.y(1 - (drop - ticks[0]) / (ticks[-1] - ticks[0]))

    return {
        "frame": BITS,
        "family": chart.family,
        "ticks": [{"y": y(tick), "text": tick_text(tick)} for tick in ticks],
        "bits": [{"at": x(bits), "text": width(bits)} for bits in widths],
        "zero": y(0.0),
        "lines": [
            {"title": line.title, "mean": line.mean, "points": [(x(bits), y(drop)) for bits, drop in line.points]}
            for line in chart.lines
        ],
    }


# Seeds as dots

STRIP = Frame(left=4, right=256, top=4, bottom=18)


def draw_strips(evidence: Evidence, task: str, protocol: str) -> dict:
    """Return a line of dots for each method on a common axis, with rules for full precision and the constant answer."""
    board, rows = evidence.board, {}
    cells = [cell for cell in board.of_task(task) if board.scores(cell["request"]["method"], task, protocol)]
    measured = board.of_task(task)[0]["measured"]
    baseline = measured["baseline"]["metrics"][measured["metric"]]
    for cell in cells:
        method = cell["request"]["method"]
        interval = evidence.score(method, task, protocol).interval
        rows[method] = (list(board.scores(method, task, protocol).values()), interval)
    values = [value for scores, interval in rows.values() for value in (*scores, *(interval or ()))]
    ticks = round_ticks([*values, baseline])

    def x(value: float) -> str:
        return STRIP.x((value - ticks[0]) / (ticks[-1] - ticks[0]))

    full = board.full_precision
    reference = evidence.score(full, task, protocol).mean if full in rows else None
    return {
        "ticks": [{"at": x(tick), "text": tick_text(tick)} for tick in (ticks[0], ticks[-1])],
        "baseline": x(baseline),
        "reference": None if reference is None else x(reference),
        "rows": {
            method: {
                "dots": [x(value) for value in scores],
                "bar": [x(end) for end in interval] if interval else None,
                "family": board.family(method),
            }
            for method, (scores, interval) in rows.items()
        },
    }


# Quantization error by layer


def draw_heat(errors: list[dict]) -> dict:
    """Return rows of matrices, columns of layers, and a shade for each error on a logarithmic scale."""
    matrices = list(dict.fromkeys(entry["matrix"] for entry in errors))
    layers = sorted({entry["layer"] for entry in errors})
    sizes = [entry["error"] for entry in errors if entry["error"] > 0]
    low, high = (math.log(min(sizes)), math.log(max(sizes))) if sizes else (0.0, 0.0)

    def shade(error: float) -> int:
        return round((SHADES - 1) * (math.log(error) - low) / (high - low)) if error > 0 and high > low else 0

    return {
        "matrices": matrices,
        "layers": layers,
        "low": f"{math.exp(low):.2g}",
        "high": f"{math.exp(high):.2g}",
        "boxes": [
            {
                "x": layers.index(entry["layer"]),
                "y": matrices.index(entry["matrix"]),
                "shade": shade(entry["error"]),
                "error": f"{entry['error']:.2g}",
                "layer": entry["layer"],
                "matrix": entry["matrix"],
            }
            for entry in errors
        ],
    }


# Learning curves

LINE_POINTS = 24
CURVE = Frame(left=44, right=408, top=14, bottom=150)


def curves(cell: dict) -> list[dict]:
    measured = cell["measured"]
    levels = [("baseline", measured["baseline"]["metrics"][measured["metric"]])]
    if measured["teacher"] and measured["teacher"]["score"] is not None:
        levels.append(("teacher", measured["teacher"]["score"]))
    drawn = [
        curve(f"Development {metric_title(measured['metric'])}", "dev", measured["seeds"], levels),
        curve("Training loss", "loss", measured["seeds"], []),
    ]
    return [picture for picture in drawn if picture]


def curve(caption: str, name: str, seeds: list[dict], levels: list[tuple[str, float]]) -> dict | None:
    """Return coordinates of one line per seed and one rule per level; None where no seed has a point."""
    lines = [(seed["seed"], seed["curve"][name]) for seed in seeds if seed["curve"][name]]
    if not lines:
        return None
    ticks = round_ticks([value for _, points in lines for _, value in points] + [value for _, value in levels])
    last = max(step for _, points in lines for step, _ in points) or 1

    def y(value: float) -> str:
        return CURVE.y((value - ticks[0]) / (ticks[-1] - ticks[0]))

    def path(points: list) -> str:
        return _steps([(float(CURVE.x(step / last)), float(y(value))) for step, value in thin(points, LINE_POINTS)])

    return {
        "caption": caption,
        "lines": [{"seed": seed, "style": i % SEED_STYLES, "path": path(points)} for i, (seed, points) in enumerate(lines)],
        "levels": [{"name": name, "y": y(value), "value": score(value)} for name, value in levels],
        "ticks": [{"y": y(tick), "text": tick_text(tick)} for tick in ticks],
        "last_step": count(last),
        "frame": CURVE,
    }


def _steps(points: list[tuple[float, float]]) -> str:
    """Return a line in whole pixels, relative to the previous point: half the bytes, and there are thousands of lines."""
    whole = [(round(x), round(y)) for x, y in points]
    moves = [f"{x - was_x} {y - was_y}" for (was_x, was_y), (x, y) in itertools.pairwise(whole)]
    return f"M{whole[0][0]} {whole[0][1]}l{' '.join(moves) or '0 0'}".replace(" -", "-")
