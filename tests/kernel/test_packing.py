import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from methods.kernel import packing

BITS = range(1, 9)


def bits_of(packed: torch.Tensor) -> str:
    """Every bit of the bytes, in the order in which codes fill them."""
    return "".join(f"{byte:08b}"[::-1] for byte in packed.tolist())


@pytest.mark.parametrize(
    ("bits", "codes", "bytes_"),
    [
        (1, [1, 0, 1, 1, 0, 0, 0, 1, 1], [0b10001101, 0b1]),
        (2, [1, 2, 3, 0, 2], [0b00_11_10_01, 0b10]),
        (3, [0b101, 0b011, 0b110, 0b001], [0b10_011_101, 0b0_001_1]),  # the third crosses into the second byte
        (4, [0xA, 0xB, 0xC], [0xBA, 0x0C]),
        (5, [0b10001, 0b11011], [0b011_10001, 0b11]),
        (6, [0b100001, 0b110011], [0b11_100001, 0b1100]),
        (7, [0b1000001, 0b1100011], [0b1_1000001, 0b110001]),
        (8, [0, 255, 7], [0, 255, 7]),
    ],
)
def test_codes_lie_one_after_another_lowest_bit_first(bits, codes, bytes_):
    assert packing.pack(torch.tensor(codes), bits).tolist() == bytes_


def test_five_trits_are_the_digits_of_a_byte_in_base_three():
    assert packing.pack_trits(torch.tensor([1, 2, 0, 0, 2])).tolist() == [1 + 2 * 3 + 2 * 81]
    assert packing.pack_trits(torch.tensor([2] * 5 + [1])).tolist() == [242, 1]


@pytest.mark.parametrize("bits", BITS)
@settings(deadline=None, max_examples=50)
@given(data=st.data())
def test_what_was_packed_comes_back_and_is_what_a_string_of_bits_says(bits, data):
    codes = torch.from_numpy(data.draw(arrays("uint8", st.integers(0, 40), elements=st.integers(0, 2**bits - 1))))
    packed = packing.pack(codes, bits)
    assert packed.dtype == torch.uint8
    assert len(packed) == packing.packed_bytes(len(codes), bits)
    assert torch.equal(packing.unpack(packed, bits, len(codes)), codes)
    spelled = "".join(f"{code:0{bits}b}"[::-1] for code in codes.tolist())
    assert bits_of(packed) == spelled.ljust(8 * len(packed), "0")


@settings(deadline=None, max_examples=50)
@given(arrays("uint8", st.integers(0, 40), elements=st.integers(0, 2)))
def test_trits_come_back(codes):
    packed = packing.pack_trits(torch.from_numpy(codes))
    assert len(packed) == -(-len(codes) // 5)
    assert packing.unpack_trits(packed, len(codes)).tolist() == codes.tolist()


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 768])
def test_bytes_are_the_bits_and_no_more(bits, count):
    assert packing.packed_bytes(count, bits) == (count * bits + 7) // 8
    assert len(packing.pack(torch.zeros(count, dtype=torch.uint8), bits)) == (count * bits + 7) // 8


@pytest.mark.parametrize("bits", BITS)
def test_matrices_are_packed_row_after_row_from_any_integers(bits):
    matrix = torch.arange(15).remainder(2**bits).reshape(3, 5)
    for codes in (matrix, matrix.float(), matrix.t().contiguous().t()):
        assert torch.equal(packing.pack(codes, bits), packing.pack(matrix.flatten(), bits))


def test_packing_leaves_what_it_was_given_alone():
    for bits in BITS:
        codes = torch.ones(10, dtype=torch.uint8)
        packed = packing.pack(codes, bits)
        packed += 1
        packing.unpack(packed, bits, 10).add_(1)
        assert codes.tolist() == [1] * 10
