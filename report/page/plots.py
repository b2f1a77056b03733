"""The plots of quality against cost as SVG: under both protocols, against every cost, close up and whole."""

from report.evidence.comparison import Evidence
from report.evidence.points import ABOVE, BELOW, Axis, Cloud, cloud, loss_cloud
from report.labels import Box
from report.scatter import Canvas, Layout, Mark, Shared, layout
from report.wording import CONVENTIONS

TEXT = 11.5
WIDE = Canvas(Box(40, 10, 708, 388), text=TEXT, radius=5)
NARROW = Canvas(Box(30, 10, 346, 372), text=TEXT, radius=5, ticks=6)  # for telephones, where the wide one has tiny letters
PANEL = Canvas(Box(24, 6, 212, 132), text=TEXT, radius=4.5, intervals=3, ticks=5, named=False)
RANGES = {"close": "Close-up", "all": "All"}


def overall(evidence: Evidence, shown_axes: list[Axis]) -> dict:
    """Return the main plot under both protocols, and its caption."""
    board = evidence.board
    tasks = board.main_tasks()
    views = [(protocol, _views(evidence, tasks, shown_axes, protocol)) for protocol in board.protocols]
    families = {point.family for _, of in views for view in of for point in view["cloud"].points}
    return {
        "protocols": views,
        "tasks": list(map(board.task_title, tasks)),
        "left_out": [f"{board.task_title(task)} ({reason})" for task, reason in board.left_out().items()],
        "ranges": RANGES,
        "middle": "the best score" if board.full_precision is None else "full precision",
        "below": BELOW,
        "above": ABOVE,
        "families": sorted(families, key=lambda family: family.number),
    }


def _views(evidence: Evidence, tasks: list[str], shown_axes: list[Axis], protocol: str) -> list[dict]:
    """Return one view for each axis against which any method has a point."""
    clouds = [cloud(evidence, tasks, axis, protocol) for axis in shown_axes]
    return [
        {
            "cloud": one,
            "front": [point for point in one.points if point.on_front],
            "pictures": {name: _pictures(one, close=name == "close") for name in RANGES},
        }
        for one in clouds
        if one.points
    ]


def _pictures(one: Cloud, close: bool) -> dict:
    wide, narrow = (layout(one, canvas, close) for canvas in (WIDE, NARROW))
    return {"has_points": wide.has_points, "drawings": {"wide": drawing(wide), "narrow": drawing(narrow)}}


def multiples(evidence: Evidence, shown_axes: list[Axis]) -> dict | None:
    """Return a panel for each task under both protocols and against every cost; None without full precision.

    One size serves all choices of size: small panels would show the same.
    """
    board = evidence.board
    chosen = {}
    for axis in shown_axes:
        chosen.setdefault("size" if axis.name in CONVENTIONS else axis.name, []).append(axis)
    if board.full_precision is None:
        return None
    protocols = []
    for protocol in board.protocols:
        of_axes = []
        for axis, *others in chosen.values():
            clouds = {task: loss_cloud(evidence, task, axis, protocol) for task in board.tasks}
            shared = Shared.of(list(clouds.values()))
            panels = [
                {"task": task, "title": one.title, "drawing": drawing(layout(one, PANEL, True, shared), mirrored=True)}
                for task, one in clouds.items()
                if len(one.points) > 1
            ]
            if panels:
                classes = " ".join(f"axis-{one.name}" for one in (axis, *others))
                of_axes.append({"axis": axis, "classes": classes, "panels": panels})
        protocols.append((protocol, of_axes))
    return {"protocols": protocols, "below": BELOW, "above": ABOVE} if any(of_axes for _, of_axes in protocols) else None


def drawing(found: Layout, mirrored: bool = False) -> dict:
    """Return a layout as coordinates in the written form of SVG; `mirrored` heights are losses, written without a sign."""
    frame = found.canvas.frame
    right, left = _number(frame.right), _number(frame.left)
    grid = [f"M{left} {_number(y)}H{right}" for y, _ in found.rows]
    grid += [f"M{_number(x)} {_number(frame.top)}V{_number(frame.bottom)}" for x, _ in found.columns]
    edges = [y for y, outer in ((found.floor, frame.bottom), (found.ceiling, frame.top)) if y != outer]
    return {
        "frame": frame,
        "grid": "".join(grid),
        "edges": "".join(f"M{left} {_number(y)}H{right}" for y in edges),
        "columns": [(_number(x), text) for x, text in found.columns],
        "rows": [(_number(y), _unsigned(text) if mirrored else text) for y, text in found.rows],
        "reference": None if found.reference is None else f"M{left} {_number(found.reference)}H{right}",
        "reference_y": found.reference and _number(found.reference),
        "stairs": "".join(f"{'L' if i else 'M'}{_number(x)} {_number(y)}" for i, (x, y) in enumerate(found.stairs)),
        "marks": [_mark(mark) for mark in found.marks],
    }


def _unsigned(text: str) -> str:
    """Return the height of a loss: what lies above zero is a gain."""
    minus = "\N{MINUS SIGN}"
    return text if text == "0" else text.removeprefix(minus) if text.startswith(minus) else f"+{text}"


def _mark(mark: Mark) -> dict:
    return {
        "point": mark.point,
        "x": _number(mark.x),
        "y": _number(mark.y),
        "bar": mark.bar and f"M{_number(mark.x)} {_number(mark.bar[0])}V{_number(mark.bar[1])}",
        "beyond": mark.beyond,
        "name": _name(mark) if mark.place else None,
    }


def _name(mark: Mark) -> dict:
    """Return a label's text, the point that it is written from, to or around, and its leader."""
    box, leader = mark.place.box, mark.place.leader
    anchor, x = mark.written_at
    return {
        "text": mark.text,
        "x": _number(x),
        "y": _number(box.bottom - 0.3 * (box.bottom - box.top)),
        "anchor": anchor,
        "leader": leader and "M{} {}L{} {}".format(*map(_number, leader)),
    }


def _number(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
