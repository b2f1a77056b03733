"""The page: one HTML file made from cells and nothing else; the same cells give the same bytes.

Python decides what stands where and how a number is written; the template only lays it out.
"""

import math
import statistics
from pathlib import Path

import jinja2

from report.board import Board, read_cells
from report.wording import (
    PROTOCOLS,
    bits,
    count,
    diverged,
    flat,
    mebibytes,
    metric_title,
    metrics_of,
    partial_note,
    plain,
    score,
    shown_metrics,
    task_title,
    title,
)

TEMPLATES = Path(__file__).resolve().parent / "templates"

SEED_STYLES = 5  # strokes that the style sheet tells apart; a sixth seed starts again


def make_page(paths: list[Path]) -> str:
    return render(read_cells(paths))


def render(cells: list[dict]) -> str:
    environment = jinja2.Environment(
        autoescape=True,
        loader=jinja2.FileSystemLoader(TEMPLATES),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"score": score, "mebibytes": mebibytes, "count": count, "plain": plain}
    board = Board(cells)
    return environment.get_template("page.html").render(
        board=board,
        headline=headline(board),
        tables=[table(board, protocol) for protocol in (board.primary, *(set(PROTOCOLS) - {board.primary}))],
        details=[detail(cell) for cell in cells],
        protocols=PROTOCOLS,
    )


def mean_of(cell: dict, protocol: str) -> float | None:
    return cell["measured"]["protocols"][protocol]["metrics"][cell["measured"]["metric"]]["mean"]


def headline(board: Board) -> str:
    """One sentence saying what was found, no stronger than the cells are."""
    if board.differences:
        return "These results stand side by side but cannot be compared: they were not made alike."
    students, references = [], []
    for method in board.methods:
        cells = board.of_method(method)
        taught = all(cell["measured"]["teacher"] for cell in cells)
        (students if taught else references).append(method)
    drops = {}
    for method in students:
        found = [_drop(cell, board.primary) for cell in board.of_method(method)]
        if board.complete(method, board.tasks, board.primary) and None not in found:
            drops[method] = statistics.fmean(found)
    if drops:
        return _closest_student(board, drops)
    return _above_baseline(board, references[0] if references else board.methods[0])


def _drop(cell: dict, protocol: str) -> float | None:
    return cell["measured"]["protocols"][protocol]["drop"]


def _closest_student(board: Board, drops: dict[str, float]) -> str:
    method = min(drops, key=drops.get)
    cells = board.of_method(method)
    side = "below" if drops[method] >= 0 else "above"
    distance = f"{abs(drops[method]):.1f} points {side}"
    if len(drops) > 1:
        found = (
            f"Of {len(drops)} taught methods with a score on every task, "
            f"{title(cells[0])} stays closest to its teacher: {distance}"
        )
    else:
        found = f"{title(cells[0])} ends {distance} its teacher"
    where = f"on average over {len(cells)} tasks" if len(cells) > 1 else f"on {task_title(board.tasks[0])}"
    ratio = min(cell["measured"]["size"]["file"]["ratio"] for cell in cells)
    smaller = f", in a file {ratio:.1f} times smaller than full precision" if ratio > 1.05 else ""
    return f"{found} {where}{smaller}{_seeds_caveat(cells)}."


def _seeds_caveat(cells: list[dict]) -> str:
    """One seed cannot tell a difference from chance: the sentence must say that it rests on one."""
    return ", with one seed" if all(len(cell["asked"]["seeds"]) == 1 for cell in cells) else ""


def _above_baseline(board: Board, method: str) -> str:
    cells = board.of_method(method)
    gaps = [
        mean - cell["measured"]["baseline"]["metrics"][cell["measured"]["metric"]]
        for cell in cells
        if (mean := mean_of(cell, board.primary)) is not None
    ]
    if not gaps:
        return f"Every run of {title(cells[0])} diverged."
    above = sum(gap > 0 for gap in gaps)
    if len(cells) == 1:
        where = f"on {task_title(cells[0]['asked']['task'])}"
    else:
        where = f"on all {len(cells)} tasks" if above == len(cells) else f"on {above} of {len(cells)} tasks"
    return (
        f"{title(cells[0])} beats the constant answer {where}, "
        f"by {score(statistics.fmean(gaps))} points{' on average' if len(gaps) > 1 else ''}{_seeds_caveat(cells)}."
    )


def table(board: Board, protocol: str) -> dict:
    return {
        "protocol": protocol,
        "columns": [column(board.of_task(task)[0]) for task in board.tasks],
        "rows": [row(board, method, protocol) for method in board.methods],
        "baseline": [entry_of_baseline(board.of_task(task)[0]) for task in board.tasks],
    }


def column(cell: dict) -> dict:
    return {
        "title": task_title(cell["asked"]["task"]),
        "metrics": [metric_title(name) for name in shown_metrics(cell)],
    }


def row(board: Board, method: str, protocol: str) -> dict:
    cells = board.of_method(method)
    sizes = [cell["measured"]["size"] for cell in cells if cell["measured"]["size"]]
    compared = cells if board.complete(method, board.tasks, protocol) else []
    drops = [_drop(cell, protocol) for cell in compared]
    return {
        "method": method,
        "title": title(cells[0]),
        "bits": bits(cells[0]["asked"]["spec"]),
        "size": max(sizes, key=lambda size: size["file"]["bytes"]) if sizes else None,
        "entries": [entry(board.at.get((method, task)), protocol) for task in board.tasks],
        "average": statistics.fmean(mean_of(cell, protocol) for cell in compared) if compared else None,
        "drop": statistics.fmean(drops) if drops and None not in drops else None,
    }


def entry(cell: dict | None, protocol: str) -> dict | None:
    """What one place of the table shows; None where the method was not run on the task."""
    if cell is None:
        return None
    metrics = cell["measured"]["protocols"][protocol]["metrics"]
    primary = metrics[cell["measured"]["metric"]]
    return {
        "anchor": anchor(cell),
        "scores": [metrics[name] for name in shown_metrics(cell) if name in metrics and primary["n"]],
        "n": primary["n"],
        "diverged": diverged(primary["n"], primary["n_diverged"]),
        "partial": cell["ran_on"]["dataset"]["partial"],
    }


def entry_of_baseline(cell: dict) -> dict:
    baseline = cell["measured"]["baseline"]
    return {"scores": [baseline["metrics"][name] for name in shown_metrics(cell)], "what": baseline["what"]}


def detail(cell: dict) -> dict:
    measured, spec = cell["measured"], cell["asked"]["spec"]
    sources = spec.get("sources", {})
    recipe = [(name, plain(value), sources.get(name)) for name, value in spec.get("recipe", {}).items()]
    stanza = {key: value for key, value in spec.items() if key not in ("recipe", "sources", "title")}
    return {
        "cell": cell,
        "anchor": anchor(cell),
        "title": title(cell),
        "task": task_title(cell["asked"]["task"]),
        "metric": metric_title(measured["metric"]),
        "summaries": {protocol: block["metrics"][measured["metric"]] for protocol, block in measured["protocols"].items()},
        "metrics": {name: metric_title(name) for name in metrics_of(cell)},
        "recipe": recipe + [(name, plain(value), None) for name, value in flat(stanza)],
        "budget": [(name, plain(value)) for name, value in flat(cell["asked"]["budget"])],
        "charts": charts(cell),
        "partial": partial_note(cell),
    }


def anchor(cell: dict) -> str:
    return f"{cell['asked']['method']}_{cell['asked']['task']}"


# Learning curves, drawn as plain SVG: no script, no picture file, colours from the style sheet

LEFT, RIGHT, TOP, BOTTOM = 44, 408, 14, 150


def charts(cell: dict) -> list[dict]:
    measured = cell["measured"]
    levels = [("baseline", measured["baseline"]["metrics"][measured["metric"]])]
    if measured["teacher"] and measured["teacher"]["score"] is not None:
        levels.append(("teacher", measured["teacher"]["score"]))
    drawn = [
        chart(f"Development {metric_title(measured['metric'])}", "dev", measured["seeds"], levels),
        chart("Training loss", "loss", measured["seeds"], []),
    ]
    return [picture for picture in drawn if picture]


def chart(caption: str, name: str, seeds: list[dict], levels: list[tuple[str, float]]) -> dict | None:
    """Coordinates of one line per seed and one rule per level; None where no seed has a point."""
    curves = [(seed["seed"], seed["curve"][name]) for seed in seeds if seed["curve"][name]]
    if not curves:
        return None
    ticks = round_ticks([value for _, points in curves for _, value in points] + [value for _, value in levels])
    last = max(step for _, points in curves for step, _ in points) or 1
    low, high = ticks[0], ticks[-1]

    def x(step: float) -> str:
        return f"{LEFT + (RIGHT - LEFT) * step / last:.1f}"

    def y(value: float) -> str:
        return f"{BOTTOM - (BOTTOM - TOP) * (value - low) / (high - low):.1f}"

    return {
        "caption": caption,
        "lines": [
            {
                "seed": seed,
                "style": i % SEED_STYLES,
                "points": [(x(step), y(value)) for step, value in points],
            }
            for i, (seed, points) in enumerate(curves)
        ],
        "levels": [{"name": name, "y": y(value), "value": score(value)} for name, value in levels],
        "ticks": [{"y": y(tick), "text": f"{tick:g}".replace("-", "\N{MINUS SIGN}")} for tick in ticks],
        "last_step": count(last),
        "frame": {"left": LEFT, "right": RIGHT, "bottom": BOTTOM},
    }


def round_ticks(values: list[float]) -> list[float]:
    """Three to six round numbers, 1, 2 or 5 times a power of ten apart, that enclose all values."""
    low, high = min(values), max(values)
    rough = (high - low or abs(high) or 1) / 4
    power = 10 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
    first, last = math.floor(low / step), math.ceil(high / step)
    last = max(last, first + 1)
    return [float(f"{index * step:.12g}") for index in range(first, last + 1)]
