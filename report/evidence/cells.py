"""A cell: the runs of one method on one task, summarised over seeds.

A seed that diverged is counted and named but never enters a mean. Runs that do not share code, data, base model and
recipe are refused, because their mean would say nothing.
"""

import csv
import itertools
import json
import math
import shlex
import statistics
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from methods.common.errors import UserError
from methods.common.files import read_object, sha256_file
from methods.common.schema import read_valid, validate
from report.evidence import outcomes
from report.evidence.latency import NOT_MEASURED
from report.evidence.statistics import METRICS, replicates, summarise

PROTOCOLS = ("last", "best")
DEFAULT_PRESET = "demo"
CURVE_POINTS = 60
LATENCY = "latency.json"

# What must be equal before a mean over seeds means anything: a name for the user, and the place in run.json.
SHARED = {
    "method": ("request", "method"),
    "task": ("request", "task"),
    "preset": ("request", "preset"),
    "recipe": ("request", "spec"),
    "budget": ("request", "budget"),
    "padding": ("request", "padding"),
    "requested precision": ("request", "precision"),
    "precision": ("ran_on", "precision"),
    "primary protocol": ("request", "primary"),  # of a run's ancestors; a run without ancestors has none
    "primary metric": ("metric",),
    "code digest": ("ran_on", "code"),
    "data fingerprint": ("ran_on", "data", "fingerprint"),
    "data augmentation": ("ran_on", "data", "augmentation"),
    "base model": ("ran_on", "base", "sha256"),
    "teacher": ("ancestors", "teacher", "sha256"),
}


ABSENCE_DIFFERS = ("data augmentation",)  # a run without it is not averaged with one that has it


@dataclass(frozen=True)
class Run:
    """One run folder: its record, the facts of its machine, and what was measured of it."""

    folder: Path
    record: dict
    machine: dict
    benchmark: dict | None
    latency: dict | None = None

    @property
    def seed(self) -> int:
        return self.record["request"]["seed"]

    @property
    def diverged(self) -> bool:
        return self.record["status"] != "ok"

    @property
    def teacher(self) -> dict | None:
        return self.record["ancestors"].get("teacher")


def make_cell(folders: list[Path], primary: str, about: dict, overrides: dict | None = None, latency: bool = True) -> dict:
    """Read the runs in `folders` and return their cell.

    `about` holds what the catalogue knows of the method and the task (title, family, suite), `overrides` the configuration
    that the user set over the preset. Without `latency`, what was measured beside the runs is left out.
    """
    runs = sorted((read_run(folder, latency) for folder in folders), key=lambda run: run.seed)
    _check_alike(runs, primary)
    return cell_of(runs, primary, about, overrides or {}, _packed_outcomes(runs))


def cell_of(runs: list[Run], primary: str, about: dict, overrides: dict, packed_outcomes: dict | None) -> dict:
    record = runs[0].record
    request, data = record["request"], record["ran_on"]["data"]
    teacher = next((run.teacher for run in runs if run.teacher), None)
    copied = ("method", "task", "preset", "spec", "budget", "precision", "padding")
    seeds = [run.seed for run in runs]
    cell = {
        "format": 1,
        "about": about,
        "request": {key: request[key] for key in copied} | {"primary": primary, "seeds": seeds, "overrides": overrides},
        "measured": {
            "metric": record["metric"],
            "bits": _bits(runs),
            "seeds": [_seed(run.record) for run in runs],
            "protocols": {protocol: _protocol(runs, protocol, teacher) for protocol in PROTOCOLS},
            "teacher": _only(teacher, "method", "seed", "score"),
            "baseline": record["baseline"],
            "size": _size(runs, primary),
            "quantization_error": _quantization_error(runs),
            "latency": _latency(runs, primary),
            "outcomes": packed_outcomes,
        },
        "ran_on": {
            "data": data["source"],
            "dataset": {"name": data["dataset"]}
            | {key: value for key, value in data.items() if key not in ("source", "dataset")},
            "base": record["ran_on"]["base"],
            "code": record["ran_on"]["code"],
            "precision": record["ran_on"]["precision"],
            "teacher": _only(teacher, "method", "seed", "sha256"),
            "runs": [_provenance(run) for run in runs],
            "devices": _distinct(run.record["ran_on"]["device"] for run in runs),
            "threads": _distinct(run.record["ran_on"]["threads"] for run in runs),
            "processes": _distinct(run.record["ran_on"]["processes"] for run in runs),
            "packages": _packages(runs),
            "command": command(request["method"], request["task"], request["preset"], overrides),
            "volatile": {
                "cost": _cost(runs),
                "machines": [{"seed": run.seed, "machine": run.machine, "benchmark": run.benchmark} for run in runs],
            },
        },
    }
    validate(cell, "cell.schema.yaml", f"the cell of {request['method']} on {request['task']}")
    return cell


def command(method: str, task: str, preset: str, overrides: dict) -> str:
    """Return the command that makes a cell again, quoted for a shell; `--config` takes all that follows it."""
    settings = {key: value for key, value in overrides.items() if key != "preset"}
    if preset != DEFAULT_PRESET:
        settings = {"preset": preset} | settings
    words = [f"{key}={_setting(value)}" for key, value in settings.items()]
    return shlex.join(["snakemake", f"results/{method}_{task}.json", *(["--config", *words] if words else [])])


def _setting(value) -> str:
    """Return a value as Snakemake's `--config` reads it: plain text bare, everything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, allow_nan=False)


def read_run(folder: Path, latency: bool = True) -> Run:
    """Read a run, and check that its files exist and that its predictions are those that it recorded.

    The model files are not hashed again: they are large, and every reader of one checks it.
    """
    record = read_object(folder / "run.json")
    files = record.get("files")
    if record.get("scores") is None and isinstance(files, dict) and "allocation.json" in files:
        raise UserError(f"{folder} is a search run: it has an allocation and no scores, so it has no cell.")
    validate(record, "run.schema.yaml", folder / "run.json")
    machine = read_valid(folder / "machine.json", "cell.schema.yaml#/$defs/machine")
    for name, digest in files.items():
        path = folder / name
        if not path.is_file():
            raise UserError(f"{path} is missing though run.json names it: delete run.json and run the same command again.")
        if name == "predictions.npz" and sha256_file(path) != digest:
            raise UserError(
                f"{path} is not the file that run.json recorded (its sha256 differs): delete both and run the same command "
                "again."
            )
    measured = latency and (folder / LATENCY).exists()
    return Run(
        folder,
        record,
        machine,
        _read_benchmark(folder / "benchmark.tsv"),
        read_valid(folder / LATENCY, "cell.schema.yaml#/$defs/latency") if measured else None,
    )


def _read_benchmark(path: Path) -> dict | None:
    if not path.exists():
        return None
    try:
        with path.open(encoding="utf-8", newline="") as file:
            row = next(csv.DictReader(file, delimiter="\t"))
        return {"seconds": _number(row["s"]), "max_rss_mib": _number(row["max_rss"])}
    except (OSError, ValueError, KeyError, TypeError, StopIteration):
        raise UserError(f"{path} is not a benchmark file of Snakemake: delete it, the cell does not need it.") from None


def _number(text: str) -> float | None:
    """Return a number, or None where Snakemake wrote `-` or `NA` because the job was too short to be measured."""
    number = None if text in ("-", "NA", "") else float(text)
    return number if number is None or math.isfinite(number) else None


def _check_alike(runs: list[Run], primary: str) -> None:
    first = runs[0]
    cell = f"{first.record['request']['method']} on {first.record['request']['task']}"
    for run, after in itertools.pairwise(runs):
        if run.seed == after.seed:
            raise UserError(f"{run.folder} and {after.folder} are both seed {run.seed}: name each seed once.")
    for name, place in SHARED.items():
        values = {}
        for run in runs:
            value = _value_at(run.record, place)
            if value is not None or name in ABSENCE_DIFFERS:
                values.setdefault(json.dumps(value, sort_keys=True), []).append(run)
        if len(values) > 1:
            (value, (a, *_)), (other, (b, *_)), *_ = values.items()
            raise UserError(
                f"the runs of {cell} are not averaged because their {name} differs between "
                f"{a.folder}{_in_brief(value)} and {b.folder}{_in_brief(other)}: make them again with Snakemake."
            )
    if (recorded := first.record["request"].get("primary", primary)) != primary:
        raise UserError(
            f"the runs of {cell} used their ancestors' {recorded!r} models, not {primary!r}: "
            f"pass --primary {recorded}, or make the runs again with Snakemake."
        )


def _value_at(record: dict | None, place: tuple[str, ...]):
    """Return None where a run has no such value: no ancestors, or no teacher because its ancestor diverged."""
    for key in place:
        if record is None:
            return None
        record = record.get(key)
    return record


def _in_brief(value: str) -> str:
    """Return a JSON value for a message: hashes are cut, whole recipes are left to the run's own file."""
    if value == "null":
        return " (none)"
    return "" if value.startswith("{") else f" ({json.loads(value)[:12]})"


def _bits(runs: list[Run]) -> dict | None:
    """Return the mean over runs of the bits measured in their model files; None where every seed diverged."""
    measured = [run.record["bits"] for run in runs if run.record["bits"]]
    return {part: statistics.fmean(bits[part] for bits in measured) for part in measured[0]} if measured else None


def _seed(record: dict) -> dict:
    copied = _only(record, "status", "reason", "scores", "steps", "examples_seen", "events")
    curve = {
        "loss": thin([[point["step"], point["loss"]] for point in record["curve"] if point["loss"] is not None]),
        "dev": thin([[point["step"], point["score"]] for point in record["dev"]]),
    }
    return {"seed": record["request"]["seed"], "curve": curve} | copied


def thin(points: list, limit: int = CURVE_POINTS) -> list:
    """Return at most `limit` of the points, evenly spread, the first and the last among them."""
    if len(points) <= limit:
        return points
    return [points[round(i * (len(points) - 1) / (limit - 1))] for i in range(limit)]


def _protocol(runs: list[Run], protocol: str, teacher: dict | None) -> dict:
    metric = runs[0].record["metric"]
    scored = [run.record["scores"][protocol]["metrics"] for run in runs if not run.diverged]
    reports = [*scored, runs[0].record["baseline"]["metrics"]]
    if any(metric not in report for report in reports) or any(m.keys() != scored[0].keys() for m in scored):
        raise UserError(
            f"the runs in {', '.join(str(run.folder) for run in runs)} do not all report {metric} "
            "and the same other metrics: make them again with Snakemake."
        )
    names = scored[0] if scored else [metric]
    metrics = {name: summarise([metrics[name] for metrics in scored], n_diverged=len(runs) - len(scored)) for name in names}
    mean = metrics[metric]["mean"]
    known = mean is not None and teacher is not None and teacher.get("score") is not None
    return {"metrics": metrics, "drop": teacher["score"] - mean if known else None}


def _size(runs: list[Run], primary: str) -> dict | None:
    """Return the size of the seed with the largest file: compressed models differ a little from seed to seed."""
    sizes = [run.record["size"][primary] for run in runs if run.record["size"]]
    if not sizes:
        return None
    size = max(sizes, key=lambda size: size["file_bytes"])
    conventions = {
        name: {"bytes": size[f"{name}_bytes"], "ratio": size["fp32_bytes"] / size[f"{name}_bytes"]}
        for name in ("paper", "counted", "file")
    }
    active = {key: size[key] for key in ("active_parameters",) if key in size}  # runs made before it was counted lack it
    return conventions | _only(size, "fp32_bytes", "parameters", "groups") | active


def _latency(runs: list[Run], primary: str) -> dict | str:
    """Return the latency of the first seed that has one: models of one method have one shape, and so one time."""
    measured = [run for run in runs if run.latency and run.latency["engine"]]
    for run in measured:
        if run.latency["model"] == run.record["files"].get(f"{primary}.safetensors"):
            return run.latency
    for run in measured:  # left over from models that are no longer there
        raise UserError(
            f"{run.folder / LATENCY} is of another model than {primary}.safetensors of this run: delete it, or "
            f"measure again with `python -m methods latency {run.folder} --protocol {primary} --data FILE`."
        )
    return next((run.latency for run in runs if run.latency), NOT_MEASURED)


def _quantization_error(runs: list[Run]) -> list | None:
    """Return the errors by layer and matrix of the first seed that has them: seeds differ far less than layers do."""
    return next((run.record["quantization_error"] for run in runs if run.record.get("quantization_error")), None)


def _packed_outcomes(runs: list[Run]) -> dict | None:
    """Return every seed's predictions, after checking that they give the scores that the runs recorded."""
    scored = {run.seed: run for run in runs if not run.diverged}
    metric = runs[0].record["metric"]
    packed = outcomes.pack({seed: run.folder / "predictions.npz" for seed, run in scored.items()}, PROTOCOLS, metric)
    if packed is None:
        return None
    unpacked = outcomes.unpack(packed)
    if unpacked.references is not None and metric not in METRICS:
        return None
    for protocol, predictions in unpacked.predictions.items():
        once = np.ones((1, unpacked.examples), np.float32)
        scores = replicates(metric, once, unpacked.references, np.stack(list(predictions.values())))[0]
        for seed, score in zip(predictions, scores, strict=True):
            recorded = scored[seed].record["scores"][protocol]["metrics"][metric]
            if abs(score - recorded) > outcomes.TOLERANCE:
                raise UserError(
                    f"{scored[seed].folder / 'predictions.npz'} gives {protocol} {metric} {score:.2f} though run.json "
                    f"records {recorded:.2f}: make the run again with Snakemake."
                )
    return packed


def _provenance(run: Run) -> dict:
    ancestors = {
        role: {key: value for key, value in ancestor.items() if key != "score"}
        for role, ancestor in run.record["ancestors"].items()
    }
    return {"seed": run.seed, "ancestors": ancestors, "files": run.record["files"]}


def _cost(runs: list[Run]) -> dict:
    machines = [run.machine for run in runs]
    speeds = [m["steps_per_second"] for m in machines if m["steps_per_second"] is not None]
    return {
        "seconds": statistics.fmean(m["seconds"]["total"] for m in machines),
        "peak_memory_bytes": max((m["peak_memory_bytes"] for m in machines if m["peak_memory_bytes"]), default=None),
        "steps_per_second": statistics.fmean(speeds) if speeds else None,
        "n": len(machines),
    }


def _packages(runs: list[Run]) -> dict:
    installed = [run.record["ran_on"]["packages"] for run in runs]
    names = {name for packages in installed for name in packages}
    return {name: _distinct(packages[name] for packages in installed if name in packages) for name in names}


def _distinct(values) -> list:
    return sorted(set(values))


def _only(mapping: dict | None, *keys: str) -> dict | None:
    return None if mapping is None else {key: mapping.get(key) for key in keys}
