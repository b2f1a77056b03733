"""The layout of plots: what is in the close-up and what is beyond it, which names are written, and shared axes."""

import pytest

from report.evidence.board import Family
from report.evidence.points import AXES, Cloud, Point
from report.labels import Box
from report.scatter import Canvas, Shared, layout
from report.ticks import ticks_within

FRAME = Box(40, 10, 708, 388)
CANVAS = Canvas(FRAME, text=11.5, radius=5)


def point(method: str, x: float, y: float, interval=None, on_front=False) -> Point:
    family = Family("one", "One", 0)
    return Point(method, method.title(), family, x, y, interval, 0, comparable=True, on_front=on_front)


def cloud(*points: Point, reference: float | None = 80.0) -> Cloud:
    return Cloud("Board", "Mean score", AXES["file"], list(points), [], reference)


def mark(found, method: str):
    return next(one for one in found.marks if one.point.method == method)


FULL = point("full", 400, 80.0, (79.0, 81.0), on_front=True)


def test_the_close_up_reaches_from_ten_points_below_full_precision_to_two_above():
    found = layout(cloud(point("low", 20, 70.0), point("high", 50, 82.0), FULL), CANVAS, close=True)
    assert mark(found, "low").y == found.floor == FRAME.bottom and mark(found, "high").y == found.ceiling == FRAME.top
    assert mark(found, "full").y == found.reference == pytest.approx(FRAME.top + 2 / 12 * (FRAME.bottom - FRAME.top))
    assert [text for _, text in found.rows] == ["70", "72", "74", "76", "78", "80", "82"]


def test_without_full_precision_the_close_up_is_around_the_best_score():
    found = layout(cloud(point("best", 20, 60.0), point("worst", 50, 40.0), reference=None), CANVAS, close=True)
    assert found.reference is None and mark(found, "best").beyond == 0 and mark(found, "worst").beyond == -1
    assert [text for _, text in found.rows] == ["50", "52", "54", "56", "58", "60", "62"]


def test_an_outlier_is_in_a_band_beyond_the_edge_with_its_value():
    found = layout(cloud(point("low", 20, 12.34), point("high", 50, 95.0), FULL), CANVAS, close=True)
    low, high = mark(found, "low"), mark(found, "high")
    assert low.beyond == -1 and found.floor < low.y < FRAME.bottom and low.text == "Low: 12.3"
    assert high.beyond == 1 and FRAME.top < high.y < found.ceiling and high.text == "High: 95.0"
    assert low.bar is None and mark(found, "full").text == "Full"


def test_outliers_of_one_size_are_in_rows_of_their_own_and_every_value_is_written():
    found = layout(cloud(*(point(f"low{number}", 20, 10.0 + number) for number in range(5)), FULL), CANVAS, close=True)
    lows = [one for one in found.marks if one.beyond]
    assert len({one.y for one in lows}) == 5
    assert {one.text.split()[-1] for one in lows} == {"10.0", "11.0", "12.0", "13.0", "14.0"}


def test_bars_are_cut_at_the_edge():
    found = layout(cloud(point("wide", 20, 75.0, (60.0, 90.0)), FULL), CANVAS, close=True)
    assert mark(found, "wide").bar == (found.floor, found.ceiling)


def test_the_whole_range_has_every_method_inside_and_no_band():
    found = layout(cloud(point("low", 20, 12.34), FULL), CANVAS, close=False)
    assert found.floor == FRAME.bottom and found.ceiling == FRAME.top
    assert all(one.beyond == 0 for one in found.marks) and found.rows[0][1] == "0"


def test_a_close_up_without_a_method_in_it_says_so():
    found = layout(cloud(point("low", 20, 12.0), point("lower", 30, 11.0)), CANVAS, close=True)
    assert not found.has_points and layout(cloud(FULL), CANVAS, close=True).has_points


def test_the_stairs_of_the_front_start_in_the_range_and_end_at_the_right_edge():
    low, middle = point("low", 20, 12.0, on_front=True), point("middle", 50, 78.0, on_front=True)
    found = layout(cloud(low, middle, FULL), CANVAS, close=True)
    first, last = mark(found, "middle"), mark(found, "full")
    assert found.stairs == [(first.x, first.y), (last.x, first.y), (last.x, last.y), (FRAME.right, last.y)]


def test_names_of_the_front_are_placed_first():
    crowd = [point(f"method number {number}", 50 + number / 100, 79.0, on_front=number == 40) for number in range(60)]
    found = layout(cloud(*crowd), CANVAS, close=True)
    missing = [one.point.method for one in found.marks if one.text is None]
    assert missing and "method number 40" not in missing
    assert mark(found, "method number 40").place.leader is None


def test_panels_with_shared_axes_have_equal_scales_whatever_they_hold():
    panel = Canvas(Box(24, 6, 212, 132), text=11.5, radius=4.5, intervals=3, named=False)
    clouds = [cloud(point("a", 20, 79.0), FULL), cloud(point("a", 40, 12.0), point("b", 30, 79.0), FULL)]
    first, second = (layout(one, panel, True, Shared.of(clouds)) for one in clouds)
    assert first.rows == second.rows and first.columns == second.columns and first.floor == second.floor < 132
    assert mark(first, "full").x == mark(second, "full").x and mark(first, "a").y == mark(second, "b").y
    assert all(one.place is None for one in second.marks)


def test_a_lone_point_and_equal_sizes_have_a_plot():
    assert len(layout(cloud(FULL), CANVAS, close=True).columns) >= 2
    assert len(layout(cloud(point("a", 20, 80.0), point("b", 20, 80.0)), CANVAS, close=False).marks) == 2


@pytest.mark.parametrize(
    ("low", "high", "ticks"), [(72.8, 84.8, [74, 76, 78, 80, 82, 84]), (-10, 2, [-10, -8, -6, -4, -2, 0, 2])]
)
def test_ticks_within_a_range_are_round_and_inside(low, high, ticks):
    assert ticks_within(low, high, 6) == ticks
