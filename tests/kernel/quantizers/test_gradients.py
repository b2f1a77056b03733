"""What flows back through the quantizers: closed forms by hand, and finite differences of the forward pass."""

from functools import partial

import pytest
import torch

from methods.kernel import fusing, layers
from methods.kernel.quantizers import (
    Asymmetric,
    Binary,
    Interval,
    LossAware,
    Step,
    Symmetric,
    Ternary,
    Threshold,
)
from methods.kernel.trace import Trace, tracing
from tests.fixtures.quantizers import AWKWARD, EVERYTHING, learned


def backward(quantizer, values, gradient) -> list:
    """The gradient to the input where `gradient` arrives; the quantizer's own parameters keep theirs."""
    x = torch.tensor(values, requires_grad=True)
    quantizer(x).backward(torch.tensor(gradient))
    return x.grad.tolist()


@pytest.mark.parametrize("make", [Ternary, Binary, LossAware, lambda: Symmetric(2), lambda: Asymmetric(2)])
def test_gradients_pass_a_grid_as_they_come(make):
    quantizer = make()
    quantizer.calibrate(torch.zeros(4))
    assert backward(quantizer, [-3.0, 0.0, 0.1, 9.0], [1.0, 2.0, 3.0, 4.0]) == [1.0, 2.0, 3.0, 4.0]


@pytest.mark.parametrize("make", [Symmetric, Asymmetric])
def test_clipped_values_get_no_gradient_the_bound_included(make):
    quantizer = make(8, clip=2.5)
    assert backward(quantizer, [-2.5, -2.4, 0.0, 2.4, 2.5, 9.0], [1.0] * 6) == [0.0, 1.0, 1.0, 1.0, 0.0, 0.0]


@pytest.mark.parametrize("symmetric", [False, True])
def test_a_bound_of_an_interval_gets_what_it_cuts_off(symmetric):
    quantizer = Interval(8, bound=2.5, symmetric=symmetric)
    gradient = [1.0, 2.0, 4.0, 8.0, 16.0]
    assert backward(quantizer, [-9.0, -2.5, 0.0, 2.4, 3.0], gradient) == [0.0, 0.0, 4.0, 8.0, 0.0]
    assert (quantizer.low.grad.item(), quantizer.high.grad.item()) == (3.0, 16.0)


@pytest.mark.parametrize("masked", [False, True])
def test_a_threshold_by_hand(masked):
    """x / threshold is -2, 0.4, 0.9: cut off to -1, and rounded at 3 bits to 1/3 and 1."""
    quantizer = learned(Threshold(3, masked=masked), 2.0)
    to_x = backward(quantizer, [-4.0, 0.8, 1.8], [1.0, 10.0, 100.0])
    assert to_x == [0.0 if masked else 1.0, 10.0, 100.0]
    assert quantizer.scale.grad.item() == pytest.approx(-1 + 10 * (1 / 3 - 0.4) + 100 * (1 - 0.9), rel=1e-5)


@pytest.mark.parametrize(
    ("options", "values", "to_x", "to_step", "largest"),
    [
        # codes -4 to 3 at a step of 0.5: -6 and 5 are cut off, 1.2 and -2.6 rounded
        ({"bits": 3}, [[-3.0, 0.6, -1.3, 2.5]], [0.0, 10.0, 100.0, 0.0], -4 + 10 * -0.2 + 100 * -0.4 + 1000 * 3, 3),
        # codes 0 to 3: all below zero is cut off and says nothing about the step
        ({"bits": 2, "signed": False}, [[-3.0, 0.6, -1.3, 2.5]], [0.0, 10.0, 0.0, 0.0], 10 * -0.2 + 1000 * 3, 3),
        # the same above the minimum of -3: 0, 7.2, 3.4 and 11 steps
        ({"bits": 2, "shifted": True}, [[-3.0, 0.6, -2.3, 2.5]], [1.0, 0.0, 100.0, 0.0], 10 * 3 + 100 * -0.4 + 1000 * 3, 3),
    ],
)
def test_a_step_by_hand(options, values, to_x, to_step, largest):
    quantizer = learned(Step(**options), 0.5)
    assert backward(quantizer, values, [[1.0, 10.0, 100.0, 1000.0]]) == [to_x]
    assert quantizer.scale.grad.item() == pytest.approx(to_step / (4 * largest) ** 0.5, rel=1e-5)


@pytest.mark.parametrize(("count", "numbers"), [("features", 5 * 6), ("batch", 4 * 5 * 6)])
def test_a_steps_gradient_is_scaled_by_the_features_or_as_the_official_code_by_the_batch(count, numbers):
    torch.manual_seed(0)
    x, gradient = torch.randn(4, 5, 6), torch.randn(4, 5, 6)
    step, threshold = learned(Step(4, count=count), 0.3), learned(Threshold(4), 0.3 * 7)
    x = x.clamp(-2, 2)  # where the two grids are one
    for quantizer in (step, threshold):
        quantizer(x).backward(gradient)
    expected = threshold.scale.grad * 7 * (numbers * 7) ** -0.5  # threshold = 7 steps, and its gradient is not scaled
    assert step.scale.grad.item() == pytest.approx(expected.item(), abs=1e-6)  # 120 terms near 0.01 nearly cancel


def test_a_steps_gradient_counts_a_weights_numbers_whole_and_an_activations_without_the_batch():
    """The gradient of ones on the outermost level, 7 for each number, over the root of 7 N."""
    table = torch.full((6, 5), 100.0)
    weight, activation = Step(4), Step(4)
    weight.calibrate(table / 100), activation.calibrate(table / 100)
    weight.role, activation.role = "weights", "activations"
    for quantizer, numbers in ((weight, 6 * 5), (activation, 5)):
        quantizer(table[:2]).sum().backward()  # two rows of a table, or a batch of two vectors
        assert quantizer.scale.grad.item() == pytest.approx(10 * 7 / (7 * numbers) ** 0.5)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("make", [Threshold, Step, partial(Step, signed=False), partial(Step, shifted=True)])
def test_a_learned_scales_gradient_equals_finite_differences_but_for_the_straight_through_term(make, bits):
    """Between two rounding boundaries the values are code * step, whose slope in the step is the code. The estimator adds
    what flows through x / step as if rounding were the identity: minus x / step, inside the range.
    """
    torch.manual_seed(0)
    quantizer, scale, nudge = learned(make(bits), 0.7), 0.7, 2e-4
    x = torch.randn(1, 50)
    lowest = x.min() if getattr(quantizer, "shifted", False) else 0.0
    scaled = (x - lowest) * quantizer.parts / scale
    far = ((scaled - scaled.floor() - 0.5).abs() > 0.05) | (x == x.min())  # from every boundary, so that none is crossed
    x, scaled = x[far][None], scaled[far][None]
    inside = (scaled >= quantizer.codes_from) & (scaled <= quantizer.codes_to)
    gradient = torch.randn(x.shape)
    quantizer(x).backward(gradient)
    above, below = ((learned(quantizer, scale + sign * nudge)(x).double() * gradient).sum().item() for sign in (1, -1))
    slope = (above - below) / (2 * nudge) - (gradient * (x - lowest) / scale)[inside].sum().item()
    factor = 1.0 if isinstance(quantizer, Threshold) else (x.numel() * quantizer.codes_to) ** -0.5
    assert quantizer.scale.grad.item() == pytest.approx(factor * slope, rel=1e-2, abs=1e-2 * factor)


def test_the_floor_of_a_step_lets_gradients_through():
    quantizer = Step(4)
    quantizer.calibrate(torch.ones(4))
    quantizer.scale.data.fill_(-5.0)
    quantizer(torch.ones(4)).sum().backward()  # all cut off at 7 floors
    assert quantizer.scale.grad.item() > 0


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", EVERYTHING)
def test_every_gradient_is_a_number_of_its_inputs_kind(name, precision):
    for label, x in AWKWARD.items():
        if label == "huge":
            continue  # a sum over values beyond fp32's range is no number, rightly
        quantizer, x = EVERYTHING[name](), x.to(precision, copy=True).requires_grad_()
        quantizer.calibrate(x.detach())
        quantizer(x).sum().backward()
        assert x.grad.dtype == precision
        assert x.grad.isfinite().all(), label
        for parameter in quantizer.parameters():
            assert parameter.grad.isfinite().all(), label


# --- what a step's gradient counts ------------------------------------------------------------------------

LENGTHS = (5, 2, 7, 3)


def padded(lengths: tuple[int, ...], width: int, total: int | None = None) -> Trace:
    """The trace of examples of these lengths, padded to one width."""
    mask = (torch.arange(width) < torch.tensor(lengths)[:, None]).long()
    return Trace(ids=mask, mask=mask, total=total)


def step_gradient(quantizer: Step, examples: list[torch.Tensor], width: int, total: int | None = None) -> float:
    """The gradient of the step for a loss that reads real tokens only, (length, F) an example, padded to one width."""
    x = torch.nn.utils.rnn.pad_sequence([*examples, torch.zeros(width, 6)], batch_first=True)[:-1]  # (B, width, F)
    weights = torch.arange(1.0, 7.0)
    running = padded(tuple(map(len, examples)), width, total)
    with tracing(running):
        loss = (quantizer(x) * weights * running.mask[:, :, None]).sum()
    quantizer.scale.grad = None
    loss.backward()
    return quantizer.scale.grad.item()


@pytest.mark.parametrize("count", ["features", "batch"])
def test_a_steps_gradient_does_not_depend_on_padding(count):
    torch.manual_seed(0)
    quantizer, examples = learned(Step(4, count=count), 0.3), [torch.randn(length, 6) for length in LENGTHS]
    exact = step_gradient(quantizer, examples, max(LENGTHS))
    assert step_gradient(quantizer, examples, 16) == pytest.approx(exact, rel=1e-5)
    assert exact != 0


@pytest.mark.parametrize("count", ["features", "batch"])
def test_a_steps_gradient_does_not_depend_on_micro_batches(count):
    torch.manual_seed(0)
    quantizer, examples = learned(Step(4, count=count), 0.3), [torch.randn(length, 6) for length in LENGTHS]
    whole = step_gradient(quantizer, examples, 7, sum(LENGTHS))
    halves = [step_gradient(quantizer, examples[part], 7, sum(LENGTHS)) for part in (slice(2), slice(2, 4))]
    assert sum(halves) == pytest.approx(whole, rel=1e-5)


def test_under_features_each_example_has_its_own_scale():
    torch.manual_seed(0)
    quantizer, examples = learned(Step(4), 0.3), [torch.randn(length, 6) for length in LENGTHS]
    together = step_gradient(quantizer, examples, 9)
    alone = []
    for x in examples:  # without a trace and without padding
        quantizer.scale.grad = None
        (quantizer(x[None]) * torch.arange(1.0, 7.0)).sum().backward()
        alone.append(quantizer.scale.grad.item())
    assert together == pytest.approx(sum(alone), rel=1e-5)


@pytest.mark.parametrize("count", ["features", "batch"])
def test_the_steps_of_attention_do_not_depend_on_padding(count):
    """Probabilities have tokens along both of their last dimensions."""
    torch.manual_seed(0)
    examples = [torch.randn(3, 2, length, 4) for length in LENGTHS]  # query, key and value of two heads
    gradients = []
    for width in (7, 12):
        operands = layers.QuantAttention(*(learned(Step(8, count=count), 0.02) for _ in range(4)))
        assert operands.probs.pairs and not operands.value.pairs
        running = padded(LENGTHS, width)
        x = torch.stack([torch.nn.functional.pad(one, (0, 0, 0, width - one.shape[2])) for one in examples], 1)
        mask = (1.0 - running.mask[:, None, None, :]) * torch.finfo(torch.float32).min
        with tracing(running):
            context, _ = layers.attention(*x, mask, 0.5, 0.0, operands)  # (B, S, heads, width)
            (context * running.mask[:, :, None, None] * torch.arange(1.0, 5.0)).sum().backward()
        gradients.append([operand.scale.grad.item() for operand in (operands.query, operands.probs, operands.value)])
    assert gradients[0] == pytest.approx(gradients[1], rel=1e-4)


def test_an_example_of_padding_alone_has_no_say():
    torch.manual_seed(0)
    quantizer, examples = learned(Step(4), 0.3), [torch.randn(length, 6) for length in (5, 0)]
    assert step_gradient(quantizer, examples, 7) == pytest.approx(step_gradient(quantizer, examples[:1], 7))


@pytest.mark.slow
def test_a_compiled_backward_pass_counts_the_same():
    torch.manual_seed(0)
    quantizer, examples = learned(Step(4), 0.3), [torch.randn(length, 6) for length in LENGTHS]
    eager = step_gradient(quantizer, examples, 9)
    with fusing.compiled(True):
        assert step_gradient(quantizer, examples, 9) == pytest.approx(eager, rel=1e-4)
