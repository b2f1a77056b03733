"""The section on each task."""

from report import wording
from report.evidence.comparison import Difference, Evidence
from report.page.charts import draw_strips
from report.page.names import Names
from report.wording import count, metric_title, plural, score


def task_view(evidence: Evidence, names: Names, task: str) -> dict:
    board = evidence.board
    cells = board.of_task(task)
    view = {"task": task, "title": board.task_title(task), "anchor": names.of_tasks[task]}
    view["tables"] = [
        {
            "protocol": protocol,
            "strips": draw_strips(evidence, task, protocol) if cells else None,
            "lines": [_line(evidence, names, method, task, protocol) for method in board.methods],
        }
        for protocol in board.protocols
    ]
    if not cells:
        return view | {"metric": "", "facts": "No cell of this task could be made.", "dataset": None}
    dataset, measured = cells[0]["ran_on"]["dataset"], cells[0]["measured"]
    metric, baseline = measured["metric"], measured["baseline"]
    rows = ", ".join(f"{split} {count(number)}" for split, number in sorted(dataset["rows"].items()))
    return view | {
        "metric": metric_title(metric),
        "facts": f"Rows: {rows}{' (partial data)' if dataset['partial'] else ''}. "
        f"A constant answer ({baseline['what']}) scores {score(baseline['metrics'][metric])}.",
        "dataset": dataset,
        "generated": cells[0]["ran_on"]["data"] == "generated",
    }


def _line(evidence: Evidence, names: Names, method: str, task: str, protocol: str) -> dict:
    """Return one method's line in a task's table."""
    board = evidence.board
    line = {"method": method, "title": board.title(method), "anchor": names.of_cells.get((method, task)), "reason": None}
    if status := evidence.status(method, task):
        reason = board.failed.get((method, task)) or _why_diverged(board.cell(method, task))
        return line | {"status": status, "reason": reason}
    scored, loss = evidence.score(method, task, protocol), evidence.loss(method, task, protocol)
    return line | {
        "status": None,
        "mean": scored.mean,
        "diverged": wording.diverged(scored.summary["n"], scored.summary["n_diverged"]),
        "interval": scored.interval,
        "loss": loss,
        "no_loss": _why_no_loss(evidence, method, task),
        "verdict": evidence.verdict(method, task, protocol),
        "test": loss and _described(loss),
        "drop": scored.drop,
        "teacher": scored.reference and board.title(scored.reference.method),
    }


def _described(loss: Difference) -> str | None:
    """Return how a loss was tested; None where it was not."""
    seeds = plural(loss.seeds, "seed")
    return None if loss.p is None else f"{loss.test}, {seeds}; uncorrected p {wording.probability(loss.p)}"


def _why_no_loss(evidence: Evidence, method: str, task: str) -> str:
    board = evidence.board
    if board.full_precision is None:
        return "no full precision"
    if method == board.full_precision:
        return "the reference"
    comparable = board.comparable(method, task) and board.scored(board.full_precision, task)
    return "no common seed" if comparable else "not comparable"


def _why_diverged(cell: dict | None) -> str | None:
    return cell and "; ".join(dict.fromkeys(seed["reason"] for seed in cell["measured"]["seeds"] if seed["reason"]))
