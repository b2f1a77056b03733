"""An answer cut from a passage, as in SQuAD: a row of the model is a window, and several windows may share a question."""

import math

import numpy as np
from tokenizers import Tokenizer

from methods.common.errors import UserError
from methods.scoring import answers, metrics
from methods.tasks import text
from methods.tasks.data import Split, pack
from methods.tasks.kinds import AGAIN, Kind, text_of

OPTIONS = {"stride": 128, "max_question": 64, "max_answer": 30, "n_best": 20, "null_threshold": None}
UNANSWERED = {"text": [], "answer_start": []}  # how SQuAD writes that there is no gold answer
WITH_ANSWERS = ("f1", "exact")
WITH_SILENCE = (
    *WITH_ANSWERS,
    *(f"{group}_{name}" for group in ("hasans", "noans") for name in WITH_ANSWERS),
    *(f"best_{name}{part}" for name in WITH_ANSWERS for part in ("", "_threshold")),
)


class Span(Kind):
    name = "span"
    head = "span"
    metrics = WITH_SILENCE
    usual_metrics = WITH_ANSWERS
    usual_columns = ("question", "context")
    max_length = 384
    suffixes = (".jsonl", ".parquet")

    def complete(self, entry):
        return super().complete(entry) | {"span": OPTIONS | (entry.get("span") or {})}

    def check_entry(self, entry, where):
        super().check_entry(entry, where)
        if entry["columns"] != list(self.usual_columns):
            raise UserError(f"{where}: columns: a span task has [question, context], the names of SQuAD.")
        if entry["labels"]:
            raise UserError(f"{where}: labels: a span task has none; its answers are parts of the passage.")
        if not entry.get("span"):
            raise UserError(f"{where}: span: a span task needs its options: {', '.join(OPTIONS)}.")
        if not _silence_allowed(entry) and (others := [name for name in entry["metrics"] if name not in WITH_ANSWERS]):
            raise UserError(
                f"{where}: metrics: {others[0]!r} is for tasks whose questions may have no answer: set span.null_threshold."
            )

    def outputs(self, labels):
        return 2

    def columns(self, entry):
        return ["id", *entry["columns"], "answers"]

    def read_row(self, row, entry):
        question, context = (text_of(row[name], name) for name in self.usual_columns)
        if not isinstance(key := row["id"], str | int) or isinstance(key, bool) or key == "":
            raise ValueError(f"column 'id' holds {key!r:.40}: give each question an id of its own")
        given = _answers(row["answers"], context)
        if not given["text"] and not _silence_allowed(entry):
            raise ValueError(
                "the question has no answer: delete the row, or set `span: {null_threshold: 0.0}` for the task if "
                "questions may have none"
            )
        return {"id": str(key), "question": question, "context": context, "answers": given}

    def check_rows(self, columns, entry, where):
        super().check_rows(columns, entry, where)
        for number, (context, gold) in enumerate(zip(columns["context"], columns["answers"], strict=True)):
            for answer, start in zip(gold["text"], gold["answer_start"], strict=True):
                if context[start : start + len(answer)] != answer:
                    raise UserError(
                        f"{where}, row {number}: the answer {answer[:40]!r} does not stand at character {start} of its "
                        f"passage; {AGAIN}"
                    )

    def unlabelled(self, columns):
        count = len(columns["question"])
        return columns | {"id": [str(number) for number in range(count)], "answers": [UNANSWERED] * count}

    def encode(self, columns, entry, max_length, tokenizer, split):
        return windows(columns, entry["span"], max_length, tokenizer, split)

    def loss(self, logits, batch):
        """Cross-entropy of the start and of the end, halved."""
        import torch.nn.functional as F

        from methods.tasks.losses import real

        pair = zip(logits, (batch["start"], batch["end"]), strict=True)
        losses = [F.cross_entropy(real(scores, batch), target, reduction="none") for scores, target in pair]
        return (losses[0] + losses[1]) / 2

    def soft_loss(self, student, teacher, batch):
        from methods.tasks.losses import real, soft

        return sum(soft(real(ours, batch), real(theirs, batch)) for ours, theirs in zip(student, teacher, strict=True))

    def predictions(self, split, outputs, meta):
        span = meta["span"]
        limits = {"n_best": span["n_best"], "max_answer_tokens": span["max_answer"]}
        decoded = answers.decode(*_logits(split, outputs), **limits)
        return {
            "ids": np.array(list(decoded)),
            "values": np.array([answer.text for answer in decoded.values()]),
            "null": np.array([answer.null_difference for answer in decoded.values()], np.float32),
        }

    def score(self, meta, split, predictions, names):
        score = metrics.squad2 if _silence_allowed(meta) else metrics.squad
        return score(*_questions(meta, split, predictions))

    def baseline(self, task):
        return "never an answer", {name: _silence(split) for name, split in task.dev.items()}

    def references(self, task):
        return {}  # a question has several right answers: scores are stored instead, see `stored`

    def stored(self, meta, split, predictions):
        """Each answer with its scores, so that nobody needs the gold answers later."""
        score = metrics.squad2_questions if _silence_allowed(meta) else metrics.squad_questions
        questions = score(*_questions(meta, split, predictions))
        return predictions | {metric: values.astype(np.float32) for metric, values in questions.items()}

    def evaluate(self, meta, split, predictions, references, names):
        from methods.scoring.evaluate_metrics import SquadV1, SquadV2

        golds = {key: texts for key, _, texts in split.texts["examples"]}
        ids, texts, nulls = (predictions[part].tolist() for part in ("ids", "values", "null"))
        rows = [{"id": key, "prediction_text": answer} for key, answer in zip(ids, texts, strict=True)]
        known = [{"id": key, "answers": {"text": golds[key], "answer_start": [0] * len(golds[key])}} for key in ids]
        if not _silence_allowed(meta):
            return SquadV1().compute(predictions=rows, references=known)
        rows = [{**row, "null_score": null} for row, null in zip(rows, nulls, strict=True)]
        return SquadV2().compute(predictions=rows, references=known, threshold=meta["span"]["null_threshold"])

    def answers(self, meta, split, outputs):
        """Answers with their probabilities among all spans and, where questions may have none, of "no answer"."""
        span, logits = meta["span"], _logits(split, outputs)
        limits = {"n_best": span["n_best"], "max_answer_tokens": span["max_answer"]}
        decoded = answers.decode(*logits, **limits, null_threshold=span["null_threshold"])
        mass = answers.log_mass(*logits, max_answer_tokens=span["max_answer"])
        return [_answer(answer, mass[key], _silence_allowed(meta)) for key, answer in decoded.items()]

    def page(self, answer):
        return {**answer, "answer": answer["answer"] or "(none)"}


def windows(columns: dict[str, list], span: dict, max_length: int, tokenizer: Tokenizer, split: str) -> Split:
    """[CLS] question [SEP] window [SEP], a window every `stride` tokens of the passage, as in BERT's own SQuAD code.

    A training window that does not hold the whole answer points at the first token. Dev windows remember their characters.
    """
    opening, middle, closing = text.template(tokenizer)
    questions = tokenizer.encode_batch(columns["question"], add_special_tokens=False)
    numbers = {context: number for number, context in enumerate(dict.fromkeys(columns["context"]))}
    contexts = [
        (context.ids, np.asarray(context.offsets, np.int32).reshape(-1, 2))
        for context in tokenizer.encode_batch(list(numbers), add_special_tokens=False)
    ]  # an encoding makes its lists anew each time it is asked
    rows, first, starts, ends, examples, chars = [], [], [], [], [], []
    for example, question in enumerate(questions):
        context, offsets = contexts[numbers[columns["context"][example]]]
        head = [*opening, *question.ids[: span["max_question"]], *middle]
        room = max_length - len(head) - len(closing)
        if room < 1:
            raise UserError(f"max_length {max_length} leaves no room for a passage: raise budget.max_length.")
        gold = _gold_tokens(columns["answers"][example], offsets)
        begin = 0
        while True:
            length = min(room, len(context) - begin)
            rows.append([*head, *context[begin : begin + length], *closing])
            first.append(len(head))
            inside = gold and begin <= gold[0] and gold[1] < begin + length
            starts.append(gold[0] - begin + len(head) if inside else 0)
            ends.append(gold[1] - begin + len(head) if inside else 0)
            examples.append(example)
            outside = np.full((1, 2), -1, np.int32)
            chars += [np.repeat(outside, len(head), 0), offsets[begin : begin + length], np.repeat(outside, len(closing), 0)]
            if begin + length >= len(context):
                break
            begin += min(length, span["stride"])
    if split == "train":
        return pack(rows, first, targets={"start": np.asarray(starts, np.int64), "end": np.asarray(ends, np.int64)})
    golds = [sorted(set(gold["text"])) for gold in columns["answers"]]
    listed = [
        [columns["id"][example], numbers[columns["context"][example]], golds[example]] for example in range(len(questions))
    ]
    return pack(
        rows,
        first,
        example=np.asarray(examples, np.int32),
        chars=np.concatenate(chars),
        texts={"contexts": list(numbers), "examples": listed},
    )


def _gold_tokens(gold: dict, offsets: np.ndarray) -> tuple[int, int] | None:
    """First and last token that the first gold answer touches; None without an answer."""
    if not gold["text"]:
        return None
    start, stop = gold["answer_start"][0], gold["answer_start"][0] + len(gold["text"][0])
    touched = np.flatnonzero((offsets[:, 0] < stop) & (offsets[:, 1] > start))
    return (int(touched[0]), int(touched[-1])) if len(touched) else None


def _answers(value, context: str) -> dict:
    """The gold answers of a row of a user's file; ValueError says what is wrong with them."""
    form = 'write {"text": ["..."], "answer_start": [0]}'
    if not isinstance(value, dict) or not {"text", "answer_start"} <= value.keys():
        raise ValueError(f"column 'answers' is not in SQuAD's form: {form}")
    texts, starts = (list(value[key]) if isinstance(value[key], list) else None for key in ("text", "answer_start"))
    if texts is None or starts is None or len(texts) != len(starts):
        raise ValueError(f"column 'answers' needs as many texts as starts, in lists: {form}")
    for answer, start in zip(texts, starts, strict=True):
        if not isinstance(answer, str) or not isinstance(start, int) or isinstance(start, bool) or start < 0:
            raise ValueError(f"column 'answers' needs texts and the character (from 0) where each begins: {form}")
        if not answer or context[start : start + len(answer)] != answer:
            raise ValueError(f"the answer {answer[:40]!r} does not stand at character {start} of the passage")
    return {"text": texts, "answer_start": starts}


def _silence_allowed(meta: dict) -> bool:
    """Return whether questions may have no answer."""
    return meta["span"]["null_threshold"] is not None


def _questions(meta: dict, split: Split, found: dict[str, np.ndarray]) -> tuple:
    """Answers and golds by question; where there may be no answer, also null differences and their threshold."""
    golds = {key: texts for key, _, texts in split.texts["examples"]}
    texts, differences = (dict(zip(found["ids"].tolist(), found[key].tolist(), strict=True)) for key in ("values", "null"))
    return (texts, golds, differences, meta["span"]["null_threshold"]) if _silence_allowed(meta) else (texts, golds)


def _logits(split: Split, outputs: list[np.ndarray]) -> tuple:
    """Start logits, end logits, windows and examples: the arguments of the functions in `answers`."""
    contexts, examples = split.texts["contexts"], split.texts["examples"]
    return (
        [output[0] for output in outputs],
        [output[1] for output in outputs],
        answers.Windows(split.example, [split.chars[split.tokens(row)] for row in range(len(split))]),
        [answers.Example(key, contexts[number]) for key, number, _ in examples],
    )


def _silence(split: Split) -> dict[str, np.ndarray]:
    ids = np.array([key for key, _, _ in split.texts["examples"]])
    return {"ids": ids, "values": np.full(len(ids), ""), "null": np.ones(len(ids), np.float32)}


def _answer(answer: answers.Answer, mass: float, silence: bool) -> dict:
    null = answer.score + answer.null_difference
    score = answer.score if answer.text else null
    # Without any span (an empty passage) silence is all that is left, whatever the task.
    total = float(np.logaddexp(mass, null)) if silence or not answer.text else mass
    found = {"answer": answer.text, "probability": math.exp(score - total), "score": score}
    return {**found, "no_answer": math.exp(null - total)} if silence else found


KIND = Span()
