"""Placement of labels: nothing overlaps, the nearest free place is taken, and equal plots give equal places."""

import time

import numpy as np
import pytest

from report.labels import GAP, REACH, Box, Label, place, text_width

FRAME = Box(40, 10, 700, 370)


def overlap(one: Box, other: Box) -> bool:
    return one.left < other.right and other.left < one.right and one.top < other.bottom and other.top < one.bottom


def cloud(number: int, seed: int = 0) -> list[Label]:
    random = np.random.default_rng(seed)
    return [
        Label(x, y, 5, ((width, 13),))
        for x, y, width in zip(
            random.uniform(45, 695, number), random.uniform(15, 365, number), random.uniform(40, 120, number), strict=True
        )
    ]


@pytest.mark.parametrize("seed", range(8))
def test_no_label_of_a_random_cloud_overlaps_a_label_a_point_or_the_frame(seed):
    labels = cloud(40, seed)
    placed = [found for found in place(labels, FRAME) if found]
    assert len(placed) > 25
    points = [Box.around(label.x, label.y, label.radius) for label in labels]
    for number, found in enumerate(placed):
        assert found.box.left >= FRAME.left and found.box.right <= FRAME.right
        assert found.box.top >= FRAME.top and found.box.bottom <= FRAME.bottom
        assert not any(overlap(found.box, point) for point in points)
        assert not any(overlap(found.box, other.box) for other in placed[:number])


def test_equal_plots_have_equal_places():
    assert place(cloud(60), FRAME) == place(cloud(60), FRAME)


def test_sixty_labels_are_placed_in_a_moment():
    labels = cloud(60)
    start = time.process_time()
    place(labels, FRAME)
    assert time.process_time() - start < 2


def test_a_lone_label_is_right_of_its_point_without_a_leader():
    (found,) = place([Label(100, 100, 5, ((60, 12),))], FRAME)
    assert found.box == (107.5, 94, 167.5, 106) and found.leader is None and found.size == 0


def test_at_the_right_edge_a_label_is_on_another_side():
    (found,) = place([Label(690, 100, 5, ((60, 12),))], FRAME)
    assert found.box.right <= FRAME.right and found.leader is None


def test_a_label_that_is_not_beside_its_point_has_a_leader_from_the_points_edge():
    wall = [Box(90, 88, 110, 94.9), Box(90, 105.1, 110, 112), Box(110, 80, 190, 120), Box(20, 80, 90, 120)]
    walled = [Box(85, 80, 94.9, 120), Box(105.1, 80, 300, 120), Box(85, 80, 300, 94.9)]
    (found,) = place([Label(100, 100, 5, ((60, 12),))], FRAME, points=[*wall[:1], *walled])
    assert found.leader is not None and found.box.top >= 105.1
    x, y, end_x, end_y = found.leader
    assert max(abs(x - 100), abs(y - 100)) == 5
    assert found.box.left <= end_x <= found.box.right and end_y == found.box.top


def test_earlier_labels_choose_first_and_a_label_without_a_place_is_left_out():
    crowd = [Label(100, 100, 5, ((60, 12),)) for _ in range(200)]
    placed = place(crowd, FRAME)
    assert placed[0].leader is None
    assert placed[-1] is None and placed.index(None) > 4
    first, second = place([Label(100, 100, 5, ((60, 12),)), Label(112, 100, 5, ((60, 12),))], FRAME)
    assert second.box.left == pytest.approx(119.5)
    assert first.box.bottom <= 95, "the other point is at its right, so it is above"


def test_a_shorter_text_is_taken_where_the_longer_has_no_place():
    narrow = Box(90, 90, 140, 110)
    (found,) = place([Label(100, 100, 5, ((60, 12), (20, 12)))], narrow)
    assert found.size == 1 and found.box == (107.5, 94, 127.5, 106)


def test_lines_are_avoided_where_another_place_is_about_as_near():
    bar = Box(140, 20, 141, 300)
    (found,) = place([Label(120, 100, 5, ((60, 12),))], FRAME, lines=[bar])
    assert not overlap(found.box, bar) and found.leader is None
    everywhere = [Box(x, 10, x + 1, 370) for x in range(40, 700, 20)]
    (found,) = place([Label(100, 100, 5, ((60, 12),))], FRAME, lines=everywhere)
    assert found is not None, "lines are no obstacles"


def test_no_leader_is_longer_than_a_share_of_the_frame():
    narrow = Box(40, 10, 340, 370)
    for frame in (FRAME, narrow):
        labels = [label for label in cloud(120) if label.x < frame.right - 5]
        for label, found in zip(labels, place(labels, frame), strict=True):
            if found and found.leader:
                reach = max(abs(found.leader[2] - label.x), abs(found.leader[3] - label.y))
                assert reach <= REACH * (frame.right - frame.left) + label.radius + GAP


def test_texts_are_not_wider_than_estimated():
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextPath

    for text in (
        "Full precision",
        "KDLSQ-BERT, 4 bits",
        "BinaryBERT, 1-1-8",
        "MMMM WWWW",
        "illicit filtering",
        "ÄÖß → 中文",
    ):
        drawn = TextPath((0, 0), text, 10, prop=FontProperties("DejaVu Sans")).get_extents().width
        assert drawn <= text_width(text, 10) <= 1.35 * drawn + 3, text
