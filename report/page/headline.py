"""One sentence saying what was found, no stronger than the cells are."""

import statistics as plain_statistics

from report import statistics
from report.board import Board
from report.statistics import Estimate
from report.tables import LEVEL
from report.wording import plural, score, task_title, title

SMALLER = 1.05  # times smaller than full precision: less is no compression


def headline(board: Board) -> str:
    if not any(board.comparable(method, task) for method, task in board.at):
        return "These results stand side by side but cannot be compared: they were not made alike."
    losses = _losses(board)
    if losses:
        return _of_compressed(board, losses)
    taught = [method for method in board.methods if board.average_drop(method, board.tasks, board.primary) is not None]
    if taught:
        return _of_taught(board, taught)
    return _above_baseline(board, board.methods[0])


def _losses(board: Board) -> dict[str, Estimate | None]:
    """Points lost by each compressed method that has every task, all seeds and something to lose from."""
    found = {}
    for method in board.methods:
        drop = board.average_drop(method, board.tasks, board.primary)
        if drop is None or _ratio(board, method) < SMALLER or board.n_diverged(method, board.tasks)[0]:
            continue
        tests = [board.against_reference(method, task, board.primary) for task in board.averaged(board.tasks)]
        found[method] = None if None in tests else statistics.mean(test.difference for test in tests)
    return found


def _ratio(board: Board, method: str) -> float:
    sizes = [cell["measured"]["size"] for cell in board.of_method(method)]
    return min((size["file"]["ratio"] for size in sizes if size), default=0.0)


def _of_compressed(board: Board, losses: dict[str, Estimate | None]) -> str:
    drops = {method: board.average_drop(method, board.tasks, board.primary) for method in losses}
    tested = {method: loss for method, loss in losses.items() if loss is not None}
    corrected = dict(zip(tested, statistics.holm(loss.p for loss in tested.values()), strict=True))
    by_chance = [method for method, p in corrected.items() if p >= LEVEL]
    smallest = max(by_chance, key=lambda method: _ratio(board, method), default=None)
    method = smallest or min(drops, key=drops.get)
    if len(losses) == 1:
        doubt = ", which cannot be told from chance," if smallest else ""
        found = f"{board.title(method)} {_change(drops[method])}{doubt}"
    else:
        what = "is the smallest whose loss cannot be told from chance" if smallest else "does best"
        found = f"Of {len(losses)} compressed methods, {board.title(method)} {what}: it {_change(drops[method])}"
    smaller = f"in a file {_ratio(board, method):.1f} times smaller than full precision"
    return f"{found} {_where(board)}, {smaller}{_caveat(board, method)}."


def _of_taught(board: Board, methods: list[str]) -> str:
    method = min(methods, key=lambda name: board.average_drop(name, board.tasks, board.primary))
    drop = board.average_drop(method, board.tasks, board.primary)
    side = "below" if drop >= 0 else "above"
    return f"{board.title(method)} ends {_points(abs(drop))} {side} its teacher {_where(board)}{_caveat(board, method)}."


def _change(drop: float) -> str:
    return f"loses {_points(drop)}" if drop >= 0 else f"gains {_points(-drop)}"


def _points(drop: float) -> str:
    return f"{score(drop)} points"


def _where(board: Board) -> str:
    tasks = board.averaged(board.tasks)
    return f"on average over {len(tasks)} tasks" if len(tasks) > 1 else f"on {task_title(tasks[0])}"


def _caveat(board: Board, method: str) -> str:
    """One seed cannot tell a difference from chance: the sentence must say that it rests on one."""
    return ", with one seed" if all(len(cell["request"]["seeds"]) == 1 for cell in board.of_method(method)) else ""


def _above_baseline(board: Board, method: str) -> str:
    cells = board.of_method(method)
    means = [board.mean(method, cell["request"]["task"], board.primary) for cell in cells]
    gaps = [
        mean - cell["measured"]["baseline"]["metrics"][cell["measured"]["metric"]]
        for mean, cell in zip(means, cells, strict=True)
        if mean is not None
    ]
    if not gaps:
        return f"Every run of {board.title(method)} diverged." if cells else "No cell could be made."
    above = sum(gap > 0 for gap in gaps)
    if len(cells) == 1:
        where = f"on {task_title(cells[0]['request']['task'])}"
    else:
        where = f"on all {len(cells)} tasks" if above == len(cells) else f"on {above} of {plural(len(cells), 'task')}"
    average = " on average" if len(gaps) > 1 else ""
    gap = score(plain_statistics.fmean(gaps))
    return f"{title(cells[0])} beats the constant answer {where}, by {gap} points{average}{_caveat(board, method)}."
