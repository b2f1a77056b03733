"""The packed engine computes what the quantized model in torch computes, on every set of kernels."""

import ctypes

import numpy as np
import pytest

from methods.common.errors import UserError
from methods.engine import abi
from methods.model import artifact
from methods.model.edits import apply
from tests.fixtures.engines import (
    MODELS,
    assert_alike,
    assert_alike_but_once,
    emulating,
    on_torch,
    quantize,
    rows_of,
    save,
    session_on,
    sets,
)
from tests.fixtures.models import model_of

pytestmark = pytest.mark.skipif(not sets(), reason="there is no C compiler")
SIZES = (1, 2, 3, 5, 7, 15, 17, 31, 33, 63, 65, 191, 193, 255, 257)  # around the widths of vectors, tiles and look-ups
CODES = {1: (-1, 2), 2: (-1, 1), 3: (-3, 1), 4: (-8, 1), 5: (-15, 1), 6: (-32, 1), 7: (-64, 1), 8: (-128, 1)}
LENGTHS = [9, 1, 30, 2, 17, 16, 5]


def product(codes: np.ndarray, bits: int, activations: np.ndarray, kernels: str, lookup: bool = False) -> np.ndarray:
    """The engine's integer product of activations (M, K) and weights (N, K)."""
    low, by = CODES[bits]
    packed = np.packbits((codes[..., None] >> np.arange(bits) & 1).astype(np.uint8).reshape(-1), bitorder="little")
    step, out = np.ones(1, np.float32), np.zeros((len(activations), len(codes)), np.int32)
    places = {"codes": packed.ctypes.data, "bytes": packed.nbytes, "step": step.ctypes.data, "steps": 1}
    matrix = abi.Matrix(rows=len(codes), columns=codes.shape[1], bits=bits, from_=low, by=by, **places)
    error = ctypes.create_string_buffer(abi.ERROR)
    arguments = (activations.ctypes.data, len(activations), lookup, out.ctypes.data, error, abi.ERROR)
    assert emulating().engine_product(matrix, kernels.encode(), *arguments), error.value
    return out


@pytest.mark.parametrize("kernels", sets())
@pytest.mark.parametrize("bits", CODES)
def test_products_are_those_of_integers(kernels, bits):
    random = np.random.default_rng(bits)
    low, by = CODES[bits]
    for depth in SIZES:
        rows, columns = (int(random.choice(SIZES)) for _ in range(2))
        codes = random.integers(0, 2**bits, (columns, depth))
        activations = random.integers(0, 256, (rows, depth)).astype(np.uint8)
        activations[0] = 255  # the largest sums
        expected = activations.astype(np.int64) @ (low + by * codes).T
        assert (product(codes, bits, activations, kernels) == expected).all(), (rows, columns, depth)


@pytest.mark.skipif("avx512_vnni" not in sets(), reason="this processor has no kernels that look weights up")
def test_looked_up_products_are_those_of_integers():
    random = np.random.default_rng(0)
    for depth in (*SIZES, 251, 252, 253, 504, 770, 3072):
        rows, columns = (int(random.choice(SIZES)) for _ in range(2))
        codes = random.integers(0, 2, (columns, depth))
        activations = random.integers(0, 256, (rows, depth)).astype(np.uint8)
        activations[-1] = 255
        expected = activations.astype(np.int64) @ (2 * codes - 1).T
        assert (product(codes, 1, activations, "avx512_vnni", lookup=True) == expected).all(), (rows, columns, depth)


@pytest.mark.parametrize("kernels", sets())
@pytest.mark.parametrize("name", MODELS)
def test_outputs_are_those_of_torch(name, kernels, tmp_path):
    assert_alike_but_once(save(tmp_path / "m.safetensors", MODELS[name]), LENGTHS, kernels)


@pytest.mark.parametrize("kind", ["span", "regression"])
@pytest.mark.parametrize("name", ["static, 4 bits", "dynamic, ternary"])
def test_every_head_is_that_of_torch(name, kind, tmp_path):
    assert_alike(save(tmp_path / "m.safetensors", MODELS[name], kind), rows_of(LENGTHS))


@pytest.mark.parametrize("kernels", sets())
def test_sizes_that_fill_no_vector(kernels, tmp_path):
    odd = {"hidden_size": 28, "num_attention_heads": 4, "intermediate_size": 37}
    for name in ("static, 4 bits", "dynamic, ternary", "rows", "rows, asymmetric", "float", "factored, 8 bits"):
        assert_alike(save(tmp_path / "m.safetensors", MODELS[name], **odd), rows_of(4 * [1, 64, 63, 33, 2, 17]), kernels)


@pytest.mark.parametrize("kernels", sets())
def test_wide_heads_and_long_rows(kernels, tmp_path):
    wide = {"hidden_size": 160, "num_attention_heads": 2, "intermediate_size": 300, "max_position_embeddings": 200}
    for name in ("dynamic, ternary", "static, 4 bits", "float"):
        assert_alike(
            save(tmp_path / "m.safetensors", MODELS[name], initializer_range=0.1, **wide), rows_of([200, 3, 129]), kernels
        )


def test_sparse_matrices(tmp_path):
    four = quantize({"kind": "symmetric", "bits": 4}, {"kind": "asymmetric", "bits": 8})
    for edits in ([], [{"kind": "factor", "share": 0.6, "by": "svd"}], [four]):
        assert_alike(save(tmp_path / "m.safetensors", edits, prune=True), rows_of(LENGTHS))


def test_ternary_codes_five_to_a_byte(tmp_path):
    model = apply(model_of(), **MODELS["dynamic, ternary"][0])
    artifact.save(tmp_path / "bits.safetensors", model, {})
    artifact.save(tmp_path / "trits.safetensors", model, {}, ternary="trits")
    rows = rows_of(LENGTHS)
    bits, trits = (np.stack(session_on(tmp_path / f"{name}.safetensors")(*rows)) for name in ("bits", "trits"))
    assert (bits == trits).all()


def test_roberta_counts_its_positions_from_behind_padding(tmp_path):
    changes = {"model_type": "roberta", "pad_token_id": 1, "type_vocab_size": 1, "max_position_embeddings": 66}
    path = save(tmp_path / "m.safetensors", MODELS["dynamic, ternary"], **changes)
    assert_alike(path, rows_of(LENGTHS), segments=False)


def test_answers_depend_neither_on_threads_nor_on_what_ran_before(tmp_path):
    path = save(tmp_path / "m.safetensors", MODELS["dynamic, ternary"])
    one, four = session_on(path, threads=1), session_on(path, threads=4)
    random = np.random.default_rng(3)
    for seed in range(20):
        rows = rows_of(list(random.integers(1, 64, random.integers(1, 9))), seed)
        assert all(np.array_equal(a, b) for a, b in zip(one(*rows), four(*rows), strict=True))


def test_rows_of_static_ranges_do_not_depend_on_their_batch(tmp_path):
    session = session_on(save(tmp_path / "m.safetensors", MODELS["static, 4 bits"]))
    ids, ends, first = rows_of(LENGTHS)
    together = session(ids, ends, first)
    for row, end in enumerate(ends):
        alone = session(ids[end - LENGTHS[row] : end], np.array([LENGTHS[row]]), first[row : row + 1])[0]
        assert np.allclose(alone, together[row], rtol=1e-5, atol=1e-6)


def test_forcing_kernels(tmp_path, monkeypatch):
    path = save(tmp_path / "m.safetensors", MODELS["static, 4 bits"])
    monkeypatch.setenv("ENGINE_KERNELS", "portable")
    assert session_on(path).kernels == "portable"
    monkeypatch.setenv("ENGINE_KERNELS", "sse9")
    with pytest.raises(UserError, match=r"no kernels 'sse9' .*portable"):
        session_on(path)


def test_the_likeliest_class_is_that_of_torch(tmp_path):
    for name in ("static, 4 bits", "dynamic, ternary", "4-bit steps, ReLU"):
        path = save(tmp_path / "m.safetensors", MODELS[name])
        rows = rows_of([12] * 200, seed=5)
        expected, found = np.stack(on_torch(path, *rows)), np.stack(session_on(path)(*rows))
        top = np.sort(expected, 1)
        clear = top[:, -1] - top[:, -2] > 1e-2 * np.abs(expected).max()
        assert (found.argmax(1) == expected.argmax(1))[clear].all()
