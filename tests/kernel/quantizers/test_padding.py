"""Padding is in no statistic: while a trace is open, real tokens get the values that they have among themselves."""

import pytest
import torch

from methods.kernel import fusing, grids
from methods.kernel.trace import Trace, real_features, real_numbers, tracing
from tests.fixtures.quantizers import EVERYTHING, learned

LENGTHS = torch.tensor([5, 2, 7, 3])
WIDTH = 9
MASK = (torch.arange(WIDTH) < LENGTHS[:, None]).long()
REAL = MASK == 1  # (B, S)
PAIRS = (REAL[:, None, :, None] & REAL[:, None, None, :]).expand(-1, 2, -1, -1)  # (B, heads, S, S)
ACTIVATIONS = [name for name, make in EVERYTHING.items() if not make().only_for_weights]


def padded(*shape: int, lift: float = 0.3) -> torch.Tensor:
    """Return random numbers with far larger ones in padding, (B, ...)."""
    x = torch.randn(len(LENGTHS), *shape, generator=torch.Generator().manual_seed(0)) + lift
    real = REAL[:, :, None] if x.dim() == 3 else REAL[:, None, :, None]
    return torch.where(real, x, 100 * x)


def probabilities() -> torch.Tensor:
    """Return rows that sum to one over real keys and are exactly zero at others, (B, heads, S, S)."""
    scores = torch.randn(len(LENGTHS), 2, WIDTH, WIDTH, generator=torch.Generator().manual_seed(1))
    return scores.masked_fill(~REAL[:, None, None, :], float("-inf")).softmax(-1)


def quantizer_of(name: str, x: torch.Tensor):
    quantizer = EVERYTHING[name]()
    quantizer.role = "activations"
    return learned(quantizer, 0.1) if hasattr(quantizer, "scale") else quantizer


def inside(function, x: torch.Tensor):
    with tracing(Trace(MASK, MASK)):
        return function(x)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_real_tokens_have_the_values_that_they_have_among_themselves(name):
    for x, real in ((padded(WIDTH, 6), REAL), (padded(2, WIDTH, 6), REAL[:, None].expand(-1, 2, -1))):
        quantizer = quantizer_of(name, x)
        values = inside(quantizer, x)
        assert torch.allclose(values[real], quantizer(x[real]), rtol=1e-6)
        assert values.isfinite().all()
        numbers = (inside(quantizer.encode, x).codes - quantizer.codes_from) / quantizer.codes_by
        assert numbers.min() >= 0 and numbers.max() < quantizer.levels, "padding has codes as well"


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_probabilities_are_measured_where_query_and_key_are_real(name):
    x = probabilities()
    quantizer = quantizer_of(name, x)
    quantizer.pairs = True
    values = inside(quantizer, x)
    assert values.isfinite().all()
    if not quantizer.rows:
        assert torch.allclose(values[PAIRS], quantizer(x[PAIRS]), rtol=1e-5)
        return
    for example, length in enumerate(LENGTHS):
        alone = x[example, :, :length, :length]
        assert torch.allclose(values[example, :, :length, :length], quantizer(alone), rtol=1e-5)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_without_padding_and_without_tokens_nothing_changes(name):
    x, pooled = padded(WIDTH, 6), padded(WIDTH, 6)[:, 0]
    quantizer = quantizer_of(name, x)
    full = torch.ones_like(MASK)
    with tracing(Trace(full, full)):
        assert torch.equal(quantizer(x), quantizer_of(name, x)(x))
    assert torch.equal(inside(quantizer_of(name, pooled), pooled), quantizer_of(name, pooled)(pooled))


def test_weights_have_no_padding_whatever_their_shape():
    weight = padded(WIDTH, 6)
    quantizer = EVERYTHING["asymmetric 8"]()
    quantizer.role = "weights"
    assert torch.equal(inside(quantizer, weight), quantizer(weight))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize(
    "name", ["symmetric 8", "asymmetric 8", "interval 8", "interval 8 symmetric=True", "step 4 shifted=True"]
)
def test_what_is_not_finite_spreads_from_real_tokens_and_not_from_padding(name, value):
    x = padded(WIDTH, 6)
    quantizer = quantizer_of(name, x)
    expected = inside(quantizer, x)
    x[1, 5, 3] = value  # padding
    assert torch.equal(inside(quantizer, x)[REAL], expected[REAL])
    x[1, 1, 3] = value  # the last real token
    assert inside(quantizer, x)[1, 1, 3].isnan()
    assert not grids.finite(inside(quantizer.encode, x))


@pytest.mark.parametrize("name", ["step 4 shifted=True", "interval 4", "symmetric 4 clip=2.5"])
def test_gradients_do_not_know_padding_either(name):
    x = padded(WIDTH, 6)
    gradients = []
    for width in (WIDTH, int(LENGTHS.max())):
        quantizer, part = quantizer_of(name, x), x[:, :width].clone().requires_grad_()
        with tracing(Trace(MASK[:, :width], MASK[:, :width])):
            values = quantizer(part)
        (values[REAL[:, :width]] * torch.arange(1.0, 7.0)).sum().backward()
        gradients.append([part.grad[REAL[:, :width]], *(parameter.grad for parameter in quantizer.parameters())])
    for one, other in zip(*gradients, strict=True):
        assert torch.allclose(one, other, rtol=1e-5)


@pytest.mark.parametrize("name", [name for name in ACTIVATIONS if name.startswith(("step", "threshold"))])
def test_calibration_reads_real_numbers(name):
    x = padded(WIDTH, 6)
    ours, alone = EVERYTHING[name](), EVERYTHING[name]()
    inside(lambda x: ours.calibrate(real_numbers(x)), x)
    alone.calibrate(x[REAL])
    assert torch.equal(ours.scale, alone.scale)


def test_what_is_counted_is_what_is_measured():
    for x, pairs in ((padded(WIDTH, 6), False), (padded(2, WIDTH, 6), False), (probabilities(), True)):
        assert inside(lambda x, pairs=pairs: real_features(x, pairs), x).sum() == len(
            inside(lambda x, pairs=pairs: real_numbers(x, pairs), x).flatten()
        )


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["symmetric 8", "asymmetric 8", "asymmetric 8 rows=True", "interval 8", "step 4 shifted=True"]
)
def test_compiled_chains_leave_out_the_same(name):
    for x, pairs in ((padded(WIDTH, 6), False), (probabilities(), True)):
        quantizer = quantizer_of(name, x)
        quantizer.pairs = pairs
        expected = inside(quantizer, x)
        with fusing.compiled(True):
            assert torch.allclose(inside(quantizer, x), expected, rtol=1e-5)
