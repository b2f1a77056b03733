"""The costs of every kind of run, measured: its model is made, its stages take some steps each, its file is written.

The weights are random and the rows are noise; the shapes are those of the real runs, so the time is.

Methods whose recipes differ in numbers that change no work (rates, epochs, bits) are one kind, and measured once.
"""

import contextlib
import dataclasses
import functools
import gc
import importlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from methods.common import files, provenance
from methods.kernel import fusing, products
from methods.model import artifact
from methods.model.encoder import build
from methods.planning.costs import HOOKS, Cost, Costs, Hook, between, fitted
from methods.planning.memory import peak, reset_peak, trim
from methods.planning.stand_ins import SAMPLES, Enough, FewRows, FirstOnly
from methods.tasks import kinds
from methods.training import compiling, optimizers, teaching, trainer
from methods.training.ancestors import ALLOCATION, LATENT, Ancestor
from methods.training.context import Context
from methods.training.recipe import Optimization, Stage
from methods.training.trainer import Trainer
from methods.use.bench.models import HEADER
from methods.use.bench.timing import random_rows

KIND = kinds.of("classification")
LEAST = 0.4  # seconds that a shape is timed for, after one untimed call
MOST = 5  # timed calls of a shape
STAGES = 3  # of one run that are measured all; of more only the first and the last, and the others lie between
SAMPLED = 32  # rows of such a batch in a run
SCHEDULE = {one.name for one in dataclasses.fields(Optimization)} - {"optimizer"}
SAME_WORK = {*SCHEDULE, "terms", "bits"}  # keys of a recipe below which numbers change no work


@dataclass(frozen=True)
class Shapes:
    """Rows and width of the batches that are timed: few rows, many rows, and many tokens in wide rows."""

    few: tuple[int, int]
    many: tuple[int, int]
    wide: tuple[int, int] | None

    def all(self) -> list[tuple[int, int]]:
        return list(filter(None, (self.few, self.many, self.wide)))


@dataclass(frozen=True)
class Measured:
    """A method's steps on each task, and what its kind of run costs."""

    stages: dict[str, list[tuple[int, int]]]  # by task: steps and rows of a batch of each stage
    costs: Costs
    compiled: bool


class Rehearsal:
    """Measures the kinds of runs on a base of one shape, ancestors first.

    `rows(method, task)` returns the training rows of a run.
    """

    def __init__(self, catalogue, config: dict, shapes: Shapes, device, folder: Path, rows: Callable, say: Callable):
        self.catalogue, self.config, self.shapes, self.device = catalogue, config, shapes, device
        self.folder, self.rows, self.say = folder, rows, say
        self.libraries = provenance.resident_bytes() or 0

    def measure(self, methods: Sequence[str], tasks: Sequence[str]) -> dict[str, Measured]:
        """Return what each of the methods and of their ancestors costs."""
        lineages = (name for method in methods for name in (*self.catalogue.lineage(method)[::-1], method))
        ordered = sorted(dict.fromkeys(lineages), key=lambda name: self._depth(name))
        kinds_of_runs: dict[str, list[str]] = {}
        for method in ordered:
            kinds_of_runs.setdefault(self.kind(method), []).append(method)
        found = {}
        for number, (kind, members) in enumerate(kinds_of_runs.items(), 1):
            self.say(f"measuring {members[0]} ({number} of {len(kinds_of_runs)} kinds of runs)")
            found |= self._measure(kind, members, tasks)
        return found

    def _depth(self, method: str) -> int:
        return 1 + max(map(self._depth, self.catalogue.methods[method]["ancestors"].values()), default=0)

    def kind(self, method: str) -> str:
        """Return the name of a method's kind of run; equal names are equal work."""
        spec = self.catalogue.methods[method]
        ancestors = {role: self.kind(name) for role, name in spec["ancestors"].items()}
        recipe = without_numbers(self.catalogue.values(method))
        return json.dumps([spec["family"], recipe, ancestors, spec["product"], method in self.catalogue.keep_latent])

    def _stages(self, method: str, task: str, student: nn.Module, context: Context) -> list[Stage]:
        is_trained = "finetuned" in self.catalogue.tasks[task] and not self.catalogue.methods[method]["ancestors"]
        if is_trained and not student.record.edits:
            return []  # the user's own model
        context = dataclasses.replace(context, budget=self._budget(method, task))
        return self._paper(method).stages(student, self._recipe(method, task), context)

    def _compiles(self, method: str, task: str, student: nn.Module, stages: list[Stage]) -> tuple[float, bool]:
        """Return the tokens of a run's steps, and whether these are compiled."""
        train = self.rows(method, task)
        tokens = float(train.lengths.mean()) * sum(one.steps(len(train)) * one.optimization.batch_size for one in stages)
        wanted, kind = self.catalogue.config["compile"], self.device.device.type
        return tokens, compiling.compiles(wanted, student, stages, train, kind)[0]

    def _budget(self, method: str, task: str) -> dict:
        return {**self.catalogue.budget(task, method), "evaluate_every": self.catalogue.evaluate_every(task)}

    def _paper(self, method: str):
        return importlib.import_module(f"methods.{self.catalogue.methods[method]['family']}")

    def _recipe(self, method: str, task: str):
        return self._paper(method).Recipe(**self.catalogue.values(method, task))

    def _student(self, method: str, task: str, sample_rows: int) -> tuple[tuple[nn.Module, Context], float]:
        """Return a student with its context, and the seconds that making it of its start takes."""
        ancestors = {role: self._ancestor(name) for role, name in self.catalogue.methods[method]["ancestors"].items()}
        rows, width = self.shapes.many
        loader = dataclasses.replace(self._loader(rows * SAMPLED, width), sample_rows=sample_rows)
        context = Context(loader, self._budget(method, task), ancestors, FirstOnly())
        torch.manual_seed(0)
        start = ancestors["init"].start() if "init" in ancestors else build(self.config, KIND.head, 2)
        start = start.to(self.device.device)
        seconds, student = self._timed(lambda: self._paper(method).student(start, self._recipe(method, task), context))
        return (student, context), seconds

    def _measure(self, kind: str, members: Sequence[str], tasks: Sequence[str]) -> dict[str, Measured]:
        """Measure the first of the methods of a kind, and count the steps of all of them."""
        method = members[0]
        gc.collect()
        trim()
        before = provenance.resident_bytes() or 0
        (student, context), setup = self._student(method, tasks[0], SAMPLES[0])
        width, slope = self.shapes.many[1], 0.0
        if context.loader.ledger.sampled:
            _, longer = self._student(method, tasks[0], SAMPLES[1])
            slope = max(0.0, longer - setup) / ((SAMPLES[1] - SAMPLES[0]) * width)  # for a token of each row of a sample
        setup_cost = Cost(max(0.0, setup - slope * SAMPLES[0] * width), slope * SAMPLED)
        stages = {name: {task: self._stages(name, task, student, context) for task in tasks} for name in members}
        compiled = max(self._compiles(method, task, student, stages[method][task]) for task in tasks)[1]
        on_codes = self.catalogue.config["precision"] == "codes"
        with fusing.compiled(compiled), products.on_codes(on_codes):
            look, score = self._looks(student)
            longest = max(stages[method].values(), key=len)  # none where the user's own model is trained already
            steps, hooks, memory, kept = self._train(student, longest, context, before)
        allocation = self._allocate(method, kind, student, tasks[0], context)
        write, read, sizes = self._store(method, kind, student)
        costs = Costs(setup_cost, steps, hooks, look, score, allocation, write, read, *sizes, memory, kept)
        return {name: Measured(self._counts(name, stages[name]), costs, compiled) for name in members}

    def _counts(self, method: str, stages: dict[str, list[Stage]]) -> dict[str, list[tuple[int, int]]]:
        return {
            task: [(one.steps(len(self.rows(method, task))), one.optimization.batch_size) for one in of_task]
            for task, of_task in stages.items()
        }

    def _loader(self, rows: int, width: int) -> FewRows:
        labels = np.random.default_rng(2).integers(0, 2, rows)
        split = random_rows([width] * rows, self.config["vocab_size"], targets={"labels": labels})
        return FewRows(split, KIND, self.device.device, max_length=width, padding="max_length")

    # --- steps --------------------------------------------------------------------------------------------------

    def _train(self, student: nn.Module, stages: list[Stage], context: Context, before: int):
        """Return the cost of a step and the hook of each stage, the memory of the run, and the bytes of a row that is kept.

        A step is one in which the teacher runs; those of rows that are kept are faster by its pass.
        """
        if not stages:
            return (), (), Cost(self.libraries + 2 * _bytes(student), 0.0), (0.0, 0.0, 0.0)
        teacher = context.ancestors["teacher"].model() if "teacher" in context.ancestors else None
        learning = Trainer(student, stages, context.loader, lambda model: {}, self.device, evaluate_every=1, teacher=teacher)
        steps: list[Cost | None] = []
        hooks: list[Hook | None] = []
        memory = None
        for number, stage in enumerate(stages):
            if stage.on_start:
                stage.on_start(student)
            if len(stages) > STAGES and number not in (0, len(stages) - 1):
                steps.append(None)
                hooks.append(None)
                continue
            optimizer = optimizers.build(learning.learner, stage.optimization)
            cost, peaks = self._step_cost(learning, stage, optimizer)
            steps.append(cost)
            memory = memory or self._memory(student, before, peaks)
            hooks.append(self._hook(stage, student, optimizer, context.loader))
        if len(stages) > STAGES:
            first, last = steps[0], steps[-1]
            shares = [number / (len(stages) - 1) for number in range(len(stages))]
            steps = [between(first, last, share) for share in shares]
            hooks = [hooks[0] if stage.on_step else None for stage in stages]
        return tuple(steps), tuple(hooks), memory, self._kept(learning, stages)

    @torch.no_grad()
    def _kept(self, learning: Trainer, stages: list[Stage]) -> tuple[float, float, float]:
        wanted = teaching.worth_keeping(stages, 1, self.device.device)
        if learning.teacher is None or wanted is None:
            return 0.0, 0.0, 0.0
        batch = self._loader(1, self.shapes.many[1]).batch(np.arange(1))
        with self.device.autocast():
            return teaching.row_bytes(learning.teacher.model, batch, wanted)

    def _step_cost(self, learning: Trainer, stage: Stage, optimizer) -> tuple[Cost, dict]:
        times, peaks = {}, {}
        for rows, width in self.shapes.all():
            loader, numbers = self._loader(rows, width), np.arange(rows)

            def step(loader=loader, numbers=numbers, rows=rows):
                optimizer.zero_grad()
                optimizers.set_rate(optimizer, 0, 100, stage.optimization)
                state = trainer.State(micro_batch=rows)
                student, teacher = learning.student, learning.teacher
                sums = trainer.accumulate(student, teacher, loader, stage.passes, numbers, numbers, state, self.device)
                optimizers.clip(learning.learner, stage.optimization.clip)
                optimizer.step()
                return sums.tolist()

            reset_peak()
            times[rows, width] = self._fastest(step)
            peaks[rows, width] = peak()
        return fitted(times), peaks

    def _memory(self, student: nn.Module, before: int, peaks: dict) -> Cost:
        """Return the bytes of a run: the libraries, the models and a step's tensors, and the copies of both protocols."""
        few, many = ((rows * width, peaks[rows, width]) for rows, width in (self.shapes.few, self.shapes.many))
        if torch.cuda.is_available():
            before = 0
        slope = max(0.0, (many[1] - few[1]) / (many[0] - few[0]))
        own = max(0.0, min(few[1] - before, many[1] - before) - slope * few[0])
        return Cost((0 if torch.cuda.is_available() else self.libraries + 2 * _bytes(student)) + own, slope)

    def _hook(self, stage: Stage, student: nn.Module, optimizer, loader: FewRows) -> Hook | None:
        """Return what a stage's hook costs: counted in two short stages, of whose events the first two are timed."""
        if stage.on_step is None:
            return None
        ledger, counts, idle, busy = loader.ledger, [], [], []
        reading = 0.0  # seconds of the batches within the last event that was timed
        for steps in HOOKS:
            count = 0
            for at in range(steps):
                ledger.used, ledger.closed, ledger.batches = False, len(busy) >= 2, 0
                before = _versions(student)
                with contextlib.suppress(Enough):
                    seconds, _ = self._timed(lambda at=at, steps=steps: stage.on_step(student, optimizer, at, steps))
                    happened = ledger.used or _versions(student) != before
                    (busy if happened else idle).append(seconds)
                    if ledger.batches:
                        read, rows, reading = ledger.batches, ledger.batch_rows, ledger.seconds
                count += ledger.used or _versions(student) != before
            counts.append(count)
        ledger.closed = False
        every = min(idle, default=0.0)
        event = max(0.0, min(busy, default=0.0) - every)
        if not reading:
            return Hook(every, event, tuple(counts))
        tokens = rows * self.shapes.many[1]
        return Hook(every, max(0.0, event - 2 * reading), tuple(counts), read, rows, reading / tokens)

    # --- everything else ----------------------------------------------------------------------------------------

    def _looks(self, student: nn.Module) -> tuple[Cost, Cost]:
        """Return the costs of a forward pass over rows, in the precision of training and in full precision."""
        student.eval()

        def forward(loader: FewRows, rows: np.ndarray, precision: Callable) -> None:
            with precision():
                trainer.batch_outputs(student, loader, rows)

        found = []
        exact = contextlib.nullcontext
        for precision in (self.device.autocast, exact) if self.device.in_bf16 else (exact,):
            times = {}
            for rows, width in self.shapes.all():
                call = functools.partial(forward, self._loader(rows, width), np.arange(rows), precision)
                times[rows, width] = self._fastest(call)
            found.append(fitted(times))
        return found[0], found[-1]

    def _allocate(self, method: str, kind: str, student: nn.Module, task: str, context: Context) -> float:
        if self.catalogue.methods[method]["product"] != "allocation":
            return 0.0
        seconds, found = self._timed(lambda: self._paper(method).allocation(student, self._recipe(method, task), context))
        folder = self._folder(kind)
        files.write_json(folder / ALLOCATION, found)
        journal = context.journal
        return seconds + max(0, journal.count - 1) * journal.seconds

    def _store(self, method: str, kind: str, student: nn.Module) -> tuple[float, float, tuple[int, int]]:
        """Write the model where another kind may start from it; return the seconds of writing and reading, and the bytes."""
        if self.catalogue.methods[method]["product"] == "allocation":
            return 0.0, 0.0, (0, 0)
        folder, latent = self._folder(kind), 0
        path = folder / "last.safetensors"
        meta = {**HEADER, "max_length": self.shapes.many[1]}
        meta = {key: value for key, value in meta.items() if key not in ("head", "outputs")}
        write, _ = self._timed(lambda: artifact.save(path, student, meta, self.catalogue.config["ternary"]))
        if method in self.catalogue.keep_latent:
            artifact.save_latent(folder / LATENT, student)
            latent = (folder / LATENT).stat().st_size
        read, _ = self._timed(lambda: artifact.load(path))
        return write, read, (path.stat().st_size, latent)

    def _folder(self, kind: str) -> Path:
        folder = self.folder / files.sha256(kind.encode())[:16]
        folder.mkdir(exist_ok=True)
        return folder

    def _ancestor(self, method: str) -> Ancestor:
        folder = self._folder(self.kind(method))
        digests = {path.name: files.sha256_file(path) for path in folder.iterdir()}
        latent = "last" if LATENT in digests else None
        record = {"request": {"method": method, "seed": 0, "latent": latent}, "status": "ok", "files": digests}
        return Ancestor(folder, record, "last")

    def _timed(self, call: Callable):
        """Return the seconds of a call, and what it returns.

        On a CPU they are the processor's where these are fewer: time that other processes take is not the call's.
        """
        self._wait()
        started, worked = time.perf_counter(), time.process_time()
        found = call()
        self._wait()
        seconds, worked = time.perf_counter() - started, time.process_time() - worked
        return seconds if torch.cuda.is_available() else min(seconds, worked), found

    def _fastest(self, call: Callable) -> float:
        """Return the seconds of the fastest of some calls: what other work of the machine slows down least."""
        call()
        times: list[float] = []
        while len(times) < MOST and (not times or sum(times) < LEAST):
            times.append(self._timed(call)[0])
        return min(times)

    @staticmethod
    def _wait() -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()


def without_numbers(value, below: bool = False):
    """Return a recipe without the numbers that change no work."""
    if isinstance(value, dict):
        return {key: without_numbers(inner, below or key in SAME_WORK) for key, inner in sorted(value.items())}
    if isinstance(value, list):
        return [without_numbers(inner, below) for inner in value]
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return "number" if below and is_number else value


def _bytes(model: nn.Module) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())


def _versions(model: nn.Module) -> int:
    """Return a number that changes where a tensor of a model is written to."""
    return sum(tensor._version for tensor in (*model.parameters(), *model.buffers()))
