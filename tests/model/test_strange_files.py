"""Model files from strangers: whatever stands in them under valid seals, a reader refuses in one line and at once."""

import copy
import gc
import json
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from methods.common import files
from methods.common.errors import UserError
from methods.model import artifact, description
from methods.use import inspection
from methods.use.model import Model
from tests.fixtures.attacks import Watch, change_value, changed_bytes
from tests.fixtures.models import write_small_models
from tests.fixtures.world import loader

SECONDS = 1.0
MEMORY = 200  # MiB
EDITS = [
    {"kind": "explode"},
    {"kind": "os.system"},
    {"kind": "__main__.main"},
    {"kind": ["quantize"]},
    {"kind": "factor", "share": 1.0},
    {"kind": "factor_words", "rank": 10**9},
    {"kind": "narrow", "heads": 10**6, "neurons": 10**6},
    {"kind": "layers", "keep": [0] * 100},
    {"kind": "layers", "keep": []},
    {"kind": "activate", "function": "kernels-community/evil"},
    {"kind": "int8_dynamic"},
    {"kind": "split", "modules": ["bert"]},
    {"kind": "split", "modules": ["bert.pooler.dense"] * 4000},
    {"kind": "requantize", "modules": ["bert.nowhere"]},
    {"kind": "requantize", "modules": ["classifier"]},
    {"kind": "quantize", "activations": {"kind": "loss_aware", "iterations": 10**9}},
    {"kind": "quantize", "activations": {"kind": "interval", "bits": 8, "bound": 1e308}},
    {"kind": "quantize", "weights": {"kind": "threshold", "bits": 8, "calibration": "pickle"}},
]


@pytest.fixture(scope="module")
def honest(tmp_path_factory, sst2, base):
    """The arrays and descriptions of small models of every packing and every kind of edit."""
    batch = next(loader(sst2, "validation", seed=3).sample(16))
    written = write_small_models(tmp_path_factory.mktemp("honest"), batch)
    found = {name: files.read_sealed(path) for name, path in written.items()}
    for _, meta in found.values():
        meta["tokenizer"]["sha256"] = files.sha256(base.tokenizer.encode())
    return found


def corrupted(honest: dict, seed: int) -> tuple[dict, dict, str]:
    """Return the arrays and the description of an honest file after one to three random changes, and these in words."""
    chance = random.Random(seed)
    arrays, meta = honest[chance.choice(sorted(honest))]
    arrays, meta, words = dict(arrays), copy.deepcopy(meta), []
    for _ in range(chance.choice([1, 1, 1, 2, 3])):
        what = chance.choice(["value"] * 12 + ["edit"] * 2 + ["array"] * 2)
        if what == "array":
            words.append(f"array {_change_an_array(arrays, chance)}")
        elif what == "edit":
            edit = copy.deepcopy(chance.choice(EDITS))
            meta["edits"] = (
                [edit] * chance.choice([1, 2, 20, 100]) if chance.random() < 0.5 else [*meta.get("edits", []), edit]
            )
            words.append(f"edit {edit}")
        else:
            words.append(change_value(meta, chance))
        if not meta:
            break
    return arrays, meta, "; ".join(words)


def _change_an_array(arrays: dict, chance: random.Random) -> str:
    name = chance.choice(sorted(arrays))
    array = arrays.pop(name).copy()
    change = chance.choice(["gone", "renamed", "nan", "negative", "longer", "flat", "type", "codes", "empty"])
    changed = {
        "nan": lambda: np.full_like(array, np.nan if array.dtype.kind == "f" else 127),
        "negative": lambda: -np.abs(array.astype(np.float32)) - 1,
        "longer": lambda: np.concatenate([array.reshape(-1), array.reshape(-1)]),
        "flat": lambda: array.reshape(1, 1, -1),
        "type": lambda: array.astype(chance.choice([np.float64, np.int16, np.float16, np.bool_])),
        "codes": lambda: np.full_like(array, 251 if array.dtype == np.uint8 else 127),
        "empty": lambda: np.zeros((0, 2**40), array.dtype),
    }
    if change in changed:
        with np.errstate(all="ignore"):
            arrays[name] = changed[change]()
    elif change == "renamed":
        arrays[f"\x1b[31m{name}\n"] = array
    return f"{change} {name}"


def refused(path: Path, read) -> str | None:
    """Return the line of a refusal, None where the file is read after all; anything else is raised."""
    gc.freeze()  # what other tests have left is not looked through meanwhile
    started = time.process_time()
    try:
        read(path)
        return None
    except UserError as error:
        assert "\n" not in str(error) and len(str(error)) < 600
        return str(error)
    finally:
        assert time.process_time() - started < SECONDS


def try_all(honest: dict, base: Path, folder: Path, seeds: range) -> int:
    """Read, load, inspect and ask corrupted files; return how many are refused."""
    path, count, answers = folder / "model.safetensors", 0, {}

    def ask(engine: str):
        def answer(path: Path) -> None:
            with Model(path, engine=engine, threads=1, base=base) as model:
                answers[engine] = model("the film is not good")["probability"]

        return answer

    uses = (
        description.read,
        artifact.load,
        lambda path: inspection.page(inspection.facts(path), layers=True),
        *(ask(engine) for engine in ("torch", "packed")),
    )
    with Watch() as watch:
        for seed in seeds:
            arrays, meta, words = corrupted(honest, seed)
            files.write_sealed(path, arrays, meta)
            try:
                lines = [refused(path, use) for use in uses]
            except Exception as error:
                raise AssertionError(f"file {seed} ({words}): {type(error).__name__} {error}") from error
            assert lines[0] is None or set(lines) == {lines[0]}, "what cannot be read can be used"
            assert (lines[-1] is None) == (lines[-2] is None), (
                f"file {seed} ({words}): one engine answers, the other refuses"
            )
            assert lines[-1] or abs(answers["packed"] - answers["torch"]) < 0.02, f"file {seed} ({words})"
            count += any(lines)
    assert watch.taken < MEMORY
    return count


def test_honest_files_are_read_and_used(honest, base_path, tmp_path):
    path = tmp_path / "model.safetensors"
    for arrays, meta in honest.values():
        files.write_sealed(path, arrays, meta)
        assert Model(path, engine="torch", base=base_path)("the film is not good")["label"] in meta["labels"]
        assert inspection.facts(path)["labels"] == meta["labels"]


@pytest.mark.parametrize("key", [*description.USE, *description.ORIGIN])
def test_a_description_without_a_key_is_refused_where_the_key_is_needed(key, honest, base_path, tmp_path):
    path = tmp_path / "model.safetensors"
    arrays, meta = honest["full"]
    files.write_sealed(path, arrays, {name: value for name, value in meta.items() if name != key})
    assert f"lacks {key!r}" in refused(path, inspection.facts)
    line = refused(path, lambda path: Model(path, engine="torch", base=base_path)("the film"))
    assert f"lacks {key!r}" in line if key in description.USE else line is None


def test_corrupted_files_are_one_line_at_once(honest, base_path, tmp_path):
    assert try_all(honest, base_path, tmp_path, range(60)) > 50


@pytest.mark.slow
def test_many_corrupted_files_are_one_line_at_once(honest, base_path, tmp_path):
    assert try_all(honest, base_path, tmp_path, range(100, 600)) > 450


def test_files_of_random_bytes_are_one_line_at_once(honest, base_path, tmp_path):
    """What a disk, a transfer or a careless editor does: the seals find all of it."""
    path = tmp_path / "model.safetensors"
    uses = (description.read, artifact.load, inspection.facts, lambda path: Model(path, base=base_path))
    with Watch() as watch:
        for seed in range(500):
            chance = random.Random(seed)
            files.write_sealed(path, *honest[chance.choice(sorted(honest))])
            content = path.read_bytes()
            changed, words = changed_bytes(content, chance)
            path.write_bytes(changed)
            lines = {refused(path, use) for use in uses}
            assert len(lines) == 1, f"file {seed} ({words}): {lines}"
            assert (lines == {None}) == (changed == content), f"file {seed} ({words}): {lines}"
    assert watch.taken < MEMORY


# --- containers -------------------------------------------------------------------------------------------


def container(header: bytes, data: bytes = b"", length: int | None = None) -> bytes:
    return (len(header) if length is None else length).to_bytes(8, "little") + header + data


def sealed(meta_json: str) -> bytes:
    return json.dumps({"__metadata__": {files.HEADER: meta_json}}).encode()


CONTAINERS = {
    "nothing": b"",
    "a header as long as memory": container(b"{}", length=2**62),
    "a header of eight gigabytes": container(b"{}", length=2**33),
    "a header of spaces": container(b"{}" + b" " * (2**21 + 1)),
    "many small lists": container(sealed("[" + "[]," * (2**19) + "[]]")),
    "no JSON": container(b"\xff" * 100),
    "nesting without end": container(b"[" * 100_000),
    "nesting without end within": container(sealed("[" * 100_000)),
    "a number of a million digits": container(sealed('{"meta": ' + "9" * 10**6 + "}")),
    "no seal": container(sealed('{"meta": {}, "tensors": {}}')),
    "tensors that are no mapping": container(sealed('{"meta": {}, "tensors": [], "seal": ""}')),
    "a lone surrogate": container(sealed('{"meta": {"packed": "\\ud800"}, "tensors": {}, "seal": ""}')),
    "enormous shapes": container(
        b'{"a": {"dtype": "F32", "shape": [4294967296, 4294967296, 4294967296], "data_offsets": [0, 4]}}', b"abcd"
    ),
    "offsets beyond the end": container(b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4000000000]}}', b"abcd"),
    "overlapping": container(
        b'{"a": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]},'
        b' "b": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}}',
        b"abcd",
    ),
    "an unknown type": container(b'{"a": {"dtype": "F8_E4M3", "shape": [4], "data_offsets": [0, 4]}}', b"abcd"),
    "negative shapes": container(b'{"a": {"dtype": "U8", "shape": [-4], "data_offsets": [0, 4]}}', b"abcd"),
}


@pytest.mark.parametrize("what", CONTAINERS)
def test_a_strange_container_is_one_line_at_once(what, tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(CONTAINERS[what])
    with Watch() as watch:
        assert "model.safetensors is damaged" in refused(path, description.read)
    assert watch.taken < MEMORY


def test_two_kilobytes_that_declare_a_giant_take_no_memory(tmp_path):
    config = {key: 0 for key in description.CONFIG} | {"model_type": "bert", "hidden_act": "gelu", "type_vocab_size": 2}
    config |= {"initializer_range": 0.02, "layer_norm_eps": 1e-12}
    config |= {"vocab_size": 2**22, "hidden_size": 2**14, "num_hidden_layers": 1, "num_attention_heads": 1}
    config |= {"intermediate_size": 2**17, "max_position_embeddings": 4096}
    meta = {"format": description.FORMAT, "config": config, "head": "sequence", "outputs": 4096, "edits": [], "packed": {}}
    path = tmp_path / "model.safetensors"
    files.write_sealed(path, {"bert.encoder.layer.0.x": np.zeros(1, np.float32)}, meta)
    assert path.stat().st_size < 2048
    with Watch() as watch:
        assert "does not fit" in refused(path, artifact.load)
    assert watch.taken < MEMORY


def test_descriptions_are_read_without_torch():
    names = "methods.model.description, methods.model.anatomy, methods.tasks.text, methods.tasks.data, methods.tasks.kinds"
    code = f"import sys, {names}; print([name for name in ('torch', 'transformers') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
