"""What a person sees of the workflow: one Snakemake at a time in a folder, one line for each run, a table at the end.

The lines of the runs come from `python -m methods run`. Snakemake's own lines go to its log file below .snakemake/log;
its warnings and errors, with the logs of failed jobs, still go to the terminal.
"""

import fcntl
import json
import logging
import os
import sys
from pathlib import Path

from methods.common import schedule
from methods.common.terminal import plain

_held = []  # the open lock file: it is released when the process ends, however it ends
LOG_LINES = 20  # of a failed job
READING = {"--lint", "--dag", "--rulegraph", "--filegraph", "--d3dag", "--summary", "-S", "--detailed-summary", "-D"}
READING |= {"--list", "--list-rules", "-l", "--unlock", "--report", "--list-changes", "--archive", "--containerize"}


def executes(workflow) -> bool:
    """Return whether this process runs jobs: no dry run, no job of a cluster, no question about the workflow."""
    return workflow.is_main_process and not workflow.output_settings.dryrun and not READING.intersection(sys.argv)


def hold(folder: Path) -> None:
    """Let one Snakemake at a time work in this directory; wait for another one to end.

    Snakemake deletes a job's products before it starts the job, while another Snakemake may read them. The system releases
    this lock when its owner ends or is killed, so that no --unlock is ever needed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = open(folder / "benchmark.lock", "a+b")  # noqa: SIM115 - open until the process ends
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        owner = file.read(20).decode("ascii", "replace").strip() or "unknown"
        print(f"Waiting: another Snakemake (process {owner}) works in this folder. Ctrl-C stops waiting.", file=sys.stderr)
        fcntl.flock(file, fcntl.LOCK_EX)
    file.truncate(0)
    file.write(f"{os.getpid()}\n".encode())
    file.flush()
    _held.append(file)


def silence() -> None:
    """Keep Snakemake's information off the terminal; its log file keeps it."""
    for handler in logging.getLogger("snakemake.logging").handlers:
        if handler.name == "DefaultStreamHandler":
            handler.addFilter(_matters)


def _matters(record: logging.LogRecord) -> bool:
    """Return whether Snakemake's line goes to the terminal; a failed job is said in our own, shorter words."""
    event = str(getattr(getattr(record, "event", None), "value", ""))
    if event == "job_error":
        print(_failure(record), file=sys.stderr, flush=True)
        return False
    if record.levelno >= logging.WARNING or "error" in event:
        return not str(record.msg).startswith("RuleException:\nCalledProcessError")  # the command, some thousand letters
    return str(record.msg).startswith(("Nothing to be done", "Complete log", "Elapsed"))


def _failure(record: logging.LogRecord) -> str:
    """Return what failed and the end of its log."""
    products = ", ".join(map(str, getattr(record, "output", None) or [])) or getattr(record, "rule_name", "a job")
    line = f"Failed: {products}"
    for log in getattr(record, "log", None) or []:
        try:
            last = Path(str(log)).read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_LINES:]
        except OSError:
            continue
        line += f". The end of its log, {log}:\n" + "\n".join(f"    {plain(text)}" for text in last)
    return line


def start(path: Path, jobs: list, steps: dict[str, int]) -> None:
    """Write the plan of a workflow and say what it holds."""
    schedule.write(path, steps)
    counts = {rule: sum(job.rule.name == rule for job in jobs) for rule in ("run", "cell")}
    names = ", ".join(f"{count} {rule}{'s' * (count != 1)}" for rule, count in counts.items() if count)
    if names:
        print(f"To be made: {names}. Logs: {path.parent}/logs", file=sys.stderr, flush=True)
    if any(job.rule.name == "base" for job in jobs):
        print("The base model comes first.", file=sys.stderr, flush=True)


def results(cells: list[str]) -> str:
    """Return the table of methods and tasks, with each cell's primary metric; a dash where there is no score."""
    scores, methods, tasks = {}, {}, {}
    for path in map(Path, cells):
        try:
            cell = json.loads(path.read_text(encoding="utf-8"))
            method, task = cell["request"]["method"], cell["request"]["task"]
            methods[method], tasks[task] = None, cell["measured"]["metric"]
            scores[method, task] = cell["measured"]["protocols"][cell["request"]["primary"]]["metrics"][tasks[task]]["mean"]
        except (OSError, ValueError, KeyError, TypeError):
            continue
    if not methods:
        return ""
    heads = [plain(f"{task} {metric}") for task, metric in tasks.items()]
    width = max(len(plain(method)) for method in methods)
    rows = [" ".join([" " * width, *heads])]
    for method in methods:
        words = [plain(method).ljust(width)]
        for task, head in zip(tasks, heads, strict=True):
            score = scores.get((method, task))
            words.append(("-" if score is None else f"{score:.2f}").rjust(len(head)))
        rows.append(" ".join(words))
    return "\n".join(rows)
