"""The model file of a run (its artifact): one sealed file that holds a model packed, and the arithmetic of its size."""

import contextlib
import math
from pathlib import Path

import torch
from torch import Tensor, nn

from methods.common.files import read_sealed, write_sealed
from methods.kernel import packing
from methods.kernel.grids import finite
from methods.kernel.layers import Quantized
from methods.model import description
from methods.model.anatomy import ANATOMIES, Anatomy
from methods.model.description import FORMAT, PARTS, read
from methods.model.edits import WEIGHT_OPTIONS, apply
from methods.model.encoder import build
from methods.model.lean import modelling_file

no_init_weights = modelling_file("initialization").no_init_weights
MODULES = 20_000  # in a model, far above every one; edits of a stranger's file might ask for more without end
DESCRIPTION = 400  # bytes that a header grows by, about, for a weight that is stored sparse


class NotFinite(ValueError):
    """A weight, a step or a range is NaN or infinite: such a model is never written."""


def save(path: Path, model: nn.Module, meta: dict, ternary: str = "bits") -> str:
    """Write a model packed, with what is needed to use it; return the SHA-256 of the file.

    A weight on a grid is stored as codes of its true width and their steps, everything else as it is. `ternary: trits`
    packs codes of three levels five to a byte instead of four. Where a matrix has so many zeros that it takes fewer bytes,
    it is stored sparse: a bitmap of what is not zero, and the codes or values of that.
    """
    tensors, packed = {}, {}
    for name, layer in _on_grid(model).items():
        packed[name], parts = _packed(name, layer, ternary)
        tensors |= {name + part: tensor for part, tensor in parts.items()}
    for name, tensor in _plain(model).items():
        parts = {"": tensor}
        if tensor.dim() == 2 and tensor.is_floating_point() and _sparse_is_smaller(tensor, 32):
            packed[name], parts = _sparse(tensor)
        tensors |= {name + part: tensor for part, tensor in parts.items()}
    require_finite(tensors)
    arrays = {name: tensor.detach().cpu().numpy() for name, tensor in tensors.items()}
    record = model.record
    structure = {"config": record.config, "head": record.head, "outputs": record.outputs, "edits": record.edits}
    meta = {"format": FORMAT, **structure, "packed": packed, **meta}
    description.check(meta, arrays)  # nothing is written that cannot be read
    return write_sealed(path, arrays, meta)


def require_finite(tensors: dict[str, Tensor]) -> None:
    """Raise for the first tensor that holds NaN or infinity."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise NotFinite(f"{name} holds NaN or infinity")


def save_latent(path: Path, model: nn.Module) -> str:
    """Write what `save` rounds away: latent weights and what their quantizers have learned."""
    stored = _plain(model)
    arrays = {name: tensor.cpu().numpy() for name, tensor in model.state_dict().items() if name not in stored}
    return write_sealed(path, arrays, {"format": FORMAT})


def load(path: Path, latent: Path | None = None) -> tuple[nn.Module, dict]:
    """Return the model of a file, ready to score or to start another run from, and the file's meta.

    Its weights lie on their grids already, so they need no quantizer; those of the activations are in place. With the
    file of its `latent` weights the model is as it was in training: these weights, under their quantizers.
    """
    arrays, meta = read(path)
    behind = read_sealed(latent)[0] if latent else {}
    try:
        return _rebuilt(arrays, meta, behind), meta
    except UNFIT as error:
        raise description.refusal(path, f"{type(error).__name__}: {error}".splitlines()[0][:200]) from error


UNFIT = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


def _rebuilt(arrays: dict, meta: dict, latent: dict) -> nn.Module:
    """The model that `meta` describes, holding these arrays; what does not fit or is not known raises."""
    if not latent:
        with torch.device("meta"):  # without memory: whether the arrays fit is known before any is taken for the model
            _require_fit(_described(meta), arrays, meta["packed"])
    model = _described(meta, with_weight_quantizers=bool(latent))
    tensors = {
        name: torch.from_numpy(arrays.pop(name)) for name in list(arrays)
    }  # codes are let go one by one, once unpacked
    for name, entry in meta["packed"].items():
        tensors[name] = _unpacked(entry, {part: tensors.pop(name + part) for part in PARTS if name + part in tensors})
    tensors |= {name: torch.from_numpy(array) for name, array in latent.items()}
    expected = model.state_dict(keep_vars=True) if latent else _plain(model)
    _require_equal(*({(name, one.dtype, one.shape) for name, one in found.items()} for found in (tensors, expected)))
    for name, tensor in tensors.items():
        expected[name].data = tensor  # the file's own memory: a copy would hold large models twice
    for module in model.modules():
        if hasattr(module, "check_arrays"):  # of a module whose numbers could name what it does not have
            module.check_arrays()
    return model


def _described(meta: dict, with_weight_quantizers: bool = False) -> nn.Module:
    """The model of a description, whose weights are yet to be set."""
    with contextlib.nullcontext() if with_weight_quantizers else no_init_weights():  # these are made for numbers
        model = build(meta["config"], meta["head"], meta["outputs"])
    for step in meta["edits"]:
        apply(model, **(step if with_weight_quantizers else _without_weight_quantizers(step)))
        if sum(1 for _ in model.modules()) > MODULES:
            raise ValueError(f"its edits make more than {MODULES} modules")
    model.record.edits = list(meta["edits"])
    return model


def _require_fit(model: nn.Module, arrays: dict, packed: dict) -> None:
    """Raise for an array that `model` has no place for, or in another shape, or that is missing."""
    stored = {(name, str(one.dtype), one.shape) for name, one in arrays.items() if not name.endswith(PARTS)}
    stored |= {(name, "float32", tuple(entry["shape"])) for name, entry in packed.items()}
    wanted = {(name, str(one.dtype).removeprefix("torch."), tuple(one.shape)) for name, one in _plain(model).items()}
    _require_equal(stored, wanted)


def _require_equal(stored: set[tuple], wanted: set[tuple]) -> None:
    if stored != wanted:
        raise ValueError(f"{min(name for name, *_ in stored ^ wanted):.200} does not fit")


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
    state = model.state_dict(keep_vars=True)
    return {name: tensor for name, tensor in state.items() if name not in packed and not name.startswith(quantizers)}


def _without_weight_quantizers(step: dict) -> dict:
    return {key: value for key, value in step.items() if key not in WEIGHT_OPTIONS}


@torch.no_grad()
def _packed(name: str, layer: Quantized, ternary: str) -> tuple[dict, dict[str, Tensor]]:
    """A weight on a grid: its description, and its parts."""
    quantizer = layer.weight_quantizer
    grid = quantizer.encode(layer.weight)
    if not finite(grid):  # with a learned step, a code alone may be none, and would become a number in eight bits
        raise NotFinite(f"{name} holds NaN or infinity")
    if grid.offset is not None:
        raise ValueError(f"{name}: a file keeps codes and steps, and {type(quantizer).__name__} has an offset too")
    bits = (quantizer.levels - 1).bit_length()
    entry = {"shape": list(grid.codes.shape), "bits": bits, "levels": quantizer.levels}
    entry |= {"from": quantizer.codes_from, "by": quantizer.codes_by}
    if quantizer.levels == 3:
        entry["packing"] = ternary
    else:
        entry["packing"] = "sparse" if _sparse_is_smaller(grid.codes, bits) else "bits"
    codes, parts = (grid.codes.sub_(quantizer.codes_from) / quantizer.codes_by).to(torch.uint8), {".step": grid.step.float()}
    if entry["packing"] == "sparse":
        parts[".bitmap"], codes = packing.pack_sparse(codes, description.zero(entry))
        entry["kept"] = len(codes)
    parts[".codes"] = packing.pack_trits(codes) if entry["packing"] == "trits" else packing.pack(codes, bits)
    return entry, parts


def _sparse(tensor: Tensor) -> tuple[dict, dict[str, Tensor]]:
    """A matrix in full precision that is mostly zero: its description, and its parts."""
    bitmap, values = packing.pack_sparse(tensor.detach())
    entry = {"shape": list(tensor.shape), "bits": 32, "from": 0, "by": 1, "packing": "sparse", "kept": len(values)}
    return entry, {".bitmap": bitmap, ".values": values}


def _sparse_is_smaller(matrix: Tensor, bits: int) -> bool:
    """Return whether a bitmap and what is not zero take fewer bytes than all of it, the longer description included."""
    kept, count = int(matrix.count_nonzero()), matrix.numel()
    sparse = packing.packed_bytes(count, 1) + packing.packed_bytes(kept, bits) + DESCRIPTION
    return sparse < packing.packed_bytes(count, bits)


def _unpacked(entry: dict, parts: dict[str, Tensor]) -> Tensor:
    """A weight from its parts: values as they are, or codes * step, the product that the quantizer computed."""
    count, step = math.prod(entry["shape"]), parts.pop(".step", None)
    match entry["packing"]:
        case "bits":
            stored = packing.unpack(parts[".codes"], entry["bits"], count)
        case "trits":
            stored = packing.unpack_trits(parts[".codes"], count)
        case "sparse":
            kept = parts[".values"] if step is None else packing.unpack(parts[".codes"], entry["bits"], entry["kept"])
            stored = packing.unpack_sparse(parts[".bitmap"], kept, count, description.zero(entry))
    weight = stored.reshape(entry["shape"]).float()
    return weight if step is None else weight.mul_(entry["by"]).add_(entry["from"]).mul_(step)


def bits(path: Path, model: nn.Module) -> dict[str, float]:
    """Measure the mean bits of a number in the encoder's matrices and in the word embedding, and of an activation.

    Weights are counted as the file stores them, zeros of a sparse matrix left out; activations over the quantizers of the
    model read back, 32 where there are none.
    """
    arrays, meta = read(path)
    anatomy, totals = _anatomy(meta), {"weights": [0, 0], "embeddings": [0, 0]}
    names = [*meta["packed"], *(name for name in arrays if not name.endswith(PARTS))]
    for name in names:
        group = {"encoder matrices": "weights", "pooler": "weights", "word embedding": "embeddings"}.get(anatomy.group(name))
        if group is None or "quantizer" in name or not name.endswith(".weight"):
            continue
        entry = meta["packed"].get(name)
        shape = entry["shape"] if entry else arrays[name].shape
        if len(shape) == 2:
            width = entry["bits"] if entry else 8 * arrays[name].itemsize
            totals[group][0] += math.prod(shape) * width
            totals[group][1] += math.prod(shape)
    measured = {group: bits / numbers if numbers else 32.0 for group, (bits, numbers) in totals.items()}
    widths = [one.bits for one in model.modules() if getattr(one, "role", "") == "activations"]
    widths += [one.input_bits for one in model.modules() if hasattr(one, "input_bits")]
    return {**measured, "activations": sum(widths) / len(widths) if widths else 32.0}


def size(path: Path) -> dict:
    """The three sizes of a model file, its parameters, and the bytes by group.

    `paper_bytes` follows the papers: no task head, no scales, codes at their width, no tables of whole numbers, and of a
    sparse matrix only what is not zero. `counted_bytes` counts every number and bitmap that is stored and the file's
    description of itself, from shapes and bits alone; `file_bytes` is what lies on the disk. `fp32_bytes` is the paper's
    size of the stock BERT that the model was made from, to form ratios with. `active_parameters` are those of `parameters`
    that the pass of one token reads: fewer where layers route tokens. Embeddings count whole, though a token reads one row.
    """
    arrays, meta = read(path)
    packed, anatomy = meta["packed"], _anatomy(meta)
    stored = {name: array for name, array in arrays.items() if not name.endswith(PARTS)}
    groups = {"description": {"parameters": 0, "bytes": _header_bytes(path)}}
    paper, counts = 0, {}
    for name in (*packed, *stored):
        if name in packed:
            entry = packed[name]
            count = entry.get("kept", math.prod(entry["shape"]))
            steps = arrays[f"{name}.step"].size if f"{name}.step" in arrays else 0
            published, counted = count * entry["bits"] / 8, description.stored_bytes(entry) + 4 * steps
        else:
            count = stored[name].size
            published = counted = count * stored[name].itemsize
        is_state = "quantizer" in name
        is_table = name in stored and stored[name].dtype.kind in "iu" and not is_state and not name.endswith(".weight")
        place = "activation ranges" if is_state else "integer tables" if is_table else anatomy.group(name)
        group = groups.setdefault(place, {"parameters": 0, "bytes": 0})
        counts[name] = 0 if is_table else count
        group["parameters"] += counts[name]
        group["bytes"] += counted
        if not anatomy.is_head(name) and not is_state and not is_table:
            paper += published
    with torch.device("meta"):
        active = active_parameters(_described(meta), counts)
    return {
        "paper_bytes": round(paper),
        "counted_bytes": sum(group["bytes"] for group in groups.values()),
        "file_bytes": path.stat().st_size,
        "fp32_bytes": _full_bytes(meta),
        "parameters": sum(counts.values()),
        "active_parameters": active,
        "groups": groups,
    }


def active_parameters(model: nn.Module, counts: dict[str, int]) -> int:
    """Return how many of its parameters the pass of one token reads; `counts` has the number of those of each name.

    A module that sends each token through some of its parts says the share of its parameters that a token reads as
    `active_share`. All others are read whole.
    """
    routed = {f"{name}.": module.active_share for name, module in model.named_modules() if hasattr(module, "active_share")}

    def share(name: str) -> float:
        return math.prod(one for prefix, one in routed.items() if name.startswith(prefix))

    return round(math.fsum(count * share(name) for name, count in counts.items()))


def _full_bytes(meta: dict) -> int:
    """Return the bytes of the stock encoder of a file's description in full precision, without its head."""
    with torch.device("meta"), no_init_weights():
        model = build(meta["config"], meta["head"], meta["outputs"])
    anatomy = _anatomy(meta)
    return 4 * sum(tensor.numel() for name, tensor in model.named_parameters() if not anatomy.is_head(name))


def _header_bytes(path: Path) -> int:
    """Names, shapes, hashes and the method's description: safetensors writes their length into the first 8 bytes."""
    with open(path, "rb") as file:
        return 8 + int.from_bytes(file.read(8), "little")


def _anatomy(meta: dict) -> Anatomy:
    return ANATOMIES[meta["config"].get("model_type", "bert")]
