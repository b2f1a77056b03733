"""The parts of an encoder by name: the one place that knows where transformers keeps them.

Edits, pruning, files and inspection speak of words, positions, layers, queries and poolers, and never of attribute names.
Another encoder of BERT's family is another `Anatomy` in ANATOMIES. Importing this needs no torch.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from methods.model.lean import modelling_file

if TYPE_CHECKING:
    from torch import nn

# Parts of a layer and the matrices that methods compress, as dotted paths below the layer.
PARTS = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "attention output": "attention.output.dense",
    "intermediate": "intermediate.dense",
    "output": "output.dense",
}

GUESSES = {
    "dense": "cls.predictions.transform.dense",
    "norm": "cls.predictions.transform.LayerNorm",
    "bias": "cls.predictions.bias",
}


@dataclass(frozen=True)
class Anatomy:
    """Paths below the base model, and the names of transformers' classes.

    `heads` are the classes by the kind of head: `sequence` scores a row, `span` a start and an end among its tokens,
    `token` every token. `skipped` positions at the start of the position table are never used. `segments`: whether the
    encoder tells first and second text apart by token types.
    """

    architecture: str  # transformers' model_type
    prefix: str  # of its classes
    words: str = "embeddings.word_embeddings"
    positions: str = "embeddings.position_embeddings"
    types: str = "embeddings.token_type_embeddings"
    layers: str = "encoder.layer"
    attention: str = "attention.self"  # below a layer, as are the next two
    feed_forward: str = "intermediate"
    parts: dict[str, str] = field(default_factory=lambda: PARTS)
    pooler: str | None = "pooler.dense"
    head_parameters: tuple[str, ...] = ("classifier.", "qa_outputs.")  # those of the task and of no pretrained model
    skipped: int = 0
    segments: bool = True
    # The masked-word head below the whole model: a dense map, LayerNorm, and the bias of scores by the word embedding.
    guesses: dict[str, str] = field(default_factory=lambda: GUESSES)

    def config_class(self) -> type:
        module = modelling_file(f"models.{self.architecture}.configuration_{self.architecture}")
        return getattr(module, f"{self.prefix}Config")

    def model_class(self, head: str) -> type:
        module = modelling_file(f"models.{self.architecture}.modeling_{self.architecture}")
        return getattr(module, self.prefix + HEADS[head])

    def place(self, name: str, depth: int) -> tuple[int, str]:
        """Layer (0 for the embeddings, depth + 1 behind the last) and part of a module's or parameter's dotted name."""
        if found := re.search(rf"{re.escape(self.layers)}\.(\d+)\.(.*)", name):
            path = found[2]
            part = next((part for part, start in self.parts.items() if f"{path}.".startswith(f"{start}.")), path)
            rest = path.removeprefix(self.parts.get(part, path)).strip(".")
            return int(found[1]) + 1, " ".join(filter(None, [part.replace(".", " "), rest.replace(".", " ")]))
        for part, path in (("word embedding", self.words), ("position embedding", self.positions)):
            if path in name:
                rest = name.partition(path)[2].strip(".")
                return 0, " ".join(filter(None, [part, rest.replace(".", " ")]))
        if self.pooler and self.pooler in name:
            rest = name.partition(self.pooler)[2].strip(".")
            return depth + 1, " ".join(filter(None, ["pooler", rest.replace(".", " ")]))
        return (depth + 1 if self.is_head(name) else 0), name.replace(".", " ")

    def group(self, name: str) -> str:
        """The group of a parameter in tables of sizes, as papers count them."""
        if self.is_head(name):
            return "head"
        for group, path in (
            ("word embedding", self.words),
            ("position embedding", self.positions),
            ("token-type embedding", self.types),
            ("pooler", "pooler"),
        ):
            if path in name:
                return group
        if "LayerNorm" in name:
            return "encoder LayerNorm" if self.layers in name else "embedding LayerNorm"
        return "encoder biases" if name.endswith("bias") else "encoder matrices"

    def is_head(self, name: str) -> bool:
        return name.startswith(self.head_parameters)


HEADS = {"sequence": "ForSequenceClassification", "span": "ForQuestionAnswering", "token": "ForTokenClassification"}
ANATOMIES = {
    "bert": Anatomy("bert", "Bert"),
    # RoBERTa (Liu et al. 2019): no token types, no pooler under its heads, and two positions that no token takes.
    "roberta": Anatomy(
        "roberta",
        "Roberta",
        pooler=None,
        skipped=2,
        segments=False,
        guesses={"dense": "lm_head.dense", "norm": "lm_head.layer_norm", "bias": "lm_head.bias"},
    ),
}


def anatomy(model: nn.Module) -> Anatomy:
    """The anatomy of a model of transformers."""
    return ANATOMIES[model.config.model_type]


class Layer:
    """One layer of an encoder by its parts."""

    def __init__(self, module: nn.Module, anatomy: Anatomy):
        self.module, self._anatomy = module, anatomy

    def __getitem__(self, part: str) -> nn.Module:
        return self.module.get_submodule(self._anatomy.parts[part])

    def __setitem__(self, part: str, replacement: nn.Module) -> None:
        self.module.set_submodule(self._anatomy.parts[part], replacement)

    @property
    def attention(self) -> nn.Module:
        return self.module.get_submodule(self._anatomy.attention)

    @property
    def feed_forward(self) -> nn.Module:
        """The module with the activation function between `intermediate` and `output`."""
        return self.module.get_submodule(self._anatomy.feed_forward)


def layers(model: nn.Module) -> list[Layer]:
    """The encoder's layers, first to last."""
    found = anatomy(model)
    return [Layer(module, found) for module in model.base_model.get_submodule(found.layers)]


def matrices(model: nn.Module) -> list[dict[str, nn.Module]]:
    """Return each layer's linear maps by their names in the model. Embeddings, pooler and head are in none."""
    found = anatomy(model)
    path = f"{model.base_model_prefix}.{found.layers}"
    return [
        {f"{path}.{at}.{found.parts[part]}": layer[part] for part in found.parts} for at, layer in enumerate(layers(model))
    ]


def pooler(model: nn.Module) -> str | None:
    """The path of the pooler's matrix below the base model; None where the model has none."""
    path = anatomy(model).pooler
    return path if path and getattr(model.base_model, path.partition(".")[0], None) is not None else None
