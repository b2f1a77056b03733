"""Rows to task file: checked, tokenised once, and written with where they come from."""

from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from methods.common.errors import UserError
from methods.common.files import read_sealed, sha256, write_sealed
from methods.tasks import kinds, sources
from methods.tasks.data import flatten
from methods.tasks.kinds import Columns


def write_task(
    path: Path, request: dict, tokenizer_json: str, splits: dict[str, Columns], base_path: Path | None = None
) -> None:
    """Tokenise the rows of every split and write the task file; `base_path` is read where training rows are augmented."""
    kind = kinds.of(request["entry"]["kind"])
    entry = kind.complete(request["entry"])
    kind.check_entry(entry, f"config/tasks.yaml: {request['task']}")
    source = sources.of(request)
    counts = {name: len(next(iter(columns.values()))) for name, columns in splits.items()}
    for name, columns in splits.items():
        if not counts[name]:
            raise UserError(f"{source.name}: split {name!r} is empty; {source.remedy}")
        kind.check_rows(columns, entry, f"{source.place}, split {name}")
    fingerprint = sources.fingerprint(splits)
    official = source.official_rows or dict(counts)
    if request["train_rows"] and request["train_rows"] < counts["train"]:
        splits = {**splits, "train": _subset(splits["train"], request["train_rows"])}
        counts["train"] = request["train_rows"]
    if source.own:
        official = dict(counts)  # nobody else counts these rows: they are never partial
    held_out = request["source"].get("held_out")
    facts = {"held_out": held_out} if held_out else {}
    if settings := request.get("augmentation"):
        from methods.tasks import augment

        kind.check_augmentable(request["task"])
        vectors = Path(request["vectors"]) if request["vectors"] else None
        train, found = augment.augmented(splits["train"], entry["columns"], settings, base_path, vectors)
        splits, facts = {**splits, "train": train}, {**facts, "augmentation": {**settings, **found}}
    max_length = min(entry["max_length"], request["max_length"] or entry["max_length"])
    tokenizer = Tokenizer.from_str(tokenizer_json)
    tokenizer.no_padding()
    encoded = {name: kind.encode(columns, entry, max_length, tokenizer, name) for name, columns in splits.items()}
    meta = {
        "task": request["task"],
        "dev": [name for name in splits if name != "train"],
        "max_length": max_length,
        **{key: entry.get(key) for key in ("kind", "labels", "metrics", "span", "columns")},
        "tokenizer": sha256(tokenizer_json.encode()),
        "data": {
            **source.provenance,
            "fingerprint": fingerprint,
            "rows": counts,
            "official_rows": official,
            "partial": counts != official or bool(held_out),
            "task_version": entry["version"],
            **facts,
        },
    }
    arrays = {key: array for name, split in encoded.items() for key, array in flatten(name, split).items()}
    write_sealed(path, arrays, meta)


def read_tokenizer(path: Path) -> str:
    """Return the tokenizer of a base model file, as JSON, without reading the model."""
    arrays, _ = read_sealed(path, names=("tokenizer",))
    if "tokenizer" not in arrays:
        raise UserError(f"{path} is no base model file: name the base.safetensors of a preset.")
    return arrays["tokenizer"].tobytes().decode()


def _subset(columns: Columns, count: int) -> Columns:
    """The first `count` rows of one fixed random order: a fair sample, the same for every method and seed."""
    order = np.random.default_rng(0).permutation(len(next(iter(columns.values()))))[:count]
    return {name: [values[row] for row in order] for name, values in columns.items()}
