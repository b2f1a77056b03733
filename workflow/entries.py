"""Entries of config/tasks.yaml: what they must hold, their defaults, and the user's files that they name."""

import difflib
import functools
import hashlib
import re
from pathlib import Path

KINDS = Path(__file__).resolve().parent.parent / "methods/tasks/kinds"
NAME = re.compile(r"[a-z][a-z0-9]*")
HUB = ("dataset", "revision", "config", "rows")  # where the rows of a hub task are
HUB_NEEDS = ("title", "suite", "averaged", "columns", "labels", "metrics", "max_length", "evaluate_every", "version")
SHOWN = ("title", "suite", "averaged")  # what tables show of a task, and no run depends on
EVALUATE_EVERY = 100  # steps, of a user's own task that names none
MODEL_FILES = ("config.json", "model.safetensors", "tokenizer.json", "vocab.txt", "tokenizer_config.json")


def problem(tasks) -> str | None:
    """Return one line for the first mistake that the schema cannot name well, or None."""
    for name, entry in tasks.items() if isinstance(tasks, dict) else ():
        if line := _problem(name, entry):
            return f"config/tasks.yaml: {line}"
    return None


def _problem(name, entry) -> str | None:
    if not NAME.fullmatch(str(name)):
        return f"{name!r} cannot be a task's name: use lower-case letters and digits, as in results/fp32_mytask.json."
    if not isinstance(entry, dict):
        return f"{name} is empty: write the task's keys below it, indented."
    own, hub = "files" in entry, [key for key in HUB if key in entry]
    if own and hub:
        return f"{name} has `files` and `{hub[0]}`: keep `files` for rows of your own, or `{'`, `'.join(HUB)}` for the hub."
    if not own and not hub:
        return f"{name} names no rows: add `files: {{train: my.csv, validation: my.csv}}`, or `{'`, `'.join(HUB)}`."
    for key in () if own else (*HUB, *HUB_NEEDS):
        if key not in entry:
            return f"{name} is a task of the hub and lacks `{key}`: add it."
    for key in ("suite", "averaged"):
        if own and entry.get(key):
            return f"{name}.{key}: a task of your own belongs to no suite: delete the key."
    return _wrong_value(name, entry)


def _wrong_value(name: str, entry: dict) -> str | None:
    kinds = sorted(path.stem for path in KINDS.glob("[a-z]*.py"))
    if "kind" in entry and entry["kind"] not in kinds:
        close = difflib.get_close_matches(str(entry["kind"]), kinds, n=1)
        guess = f"Did you mean {close[0]!r}? " if close else ""
        return f"{name}.kind: unknown kind {entry['kind']!r}. {guess}There are: {', '.join(kinds)}."
    labels = entry.get("labels")
    for label in labels if isinstance(labels, list) else ():
        if not isinstance(label, str):
            return f"{name}.labels: {label!r} is no text: write every label in quotes, such as 'yes' or '1'."
    bounds = entry.get("range")
    numbers = isinstance(bounds, list) and len(bounds) == 2 and all(isinstance(bound, int | float) for bound in bounds)
    if numbers and not bounds[0] < bounds[1]:
        return f"{name}.range: {bounds} is empty: write the lower bound first."
    return None


def completed(tasks: dict) -> dict:
    """Return the entries with defaults for the keys that tables and budgets read; a task's kind knows the others."""
    usual = {"suite": None, "averaged": False, "evaluate_every": EVALUATE_EVERY}
    return {name: usual | {"title": name} | entry for name, entry in tasks.items()}


def files_of(entry: dict) -> list[str]:
    """Return the paths of a task's own files of rows."""
    return list(dict.fromkeys(entry.get("files", {}).values()))


def model_files_of(entry: dict) -> list[str]:
    """Return the paths of a task's own model files that exist, and always those that no model can lack."""
    if "finetuned" not in entry:
        return []
    folder = Path(entry["finetuned"])
    return [str(folder / name) for name in MODEL_FILES if name in MODEL_FILES[:2] or (folder / name).is_file()]


def missing(paths: list[str], key: str) -> str | None:
    """Return one line for the first path that is no file, or None; `key` is where config/tasks.yaml names it."""
    for path in paths:
        if not Path(path).is_file():
            what = "is no file" if Path(path).exists() else "does not exist"
            return f"{path} {what}: correct `{key}` in config/tasks.yaml (paths start at the working directory)."
    return None


def digests(paths: list[str]) -> dict[str, str | None]:
    """Return the SHA-256 of each file by its path; None for one that is missing."""
    found = {}
    for path in paths:
        stat = Path(path).stat() if Path(path).is_file() else None
        found[path] = stat and _digest(path, stat.st_size, stat.st_mtime_ns)
    return found


@functools.cache
def _digest(path: str, size: int, changed: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
