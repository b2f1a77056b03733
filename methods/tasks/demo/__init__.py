"""The demo data: eleven small tasks in the columns and labels of the real ones, told in a generated world.

Pure standard library, no file read, the same bytes on every machine. Nothing here is comparable with a paper.
"""

import re
from collections.abc import Callable, Iterator
from itertools import chain, islice

from .acceptability import judgements
from .dice import Dice
from .inference import inferences, recognitions
from .pronouns import resolutions
from .questions import answer_pairs, passages
from .reading import texts
from .reviews import reviews
from .sentences import AWAY
from .similarity import duplicates, graded, paraphrases

TRAIN, VALIDATION = "train", "validation"
Rows = Iterator[dict]


def _squad(dice: Dice) -> Rows:
    return passages(dice, length=3, unanswerable=0)


def _squad2(dice: Dice) -> Rows:
    return passages(dice, length=3, unanswerable=0.5)


def _mismatched(dice: Dice) -> Rows:
    return inferences(dice, AWAY)


# task -> (generator, number of labels or 0, rows to train on)
TASKS: dict[str, tuple[Callable[[Dice], Rows], int, int]] = {
    "cola": (judgements, 2, 4000),
    "sst2": (reviews, 2, 4000),
    "mrpc": (paraphrases, 2, 4000),
    "stsb": (graded, 0, 4000),
    "qqp": (duplicates, 2, 5000),
    "mnli": (inferences, 3, 6000),
    "qnli": (answer_pairs, 2, 4000),
    "rte": (recognitions, 2, 4000),
    "wnli": (resolutions, 2, 2000),
    "squad": (_squad, 0, 3000),
    "squad2": (_squad2, 0, 4000),
}
VALIDATION_ROWS = 600
MISLABELLED = 0.04
WORD = re.compile(r"\w+|[^\w\s]")
CORPUS_SAMPLE = 20_000  # texts; by then every word of the small world has been said many times


def generate(task: str, seed: int = 0) -> dict[str, list[dict]]:
    """The rows of each split of a task. No text occurs twice, within a split or across them."""
    rows_of, labels, train = TASKS[task]
    sizes = {TRAIN: train, VALIDATION: VALIDATION_ROWS}
    if task == "mnli":
        sizes = {TRAIN: train, "validation_matched": VALIDATION_ROWS}
    fresh = _numbered(task, _unseen(rows_of(Dice(task, seed))), Dice(task, seed, "annotator"), labels)
    splits = {split: list(islice(fresh, size)) for split, size in sizes.items()}
    if task == "mnli":
        dice = Dice(task, seed, "mismatched")
        fresh = _numbered(task, _unseen(_mismatched(dice)), Dice(task, seed, "other annotator"), labels)
        splits["validation_mismatched"] = list(islice(fresh, VALIDATION_ROWS))
    return splits


def _unseen(rows: Rows) -> Rows:
    seen = set()
    for row in rows:
        text = tuple(value for value in row.values() if isinstance(value, str))
        if text not in seen:
            seen.add(text)
            yield row


def _numbered(task: str, rows: Rows, annotator: Dice, labels: int) -> Rows:
    """Rows with their index, and with the slips of a human annotator."""
    for index, row in enumerate(rows):
        if "answers" in row:
            yield {"id": f"{task}-{index:05d}", **row}
            continue
        if labels and annotator.chance(MISLABELLED):
            row["label"] = annotator.other(range(labels), row["label"])
        yield {**row, "idx": index}


def corpus(seed: int = 0) -> Iterator[tuple[str, str | None]]:
    """Endless text to pre-train on: one or two parts each, no task's rows and no labels."""
    return texts(Dice("corpus", seed))


def vocabulary(seed: int = 0) -> list[str]:
    """Every word and mark that the tasks and the text to pre-train on can say, lower-case and sorted."""
    rows = (row for task in TASKS for split in generate(task, seed).values() for row in split)
    told = (value for row in rows for name, value in row.items() if isinstance(value, str) and name != "id")
    texts = chain(told, filter(None, chain.from_iterable(islice(corpus(seed), CORPUS_SAMPLE))))
    return sorted({word for text in texts for word in WORD.findall(text.lower())})
