"""One number for a text or a pair of texts."""

import math

import numpy as np

from methods.common.errors import UserError
from methods.scoring import metrics
from methods.tasks.kinds import AGAIN, Kind
from methods.tasks.kinds.classification import Classification


class Regression(Classification):
    """As a class, but for a single output, its loss and its metrics. An entry's `range` bounds the labels."""

    name = "regression"
    metrics = tuple(metrics.REGRESSION)
    usual_metrics = ("spearman", "pearson")
    augmentable = True
    target = np.float32

    def check_entry(self, entry, where):
        Kind.check_entry(self, entry, where)
        if entry["labels"]:
            raise UserError(f"{where}: labels: a regression task has none; its labels are numbers.")

    def outputs(self, labels):
        return 1

    def read_label(self, value, entry):
        try:
            number = math.nan if isinstance(value, bool) else float(value)
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if not math.isfinite(number) or abs(number) > float(np.finfo(np.float32).max):
            raise ValueError(f"label {value!r:.40} is no finite number")
        if not _inside(number, entry):
            raise ValueError(f"label {value!r:.40} is out of range: write {_range(entry)}")
        return number

    def check_rows(self, columns, entry, where):
        Kind.check_rows(self, columns, entry, where)
        for number, label in enumerate(columns["label"]):
            if not (isinstance(label, float) and math.isfinite(label) and _inside(label, entry)):
                raise UserError(f"{where}, row {number}: label {label!r} is none of {_range(entry)}; {AGAIN}")

    def loss(self, logits, batch):
        import torch.nn.functional as F

        (scores,) = logits  # (B, 1)
        return F.mse_loss(scores.float().squeeze(1), batch["labels"], reduction="none")

    def predictions(self, split, outputs, meta):
        return {"values": np.stack(outputs).astype(np.float32)[:, 0]}  # (rows,)

    def score(self, meta, split, predictions, names):
        return metrics.regression(names, predictions["values"], split.targets["labels"])

    def baseline(self, task):
        mean = task.train.targets["labels"].mean()
        return f"always {mean:.2f}", {name: {"values": np.full(len(split), mean)} for name, split in task.dev.items()}

    def evaluate(self, meta, split, predictions, references, names):
        from methods.scoring.evaluate_metrics import Values

        metric = Values(metrics.regression, names, "float64")
        return metric.compute(predictions=predictions["values"], references=references["labels"])

    def answers(self, meta, split, outputs):
        return [{"value": float(value)} for (value,) in outputs]

    def page(self, answer):
        return answer


def _inside(number: float, entry: dict) -> bool:
    low, high = entry.get("range") or (-math.inf, math.inf)
    return low <= number <= high


def _range(entry: dict) -> str:
    low, high = entry.get("range") or (None, None)
    return "finite numbers" if low is None else f"numbers from {low:g} to {high:g}"


KIND = Regression()
