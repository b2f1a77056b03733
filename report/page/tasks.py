"""The section on each task."""

from report import wording
from report.evidence.comparison import Evidence
from report.page.charts import draw_strips
from report.page.names import Names
from report.tables.suites import Entry
from report.wording import count, metric_title, plural, score


def task_view(evidence: Evidence, names: Names, task: str, entries: dict[tuple, Entry]) -> dict:
    board = evidence.board
    cells = board.of_task(task)
    view = {
        "task": task,
        "title": board.task_title(task),
        "anchor": names.of_tasks[task],
        "lines": [_line(evidence, names, method, task, entries) for method in board.methods],
    }
    if not cells:
        facts = "No cell of this task could be made."
        return view | {"metric": "", "facts": facts, "dataset": None, "strips": None}
    dataset, measured = cells[0]["ran_on"]["dataset"], cells[0]["measured"]
    metric, baseline = measured["metric"], measured["baseline"]
    rows = ", ".join(f"{split} {count(number)}" for split, number in sorted(dataset["rows"].items()))
    return view | {
        "metric": metric_title(metric),
        "facts": f"Rows: {rows}{' (partial data)' if dataset['partial'] else ''}. "
        f"A constant answer ({baseline['what']}) scores {score(baseline['metrics'][metric])}.",
        "dataset": dataset,
        "strips": draw_strips(evidence, task),
    }


def _line(evidence: Evidence, names: Names, method: str, task: str, entries: dict[tuple, Entry]) -> dict:
    """Return one method's line in a task's table."""
    board = evidence.board
    line = {"method": method, "title": board.title(method), "anchor": names.of_cells.get((method, task)), "reason": None}
    if status := evidence.status(method, task):
        return line | {
            "status": status,
            "reason": board.failed.get((method, task)) or _why_diverged(board.cell(method, task)),
        }
    scored = evidence.score(method, task)
    test = scored.difference
    return line | {
        "status": None,
        "mean": scored.mean,
        "diverged": wording.diverged(scored.summary["n"], scored.summary["n_diverged"]),
        "interval": scored.interval,
        "change": None if scored.drop is None else -scored.drop,
        "p": entries[board.primary, method, task].p,
        "test": test and f"{test.test}, {plural(test.seeds, 'seed')}; uncorrected p {wording.probability(test.p)}",
    }


def _why_diverged(cell: dict | None) -> str | None:
    return cell and "; ".join(dict.fromkeys(seed["reason"] for seed in cell["measured"]["seeds"] if seed["reason"]))
