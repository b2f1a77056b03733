"""Answers to look at: rows of the development split that a method and full precision answer differently."""

from dataclasses import dataclass

import numpy as np

from report.evidence.board import Board
from report.evidence.outcomes import Outcomes, unpack

SHOWN = 20


@dataclass(frozen=True)
class Row:
    """One row: its number from 0, its true label or value (None for a span), and what both models made of it.

    For a span task that is the score of each answer, between 0 and 1.
    """

    number: int
    truth: float | None
    reference: float
    answer: float


@dataclass(frozen=True)
class Answers:
    """The rows that one seed's models answer differently, counted, and the most telling of them."""

    kind: str  # of the outcomes: labels, values or scores
    seed: int
    protocol: str
    examples: int
    differing: int
    gained: int  # rows on which the method is nearer to the true answer
    lost: int
    rows: list[Row]


def answers(board: Board, method: str, task: str) -> Answers | None:
    """Compare a method's answers with those of full precision, under the primary protocol and the first seed of both.

    None where there is nothing to compare: of full precision itself, and of cells without comparable predictions.
    """
    reference = board.full_precision
    if reference is None or method == reference:
        return None
    if not all(board.cell(name, task) and board.comparable(name, task) for name in (method, reference)):
        return None
    scores, others = (board.scores(name, task, board.primary) for name in (method, reference))
    if not (seeds := sorted(scores.keys() & others.keys())):
        return None
    own, full = (_outcomes(board.cell(name, task), board.primary, seeds[0]) for name in (method, reference))
    if own is None or full is None or own.key != full.key:
        return None
    return _compared(own, full, board.primary, seeds[0])


def _outcomes(cell: dict, protocol: str, seed: int) -> Outcomes | None:
    """Return the outcomes of one model; the others stay packed."""
    if (packed := cell["measured"].get("outcomes")) is None:
        return None
    answers = packed["predictions"][protocol][str(seed)]
    return unpack(packed | {"predictions": {protocol: {str(seed): answers}}})


def _compared(own: Outcomes, full: Outcomes, protocol: str, seed: int) -> Answers:
    answers, others = (outcomes.predictions[protocol][seed].astype(np.float64) for outcomes in (own, full))
    truths = None if own.references is None else own.references.astype(np.float64)
    errors, other_errors = (_errors(own.kind, predictions, truths) for predictions in (answers, others))
    differing = np.flatnonzero(answers != others)
    change = errors[differing] - other_errors[differing]
    shown = differing[most(np.abs(change), SHOWN)]
    return Answers(
        kind=own.kind,
        seed=seed,
        protocol=protocol,
        examples=own.examples,
        differing=len(differing),
        gained=int((change < 0).sum()),
        lost=int((change > 0).sum()),
        rows=[
            Row(int(row), None if truths is None else float(truths[row]), float(others[row]), float(answers[row]))
            for row in shown
        ],
    )


def _errors(kind: str, predictions: np.ndarray, truths: np.ndarray | None) -> np.ndarray:
    """Return each answer's distance from the true one: 0 or 1 for labels, what the score lacks for spans."""
    if kind == "labels":
        return (predictions != truths).astype(np.float64)
    return 1 - predictions if truths is None else np.abs(predictions - truths)


def most(weights: np.ndarray, count: int) -> np.ndarray:
    """Return the places of the largest weights, largest first; of equal ones at the end, some spread evenly."""
    order = np.argsort(-weights, kind="stable")
    if len(order) <= count:
        return order
    least = weights[order[count - 1]]
    above, equal = order[weights[order] > least], order[weights[order] == least]
    spread = np.linspace(0, len(equal) - 1, count - len(above)).round().astype(np.int64)
    return np.concatenate([above, equal[spread]])
