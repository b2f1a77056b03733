"""A cell: the runs of one method on one task, summarised over seeds with nothing averaged away.

A seed that diverged is counted and named but never enters a mean, and runs that do not share code, data,
base model and recipe are not averaged at all.
"""

import csv
import itertools
import json
import math
import statistics
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from report import outcomes
from report.files import ReportError, read_json, sha256, validate
from report.statistics import METRICS, replicates, summarise

PROTOCOLS = ("last", "best")
DEFAULT_PRESET = "demo"
CURVE_POINTS = 60

# What must be equal before a mean over seeds means anything: a name for the user, and the place in run.json.
SHARED = {
    "method": ("request", "method"),
    "task": ("request", "task"),
    "preset": ("request", "preset"),
    "recipe": ("request", "spec"),
    "budget": ("request", "budget"),
    "padding": ("request", "padding"),
    "precision asked for": ("request", "precision"),
    "precision": ("ran_on", "precision"),
    "primary protocol": ("request", "primary"),  # of a run's ancestors; one without ancestors has none
    "primary metric": ("metric",),
    "code digest": ("ran_on", "code"),
    "data fingerprint": ("ran_on", "data", "fingerprint"),
    "base model": ("ran_on", "base", "sha256"),
    "teacher": ("teacher", "sha256"),
}


@dataclass(frozen=True)
class Run:
    """One run folder: what it recorded, the machine's facts, and Snakemake's benchmark where there is one."""

    folder: Path
    record: dict
    machine: dict
    benchmark: dict | None

    @property
    def seed(self) -> int:
        return self.record["request"]["seed"]

    @property
    def diverged(self) -> bool:
        return self.record["status"] != "ok"


def make_cell(folders: list[Path], primary: str) -> dict:
    runs = sorted((read_run(folder) for folder in folders), key=lambda run: run.seed)
    _check_together(runs, primary)
    return cell_of(runs, primary, _outcomes(runs))


def cell_of(runs: list[Run], primary: str, packed_outcomes: dict | None) -> dict:
    record = runs[0].record
    request, data = record["request"], record["ran_on"]["data"]
    taught = next((run.record["teacher"] for run in runs if run.record["teacher"]), None)
    kept = ("method", "task", "preset", "spec", "budget", "precision", "padding")
    cell = {
        "format": 1,
        "request": {key: request[key] for key in kept} | {"primary": primary, "seeds": [run.seed for run in runs]},
        "measured": {
            "metric": record["metric"],
            "seeds": [_seed(run.record) for run in runs],
            "protocols": {protocol: _protocol(runs, protocol, taught) for protocol in PROTOCOLS},
            "teacher": _only(taught, "method", "seed", "score"),
            "baseline": record["baseline"],
            "size": _size(runs, primary),
            "quantization_error": _quantization_error(runs),
            "latency": "not measured",
            "outcomes": packed_outcomes,
        },
        "ran_on": {
            "data": data["source"],
            "dataset": {"name": data["dataset"]}
            | {key: value for key, value in data.items() if key not in ("source", "dataset")},
            "base": record["ran_on"]["base"],
            "code": record["ran_on"]["code"],
            "precision": record["ran_on"]["precision"],
            "teacher": _only(taught, "method", "seed", "sha256"),
            "runs": [{"seed": run.seed} | _only(run.record, "init", "files") for run in runs],
            "devices": _distinct(run.record["ran_on"]["device"] for run in runs),
            "threads": _distinct(run.record["ran_on"]["threads"] for run in runs),
            "processes": _distinct(run.record["ran_on"]["processes"] for run in runs),
            "packages": _packages(runs),
            "command": _command(request),
            "volatile": {
                "cost": _cost(runs),
                "machines": [{"seed": run.seed, "machine": run.machine, "benchmark": run.benchmark} for run in runs],
            },
        },
    }
    validate(cell, "cell.schema.yaml", Path(f"the cell of {request['method']} on {request['task']}"))
    return cell


def read_run(folder: Path) -> Run:
    """Read a run and see that its files are there and its predictions are those it recorded.

    The model files are not hashed again: they are large, and whoever loads one checks it.
    """
    record = read_json(folder / "run.json")
    validate(record, "run.schema.yaml", folder / "run.json")
    machine = read_json(folder / "machine.json")
    validate(machine, "cell.schema.yaml#/$defs/machine", folder / "machine.json")
    for name, digest in record["files"].items():
        path = folder / name
        if not path.is_file():
            raise ReportError(
                f"{path} is missing though run.json names it; delete that too and let snakemake make the run again"
            )
        if name == "predictions.npz" and sha256(path) != digest:
            raise ReportError(
                f"{path} is not the file that run.json recorded (its sha256 differs); delete both and let snakemake make "
                "the run again"
            )
    return Run(folder, record, machine, _read_benchmark(folder / "benchmark.tsv"))


def _read_benchmark(path: Path) -> dict | None:
    if not path.exists():
        return None
    try:
        with path.open(encoding="utf-8", newline="") as file:
            row = next(csv.DictReader(file, delimiter="\t"))
        return {"seconds": _figure(row["s"]), "max_rss_mib": _figure(row["max_rss"])}
    except (OSError, ValueError, KeyError, StopIteration):
        raise ReportError(f"{path} is not a benchmark of Snakemake's; delete it, the cell does without") from None


def _figure(text: str) -> float | None:
    """Snakemake writes `-` or `NA` where a job was too short to be measured."""
    figure = None if text in ("-", "NA", "") else float(text)
    return figure if figure is None or math.isfinite(figure) else None


def _check_together(runs: list[Run], primary: str) -> None:
    first = runs[0]
    cell = f"{first.record['request']['method']} on {first.record['request']['task']}"
    for run, after in itertools.pairwise(runs):
        if run.seed == after.seed:
            raise ReportError(f"{run.folder} and {after.folder} are both seed {run.seed}; name each seed once")
    for name, place in SHARED.items():
        values = {}
        for run in runs:
            value = _at(run.record, place)
            if value is not None:
                values.setdefault(json.dumps(value, sort_keys=True), []).append(run)
        if len(values) > 1:
            (one, (a, *_)), (other, (b, *_)), *_ = values.items()
            raise ReportError(
                f"the runs of {cell} are not averaged because their {name} differs between "
                f"{a.folder}{_in_brief(one)} and {b.folder}{_in_brief(other)}; "
                "let snakemake make them again alike"
            )
    if (theirs := first.record["request"].get("primary", primary)) != primary:
        raise ReportError(
            f"the ancestors of {cell} were taken by {theirs!r} as primary protocol, "
            f"not {primary!r}; pass --primary {theirs} or let snakemake make the runs again"
        )


def _at(record: dict | None, place: tuple[str, ...]):
    """None where a run has no such thing: no ancestors, or no teacher because its ancestor diverged."""
    for key in place:
        if record is None:
            return None
        record = record.get(key)
    return record


def _in_brief(value: str) -> str:
    """A JSON value for a message: hashes are cut, whole recipes left to the run's own file."""
    return "" if value.startswith("{") else f" ({json.loads(value)[:12]})"


def _seed(record: dict) -> dict:
    kept = _only(record, "status", "reason", "scores", "steps", "examples_seen", "events")
    curve = {
        "loss": thin([[point["step"], point["loss"]] for point in record["curve"] if point["loss"] is not None]),
        "dev": thin([[point["step"], point["score"]] for point in record["dev"]]),
    }
    return {"seed": record["request"]["seed"], "curve": curve} | kept


def thin(points: list, limit: int = CURVE_POINTS) -> list:
    """At most `limit` of the points, evenly spread, the first and the last among them."""
    if len(points) <= limit:
        return points
    return [points[round(i * (len(points) - 1) / (limit - 1))] for i in range(limit)]


def _protocol(runs: list[Run], protocol: str, teacher: dict | None) -> dict:
    metric = runs[0].record["metric"]
    scored = [run.record["scores"][protocol]["metrics"] for run in runs if not run.diverged]
    reports = [*scored, runs[0].record["baseline"]["metrics"]]
    if any(metric not in report for report in reports) or any(m.keys() != scored[0].keys() for m in scored):
        raise ReportError(
            f"the runs in {', '.join(str(run.folder) for run in runs)} do not all report {metric} "
            "and the same other metrics; let snakemake make them again"
        )
    names = scored[0] if scored else [metric]
    metrics = {name: summarise([metrics[name] for metrics in scored], n_diverged=len(runs) - len(scored)) for name in names}
    mean = metrics[metric]["mean"]
    known = mean is not None and teacher is not None and teacher["score"] is not None
    return {"metrics": metrics, "drop": teacher["score"] - mean if known else None}


def _size(runs: list[Run], primary: str) -> dict | None:
    """Of several seeds the largest file speaks: compressed models differ a little from seed to seed."""
    sizes = [run.record["size"][primary] for run in runs if run.record["size"]]
    if not sizes:
        return None
    size = max(sizes, key=lambda size: size["file_bytes"])
    conventions = {
        name: {"bytes": size[f"{name}_bytes"], "ratio": size["fp32_bytes"] / size[f"{name}_bytes"]}
        for name in ("paper", "counted", "file")
    }
    return conventions | _only(size, "fp32_bytes", "parameters", "groups")


def _quantization_error(runs: list[Run]) -> list | None:
    """By layer and matrix, of the first seed that has it: seeds differ far less than layers do."""
    return next((run.record["quantization_error"] for run in runs if run.record.get("quantization_error")), None)


def _outcomes(runs: list[Run]) -> dict | None:
    """What every seed answered, after seeing that these answers give the scores that the runs recorded."""
    answered = {run.seed: run for run in runs if not run.diverged}
    metric = runs[0].record["metric"]
    packed = outcomes.pack({seed: run.folder / "predictions.npz" for seed, run in answered.items()}, PROTOCOLS, metric)
    if packed is None:
        return None
    found = outcomes.unpack(packed)
    if found.references is not None and metric not in METRICS:
        return None
    for protocol, of_seeds in found.predictions.items():
        once = np.ones((1, found.examples), np.float32)
        scores = replicates(metric, once, found.references, np.stack(list(of_seeds.values())))[0]
        for seed, score in zip(of_seeds, scores, strict=True):
            said = answered[seed].record["scores"][protocol]["metrics"][metric]
            if abs(score - said) > outcomes.TOLERANCE:
                raise ReportError(
                    f"{answered[seed].folder / 'predictions.npz'} gives {protocol} {metric} {score:.2f} though run.json "
                    f"says {said:.2f}; let snakemake make the run again"
                )
    return packed


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


def _command(request: dict) -> str:
    target = f"snakemake results/{request['method']}_{request['task']}.json"
    return target if request["preset"] == DEFAULT_PRESET else f"{target} --config preset={request['preset']}"


def _distinct(values) -> list:
    return sorted(set(values))


def _only(mapping: dict | None, *keys: str) -> dict | None:
    return None if mapping is None else {key: mapping[key] for key in keys}
