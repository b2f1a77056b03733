"""The JSON that the page's scripts read: the picker's table, and the test of every pair of methods."""

from report.evidence.comparison import Evidence
from report.evidence.statistics import holm
from report.page.names import Names
from report.wording import bits


def script_data(evidence: Evidence, names: Names) -> dict:
    """Return what the scripts need besides the page itself: the picker's table and every pair's test."""
    board = evidence.board
    suites = [suite for suite in board.suites if len(suite.averaged) > 1]
    averages = {f"average of {suite.name}": suite for suite in suites}
    titles = {key: f"the average of {len(suite.averaged)} {suite.title} tasks" for key, suite in averages.items()}
    scopes = {key: suite.averaged for key, suite in averages.items()}
    return {
        "scopes": titles | {task: board.task_title(task) for task in board.tasks},
        "methods": [_choice(evidence, names, method, scopes) for method in board.methods],
        "pairs": {task: pairs(evidence, task) for task in board.tasks},
    }


def _choice(evidence: Evidence, names: Names, method: str, averages: dict[str, list[str]]) -> dict:
    board = evidence.board
    sizes = [cell["measured"]["size"] for cell in board.of_method(method)]

    def time(tasks: list[str]) -> float | None:
        speed = board.latencies.speed(method, tasks)
        return None if isinstance(speed, str) else round(speed.milliseconds, 4)

    scopes = {}
    for key, tasks in averages.items():
        average = evidence.average(method, tasks)
        scopes[key] = (average.value, average.drop, time(tasks))
    for task in board.tasks:
        if scored := evidence.score(method, task):
            scopes[task] = (scored.mean, scored.drop, time([task]))
    return {
        "title": board.title(method),
        "anchor": names.of_methods.get(method),
        "words": _words(evidence, method),
        "mib": max((size["file"]["bytes"] for size in sizes if size), default=0) / 2**20 or None,
        "diverged": evidence.diverged(method, board.tasks)[0],
        "scopes": {key: values for key, values in scopes.items() if values[0] is not None},
    }


def _words(evidence: Evidence, method: str) -> str:
    """Return the text that the filter searches for a method."""
    board = evidence.board
    words = [method, board.title(method)]
    for about in (cell["about"]["method"] for cell in board.of_method(method)[:1]):
        words += [bits(board.bits(method)), about["family"], board.family(method).title, about["paper"]]
    words += [status for task in board.tasks if (status := evidence.status(method, task))]
    return " ".join(dict.fromkeys(words)).lower()


def pairs(evidence: Evidence, task: str) -> list[list]:
    """Return difference and p of every method (columns) from every baseline (rows); null where there is no test.

    A baseline's tests are corrected by Holm.
    """
    methods, primary, table = evidence.board.methods, evidence.board.primary, []
    for baseline in methods:
        row = [evidence.pair(method, baseline, task, primary) for method in methods]
        corrected = iter(holm(test.p for test in row if test))
        table.append([[round(test.estimate.value, 2), float(f"{next(corrected):.2g}")] if test else None for test in row])
    return table
