"""The bits of tables are measured: the mean over the numbers of a file as they are stored, and over its quantizers."""

import json

import pytest

from methods.common import options
from methods.kernel.layers import Quantized
from methods.kernel.quantizers import Binary
from methods.model import artifact
from methods.training.ancestors import ALLOCATION
from tests.fixtures.runs_of_methods import CATALOGUE, ON_TINY, ON_WIDE


def measured(folder) -> dict[str, float]:
    path = folder / "last.safetensors"
    return artifact.bits(path, artifact.load(path)[0])


@pytest.mark.parametrize(
    ("method", "weights", "embeddings", "activations"),
    [
        ("fp32", 32, 32, 32),
        ("dynabert_half", 32, 32, 32),
        ("twn_2bit", 2, 2, 8),
        ("lat_2bit", 2, 2, 8),
        ("tws_1bit", 1, 1, 8),
        ("tws_1bit_a4", 1, 1, 4),
        ("bwn_1bit", 1, 1, 8),
        ("xtc_1bit", (4096 + 256 * 32) / 4352, 1, 8),  # two layers, and the pooler in full precision
        ("lsq_3bit", 3, 3, 8),
        ("rtn_4bit", 4, 4, 8),
        ("int8_dynamic", 8, 32, 8),
        ("lada_5x", 32, 32, 32),
        ("lada_5x_8bit", 8, 8, 8),
    ],
)
def test_bits_are_those_of_the_file(method, weights, embeddings, activations, run_method):
    record, folder = run_method(method)
    expected = {"weights": weights, "embeddings": embeddings, "activations": activations}
    assert record["bits"] == measured(folder) == expected


@pytest.mark.parametrize("method", sorted({*ON_TINY, *ON_WIDE} - {"mixed_half_a8"}))
def test_bits_agree_with_what_the_recipe_says(method, run_method):
    """A recipe that quantizes nothing leaves its bits to the model that it starts from, or at 32."""
    record, folder = run_method(method)
    edits = artifact.read(folder / "last.safetensors")[1]["edits"]
    expected = options.quantized_bits(CATALOGUE.values(method))
    if any(edit.get("pooler") is False for edit in edits):  # its 32 bits are among those of the weights
        assert record["bits"]["weights"] > expected.pop("weights", 0)
    for group, bits in expected.items():
        assert record["bits"][group] == bits


def test_a_mixed_model_shows_its_average(run_method):
    """Ternary layers have two bits and binary ones one; an average over numbers, not over layers."""
    record, folder = run_method("mixed_half_a8")
    student = run_method.students[folder]
    layers = {name: module for name, module in student.named_modules() if isinstance(module, Quantized)}
    layers = {name: layer for name, layer in layers.items() if layer.weight_quantizer is not None}
    words = next(name for name in layers if "word_embeddings" in name)
    numbers = {name: layer.weight.numel() for name, layer in layers.items() if name != words}
    widths = {name: 1 if isinstance(layers[name].weight_quantizer, Binary) else 2 for name in layers}
    average = sum(numbers[name] * widths[name] for name in numbers) / sum(numbers.values())
    assert 1 < average < 2
    assert record["bits"] == {"weights": pytest.approx(average), "embeddings": widths[words], "activations": 8}
    binary = json.loads((run_method("split_search")[1] / ALLOCATION).read_text())["binary"]
    assert {name for name, bits in widths.items() if bits == 1} == set(binary)


def test_a_pooler_in_full_precision_counts(run_method):
    record, _ = run_method("qbert_2bit")
    matrices, pooler = 2 * (4 * 16 * 16 + 2 * 16 * 32), 16 * 16
    average = (2 * matrices + 32 * pooler) / (matrices + pooler)
    assert record["bits"] == {"weights": pytest.approx(average), "embeddings": 8, "activations": 8}


def test_a_search_has_no_bits(run_method):
    assert run_method("split_search")[0]["bits"] is None
