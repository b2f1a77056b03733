"""What a finished model answers to texts from outside, through the code that tokenised and scored its dev set."""

import json
import math
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from methods.common.errors import UserError
from methods.common.files import sha256
from methods.model import artifact
from methods.run import accelerate
from methods.scoring import answers, scoring
from methods.tasks import encode
from methods.tasks.data import Split
from methods.training.trainer import predict

GENERAL = ("text", "pair")  # what a line of input may call the texts of any task
UNANSWERED = {"text": [], "answer_start": []}  # how SQuAD writes that there is no gold answer


class Predictor:
    """A model file with its tokenizer, ready to be asked."""

    def __init__(self, path: Path, base: Path | None = None):
        model, self.meta = artifact.load(path)
        self.tokenizer = Tokenizer.from_str(tokenizer_of(path, self.meta, base))
        self.accelerator, _, _ = accelerate("fp32")
        self.model = model.to(self.accelerator.device)

    def texts(self, given: list, where: str = "") -> tuple[str, ...]:
        """The texts of one row, if they are those that the task takes; `where` begins the line that refuses them."""
        columns = self.meta["columns"]
        if len(given) != len(columns):
            count = f"{len(columns)} text{'s' if len(columns) > 1 else ''}"
            names = ", then ".join(columns)
            raise UserError(f"{where}{self.meta['task']} takes {count} ({names}), and {len(given)} can be found.")
        for name, text in zip(columns, given, strict=True):
            if not isinstance(text, str):
                raise UserError(f"{where}{name} is no text but {json.dumps(text)[:40]}.")
            if any("\ud800" <= letter <= "\udfff" for letter in text):
                raise UserError(f"{where}{name} is no valid Unicode text: write it in UTF-8.")
        return tuple(given)

    def __call__(self, rows: list[tuple[str, ...]]) -> list[dict]:
        """The answer to each row.

        Where a model takes the range of its activations from the batch (min-max), the rows asked together matter a
        little, as they do in scoring.
        """
        columns = dict(zip(self.meta["columns"], map(list, zip(*rows, strict=True)), strict=True))
        if self.meta["kind"] == "span":
            columns |= {"id": [str(number) for number in range(len(rows))], "answers": [UNANSWERED] * len(rows)}
        shape = {key: self.meta[key] for key in ("padding", "max_length")}
        split = encode.tokenise(columns, self.meta, self.meta["max_length"], self.tokenizer, "request")
        outputs = predict(self.model, split, accelerator=self.accelerator, exact=True, **shape)
        return READINGS[self.meta["kind"]](self.meta, split, outputs)

    def lines(self, lines: Iterable[bytes], batch_size: int) -> Iterator[str]:
        """An answer as a line of JSON for each line of JSON, in order, as soon as a batch is full."""
        for batch in _batches(self._rows(lines), batch_size):
            for answer in self(batch):
                yield json.dumps(answer, ensure_ascii=False)

    def _rows(self, lines: Iterable[bytes]) -> Iterator[tuple[str, ...]]:
        columns = self.meta["columns"]
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                row = None
            if not isinstance(row, dict):
                example = json.dumps({name: "..." for name in columns})
                raise UserError(f"line {number} of the input is no JSON object: write lines such as {example}.")
            own = [row[name] for name in columns if name in row]
            given = own or [row[name] for name in GENERAL if row.get(name) is not None]
            yield self.texts(given, f"line {number} of the input: ")


def tokenizer_of(path: Path, meta: dict, base: Path | None) -> str:
    """The tokenizer that a model was trained with, from the base model file: `base`, or the nearest that has it."""
    here = Path("results") / meta["preset"] / "base.safetensors"
    places = [base] if base else [*(folder / here.name for folder in path.resolve().parents), here]
    found = [place for place in places if base or place.is_file()]
    for place in found:
        if sha256((text := encode.read_tokenizer(place)).encode()) == meta["tokenizer"]["sha256"]:
            return text
    wrong = f"{found[0]} has another one" if found else f"no {here.name} stands in a folder above it, nor {here}"
    raise UserError(
        f"{path} needs the tokenizer of {meta['tokenizer']['id']}, and {wrong}: "
        f"make {here} with `python -m methods base --preset {meta['preset']}`, or name it with --base FILE."
    )


def page(answer: dict) -> str:
    """An answer for people: labels with their probabilities, the likeliest first, or what else an answer holds."""
    told = answer
    if "label" in answer:
        told = dict(sorted(answer["probabilities"].items(), key=lambda item: -item[1]))
    elif "answer" in answer:
        told = {**answer, "answer": answer["answer"] or "(none)"}
    width = max(map(len, told))
    shown = {name.replace("_", " "): value if isinstance(value, str) else f"{value:.4f}" for name, value in told.items()}
    return "\n".join(f"{name:<{width}}  {value}" for name, value in shown.items())


def _labels(meta: dict, split: Split, outputs: list[np.ndarray]) -> list[dict]:
    logits = np.stack(outputs).astype(np.float64)  # (rows, labels)
    odds = np.exp(logits - logits.max(1, keepdims=True))
    found = []
    for row in odds / odds.sum(1, keepdims=True):
        probabilities = dict(zip(meta["labels"], row.tolist(), strict=True))
        label = meta["labels"][row.argmax()]
        found.append({"label": label, "probability": probabilities[label], "probabilities": probabilities})
    return found


def _values(meta: dict, split: Split, outputs: list[np.ndarray]) -> list[dict]:
    return [{"value": float(value)} for (value,) in outputs]


def _spans(meta: dict, split: Split, outputs: list[np.ndarray]) -> list[dict]:
    """Answers, with their probabilities among all spans and, where questions may have none, "no answer"."""
    span, logits = meta["span"], scoring.span_logits(split, outputs)
    limits = {"n_best": span["n_best"], "max_answer_tokens": span["max_answer"]}
    decoded = answers.decode(*logits, **limits, null_threshold=span["null_threshold"])
    mass = answers.log_mass(*logits, max_answer_tokens=span["max_answer"])
    return [_span(answer, mass[key], silence=span["null_threshold"] is not None) for key, answer in decoded.items()]


def _span(answer: answers.Answer, mass: float, silence: bool) -> dict:
    null = answer.score + answer.null_difference
    score = answer.score if answer.text else null
    # Without any span (an empty passage) silence is all that is left, whatever the task.
    total = float(np.logaddexp(mass, null)) if silence or not answer.text else mass
    found = {"answer": answer.text, "probability": math.exp(score - total), "score": score}
    return {**found, "no_answer": math.exp(null - total)} if silence else found


READINGS = {"classification": _labels, "regression": _values, "span": _spans}


def _batches(rows: Iterator[tuple], size: int) -> Iterator[list[tuple]]:
    """Lists of `size` rows; those before a mistake are still answered."""
    batch: list[tuple] = []
    try:
        for row in rows:
            batch.append(row)
            if len(batch) == size:
                yield batch
                batch = []
    except UserError:
        if batch:
            yield batch
        raise
    if batch:
        yield batch
