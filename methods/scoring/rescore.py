"""A second opinion: stored predictions scored again through `evaluate`, against what the run says of itself."""

from pathlib import Path

import numpy as np

from methods.common import files
from methods.common.errors import UserError
from methods.scoring import evaluate_metrics as metrics
from methods.tasks import data


def rescore(folder: Path, data_path: Path) -> list[str]:
    """One line for each protocol and metric; UserError where the run's own number differs."""
    run, task = files.read_json(folder / "run.json"), data.load(data_path)
    if run["status"] != "ok":
        raise UserError(f"{folder} has no scores: {run['status']} ({run['reason']}).")
    stored = np.load(folder / "predictions.npz", allow_pickle=False)
    lines = []
    for protocol, said in run["scores"].items():
        found = {}
        for number, split in enumerate(task.dev):
            scores = _score(run["request"]["task"], task, stored, protocol, split)
            found |= {name + ("_mm" if number else ""): value for name, value in scores.items()}
        for name, value in said["metrics"].items():
            if abs(found[name] - value) > 1e-6:
                raise UserError(
                    f"{folder}: {protocol} {name} is {found[name]:.4f}, but run.json says {value:.4f}: run it again."
                )
            lines.append(f"{protocol} {name} {value:.2f} confirmed")
    return lines


def _score(name: str, task: data.TaskData, stored, protocol: str, split: str) -> dict[str, float]:
    values = stored[f"{protocol}.{split}"]
    metric = metrics.load(name)
    if task.meta["kind"] != "span":
        predictions = values.argmax(1) if task.meta["kind"] == "classification" else values
        return metric.compute(predictions=predictions, references=stored[f"labels.{split}"])
    golds = {key: texts for key, _, texts in task.dev[split].texts["examples"]}
    ids, nulls = stored[f"{protocol}.{split}.ids"].tolist(), stored[f"{protocol}.{split}.null"].tolist()
    rows = [{"id": key, "prediction_text": text} for key, text in zip(ids, values.tolist(), strict=True)]
    extra = {}
    if (threshold := task.meta["span"]["null_threshold"]) is not None:
        rows = [{**row, "null_score": null} for row, null in zip(rows, nulls, strict=True)]
        extra = {"threshold": threshold}
    references = [{"id": key, "answers": {"text": golds[key], "answer_start": [0] * len(golds[key])}} for key in ids]
    return metric.compute(predictions=rows, references=references, **extra)
