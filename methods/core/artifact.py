"""The model artefact of a run: one sealed file that holds a model whole, and the arithmetic of its size."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers.models.bert.configuration_bert import BertConfig

from methods.core.bert import HEADS, bert, known
from methods.core.files import read_sealed, write_sealed
from methods.errors import UserError

# Group of a parameter by a part of its name; the first that fits. The papers count sizes by these groups.
GROUPS = {
    "word_embeddings": "word embedding",
    "position_embeddings": "position embedding",
    "token_type_embeddings": "token-type embedding",
    "embeddings.LayerNorm": "embedding LayerNorm",
    "pooler": "pooler",
    "LayerNorm": "encoder LayerNorm",
    "classifier.": "head",
    "qa_outputs.": "head",
    "bias": "encoder biases",
    "weight": "encoder matrices",
}


def save(path: Path, weights: Mapping[str, Tensor], config: BertConfig, meta: dict) -> str:
    """Write a model with what is needed to use it; the SHA-256 of the file."""
    arrays = {name: tensor.detach().cpu().numpy() for name, tensor in weights.items()}
    architecture = known(config.to_dict())
    return write_sealed(path, arrays, {"format": 1, "status": "ok", "config": architecture, **meta})


def save_diverged(path: Path, meta: dict) -> str:
    """A run that diverged has no model; its file says so, so that descendants can be told."""
    return write_sealed(path, {}, {"format": 1, "status": "diverged", **meta})


def load(path: Path) -> tuple[nn.Module, dict]:
    """The model of an artefact, ready to score or to start another run from, and the artefact's meta."""
    arrays, meta = read_sealed(path)
    if meta.get("status") != "ok":
        raise UserError(f"{path} holds no model: its run diverged.")
    model = bert(BertConfig(**meta["config"]), meta["kind"], len(meta["labels"]))
    model.load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items()})
    return model, meta


def size(weights: Mapping[str, Tensor], file: Path) -> dict:
    """The three sizes of a model, and the bytes by group.

    `paper_bytes` follows the papers: no task head. `counted_bytes` counts every number that is stored. `file_bytes` is
    what lies on the disk. `fp32_bytes` is the paper's size of the same model in full precision, to form ratios with.
    """
    groups: dict[str, dict[str, int]] = {}
    for name, tensor in weights.items():
        group = groups.setdefault(_group(name), {"parameters": 0, "bytes": 0})
        group["parameters"] += tensor.numel()
        group["bytes"] += tensor.numel() * tensor.element_size()
    body = {name: tensor for name, tensor in weights.items() if not name.startswith(HEADS)}
    return {
        "paper_bytes": sum(tensor.numel() * tensor.element_size() for tensor in body.values()),
        "counted_bytes": sum(group["bytes"] for group in groups.values()),
        "file_bytes": file.stat().st_size,
        "fp32_bytes": 4 * sum(tensor.numel() for tensor in body.values()),
        "parameters": sum(group["parameters"] for group in groups.values()),
        "groups": groups,
    }


def _group(name: str) -> str:
    return next(group for part, group in GROUPS.items() if part in name)
