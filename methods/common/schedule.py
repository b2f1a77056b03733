"""Progress of a workflow: the runs that are done and the time left, estimated from steps.

The Snakefile writes the plan when it starts; every finished run reads it, and the products beside it, and says what is
left. Only the time of runs that finished since then counts, so that an interrupted workflow starts a new estimate.
"""

import contextlib
import json
import os
import time
from pathlib import Path

from methods.common.progress import clock

START = 3.0  # seconds of a run beside its steps, until one is measured


def write(path: Path, steps: dict[str, int]) -> None:
    """Write the plan: the steps of each run that has to be made, by its folder below `runs/`.

    A disk without room is the business of the jobs, which say so; without a plan they say nothing of the time left.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps({"started": time.time(), "steps": steps}), encoding="utf-8")
        os.replace(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def left(path: Path) -> str | None:
    """Return how many runs are done and how long the rest takes; None without a plan."""
    try:
        plan = json.loads(path.read_text(encoding="utf-8"))
        steps, started = plan["steps"], plan["started"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    seconds = {}
    for name in steps:
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            folder = path.parent / "runs" / name
            if (folder / "run.json").stat().st_mtime >= started - 1:
                machine = json.loads((folder / "machine.json").read_text(encoding="utf-8"))
                seconds[name] = float(machine["seconds"]["total"])
    if not seconds:
        return None
    rest = remaining(steps, seconds)
    begun = min((path.parent / "runs" / name / "run.json").stat().st_mtime - seconds[name] for name in seconds)
    done = sum(START + value for value in seconds.values())
    time_left = (time.time() - max(begun - START, started)) * rest / done
    counted = f"{len(seconds)} of {len(steps)} runs"
    return f"{counted}, {clock(time_left)} left" if rest else counted


def remaining(steps: dict[str, int], seconds: dict[str, float]) -> float:
    """Return the seconds of work in the runs that are not done, at the speed of those that are: of their task if any is."""
    tasks = {name.split("/")[1] for name in seconds if steps[name]}
    speeds = {task: _seconds_per_step(steps, seconds, task) for task in tasks}
    overall = _seconds_per_step(steps, seconds)
    return sum(
        START + count * speeds.get(name.split("/")[1], overall) for name, count in steps.items() if name not in seconds
    )


def _seconds_per_step(steps: dict[str, int], seconds: dict[str, float], task: str | None = None) -> float:
    chosen = [name for name in seconds if steps[name] and task in (None, name.split("/")[1])]
    return sum(seconds[name] for name in chosen) / max(1, sum(steps[name] for name in chosen))
