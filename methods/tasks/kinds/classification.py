"""One class for a text or a pair of texts."""

import numpy as np

from methods.common.errors import UserError
from methods.scoring import metrics
from methods.tasks import text
from methods.tasks.data import pack
from methods.tasks.kinds import AGAIN, Kind, choices


class Classification(Kind):
    name = "classification"
    head = "sequence"
    metrics = tuple(metrics.CLASSIFICATION)
    usual_metrics = ("accuracy",)
    augmentable = True
    target = np.int64  # dtype of the labels

    def check_entry(self, entry, where):
        super().check_entry(entry, where)
        if len(entry["labels"]) < 2:
            raise UserError(f"{where}: labels: name two classes or more, such as [negative, positive].")
        if len(set(entry["labels"])) < len(entry["labels"]):
            raise UserError(f"{where}: labels: a name occurs twice.")

    def outputs(self, labels):
        return len(labels)

    def read_label(self, value, entry):
        labels = entry["labels"]
        name = value.strip() if isinstance(value, str) else str(value)
        if name in labels:
            return labels.index(name)
        number = _whole(value)
        if number is None:
            raise ValueError(f"unknown label {value!r:.40}. {choices(name, labels)}")
        if not 0 <= number < len(labels):
            raise ValueError(f"label {number} is out of range: write 0 to {len(labels) - 1} or one of {', '.join(labels)}")
        return number

    def check_rows(self, columns, entry, where):
        super().check_rows(columns, entry, where)
        legal = range(len(entry["labels"]))
        for number, label in enumerate(columns["label"]):
            if label not in legal:
                known = f"0 to {len(legal) - 1} ({', '.join(entry['labels'])})"
                raise UserError(f"{where}, row {number}: label {label!r} is none of {known}; {AGAIN}")

    def encode(self, columns, entry, max_length, tokenizer, split):
        closing = text.template(tokenizer).closing
        encodings = text.encode([columns[name] for name in entry["columns"]], max_length, tokenizer)
        targets = {"labels": np.asarray(columns["label"], self.target)} if "label" in columns else {}
        return pack([encoding.ids for encoding in encodings], text.first_segments(encodings, closing), targets=targets)

    def loss(self, logits, batch):
        import torch.nn.functional as F

        (scores,) = logits  # (B, labels)
        return F.cross_entropy(scores.float(), batch["labels"], reduction="none")

    def score(self, meta, split, predictions, names):
        return metrics.classification(names, predictions["values"].argmax(1), split.targets["labels"])

    def baseline(self, task):
        labels = task.meta["labels"]
        constant = int(np.bincount(task.train.targets["labels"]).argmax())
        one_hot = np.eye(len(labels))[constant]
        found = {name: {"values": np.tile(one_hot, (len(split), 1))} for name, split in task.dev.items()}
        return f"always {labels[constant]}", found

    def evaluate(self, meta, split, predictions, references, names):
        from methods.scoring.evaluate_metrics import Values

        metric = Values(metrics.classification, names, "int64")
        return metric.compute(predictions=predictions["values"].argmax(1), references=references["labels"])

    def answers(self, meta, split, outputs):
        logits = np.stack(outputs).astype(np.float64)  # (rows, labels)
        odds = np.exp(logits - logits.max(1, keepdims=True))
        found = []
        for row in odds / odds.sum(1, keepdims=True):
            probabilities = dict(zip(meta["labels"], row.tolist(), strict=True))
            label = meta["labels"][row.argmax()]
            found.append({"label": label, "probability": probabilities[label], "probabilities": probabilities})
        return found

    def page(self, answer):
        """Every label with its probability, the likeliest first."""
        return dict(sorted(answer["probabilities"].items(), key=lambda item: -item[1]))


def _whole(value) -> int | None:
    """The whole number that a file holds, as a number or in digits; None for anything else."""
    if isinstance(value, bool):
        return None
    if isinstance(value, str):
        digits = value.strip()
        return int(digits) if digits.removeprefix("-").isdecimal() and digits.isascii() and len(digits) < 20 else None
    if isinstance(value, float):
        return int(value) if value.is_integer() else None
    return value if isinstance(value, int) else None


KIND = Classification()
