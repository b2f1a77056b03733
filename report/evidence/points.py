"""What the plots show, for paper and page alike: each method as a point of cost and quality, and who is on the front."""

from dataclasses import dataclass, replace
from statistics import fmean

from report.board import Board
from report.wording import CONVENTIONS, task_title

# Colour and shape belong to a family; families that are not named here share the last.
FAMILIES = {
    "fp32": "Full precision",
    "ptq": "Post-training",
    "ternarybert": "TernaryBERT",
    "binarybert": "BinaryBERT",
    "kdlsq": "KDLSQ-BERT",
    "ladabert": "LadaBERT",
}
OTHER = "Other"
FAMILY_TITLES = [*FAMILIES.values(), OTHER]


@dataclass(frozen=True)
class Axis:
    """One way to count what a model costs."""

    name: str
    label: str
    unit: str


AXES = {
    **{name: Axis(name, f"Model size, {words}", "MiB") for name, words in CONVENTIONS.items()},
    "latency": Axis("latency", "Time of one prediction", "ms"),
    "memory": Axis("memory", "Peak memory of predicting", "MiB"),
}


@dataclass(frozen=True)
class Point:
    """One method on one task, or on the average of several."""

    method: str
    title: str
    family: int  # number of the colour and shape
    x: float
    y: float
    interval: tuple[float, float] | None
    simulated: bool
    diverged: int
    comparable: bool
    on_front: bool = False


@dataclass(frozen=True)
class Cloud:
    """All points of one plot, from the smallest on, and the methods that have none with the word for why."""

    title: str
    quality: str
    axis: Axis
    points: list[Point]
    absent: list[tuple[str, str]]


def family(board: Board, method: str) -> int:
    spec = board.of_method(method)[0]["request"]["spec"]
    names = list(FAMILIES)
    return names.index(spec.get("family")) if spec.get("family") in names else len(names)


def cost(board: Board, method: str, tasks: list[str], axis: str) -> tuple[float, bool] | str:
    """(cost, whether it is simulated) of the method, the largest of the tasks; or the word for why there is none."""
    measured = [board.at[method, task]["measured"] for task in tasks if (method, task) in board.at]
    if axis in CONVENTIONS:
        sizes = [of["size"][axis]["bytes"] for of in measured if of["size"]]
        return (max(sizes) / 2**20, False) if sizes else "none"
    times = [of["latency"] for of in measured if isinstance(of["latency"], dict)]
    if axis == "memory":
        memory = [time["memory_bytes"] / 2**20 for time in times if time.get("memory_bytes")]
        return (max(memory), any(time["simulated"] for time in times)) if memory else "not measured"
    if times:
        slowest = max(times, key=lambda time: time["milliseconds"])
        return slowest["milliseconds"], slowest["simulated"]
    words = {of["latency"] for of in measured}
    return "simulated" if "simulated" in words else "not measured"


def axes(board: Board) -> list[Axis]:
    """The axes for which at least one method has a number."""
    return [
        axis
        for name, axis in AXES.items()
        if any(not isinstance(cost(board, method, board.tasks, name), str) for method in board.methods)
    ]


def cloud(board: Board, tasks: list[str], axis: Axis, protocol: str) -> Cloud:
    """Quality against cost on one task, or on the average of several for the methods that have them all."""
    points, absent = [], []
    for method in board.methods:
        found = _quality(board, method, tasks, protocol)
        price = cost(board, method, tasks, axis.name)
        if isinstance(found, str) or isinstance(price, str):
            absent.append((board.title(method), found if isinstance(found, str) else price))
            continue
        y, estimate = found
        points.append(
            Point(
                method=method,
                title=board.title(method),
                family=family(board, method),
                x=price[0],
                y=y,
                interval=estimate.interval() if estimate else None,
                simulated=price[1],
                diverged=board.n_diverged(method, tasks)[0],
                comparable=all(board.comparable(method, task) for task in tasks),
            )
        )
    points.sort(key=lambda point: (point.x, -point.y, point.method))
    title = task_title(tasks[0]) if len(tasks) == 1 else f"Average of {len(tasks)} tasks"
    return Cloud(title, "Mean score" if len(tasks) > 1 else title, axis, _with_front(points), absent)


def _quality(board: Board, method: str, tasks: list[str], protocol: str):
    if len(tasks) == 1:
        if word := board.word(method, tasks[0]):
            return word
        return board.mean(method, tasks[0], protocol), board.estimate(method, tasks[0], protocol)
    average = board.average(method, tasks, protocol)
    if average is None:
        return board.no_average(method, tasks, protocol)
    return average, board.average_estimate(method, tasks, protocol)


def _with_front(points: list[Point]) -> list[Point]:
    """Marks Pareto's front, the points that no smaller one equals: like with like, nothing diverged, nothing simulated."""
    marked, best = [], float("-inf")
    for point in points:
        ranked = point.comparable and not point.diverged and not point.simulated
        marked.append(replace(point, on_front=ranked and point.y > best))
        best = max(best, point.y) if ranked else best
    return marked


@dataclass(frozen=True)
class BitLine:
    """Points lost by KDLSQ-BERT at each number of bits, on one task or on the mean of those that all bits have."""

    title: str
    points: list[tuple[int, float]]
    mean: bool = False


def drops_by_bits(board: Board) -> list[BitLine]:
    """A line for each task and one for their mean; none where there is but one number of bits to draw a line through."""
    methods = {}
    for method in board.methods:
        for cell in board.of_method(method)[:1]:
            if cell["request"]["spec"].get("family") == "kdlsq":
                methods[cell["request"]["spec"]["bits"]["weights"]] = method
    if len(methods) < 2:
        return []
    lines, whole = [], []
    for task in board.tasks:
        found = [(bits, board.drop(method, task, board.primary)) for bits, method in sorted(methods.items())]
        known = [point for point in found if point[1] is not None]
        if known:
            lines.append(BitLine(task_title(task), known))
        if len(known) == len(methods):
            whole.append(dict(known))
    if len(whole) > 1:
        means = [(bits, fmean(drops[bits] for drops in whole)) for bits in sorted(methods)]
        lines.append(BitLine(f"mean of {len(whole)} tasks", means, mean=True))
    return lines
