"""Products on integer codes: fp32's numbers, against the same layers in fp32 and in bf16."""

import pytest
import torch
from torch import nn

from methods.kernel import layers, products, quantizers


def relative(ours: torch.Tensor, exact: torch.Tensor) -> float:
    return float((ours.float() - exact).norm() / exact.norm())


def results(compute, *leaves: torch.Tensor) -> list[torch.Tensor]:
    """The result, and the gradients of the leaves under a fixed gradient of the result."""
    for leaf in leaves:
        leaf.grad = None
    y = compute()
    y.float().backward(torch.randn(y.shape, generator=torch.Generator().manual_seed(5)))
    return [y.detach(), *(leaf.grad.clone() for leaf in leaves)]


def in_bf16(compute):
    with torch.autocast("cpu", torch.bfloat16):
        return compute()


WEIGHTS = {"ternary": {"kind": "ternary"}, "four bits": {"kind": "symmetric", "bits": 4}}
INPUTS = {
    "above a minimum": {"kind": "asymmetric", "bits": 8},
    "around zero": {"kind": "symmetric", "bits": 8},
    "learned step": {"kind": "step", "bits": 8},
}


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("inputs", INPUTS)
def test_a_linear_layer_on_codes_is_exact_forward_and_closer_than_bf16_backward(weights, inputs):
    torch.manual_seed(0)
    layer = layers.QuantLinear(nn.Linear(96, 64), quantizers.make(WEIGHTS[weights]), quantizers.make(INPUTS[inputs]))
    x = (torch.randn(4, 10, 96) + 0.3).requires_grad_()
    layer.input_quantizer.calibrate(x.detach())
    exact = results(lambda: layer(x), x, layer.weight)
    rounded = results(lambda: in_bf16(lambda: layer(x)), x, layer.weight)
    with products.on_codes(True):
        ours = results(lambda: layer(x), x, layer.weight)
    assert relative(ours[0], exact[0]) < 2e-6
    assert relative(ours[0], exact[0]) < relative(rounded[0], exact[0]) / 100
    for mine, bf16, true in zip(ours[1:], rounded[1:], exact[1:], strict=True):
        assert relative(mine, true) < min(4e-3, 1.2 * relative(bf16, true))


def test_attention_on_codes_is_attention():
    torch.manual_seed(0)
    operands = layers.QuantAttention(*(quantizers.make(INPUTS["above a minimum"]) for _ in range(4)))
    query, key, value = (torch.randn(2, 3, 12, 16).requires_grad_() for _ in range(3))
    mask = torch.zeros(2, 1, 1, 12)
    mask[1, :, :, 8:] = -1e4

    def compute():
        return layers.attention(query, key, value, mask, 0.25, 0.0, operands)[0]

    exact = results(compute, query, key, value)
    with products.on_codes(True):
        for mine, true in zip(results(compute, query, key, value), exact, strict=True):
            assert relative(mine, true) < 5e-3
        assert relative(compute().detach(), exact[0]) < 1e-5


def test_operands_without_a_common_step_are_multiplied_as_they_are():
    x, plain = torch.randn(3, 8), torch.randn(5, 8)
    with products.on_codes(True):
        rows = quantizers.make({"kind": "ternary", "rows": True})(plain)
        assert torch.equal(products.linear(x, plain, None), torch.nn.functional.linear(x, plain))
        assert torch.equal(products.linear(x, rows, None), torch.nn.functional.linear(x, rows))


def test_products_on_codes_end_with_their_block_and_nest():
    def state() -> tuple:
        return products.are_on_codes(), torch.backends.mkldnn.matmul.fp32_precision

    before = state()
    assert not before[0]
    with products.on_codes(True):
        inside = state()
        assert inside == (True, "bf16")
        with pytest.raises(KeyError), products.on_codes(False):
            assert state() == (False, "ieee")
            raise KeyError
        assert state() == inside
    assert state()[0] is False
    assert torch.backends.mkldnn.matmul.fp32_precision == "ieee"


# --- in integers ------------------------------------------------------------------------------------------

MORE_WEIGHTS = {
    **WEIGHTS,
    "eight bits by rows": {"kind": "symmetric", "bits": 8, "rows": True},
    "binary": {"kind": "binary"},
}
MORE_INPUTS = {
    **INPUTS,
    "by rows": {"kind": "asymmetric", "bits": 8, "rows": True},
    "one-sided": {"kind": "step", "bits": 8, "signed": False},
    "above a shifted minimum": {"kind": "step", "bits": 4, "shifted": True},
}


@pytest.mark.parametrize("weights", MORE_WEIGHTS)
@pytest.mark.parametrize("inputs", MORE_INPUTS)
@pytest.mark.parametrize("bias", [False, True])
def test_a_finished_linear_layer_in_integers_is_exact(weights, inputs, bias):
    torch.manual_seed(0)
    quantizer, linear, x = quantizers.make(MORE_WEIGHTS[weights]), nn.Linear(96, 64, bias=bias), torch.randn(4, 10, 96)
    grid = quantizer.encode(linear.weight)
    linear.weight.data = quantizer.values(linear.weight)
    layer = layers.QuantLinear(linear, None, quantizers.make(MORE_INPUTS[inputs]))
    layer.input_quantizer.calibrate(x)
    assert products.give_integers(layer.weight, grid.step)
    assert torch.equal(layer.weight.integers.codes.t().float(), grid.codes)
    with torch.no_grad():
        exact = layer(x)
        with products.in_integers():
            assert products.are_on_codes()
            assert relative(layer(x), exact) < 2e-6
        assert not products.are_on_codes()
        assert torch.equal(layer(x), exact)


def test_in_integers_all_other_products_are_fp32s():
    torch.manual_seed(0)
    plain, x = nn.Linear(96, 64), torch.randn(4, 10, 96)
    operands = layers.QuantAttention(*(quantizers.make(INPUTS["above a minimum"]) for _ in range(4)))
    tensors = torch.randn(3, 2, 3, 12, 16)
    expected = plain(x), layers.attention(*tensors, None, 0.25, 0.0, operands)[0]
    with products.in_integers():
        assert torch.equal(products.linear(x, plain.weight, plain.bias), expected[0])
        assert torch.equal(layers.attention(*tensors, None, 0.25, 0.0, operands)[0], expected[1])


def test_one_column_is_not_multiplied_in_integers():
    """torch's product takes a matrix of one column for one of one row."""
    assert not products.give_integers(nn.Parameter(torch.ones(5, 1)), torch.tensor(1.0))


@pytest.mark.parametrize(("largest", "exact"), [(1, True), (127, False), (128, False)])
def test_products_that_overflow_are_found_out(largest, exact, monkeypatch):
    """Without instructions for integers, processors add two products in 16 bits."""

    def saturating(a, b):
        pairs = (a.int()[:, :, None] + 128) * b.int()[None]  # (M, K, N), inputs made positive
        sums = pairs.view(len(a), -1, 2, b.shape[1]).sum(2).clamp(-(2**15), 2**15 - 1).sum(1)
        return (sums - 128 * b.int().sum(0)).int()

    assert products.integers_are_exact.__wrapped__(largest)
    monkeypatch.setattr(torch, "_int_mm", saturating)
    assert products.integers_are_exact.__wrapped__(largest) == exact
