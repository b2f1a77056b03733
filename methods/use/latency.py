"""The time of a finished model's predictions on its own task's dev rows, and its scores through the same engine.

The packed engine runs the model, or torch where the engine cannot; either way rows have their real lengths and no padding.
"""

import contextlib
import itertools
import os
import time
from pathlib import Path

import numpy as np

from methods import engine
from methods.common import files, provenance
from methods.common.errors import UserError
from methods.scoring.rescore import read_run, read_task
from methods.tasks import data
from methods.use.model import outputs_of

FORMAT = 1
NAME = "latency.json"
BATCHES = (1, 32)  # rows of a call
SEED = 0  # of the order in which rows and batches are timed


def measure(folder: Path, data_path: Path, protocol: str = "last", threads: int | None = None, seconds: float = 2.0) -> dict:
    """Return the content of latency.json for a run's model; `seconds` bounds the timing of each batch size."""
    run, task = read_run(folder), read_task(data_path)
    if run["status"] != "ok":
        return {"format": FORMAT, "engine": None, "reason": f"{run['status']}: {run['reason']}"}
    if run["ran_on"]["data"]["fingerprint"] != task.meta["data"]["fingerprint"]:
        raise UserError(f"{folder} was not scored on the rows of {data_path}: name the data file of this run.")
    path = folder / f"{protocol}.safetensors"
    digest = files.sha256_file(path)
    if digest != run["files"][path.name]:
        raise UserError(f"{path} is not the file that run.json recorded: delete run.json and make the run again.")
    before = provenance.resident_bytes()
    session, reason = _open(path, threads)  # it is built where it has not been, and the file comes into memory
    session.close()
    started = time.perf_counter()
    session, reason = _open(path, threads)
    load_seconds = time.perf_counter() - started
    with contextlib.closing(session):
        split = next(iter(task.dev.values()))
        batches = {str(size): _timed(session, split, size, seconds) for size in BATCHES}
        after = provenance.resident_bytes()
        scores = _scores(session, task, path)
        recorded = run["scores"][protocol]["metrics"]
        return {
            "format": FORMAT,
            "engine": "torch" if session.kernels == "torch" else "packed",
            "reason": reason,  # why the packed engine did not run it
            "kernels": session.kernels,
            "threads": session.threads,
            "model": digest,
            "protocol": protocol,
            "rows": len(split),
            "batches": batches,
            "load_seconds": load_seconds,
            "memory_bytes": None if None in (before, after) else max(after - before, 0),
            "file_bytes": path.stat().st_size,
            "scores": scores,
            "difference": max(abs(scores[name] - value) for name, value in recorded.items()),
            "device": provenance.device(),
        }


def line(found: dict, title: str) -> str:
    """Return what was measured, for the terminal."""
    if found["engine"] is None:
        return f"{title}: there is no model to measure ({found['reason']})"
    one, many = (found["batches"][str(size)] for size in BATCHES)
    through = f"packed engine, {found['kernels']} kernels" if found["engine"] == "packed" else "torch"
    return (
        f"{title}: {one['median_ms']:.3g} ms a row, {many['sentences_per_second']:,.0f} rows a second in batches of 32 "
        f"({through}, {found['threads']} threads); scores differ by {found['difference']:.3f} points"
    )


def _open(path: Path, threads: int | None):
    """Return a session of the packed engine and None, or of torch and the reason where the engine cannot run the model."""
    try:
        return engine.open_session(path, threads), None
    except (engine.NoCompiler, engine.Unsupported) as error:
        reason = str(error).removeprefix(f"{path}: ")
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # the times of a GPU are not those of this machine's processor
    from methods.engine.fallback import Fallback

    return Fallback(path, threads), reason


def _timed(session, split: data.Split, size: int, seconds: float) -> dict:
    """Return the times of calls of `size` rows, each of neighbours in length, as a server that batches by length sends."""
    calls = [_packed(split, rows) for rows in batches(split, size)]
    _milliseconds(session, calls, seconds / 20, least=1)
    times = _milliseconds(session, calls, seconds, least=3)
    rows = [len(ends) for _, ends, _ in itertools.islice(itertools.cycle(calls), len(times))]
    return {
        "rows": sum(rows[: len(calls)]),
        "calls": len(times),
        "median_ms": float(np.median(times)),
        "p95_ms": float(np.percentile(times, 95)),
        "sentences_per_second": 1000 * sum(rows) / sum(times),
    }


def batches(split: data.Split, size: int) -> list[np.ndarray]:
    """Return the rows of whole batches of neighbours in length, in a fixed random order; of few rows, one batch."""
    found = list(data.in_order(split, size))
    whole = [rows for rows in found if len(rows) == size] or found
    return [whole[at] for at in np.random.default_rng(SEED).permutation(len(whole))]


def _packed(split: data.Split, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return token ids (tokens,), ends (rows,) and lengths of the first segments (rows,) of some rows."""
    ids = np.concatenate([split.ids[split.tokens(row)] for row in rows]).astype(np.int32)
    return ids, np.cumsum(split.lengths[rows], dtype=np.int64), split.first[rows].astype(np.int32)


def _milliseconds(session, calls: list[tuple], seconds: float, least: int) -> list[float]:
    """Return the time of each call: all in turn, again until an eighth of `seconds` is over, and none after `seconds`."""
    times, spent = [], 0.0
    for call in itertools.cycle(calls):
        if len(times) >= least and spent >= (seconds / 8 if len(times) >= len(calls) else seconds):
            return times
        started = time.perf_counter()
        session(*call)
        times.append(1000 * (time.perf_counter() - started))
        spent += times[-1] / 1000


def _scores(session, task: data.TaskData, path: Path) -> dict[str, float]:
    """Return the task's metrics on the whole dev set, in the batches of scoring: dynamic ranges are those of a batch."""
    outputs = {name: outputs_of(session, split) for name, split in task.dev.items()}
    if not all(np.isfinite(values).all() for of_split in outputs.values() for values in of_split):
        raise UserError(f"{path} returns numbers that are not finite through the engine ({session.kernels}): report this.")
    return task.score(task.predictions(outputs))
