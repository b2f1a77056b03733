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
import re
import shutil
import socket
import sys
import time
from collections.abc import Container, Iterable, Iterator
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from methods.common import interrupt
from methods.common.errors import UserError, explain

HOST = re.sub(r"[^A-Za-z0-9-]", "-", socket.gethostname())[:40] or "host"
TEMPORARY = re.compile(r"\.(?P<name>.+)\.(?P<host>[A-Za-z0-9-]+)\.(?P<pid>[0-9]+)\.tmp")
BETWEEN_TRIES = 0.1  # seconds between two tries for a lock
LONGEST_HEADER = 2**21  # bytes; parsed, they may take 25 times the memory. A bert-large with split layers needs a quarter
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
    remove_litter(path.parent, path.name)
    temporary = temporary_of(path)
    try:
        yield temporary
        _fsync(temporary)
        os.replace(temporary, path)
        _fsync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def temporary_of(path: Path) -> Path:
    """Return where this process writes what becomes `path`, a file or a folder."""
    return path.with_name(f".{path.name}.{HOST}.{os.getpid()}.tmp")


def remove_litter(folder: Path, name: str = "") -> None:
    """Remove what writers that were killed on this machine left: all in a folder, or of one file or folder in it."""
    with contextlib.suppress(OSError):
        for path in Path(folder).glob(".*.tmp"):
            match = TEMPORARY.fullmatch(path.name)
            if match and match["host"] == HOST and name in ("", match["name"]) and not _is_alive(int(match["pid"])):
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def write_json(path: Path, value) -> None:
    with atomic(path) as temporary:
        text = json.dumps(value, sort_keys=True, indent=1, allow_nan=False, ensure_ascii=False)
        temporary.write_text(text + "\n", encoding="utf-8")


def read_json(path: Path):
    """Return the JSON document in `path`; raise one line for anything else, NaN and infinities included."""
    try:
        text = Path(path).read_text(encoding="utf-8")
        return json.loads(text, parse_constant=_finite, parse_float=_finite)
    except IsADirectoryError:
        raise UserError(f"{path} is a folder and should be a file: move it away and run the same command again.") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged ({error}): delete it and run the same command again.") from None


def read_object(path: Path, keys: Iterable[str] = ()) -> dict:
    """Return the JSON object in `path`.

    Refuse every other document, NaN, infinities, nesting without end, and an object without one of `keys`.
    """
    document = read_json(path)
    if not isinstance(document, dict):
        raise UserError(f"{path} holds no JSON object: delete it and run the same command again.")
    if missing := [key for key in keys if key not in document]:
        raise UserError(f"{path} is damaged (it lacks {missing[0]!r}): delete it and run the same command again.")
    return document


def parse_object(line: str | bytes, where: str, columns: Iterable[str]) -> dict:
    """Return the JSON object in a line; raise one line that names the place and the columns for anything else."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        row = None
    if not isinstance(row, dict):
        example = json.dumps({name: "..." for name in columns}, ensure_ascii=False)
        raise UserError(f"{where} is no JSON object: write lines such as {example}.")
    return row


def write_bytes(path: Path, content: bytes) -> None:
    """Write all of `content`, or leave the previous file as it was."""
    with atomic(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Write a text in UTF-8; lone surrogates, which JSON may hold and UTF-8 may not, are written as escapes."""
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def write_sealed(path: Path, arrays: dict[str, np.ndarray], meta: dict) -> str:
    """Write arrays and meta as one sealed file; return the SHA-256 of the whole file."""
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
    """Return the arrays and the meta of a sealed file, every byte of both checked against its hash.

    With `names` only those arrays are read (and checked), so that little can be had of a large file quickly.
    """
    advice = "make it again with `snakemake --force` and its name, or for a model that of the run.json beside it"
    if not Path(path).is_file():
        raise UserError(f"{path} is missing: run the command that makes it first (`snakemake -n` shows the order).")
    try:
        _check_header_length(path)
        with safe_open(path, framework="numpy") as file:
            header = json.loads((file.metadata() or {})[HEADER])
            stored = list(file.keys())
            arrays = {name: file.get_tensor(name) for name in stored if names is None or name in names}
        body = {"meta": header["meta"], "tensors": header["tensors"]}
        whole = header["seal"] == sha256(canonical(body).encode()) and set(stored) == header["tensors"].keys()
    except OSError as error:
        if explain(error):  # no permission, for instance
            raise
        raise UserError(f"{path} cannot be read ({error}): name another file, or {advice}.") from None
    except Exception as error:  # the library raises anything at all for a header made by somebody else
        if isinstance(error, MemoryError):
            raise
        raise UserError(
            f"{path} is damaged or not one of ours ({type(error).__name__} in its header): name another file, or {advice}."
        ) from None
    if not whole:
        raise UserError(f"{path} is damaged (its header does not match its seal): {advice}.")
    for name, array in arrays.items():
        if _digest(array) != header["tensors"][name]:
            raise UserError(f"{path} is damaged (tensor {name!r} does not match its hash): {advice}.")
    return arrays, header["meta"]


def _check_header_length(path: Path) -> None:
    with open(path, "rb") as file:
        if int.from_bytes(file.read(8), "little") > LONGEST_HEADER:
            raise ValueError("a header without end")


@contextlib.contextmanager
def lock(directory: Path) -> Iterator[None]:
    """Hold `directory` for this process alone; wait, and say so, while another one (an orphan, perhaps) writes there.

    A process that is asked to leave meanwhile leaves.
    """
    directory, waiting = Path(directory), False
    while True:
        directory.mkdir(parents=True, exist_ok=True)
        with open(directory / ".lock", "a+b") as file:
            while not _locked(file):
                if not waiting:
                    file.seek(0)
                    owner = file.read(20).decode("ascii", "replace").strip()
                    owner = owner if owner.isdecimal() else "unknown"
                    print(f"Waiting: process {owner} is writing {directory}", file=sys.stderr, flush=True)
                    waiting = True
                interrupt.check()
                time.sleep(BETWEEN_TRIES)
            if not _is_at(file, directory / ".lock"):
                continue  # its last owner removed the folder: whoever comes now locks another file
            file.truncate(0)
            file.write(f"{os.getpid()}\n".encode())
            file.flush()
            yield
            return


def _locked(file) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_at(file, path: Path) -> bool:
    """Return whether an open file is the one that has this name now."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False


def _digest(array: np.ndarray) -> str:
    """Return the hash of dtype, shape and bytes: a changed shape is a changed tensor."""
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
