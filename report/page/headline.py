"""The page's first sentence: the main result, no stronger than the cells allow."""

from statistics import fmean

from report.evidence import statistics
from report.evidence.comparison import Evidence
from report.evidence.statistics import Estimate
from report.evidence.verdicts import LEVEL
from report.wording import plural, score

SMALLER = 1.05  # times smaller than full precision: less is no compression


def headline(evidence: Evidence) -> str:
    return _Headline(evidence).text()


class _Headline:
    """One sentence on the tasks that enter an average, or on the first task where none does."""

    def __init__(self, evidence: Evidence):
        self.evidence, self.board = evidence, evidence.board
        self.tasks = self.board.averaged() or self.board.tasks[:1]

    def text(self) -> str:
        averages = {method: self.evidence.average(method, self.tasks) for method in self.board.methods}
        drops = {method: average.drop for method, average in averages.items() if average.drop is not None}
        compressed = {
            method: drop
            for method, drop in drops.items()
            if self._ratio(method) >= SMALLER and not self.evidence.diverged(method, self.board.tasks)[0]
        }
        if compressed:
            return self._of_compressed(compressed)
        if drops:
            return self._of_taught(drops)
        return self._above_baseline(self.board.methods[0])

    def _ratio(self, method: str) -> float:
        sizes = [cell["measured"]["size"] for cell in self.board.of_method(method)]
        return min((size["file"]["ratio"] for size in sizes if size), default=0.0)

    def _of_compressed(self, drops: dict[str, float]) -> str:
        tested = {method: estimate for method in drops if (estimate := self._tested_drop(method))}
        corrected = dict(zip(tested, statistics.holm(estimate.p for estimate in tested.values()), strict=True))
        by_chance = [method for method, p in corrected.items() if p >= LEVEL]
        smallest = max(by_chance, key=self._ratio, default=None)
        method = smallest or min(drops, key=drops.get)
        title, change = self.board.title(method), _change(drops[method])
        if len(drops) == 1:
            doubt = ", which cannot be told from chance," if smallest else ""
            result = f"{title} {change}{doubt}"
        else:
            claim = "is the smallest whose loss cannot be told from chance" if smallest else "does best"
            result = f"Of {len(drops)} compressed methods, {title} {claim}: it {change}"
        size = f"in a file {self._ratio(method):.1f} times smaller than full precision"
        return f"{result} {self._where()}, {size}{self._caveat(method)}."

    def _tested_drop(self, method: str) -> Estimate | None:
        """Return the mean difference from the references; None where one task has no test."""
        differences = [self.evidence.score(method, task).difference for task in self.tasks]
        return None if None in differences else statistics.mean(difference.estimate for difference in differences)

    def _of_taught(self, drops: dict[str, float]) -> str:
        method = min(drops, key=drops.get)
        side = "below" if drops[method] >= 0 else "above"
        points = f"{score(abs(drops[method]))} points"
        return f"{self.board.title(method)} ends {points} {side} its teacher {self._where()}{self._caveat(method)}."

    def _where(self) -> str:
        if len(self.tasks) > 1:
            return f"on average over {len(self.tasks)} tasks"
        return f"on {self.board.task_title(self.tasks[0])}"

    def _caveat(self, method: str) -> str:
        """Return the reservation that one seed cannot tell a difference from chance."""
        return ", with one seed" if all(len(cell["request"]["seeds"]) == 1 for cell in self.board.of_method(method)) else ""

    def _above_baseline(self, method: str) -> str:
        title, cells = self.board.title(method), self.board.of_method(method)
        gaps = []
        for cell in cells:
            mean = self.evidence.score(method, cell["request"]["task"]).mean
            if mean is not None:
                gaps.append(mean - cell["measured"]["baseline"]["metrics"][cell["measured"]["metric"]])
        if not gaps:
            return f"Every run of {title} diverged." if cells else "No cell could be made."
        above = sum(gap > 0 for gap in gaps)
        if len(cells) == 1:
            where = f"on {self.board.task_title(cells[0]['request']['task'])}"
        else:
            where = f"on all {len(cells)} tasks" if above == len(cells) else f"on {above} of {plural(len(cells), 'task')}"
        average = " on average" if len(gaps) > 1 else ""
        return f"{title} beats the constant answer {where}, by {score(fmean(gaps))} points{average}{self._caveat(method)}."


def _change(drop: float) -> str:
    if float(score(abs(drop))) == 0:
        return "loses less than 0.1 points"
    return f"loses {score(drop)} points" if drop >= 0 else f"gains {score(-drop)} points"
