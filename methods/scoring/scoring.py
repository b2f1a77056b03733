"""From a model's outputs on the dev splits to the task's metrics, and what a constant answer would score."""

import numpy as np

from methods.scoring import answers
from methods.scoring import metrics as scores
from methods.tasks.data import Split, TaskData


def predictions(task: TaskData, outputs: dict[str, list[np.ndarray]]) -> dict[str, dict[str, np.ndarray]]:
    """Split -> arrays that are kept of a run: logits, or answer texts with ids and null-score differences."""
    found = {}
    for name, split in task.dev.items():
        if task.meta["kind"] == "span":
            found[name] = _answers(split, outputs[name], task.meta["span"])
        else:
            values = np.stack(outputs[name]).astype(np.float32)  # (rows, labels)
            found[name] = {"values": values[:, 0] if task.meta["kind"] == "regression" else values}
    return found


def score(task: TaskData, found: dict[str, dict[str, np.ndarray]]) -> dict[str, float]:
    """The task's metrics in its order, primary first; a second dev split's names carry `_mm` (MNLI mismatched)."""
    metrics = {}
    for number, (name, split) in enumerate(task.dev.items()):
        suffix = "_mm" if number else ""
        names = [metric.removesuffix(suffix) for metric in task.meta["metrics"] if metric.endswith("_mm") == bool(suffix)]
        metrics |= {metric + suffix: value for metric, value in _score(task.meta, split, found[name], names).items()}
    return {name: metrics[name] for name in task.meta["metrics"]}


def baseline(task: TaskData) -> dict:
    """What the best constant answer scores: the most frequent training label, the mean, or no answer."""
    kind, labels = task.meta["kind"], task.train.targets.get("labels")
    if kind == "span":
        what = "never an answer"
        found = {name: _silence(split) for name, split in task.dev.items()}
    elif kind == "regression":
        what = f"always {labels.mean():.2f}"
        found = {name: {"values": np.full(len(split), labels.mean())} for name, split in task.dev.items()}
    else:
        constant = int(np.bincount(labels).argmax())
        what = f"always {task.meta['labels'][constant]}"
        one_hot = np.eye(len(task.meta["labels"]))[constant]
        found = {name: {"values": np.tile(one_hot, (len(split), 1))} for name, split in task.dev.items()}
    return {"metrics": score(task, found), "what": what}


def references(task: TaskData) -> dict[str, np.ndarray]:
    """What predictions are compared with, to be stored beside them: labels of each dev split (spans carry ids)."""
    return {f"labels.{name}": split.targets["labels"] for name, split in task.dev.items() if "labels" in split.targets}


def kept(task: TaskData, found: dict[str, dict[str, np.ndarray]]) -> dict[str, dict[str, np.ndarray]]:
    """Predictions as they are stored: each answer to a question with its scores, so that nobody needs the golds later."""
    if task.meta["kind"] != "span":
        return found
    scored = {}
    for name, split in task.dev.items():
        score_each = scores.squad2_questions if _may_be_silent(task.meta) else scores.squad_questions
        questions = score_each(*_questions(task.meta, split, found[name]))
        scored[name] = found[name] | {metric: values.astype(np.float32) for metric, values in questions.items()}
    return scored


def _score(meta: dict, split: Split, found: dict[str, np.ndarray], names: list[str]) -> dict[str, float]:
    if meta["kind"] == "classification":
        return scores.classification(names, found["values"].argmax(1), split.targets["labels"])
    if meta["kind"] == "regression":
        return scores.regression(names, found["values"], split.targets["labels"])
    return (scores.squad2 if _may_be_silent(meta) else scores.squad)(*_questions(meta, split, found))


def _may_be_silent(meta: dict) -> bool:
    return meta["span"]["null_threshold"] is not None


def _questions(meta: dict, split: Split, found: dict[str, np.ndarray]) -> tuple:
    """Answers and golds by question; where there may be no answer, also null differences and their threshold."""
    golds = {key: texts for key, _, texts in split.texts["examples"]}
    texts, differences = (dict(zip(found["ids"].tolist(), found[key].tolist(), strict=True)) for key in ("values", "null"))
    return (texts, golds, differences, meta["span"]["null_threshold"]) if _may_be_silent(meta) else (texts, golds)


def span_logits(split: Split, outputs: list[np.ndarray]) -> tuple:
    """Start logits, end logits, windows and examples: what the functions of `answers` ask for."""
    contexts, examples = split.texts["contexts"], split.texts["examples"]
    return (
        [output[0] for output in outputs],
        [output[1] for output in outputs],
        answers.Windows(split.example, [split.chars[split.tokens(row)] for row in range(len(split))]),
        [answers.Example(key, contexts[number]) for key, number, _ in examples],
    )


def _answers(split: Split, outputs: list[np.ndarray], span: dict) -> dict[str, np.ndarray]:
    decoded = answers.decode(*span_logits(split, outputs), n_best=span["n_best"], max_answer_tokens=span["max_answer"])
    return {
        "ids": np.array(list(decoded)),
        "values": np.array([answer.text for answer in decoded.values()]),
        "null": np.array([answer.null_difference for answer in decoded.values()], np.float32),
    }


def _silence(split: Split) -> dict[str, np.ndarray]:
    ids = np.array([key for key, _, _ in split.texts["examples"]])
    return {"ids": ids, "values": np.full(len(ids), ""), "null": np.ones(len(ids), np.float32)}
