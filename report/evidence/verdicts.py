"""Verdicts on losses from full precision: what may be said of one, and no more.

A test that does not reject says nothing: with few examples it passes over losses of ten points. "Equivalent" is therefore
said only where the whole 95 % interval of the loss lies below a declared margin, which is a test of non-inferiority at
2.5 % (Schuirmann 1987, one side). "Worse" and "better" are said where a test rejects after Holm's correction of all tests
that are shown together. Otherwise nothing is said, and the interval is shown.
"""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from report.evidence.statistics import holm
from report.wording import points

if TYPE_CHECKING:
    from report.evidence.comparison import Difference

LEVEL = 0.05  # a difference is significant below this probability, after Holm's correction


@dataclass(frozen=True)
class Verdict:
    """What may be said of one loss."""

    side: str | None  # "worse" or "better"; None where chance explains the loss as well
    within: bool  # whether the interval of the loss ends below the margin
    p: float | None  # after Holm's correction; None without a test
    margin: float

    @property
    def text(self) -> str:
        if self.side == "worse" and self.within:
            return f"worse, but by less than {points(self.margin)}"
        return self.side or (f"equivalent within {points(self.margin)}" if self.within else "")

    @property
    def mark(self) -> str:
        """Return the signs of the text; what is better is not called equivalent as well."""
        side = {"worse": "▽", "better": "△"}.get(self.side, "")
        return f"≈{side}" if self.within and self.side != "better" else side


def judge(losses: Mapping[Hashable, "Difference"], margin: float) -> dict[Hashable, Verdict]:
    """Return the verdict on each loss; all tests are corrected together."""
    tested = {place: loss.p for place, loss in losses.items() if loss.p is not None}
    corrected = dict(zip(tested, holm(tested.values()), strict=True))
    return {place: _judge(loss, corrected.get(place), margin) for place, loss in losses.items()}


def _judge(loss: "Difference", p: float | None, margin: float) -> Verdict:
    rejected = p is not None and p < LEVEL
    side = ("worse" if loss.value > 0 else "better") if rejected else None
    return Verdict(side, loss.interval is not None and loss.interval[1] < margin, p, margin)
