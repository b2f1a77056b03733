"""Model files: what was trained is what is loaded, sizes are true, and a stranger's file does no harm."""

import json
import pickle
import struct
import subprocess
import sys

import pytest
import torch

from methods.common import files, options
from methods.common.errors import UserError
from methods.model import artifact
from methods.model.edits import apply, calibrate
from methods.training.forward import forward
from tests.fixtures.models import bert_base
from tests.fixtures.runs_of_methods import CATALOGUE, ON_TINY
from tests.fixtures.world import loader, tiny

META = {"kind": "classification", "labels": ["negative", "positive"]}
TERNARY = {"weights": {"kind": "ternary"}, "embeddings": {"kind": "ternary", "rows": True}}


@pytest.fixture(scope="module")
def trained(run_method):
    """`trained("lsq_4bit")`: a method's student on the tiny task after a short run, and its file."""

    def find(method: str):
        _, folder = run_method(method)
        return run_method.students[folder].eval(), folder / "last.safetensors"

    return find


def meta_of(path) -> dict:
    """Return what whoever saved a file wrote into its header."""
    structure = ("format", "config", "head", "outputs", "edits", "packed")
    return {key: value for key, value in artifact.read(path)[1].items() if key not in structure}


@pytest.fixture
def batch(sst2):
    return next(loader(sst2, "validation", seed=3).sample(16))


def outputs(model, batch) -> tuple[torch.Tensor, ...]:
    with torch.no_grad():
        return forward(model.eval(), batch).logits


# --- the whole catalogue ----------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ON_TINY)
def test_the_loaded_file_computes_what_the_trained_model_does(method, trained, batch):
    student, path = trained(method)
    model, meta = artifact.load(path)
    (ours,), (theirs,) = outputs(student, batch), outputs(model, batch)
    assert float((ours - theirs).abs().max()) <= 1e-5
    assert meta["edits"] == student.record.edits


@pytest.mark.parametrize("method", ON_TINY)
def test_a_loaded_file_that_is_saved_again_still_computes_the_same(method, trained, batch, tmp_path):
    model, _ = artifact.load(trained(method)[1])
    artifact.save(tmp_path / "again.safetensors", model, meta_of(trained(method)[1]))
    again, _ = artifact.load(tmp_path / "again.safetensors")
    assert torch.equal(outputs(again, batch)[0], outputs(model, batch)[0])


@pytest.mark.parametrize("method", ON_TINY)
def test_every_byte_of_the_file_is_counted(method, trained):
    path = trained(method)[1]
    size = artifact.size(path)
    assert size["file_bytes"] == path.stat().st_size
    assert size["counted_bytes"] == pytest.approx(size["file_bytes"], rel=0.01)
    if any(entry["packing"] == "sparse" for entry in artifact.read(path)[1]["packed"].values()):
        return  # counted in the tests of their papers
    bits = options.quantized_bits(CATALOGUE.values(method)).get("weights")
    edits = {edit["kind"] for edit in artifact.load(path)[1]["edits"]}
    if bits and not edits & {"narrow", "layers"}:  # these are counted in the tests of their papers
        by_rows = dict(options.stanzas(CATALOGUE.values(method)))["weights"].get("rows", False)
        scales = 2 * (4 * 16 + 32 + 16 if by_rows else 6)
        count = 2 * (4 * 16 * 16 + 2 * 16 * 32)  # of the encoder's matrices at the tiny model's widths
        assert size["groups"]["encoder matrices"]["bytes"] == count * bits / 8 + 4 * scales


def test_trits_compute_the_same_from_a_smaller_file(trained, batch, tmp_path):
    student, path = trained("twn_2bit")
    artifact.save(tmp_path / "trits.safetensors", student, meta_of(path), ternary="trits")
    model, _ = artifact.load(tmp_path / "trits.safetensors")
    assert torch.equal(outputs(model, batch)[0], outputs(artifact.load(path)[0], batch)[0])
    size = artifact.size(tmp_path / "trits.safetensors")
    assert size["groups"]["pooler"]["bytes"] == -(-16 * 16 // 5) + 4 + 4 * 16  # codes, scale, bias
    assert size["counted_bytes"] == pytest.approx(size["file_bytes"], rel=0.01)
    assert size["file_bytes"] < path.stat().st_size


def test_trits_leave_other_codes_alone(trained, tmp_path):
    student, path = trained("lsq_4bit")
    artifact.save(tmp_path / "a.safetensors", student, meta_of(path), ternary="trits")
    assert (tmp_path / "a.safetensors").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("head", ["span", "token"])
def test_models_with_other_heads_come_back(head, batch, tmp_path):
    student = apply(tiny(head), "quantize", **TERNARY, activations={"kind": "threshold", "bits": 8})
    calibrate(student, [batch])
    artifact.save(tmp_path / "a.safetensors", student, META)
    model, _ = artifact.load(tmp_path / "a.safetensors")
    for ours, theirs in zip(outputs(student, batch), outputs(model, batch), strict=True):
        assert float((ours - theirs).abs().max()) <= 1e-5


def test_equal_models_have_equal_bytes(trained, tmp_path):
    student, path = trained("twn_2bit")
    artifact.save(tmp_path / "a.safetensors", student, meta_of(path))
    assert (tmp_path / "a.safetensors").read_bytes() == path.read_bytes()


# --- files that are damaged, strange or hostile -----------------------------------------------------------


def test_nothing_is_unpickled(trained, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("a pickle was opened")

    path = trained("twn_2bit")[1]
    for module, name in ((pickle, "load"), (pickle, "loads"), (pickle, "Unpickler"), (torch, "load")):
        monkeypatch.setattr(module, name, refuse)
    artifact.load(path)
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])  # JSON, then bare numbers
    assert 8 + length + max(entry["data_offsets"][1] for entry in header.values() if "dtype" in entry) == len(content)


@pytest.mark.parametrize("place", [0, 3, 20, 0.1, 0.5, 0.9, -1])
def test_a_flipped_byte_is_an_error_that_names_the_file(place, trained, tmp_path):
    content = bytearray(trained("twn_2bit")[1].read_bytes())
    content[int(place * len(content)) if isinstance(place, float) else place] ^= 4
    (tmp_path / "flipped.safetensors").write_bytes(content)
    with pytest.raises(UserError, match=r"flipped\.safetensors is damaged"):
        artifact.load(tmp_path / "flipped.safetensors")


@pytest.mark.parametrize("share", [0, 0.001, 0.5, 0.999])
def test_a_truncated_file_is_an_error_that_names_the_file(share, trained, tmp_path):
    content = trained("twn_2bit")[1].read_bytes()
    (tmp_path / "short.safetensors").write_bytes(content[: int(share * len(content))])
    with pytest.raises(UserError, match=r"short\.safetensors is damaged"):
        artifact.load(tmp_path / "short.safetensors")


def packed(meta: dict) -> dict:
    return meta["packed"]["bert.pooler.dense.weight"]


STRANGE = {
    "unknown edit": lambda arrays, meta: meta["edits"].append({"kind": "explode"}),
    "unknown option": lambda arrays, meta: meta["edits"][0].update(colour="red"),
    "unknown quantizer": lambda arrays, meta: meta["edits"][0].update(activations={"kind": "cubic", "bits": 8}),
    "too many bits of activations": lambda arrays, meta: meta["edits"][0]["activations"].update(bits=99),
    "no bits of activations": lambda arrays, meta: meta["edits"][0]["activations"].update(bits=0),
    "too many bits of weights": lambda arrays, meta: packed(meta).update(bits=9),
    "unknown packing": lambda arrays, meta: packed(meta).update(packing="zip"),
    "another shape": lambda arrays, meta: packed(meta).update(shape=[16, 17]),
    "fewer rows": lambda arrays, meta: packed(meta).update(shape=[1, 16]),
    "unknown weight": lambda arrays, meta: meta["packed"].update({"bert.nowhere.weight": packed(meta)}),
    "no codes": lambda arrays, meta: arrays.pop("bert.pooler.dense.weight.codes"),
    "no bias": lambda arrays, meta: arrays.pop("bert.pooler.dense.bias"),
    "another bias": lambda arrays, meta: arrays.update({"bert.pooler.dense.bias": arrays["bert.pooler.dense.bias"][:1]}),
    "one tensor more": lambda arrays, meta: arrays.update(extra=arrays["bert.pooler.dense.bias"]),
    "no architecture": lambda arrays, meta: meta.pop("config"),
    "another width": lambda arrays, meta: meta["config"].update(hidden_size=32),
    "heads that do not divide the width": lambda arrays, meta: meta["config"].update(num_attention_heads=5),
    "a format of the future": lambda arrays, meta: meta.update(format=artifact.FORMAT + 1),
}


@pytest.mark.parametrize("what", STRANGE)
def test_a_whole_file_that_asks_for_what_we_do_not_know_is_one_clear_line(what, trained, tmp_path):
    """Sealed by someone else's code: every hash is right, and what it describes is not."""
    path = tmp_path / "strange.safetensors"
    arrays, meta = files.read_sealed(trained("twn_2bit")[1])
    STRANGE[what](arrays, meta)
    files.write_sealed(path, arrays, meta)
    with pytest.raises(UserError, match=r"strange\.safetensors .*make it again") as error:
        artifact.load(path)
    assert "\n" not in str(error.value)


def test_weights_on_a_grid_with_an_offset_are_not_saved_without_it(tmp_path):
    student = apply(tiny(), "quantize", weights={"kind": "asymmetric", "bits": 4})
    with pytest.raises(ValueError, match="offset"):
        artifact.save(tmp_path / "a.safetensors", student, META)


# --- at bert-base's size ----------------------------------------------------------------------------------

MIB = 2**20
LEARNED = {part: {"kind": "threshold", "bits": 2, "masked": False} for part in ("weights", "embeddings", "positions")}
EIGHT = {"weights": {"kind": "symmetric", "bits": 8}, "embeddings": {"kind": "symmetric", "bits": 8, "rows": True}}


def saved_bert_base(path, options: dict, ternary: str = "bits") -> dict:
    """Save a generated bert-base with quantized weights; the sizes of its file."""
    torch.manual_seed(0)
    student = bert_base(*([{"kind": "quantize", **options}] if options else []), device="cpu")
    artifact.save(path, student, META, ternary)
    return artifact.size(path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "ternary", "paper_bits", "most"),
    [
        ({}, "bits", 3_503_431_680, 417.7),
        (TERNARY, "bits", 234_470_400, 28.4),
        (TERNARY, "trits", 234_470_400, 23.0),
        (EIGHT, "bits", 888_262_656, 106.1),
        (LEARNED, "bits", 222_673_920, 26.7),
    ],
    ids=["full precision", "ternary", "ternary in base 3", "8 bits", "KDLSQ at 2 bits"],
)
def test_bert_base_has_the_size_that_the_papers_compute(options, ternary, paper_bits, most, tmp_path):
    size = saved_bert_base(tmp_path / "a.safetensors", options, ternary)
    assert size["paper_bytes"] * 8 == paper_bits
    assert size["fp32_bytes"] == 109_482_240 * 4
    assert size["parameters"] == 109_482_240 + 768 * 2 + 2
    assert size["file_bytes"] <= most * MIB
    assert size["counted_bytes"] == pytest.approx(size["file_bytes"], rel=0.01)


MEASURE = """
import sys, threading
from pathlib import Path
from methods.model import artifact

def memory():  # without the pages of the file itself, which the system takes back when it needs them
    return next(1024 * int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("RssAnon"))

def watch():
    while not done.wait(0.002):
        seen.append(memory())

before, seen, done = memory(), [], threading.Event()
watcher = threading.Thread(target=watch)
watcher.start()
model, _ = artifact.load(Path(sys.argv[1]))
done.set()
watcher.join()
needed = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
print((max(seen) - before) / needed)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
@pytest.mark.parametrize("options", [{}, TERNARY, EIGHT], ids=["full precision", "ternary", "8 bits"])
def test_loading_bert_base_takes_hardly_more_memory_than_the_model(options, tmp_path):
    saved_bert_base(tmp_path / "a.safetensors", options)
    told = subprocess.run([sys.executable, "-c", MEASURE, tmp_path / "a.safetensors"], capture_output=True, text=True)
    assert float(told.stdout) < 1.35, told.stderr
