"""The model artefact of a run: one sealed file that holds a model packed, and the arithmetic of its size."""

import contextlib
import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from transformers.initialization import no_init_weights
from transformers.models.bert.configuration_bert import BertConfig

from methods.core.bert import HEADS, bert, known
from methods.core.files import read_sealed, write_sealed
from methods.core.structure import WEIGHT_SPECS, edit, edits
from methods.errors import UserError
from methods.kernel import packing
from methods.kernel.layers import Quantized

FORMAT = 3  # of the description in a file's header
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


def save(path: Path, model: nn.Module, meta: dict, ternary: str = "bits") -> str:
    """Write a model packed, with what is needed to use it; the SHA-256 of the file.

    A weight on a grid is stored as codes of its true width and their steps, everything else as it is. `ternary: trits`
    packs codes of three levels five to a byte instead of four.
    """
    arrays, packed = {}, {}
    for name, layer in _on_grid(model).items():
        quantizer = layer.weight_quantizer
        with torch.no_grad():
            grid = quantizer.encode(layer.weight)
        base3 = ternary == "trits" and quantizer.levels == 3
        codes = (grid.codes.sub_(quantizer.codes_from) / quantizer.codes_by).to(torch.uint8)
        bits = (quantizer.levels - 1).bit_length()
        packed[name] = {
            "shape": list(grid.codes.shape),
            "bits": bits,
            "from": quantizer.codes_from,
            "by": quantizer.codes_by,
            "packing": "trits" if base3 else "bits",
        }
        arrays[f"{name}.codes"] = (packing.pack_trits(codes) if base3 else packing.pack(codes, bits)).numpy()
        arrays[f"{name}.step"] = grid.step.detach().float().cpu().numpy()
    arrays |= {name: tensor.detach().cpu().numpy() for name, tensor in _plain(model).items()}
    architecture = known(model.config.to_dict())
    structure = {"config": architecture, "edits": edits(model), "packed": packed}
    return write_sealed(path, arrays, {"format": FORMAT, "status": "ok", **structure, **meta})


def save_diverged(path: Path, meta: dict) -> str:
    """A run that diverged has no model; its file says so, so that descendants can be told."""
    return write_sealed(path, {}, {"format": FORMAT, "status": "diverged", **meta})


def read(path: Path) -> tuple[dict[str, np.ndarray], dict]:
    """What a model file holds, packed as it is, and its meta; one line for a file that holds no model."""
    arrays, meta = read_sealed(path)
    if "status" not in meta:
        raise UserError(f"{path} is no model file: name the last.safetensors or best.safetensors of a run.")
    if meta["format"] != FORMAT:
        raise UserError(f"{path} was written by another version of this project: make it again with this one.")
    if meta["status"] != "ok":
        raise UserError(f"{path} holds no model, because its run diverged: {meta['reason']}.")
    return arrays, meta


def save_latent(path: Path, model: nn.Module | None) -> str:
    """Write what `save` rounds away: latent weights and what their quantizers have learned; nothing without a model."""
    arrays = {}
    if model is not None:
        stored = _plain(model)
        arrays = {name: tensor.cpu().numpy() for name, tensor in model.state_dict().items() if name not in stored}
    return write_sealed(path, arrays, {"format": FORMAT})


def load(path: Path, latent: Path | None = None) -> tuple[nn.Module, dict]:
    """The model of an artefact, ready to score or to start another run from, and the artefact's meta.

    Its weights lie on their grids already, so they need no quantizer; those of the activations are in place. With the
    file of its `latent` weights the model is as it was in training: these weights, under their quantizers.
    """
    arrays, meta = read(path)
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    codes = {name: (tensors.pop(f"{name}.codes"), tensors.pop(f"{name}.step")) for name in meta["packed"]}
    with contextlib.nullcontext() if latent else no_init_weights():  # quantizers of weights are made for numbers
        model = bert(BertConfig(**meta["config"]), meta["kind"], len(meta["labels"]))
    for step in meta["edits"]:
        edit(model, **(step if latent else _without_weight_quantizers(step)))
    if latent:
        tensors |= {name: torch.from_numpy(array) for name, array in read_sealed(latent)[0].items()}
        expected = model.state_dict()
    else:
        with torch.no_grad():
            for name, packed in codes.items():
                _unpack(model, name, meta["packed"][name], *packed)
        expected = {name: tensor for name, tensor in _plain(model).items() if name not in codes}
    if tensors.keys() != expected.keys():
        odd = sorted(tensors.keys() ^ expected.keys())[0]
        raise UserError(f"{path} does not fit its own description ({odd!r}): make it again.")
    with torch.no_grad():
        for name, tensor in tensors.items():
            expected[name].copy_(tensor)
    return model, meta


def _on_grid(model: nn.Module) -> dict[str, Quantized]:
    """The layers whose weights lie on a grid, by the name of the weight."""
    layers = {name: module for name, module in model.named_modules() if isinstance(module, Quantized)}
    return {f"{name}.weight": layer for name, layer in layers.items() if layer.weight_quantizer is not None}


def _plain(model: nn.Module) -> dict[str, Tensor]:
    """The tensors that are stored as they are: all but the weights on grids and what their quantizers remember.

    The learned ranges of activations are among them: with these the file computes what training computed.
    """
    packed = _on_grid(model)
    quantizers = tuple(f"{name}_quantizer." for name in packed)
    return {
        name: tensor for name, tensor in model.state_dict().items() if name not in packed and not name.startswith(quantizers)
    }


def _without_weight_quantizers(step: dict) -> dict:
    return {key: value for key, value in step.items() if key not in WEIGHT_SPECS}


def _unpack(model: nn.Module, name: str, entry: dict, codes: Tensor, step: Tensor) -> None:
    """Decode into the model's own memory: codes * step, the product that the quantizer computed."""
    weight, count = model.get_parameter(name), math.prod(entry["shape"])
    whole = (
        packing.unpack_trits(codes, count) if entry["packing"] == "trits" else packing.unpack(codes, entry["bits"], count)
    )
    weight.copy_(whole.reshape(entry["shape"])).mul_(entry["by"]).add_(entry["from"]).mul_(step)


def size(path: Path) -> dict:
    """The three sizes of a model file, and the bytes by group.

    `paper_bytes` follows the papers: no task head, no scales, codes at their width. `counted_bytes` counts every number
    that is stored and the file's description of itself, from shapes and bits alone; `file_bytes` is what lies on the
    disk. `fp32_bytes` is the paper's size of the model as it was before any edit, in full precision, to form ratios with.
    """
    arrays, meta = read(path)
    packed = meta["packed"]
    stored = {name: array for name, array in arrays.items() if not name.endswith((".codes", ".step"))}
    groups = {"description": {"parameters": 0, "bytes": _header_bytes(path)}}
    paper = 0
    for name in (*packed, *stored):
        if name in packed:
            count = math.prod(packed[name]["shape"])
            codes, steps = _code_bytes(count, packed[name]), 4 * arrays[f"{name}.step"].size
            published = count * packed[name]["bits"] / 8
        else:
            count, steps = stored[name].size, 0
            codes = published = count * stored[name].itemsize
        is_state = "quantizer" in name
        group = groups.setdefault("activation ranges" if is_state else _group(name), {"parameters": 0, "bytes": 0})
        group["parameters"] += count
        group["bytes"] += codes + steps
        if not name.startswith(HEADS) and not is_state:
            paper += published
    return {
        "paper_bytes": round(paper),
        "counted_bytes": sum(group["bytes"] for group in groups.values()),
        "file_bytes": path.stat().st_size,
        "fp32_bytes": _full_precision_bytes(meta),
        "parameters": sum(group["parameters"] for group in groups.values()),
        "groups": groups,
    }


def _full_precision_bytes(meta: dict) -> int:
    with torch.device("meta"):
        model = bert(BertConfig(**meta["config"]), meta["kind"], len(meta["labels"]))
    return 4 * sum(tensor.numel() for name, tensor in model.named_parameters() if not name.startswith(HEADS))


def _code_bytes(count: int, entry: dict) -> int:
    return -(-count // packing.TRITS) if entry["packing"] == "trits" else packing.packed_bytes(count, entry["bits"])


def _header_bytes(path: Path) -> int:
    """Names, shapes, hashes and the method's description: safetensors writes their length into the first 8 bytes."""
    with open(path, "rb") as file:
        return 8 + int.from_bytes(file.read(8), "little")


def _group(name: str) -> str:
    return next(group for part, group in GROUPS.items() if part in name)
