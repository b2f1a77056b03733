"""The min-max quantizers: numbers worked out by hand, and their formulas written out."""

import numpy as np
import pytest

from methods.kernel.quantizers import Asymmetric, Symmetric
from tests.fixtures.quantizers import AWKWARD, BITS, put


def test_symmetric_rounds_half_to_even_between_plus_and_minus_the_largest():
    assert put(Symmetric(2), [-1.0, 0.4, 0.6]) == [-1.0, 0.0, 1.0]
    assert put(Symmetric(3), [3.0, 0.5, 1.5, -2.5]) == [3.0, 0.0, 2.0, -2.0]
    assert put(Symmetric(1), [2.0, 0.0, -0.1]) == [2.0, 2.0, -2.0]
    assert put(Symmetric(3, clip=1.5), [9.0, 0.4, -0.7]) == [1.5, 0.5, -0.5]
    assert put(Symmetric(2, rows=True), [[4.0, -1.0], [1.0, 0.9]]) == [[4.0, 0.0], [1.0, 1.0]]


def test_asymmetric_spans_the_tensors_own_range():
    assert put(Asymmetric(2), [-1.0, 0.25, 1.75, 2.0]) == [-1.0, 0.0, 2.0, 2.0]  # steps of 1 from -1
    assert put(Asymmetric(1), [5.0, 5.5, 7.0]) == [5.0, 5.0, 7.0]
    assert put(Asymmetric(2, clip=1.5), [-9.0, -0.2, 9.0, 0.6]) == [-1.5, -0.5, 1.5, 0.5]


@pytest.mark.parametrize("bits", BITS)
def test_min_max_equals_its_formula_written_out(bits):
    for label in ("random", "skewed", "one outlier"):
        x = AWKWARD[label].double().numpy()
        low, high, largest, top = x.min(), x.max(), abs(x).max(), max(2 ** (bits - 1) - 1, 1)
        step = (high - low) / (2**bits - 1)
        twin = low + step * np.round((x - low) / step)
        np.testing.assert_allclose(Asymmetric(bits)(AWKWARD[label]).numpy(), twin, atol=1e-5 * largest)
        twin = np.where(x >= 0, largest, -largest) if bits == 1 else np.round(x / largest * top) * largest / top
        np.testing.assert_allclose(Symmetric(bits)(AWKWARD[label]).numpy(), twin, atol=1e-5 * largest)
