"""The description of a model file: its origin, its size by group, and the grids of its weights."""

from math import prod
from pathlib import Path
from textwrap import wrap

import numpy as np

from methods.common.errors import UserError
from methods.common.files import read_object, sha256_file
from methods.common.terminal import plain
from methods.model import description

WIDTH = 80
INDENT = 12
SIZES = {"paper_bytes": "paper", "counted_bytes": "counted", "file_bytes": "on disk", "fp32_bytes": "full precision"}
MIB = 2**20
BITS, COUNTS = ("weights", "embeddings", "activations"), (*SIZES, "parameters", "active_parameters")  # in a run's record


def facts(path: Path) -> dict:
    """Return all facts as JSON data: the description in the header, the sizes, and each packed matrix by its name."""
    arrays, meta = description.read(path)
    description.require(path, meta, description.USE, description.ORIGIN)
    header = {key: value for key, value in meta.items() if key != "packed"}
    layers = {name: {**entry, **_step(arrays.get(f"{name}.step"))} for name, entry in meta["packed"].items()}
    bits, size = _recorded(path) or _measured(path)
    return {"file": str(path), **header, "bits": bits, "size": size, "layers": layers}


def _recorded(path: Path) -> tuple[dict, dict] | None:
    """Return the bits and the size that the run beside a model file measured of this very file; None without such a run.

    They take no torch, whose import takes seconds.
    """
    try:
        record = read_object(path.with_name("run.json"))
        bits = {part: record["bits"][part] for part in BITS}
        size = record["size"][path.stem]
        groups = size["groups"].values()
        tables = [(bits, BITS), (size, COUNTS), *((group, ("parameters", "bytes")) for group in groups)]
        whole = all(type(table[key]) in (int, float) for table, keys in tables for key in keys)
        return (bits, size) if whole and record["files"][path.name] == sha256_file(path) else None
    except (OSError, UserError, AttributeError, LookupError, TypeError):  # no record, or one of another form
        return None


def _measured(path: Path) -> tuple[dict, dict]:
    from methods.model import artifact

    return artifact.bits(path, artifact.load(path)[0]), artifact.size(path)


def _step(steps: np.ndarray | None) -> dict:
    """The range of a matrix's steps; empty for a sparse matrix that is on no grid."""
    return {} if steps is None else {"step": {"min": float(steps.min()), "max": float(steps.max()), "count": steps.size}}


def page(found: dict, layers: bool) -> str:
    """Return the facts as aligned text, no wider than 80 columns."""
    parts = [plain(found["file"]), _provenance(found), _sizes(found["size"]), _groups(found["size"])]
    if layers:
        parts.append(_layers(found["layers"]) if found["layers"] else "No matrix is packed.")
    return "\n\n".join(parts)


def _provenance(found: dict) -> str:
    spec, tokenizer = found["spec"], found["tokenizer"]
    lines = {
        "method": f"{found['method']} (methods/{spec['family']}.py)",
        "task": f"{found['task']} ({found['kind']}) of {' and '.join(found['columns'])}",
        "labels": ", ".join(found["labels"]) or "none",
        "length": f"{found['max_length']} tokens",
        "run": f"seed {found['seed']}, preset {found['preset']}, {found['protocol']} model, step {found['step']}",
        "bits": ", ".join(f"{what} {bits:.3g}" for what, bits in found["bits"].items()),
        "parameters": _parameters(found["size"]),
        "edits": "; ".join(_edit(edit) for edit in found["edits"]) or "none",
        "base model": f"{tokenizer['id']} (SHA-256 {tokenizer['base'][:16]})",
        "tokenizer": f"that of the base model (SHA-256 {tokenizer['sha256'][:16]})",
        "code": f"digest {found['code']}",
    }
    return "\n".join(_line(name, text) for name, text in lines.items())


def _parameters(size: dict) -> str:
    every, active = size["parameters"], size["active_parameters"]
    return f"{every:,}" + (f" stored, {active:,} read for a token" if active < every else "")


def _line(name: str, text: str) -> str:
    first, *rest = wrap(plain(text), WIDTH - INDENT) or [""]
    return "\n".join([f"{name:<{INDENT}}{first}", *(" " * INDENT + line for line in rest)])


def _edit(edit: dict) -> str:
    options = ", ".join(f"{name} {_option(value)}" for name, value in edit.items() if name != "kind" and value is not None)
    return f"{edit['kind']}: {options}" if options else edit["kind"]


def _option(value) -> str:
    """A quantizer's stanza in brackets, its kind first: `(asymmetric, bits 8)`. A list is shown by its length."""
    if isinstance(value, list):
        return f"({len(value)})"
    if not isinstance(value, dict):
        return str(value)
    words = [f"{name} {option}" if option is not True else name for name, option in value.items() if name != "kind"]
    return f"({', '.join([*([value['kind']] if 'kind' in value else []), *words])})"


def _sizes(size: dict) -> str:
    full = size["fp32_bytes"]
    rows = [[name, f"{size[key]:,}", f"{size[key] / MIB:.3f}", f"{full / size[key]:.2f}"] for key, name in SIZES.items()]
    return _table(["size", "bytes", "MiB", "times smaller"], rows)


def _groups(size: dict) -> str:
    rows = [
        [name, f"{group['parameters']:,}", f"{group['bytes']:,}", f"{100 * group['bytes'] / size['counted_bytes']:.1f} %"]
        for name, group in sorted(size["groups"].items(), key=lambda item: -item[1]["bytes"])
    ]
    return _table(["group", "parameters", "bytes", "of counted"], rows)


def _layers(layers: dict) -> str:
    rows = [
        [
            name.removeprefix("bert.").removeprefix("encoder.").removesuffix(".weight").replace(".dense", ""),
            "x".join(map(str, entry["shape"])),
            str(entry["bits"]),
            entry["packing"],
            f"{100 * entry['kept'] / prod(entry['shape']):.0f} %" if "kept" in entry else "",
            _range(entry["step"]) if "step" in entry else "",
        ]
        for name, entry in layers.items()
    ]
    return _table(["packed matrix", "shape", "bits", "packing", "kept", "step"], rows)


def _range(step: dict) -> str:
    return f"{step['min']:.3g}" + (f" to {step['max']:.3g}" if step["count"] > 1 else "")


def _table(head: list[str], rows: list[list[str]]) -> str:
    """A table with the first column aligned left and the others right."""
    rows = [list(map(plain, row)) for row in rows]
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    sides = "<" + ">" * (len(head) - 1)
    return "\n".join(
        "  ".join(f"{cell:{side}{width}}" for cell, side, width in zip(row, sides, widths, strict=True)).rstrip()
        for row in (head, *rows)
    )
