"""A world small enough to train in a second: a random two-layer BERT, and a task made of a dozen words."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from transformers.models.bert.configuration_bert import BertConfig

from methods.model.encoder import Base, bert, wordpiece, write_base
from methods.tasks import data, encode
from workflow import catalogue

SHARED = Path(__file__).resolve().parents[2] / "shared"
WORDS = [
    "the",
    "a",
    "good",
    "bad",
    "film",
    "very",
    "not",
    "is",
    "was",
    "dull",
    "fine",
    "story",
    "dog",
    "ran",
    "fast",
    "where",
    "who",
    ".",
    "?",
    "[MASK]",
]
CONFIG = {
    "vocab_size": len(WORDS) + 4,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 64,
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
}


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def denormal_numbers():
    """A run flushes them to zero for its whole process, and with it for all tests that come after."""
    torch.set_flush_denormal(False)


@pytest.fixture(scope="session")
def accelerator():
    return Accelerator(cpu=True)


@pytest.fixture(scope="session")
def base() -> Base:
    torch.manual_seed(0)
    weights = bert(BertConfig(**CONFIG), "classification", 2).bert.state_dict()
    tokenizer = wordpiece(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS])
    source = {"source": "generated", "id": "tiny", "revision": "seed 0"}
    return Base({name: tensor.numpy() for name, tensor in weights.items()}, CONFIG, tokenizer, source)


@pytest.fixture(scope="session")
def base_path(base, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("base") / "base.safetensors"
    write_base(path, base)
    return path


def rows_of_sst2(count: int, seed: int) -> dict[str, list]:
    """Reviews that a "not" turns round: learnable, but not from single words."""
    random = np.random.default_rng(seed)
    sentences, labels = [], []
    for _ in range(count):
        good, negated, filler = random.integers(2), random.integers(2), random.integers(4)
        words = [
            "the film is",
            "not" if negated else "",
            "very " * int(filler),
            "good" if good else "bad",
            ".",
        ]
        sentences.append(" ".join(word for word in words if word))
        labels.append(int(good ^ negated))
    return {"sentence": sentences, "label": labels}


@pytest.fixture(scope="session")
def write_task(base, tmp_path_factory):
    """Write a task file from rows; `write_task("sst2", {split: columns})` returns its path."""

    def write(task: str, splits: dict, max_length: int = 32, **changes) -> Path:
        found = catalogue.load({"preset": "demo"})
        run_request = {**json.loads(catalogue.dump(found.request_data(task))), "max_length": max_length, **changes}
        path = tmp_path_factory.mktemp("data") / f"{task}.safetensors"
        encode.write_task(path, run_request, base.tokenizer, splits)
        return path

    return write


@pytest.fixture(scope="session")
def sst2_path(write_task) -> Path:
    return write_task("sst2", {"train": rows_of_sst2(60, 1), "validation": rows_of_sst2(30, 2)})


@pytest.fixture(scope="session")
def sst2(sst2_path):
    return data.load(sst2_path)


@pytest.fixture
def run_request() -> dict:
    """The ask of a short run of fp32 on the tiny task."""
    found = catalogue.load(
        {
            "preset": "demo",
            "budget": {"lr_scale": 50, "epochs_scale": 2, "evaluate_every": 4, "batch_size": 8},
        }
    )
    return json.loads(catalogue.dump(found.request("fp32", "sst2", 1)))
