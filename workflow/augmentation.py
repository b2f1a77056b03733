"""Data augmentation in the configuration: its defaults, and what it refuses."""

import ast
import functools

from workflow.entries import KINDS

# Copies of a text (code: TinyBERT/data_augmentation.py, default_params); of a task that the paper has not, ours.
COPIES = {"cola": 30, "mnli": 10, "mrpc": 30, "sst2": 20, "stsb": 30, "qqp": 10, "qnli": 20, "rte": 30}
OTHER_COPIES = 20
# Share and candidates are the code's options p and M; the seed is ours.
DEFAULTS = {"tasks": None, "methods": None, "copies": None, "share": 0.4, "candidates": 15, "seed": 0, "vectors": None}


def completed(settings: dict | None) -> dict | None:
    """Return the settings with a value for every key; None where nothing is augmented."""
    return None if settings is None else DEFAULTS | settings


def copies(settings: dict, task: str) -> int:
    return settings["copies"] or COPIES.get(task, OTHER_COPIES)


def refusal(task: str, kind: str) -> str | None:
    """Return one line for a task whose rows cannot be augmented, or None."""
    if augmentable(kind):
        return None
    return (
        f"augmentation: {task} cannot be augmented, because the targets of its kind, {kind}, are in the text itself. Name "
        "the tasks to augment in augmentation.tasks, without this one."
    )


@functools.cache
def augmentable(kind: str) -> bool:
    """Return whether a kind of tasks says in its file that words of its rows may be substituted."""
    tree = ast.parse((KINDS / f"{kind}.py").read_text(encoding="utf-8"))
    return any(
        isinstance(line, ast.Assign) and ast.unparse(line) == "augmentable = True"
        for node in tree.body
        if isinstance(node, ast.ClassDef)
        for line in node.body
    )
