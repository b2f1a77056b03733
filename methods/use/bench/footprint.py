"""What a contender costs besides time: seconds to load it and memory, in a process that runs nothing else.

    python -m methods.use.bench.footprint RUNNER FILE THREADS OPTIONS LENGTH VOCABULARY

Memory of libraries stays in a process, and what one model leaves free another takes: only fresh processes compare.
"""

import json
import subprocess
import sys
import time
from pathlib import Path

from methods.common.provenance import resident_bytes
from methods.use.bench import runners
from methods.use.bench.timing import random_rows


class Failed(Exception):
    """A contender's own process ended early; the message is its last line."""


def measure(runner: type[runners.Runner], path: Path, threads: int, options: dict, length: int, vocabulary: int) -> dict:
    """Return load_seconds, and the memory of loading and one answer, in a process of its own."""
    words = (runner.__name__, path, threads, json.dumps(options), length, vocabulary)
    command = [sys.executable, "-m", "methods.use.bench.footprint", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise Failed((done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1])
    return json.loads(done.stdout.splitlines()[-1])


def _measured(runner: type[runners.Runner], path: Path, threads: int, options: dict, length: int, vocabulary: int) -> dict:
    runner.load_libraries()
    rows = random_rows([length], vocabulary)
    before, started = resident_bytes(), time.perf_counter()
    opened = runner(path, threads, **options)
    load_seconds = time.perf_counter() - started
    opened.answers(rows)
    after = resident_bytes()
    opened.close()
    known = before is not None and after is not None
    return {"load_seconds": load_seconds, "memory_bytes": after - before if known else None, "process_bytes": after}


if __name__ == "__main__":
    runner, path, threads, options, length, vocabulary = sys.argv[1:]
    found = _measured(getattr(runners, runner), Path(path), int(threads), json.loads(options), int(length), int(vocabulary))
    print(json.dumps(found))
