"""Text to task file: tokenisation, segments, truncation, and SQuAD's sliding windows."""

from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from methods.common.errors import UserError
from methods.common.files import read_sealed, sha256, write_sealed
from methods.tasks import hub
from methods.tasks.data import Split, flatten, pack

LABELS = {"classification": np.int64, "regression": np.float32}


def write_task(path, request: dict, tokenizer_json: str, splits: dict[str, dict[str, list]]) -> None:
    """Tokenise the rows of every split and write the task file with its provenance."""
    entry = request["entry"]
    dev = [name for name in entry["rows"] if name != "train"]
    counts = {name: len(next(iter(columns.values()))) for name, columns in splits.items()}
    for name, columns in splits.items():
        if not counts[name]:
            raise UserError(f"{entry['dataset']} ({entry['config']}): split {name!r} is empty; copy it from the hub again.")
        hub.check_rows(columns, entry, f"{entry['dataset']}/{entry['config']}, split {name}")
    generated = request["source"]["source"] == "generated"
    official = dict(counts) if generated else entry["rows"]
    fingerprint = hub.fingerprint(splits)
    if request["train_rows"] and request["train_rows"] < counts["train"]:
        splits = {**splits, "train": _subset(splits["train"], request["train_rows"])}
        counts["train"] = request["train_rows"]
    tokenizer = Tokenizer.from_str(tokenizer_json)
    encoded = {name: tokenise(columns, entry, request["max_length"], tokenizer, name) for name, columns in splits.items()}
    data = {
        "source": request["source"]["source"],
        "dataset": "generated demo data" if generated else entry["dataset"],
        "config": entry["config"],
        "revision": f"seed {request['source']['seed']}" if generated else entry["revision"],
        "fingerprint": fingerprint,
        "rows": counts,
        "official_rows": official,
        "partial": counts != official,
        "task_version": entry["version"],
    }
    meta = {
        "task": request["task"],
        "dev": dev,
        "max_length": request["max_length"],
        **{key: entry.get(key) for key in ("kind", "labels", "metrics", "span", "columns")},
        "tokenizer": sha256(tokenizer_json.encode()),
        "data": data,
    }
    arrays = {key: array for name, split in encoded.items() for key, array in flatten(name, split).items()}
    write_sealed(path, arrays, meta)


def tokenise(columns: dict[str, list], entry: dict, max_length: int, tokenizer: Tokenizer, split: str) -> Split:
    """Rows of text as a model sees them, in training, in scoring and when a person asks it."""
    tokenizer.no_padding()
    return (_windows if entry["kind"] == "span" else _sentences)(columns, entry, max_length, tokenizer, split)


def read_tokenizer(path: Path) -> str:
    """The tokenizer of a base model file, as JSON, without reading the model."""
    arrays, _ = read_sealed(path, names=("tokenizer",))
    if "tokenizer" not in arrays:
        raise UserError(f"{path} is no base model file: name the base.safetensors of a preset.")
    return arrays["tokenizer"].tobytes().decode()


def _subset(columns: dict[str, list], count: int) -> dict[str, list]:
    """The first `count` rows of one fixed random order: a fair sample, the same for every method and seed."""
    order = np.random.default_rng(0).permutation(len(next(iter(columns.values()))))[:count]
    return {name: [values[row] for row in order] for name, values in columns.items()}


def _sentences(columns, entry, max_length: int, tokenizer: Tokenizer, split: str) -> Split:
    """[CLS] first [SEP] (second [SEP]), the longer text cut first."""
    tokenizer.enable_truncation(max_length, strategy="longest_first")
    texts = [columns[name] for name in entry["columns"]]
    encodings = tokenizer.encode_batch(list(zip(*texts, strict=True)) if len(texts) == 2 else texts[0])
    first = [encoding.type_ids.index(1) if 1 in encoding.type_ids else len(encoding.ids) for encoding in encodings]
    targets = {"labels": np.asarray(columns["label"], LABELS[entry["kind"]])} if "label" in columns else {}
    return pack([encoding.ids for encoding in encodings], first, targets=targets)


def _windows(columns, entry, max_length: int, tokenizer: Tokenizer, split: str) -> Split:
    """[CLS] question [SEP] window [SEP], a window every `stride` tokens of the passage, as in BERT's own SQuAD code.

    A training window that does not hold the whole answer points at [CLS]. Dev windows remember their characters.
    """
    span = entry["span"]
    tokenizer.no_truncation()
    opening, closing = tokenizer.token_to_id("[CLS]"), tokenizer.token_to_id("[SEP]")
    questions = tokenizer.encode_batch(columns["question"], add_special_tokens=False)
    numbers = {context: number for number, context in enumerate(dict.fromkeys(columns["context"]))}
    contexts = tokenizer.encode_batch(list(numbers), add_special_tokens=False)
    rows, first, starts, ends, examples, chars = [], [], [], [], [], []
    for example, question in enumerate(questions):
        context = contexts[numbers[columns["context"][example]]]
        head = [opening, *question.ids[: span["max_question"]], closing]
        room = max_length - len(head) - 1
        if room < 1:
            raise UserError(f"max_length {max_length} leaves no room for a passage: raise budget.max_length.")
        offsets = np.asarray(context.offsets, np.int32).reshape(-1, 2)
        gold = _gold_tokens(columns["answers"][example], offsets)
        begin = 0
        while True:
            length = min(room, len(context.ids) - begin)
            rows.append([*head, *context.ids[begin : begin + length], closing])
            first.append(len(head))
            inside = gold and begin <= gold[0] and gold[1] < begin + length
            starts.append(gold[0] - begin + len(head) if inside else 0)
            ends.append(gold[1] - begin + len(head) if inside else 0)
            examples.append(example)
            outside = np.full((1, 2), -1, np.int32)
            chars += [np.repeat(outside, len(head), 0), offsets[begin : begin + length], outside]
            if begin + length >= len(context.ids):
                break
            begin += min(length, span["stride"])
    if split == "train":
        return pack(rows, first, targets={"start": np.asarray(starts, np.int64), "end": np.asarray(ends, np.int64)})
    golds = [sorted(set(answers["text"])) for answers in columns["answers"]]
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


def _gold_tokens(answers: dict, offsets: np.ndarray) -> tuple[int, int] | None:
    """First and last token that the first gold answer touches; None without an answer."""
    if not answers["text"]:
        return None
    start, stop = answers["answer_start"][0], answers["answer_start"][0] + len(answers["text"][0])
    touched = np.flatnonzero((offsets[:, 0] < stop) & (offsets[:, 1] > start))
    return (int(touched[0]), int(touched[-1])) if len(touched) else None
