"""Checkpoints that survive kill -9, torn writes and changed recipes.

They are sealed files beside the run's products, never declared to Snakemake, which deletes the outputs of a failed job.
The two newest are kept: if the newest is damaged, the one before serves. Each carries the identity of its run, so that
a checkpoint of another recipe, code or input is never continued.
"""

import shutil
import time
from pathlib import Path

from methods.common.errors import UserError
from methods.common.files import read_sealed, write_sealed

KEPT = 2
LARGEST_SHARE = 0.05  # of the time may go into writing checkpoints, however slow the disk


class Checkpoints:
    def __init__(self, folder: Path, identity: str, steps: int | None = None, seconds: float = 60.0, say=print):
        self.folder, self.identity, self.steps, self.seconds, self.say = (
            Path(folder),
            identity,
            steps,
            seconds,
            say,
        )
        self.last_save, self.cost, self.resumed = time.monotonic(), 0.0, 0

    def due(self, step: int) -> bool:
        if self.steps and step % self.steps == 0:
            return True
        return time.monotonic() - self.last_save > max(self.seconds, self.cost / LARGEST_SHARE)

    def stale(self) -> bool:
        """Return whether more work is unsaved than it costs to save it."""
        return time.monotonic() - self.last_save > max(5.0, self.cost)

    def save(self, step: int, arrays: dict, meta: dict) -> None:
        start = time.monotonic()
        write_sealed(self._path(step), arrays, {"identity": self.identity, "resumed": self.resumed, **meta})
        for old in self._files()[KEPT:]:
            old.unlink()
        self.last_save = time.monotonic()
        self.cost = self.last_save - start

    def load(self) -> tuple[dict, dict] | None:
        """Arrays and meta of the newest whole checkpoint of this very run, or None."""
        for path in self._files():
            try:
                arrays, meta = read_sealed(path)
            except UserError as error:
                self.say(f"Checkpoint {path.name} is damaged and is passed over: {error}")
                continue
            if meta.pop("identity") == self.identity:
                self.resumed = meta.pop("resumed") + 1
                self.say(f"Resuming from {path.name}")
                return arrays, meta
            self.say(f"Checkpoint {path.name} belongs to another recipe, code or input and is passed over")
        return None

    def clear(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}.safetensors"

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob("step-*.safetensors"), reverse=True)
