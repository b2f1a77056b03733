"""Answers cut from the original text, from the start and end logits of sliding windows.

The logits of token 0 ([CLS]) mean "no answer". Every other candidate is a span of context tokens in one
window; the text between its first and last character is the answer as the context has it.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

# Logits beyond this, and NaN, come from a diverged model only: clipped, its answers are bad but countable.
_LIMIT = 1e30


class Windows(NamedTuple):
    """The example and the characters of every token of every window.

    `example` (W,) is the index of the window's example; `offsets` (W, S, 2), or one (length, 2) array per
    window, are the first and one-past-last character of each token in the context, (-1, -1) for tokens
    outside it: [CLS], question, [SEP], padding.
    """

    example: Sequence[int] | np.ndarray
    offsets: Sequence[np.ndarray] | np.ndarray


class Example(NamedTuple):
    id: str
    context: str


class Answer(NamedTuple):
    """The best span's text and score, and the score of "no answer" minus that score."""

    text: str
    score: float
    null_difference: float


def decode(
    start: Sequence[np.ndarray] | np.ndarray,
    end: Sequence[np.ndarray] | np.ndarray,
    windows: Windows,
    examples: Iterable[Example],
    *,
    n_best: int = 20,
    max_answer_tokens: int = 30,
    null_threshold: float | None = None,
) -> dict[str, Answer]:
    """Return the answer of each example, by id, from logits (W, S) or one array per window.

    In each window the `n_best` starts meet the `n_best` ends; the pair with the highest sum of logits that is
    in order and at most `max_answer_tokens` long is the window's span, and the best of its windows is the
    example's. Ties go to the first window, the earliest start, the shortest span. The null score of an
    example is the least over its windows, since a window without the answer scores none high.

    With a `null_threshold` the text is empty where the null difference is above it. An example without any
    possible span answers "" with the null score as its score.
    """
    if not len(windows.example):
        raise ValueError("nothing to decode: no windows")
    offsets = _rectangle(windows.offsets, fill=-1, dtype=np.int64)
    start, end = (_logits(values, offsets) for values in (start, end))
    span_score, first, last = _best_spans(start, end, _in_context(offsets), n_best, max_answer_tokens)
    null_score = start[:, 0] + end[:, 0]

    answers = {}
    for (key, context), members in _members(windows.example, list(examples)):
        null = float(null_score[members].min())
        best = members[span_score[members].argmax()]
        score = float(span_score[best])
        if np.isinf(score):
            answers[key] = Answer("", null, 0.0)
            continue
        text = context[offsets[best, first[best], 0] : offsets[best, last[best], 1]]
        emptied = null_threshold is not None and null - score > null_threshold
        answers[key] = Answer("" if emptied else text, score, null - score)
    return answers


def log_mass(
    start: Sequence[np.ndarray] | np.ndarray,
    end: Sequence[np.ndarray] | np.ndarray,
    windows: Windows,
    examples: Iterable[Example],
    *,
    max_answer_tokens: int = 30,
) -> dict[str, float]:
    """Return the log of the sum of exp(score) over every span that an example's windows allow; -inf where there is none.

    The difference between an answer's score and this is the log of the answer's probability among all spans.
    """
    offsets = _rectangle(windows.offsets, fill=-1, dtype=np.int64)
    allowed = _in_context(offsets)
    start, end = (np.where(allowed, _logits(values, offsets), -np.inf) for values in (start, end))  # (W, S)
    mass = np.full(len(start), -np.inf)  # (W,)
    for longer in range(min(max_answer_tokens, start.shape[1])):
        spans = start[:, : start.shape[1] - longer] + end[:, longer:]
        mass = np.logaddexp(mass, np.logaddexp.reduce(spans, axis=1))
    return {
        key: float(np.logaddexp.reduce(mass[members])) for (key, _), members in _members(windows.example, list(examples))
    }


def _best_spans(start, end, allowed, n_best: int, max_tokens: int) -> tuple[np.ndarray, ...]:
    """Each window's best span: its score (-inf if there is none), first token and last token."""
    start, end = (np.where(allowed, logits, -np.inf) for logits in (start, end))
    firsts, lasts = (_top(logits, n_best) for logits in (start, end))
    first_scores, last_scores = (
        np.take_along_axis(logits, tokens, axis=1) for logits, tokens in ((start, firsts), (end, lasts))
    )
    length = lasts[:, None, :] - firsts[:, :, None] + 1
    pair_scores = first_scores[:, :, None] + last_scores[:, None, :]
    pair_scores[(length < 1) | (length > max_tokens)] = -np.inf

    # Candidates are in order of position, so the first of equal maxima is the earliest and shortest span.
    flat = pair_scores.reshape(len(pair_scores), -1)
    best = flat.argmax(axis=1)
    rows = np.arange(len(flat))
    first, last = np.divmod(best, lasts.shape[1])
    return flat[rows, best], firsts[rows, first], lasts[rows, last]


def _top(logits: np.ndarray, n: int) -> np.ndarray:
    """The positions of the n highest logits of each row (of equal ones the earlier), in order of position."""
    return np.sort(np.argsort(-logits, axis=1, kind="stable")[:, :n], axis=1)


def _members(example_of_window, examples: list[Example]):
    """Each example with the indices of its windows, in order."""
    example_of_window = np.asarray(example_of_window)
    order = np.argsort(example_of_window, kind="stable")
    bounds = np.searchsorted(example_of_window[order], np.arange(len(examples) + 1))
    for index, example in enumerate(examples):
        members = order[bounds[index] : bounds[index + 1]]
        if not len(members):
            raise ValueError(f"example {example[0]!r} has no window")
        yield example, members


def _in_context(offsets: np.ndarray) -> np.ndarray:
    """Tokens with characters; those outside the context have none."""
    return offsets[..., 1] > offsets[..., 0]


def _logits(values, offsets: np.ndarray) -> np.ndarray:
    values = _rectangle(values, fill=0.0, dtype=np.float64)
    if values.shape != offsets.shape[:2]:
        raise ValueError(f"logits of shape {values.shape} for windows of shape {offsets.shape[:2]}")
    return np.nan_to_num(values, nan=-_LIMIT, posinf=_LIMIT, neginf=-_LIMIT).clip(-_LIMIT, _LIMIT)


def _rectangle(rows, *, fill, dtype) -> np.ndarray:
    """One array from rows of any lengths, filled up at the end."""
    if isinstance(rows, np.ndarray) and rows.dtype != object:
        return rows.astype(dtype)
    rows = [np.asarray(row) for row in rows]
    filled = np.full((len(rows), max(map(len, rows)), *rows[0].shape[1:]), fill, dtype)
    for row, values in zip(filled, rows, strict=True):
        row[: len(values)] = values
    return filled
