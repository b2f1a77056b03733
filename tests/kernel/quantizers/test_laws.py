"""Laws that hold for every quantizer and every tensor. A new kind is tested here without another line."""

import ast
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from methods.common import options
from methods.kernel import fusing, grids, products, quantizers
from methods.kernel.quantizers import Asymmetric, Binary, Interval, LossAware, Step, Symmetric, Ternary, Threshold
from tests.fixtures.quantizers import AWKWARD, BITS, EVERYTHING, TENSORS


@pytest.mark.parametrize("bits", BITS)
def test_how_many_levels_bits_give(bits):
    even = max(2**bits - 1, 2)
    assert Symmetric(bits).levels == Threshold(bits).levels == Interval(bits, symmetric=True).levels == even
    assert Asymmetric(bits).levels == Interval(bits).levels == 2**bits
    assert Step(bits).levels == Step(bits, signed=False).levels == Step(bits, shifted=True).levels == 2**bits
    assert (Ternary().levels, LossAware().levels, Binary().levels) == (3, 3, 2)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", EVERYTHING)
def test_forward_is_what_the_codes_decode_to_bit_for_bit_and_never_no_number(name, precision):
    for label, x in AWKWARD.items():
        quantizer, x = EVERYTHING[name](), x.to(precision)
        quantizer.calibrate(x)
        values, grid = quantizer(x), quantizer.encode(x)
        assert torch.equal(values, grids.decode(grid).to(precision)), label
        assert values.isfinite().all(), label
        numbers = (grid.codes - quantizer.codes_from) / quantizer.codes_by
        assert torch.equal(numbers, numbers.round()), label
        assert numbers.min() >= 0 and numbers.max() < quantizer.levels, label
        groups = values if quantizer.rows else values.reshape(1, -1)
        assert max(len(group.unique()) for group in groups) <= quantizer.levels, label


OF_TABLES = [name for name in EVERYTHING if EVERYTHING[name]().rows and not EVERYTHING[name]().by_rows]  # around their mean


@pytest.mark.parametrize("name", [name for name in EVERYTHING if name not in OF_TABLES])
def test_what_lies_on_the_grid_stays_there(name):
    for label, x in AWKWARD.items():
        quantizer = EVERYTHING[name]()
        quantizer.calibrate(x)
        once = quantizer(x)
        assert torch.allclose(quantizer(once), once, rtol=1e-5), label


BY_ROWS = [name for name in EVERYTHING if "rows=True" in name and EVERYTHING[name]().by_rows]


@pytest.mark.parametrize("name", BY_ROWS)
def test_rows_are_quantized_each_by_itself(name):
    for label, x in AWKWARD.items():
        together, alone = EVERYTHING[name](), EVERYTHING[name.replace(" rows=True", "")]()
        together.calibrate(x)
        for row, values in zip(x, together(x), strict=True):
            alone.calibrate(row)
            assert torch.allclose(alone(row), values, rtol=1e-5), label


SCALE_FREE = ["ternary", "binary", "loss_aware", "symmetric 2", "symmetric 8", "asymmetric 8"]
SCALE_FREE += [f"{name} rows=True" for name in SCALE_FREE] + ["loss_aware solver=exact", "loss_aware rows=True solver=exact"]


@pytest.mark.parametrize("name", SCALE_FREE)
@settings(deadline=None, max_examples=30)
@given(x=TENSORS, power=st.integers(-8, 8))
def test_a_scaled_tensor_has_scaled_values(name, x, power):
    """By a power of two, so that no rounding differs."""
    quantizer = EVERYTHING[name]()
    quantizer.calibrate(torch.from_numpy(x))
    once, scaled = (quantizer(torch.from_numpy(tensor)) for tensor in (x, x * 2.0**power))
    assert torch.equal(once * 2.0**power, scaled)


@pytest.mark.parametrize("name", [name for name in SCALE_FREE if "asymmetric" not in name])
@settings(deadline=None, max_examples=30)
@given(x=TENSORS)
def test_a_turned_tensor_has_turned_values(name, x):
    x = np.where(x == 0, np.float32(1), x) if name.startswith("binary") else x  # zero counts as positive either way
    quantizer = EVERYTHING[name]()
    quantizer.calibrate(torch.from_numpy(x))
    assert torch.equal(quantizer(torch.from_numpy(-x)), -quantizer(torch.from_numpy(x)))


NOT_FINITE = [float("nan"), float("inf"), float("-inf")]


def spoiled(value: float, precision: torch.dtype = torch.float32) -> torch.Tensor:
    """A matrix with one number that is not finite."""
    x = AWKWARD["random"].to(precision, copy=True)
    x[3, 4] = value
    return x


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("value", NOT_FINITE)
@pytest.mark.parametrize("name", EVERYTHING)
def test_what_is_not_finite_becomes_nan_and_cannot_be_stored(name, value, precision):
    quantizer, x = EVERYTHING[name](), spoiled(value, precision)
    quantizer.calibrate(AWKWARD["random"])
    assert quantizer(x)[3, 4].isnan()
    assert not grids.finite(quantizer.encode(x))
    assert grids.finite(quantizer.encode(AWKWARD["random"]))
    if name in BY_ROWS:  # the other rows are as they would be without it
        others = [row for row in range(12) if row != 3]
        assert torch.equal(quantizer(x)[others], quantizer(AWKWARD["random"].to(precision))[others])
    elif name.split()[0] not in (
        "threshold",
        "step",
        "clipped",
        "ema",
        "elastic",
        "sign",
        "bool",
    ):  # the step follows from the tensor
        assert quantizer(x).isnan().all()


@pytest.mark.parametrize("name", ["ternary", "binary", "symmetric 8", "asymmetric 8", "step 8"])
def test_what_is_not_finite_spreads_through_products_on_codes(name):
    x, weight = (EVERYTHING[name]() for _ in range(2))
    x.calibrate(AWKWARD["random"]), weight.calibrate(AWKWARD["random"])
    with products.on_codes(True):
        assert products.linear(x(spoiled(float("inf"))), weight(AWKWARD["random"]), None)[3].isnan().all()


@pytest.mark.parametrize("value", NOT_FINITE)
@pytest.mark.parametrize("name", [name for name in EVERYTHING if "loss_aware" in name])
def test_a_curvature_that_is_not_finite_makes_its_group_nan(name, value):
    quantizer = EVERYTHING[name]()
    quantizer.calibrate(AWKWARD["random"])
    quantizer.curvature[3, 4] = value
    assert quantizer(AWKWARD["random"])[3].isnan().all()


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in EVERYTHING if not re.search("[235678]", name.split("=")[0])])
def test_compiled_chains_agree_and_spread_what_is_not_finite_too(name):
    quantizer = EVERYTHING[name]()
    quantizer.calibrate(AWKWARD["random"])
    expected = quantizer(AWKWARD["random"])
    with fusing.compiled(True):
        assert torch.allclose(quantizer(AWKWARD["random"]), expected, rtol=1e-5)
        for value in NOT_FINITE:
            assert quantizer(spoiled(value))[3, 4].isnan()
            assert not grids.finite(quantizer.encode(spoiled(value)))


@pytest.mark.parametrize("name", EVERYTHING)
def test_an_empty_tensor_is_refused_by_name(name):
    quantizer = EVERYTHING[name]()
    for shape in ((0,), (0, 4), (4, 0), (2, 0, 4)):
        for use in (quantizer, quantizer.encode, quantizer.calibrate):
            with pytest.raises(ValueError, match=f"{type(quantizer).__name__} cannot quantize an empty tensor"):
                use(torch.zeros(shape))


@pytest.mark.parametrize("name", [name for name in EVERYTHING if "rows=True" in name])
def test_rows_are_the_last_dimension_whatever_the_rank(name):
    """As activations need it that are quantized token by token."""
    x = torch.randn(2, 3, 5, 7, generator=torch.Generator().manual_seed(0))
    whole, flat = EVERYTHING[name](), EVERYTHING[name]()
    whole.calibrate(x), flat.calibrate(x.flatten(0, -2))
    grid, expected = whole.encode(x), flat.encode(x.flatten(0, -2))
    assert grid.step.shape == (2, 3, 5, 1)
    for part, other in zip(grid, expected, strict=True):
        assert part is other is None or torch.equal(part.flatten(), other.flatten())
    assert torch.equal(whole(x).flatten(), flat(x.flatten(0, -2)).flatten())


MAXIMUM = torch.finfo(torch.float32).max


@pytest.mark.parametrize("name", [name for name in EVERYTHING if name.startswith(("symmetric", "asymmetric", "interval"))])
@pytest.mark.parametrize("largest", [2e38, MAXIMUM])
def test_the_largest_numbers_stay_finite_and_in_order(name, largest):
    x = torch.tensor([[-largest, -largest / 3, 0.0, 1.0, largest / 3, largest], [0.0, 0.0, 0.0, 0.0, 0.0, largest]])
    for tensor in (x, x[:, 3:], x[:, :3], -x):
        quantizer = EVERYTHING[name]()
        values, grid = quantizer(tensor), quantizer.encode(tensor)
        assert grids.finite(grid)
        assert torch.equal(values, grids.decode(grid))
        assert values.isfinite().all()
        assert torch.equal(values.sort(1).values, values.gather(1, tensor.argsort(dim=1, stable=True)))


def test_min_max_of_the_largest_numbers_is_right_to_the_level():
    """Asymmetric cuts at half of the maximum, since a wider range than the maximum has no width in fp32."""
    x = torch.tensor([-2e38, -1e38, 0.0, 5e37, 2e38])
    assert torch.allclose(Symmetric(8)(x), x, atol=2e38 / 127)
    assert torch.allclose(Asymmetric(8)(x), x.clamp(-MAXIMUM / 2, MAXIMUM / 2), atol=2e38 / 127)


@pytest.mark.parametrize("name", EVERYTHING)
def test_every_quantizer_knows_its_bits(name):
    quantizer = EVERYTHING[name]()
    assert quantizer.levels <= 2**quantizer.bits
    assert quantizer.levels > 2 ** (quantizer.bits - 1)


def test_a_quantizer_is_one_file(tmp_path, monkeypatch):
    (tmp_path / "cubic.py").write_text(
        "from methods.kernel.quantizers import Quantizer\n\n\nclass Cubic(Quantizer):\n    kind = 'cubic'\n"
    )
    monkeypatch.setattr(quantizers, "__path__", [*quantizers.__path__, str(tmp_path)])
    found = quantizers._kinds()
    sys.modules.pop("methods.kernel.quantizers.cubic")
    assert found.pop("cubic").__name__ == "Cubic"
    assert found == quantizers.KINDS


def test_options_can_be_read_without_running_the_code():
    """The catalogue checks stanzas from the source alone: each option has a type of the vocabulary and a plain default."""
    vocabulary = {*(name for name in vars(options) if name[0].isupper()), "bool", "str", "int", "float", "Literal", "None"}
    seen = set()
    for path in Path(quantizers.__file__).parent.glob("*.py"):
        for node in ast.parse(path.read_text("utf-8")).body:
            body = node.body if isinstance(node, ast.ClassDef) else []
            kinds = [ast.literal_eval(line.value) for line in body if ast.unparse(line).startswith("kind = ")]
            if not kinds:
                continue
            (init,) = (line for line in body if isinstance(line, ast.FunctionDef) and line.name == "__init__")
            for option in init.args.args[1:]:
                words = [part.id for part in ast.walk(option.annotation) if isinstance(part, ast.Name)]
                assert set(words) <= vocabulary, (path, option.arg)
            for default in init.args.defaults:
                ast.literal_eval(default)
            seen.add(kinds[0])
    assert seen == quantizers.KINDS.keys()


def test_a_stanza_names_kind_and_options():
    made = quantizers.make({"kind": "asymmetric", "bits": 4, "clip": 2.5})
    assert (type(made), made.bits, made.clip) == (Asymmetric, 4, 2.5)
    assert quantizers.make(None) is None
