"""Anchors of the page's methods, tasks and cells."""

import re

from report.evidence.board import Board


class Names:
    """Anchors: readable where a name is harmless, and harmless where it is not."""

    def __init__(self, board: Board):
        self.methods = _slugs(board.methods)
        self.tasks = _slugs(board.tasks)
        self.of_methods = {method: f"method-{slug}" for method, slug in self.methods.items() if board.of_method(method)}
        self.of_tasks = {task: f"task-{slug}" for task, slug in self.tasks.items()}
        self.of_cells = {
            (method, task): f"{self.methods[method]}_{self.tasks[task]}"
            for method, task in board.places
            if board.cell(method, task)
        }


def _slugs(names: list[str]) -> dict[str, str]:
    slugs = {name: re.sub(r"[^A-Za-z0-9_]+", "-", name) for name in names}
    return {name: slug if slug == name else f"{slug}-{number}" for number, (name, slug) in enumerate(slugs.items())}
