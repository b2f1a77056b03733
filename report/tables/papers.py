"""Paper against ours: a matrix of methods and tasks, our score beside the published figure in each place."""

from collections import Counter
from dataclasses import dataclass
from string import ascii_lowercase

from report.evidence.comparison import Evidence
from report.tables.grid import MISSING, Grid, Text
from report.tables.published import names, order
from report.tables.reproduction import MARKS, ROUNDING, TELLING, UNVERIFIED, Pair, pairs
from report.wording import metric_title, plural, score

RULE = (
    "A figure counts as reproduced where one more run of ours could have given it: it lies within our 95 % prediction "
    f"interval, whose deviation is pooled over all methods of the task, plus {ROUNDING:g} for the paper's rounding. "
    f"Where that interval is wider than ±{TELLING:g} points, nothing is decided."
)
MEANINGS = {
    "reproduced": "reproduced: one more run of ours could give the paper's figure",
    "above": "above the paper's figure",
    "below": "below the paper's figure",
    "undecided": f"undecided: within the interval, but it is wider than ±{TELLING:g} points or unknown",
}


@dataclass(frozen=True)
class Column:
    """A task's metric."""

    task: str
    metric: str
    title: str
    unverified: bool  # whether all of its figures are

    @property
    def metric_title(self) -> str:
        return metric_title(self.metric)


@dataclass(frozen=True)
class Row:
    """A method with the figures of its paper, in the order of the columns; None where the paper gives none."""

    method: str
    title: str
    paper: str
    citation: str
    pairs: list[Pair | None]
    unverified: bool  # whether all of its figures are

    @property
    def by_source(self) -> dict[str, list[Pair]]:
        """Return the pairs that were run, under the sources of their figures; a source's figures are all as sure."""
        sources = {}
        for pair in self.pairs:
            if pair and pair.verdict != "not run":
                sources.setdefault(pair.figure.source, []).append(pair)
        return sources


@dataclass(frozen=True)
class PaperTable:
    """All pairs of a board; the matrix holds those of the tasks on which any of the methods was run."""

    pairs: list[Pair]
    notes: list[str]

    rule, not_read = RULE, UNVERIFIED

    @property
    def nothing(self) -> str | None:
        """Return why no pair was compared; None where one was."""
        if any(pair.decided for pair in self.pairs):
            return None
        reasons = Counter(_why(pair) for pair in self.pairs if pair.verdict != "not run")
        if not reasons:
            return "No method here has a published figure on a task that was run."
        every = f"{', '.join(reasons)}." if len(reasons) == 1 else f"{'; '.join(map(_counted, reasons.items()))}."
        return f"No published figure can be compared with ours: {every}"

    @property
    def columns(self) -> list[Column]:
        by_place = {}
        for pair in sorted(self.pairs, key=lambda pair: order(pair.place)):
            by_place.setdefault(pair.place, []).append(pair)
        return [
            Column(*place, pairs[0].task_title, not any(pair.figure.verified for pair in pairs))
            for place, pairs in by_place.items()
            if any(pair.ours is not None or pair.verdict == "failed" for pair in pairs)
        ]

    @property
    def rows(self) -> list[Row]:
        places = [(column.task, column.metric) for column in self.columns]
        by_method = {}
        for pair in self.pairs:
            by_method.setdefault(pair.method, {})[pair.place] = pair
        rows = []
        for method, of_method in by_method.items():
            pairs = [of_method.get(place) for place in places]
            known = [pair for pair in pairs if pair]
            if any(pair.verdict != "not run" for pair in known):
                first, unverified = known[0], not any(pair.figure.verified for pair in known)
                rows.append(Row(method, first.title, first.paper, names()["papers"][first.paper], pairs, unverified))
        return rows

    @property
    def letters(self) -> dict[str, str]:
        """Return reason -> letter for the pairs that could not be compared."""
        shown = (pair for row in self.rows for pair in row.pairs if pair and pair.verdict == "not comparable")
        return dict(zip(dict.fromkeys(pair.reason for pair in shown), ascii_lowercase, strict=False))

    @property
    def shown(self) -> list[Pair]:
        """Return the pairs of the matrix that were run, row by row."""
        return [pair for row in self.rows for pair in row.pairs if pair and pair.verdict != "not run"]

    @property
    def legend(self) -> list[tuple[str, str, str]]:
        """Return (verdict, mark, meaning) of the verdicts that the matrix has."""
        found = {pair.verdict for pair in self.shown}
        return [(verdict, mark, MEANINGS[verdict]) for verdict, mark in MARKS.items() if verdict in found]

    @property
    def unverified(self) -> int:
        """Return how many figures of the matrix are unverified."""
        return sum(not pair.figure.verified for pair in self.shown)

    def grid(self) -> Grid:
        """Return the matrix of verified figures."""
        kept = [number for number, column in enumerate(self.columns) if not column.unverified]
        columns, letters = [self.columns[number] for number in kept], self.letters
        rows = [row for row in self.rows if not row.unverified]
        legend = [f"{mark} {meaning}" for _, mark, meaning in self.legend]
        legend += [f"({letter}) {reason}" for reason, letter in letters.items()]
        if any(pair and pair.verdict == "not run" for row in rows for pair in row.pairs):
            legend.append(f"{MISSING} not run")
        if self.unverified:
            legend.append(f"{plural(self.unverified, 'figure')} left out: {UNVERIFIED}")
        return Grid(
            name="paper_against_ours",
            caption="Ours / published; the best model on the development set, as in the papers.",
            header=["Method", "Paper", *(column.title for column in columns)],
            under=["", "", *(column.metric_title for column in columns)],
            rows=[
                [
                    Text(row.title),
                    Text(row.paper, paper=row.citation),
                    *(_written(row.pairs[number], letters) for number in kept),
                ]
                for row in rows
            ],
            notes=[*([self.nothing.rstrip(".")] if self.nothing else legend), *self.notes],
        )

    def records(self) -> list[dict]:
        """Return a mapping for each figure, the unverified ones and those without a run included."""
        return [
            {
                "method": pair.method,
                "title": pair.title,
                "paper": pair.paper,
                "task": pair.task,
                "metric": pair.metric,
                "published": pair.figure.value,
                "published_drop": pair.figure.drop,
                "ours": pair.ours and pair.ours["mean"],
                "ours_sd": pair.ours and pair.ours["sd"],
                "ours_n": pair.ours["n"] if pair.ours else 0,
                "our_drop": pair.our_drop,
                "difference": pair.difference,
                "half_width": pair.half_width,
                "verdict": pair.verdict,
                "reason": pair.reason or None,
                "source": pair.figure.source,
                "confidence": pair.figure.confidence,
                "verified": pair.figure.verified,
            }
            for pair in self.pairs
        ]


def _written(pair: Pair | None, letters: dict[str, str]) -> Text:
    if pair is None or not pair.figure.verified:
        return Text("")
    if not pair.scored:
        return Text(MISSING if pair.verdict == "not run" else pair.verdict)
    letter, undecided = letters.get(pair.reason), " ?" if pair.verdict == "undecided" else ""
    return Text(
        text=f"{score(pair.ours['mean'])} / {score(pair.figure.value)}{undecided}",
        seeds=f"({letter})" if letter else "",
        marks="" if undecided else pair.mark,
    )


def _why(pair: Pair) -> str:
    return pair.reason or {"failed": "our run failed"}.get(pair.verdict, pair.verdict)


def _counted(reason: tuple[str, int]) -> str:
    return f"{reason[0]} ({plural(reason[1], 'figure')})"


def paper_table(evidence: Evidence) -> PaperTable:
    return PaperTable(list(pairs(evidence)), _notes(evidence))


def _notes(evidence: Evidence) -> list[str]:
    notes = []
    for prefix, reason in names()["unpublished"].items():
        if any(method.startswith(prefix) for method in evidence.board.methods) and reason not in notes:
            notes.append(reason)
    return notes
