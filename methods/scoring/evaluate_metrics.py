"""The scores as Hugging Face `evaluate` metrics: `SquadV1().compute(predictions=..., references=...)`.

`evaluate.load` looks for a script in the current directory, then downloads one, and runs what it finds. These metrics are
imported like any other code instead: nothing is looked up, fetched or left behind. The figures are those of `metrics.py`,
in percent and under the same names. Which task uses which metric is its kind's to say.
"""

import tempfile
from collections.abc import Callable, Iterable

import evaluate
from datasets import Features, List, Value

from methods.scoring import metrics as scores


class _InMemory(evaluate.Metric):
    """A metric that keeps its input in memory and leaves no file or folder."""

    def __init__(self, config_name: str | None = None):
        # evaluate makes its cache folder even when it will not use it
        with tempfile.TemporaryDirectory() as unused:
            super().__init__(config_name, keep_in_memory=True, cache_dir=unused)


class Values(_InMemory):
    """Scores of one value a row: `score(names, predictions, references)` of `metrics`."""

    def __init__(self, score: Callable, names: Iterable[str], dtype: str):
        self.values, self.score, self.names = Value(dtype), score, list(names)
        super().__init__()

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=f"In percent: {', '.join(self.names)}.",
            citation="",
            inputs_description="predictions: one value a row, such as a class index. references: likewise.",
            features=Features(predictions=self.values, references=self.values),
        )

    def _compute(self, predictions, references) -> dict[str, float]:
        return self.score(self.names, predictions, references)


class SquadV1(_InMemory):
    """Word F1 and exact match of SQuAD v1.1."""

    def _info(self) -> evaluate.MetricInfo:
        return _squad_info("F1 and exact match of answers, in percent.", _SQUAD_CITATION, {})

    def _compute(self, predictions, references) -> dict[str, float]:
        return scores.squad(_by_id(predictions, "prediction_text"), _golds(references))


class SquadV2(_InMemory):
    """F1 and exact match of SQuAD v2: overall, by group and at the best thresholds."""

    def _info(self) -> evaluate.MetricInfo:
        description = "F1 and exact match, in percent, where some questions have no answer."
        return _squad_info(description, _SQUAD2_CITATION, {"null_score": Value("float64")})

    def _compute(self, predictions, references, threshold: float = 0.0) -> dict[str, float]:
        texts, null_scores = (_by_id(predictions, column) for column in ("prediction_text", "null_score"))
        return scores.squad2(texts, _golds(references), null_scores, threshold)


def _squad_info(description: str, citation: str, extra: dict[str, Value]) -> evaluate.MetricInfo:
    text = Value("string")
    return evaluate.MetricInfo(
        description=description,
        citation=citation,
        inputs_description="predictions: one row per question, the best non-empty answer as text"
        f"{' with its null score' if extra else ''}. references: id and answers as in the hub's rows.",
        features=Features(
            predictions={"id": text, "prediction_text": text, **extra},
            references={"id": text, "answers": {"text": List(text), "answer_start": List(Value("int32"))}},
        ),
        reference_urls=["https://rajpurkar.github.io/SQuAD-explorer"],
    )


def _golds(references: Iterable[dict]) -> dict[str, list[str]]:
    return {key: answers["text"] for key, answers in _by_id(references, "answers").items()}


def _by_id(rows: Iterable[dict], column: str) -> dict:
    table = {}
    for row in rows:
        if row["id"] in table:
            raise ValueError(f"question {row['id']!r} is there twice")
        table[row["id"]] = row[column]
    return table


_SQUAD_CITATION = """\
@inproceedings{rajpurkar2016squad,
  title = {{SQuAD}: 100,000+ Questions for Machine Comprehension of Text},
  author = {Rajpurkar, Pranav and Zhang, Jian and Lopyrev, Konstantin and Liang, Percy},
  booktitle = {Conference on Empirical Methods in Natural Language Processing},
  pages = {2383--2392},
  year = {2016}
}"""

_SQUAD2_CITATION = """\
@inproceedings{rajpurkar2018know,
  title = {Know What You Don't Know: Unanswerable Questions for {SQuAD}},
  author = {Rajpurkar, Pranav and Jia, Robin and Liang, Percy},
  booktitle = {Annual Meeting of the Association for Computational Linguistics (Short Papers)},
  pages = {784--789},
  year = {2018}
}"""
