"""A user's own fine-tuned model: a folder of transformers', checked against the task and taken over with its head."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from methods.common.errors import UserError
from methods.model.anatomy import ANATOMIES
from methods.model.encoder import Base, import_base, read_config
from methods.tasks import kinds

LAST = re.compile(r"(classifier|out_proj)\.(weight|bias)$")  # of a head, the layer that has a row for each label
UNNAMED = re.compile(r"LABEL_\d+")  # what transformers calls a label that has no name


def load(folder: Path, task: dict) -> Base:
    """Return the model of `folder` as a base file with a head; `task` holds the entry's name, kind and labels."""
    if not folder.is_dir():
        raise UserError(
            f"{folder} is no folder: correct `finetuned` of {task['name']} in config/tasks.yaml (paths start at the working "
            "directory)."
        )
    kind, config = kinds.of(task["kind"]), read_config(folder)
    _check_architecture(folder, config, kind)
    outputs = kind.outputs(task["labels"])
    order = _order(folder, config, task, outputs)
    base = import_base(folder, {"source": "finetuned", "id": folder.name}, kind.head, outputs)
    for name, array in (base.weights | base.head).items():
        if not np.isfinite(array).all():
            raise UserError(f"{folder}/model.safetensors: {name!r} holds a number that is not finite: train it again.")
    _check_tokenizer(folder, base)
    head = {name: array[order] if LAST.search(name) else array for name, array in base.head.items()}
    return replace(base, head=head, source={**base.source, "revision": base.source["sha256"]})


def _check_architecture(folder: Path, config: dict, kind: kinds.Kind) -> None:
    wanted = ANATOMIES[config["model_type"]].model_class(kind.head).__name__
    stated = config.get("architectures") or [wanted]
    if wanted not in stated:
        raise UserError(
            f"{folder}/config.json describes a {stated[0]}, but a {kind.name} task needs a {wanted}: name another folder "
            "or correct the task's kind."
        )
    if config.get("problem_type") == "multi_label_classification":
        raise UserError(f"{folder} gives several labels to a text: only one label a text can be learned here.")


def _order(folder: Path, config: dict, task: dict, outputs: int) -> list[int]:
    """The model's output for each of the task's labels; one line where they do not fit."""
    named = config.get("id2label") or {str(number): f"LABEL_{number}" for number in range(2)}  # transformers' default
    try:
        names = [str(named[key]) for key in sorted(named, key=int)]
    except (TypeError, ValueError, AttributeError):
        raise UserError(f"{folder}/config.json: id2label must map numbers to names.") from None
    if not task["labels"]:
        if outputs == 1 and len(names) > 1:
            raise UserError(f"{folder} has {len(names)} outputs, but {task['name']} needs 1: correct the task's kind.")
        return list(range(outputs))
    if len(names) != outputs:
        raise UserError(
            f"{folder} has {len(names)} labels ({', '.join(names)[:60]}), but {task['name']} has {outputs} "
            f"({', '.join(task['labels'])[:60]}): correct `labels` in config/tasks.yaml."
        )
    if names == task["labels"] or all(UNNAMED.fullmatch(name) for name in names):
        return list(range(outputs))
    theirs = [name.casefold() for name in names]
    ours = [name.casefold() for name in task["labels"]]
    if sorted(theirs) != sorted(ours) or len(set(ours)) < len(ours):
        raise UserError(
            f"{folder} has the labels {', '.join(names)[:80]}, but {task['name']} has {', '.join(task['labels'])[:80]}: "
            "write the model's names into `labels` in config/tasks.yaml."
        )
    return [theirs.index(name) for name in ours]


def _check_tokenizer(folder: Path, base: Base) -> None:
    try:
        tokenizer = Tokenizer.from_str(base.tokenizer)
    except Exception as error:  # the library raises plain Exception
        reason = " ".join(str(error).split())[:120]
        raise UserError(f"The tokenizer of {folder} cannot be read ({reason}): save it again.") from None
    if (size := max(tokenizer.get_vocab().values()) + 1) > base.config["vocab_size"]:
        raise UserError(
            f"The tokenizer of {folder} has {size} tokens, but the model knows {base.config['vocab_size']}: name the folder "
            "where both were saved together."
        )
