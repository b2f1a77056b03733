"""docs/model-file.md: its reader and its examples, run as they are printed."""

import re

import numpy as np
import pytest

from methods.model import artifact, description
from tests.fixtures.copies import ROOT
from tests.fixtures.models import HISTORIES, write_small_models
from tests.fixtures.runs_of_methods import ON_TINY
from tests.fixtures.world import loader

TEXT = (ROOT / "docs/model-file.md").read_text(encoding="utf-8")
(READER,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
(EXAMPLES,) = re.findall(r"```python example\n(.*?)```", TEXT, re.DOTALL)


@pytest.fixture(scope="module")
def reader():
    names = {}
    exec(READER, names)
    return names


@pytest.fixture(scope="module")
def written(tmp_path_factory, sst2):
    folder = tmp_path_factory.mktemp("written")
    return write_small_models(folder, next(loader(sst2, "validation", seed=3).sample(16)))


def compare(reader, path) -> None:
    """Require that the printed reader finds the weights that the model of the file has."""
    meta, arrays = reader["read"](path)
    model, known = artifact.load(path)
    assert meta == known
    stored = {name: tensor.detach().numpy() for name, tensor in artifact._plain(model).items()}
    assert arrays.keys() == stored.keys()
    for name, array in arrays.items():
        assert array.dtype == stored[name].dtype and np.array_equal(array, stored[name]), name


@pytest.mark.parametrize("history", HISTORIES)
def test_the_reader_finds_the_weights_of_small_models(history, reader, written):
    compare(reader, written[history])


@pytest.mark.parametrize("method", ON_TINY)
def test_the_reader_finds_the_weights_of_every_method(method, reader, run_method):
    compare(reader, run_method(method)[1] / "last.safetensors")


def test_the_small_models_know_every_packing_and_width(written):
    entries = [entry for path in written.values() for entry in description.read(path)[1]["packed"].values()]
    assert {(entry["packing"], entry["bits"] == 32) for entry in entries} == {
        *(("bits", False), ("trits", False), ("sparse", False), ("sparse", True)),
    }


def test_the_examples_by_hand_are_right(reader):
    exec(EXAMPLES, dict(reader))


def test_every_key_of_the_description_and_every_edit_is_explained():
    from methods.common import options

    tables = (description.STRUCTURE, description.USE, description.ORIGIN, description.PACKED)
    for name in (key for table in tables for key in table):
        assert f"`{name}`" in TEXT
    for name in (*options.edits(), *description.PARTS):
        assert f"`{name}`" in TEXT or f"`W{name}`" in TEXT
    assert f"`format` | {description.FORMAT}," in TEXT
