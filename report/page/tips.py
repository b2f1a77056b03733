"""The tips of the plots: what a point's method is, what it scored and lost, and what it costs, in written form.

The scripts put a tip together from three parts, so that nothing is on the page twice: the method's own facts, its costs in
each scope, and its score and loss in each scope under each protocol. A scope is a task, or "" for the mean of the main plot.
"""

from report.evidence.comparison import Difference, Evidence
from report.evidence.verdicts import Verdict
from report.wording import bits, mebibytes, milliseconds, plural, score

SIZES = {"file": "on disk", "counted": "counted", "paper": "as papers count"}


def tips(evidence: Evidence) -> dict:
    """Return the parts of all tips."""
    board = evidence.board
    methods, setting = [method for method in board.methods if board.of_method(method)], board.latencies.setting
    scopes = {"": board.main_tasks()} | {task: [task] for task in board.tasks}
    results = {}
    for name, protocol in zip(("primary", "other"), board.protocols, strict=True):
        averages = evidence.verdicts_of_averages(board.main_tasks(), protocol)
        results[name] = {
            scope: {
                method: lines
                for method in methods
                if (
                    lines := _average(evidence, method, protocol, averages.get(method))
                    if scope == "" and len(tasks) > 1
                    else _score(evidence, method, tasks[0], protocol)
                )
            }
            for scope, tasks in scopes.items()
        }
    return {
        "device": setting and setting.title,
        "methods": {method: _facts(evidence, method) for method in methods},
        "costs": {
            scope: {method: costs for method in methods if (costs := _costs(evidence, method, tasks))}
            for scope, tasks in scopes.items()
        },
        "results": results,
    }


def _facts(evidence: Evidence, method: str) -> dict:
    board = evidence.board
    sizes = [cell["measured"]["size"] for cell in board.of_method(method) if cell["measured"]["size"]]
    facts = {"title": board.title(method), "bits": f"{bits(board.bits(method))} bits (weights, embeddings, activations)"}
    for convention, words in SIZES.items() if sizes else ():
        largest = max(size[convention]["bytes"] for size in sizes)
        ratio = board.ratio(method, convention)
        smaller = "" if method == board.full_precision else f", {score(ratio)}× smaller"
        facts[convention] = f"{mebibytes(largest)} {words}{smaller}"
    return facts


def _costs(evidence: Evidence, method: str, tasks: list[str]) -> list[str | None] | None:
    """Return time and memory, where they were measured on the device of the plots."""
    speed = evidence.board.latencies.speed(method, [task for task in tasks if evidence.board.cell(method, task)])
    if isinstance(speed, str):
        return None
    return [f"{milliseconds(speed.milliseconds)} a sentence", speed.memory and f"{mebibytes(speed.memory)} of memory"]


def _average(evidence: Evidence, method: str, protocol: str, verdict: Verdict | None) -> list[str] | None:
    board, average = evidence.board, evidence.average(method, evidence.board.main_tasks(), protocol)
    if average.reason:
        return None
    lost = evidence.diverged(method, board.main_tasks())[0]
    lines = [_measured(average.value, average.interval), loss_text(board.full_precision == method, average.loss, verdict)]
    return [line for line in (*lines, _diverged(lost)) if line]


def _score(evidence: Evidence, method: str, task: str, protocol: str) -> list[str] | None:
    board, scored = evidence.board, evidence.score(method, task, protocol)
    if scored is None or scored.mean is None:
        return None
    loss, verdict = evidence.loss(method, task, protocol), evidence.verdict(method, task, protocol)
    lines = [_measured(scored.mean, scored.interval), loss_text(board.full_precision == method, loss, verdict)]
    return [line for line in (*lines, _diverged(scored.summary["n_diverged"])) if line]


def _measured(value: float, interval: tuple[float, float] | None) -> str:
    return f"{score(value)} (95 % CI {score(interval[0])} to {score(interval[1])})" if interval else score(value)


def loss_text(is_full: bool, loss: Difference | None, verdict: Verdict | None) -> str:
    """Return points lost or gained with their interval, and the verdict where there is one."""
    if is_full:
        return "full precision: losses count from here"
    if loss is None:
        return "not comparable with full precision"
    low, high = loss.interval or (None, None)
    if loss.value < 0:  # written as a gain, so that no reader has to turn a sign around
        low, high = (None, None) if low is None else (-high, -low)
    interval = "" if low is None else f" (95 % CI {score(low)} to {score(high)})"
    text = f"{score(abs(loss.value))} points {'gained' if loss.value < 0 else 'lost'}{interval}"
    return f"{text}: {verdict.text}" if verdict and verdict.text else text


def _diverged(number: int) -> str:
    return f"{plural(number, 'diverged seed')}: not ranked" if number else ""
