"""The context of a paper's functions: what they get beside the model and the recipe."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from methods.common import files, interrupt
from methods.common.errors import UserError
from methods.training.ancestors import Ancestor
from methods.training.loader import Loader

SAMPLE_BATCH = 32  # rows of a batch that a method may look at before it trains


class Journal:
    """Answers that are expensive to find, kept on the disk as they come, so that a search resumes where it was killed.

    The file holds the hash of its answers: one that was changed or damaged is begun anew.
    """

    def __init__(self, path: Path, identity: str):
        self.path, self.identity = Path(path), identity
        self.answers: dict = {}
        if self.path.is_file():
            try:
                stored = files.read_json(self.path)
            except UserError:
                stored = {}
            if isinstance(stored, dict) and stored == self._sealed(stored.get("answers")):
                self.answers = stored["answers"]

    def once(self, question: str, compute: Callable[[], object]):
        """Return the answer to a question: the stored one, or what `compute` returns, as JSON gives it back."""
        if question not in self.answers:
            interrupt.check()
            self.answers[question] = json.loads(json.dumps(compute(), allow_nan=False))
            files.write_json(self.path, self._sealed(self.answers))
        return self.answers[question]

    def _sealed(self, answers: object) -> dict:
        digest = files.sha256(files.canonical(answers).encode("utf-8", "backslashreplace"))
        return {"identity": self.identity, "answers": answers, "sha256": digest}


@dataclass(frozen=True)
class Context:
    """The training rows, the budget, the ancestors by role, a journal for searches, and notes.

    `notes` hold what `student` found out and `stages` needs; they are made anew when a run resumes.
    """

    loader: Loader
    budget: dict
    ancestors: dict[str, Ancestor]
    journal: Journal
    notes: dict = field(default_factory=dict)

    @property
    def sample(self) -> Iterator[dict]:
        """Batches of training rows, for methods that look at data before they train. Each use starts anew."""
        return self.loader.sample(SAMPLE_BATCH)
