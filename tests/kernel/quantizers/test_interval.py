"""The learned interval: numbers worked out by hand."""

from methods.kernel.quantizers import Interval
from tests.fixtures.quantizers import put


def test_interval_clips_to_its_bounds_before_it_measures():
    assert put(Interval(2, bound=3.0), [-5.0, -2.5, 0.25, 9.0]) == [-3.0, -3.0, 1.0, 3.0]  # steps of 2 from -3
    assert put(Interval(2, bound=30.0), [-5.0, 0.0, 4.0]) == [-5.0, 1.0, 4.0]  # a bound that cuts nothing changes nothing
    assert put(Interval(3, bound=3.0, symmetric=True), [9.0, 1.4, -0.6]) == [3.0, 1.0, -1.0]
