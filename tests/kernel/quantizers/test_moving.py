"""Moving ranges: what moves them, what does not, and what evaluation sees of them."""

import pytest
import torch

from methods.kernel.quantizers import Ema
from methods.kernel.trace import Trace, tracing

MASK = torch.tensor([[1, 1, 1], [1, 0, 0]])


def peak(value: float, *shape: int) -> torch.Tensor:
    """Return zeros but for one number, which is not the first."""
    x = torch.zeros(*shape or (2, 2))
    x[0, -1] = value
    return x


def activations(**options) -> Ema:
    quantizer = Ema(8, **options)
    quantizer.role = "activations"
    return quantizer


def moved(quantizer: Ema, x: torch.Tensor, continues: bool = False) -> float:
    """Return the range after a forward pass of training."""
    mask = torch.ones(len(x), 1)
    with tracing(Trace(mask, mask, continues=continues)):
        quantizer(x)
    return quantizer.range.item()


def test_the_first_batch_sets_the_range_and_others_move_it_a_little():
    quantizer = activations(decay=0.75)
    assert moved(quantizer, peak(-4.0)) == 4
    assert moved(quantizer, peak(8.0)) == 4 - 0.25 * (4 - 8)
    assert moved(quantizer, peak(1.0)) == 5 - 0.25 * (5 - 1)


def test_the_range_moves_before_it_is_used():
    quantizer = activations(decay=0.75)
    quantizer(peak(4.0))
    values = quantizer(torch.tensor([[9.0, 2.0, -0.03]]))  # the range is now 4 - 0.25 (4 - 9) = 5.25
    step = 5.25 / 127
    assert values.tolist()[0] == pytest.approx([5.25, 48 * step, -step], rel=1e-6)


def test_evaluation_neither_moves_the_range_nor_exceeds_it():
    quantizer = activations()
    quantizer(peak(4.0))
    quantizer.eval()
    assert quantizer(torch.tensor([[-9.0, 9.0]])).tolist() == [[-4.0, 4.0]]
    assert quantizer.range == 4


def test_before_any_batch_there_is_no_range():
    assert activations().eval()(torch.ones(2, 2)).isnan().all()


def test_all_gradients_pass_those_of_cut_off_values_too():
    quantizer = activations()
    quantizer(peak(1.0))
    x = torch.tensor([-9.0, -1.0, 0.3, 1.0, 9.0], requires_grad=True)
    quantizer.eval()(x).backward(torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0]))
    assert x.grad.tolist() == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("peaks", [(4.0, 8.0, 1.0), (8.0, 4.0, 1.0), (1.0, 4.0, 8.0)])
def test_micro_batches_move_the_range_to_where_the_whole_batch_would(peaks):
    """The last of them is a step of its own in which nothing is large, and so shows that the step before is over."""
    together, apart = activations(decay=0.75), activations(decay=0.75)
    for step in range(3):
        whole = torch.cat([peak(value + step) for value in peaks])
        parts = [moved(apart, peak(value + step), continues=at > 0) for at, value in enumerate(peaks)]
        assert parts[-1] == moved(together, whole)
    assert moved(apart, peak(1.0)) == moved(together, peak(1.0))


def test_padding_moves_nothing():
    x = torch.ones(2, 3, 4)
    x[1, 2, 0], x[0, 1, 1] = 100.0, 2.0  # the first is padding
    quantizer = activations()
    with tracing(Trace(MASK, MASK)):
        quantizer(x)
    assert quantizer.range == 2


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_moves_nothing_and_is_not_hidden(value):
    quantizer = activations()
    quantizer(peak(4.0))
    values = quantizer(torch.tensor([[value, 2.0, 9.0]]))
    assert values[0, 0].isnan()
    assert values[0, 2] == quantizer.range == 4


def test_a_checkpoint_holds_the_range_and_nothing_else():
    quantizer, other = activations(decay=0.75), activations(decay=0.75)
    quantizer(peak(4.0)), quantizer(peak(8.0))
    assert quantizer.state_dict().keys() == {"range"}
    other.load_state_dict(quantizer.state_dict())
    assert moved(quantizer, peak(1.0)) == moved(other, peak(1.0)) == 5 - 0.25 * (5 - 1)


def test_a_weight_keeps_the_range_that_it_began_with():
    quantizer = Ema(8)
    quantizer.role = "weights"
    quantizer.calibrate(peak(4.0))
    assert quantizer(peak(8.0)).max() == quantizer.range == 4


def test_a_range_of_zero_gives_zeros():
    quantizer = activations()
    assert torch.equal(quantizer(torch.zeros(2, 2)), torch.zeros(2, 2))
