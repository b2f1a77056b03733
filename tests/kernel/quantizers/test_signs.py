"""Levels without a step: numbers worked out by hand."""

import pytest
import torch

from methods.kernel.quantizers import Bool, Sign
from tests.fixtures.quantizers import put

VALUES = [-3.0, -1.0, -0.5, 0.0, 0.5, 1.0, 9.0]


def test_levels():
    assert put(Sign(), VALUES) == [-1, -1, -1, 1, 1, 1, 1]
    assert put(Sign(third=True), VALUES) == [-1, -1, -1, 0, 1, 1, 1]
    assert put(Bool(), VALUES) == [0, 0, 0, 0, 1, 1, 1]
    assert (Sign().levels, Sign(third=True).levels, Bool().levels) == (2, 3, 2)
    assert (Sign().bits, Sign(third=True).bits, Bool().bits) == (1, 2, 1)


@pytest.mark.parametrize(
    ("make", "bounds"), [(Sign, 1), (lambda: Sign(included=False), 0), (Bool, 0), (lambda: Sign(third=True), 1)]
)
def test_gradients_pass_between_the_bounds(make, bounds):
    x = torch.tensor(VALUES, requires_grad=True)
    make()(x).backward(torch.full((7,), 2.0))
    assert x.grad.tolist() == [0, 2 * bounds, 2, 2, 2, 2 * bounds, 0]
