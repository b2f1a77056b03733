"""Ternary weight splitting: two weights that sum to one, and whose binary values sum to its ternary values."""

import pytest
import torch

from methods.kernel import grids
from methods.kernel.splitting import split


def twin(group: torch.Tensor, swapped: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """The formulas value by value. `swapped` has the coefficient a as it is sometimes printed, J and K exchanged."""
    kept = [w for w in group.tolist() if abs(w) > 0.7 * float(group.abs().mean())]
    positive = [w for w in group.tolist() if w not in kept and w > 0]
    others = [w for w in group.tolist() if w not in kept and w <= 0]
    of_kept, of_positive, of_others = (sum(map(abs, values)) for values in (kept, positive, others))
    scale = of_kept / len(kept)
    difference = of_positive - of_others if swapped else of_others - of_positive
    a = (of_kept + difference) / (2 * of_kept)
    b = (len(group) * scale - of_kept - of_positive - of_others) / (2 * (len(positive) + len(others)))
    first = [a * w if w in kept else w + b if w > 0 else b for w in group.tolist()]
    second = [(1 - a) * w if w in kept else -b if w > 0 else w - b for w in group.tolist()]
    return torch.tensor(first, dtype=torch.float64), torch.tensor(second, dtype=torch.float64)


def broken_by(first: torch.Tensor, second: torch.Tensor, w: torch.Tensor, rows: bool) -> float:
    """How far the binary values are from summing to the ternary ones, relative to the largest of these."""
    ternary = grids.decode(grids.ternary(w, rows))
    binary = sum(grids.decode(grids.binary(half, rows)) for half in (first, second))
    return float((binary - ternary).abs().max() / ternary.abs().max().clamp(min=1e-300))


def test_by_hand():
    """Row 1: s = 6, b = (4 s - 8) / 6, a = (6 - 2) / 12. Row 2: s = 4, b = (4 s - 10) / 4, a = 8 / 16."""
    w = torch.tensor([[6.0, 1.0, 1.0, 0.0], [4.0, -4.0, 1.0, -1.0]])
    first, second = split(w, rows=True)
    assert first.tolist() == [pytest.approx([2, 11 / 3, 11 / 3, 8 / 3]), [2, -2, 2.5, 1.5]]
    assert second.tolist() == [pytest.approx([4, -8 / 3, -8 / 3, -8 / 3]), [2, -2, -1.5, -2.5]]
    assert first.abs().mean(1).tolist() == pytest.approx([3, 2])
    assert second.abs().mean(1).tolist() == pytest.approx([3, 2])


GENERATOR = torch.Generator().manual_seed(0)
NORMAL = torch.randn(24, 48, generator=GENERATOR).double()
WEIGHTS = {
    "normal": NORMAL,
    "skewed": NORMAL.exp() - 0.5,
    "heavy tails": NORMAL**5,
    "one outlier": torch.cat([NORMAL[:, :47], torch.full((24, 1), 900.0).double()], 1),
    "nothing dropped": NORMAL.sign(),
    "one kept": torch.eye(12).double(),
    "zeros": torch.zeros(3, 4).double(),
    "a row of zeros": torch.cat([NORMAL[:2], torch.zeros(1, 48)]),
    "single values": NORMAL[:, :1],
    "tiny": NORMAL * 1e-30,
    "huge": NORMAL * 1e30,
    "small ones of one sign": torch.cat([torch.full((4, 1), -45.0), torch.ones(4, 100)], 1).double(),  # a by sign: < 0
    "small ones of the other": torch.cat([torch.full((4, 1), -45.0), -torch.ones(4, 100)], 1).double(),
}


@pytest.mark.parametrize("rows", [True, False])
@pytest.mark.parametrize("kind", WEIGHTS)
def test_the_halves_sum_to_the_weight_and_their_binary_values_to_its_ternary_ones(kind, rows):
    w = WEIGHTS[kind]
    first, second = split(w, rows)
    assert first.dtype == second.dtype == torch.float64
    assert first.shape == second.shape == w.shape
    assert float((first + second - w).abs().max()) <= 1e-12 * float(w.abs().max())
    assert broken_by(first, second, w, rows) <= 1e-12


@pytest.mark.parametrize("kind", ["normal", "skewed"])
def test_the_formulas_value_by_value_give_the_same_and_with_the_sign_swapped_break_the_sum(kind):
    w = WEIGHTS[kind]
    for row, first, second in zip(w, *split(w, rows=True), strict=True):
        slow = twin(row)
        assert float((slow[0] - first).abs().max()) <= 1e-12
        assert float((slow[1] - second).abs().max()) <= 1e-12
    broken = [broken_by(*(half[None] for half in twin(row, swapped=True)), row[None], rows=True) for row in w]
    assert min(broken) > 1e-6  # what is dropped is nearly as large above zero as below
    assert max(broken) > 1e-1


def test_a_weight_in_fp32_is_split_by_what_fp32_drops():
    """In double precision a value can lie on the other side of the threshold; the model knows only its own."""
    value, disagreements = torch.tensor(0.49 / 7.3 - 1e-6), 0
    for _ in range(300):  # the neighbouring numbers around the threshold, 0.7 of the mean of this one and seven of 0.1
        value = torch.nextafter(value, torch.tensor(1.0))
        w = torch.cat([value[None], torch.full((7,), 0.1)])[None]
        disagreements += not torch.equal(grids.ternary(w, True).codes, grids.ternary(w.double(), True).codes.float())
        first, second = (half.float() for half in split(w, rows=True))
        assert broken_by(first, second, w, rows=True) <= 1e-5
    assert disagreements


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_spreads_to_both_halves_of_its_group(value):
    w = NORMAL.float()
    w[3, 4] = value
    for first, second in (split(w, rows=True),):
        assert first[3].isnan().all() and second[3].isnan().all()
        assert first[4:].isfinite().all() and second[4:].isfinite().all()
    for half in split(w, rows=False):
        assert half.isnan().all()


def test_an_empty_weight_is_refused():
    with pytest.raises(ValueError, match="empty"):
        split(torch.zeros(0, 4), rows=True)
