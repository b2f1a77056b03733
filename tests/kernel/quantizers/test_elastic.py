"""BiT's elastic step: numbers worked out by hand."""

import pytest
import torch

from methods.kernel.quantizers import Elastic, Step
from tests.fixtures.quantizers import learned, put


def test_levels():
    assert put(learned(Elastic(1), 0.5), [-3.0, -0.1, 0.0, 9.0]) == [-0.5, -0.5, 0.5, 0.5]
    assert put(learned(Elastic(1, signed=False), 0.5), [-3.0, 0.2, 0.3, 9.0]) == [0.0, 0.0, 0.5, 0.5]
    assert put(learned(Elastic(2), 0.5), [-3.0, -0.6, 0.3, 9.0]) == [-1.0, -0.5, 0.5, 0.5]
    assert put(learned(Elastic(2, signed=False), 0.5), [1.0, 1.3, 1.7, 9.0]) == [1.0, 1.5, 1.5, 2.5]  # above the minimum


def test_at_one_bit_the_step_follows_all_numbers_and_what_lies_beyond_it_gets_no_gradient():
    quantizer = learned(Elastic(1), 0.5)
    x, gradient = torch.tensor([[-3.0, -0.5, 0.2, 0.6]], requires_grad=True), torch.tensor([[1.0, 10.0, 100.0, 1000.0]])
    quantizer(x).backward(gradient)
    assert x.grad.tolist() == [[0.0, 10.0, 100.0, 0.0]]
    assert quantizer.scale.grad.item() == pytest.approx((-1 - 10 + 100 + 1000) / 4**0.5)


def test_unsigned_at_one_bit_the_gradients_are_those_of_an_unsigned_step():
    x, gradient = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    found = []
    for quantizer in (Elastic(1, signed=False), Step(1, signed=False, count="batch")):
        given = x.clone().requires_grad_()
        learned(quantizer, 0.7)(given).backward(gradient)
        found.append((given.grad, quantizer.scale.grad))
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


@pytest.mark.parametrize(
    ("bits", "signed", "largest"), [(1, True, 1), (2, True, 1), (4, True, 7), (1, False, 1), (4, False, 15)]
)
def test_the_start_is_twice_as_high_for_one_sided_tensors(bits, signed, largest):
    x, quantizer = torch.rand(7, 5), Elastic(bits, signed)
    quantizer.calibrate(x)
    assert quantizer.scale.item() == pytest.approx((2 if signed else 4) * x.mean().item() / largest**0.5, rel=1e-6)
