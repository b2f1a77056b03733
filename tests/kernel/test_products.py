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
