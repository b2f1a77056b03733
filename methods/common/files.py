"""Files that are either whole or absent: atomic writes, sealed tensor files, and one writer at a time.

A *sealed* file is a `.safetensors` file whose only metadata entry is a JSON document holding the caller's `meta`, the
SHA-256 of every tensor, and a seal over both. Reading one checks everything, so a flipped byte is found by name and no
pickle is ever loaded. Arrays are numpy's, so that making data needs no torch.
"""

import contextlib
import fcntl
import hashlib
import json
import math
import os
import sys
from collections.abc import Container, Iterator
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from methods.common.errors import UserError

HEADER = "benchmark"  # one metadata key only: safetensors writes several in no fixed order, and bytes must be equal


def canonical(value) -> str:
    """JSON with one spelling for one value, so that equal things have equal bytes; NaN is refused."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False)


def sha256(content: bytes | memoryview) -> str:
    return hashlib.sha256(content).hexdigest()


def sha256_file(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary sibling that replaces `path` only when it is complete and on the disk."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        _fsync(temporary)
        os.replace(temporary, path)
        _fsync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value) -> None:
    with atomic(path) as temporary:
        text = json.dumps(value, sort_keys=True, indent=1, allow_nan=False, ensure_ascii=False)
        temporary.write_text(text + "\n", encoding="utf-8")


def read_json(path: Path):
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is damaged ({error}): delete it and run the same command again.") from None


def read_object(path: Path) -> dict:
    """Return the JSON object in `path`; refuse every other document, NaN, infinities and nesting without end."""
    try:
        text = Path(path).read_text(encoding="utf-8")
        document = json.loads(text, parse_constant=_finite, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid JSON ({error}): delete it and run the same command again.") from None
    if not isinstance(document, dict):
        raise UserError(f"{path} holds no JSON object: delete it and run the same command again.")
    return document


def write_bytes(path: Path, content: bytes) -> None:
    """Write all of `content`, or leave the previous file as it was."""
    with atomic(path) as temporary:
        temporary.write_bytes(content)


def write_sealed(path: Path, arrays: dict[str, np.ndarray], meta: dict) -> str:
    """Write arrays and meta as one sealed file; the SHA-256 of the whole file."""
    arrays = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    digests = {name: _digest(array) for name, array in arrays.items()}
    body = {"meta": meta, "tensors": digests}
    header = canonical({**body, "seal": sha256(canonical(body).encode())})
    with atomic(path) as temporary:
        temporary.touch()
        mode = temporary.stat().st_mode
        try:
            save_file(arrays, temporary, metadata={HEADER: header})
        except SafetensorError as error:  # the library reports a full disk in its own words
            raise OSError(*_errno_of(error), str(path)) from None
        temporary.chmod(mode)  # the library lets nobody but the owner read its files
        digest = sha256_file(temporary)
    return digest


def read_sealed(path: Path, names: Container[str] | None = None) -> tuple[dict[str, np.ndarray], dict]:
    """The arrays and the meta of a sealed file, every byte of both checked against its hash.

    With `names` only those arrays are read (and checked), so that little can be had of a large file quickly.
    """
    advice = "make it again with `snakemake --force` and its name, or for a model that of the run.json beside it"
    if not Path(path).is_file():
        raise UserError(f"{path} is missing: run the command that makes it first (`snakemake -n` shows the order).")
    try:
        with safe_open(path, framework="numpy") as file:
            header = json.loads((file.metadata() or {})[HEADER])
            stored = list(file.keys())
            arrays = {name: file.get_tensor(name) for name in stored if names is None or name in names}
        body = {"meta": header["meta"], "tensors": header["tensors"]}
        sealed = header["seal"] == sha256(canonical(body).encode())
    except (SafetensorError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise UserError(
            f"{path} is damaged or not one of ours ({type(error).__name__} in its header): name another file, or {advice}."
        ) from None
    if not sealed or set(stored) != header["tensors"].keys():
        raise UserError(f"{path} is damaged (its header does not match its seal): {advice}.")
    for name, array in arrays.items():
        if _digest(array) != header["tensors"][name]:
            raise UserError(f"{path} is damaged (tensor {name!r} does not match its hash): {advice}.")
    return arrays, header["meta"]


@contextlib.contextmanager
def lock(directory: Path) -> Iterator[None]:
    """Hold `directory` for this process alone; wait, saying so, while another one (an orphan, perhaps) works there."""
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    with open(directory / ".lock", "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            owner = file.read().strip() or "unknown"
            print(f"Waiting: process {owner} is writing {directory}", file=sys.stderr, flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


def _digest(array: np.ndarray) -> str:
    """Dtype and shape are hashed with the bytes: a changed shape is a changed tensor."""
    digest = hashlib.sha256(f"{array.dtype.str}{array.shape}".encode())
    digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
    return digest.hexdigest()


def _finite(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise ValueError(f"{text} is not a finite number")
    return number


def _errno_of(error: SafetensorError) -> tuple[int, str]:
    code = str(error).partition("os error ")[2].partition(")")[0]
    return (int(code), os.strerror(int(code))) if code.isdigit() else (5, str(error))


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
