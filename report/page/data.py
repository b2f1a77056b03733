"""The JSON that the page's scripts read: what the picker chooses from, and the difference of every two methods."""

from report.evidence.comparison import Difference, Evidence
from report.evidence.latency import NOT_MEASURED
from report.evidence.statistics import holm
from report.page.names import Names
from report.wording import bits, joined, plural

NOWHERE = 0  # in place of a null: four bytes fewer, and there are thousands


def script_data(evidence: Evidence, names: Names) -> dict:
    """Return what the scripts need besides the page itself. Protocols are "primary" and "other", as in the switch."""
    board = evidence.board
    scopes = _scopes(evidence)
    protocols = dict(zip(("primary", "other"), board.protocols, strict=True))
    return {
        "scopes": [{"name": name, "title": title} for name, (title, _) in scopes.items()],
        "reference": board.full_precision,
        "methods": [_method(evidence, names, method, scopes, protocols) for method in board.methods],
        "pairs": {
            task: {key: pairs(evidence, task, protocol) for key, protocol in protocols.items()} for task in board.tasks
        },
    }


def _scopes(evidence: Evidence) -> dict[str, tuple[str, list[str]]]:
    """Return titles and tasks of what the picker can choose by: the main tasks first, then each task alone."""
    board = evidence.board
    main = board.main_tasks()
    scopes = {f"task.{task}": (board.task_title(task), [task]) for task in board.tasks}
    if len(main) == 1:
        return {f"task.{main[0]}": scopes[f"task.{main[0]}"]} | scopes
    return {"main": (f"the mean of {joined([board.task_title(task) for task in main])}", main)} | scopes


def _method(evidence: Evidence, names: Names, method: str, scopes: dict, protocols: dict[str, str]) -> dict:
    return {
        "name": method,
        "title": evidence.board.title(method),
        "anchor": names.of_methods.get(method),
        "words": _words(evidence, method),
        "choices": {
            key: {scope: _choice(evidence, method, tasks, protocol) for scope, (_, tasks) in scopes.items()}
            for key, protocol in protocols.items()
        },
    }


def _choice(evidence: Evidence, method: str, tasks: list[str], protocol: str) -> dict:
    """Return a method's score, loss, size and time on the tasks, or why it cannot be chosen for them."""
    board = evidence.board
    average = evidence.average(method, tasks, protocol)
    if average.reason:
        return {"why": average.reason}
    if (lost := evidence.diverged(method, tasks))[0]:
        return {"why": f"{lost[0]} of {plural(lost[1], 'run')} diverged"}
    sizes = [cell["measured"]["size"] for task in tasks if (cell := board.cell(method, task))]
    size = max((size["file"]["bytes"] for size in sizes if size), default=None)
    speed = board.latencies.speed(method, tasks)
    choice = {"score": round(average.value, 2), "mib": size and round(size / 2**20, 2)}
    choice |= {"ms": None, "slow": _untimed(speed)} if isinstance(speed, str) else {"ms": float(f"{speed.milliseconds:.3g}")}
    if method == board.full_precision:
        choice["lost"] = 0
    elif average.loss:
        choice["lost"] = round(average.loss.value, 2)
        if ends := average.loss.interval:
            choice["interval"] = [round(end, 1) for end in ends]
    return choice


def _untimed(reason: str) -> str:
    if reason in (NOT_MEASURED, "not all tasks"):
        return "latency not measured" + (" on all tasks" if reason != NOT_MEASURED else "")
    return f"latency {reason.partition(':')[0]}" if reason.startswith("measured") else f"latency not measured: {reason}"


def _words(evidence: Evidence, method: str) -> str:
    """Return the text that the filter searches for a method."""
    board = evidence.board
    words = [method, board.title(method)]
    for about in (cell["about"]["method"] for cell in board.of_method(method)[:1]):
        words += [bits(board.bits(method)), about["family"], board.family(method).title, about["paper"]]
    words += [status for task in board.tasks if (status := evidence.status(method, task))]
    return " ".join(dict.fromkeys(words)).lower()


def pairs(evidence: Evidence, task: str, protocol: str) -> dict[str, list]:
    """Return points lost, half the width of the 95 % interval, and p of every method, by the method it is compared with.

    The tests against one method are corrected by Holm.
    """
    methods = evidence.board.methods
    found = {}
    for baseline in methods:
        row = [evidence.pair(method, baseline, task, protocol) for method in methods]
        if any(row):
            corrected = iter(holm(difference.p for difference in row if difference))
            found[baseline] = [_pair(difference, next(corrected)) if difference else NOWHERE for difference in row]
    return found


def _pair(difference: Difference, p: float) -> list[float]:
    low, high = difference.interval
    return [round(-difference.value, 2), round((high - low) / 2, 2), float(f"{p:.2g}")]
