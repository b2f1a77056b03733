"""Integer codes as bits: b bits a code with no padding between codes, or five ternary codes to a byte; zeros left out.

Codes come as integers from 0. A code never pays for a whole byte: 3-bit codes take 3 bits each, across byte borders.
docs/model-file.md shows an example of each packing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # readers of files that need no torch count bytes here too
    from numpy import ndarray
    from torch import Tensor

TRITS = 5  # ternary codes to a byte: 3^5 = 243 of 256 values, 1.6 bits a code


def pack(codes: Tensor, bits: int) -> Tensor:
    """Bytes holding the codes one after another, lowest bit first; the last byte is filled up with zeros."""
    flat = codes.reshape(-1).byte()
    if bits == 8:
        return flat.clone()
    group = _group(bits)  # codes that fill whole bytes together
    flat = _filled_up(flat, group)  # (G, group)
    width = group * bits // 8
    packed = flat.new_zeros(len(flat), width)
    for at in range(group):
        byte, shift = divmod(at * bits, 8)
        packed[:, byte] |= flat[:, at] << shift
        if shift + bits > 8:
            packed[:, byte + 1] |= flat[:, at] >> (8 - shift)
    return packed.reshape(-1)[: packed_bytes(codes.numel(), bits)]


def unpack(packed: Tensor, bits: int, count: int) -> Tensor:
    """The first `count` codes, as uint8."""
    codes, group = packed.new_empty(count), _group(bits)
    for at, lane in enumerate(lanes(packed, bits)):
        places = codes[at::group]
        places.copy_(lane[: len(places)])
    return codes


def lanes(packed: Tensor | ndarray, bits: int) -> Iterator[Tensor | ndarray]:
    """Yield the codes in strides: of every group of codes that fill whole bytes together, first all firsts, and so on."""
    group = _group(bits)
    width = group * bits // 8
    for at in range(group):
        byte, shift = divmod(at * bits, 8)
        lane = packed[byte::width] >> shift
        if shift + bits > 8:
            rest = packed[byte + 1 :: width] << (8 - shift)
            lane[: len(rest)] |= rest
        yield lane & (2**bits - 1)


def pack_trits(codes: Tensor) -> Tensor:
    """Codes 0, 1, 2 in base 3, five to a byte."""
    flat = codes.reshape(-1).byte()
    flat = _filled_up(flat, TRITS)  # (G, 5)
    packed = flat[:, TRITS - 1].clone()
    for at in reversed(range(TRITS - 1)):
        packed = packed * 3 + flat[:, at]
    return packed


def unpack_trits(packed: Tensor, count: int) -> Tensor:
    codes = packed.new_empty(len(packed), TRITS)
    for at in range(TRITS):
        codes[:, at] = packed % 3
        packed = packed // 3
    return codes.reshape(-1)[:count]


def pack_sparse(values: Tensor, zero: float = 0) -> tuple[Tensor, Tensor]:
    """One bit for each value that says whether it differs from `zero`, and those that do, one after another."""
    flat = values.reshape(-1)
    kept = flat != zero
    return pack(kept, 1), flat[kept]


def unpack_sparse(bitmap: Tensor, kept: Tensor, count: int, zero: float = 0) -> Tensor:
    return kept.new_full((count,), zero).masked_scatter_(unpack(bitmap, 1, count).bool(), kept)


def packed_bytes(count: int, bits: int) -> int:
    return -(-count * bits // 8)


def trit_bytes(count: int) -> int:
    return -(-count // TRITS)


def _filled_up(flat: Tensor, group: int) -> Tensor:
    """Codes in groups, (G, group), the last one filled up with zeros."""
    filled = flat.new_zeros(-(-len(flat) // group), group)
    filled.view(-1)[: len(flat)] = flat
    return filled


def _group(bits: int) -> int:
    """The fewest codes whose bits fill whole bytes."""
    return {1: 8, 2: 4, 3: 8, 4: 2, 5: 8, 6: 4, 7: 8, 8: 1}[bits]
