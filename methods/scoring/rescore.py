"""A second opinion: stored predictions scored again through `evaluate`, against the scores in run.json."""

import zipfile
import zlib
from pathlib import Path

import numpy as np

from methods.common import files
from methods.common.errors import UserError
from methods.tasks import data


def rescore(folder: Path, data_path: Path) -> list[str]:
    """Return one line for each protocol and metric; raise UserError where the run's own number differs."""
    run, task = read_run(folder), read_task(data_path)
    if run["status"] != "ok":
        raise UserError(f"{folder} has no scores: {run['status']} ({run['reason']}).")
    if run["request"]["task"] != task.meta["task"]:
        raise UserError(f"{folder} is a run on {run['request']['task']}: name the data of that task, not {data_path}.")
    stored = read_predictions(folder / "predictions.npz", run["files"]["predictions.npz"])
    lines = []
    for protocol, recorded in run["scores"].items():
        try:
            scores = _scores(task, protocol, stored)
        except (KeyError, ValueError) as error:
            raise UserError(
                f"{folder}: its predictions are not those of {data_path} ({' '.join(str(error).split())}): name the data "
                "of this run, or make the run again."
            ) from None
        for name, value in recorded["metrics"].items():
            if abs(scores[name] - value) > 1e-6:
                raise UserError(
                    f"{folder}: {protocol} {name} is {scores[name]:.4f}, but run.json says {value:.4f}: run it again."
                )
            lines.append(f"{protocol} {name} {value:.2f} confirmed")
    return lines


def read_task(path: Path) -> data.TaskData:
    """Return a task file; one line for a sealed file of another kind."""
    _, meta = files.read_sealed(path, names=())
    if not {"task", "data"} <= meta.keys():
        raise UserError(f"{path} is no task file: name the results/PRESET/data/TASK.safetensors of the run.")
    return data.load(path)


def read_run(folder: Path) -> dict:
    """Return the content of run.json; one line where it is no record of a run."""
    path = folder / "run.json"
    if not path.is_file():
        raise UserError(f"{path} is missing: name the folder of a finished run.")
    run = files.read_json(path)
    if isinstance(run, dict) and run.get("status") == "ok" and run.get("scores", "") is None:
        raise UserError(f"{folder} is a search: it has no model and no scores. Name a run of a method that uses it.")
    try:
        complete = run["status"] != "ok" or (run["scores"].keys() and run["files"]["predictions.npz"])
        complete = complete and run["request"]["task"] and "reason" in run
    except (TypeError, KeyError, AttributeError):
        complete = False
    if not complete:
        raise UserError(f"{path} is no record of a run: delete it and run the same command again.")
    return run


def read_predictions(path: Path, sha256: str) -> dict[str, np.ndarray]:
    """Return all arrays of a predictions file; one line where it is damaged or not the recorded one."""
    damaged = f"{path} is damaged: delete the run.json beside it and make the run again."
    if not path.is_file():
        raise UserError(f"{path} is missing: delete the run.json beside it and make the run again.")
    if files.sha256_file(path) != sha256:
        raise UserError(damaged)
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        raise UserError(damaged) from None


def _scores(task: data.TaskData, protocol: str, stored: dict[str, np.ndarray]) -> dict[str, float]:
    """The task's metrics of a protocol's stored predictions, through `evaluate`."""

    def of(split_name: str, split: data.Split, names: list[str]) -> dict[str, float]:
        own = f"{protocol}.{split_name}"
        parts = {name.removeprefix(f"{own}."): array for name, array in stored.items() if name.startswith(f"{own}.")}
        predictions = {"values": stored[own], **parts}
        known = {name.removesuffix(f".{split_name}"): name for name in task.references() if name.endswith(f".{split_name}")}
        references = {part: stored[name] for part, name in known.items()}
        return task.kind.evaluate(task.meta, split, predictions, references, names)

    return task.by_split(of)
