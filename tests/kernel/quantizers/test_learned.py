"""Learned steps: numbers worked out by hand, calibration, and what updates may do to a step."""

import pytest
import torch

from methods.kernel.quantizers import Step, Threshold
from methods.kernel.quantizers.learned import FLOOR
from tests.fixtures.quantizers import learned, put


def test_threshold_puts_levels_between_plus_and_minus_what_it_learned():
    assert put(learned(Threshold(2), 1.5), [-3.0, -0.7, 0.8, 1.5]) == [-1.5, 0.0, 1.5, 1.5]
    assert put(learned(Threshold(3), 3.0), [-4.0, 1.5, 2.5, 0.4]) == [-3.0, 2.0, 2.0, 0.0]
    assert put(learned(Threshold(1), 2.0), [-0.1, 0.0, 5.0]) == [-2.0, 2.0, 2.0]


def test_step_has_one_level_more_below_zero_and_all_above_it_if_unsigned():
    assert put(learned(Step(3), 0.5), [-3.0, 0.3, 0.8, 5.0]) == [-2.0, 0.5, 1.0, 1.5]  # codes -4 to 3
    assert put(learned(Step(2, signed=False), 0.5), [-3.0, 0.3, 0.8, 5.0]) == [0.0, 0.5, 1.0, 1.5]  # codes 0 to 3
    assert put(learned(Step(2, shifted=True), 0.5), [-3.0, -2.7, -2.2, 5.0]) == [-3.0, -2.5, -2.0, -1.5]
    assert put(learned(Step(1), 0.5), [-3.0, 0.0, 0.1]) == [-0.5, 0.5, 0.5]


@pytest.mark.parametrize("make", [Threshold, Step])
def test_what_was_not_calibrated_is_no_number(make):
    assert make(4)(torch.randn(3, 4)).isnan().all()


def test_a_first_forward_pass_sets_nothing():
    quantizer = Step(4)
    quantizer(torch.randn(3, 4))
    assert quantizer.scale.isnan()
    assert int(quantizer.batches) == 0


@pytest.mark.parametrize("make", [Threshold, Step])
@pytest.mark.parametrize("rate", [1e-2, 1.0])
def test_a_step_stays_positive_whatever_updates_say_and_can_come_back(make, rate):
    torch.manual_seed(0)
    quantizer = make(4)
    x = torch.randn(8, 8)
    quantizer.calibrate(x)
    floor = quantizer.floor.item()
    assert floor > 0
    for _ in range(1000):
        quantizer.scale.data += rate * torch.randn(())
        assert quantizer.positive() >= floor
        assert quantizer(x).isfinite().all()
    quantizer.scale.data.fill_(-1.0)
    (-quantizer(x).abs().sum()).backward()  # wants larger values
    assert quantizer.scale.grad < 0


def test_truncation_ignores_a_fortieth_at_each_end():
    x = torch.arange(-40.0, 41.0)[torch.randperm(81)]  # 81 values: 2 are cut off at each end
    threshold, step = Threshold(4), Step(4, calibration="truncation")
    threshold.calibrate(x), step.calibrate(x)
    assert threshold.scale.item() == 38.0
    assert step.scale.item() == pytest.approx(38.0 / 7)


def test_truncation_of_a_tensor_with_hardly_a_value_keeps_the_largest():
    quantizer = Threshold(4)
    quantizer.calibrate(torch.cat([torch.zeros(99), torch.tensor([-3.0])]))
    assert quantizer.scale.item() == 3.0


def test_lsq_starts_from_the_mean_magnitude():
    x = torch.tensor([[-1.0, 2.0], [3.0, -6.0]])
    for quantizer, start in (
        (Step(4), 6 / 7**0.5),
        (Step(4, signed=False), 6 / 15**0.5),
        (Step(4, shifted=True), 12 / 15**0.5),
    ):
        quantizer.calibrate(x)
        assert quantizer.scale.item() == pytest.approx(start)


def test_calibration_takes_the_mean_over_batches():
    quantizer = Step(3)
    for size in (1.0, 2.0, 6.0):
        quantizer.calibrate(torch.full((4, 4), size))
    assert quantizer.scale.item() == pytest.approx(2 * 3.0 / 3**0.5)
    assert quantizer.floor.item() == pytest.approx(FLOOR * quantizer.scale.item())


def test_the_histogram_search_cuts_a_tail_off_and_falls_back_to_the_largest():
    heavy = torch.distributions.StudentT(2.0)
    torch.manual_seed(0)
    x = heavy.sample((64, 64))
    long, short = Threshold(3, calibration="histogram"), Threshold(8, calibration="histogram")
    long.calibrate(x), short.calibrate(x[:4, :4])
    assert 0.05 * float(x.abs().max()) < long.scale.item() < 0.9 * float(x.abs().max())
    assert short.scale.item() == float(x[:4, :4].abs().max())  # 4 bins for 128 levels


def test_a_threshold_is_a_step_with_an_even_range():
    x, bits = torch.randn(200), 4
    threshold, step = learned(Threshold(bits), 1.4), learned(Step(bits), 1.4 / 7)
    inside = x.abs() <= 1.4
    assert torch.allclose(threshold(x)[inside], step(x)[inside])


@pytest.mark.parametrize("calibration", ["truncation", "lsq", "histogram"])
@pytest.mark.parametrize("make", [Threshold, Step])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_sample_that_is_not_finite_makes_the_scale_nan_for_good(value, make, calibration):
    quantizer, x = make(4, calibration=calibration), torch.randn(40, 10)
    quantizer.calibrate(x)
    assert quantizer.scale.isfinite()
    spoiled = x.clone()
    spoiled[3, 4] = value
    quantizer.calibrate(spoiled)
    quantizer.calibrate(x)
    assert quantizer.scale.isnan()
    assert quantizer(x).isnan().all()
