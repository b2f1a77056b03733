"""Two levels around a mean: numbers worked out by hand, and the gradient through the centring."""

import pytest
import torch

from methods.kernel.quantizers import Centred

MATRIX = [[1.0, 2.0, 6.0], [-4.0, 3.0, 4.0]]  # mean 2; of rows 3 and 1; mean magnitude 20/6; of rows 3 and 11/3


def test_signs_are_those_around_the_mean_and_scales_those_of_the_weight_itself():
    matrix = torch.tensor(MATRIX)
    third = 20 / 6
    for quantizer, expected in (
        (Centred(), [[-third, third, third], [-third, third, third]]),  # 2 equals the mean
        (Centred(rows=True), [[-3, 3, 3], [-11 / 3, 11 / 3, 11 / 3]]),
        (Centred(rows=True, mean="rows"), [[-3, -3, 3], [-11 / 3, 11 / 3, 11 / 3]]),
        (Centred(mean="rows"), [[-third, -third, third], [-third, third, third]]),
    ):
        assert torch.allclose(quantizer(matrix), torch.tensor(expected))


def test_equal_numbers_are_all_positive():
    """Their mean is themselves, whatever their number; the authors' sign of zero would be a third level."""
    for count in (3, 7, 10, 1000):
        for quantizer, value in ((Centred(), -0.1), (Centred(rows=True, mean="rows"), 0.7)):
            assert torch.allclose(quantizer(torch.full((1, count), value)), torch.full((1, count), abs(value)))


@pytest.mark.parametrize("mean", ["tensor", "rows"])
def test_with_a_clip_the_gradient_is_that_of_the_clipped_centred_weight(mean):
    torch.manual_seed(0)
    gradient = torch.randn(5, 8)
    x = torch.randn(5, 8, requires_grad=True)
    twin = x.detach().clone().requires_grad_()
    Centred(rows=True, mean=mean, clip=1.0)(x).backward(gradient)
    middle = twin.mean(1, keepdim=True) if mean == "rows" else twin.mean()
    (twin - middle).clamp(-1, 1).backward(gradient)
    assert torch.allclose(x.grad, twin.grad, atol=1e-6)
    assert x.grad.abs().min() > 0, "the mean carries some of it to every weight"


def test_without_a_clip_the_gradient_passes_as_it_comes():
    x, gradient = torch.randn(3, 4, requires_grad=True), torch.randn(3, 4)
    Centred()(x * 100).backward(gradient)
    assert torch.equal(x.grad, gradient * 100)


def test_rows_around_a_tables_mean_cannot_be_quantized_apart():
    assert Centred(rows=True, mean="rows").by_rows
    assert not Centred(rows=True).by_rows and not Centred(mean="rows").by_rows
