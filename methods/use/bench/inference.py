"""`python -m methods bench inference`: the packed engine against what can be had off the shelf, in turns.

All contenders have the same threads, rows and mask. Those that must pad pad to the longest row of a batch; the engine does
not pad. Rows of MRPC's lengths come as they would reach a server (`mrpc`), or sorted by length as for a whole file
(`mrpc-sorted`), which leaves hardly any padding.
"""

import contextlib
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import numpy as np

from methods.common import provenance
from methods.common.errors import UserError
from methods.use.bench import footprint, tables
from methods.use.bench.contenders import Contender, chosen, of_file, of_size
from methods.use.bench.models import Models, file_bytes
from methods.use.bench.runners import Runner, Torch
from methods.use.bench.timing import MRPC, SIZES, VOCABULARY, OtherWork, alternate, random_rows
from methods.use.bench.workloads import LENGTHS_OF_TASK, Workload, workloads

LEAST = 0.02  # seconds of a turn
PAUSE = 0.006  # seconds before it: threads of some libraries spin for milliseconds
CHECKED = np.array([5, 9, 12, 16])  # lengths of the rows whose answers are compared, so that a mask matters
BUSY = 0.1  # cores of other work that disturb


@dataclass(frozen=True)
class Wanted:
    """The options of the command. `lengths` holds numbers of tokens and names of LENGTHS_OF_TASK."""

    size: str = "minilm"
    model: Path | None = None
    batches: tuple[int, ...] = (1, 8)
    lengths: tuple[int | str, ...] = (16, 32, 128, 384)
    threads: tuple[int, ...] = (1,)
    rounds: int = 7
    only: tuple[str, ...] | None = None
    compiled: bool = False


def bench_inference(wanted: Wanted, say: Callable[[str], None], memory: bool = True) -> dict:
    """Return all that was measured, ready for JSON. `memory` starts a process for each contender."""
    other = OtherWork()
    time.sleep(0.5)
    before = other.cores()
    if _busy(before):
        say(f"warning: other processes keep {before:.1f} cores busy, and no time or ratio will be right")
    with tempfile.TemporaryDirectory() as folder:
        config = {"vocab_size": VOCABULARY, **SIZES[wanted.size]}
        models = Models.like(Path(folder), wanted.model) if wanted.model else Models(Path(folder), config)
        _require_lengths(wanted, models)
        contenders = chosen(of_file() if wanted.model else of_size(), wanted.only, wanted.compiled)
        field = Field(models, contenders, wanted, say)
        measured = [table for threads in wanted.threads for table in field.measure(threads)]
        costs = field.costs() if memory else {}
    during = other.cores()
    if _busy(during):
        warnings = [f"other processes kept {during:.1f} cores busy meanwhile: measure again when the machine is quiet"]
    else:
        warnings = tables.suspicions(measured)
    return {
        "format": 1,
        "size": None if wanted.model else wanted.size,
        "model": str(wanted.model) if wanted.model else None,
        "rounds": wanted.rounds,
        "machine": {**provenance.machine(), "packages": _versions()},
        "other_work": {"before": before, "during": during},
        "contenders": {name: {**field.facts[name], **costs.get(name, {})} for name in field.facts},
        "absent": field.absent,
        "tables": measured,
        "warnings": [*field.warnings, *warnings],
    }


class Field:
    """The contenders that can run here, and what is found out about them."""

    def __init__(self, models: Models, contenders: dict[str, Contender], wanted: Wanted, say: Callable[[str], None]):
        self.models, self.wanted, self.say = models, wanted, say
        self.absent = {name: reason for name, one in contenders.items() if (reason := one.absent())}
        for name in wanted.only or ():
            if name in self.absent:
                raise UserError(f"{name} cannot run here: {self.absent[name]}.")
        self.contenders = {name: one for name, one in contenders.items() if name not in self.absent}
        self.facts: dict[str, dict] = {}
        self.warnings: list[str] = []
        self._right: dict[Path, list[np.ndarray]] = {}

    def measure(self, threads: int) -> list[dict]:
        """Return one table for each workload, all contenders with these threads."""
        runners = self._open(threads)
        if not runners:
            raise UserError("no contender can run here: " + "; ".join(self.absent.values()) + ".")
        shelf = [name for name in runners if self.contenders[name].off_the_shelf]
        measured = []
        for work in workloads(self.wanted.batches, self.wanted.lengths, self.models.config["vocab_size"]):
            self.say(f"{work.title}, {tables.threads(threads)}")
            calls = {name: _call(runner, work) for name, runner in runners.items()}
            seconds = alternate(calls, self.wanted.rounds, LEAST, PAUSE)
            milliseconds = {name: 1000 * np.array(times) / len(work.batches) for name, times in seconds.items()}
            measured.append(tables.table(work, threads, milliseconds, shelf))
        for runner in runners.values():
            runner.close()
        return measured

    def costs(self) -> dict[str, dict]:
        """Return the load time and the memory of every contender, one after another in processes of their own."""
        self.say("load times and memory")
        threads, length = max(self.wanted.threads), min(128, self.models.longest)
        vocabulary, found = self.models.config["vocab_size"], {}
        for name in self.facts:
            one = self.contenders[name]
            file, options = one.file(self.models), one.options
            try:
                found[name] = footprint.measure(one.runner, file, threads, options, length, vocabulary)
            except footprint.Failed as error:
                self.warnings.append(f"{name} has no load time and no memory, for it failed alone: {error}")
        return found

    def _open(self, threads: int) -> dict[str, Runner]:
        """Return the contenders that open and answer right, and say why others are absent."""
        opened = {}
        for name, one in self.contenders.items():
            if name in self.absent:
                continue
            self.say(f"opening {name}, {tables.threads(threads)}")
            try:
                runner = one.open(self.models, threads)
                off = self._difference(one, runner, threads)
            except UserError as error:
                self.absent[name] = str(error)
                continue
            if not off < one.tolerance:
                self.absent[name] = f"its answers differ from the model's by {off:.2f} of their spread"
                self.warnings.append(f"{name} was not measured: {self.absent[name]}")
                continue
            opened[name] = runner
            self.facts[name] = {
                "title": one.title,
                "file_bytes": file_bytes(one.file(self.models)),
                "kernels": runner.kernels,
                "difference": off,
            }
        return opened

    def _difference(self, one: Contender, runner: Runner, threads: int) -> float:
        """Return how far the answers of a contender are from those of its model through torch."""
        rows = random_rows(CHECKED.clip(max=self.models.longest), self.models.config["vocab_size"])
        path = one.baseline(self.models)
        if path not in self._right:
            self._right[path] = Torch(path, threads).answers(rows)
        return difference(runner.answers(rows), self._right[path])


def _busy(cores: float | None) -> bool:
    return cores is not None and cores > BUSY


def difference(answers: list[np.ndarray], right: list[np.ndarray]) -> float:
    """Return the distance between answers and right ones, over the distance of these from their mean row."""
    if [one.shape for one in answers] != [one.shape for one in right]:
        return float("inf")
    by_row = len({one.shape for one in right}) == 1  # of tokens, the rows have different lengths
    ours, theirs = (
        np.stack(found) if by_row else np.concatenate([one.ravel() for one in found]) for found in (answers, right)
    )
    return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs - theirs.mean(0)))


def _call(runner: Runner, work: Workload) -> Callable[[int], None]:
    """Return what answers all batches once; their inputs are prepared now."""
    inputs = [runner.inputs(rows) for rows in work.batches]

    def call(_: int) -> None:
        for one in inputs:
            runner.run(one)

    return call


def _require_lengths(wanted: Wanted, models: Models) -> None:
    longest = max(MRPC[-1] if length in LENGTHS_OF_TASK else length for length in wanted.lengths)
    if longest > models.longest:
        raise UserError(f"the model takes {models.longest} tokens at most: give a shorter --length than {longest}.")


def _versions() -> dict[str, str]:
    """Return the versions of the packages that contend, of those that are installed."""
    found = {}
    for name in ("torch", "onnx", "onnxruntime", "openvino", "nncf"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found
