"""The section on each method: its scores, recipe and quantization error."""

from report.evidence.board import Board
from report.evidence.comparison import Evidence
from report.page.charts import draw_heat
from report.page.names import Names
from report.wording import bits, flat, plain, score


def method_view(evidence: Evidence, names: Names, method: str) -> dict:
    board = evidence.board
    cells = board.of_method(method)
    about, spec = cells[0]["about"]["method"], cells[0]["request"]["spec"]
    sources = spec.get("sources", {})
    recipe = [
        (name, _with_exceptions(board, cells, name), sources.get(name) or "the method's stanza")
        for name in spec.get("recipe", {})
    ]
    described = ("recipe", "sources", "title", "deviations", "paper")
    stanza = {key: value for key, value in spec.items() if key not in described}
    recipe += [(name, plain(value), "the method's stanza") for name, value in flat(stanza)]
    preset = cells[0]["request"]["preset"]
    recipe += [(name, plain(value), f"budget of preset {preset}") for name, value in flat(cells[0]["request"]["budget"])]
    errors = next((errors for cell in cells if (errors := cell["measured"].get("quantization_error"))), None)
    return {
        "method": method,
        "title": board.title(method),
        "anchor": names.of_methods[method],
        "family": board.family(method),
        "facts": f"{about['paper']}. Bits of weights, embeddings and activations: {bits(board.bits(method))}.",
        "scores": [_place(evidence, names, method, task) for task in board.tasks],
        "recipe": recipe,
        "deviations": about["deviations"],
        "heat": errors and draw_heat(errors),
    }


def _with_exceptions(board: Board, cells: list[dict], name: str) -> str:
    """Return a setting's value, and the tasks for which it is another."""
    tasks = {}
    for cell in cells:
        value = plain(cell["request"]["spec"]["recipe"].get(name))
        tasks.setdefault(value, []).append(board.task_title(cell["request"]["task"]))
    (common, _), *others = sorted(tasks.items(), key=lambda item: -len(item[1]))
    return common + "".join(f"; {value} for {', '.join(titles)}" for value, titles in others)


def _place(evidence: Evidence, names: Names, method: str, task: str) -> tuple[str, str | None, str]:
    """Return (task, anchor of the cell, number or status) for a method's line of links."""
    number = evidence.status(method, task) or score(evidence.score(method, task).mean)
    return evidence.board.task_title(task), names.of_cells.get((method, task)), number
