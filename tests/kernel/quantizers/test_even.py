"""An even number of levels around zero."""

import pytest
import torch

from methods.kernel.products import give_integers
from methods.kernel.quantizers import Asymmetric, Even
from tests.fixtures.quantizers import put


def test_two_bits_by_hand():
    """The largest magnitude is 3: levels -3, -1, 1 and 3, borders -2, 0 and 2; what lies on a border goes up."""
    assert put(Even(2), [-3.0, -2.1, -2.0, -0.1, 0.0, 1.9, 2.0, 2.5]) == [-3, -3, -1, -1, 1, 1, 3, 3]


def test_one_bit_has_the_largest_magnitude_with_both_signs():
    assert put(Even(1), [-4.0, -0.5, 0.0, 2.0]) == [-4, -4, 4, 4]


def test_rows_have_ranges_of_their_own():
    assert put(Even(2, rows=True), [[3.0, 0.5], [-30.0, 5.0]]) == [[3, 1], [-30, 10]]


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("rows", [False, True])
def test_it_is_min_max_for_a_tensor_as_wide_below_zero_as_above(bits, rows):
    x = torch.randn(6, 20, generator=torch.Generator().manual_seed(0))
    x = torch.cat([x, -x], 1)
    assert torch.allclose(Even(bits, rows)(x), Asymmetric(bits, rows)(x), atol=1e-5)


def test_a_group_of_zeros_stays_zero():
    assert put(Even(2, rows=True), [[0.0, 0.0], [3.0, 0.0]]) == [[0, 0], [3, 1]]


def test_all_gradients_pass():
    x = torch.tensor([-3.0, 0.0, 0.4, 3.0], requires_grad=True)
    Even(2)(x).backward(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    assert x.grad.tolist() == [1, 2, 3, 4]


def test_codes_of_nine_bits_are_not_multiplied_as_eight():
    quantizer = Even(8)
    weight = quantizer(torch.linspace(-1, 1, 64).view(4, 16))
    assert not give_integers(weight, quantizer.encode(weight).step)
