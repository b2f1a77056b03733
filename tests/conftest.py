"""The fixtures that tests of several rooms share; `tests/fixtures/world.py` says what the tiny world is made of."""

import json
from pathlib import Path

import pytest
import torch

import methods
from methods.model.encoder import Base, build, wordpiece, write_base
from methods.tasks import data, encode
from tests.fixtures import runs_of_methods, world
from tests.fixtures.world import CONFIG, WIDE, WORDS, rows_of_sst2
from workflow import catalogue


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def denormal_numbers():
    """A run flushes them to zero for its whole process, and with it for all tests that come after."""
    torch.set_flush_denormal(False)


@pytest.fixture(scope="session")
def device():
    return world.device()


def _base(config: dict) -> Base:
    torch.manual_seed(0)
    weights = build(config, "sequence", 2).base_model.state_dict()
    tokenizer = wordpiece(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS])
    source = {"source": "generated", "id": "tiny", "revision": "seed 0"}
    return Base({name: tensor.numpy() for name, tensor in weights.items()}, config, tokenizer, source)


@pytest.fixture(scope="session")
def base() -> Base:
    return _base(CONFIG)


@pytest.fixture(scope="session")
def wide() -> Base:
    """A base model that is mostly matrices."""
    return _base(WIDE)


@pytest.fixture(scope="session")
def base_path(base, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("base") / "base.safetensors"
    write_base(path, base)
    return path


@pytest.fixture(scope="session")
def write_task(base, tmp_path_factory):
    """Write a task file from rows; `write_task("sst2", {split: columns})` returns its path."""

    def write(task: str, splits: dict, max_length: int = 32, tokenizer: str | None = None, **changes) -> Path:
        found = catalogue.load({"preset": "demo"})
        request = {**json.loads(catalogue.dump(found.request_data(task))), "max_length": max_length, **changes}
        path = tmp_path_factory.mktemp("data") / f"{task}.safetensors"
        encode.write_task(path, request, tokenizer or base.tokenizer, splits)
        return path

    return write


@pytest.fixture(scope="session")
def sst2_path(write_task) -> Path:
    return write_task("sst2", {"train": rows_of_sst2(60, 1), "validation": rows_of_sst2(30, 2)})


@pytest.fixture(scope="session")
def sst2(sst2_path):
    return data.load(sst2_path)


@pytest.fixture(scope="session")
def run_method(base_path, wide, sst2_path, tmp_path_factory) -> runs_of_methods.Runs:
    """`run_method("tws_1bit")`: the record and the folder of a short run on the tiny task, its ancestors made first."""
    folder = tmp_path_factory.mktemp("runs")
    write_base(folder / "wide.safetensors", wide)
    bases = {"tiny": base_path, "wide": folder / "wide.safetensors"}
    return runs_of_methods.Runs(folder, bases, {"sst2": sst2_path})


@pytest.fixture
def run_request() -> dict:
    """The request of a short run of fp32 on the tiny task."""
    return runs_of_methods.request("fp32", budget={"epochs_scale": 2, "evaluate_every": 4})


@pytest.fixture
def papers_of_tests(monkeypatch):
    """Let `methods.NAME` find the papers of tests/fixtures/papers too."""
    monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(Path(__file__).parent / "fixtures/papers")])
