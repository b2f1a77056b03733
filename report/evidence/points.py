"""The data of plots, for figures and page alike: methods as points of cost and quality, and drops by bits."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import fmean

from report.evidence.board import Board, Family
from report.evidence.comparison import Evidence
from report.wording import CONVENTIONS, metric_title

BELOW, ABOVE = 10, 2  # points of score around full precision, where methods of use are


@dataclass(frozen=True)
class Axis:
    """One way to count the cost of a model."""

    name: str
    title: str  # where a reader chooses
    label: str
    unit: str


SIZES = {"file": "File size", "counted": "Counted size", "paper": "Size as in papers"}
AXES = {
    **{name: Axis(name, title, f"Model size {CONVENTIONS[name]}", "MiB") for name, title in SIZES.items()},
    "latency": Axis("latency", "Latency", "Time of one sentence", "ms"),
    "memory": Axis("memory", "Memory", "Memory to load and run", "MiB"),
}


@dataclass(frozen=True)
class Point:
    """One method on one task, or on the average of several."""

    method: str
    title: str
    family: Family
    x: float
    y: float
    interval: tuple[float, float] | None
    diverged: int
    comparable: bool
    on_front: bool = False


@dataclass(frozen=True)
class Cloud:
    """The points of one plot, smallest first, and the methods without a point, each with the reason."""

    title: str
    quality: str
    axis: Axis
    points: list[Point]
    absent: list[tuple[str, str]]
    reference: float | None  # the quality of full precision

    @property
    def close_up(self) -> tuple[float, float]:
        """Return the range around full precision, or around the best point where full precision has no quality."""
        top = max(point.y for point in self.points) if self.reference is None else self.reference
        return top - BELOW, top + ABOVE


def cost(board: Board, method: str, tasks: list[str], axis: str) -> float | str:
    """Return the method's cost on the tasks, or the reason why there is none."""
    if axis in CONVENTIONS:
        measured = [cell["measured"]["size"] for task in tasks if (cell := board.cell(method, task))]
        return max((size[axis]["bytes"] for size in measured if size), default=0) / 2**20 or "none"
    speed = board.latencies.speed(method, [task for task in tasks if board.cell(method, task)])
    if isinstance(speed, str):
        return speed
    if axis == "latency":
        return speed.milliseconds
    return speed.memory / 2**20 if speed.memory else "not measured"


def axes(board: Board) -> list[Axis]:
    """Return the axes for which at least one method has a number."""
    return [
        axis_of(board, name)
        for name in AXES
        if any(not isinstance(cost(board, method, [task], name), str) for method in board.methods for task in board.tasks)
    ]


def axis_of(board: Board, name: str) -> Axis:
    """Return an axis; what was measured is labelled with the device, because no other device's numbers are on it."""
    axis, setting = AXES[name], board.latencies.setting
    return axis if name in CONVENTIONS or setting is None else replace(axis, label=f"{axis.label} on {setting.title}")


def cloud(evidence: Evidence, tasks: list[str], axis: Axis, protocol: str | None = None) -> Cloud:
    """Return quality against cost on one task, or on the average of several for the methods that have them all."""
    board = evidence.board
    title = board.task_title(tasks[0]) if len(tasks) == 1 else f"Average of {len(tasks)} {board.suite(tasks[0]).title} tasks"
    points, absent = _points(evidence, tasks, axis, lambda method: _quality(evidence, method, tasks, protocol))
    full = board.full_precision and _quality(evidence, board.full_precision, tasks, protocol)
    reference = None if full is None or isinstance(full, str) else full[0]
    return Cloud(title, _quality_title(board, tasks), axis, _with_front(points), absent, reference)


def loss_cloud(evidence: Evidence, task: str, axis: Axis, protocol: str | None = None) -> Cloud:
    """Return points lost from full precision against cost; what is lost is negative, so that better is higher."""
    points, absent = _points(evidence, [task], axis, lambda method: _lost(evidence, method, task, protocol))
    return Cloud(evidence.board.task_title(task), "Points lost", axis, points, absent, 0.0)


def _quality_title(board: Board, tasks: list[str]) -> str:
    if len(tasks) > 1:
        return "Mean score"
    return next((metric_title(cell["measured"]["metric"]) for cell in board.of_task(tasks[0])), "score").capitalize()


Quality = tuple[float, tuple[float, float] | None]


def _points(
    evidence: Evidence, tasks: list[str], axis: Axis, quality_of: Callable[[str], Quality | str]
) -> tuple[list[Point], list[tuple[str, str]]]:
    """Return the points, cheapest first, and the methods that lack a quality or a cost, with the reason."""
    board, points, absent = evidence.board, [], []
    for method in board.methods:
        quality, price = quality_of(method), cost(board, method, tasks, axis.name)
        if isinstance(quality, str) or isinstance(price, str):
            absent.append((board.title(method), quality if isinstance(quality, str) else price))
            continue
        points.append(
            Point(
                method=method,
                title=board.title(method),
                family=board.family(method),
                x=price,
                y=quality[0],
                interval=quality[1],
                diverged=evidence.diverged(method, tasks)[0],
                comparable=all(board.comparable(method, task) for task in tasks),
            )
        )
    return sorted(points, key=lambda point: (point.x, -point.y, point.method)), absent


def _quality(evidence: Evidence, method: str, tasks: list[str], protocol: str | None) -> Quality | str:
    if len(tasks) > 1:
        average = evidence.average(method, tasks, protocol)
        return average.reason or (average.value, average.interval)
    if reason := evidence.status(method, tasks[0]):
        return reason
    score = evidence.score(method, tasks[0], protocol)
    return score.mean, score.interval


def _lost(evidence: Evidence, method: str, task: str, protocol: str | None) -> Quality | str:
    if reason := evidence.status(method, task):
        return reason
    if method == evidence.board.full_precision:
        return 0.0, None
    loss = evidence.loss(method, task, protocol)
    if loss is None:
        return "not comparable"
    return -loss.value, loss.interval and (-loss.interval[1], -loss.interval[0])


def _with_front(points: list[Point]) -> list[Point]:
    """Mark the Pareto front: no cheaper method scores as high. Odd and diverged points are not ranked."""
    marked, best = [], float("-inf")
    for point in points:
        ranked = point.comparable and not point.diverged
        marked.append(replace(point, on_front=ranked and point.y > best))
        best = max(best, point.y) if ranked else best
    return marked


@dataclass(frozen=True)
class BitLine:
    """Points lost at each number of bits, on one task or on the mean of the tasks that all methods have."""

    title: str
    points: list[tuple[float, float]]
    mean: bool = False


@dataclass(frozen=True)
class BitLines:
    """One family's drops by the measured bits of its weights."""

    family: Family
    lines: list[BitLine]


def drops_by_bits(evidence: Evidence) -> list[BitLines]:
    """Return a chart for each family with several bit widths; of several methods with one width the first counts."""
    charts = []
    for family in evidence.board.families.values():
        methods = {}
        for method in evidence.board.methods:
            bits = evidence.board.bits(method)
            if bits and evidence.board.family(method) == family:
                methods.setdefault(round(bits["weights"], 1), method)
        lines = _bit_lines(evidence, dict(sorted(methods.items()))) if len(methods) > 1 else []
        if any(len(line.points) > 1 for line in lines):
            charts.append(BitLines(family, lines))
    return charts


def _bit_lines(evidence: Evidence, methods: dict[float, str]) -> list[BitLine]:
    lines, whole = [], []
    for task in evidence.board.tasks:
        alike = {bits: method for bits, method in methods.items() if evidence.board.comparable(method, task)}
        scores = [(bits, evidence.score(method, task)) for bits, method in alike.items()]
        known = [(bits, score.drop) for bits, score in scores if score is not None and score.drop is not None]
        if known:
            lines.append(BitLine(evidence.board.task_title(task), known))
        if len(known) == len(methods):
            whole.append(dict(known))
    if len(whole) > 1:
        means = [(bits, fmean(drops[bits] for drops in whole)) for bits in methods]
        lines.append(BitLine(f"mean of {len(whole)} tasks", means, mean=True))
    return lines
