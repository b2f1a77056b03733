"""The description in a model file's header: what each key may hold, and what the file's arrays must be to fit it.

A file may come from anybody. `read` returns nothing that was not checked against the tables below, so that whoever builds
a model of it allocates no more than the file itself holds. Neither torch nor transformers is imported: the packed engine and
other programs read files through this module. docs/model-file.md explains the format.
"""

import math
import re
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from methods.common import options
from methods.common.errors import UserError
from methods.common.files import read_sealed
from methods.kernel import packing
from methods.model.anatomy import ANATOMIES, HEADS, Anatomy

FORMAT = 5
PARTS = (".codes", ".step", ".values", ".bitmap")  # what a packed weight is stored as, behind its name

# Bounds, far above every encoder of BERT's family. Within them, no header makes a reader slow or hungry.
LAYERS, HEADS_OF_A_LAYER, WIDTH, NEURONS = 256, 256, 2**14, 2**17
VOCABULARY, POSITIONS, OUTPUTS, TEXT = 2**22, 4096, 4096, 200
EDITS, LISTED, COUNT = 32, 4096, 2**20  # edits of a model, items of a list in one, and the largest number in one
DEPTH = 20  # of values within values
DTYPES = ("float32", "uint8", "int8", "int32", "int64", "bool")


class Wrong(ValueError):
    """A value that a description may not hold; the message begins with its place."""


Check = tuple[Callable[[object], bool], str]  # whether a value is legal, and the words for those that are


def whole(low: int, high: int) -> Check:
    return lambda value: type(value) is int and low <= value <= high, f"a whole number from {low} to {high}"


def number(low: float, high: float) -> Check:
    return lambda value: type(value) in (int, float) and low <= value <= high, f"a number from {low:g} to {high:g}"


def real(low: float, high: float) -> Check:
    return lambda value: type(value) is float and low <= value <= high, f"a number from {low:g} to {high:g}, with a point"


def one_of(*names) -> Check:
    return lambda value: type(value) is str and value in names, f"one of {', '.join(names)}"


def matching(pattern: str, words: str) -> Check:
    return lambda value: type(value) is str and re.fullmatch(pattern, value, re.DOTALL) is not None, words


def many(item: Check, least: int, most: int) -> Check:
    fits, words = item
    return (
        lambda value: type(value) is list and least <= len(value) <= most and all(map(fits, value)),
        f"a list of {least} to {most} items, each {words}",
    )


def or_null(check: Check) -> Check:
    return lambda value: value is None or check[0](value), f"{check[1]}, or null"


TITLE = matching(f".{{1,{TEXT}}}", f"a text of 1 to {TEXT} characters")
NAME = matching(r"[^/\\.][^/\\]{0,99}", "a name of 1 to 100 characters without slashes")  # it may be part of a path
SHA256 = matching("[0-9a-f]{64}", "a SHA-256 in hexadecimal")
MAPPING = (lambda value: type(value) is dict, "a mapping")

ACTIVATIONS = one_of(
    *("gelu", "gelu_10", "gelu_accurate", "gelu_fast", "gelu_new", "gelu_python", "gelu_python_tanh", "gelu_pytorch_tanh"),
    *("hardswish", "laplace", "leaky_relu", "linear", "mish", "quick_gelu", "relu", "relu2", "relu6", "sigmoid", "silu"),
    *("sqrtsoftplus", "swish", "tanh"),
)
# The stock encoder: every key of transformers' configuration that a model of this suite depends on.
CONFIG = {
    "model_type": one_of(*ANATOMIES),
    "vocab_size": whole(1, VOCABULARY),
    "hidden_size": whole(1, WIDTH),
    "num_hidden_layers": whole(1, LAYERS),
    "num_attention_heads": whole(1, HEADS_OF_A_LAYER),
    "intermediate_size": whole(1, NEURONS),
    "hidden_act": ACTIVATIONS,
    "hidden_dropout_prob": number(0, 1),
    "attention_probs_dropout_prob": number(0, 1),
    "max_position_embeddings": whole(1, POSITIONS),
    "type_vocab_size": whole(1, 64),
    "initializer_range": real(0, 100),
    "layer_norm_eps": real(0, 1),
    "pad_token_id": or_null(whole(0, VOCABULARY)),
}
PACKED = {
    "shape": many(whole(1, 2**31), 2, 2),
    "bits": (lambda value: type(value) is int and (1 <= value <= 8 or value == 32), "a whole number from 1 to 8, or 32"),
    "levels": whole(2, 256),
    "from": whole(-255, 255),
    "by": whole(1, 255),
    "packing": one_of("bits", "trits", "sparse"),
    "kept": whole(0, 2**62),
}
SPAN = {
    "stride": whole(1, POSITIONS),
    "max_question": whole(1, POSITIONS),
    "max_answer": whole(1, POSITIONS),
    "n_best": whole(1, 200),
    "null_threshold": or_null(number(-1e9, 1e9)),
}
STRUCTURE = {
    "format": whole(FORMAT, FORMAT),
    "config": MAPPING,
    "head": one_of(*HEADS),
    "outputs": whole(1, OUTPUTS),
    "edits": many(MAPPING, 0, EDITS),
    "packed": MAPPING,
}
USE = {  # what it takes to answer texts
    "task": NAME,
    "kind": NAME,
    "columns": many(TITLE, 1, 2),
    "labels": many(TITLE, 0, OUTPUTS),
    "max_length": whole(8, POSITIONS),
    "padding": one_of("bucket", "max_length"),
    "span": or_null(MAPPING),
    "preset": NAME,
    "tokenizer": MAPPING,
}
ORIGIN = {
    "method": NAME,
    "seed": whole(0, 2**32 - 1),
    "protocol": one_of("last", "best"),
    "step": whole(0, 2**53),
    "code": TITLE,
    "spec": MAPPING,
}
TOKENIZER = {"sha256": SHA256, "base": SHA256, "id": or_null(TITLE)}


def read(path: Path) -> tuple[dict[str, np.ndarray], dict]:
    """Return what a model file holds, packed as it is, and its meta; one line for a file that holds no model."""
    arrays, meta = read_sealed(path)
    if not isinstance(meta, dict) or "packed" not in meta:
        raise UserError(f"{path} is no model file: name the last.safetensors or best.safetensors of a run.")
    if meta.get("format") != FORMAT:
        raise UserError(f"{path} was written by another version of this project: make it again with this one.")
    try:
        check(meta, arrays)
    except (Wrong, options.WrongOption) as error:
        raise refusal(path, str(error)[:300].removesuffix(".")) from None
    return arrays, meta


def refusal(path: Path, reason: str) -> UserError:
    return UserError(f"{path} is not a model that this version can use ({reason}): make it again.")


def require(path: Path, meta: dict, *groups: Iterable[str]) -> None:
    """Raise one line for a model file whose description lacks one of these keys, such as those of USE or ORIGIN."""
    for keys in groups:
        if missing := [key for key in keys if key not in meta]:
            raise refusal(path, f"its description lacks {missing[0]!r}")


def check(meta: dict, arrays: dict[str, np.ndarray]) -> None:
    """Raise Wrong for the first thing in a description that is not known, out of bounds, or not what the arrays are."""
    _check_depth(meta, DEPTH)
    _check_mapping(meta, STRUCTURE | USE | ORIGIN, "the header", required=STRUCTURE)
    config = meta["config"]
    _check_mapping(config, CONFIG, "config", required=CONFIG)
    _check_encoder(config, ANATOMIES[config["model_type"]], meta)
    if meta.get("span") is not None:
        _check_mapping(meta["span"], SPAN, "span", required=SPAN)
    if "tokenizer" in meta:
        _check_mapping(meta["tokenizer"], TOKENIZER, "tokenizer", required=("sha256", "id"))
    if "spec" in meta:
        _require(meta["spec"].get("family"), NAME, "spec.family")
    layers = _check_edits(meta["edits"], config)
    _check_layers(arrays, ANATOMIES[config["model_type"]].layers, layers)
    _check_modules(meta["edits"], arrays)
    for name, entry in meta["packed"].items():
        place = f"packed {name[:TEXT]!r}"
        _check_mapping(entry, PACKED, place, required=("shape", "bits", "from", "by", "packing"))
        _check_packed(name, entry, arrays, place)
    for name, array in arrays.items():
        _check_array(name, array, meta["packed"], arrays)


def stored_bytes(entry: dict) -> int:
    """Return the bytes of a packed weight, without its steps."""
    count = math.prod(entry["shape"])
    if entry["packing"] == "trits":
        return packing.trit_bytes(count)
    bitmap = packing.packed_bytes(count, 1) if entry["packing"] == "sparse" else 0
    return bitmap + packing.packed_bytes(entry.get("kept", count), entry["bits"])


def decoded(name: str, entry: dict, arrays: dict[str, np.ndarray]) -> np.ndarray:
    """Return a packed weight as floats, step * (from + by * code), or as the values that a sparse one keeps."""
    stored = codes_of(name, entry, arrays).reshape(entry["shape"])
    if entry["bits"] == 32:
        return stored
    return (stored * np.float32(entry["by"]) + np.float32(entry["from"])) * arrays[f"{name}.step"]


def codes_of(name: str, entry: dict, arrays: dict[str, np.ndarray]) -> np.ndarray:
    """Return all codes of a packed weight, one after another, or the values of a sparse one on no grid."""
    count, codes = math.prod(entry["shape"]), arrays.get(f"{name}.codes")
    if entry["packing"] == "trits":
        return (codes[:, None] // 3 ** np.arange(packing.TRITS, dtype=np.uint8) % 3).reshape(-1)[:count]
    if entry["packing"] == "bits":
        return _codes(codes, entry["bits"], count)
    kept = arrays[f"{name}.values"] if codes is None else _codes(codes, entry["bits"], entry["kept"])
    every = np.full(count, zero(entry), kept.dtype)
    every[np.unpackbits(arrays[f"{name}.bitmap"], count=count, bitorder="little").astype(bool)] = kept
    return every


def _codes(packed: np.ndarray, bits: int, count: int) -> np.ndarray:
    lanes = list(packing.lanes(packed, bits))
    codes = np.zeros((max(map(len, lanes)), len(lanes)), np.uint8)
    for at, lane in enumerate(lanes):
        codes[: len(lane), at] = lane
    return codes.reshape(-1)[:count]


def zero(entry: dict) -> int:
    """Return the code that means zero."""
    return -entry["from"] // entry["by"]


# --- values -----------------------------------------------------------------------------------------------


def _require(value, legal: Check, place: str) -> None:
    takes, words = legal
    if not takes(value):
        raise Wrong(f"{place} is {value!r:.60} and should be {words[:TEXT]}")


def _check_mapping(value, table: dict[str, Check], place: str, required) -> None:
    _require(value, MAPPING, place)
    for key in required:
        if key not in value:
            raise Wrong(f"{place} lacks {key!r}")
    for key, found in value.items():
        if key not in table:
            raise Wrong(f"{place} has an unknown key {key!r:.60}")
        _require(found, table[key], f"{place}: {key}")


def _check_depth(value, left: int) -> None:
    if not left:
        raise Wrong("the header has values within values without end")
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _check_depth(inner, left - 1)


def _check_encoder(config: dict, anatomy: Anatomy, meta: dict) -> None:
    """Raise for numbers that are legal one by one, and not together."""
    pad, room = config["pad_token_id"] or 0, config["max_position_embeddings"] - anatomy.skipped
    if config["hidden_size"] % config["num_attention_heads"]:
        raise Wrong("config: num_attention_heads does not divide hidden_size")
    if pad >= config["vocab_size"] or (anatomy.skipped and pad != anatomy.skipped - 1):
        raise Wrong(f"config: pad_token_id is {pad}, which no token of padding can have")
    if meta.get("max_length", 0) > room:
        raise Wrong(f"max_length is {meta['max_length']}, and the model reads {max(room, 0)} tokens")
    if anatomy.segments and config["type_vocab_size"] < len(meta.get("columns", ())):
        raise Wrong("config: type_vocab_size is smaller than the number of texts")


# --- edits ------------------------------------------------------------------------------------------------


def _check_edits(edits: list[dict], config: dict) -> int:
    """Raise for an edit that the code would not take, or that asks for more than the model has; return its layers."""
    layers, heads, neurons = (config[key] for key in ("num_hidden_layers", "num_attention_heads", "intermediate_size"))
    for at, edit in enumerate(edits):
        place = f"edits.{at}"
        _check_sizes(edit, place)
        options.check_edit(edit, place)
        match edit["kind"]:
            case "layers":
                _require(edit["keep"], many(whole(0, layers - 1), 1, LAYERS), f"{place}.keep")
                layers = len(edit["keep"])
            case "narrow":
                _require(edit["heads"], whole(1, heads), f"{place}.heads")
                _require(edit["neurons"], whole(1, neurons), f"{place}.neurons")
                heads, neurons = edit["heads"], edit["neurons"]
            case "factor_words":
                _require(edit["rank"], whole(1, config["hidden_size"]), f"{place}.rank")
            case "activate":
                _require(edit["function"], ACTIVATIONS, f"{place}.function")
    return layers


def _check_sizes(value, place: str) -> None:
    """Raise for a number, a text or a list in an edit that is larger than any that makes sense."""
    match value:
        case dict():
            for key, inner in value.items():
                _check_sizes(inner, f"{place}.{key:.60}")
        case list():
            if len(value) > LISTED:
                raise Wrong(f"{place} is a list of {len(value)} items, more than {LISTED}")
            for inner in value:
                _check_sizes(inner, place)
        case str():
            _require(value, TITLE, place)
        case int() | float():
            if not abs(value) <= COUNT:
                raise Wrong(f"{place} is {value!r:.60}, and nothing in a model is so large")


def _check_layers(arrays: dict, path: str, layers: int) -> None:
    """Raise unless the arrays are those of as many layers as the description says."""
    found = {int(match[1]) for name in arrays if (match := re.search(rf"{re.escape(path)}\.(\d{{1,6}})\.", name))}
    if found != set(range(layers)):
        raise Wrong(f"config: num_hidden_layers and edits say {layers} layers, and the file holds {len(found)}")


def _check_modules(edits: list[dict], arrays: dict) -> None:
    """Raise for a list of modules that names one twice, or one that has no array; `layers` gives them other names."""
    last = max((at for at, edit in enumerate(edits) if edit["kind"] == "layers"), default=-1)
    present = {name[: dot.start()] for name in arrays for dot in re.finditer(r"\.", name)}
    for at, edit in enumerate(edits):
        modules = edit.get("modules", [])
        if len(set(modules)) < len(modules):
            raise Wrong(f"edits.{at}.modules names a module twice")
        wanted = (f"{module}.first" if edit["kind"] == "split" else module for module in modules)
        if at > last and (absent := [name for name in wanted if name not in present]):
            raise Wrong(f"edits.{at}.modules: the file holds no {absent[0]!r}")


# --- arrays -----------------------------------------------------------------------------------------------


def _check_packed(name: str, entry: dict, arrays: dict[str, np.ndarray], place: str) -> None:
    """Raise unless the parts of a packed weight are exactly those that its entry describes."""
    bits, count, parts = entry["bits"], math.prod(entry["shape"]), (".codes", ".step")
    if bits == 32:
        parts = (".values",)
        if entry["packing"] != "sparse" or (entry["from"], entry["by"]) != (0, 1) or "levels" in entry:
            raise Wrong(f"{place}: 32 bits are for sparse matrices on no grid")
    elif "levels" not in entry or (entry["levels"] - 1).bit_length() != bits:
        raise Wrong(f"{place}: {bits} bits do not fit its levels")
    elif entry["packing"] == "trits" and entry["levels"] != 3:
        raise Wrong(f"{place}: trits have three levels")
    kept = entry.get("kept", count)
    if ("kept" in entry) != (entry["packing"] == "sparse") or kept > count:
        raise Wrong(f"{place}: `kept` is for sparse matrices, and at most the number of their values")
    if entry["packing"] == "sparse":
        parts = (*parts, ".bitmap")
        if entry["from"] + zero(entry) * entry["by"] != 0 or not 0 <= zero(entry) < entry.get("levels", 1):
            raise Wrong(f"{place}: a sparse matrix needs a code for zero")
    if name in arrays or {part for part in PARTS if name + part in arrays} != set(parts):
        raise Wrong(f"{place}: the file should hold its {', '.join(parts)} and nothing else of it")
    codes = packing.trit_bytes(count) if entry["packing"] == "trits" else packing.packed_bytes(kept, bits)
    wanted = {
        ".codes": ("uint8", [(codes,)]),
        ".values": ("float32", [(kept,)]),
        ".bitmap": ("uint8", [(packing.packed_bytes(count, 1),)]),
        ".step": ("float32", [(), (entry["shape"][0], 1)]),
    }
    for part in parts:
        dtype, shapes = wanted[part]
        if arrays[name + part].dtype != dtype or arrays[name + part].shape not in shapes:
            raise Wrong(f"{place}: {part[1:]} does not fit its shape and bits")
    if entry["packing"] == "sparse" and int(np.unpackbits(arrays[name + ".bitmap"]).sum()) != kept:
        raise Wrong(f"{place}: its bitmap has other than {kept} ones")
    if bits < 32 and _largest(arrays[name + ".codes"], entry) >= entry["levels"]:
        raise Wrong(f"{place}: a code is beyond its {entry['levels']} levels")


def _largest(packed: np.ndarray, entry: dict) -> int:
    """Return the largest code of a packed weight; of trits, 2 where every byte holds five, else 3."""
    if entry["packing"] == "trits":
        return 2 if packed.max(initial=0) < 3**packing.TRITS else 3
    if entry["levels"] == 2 ** entry["bits"]:
        return entry["levels"] - 1  # no code of this width is larger
    lanes = packing.lanes(packed, entry["bits"])
    return max(int(lane.max(initial=0)) for lane in lanes)


def _check_array(name: str, array: np.ndarray, packed: dict, arrays: dict[str, np.ndarray]) -> None:
    """Raise for an array that no model has: of an unknown type, not finite, a part of nothing, or a step below zero."""
    place = f"the array {name[:TEXT]!r}"
    if array.dtype.name not in DTYPES or array.ndim > 4 or not (array.size or name.endswith(PARTS)):
        raise Wrong(f"{place} has a type or a shape that no model has")
    stem, dot, part = name.rpartition(".")
    if dot + part in PARTS and stem not in packed:
        raise Wrong(f"{place} belongs to no packed weight")
    if array.dtype == np.float32 and not np.isfinite(array).all():
        raise Wrong(f"{place} holds NaN or infinity")
    if (part == "step" and array.min() < 0) or (part == "weight_step" and array.min() <= 0):
        raise Wrong(f"{place} holds a step below zero")
    if part == "scale" and f"{stem}.floor" in arrays and max(array.max(), arrays[f"{stem}.floor"].max(initial=0)) <= 0:
        raise Wrong(f"{place} is a step that is not above zero")
