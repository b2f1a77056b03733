"""Answers to look at, in a cell's details: rows that a method and full precision answer differently."""

from methods.common.terminal import plain
from report.evidence.answers import SHOWN, Answers, Row, answers
from report.evidence.board import Board
from report.evidence.texts import RowTexts, Texts
from report.wording import count, metric_title, score

LONGEST = 300  # characters of a text that is shown whole
BEFORE = 100  # characters in front of the answer, where a longer passage is cut
NO_ANSWER = "(no answer)"
CHANGES = {  # by the kind of outcomes: how rows differ, and the words for nearer to the true answer and farther from it
    "labels": ("Differs from full precision on", "gained", "lost"),
    "values": ("Differs from full precision on", "closer to the true value", "farther from it"),
    "scores": ("Scores differently from full precision on", "higher", "lower"),
}
RULES = {
    "labels": f"Shown: {SHOWN} of them, spread evenly over the split, first those where only one of the two is right.",
    "values": f"Shown: the {SHOWN} rows whose errors differ most.",
    "scores": f"Shown: the {SHOWN} rows whose scores differ most; where many differ equally, an even spread.",
}
NUMBERS = "Row numbers start at 0."
AS_READ = "Texts are as the model reads them."


def answers_view(board: Board, cell: dict, texts: Texts | None = None) -> dict | None:
    """Return what a cell's details show of its answers: one line for each row with texts, else one for equal answers."""
    method, task = cell["request"]["method"], cell["request"]["task"]
    if (found := answers(board, method, task)) is None:
        return None
    rows = [row.number for row in found.rows]
    reference = board.cell(board.full_precision, task)
    shown = texts.of(cell, reference, found.protocol, found.seed, rows) if texts else {}
    written = _Written(found.kind, cell)
    return {
        "statements": [
            _statement(found),
            *([RULES[found.kind]] if found.differing > len(rows) else []),
            *([NUMBERS] if rows else []),
            *([AS_READ] if shown and found.kind != "scores" else []),  # passages are shown as they are
        ],
        "heads": [*(["True answer"] if shown or found.kind != "scores" else []), board.title(board.full_precision)],
        "has_texts": bool(shown),
        "lines": written.with_texts(found.rows, shown) if shown else written.by_answers(found.rows),
    }


def _statement(found: Answers) -> str:
    of_models = f"seed {found.seed}, {found.protocol}"
    if not found.differing:
        return f"Answers like full precision on all {count(found.examples)} rows ({of_models})."
    verb, nearer, farther = CHANGES[found.kind]
    alike = found.differing - found.gained - found.lost
    parts = [f"{count(found.gained)} {nearer}", f"{count(found.lost)} {farther}"]
    parts += [f"{count(alike)} {'wrong in both' if found.kind == 'labels' else 'equally far'}"] if alike else []
    return f"{verb} {count(found.differing)} of {count(found.examples)} rows: {', '.join(parts)} ({of_models})."


class _Written:
    """The written forms of one cell's answers."""

    def __init__(self, kind: str, cell: dict):
        self.kind = kind
        self.labels = cell["about"]["task"].get("labels", [])
        self.metric = metric_title(cell["measured"]["metric"])

    def by_answers(self, rows: list[Row]) -> list[dict]:
        """Return a line for rows with the same answers, which names their numbers."""
        lines = {}
        for row in rows:
            truth = [] if row.truth is None else [self._answer(row.truth)]
            lines.setdefault((*truth, *self._answers(row)), []).append(str(row.number))
        return [{"answers": list(words), "rows": ", ".join(numbers)} for words, numbers in lines.items()]

    def with_texts(self, rows: list[Row], shown: dict[int, RowTexts]) -> list[dict]:
        """Return a line for each row, with its texts."""
        return [self._with_texts(row, shown[row.number]) for row in rows]

    def _with_texts(self, row: Row, texts: RowTexts) -> dict:
        answers, first = self._answers(row), ""
        if texts.truths is None:
            answers = [self._answer(row.truth), *answers]
        else:
            first = next(iter(texts.truths), "")
            spans = [cut(span or NO_ANSWER) for span in (texts.reference, texts.answer)]
            scored = [f"{span} ({points})" for span, points in zip(spans, answers, strict=True)]
            answers = [cut(" / ".join(texts.truths) or NO_ANSWER), *scored]
        columns = {name: cut(text, first) for name, text in texts.columns.items()}
        return {"answers": answers, "rows": str(row.number), "texts": columns}

    def _answers(self, row: Row) -> list[str]:
        right = [" ✓" if self.kind == "labels" and one == row.truth else "" for one in (row.reference, row.answer)]
        return [self._answer(row.reference) + right[0], self._answer(row.answer) + right[1]]

    def _answer(self, value: float | None) -> str:
        if value is None:  # the true answer of a kind that only scores answers
            return ""
        if self.kind == "labels":
            return cut(self.labels[int(value)].replace("_", " ")) if value < len(self.labels) else f"label {int(value)}"
        return score(value, 2) if self.kind == "values" else f"{self.metric}\N{NO-BREAK SPACE}{score(100 * value)}"


def cut(text: str, around: str = "") -> str:
    """Return a text as one line; of a long one the part with `around`, with ellipses where it was cut."""
    text, around = " ".join(text.split()), " ".join(around.split())
    if len(text) > LONGEST:
        start = max(0, min(text.find(around) - BEFORE, len(text) - LONGEST))
        end = start + LONGEST
        text = f"{'…' if start else ''}{text[start:end].strip()}{'…' if end < len(text) else ''}"
    return plain(text)
