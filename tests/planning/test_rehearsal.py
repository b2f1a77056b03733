"""What is measured is what runs do: every method is rehearsed, and its steps take as long as the trainer's."""

import dataclasses
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from methods.__main__ import main
from methods.fp32 import Recipe, stages
from methods.model.encoder import build
from methods.planning import rehearsal
from methods.planning.costs import HOOKS
from methods.planning.rehearsal import KIND, Rehearsal, Shapes
from methods.planning.rows import Rows
from methods.planning.stand_ins import FewRows
from methods.training.loader import Loader
from methods.training.trainer import Trainer
from methods.use.bench.timing import random_rows
from tests.fixtures.world import WIDE, device
from workflow import catalogue

MICRO = {"num_hidden_layers": 3, "hidden_size": 128, "num_attention_heads": 2, "intermediate_size": 512, "vocab_size": 1000}

SMALL = Shapes((1, 16), (4, 16), None)


def rehearse(methods: list[str], folder: Path, config: dict = WIDE, shapes: Shapes = SMALL) -> dict:
    found = catalogue.load({"preset": "demo"})
    made = Rehearsal(
        found, config, shapes, device(), folder, lambda method, task: Rows(400, np.full(400, 16)), lambda line: None
    )
    return made.measure(methods, ["mrpc"])


def test_hooks_are_counted_and_the_rows_that_they_read(tmp_path):
    found = rehearse(["obert_90", "lada_5x", "lat_2bit"], tmp_path)
    (pruning,) = found["obert_90"].costs.hooks
    assert pruning.events == (7, 7)  # its recipe prunes seven times, however long the run is
    assert (pruning.batches, pruning.batch_rows) == (1024, 16)
    assert pruning.per_token > 0
    (often,) = found["lada_5x"].costs.hooks
    assert often.events == tuple(steps // 10 for steps in HOOKS)  # every ten steps
    assert found["fp32"].costs.hooks == (None,)


def test_steps_are_those_of_the_trainer(tmp_path):
    measured = rehearse(["lsq_4bit", "lsq_8bit", "rtn_8bit"], tmp_path)
    found = catalogue.load({"preset": "demo"})
    for method, one in measured.items():
        values, budget = found.values(method, "mrpc"), found.budget("mrpc", method)
        wanted = (
            round(values["epochs"] * budget["epochs_scale"] * 25) if "epochs" in values else 0
        )  # 400 rows, batches of 16
        assert sum(steps for steps, _ in one.stages["mrpc"]) == wanted
    assert measured["lsq_4bit"].costs is measured["lsq_8bit"].costs  # one kind: bits change no work


@pytest.mark.slow
def test_every_method_can_be_rehearsed(tmp_path, monkeypatch):
    monkeypatch.setattr(rehearsal, "LEAST", 0.0)  # one timed call is enough
    methods = catalogue.load({"preset": "demo"}).cell_methods()
    measured = rehearse(methods, tmp_path)
    assert measured.keys() >= set(methods)
    for method, one in measured.items():
        costs = one.costs
        assert (costs.allocation > 0) == catalogue.load({"preset": "demo"}).is_search(method)
        assert all(step.of(64, 16) > 0 for step in costs.steps)


@pytest.mark.slow
def test_steps_take_as_long_as_was_measured(tmp_path):
    """Within a factor of 1.5, in seconds of the processor: other work of the machine does not count."""
    torch.set_num_threads(1)
    shapes = Shapes((4, 32), (16, 32), None)
    cost = rehearse(["fp32"], tmp_path, MICRO, shapes)["fp32"].costs.steps[0]
    lengths = np.random.default_rng(0).integers(12, 32, 960)
    labels = np.random.default_rng(1).integers(0, 2, len(lengths))
    loader = Loader(random_rows(lengths, MICRO["vocab_size"], targets={"labels": labels}), KIND, torch.device("cpu"))
    model = build(MICRO, KIND.head, 2)
    recipe = Recipe(optimizer="adamw", lr=1e-5, epochs=1, batch_size=16, clip="global", terms={"labels": 1.0})
    budget = {"lr_scale": 1, "epochs_scale": 1, "batch_size": None}
    context = dataclasses.make_dataclass("Budget", ["budget"])(budget)
    training = Trainer(
        model, stages(model, recipe, context), loader, lambda student: {"accuracy": 0.0}, device(), evaluate_every=99
    )
    started = time.process_time()
    training.fit()
    took = time.process_time() - started
    widths = [loader.batch(rows)["input_ids"].shape[1] for rows in loader.epoch(16, 0)]
    expected = sum(cost.of(16 * width, width) for width in widths)
    assert 1 / 1.5 < expected / took < 1.5


def test_a_loader_of_few_rows_seems_to_have_many():
    split = random_rows([8] * 4, 100, targets={"labels": np.zeros(4, int)})
    loader = FewRows(split, KIND, torch.device("cpu"), padding="max_length", max_length=8)
    seen = list(loader.epoch(2, 0)[:1000])
    assert len(seen) == 2
    assert (loader.ledger.batches, loader.ledger.batch_rows) == (1000, 2)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--preset", "smal"], "Unknown preset 'smal'. Did you mean 'small'?"),
        (["--methods", "fp23"], "unknown method 'fp23'. Did you mean 'fp32'?"),
        (["--tasks", "rt"], "unknown task 'rt'. Did you mean 'rte'?"),
    ],
)
def test_a_wrong_name_is_one_line(words, line, capsys):
    assert main(["plan", *words]) == 1
    (found,) = capsys.readouterr().err.splitlines()
    assert line in found
