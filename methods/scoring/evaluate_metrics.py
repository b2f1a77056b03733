"""The scores as Hugging Face `evaluate` metrics: `load("mrpc").compute(predictions=..., references=...)`.

`evaluate.load` looks for a script in the current directory, then downloads one, and runs what it finds.
These metrics are imported like any other code instead: nothing is looked up, fetched or left behind. The
figures are those of `scores.py`, in percent and under the same names.
"""

import tempfile
from collections.abc import Iterable

import evaluate
from datasets import Features, List, Value

from methods.scoring import metrics as scores

GLUE = {
    "cola": ("matthews", "accuracy"),
    "sst2": ("accuracy",),
    "mrpc": ("accuracy", "f1"),
    "stsb": ("spearman", "pearson"),
    "qqp": ("accuracy", "f1"),
    "mnli": ("accuracy",),
    "qnli": ("accuracy",),
    "rte": ("accuracy",),
    "wnli": ("accuracy",),
}


def load(task: str) -> evaluate.Metric:
    """The metric of one of the eleven tasks."""
    if task in GLUE:
        return Glue(task)
    if task in SQUAD:
        return SQUAD[task]()
    raise ValueError(f"no metric for task {task!r} (there are {', '.join([*GLUE, *SQUAD])})")


class _InMemory(evaluate.Metric):
    """A metric that keeps what it is given in memory and leaves no file or folder."""

    def __init__(self, config_name: str | None = None):
        # evaluate makes its cache folder even when it will not use it
        with tempfile.TemporaryDirectory() as unused:
            super().__init__(config_name, keep_in_memory=True, cache_dir=unused)


class Glue(_InMemory):
    """The scores of one GLUE task, which is the configuration's name."""

    def _info(self) -> evaluate.MetricInfo:
        if self.config_name not in GLUE:
            raise ValueError(f"no GLUE task {self.config_name!r} (there are {', '.join(GLUE)})")
        names = ", ".join(GLUE[self.config_name])
        value = Value("float64" if self.config_name == "stsb" else "int64")
        return evaluate.MetricInfo(
            description=f"The scores of GLUE's {self.config_name}, in percent: {names}.",
            citation=_GLUE_CITATION,
            inputs_description="predictions: class indices (stsb: similarities). references: likewise.",
            features=Features(predictions=value, references=value),
            reference_urls=["https://gluebenchmark.com"],
        )

    def _compute(self, predictions, references) -> dict[str, float]:
        score = scores.regression if self.config_name == "stsb" else scores.classification
        return score(GLUE[self.config_name], predictions, references)


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


SQUAD = {"squad": SquadV1, "squad2": SquadV2}


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


_GLUE_CITATION = """\
@inproceedings{wang2019glue,
  title = {{GLUE}: A Multi-Task Benchmark and Analysis Platform for Natural Language Understanding},
  author = {Wang, Alex and Singh, Amanpreet and Michael, Julian and Hill, Felix and Levy, Omer and
            Bowman, Samuel R.},
  booktitle = {International Conference on Learning Representations},
  year = {2019}
}"""

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
