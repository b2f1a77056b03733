"""The page's first sentences: the best trade of size for accuracy, no stronger than the cells allow."""

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import fmean

from report.evidence.comparison import Difference, Evidence
from report.wording import interval, joined, plural, points, score

SMALLER = 1.05  # times smaller than full precision: less is no compression
NAMED = 4  # tasks of an average that a sentence names; of more it gives the number


@dataclass(frozen=True)
class Headline:
    """The main result, what to know beside it, and the methods that it does not speak of."""

    result: str
    context: str
    scope: str


def headline(evidence: Evidence, protocol: str | None = None) -> Headline:
    """Return the opening of the page under one protocol, on the tasks that plots, picker and table sum up."""
    return _Opening(evidence, protocol or evidence.board.primary).headline()


class _Opening:
    def __init__(self, evidence: Evidence, protocol: str):
        self.evidence, self.board, self.protocol = evidence, evidence.board, protocol
        self.tasks = self.board.main_tasks()
        self.averages = {method: evidence.average(method, self.tasks, protocol) for method in self.board.methods}
        self.losses = {method: one.loss for method, one in self.averages.items() if one.loss and not self._diverged(method)}
        self.compressed = {method: loss for method, loss in self.losses.items() if self._ratio(method) >= SMALLER}

    def headline(self) -> Headline:
        if self.compressed:
            return Headline(*self._best_trade(), self._scope())
        return Headline(self._without_compression(), "", self._scope())

    # With a compressed method: the smallest that loses no more than the margin, or else the one that loses least

    def _best_trade(self) -> tuple[str, str]:
        margin, losses = self.board.margin, self.compressed
        good = [method for method in losses if losses[method].value <= margin]
        best = max(good, key=self._ratio) if good else min(losses, key=lambda method: losses[method].value)
        result = f"{self.board.title(best)} {self._gain(best)} and {self._change(losses[best])}."
        if len(losses) == 1:
            context = ""
        elif good:
            context = f"Of {len(losses)} compressed methods it is the smallest that loses at most {points(margin)}."
        else:
            context = f"None of {len(losses)} compressed methods loses at most {points(margin)}; this one loses least."
        top = min(losses, key=lambda method: losses[method].value)
        if top != best:
            context += (
                f" The most accurate is {self.board.title(top)}: it {self._gain(top)} and {self._change(losses[top])}."
            )
        return result, context

    def _gain(self, method: str) -> str:
        speed = self.board.latencies.speed(method, self.tasks)
        ratio = None if isinstance(speed, str) else speed.ratio
        faster = f" and {score(ratio, 1)}× as fast," if ratio is not None else ""
        return f"is {score(self._ratio(method))}× smaller{faster}"

    def _change(self, loss: Difference) -> str:
        ends = loss.interval
        if ends and loss.value < 0:  # the interval of a gain
            ends = -ends[1], -ends[0]
        known = f"95 % CI {interval(ends)}" if ends else "no interval"
        return f"{change(loss.value)} ({known}; {self._tasks()}, {seeds(loss.seeds)})"

    def _tasks(self) -> str:
        titles = [self.board.task_title(task) for task in self.tasks]
        if len(titles) == 1:
            return titles[0]
        if len(titles) <= NAMED:
            return f"mean of {joined(titles)}"
        return f"mean of {len(titles)} {self.board.suite(self.tasks[0]).title} tasks"

    # Without one

    def _without_compression(self) -> str:
        losses = {method: loss for method, loss in self.losses.items() if method != self.board.full_precision}
        if losses:
            best = min(losses, key=lambda method: losses[method].value)
            full = self.board.title(self.board.full_precision)
            return f"{self.board.title(best)} {self._change(losses[best])} against {full}."
        drops = {method: one.drop for method, one in self.averages.items() if one.drop is not None}
        if drops:
            return self._of_taught(min(drops, key=drops.get), min(drops.values()))
        return self._above_baseline(self.board.methods[0])

    def _of_taught(self, method: str, drop: float) -> str:
        teachers = [self.evidence.score(method, task, self.protocol).reference.method for task in self.tasks]
        of = joined([self.board.title(teacher) for teacher in dict.fromkeys(teachers)])
        side = "below" if drop >= 0 else "above"
        return f"{self.board.title(method)} ends {score(abs(drop))} points {side} its teacher, {of} ({self._tasks()})."

    def _above_baseline(self, method: str) -> str:
        title, cells = self.board.title(method), self.board.of_method(method)
        gaps = []
        for cell in cells:
            mean = self.evidence.score(method, cell["request"]["task"], self.protocol).mean
            if mean is not None:
                gaps.append(mean - cell["measured"]["baseline"]["metrics"][cell["measured"]["metric"]])
        if not gaps:
            return f"Every run of {title} diverged."
        above, gap = sum(gap > 0 for gap in gaps), fmean(gaps)
        if len(cells) == 1:
            where = f"on {self.board.task_title(cells[0]['request']['task'])}"
            if gap <= 0:
                return f"{title} ends {score(-gap)} points below the constant answer {where}."
            return f"{title} beats the constant answer {where}, by {score(gap)} points."
        where = f"on all {len(cells)} tasks" if above == len(cells) else f"on {above} of {plural(len(cells), 'task')}"
        average = f"{score(abs(gap))} points {'above' if gap > 0 else 'below'} it on average"
        return f"{title} beats the constant answer {where}, and ends {average}."

    # What the sentences speak of, and of what they do not

    def _scope(self) -> str:
        board, reference = self.board, self.board.full_precision
        titles = joined([board.task_title(task) for task in self.tasks])
        parts = [f"Averages are over {titles}." if len(self.tasks) > 1 else f"Scores are on {titles}."]
        outside = [f"{board.task_title(task)} ({reason})" for task, reason in board.left_out().items()]
        parts += [f"Not averaged: {', '.join(outside)}."] if outside else []
        parts += [f"Losses are counted from {board.title(reference)}."] if reference else []
        reasons = {}
        for method, reason in self._left_out():
            reasons.setdefault(reason, []).append(board.title(method))
        left_out = [f"{joined(titles)} ({reason})" for reason, titles in reasons.items()]
        return " ".join(parts + ([f"Not considered here: {'; '.join(left_out)}."] if left_out else []))

    def _left_out(self) -> Iterator[tuple[str, str]]:
        """Yield the methods that the best trade was not chosen from, with the reason."""
        for method in self.board.methods:
            if method in self.compressed or method == self.board.full_precision:
                continue
            if reason := self.averages[method].reason:
                yield method, reason
            elif self._diverged(method):
                yield method, "a seed diverged"
            elif method in self.losses:
                yield method, "not smaller than full precision"
            elif not (full := self.board.full_precision):
                yield method, "no loss is known"
            elif not all(self.board.scored(full, task) for task in self.tasks):
                yield method, "full precision has no score there"
            else:
                yield method, "no seed in common with full precision"

    def _diverged(self, method: str) -> int:
        return self.evidence.diverged(method, self.tasks)[0]

    def _ratio(self, method: str) -> float:
        return self.board.ratio(method) or 0.0


def change(loss: float) -> str:
    """Return a loss as a verb and points: "loses 0.8 points", "gains less than 0.1 points"."""
    verb, size = ("loses" if loss >= 0 else "gains"), score(abs(loss))
    if float(size) == 0:
        return f"{verb} less than 0.1 points"
    return f"{verb} {size} {'point' if size == '1.0' else 'points'}"


def seeds(number: int) -> str:
    return "one seed" if number == 1 else f"{number} seeds"
