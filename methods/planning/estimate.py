"""The plan: what each run of a configuration does, times what that costs. Shared ancestors are counted once."""

import dataclasses
import math
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from methods.common.errors import UserError
from methods.common.schedule import START
from methods.engine.session import available_cores
from methods.planning.costs import Cost, Costs
from methods.planning.rehearsal import Measured, Rehearsal, Shapes
from methods.planning.rows import TaskRows, rows_of
from methods.tasks.data import BUCKETS
from methods.training import teaching
from methods.training.device import open_device
from methods.training.trainer import SCORING_BATCH
from methods.use.bench.timing import OtherWork

# Encoders that the presets take from the hub; what is not here are the defaults of BERT's configuration.
POSITIONS = {"max_position_embeddings": 514, "vocab_size": 50265, "type_vocab_size": 1, "model_type": "roberta"}
SHAPES = {
    "sentence-transformers/all-MiniLM-L6-v2": {
        **{"num_hidden_layers": 6, "hidden_size": 384, "num_attention_heads": 12, "intermediate_size": 1536},
        "vocab_size": 30522,
    },
    "google-bert/bert-base-uncased": {"vocab_size": 30522},
    "FacebookAI/roberta-base": POSITIONS,
}
GENERATED_WORDS = 2000  # about as many as the vocabulary of the generated texts has
LATENCY_SIZES = 2  # batch sizes whose latency is measured
PRETRAINING_WIDTH = 24  # tokens of a generated text that a base is pre-trained on, padded
# A step of more arithmetic than this is timed with fewer rows, and extrapolated: on a CPU it takes about a second.
WORK = {"cpu": 4e9, "cuda": math.inf}  # tokens x layers x width x width
BUSY = 0.3  # cores that other processes may use before the plan says that they disturb it


@dataclass(frozen=True)
class Run:
    """One run's estimate."""

    method: str
    task: str
    seed: int
    steps: int
    seconds: float
    file_bytes: int
    memory_bytes: float


@dataclass(frozen=True)
class Plan:
    runs: list[Run]
    base_seconds: float
    latency_seconds: float
    longest_seconds: float  # of the longest line of runs that wait for each other
    side_by_side: int  # runs that this machine's cores take at once
    notes: list[str]

    @property
    def seconds(self) -> float:
        """Return the seconds of everything, one after another."""
        return sum(run.seconds for run in self.runs) + self.base_seconds + self.latency_seconds

    @property
    def seconds_side_by_side(self) -> float:
        """Return the least seconds on this machine: all of its places are busy, or the longest line takes longer."""
        training = max(sum(run.seconds for run in self.runs) / self.side_by_side, self.longest_seconds)
        return training + self.base_seconds + self.latency_seconds


def make(catalogue, folder: Path, say: Callable[[str], None]) -> Plan:
    """Return the plan of a configuration, on this device. `folder` holds the results of its preset, if there are any."""
    config = catalogue.config
    torch.set_num_threads(config["threads"])
    other = OtherWork()
    device, precision, _ = open_device(config["precision"])
    rows = {task: rows_of(catalogue, task, folder) for task in config["tasks"]}
    augmented: dict[tuple[str, str], TaskRows] = {}

    def rows_for(method: str, task: str) -> TaskRows:
        if not catalogue.augmentation(method, task):
            return rows[task]
        if (method, task) not in augmented:
            augmented[method, task] = rows_of(catalogue, task, folder, method)
        return augmented[method, task]

    shape = base_shape(catalogue, folder)
    with tempfile.TemporaryDirectory() as scratch:
        shapes = shapes_for(shape, list(rows.values()), _batch(catalogue), device.device.type)
        rehearsal = Rehearsal(
            catalogue, shape, shapes, device, Path(scratch), lambda method, task: rows_for(method, task).train, say
        )
        measured = rehearsal.measure(config["methods"], config["tasks"])
    plan = combined(catalogue, measured, rows_for)
    busy = other.cores()
    notes = list(plan.notes)
    if typical := [task for task in config["tasks"] if not rows[task].measured]:
        notes.append(f"Rows of typical length, because their data are not made yet: {', '.join(typical)}.")
    if own := [task for task in config["tasks"] if "finetuned" in catalogue.tasks[task]]:
        notes.append(f"Their own models are taken to be of the preset's shape: {', '.join(own)}.")
    if busy is not None and busy > BUSY:
        notes.append(f"Other processes kept {busy:.1f} cores busy meanwhile: on a quiet machine runs are faster.")
    cores = f"{config['threads']} of {available_cores()} cores"
    where = torch.cuda.get_device_name() if torch.cuda.is_available() else cores
    notes.insert(0, f"Measured on {where}, {precision}.")
    return dataclasses.replace(plan, notes=notes)


def combined(catalogue, measured: dict[str, Measured], rows_for: Callable[[str, str], TaskRows]) -> Plan:
    """Return the plan of a configuration whose kinds of runs are measured."""
    config = catalogue.config
    runs = {}
    for method, task, seed in catalogue.runs(config["methods"], config["tasks"]):
        every = catalogue.evaluate_every(task)
        runs[method, task, seed] = _run((method, task, seed), measured[method], rows_for(method, task), every)
    latency = sum(
        latency_seconds(config["latency"]["seconds"], measured[method].costs, rows_for(method, task))
        for method in (config["methods"] if config["latency"] else ())
        for task in config["tasks"]
    )
    line = longest_line({name: run.seconds for name, run in runs.items()}, catalogue.ancestors)
    places = 1 if torch.cuda.is_available() else max(1, available_cores() // config["threads"])
    return Plan(list(runs.values()), _base_seconds(config, measured), latency, line, places, [])


def _run(name: tuple[str, str, int], measured: Measured, rows: TaskRows, evaluate_every: int) -> Run:
    stages, costs = measured.stages[name[1]], measured.costs
    batch = max((size for _, size in stages), default=0)
    return Run(
        *name,
        steps=sum(steps for steps, _ in stages),
        seconds=run_seconds(stages, costs, rows, evaluate_every),
        file_bytes=2 * costs.file_bytes + costs.latent_bytes,
        memory_bytes=costs.memory.of(batch * rows.widest(), 0) + _kept_bytes(stages, costs, rows),
    )


def _kept_bytes(stages: list[tuple[int, int]], costs: Costs, rows: TaskRows) -> float:
    """Return the memory in which a run keeps what its teacher shows."""
    lengths = np.asarray(rows.train.lengths, float)
    if sum(steps * batch for steps, batch in stages) < teaching.EPOCHS * len(lengths):
        return 0.0
    return min(teaching.LIMIT, sum(of_power * (lengths**power).sum() for power, of_power in enumerate(costs.kept)))


def run_seconds(stages: list[tuple[int, int]], costs: Costs, rows: TaskRows, evaluate_every: int) -> float:
    """Return the seconds of a run: start, student, steps, looks at the dev set, files and scores."""
    batches = -(-len(rows.dev) // SCORING_BATCH)
    dev_width = rows.dev_width()
    tokens = len(rows.dev) * dev_width

    def over_dev(cost: Cost) -> float:
        return cost.fixed * batches + Cost(0.0, cost.per_token, cost.per_token_and_width).of(tokens, dev_width)

    width = rows.width(stages[0][1]) if stages else float(rows.train.lengths.mean())
    seconds = START + costs.setup.of(width, width) + costs.allocation
    for (steps, batch), step, hook in zip(stages, costs.steps, costs.hooks, strict=bool(stages)):
        width = rows.width(batch)
        seconds += steps * step.of(batch * width, width)
        seconds += hook.of(steps, len(rows.train), width) if hook else 0.0
        seconds += -(-steps // evaluate_every) * over_dev(costs.look)
    if not costs.file_bytes:
        return seconds  # a search leaves no model
    models = 2 if stages else 1  # last and best
    return seconds + 2 * costs.write + models * (costs.read + over_dev(costs.score))


def latency_seconds(seconds: float, costs: Costs, rows: TaskRows) -> float:
    """Return the seconds that the latency of a cell's model takes, the scores through the engine included."""
    width = rows.dev_width()
    return START + LATENCY_SIZES * seconds + costs.read + costs.score.of(len(rows.dev) * width, width)


def _base_seconds(config: dict, measured: dict[str, Measured]) -> float:
    """Return the seconds of pre-training, where the base is generated: about the steps of a full-precision model."""
    base = config["base"]
    if base["source"] != "generated":
        return 0.0
    untaught = next((one.costs for one in measured.values() if one.costs.steps), None)
    if untaught is None:
        return 0.0  # nothing trains, because every task has a model of its own: no base is made
    tokens = base["batch_size"] * PRETRAINING_WIDTH
    return START + base["texts"] / base["batch_size"] * untaught.steps[0].of(tokens, PRETRAINING_WIDTH)


def longest_line(seconds: dict[tuple, float], ancestors: Callable) -> float:
    """Return the seconds of the longest line of runs in which each waits for the one before."""
    ends: dict[tuple, float] = {}

    def end(run: tuple) -> float:
        if run not in ends:
            ends[run] = seconds[run] + max(map(end, ancestors(*run).values()), default=0.0)
        return ends[run]

    return max(map(end, seconds), default=0.0)


def base_shape(catalogue, folder: Path) -> dict:
    """Return the configuration of the preset's encoder: of its file if that is made, else what is known of it."""
    path, base = folder / "base.safetensors", catalogue.config["base"]
    if path.is_file():
        from methods.model.encoder import read_base

        return read_base(path)[0].config
    if base["source"] == "generated":
        names = {"layers": "num_hidden_layers", "hidden": "hidden_size", "heads": "num_attention_heads"}
        names |= {"intermediate": "intermediate_size", "positions": "max_position_embeddings"}
        return {"vocab_size": GENERATED_WORDS} | {name: base[key] for key, name in names.items()}
    if base["source"] == "folder":
        from methods.model.encoder import known, read_config
        from methods.tasks.hub import model_files

        return known(read_config(model_files(base, None)))
    if base["id"] not in SHAPES:
        raise UserError(
            f"The shape of {base['id']} is not known before it is fetched: run `python -m methods base --preset "
            f"{catalogue.config['preset']}` first, then the same command again."
        )
    return SHAPES[base["id"]]


def shapes_for(config: dict, rows: Iterable[TaskRows], batch: int, device: str) -> Shapes:
    """Return the batches to time: usual rows of the median task, and some of the widest."""
    widths = sorted(one.width(batch) for one in rows)
    usual, widest = (
        next((length for length in BUCKETS if length >= width), math.ceil(width))
        for width in (widths[len(widths) // 2], widths[-1])
    )
    size = config.get("num_hidden_layers", 12) * config.get("hidden_size", 768) ** 2
    most = max(WORK[device] / size, 4 * usual)  # tokens
    many = int(max(4, min(batch, most // usual)))
    wide = (max(1, many * usual // widest), widest) if widest > 1.5 * usual else None
    return Shapes((max(1, many // 4), usual), (many, usual), wide)


def _batch(catalogue) -> int:
    """Return the rows of a batch that most runs have."""
    task, method = catalogue.config["tasks"][0], catalogue.config["methods"][0]
    return catalogue.budget(task).get("batch_size") or catalogue.values(method, task).get("batch_size") or 32
