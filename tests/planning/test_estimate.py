"""The arithmetic of a plan, on costs that are made up: what is counted, how often, and how often not."""

import dataclasses
import math

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from methods.common.errors import UserError
from methods.planning import estimate, page
from methods.planning.costs import Cost, Costs, Hook, fitted
from methods.planning.estimate import longest_line, run_seconds, shapes_for
from methods.planning.rehearsal import Measured, without_numbers
from methods.planning.rows import Rows, TaskRows, rows_of
from workflow import catalogue

NOTHING = Cost(0.0, 0.0)
FREE = Costs(NOTHING, (NOTHING,), (None,), NOTHING, NOTHING, 0.0, 0.0, 0.0, 1000, 0, Cost(1e6, 100.0))


def rows(train: int = 320, dev: int = 128, length: int = 32) -> TaskRows:
    made = (Rows(count, np.full(count, length)) for count in (train, dev))
    return TaskRows(*made, "bucket", 128, True)


def costs(**changes) -> Costs:
    return dataclasses.replace(FREE, **changes)


def test_a_cost_is_recovered_from_its_times():
    true = Cost(0.02, 3e-5, 1e-7)
    shapes = [(8, 32), (32, 32), (8, 256)]
    found = fitted({shape: true.of(shape[0] * shape[1], shape[1]) for shape in shapes})
    assert dataclasses.astuple(found) == pytest.approx(dataclasses.astuple(true), rel=1e-6)


def test_no_part_of_a_cost_is_negative_however_noisy_the_times():
    found = fitted({(8, 32): 1.0, (32, 32): 0.9, (8, 256): 0.8})
    assert min(dataclasses.astuple(found)) >= 0


def test_steps_looks_and_scores_are_counted():
    """100 steps of 0.1 s; a look every 30 steps and at the end, so 4; 128 dev rows of 32 tokens."""
    step, token = Cost(0.1, 0.0), Cost(0.0, 1e-3)
    empty = run_seconds([(100, 32)], costs(), rows(), 30)
    assert run_seconds([(100, 32)], costs(steps=(step,)), rows(), 30) - empty == pytest.approx(10.0)
    assert run_seconds([(100, 32)], costs(look=token), rows(), 30) - empty == pytest.approx(4 * 128 * 32e-3)
    assert run_seconds([(100, 32)], costs(score=token), rows(), 30) - empty == pytest.approx(2 * 128 * 32e-3)  # last, best
    assert run_seconds([], costs(steps=(), hooks=(), score=token), rows(), 30) - empty == pytest.approx(128 * 32e-3)


def test_a_search_takes_its_time_and_leaves_no_model():
    found = run_seconds([], costs(steps=(), hooks=(), allocation=50.0, file_bytes=0, write=9.0), rows(), 30)
    assert found == pytest.approx(50.0 + estimate.START)


def test_events_at_shares_of_the_steps_are_as_many_in_a_long_run_and_others_grow():
    at_shares = Hook(every_step=0.0, event=1.0, events=(7, 7))
    every_ten = Hook(every_step=0.0, event=1.0, events=(1, 2))
    assert at_shares.of(5000, 1000, 32) == pytest.approx(7)
    assert every_ten.of(5000, 1000, 32) == pytest.approx(500)


def test_rows_that_a_hook_reads_are_at_most_those_of_the_task():
    hook = Hook(0.0, 0.0, (7, 7), batches=1024, batch_rows=16, per_token=1e-3)
    assert hook.of(100, 160, 32) == pytest.approx(7 * 10 * 16 * 32e-3)
    assert hook.of(100, 10**6, 32) == pytest.approx(7 * 1024 * 16 * 32e-3)


def test_numbers_that_change_no_work_make_no_kind_of_their_own():
    first = {"weights": {"kind": "even", "bits": 2}, "lr": 1e-5, "terms": {"labels": 1.0}, "remaining": 0.2}
    second = {**first, "weights": {"kind": "even", "bits": 8}, "lr": 2e-5, "terms": {"labels": 0.5}}
    assert without_numbers(first) == without_numbers(second)
    assert without_numbers(first) != without_numbers({**first, "terms": {"logits": 1.0}})
    assert without_numbers(first) != without_numbers({**first, "remaining": 0.1})
    assert without_numbers(first) != without_numbers({**first, "weights": {"kind": "ternary"}})


def plan(**config) -> tuple:
    found = catalogue.load({"preset": "demo", "latency": False, **config})
    lineages = {name for method in found.config["methods"] for name in (method, *found.lineage(method))}
    by_task = {task: [(found.steps("fp32", task), 16)] for task in found.config["tasks"]}
    measured = {name: Measured(by_task, costs(steps=(Cost(0.1, 0.0),)), False) for name in lineages}
    return found, estimate.combined(found, measured, lambda method, task: rows())


def test_ancestors_that_methods_share_are_counted_once():
    found, made = plan(tasks=["mrpc"], methods=["tws_1bit", "bwn_1bit", "lsq_4bit", "twn_2bit"], seeds=[1, 2])
    names = [(run.method, run.task, run.seed) for run in made.runs]
    assert len(names) == len(set(names))
    assert set(names) == set(found.runs(found.config["methods"], found.config["tasks"]))
    assert sum(run.method == "fp32" for run in made.runs) == 1  # it teaches, at the teacher's seed alone
    assert page.facts(found, made)["all"]["seconds"] == pytest.approx(sum(run.seconds for run in made.runs))


def test_a_table_has_a_line_for_each_method_and_one_for_all():
    found, made = plan(tasks=["mrpc", "stsb"], methods=["lsq_4bit", "rtn_8bit"])
    lines = page.table(found, made).splitlines()
    assert [line.split()[0] for line in lines[1:4]] == ["lsq_4bit", "rtn_8bit", "(fp32)"]
    assert next(line for line in lines if line.startswith("all runs")).split()[2] == "6"
    assert any("Everything" in line for line in lines)


def test_side_by_side_is_no_shorter_than_the_longest_line():
    seconds = {("fp32",): 10.0, ("a",): 5.0, ("b",): 7.0, ("c",): 1.0}
    parents = {("fp32",): {}, ("a",): {"init": ("fp32",)}, ("b",): {"init": ("a",), "teacher": ("fp32",)}, ("c",): {}}
    assert longest_line(seconds, lambda *run: parents[run]) == pytest.approx(22.0)


def test_capped_rows_and_lengths_are_the_configurations(tmp_path):
    found = catalogue.load({"preset": "small", "budget": {"train_rows": 500, "max_length": 64}})
    mine = rows_of(found, "sst2", tmp_path)
    assert (len(mine.train), len(mine.dev)) == (500, 872)
    assert rows_of(found, "squad", tmp_path).widest() == 64
    whole = rows_of(catalogue.load({"preset": "small"}), "mnli", tmp_path)
    assert (len(whole.train), len(whole.dev)) == (392702, 9815 + 9832)


def test_rows_of_a_mirror_are_counted_where_it_holds_a_part(tmp_path):
    folder = tmp_path / "nyu-mll/glue/rte"
    folder.mkdir(parents=True)
    for split, count in (("train", 30), ("validation", 7)):
        parquet.write_table(pyarrow.table({"label": [0] * count}), folder / f"{split}-00000-of-00001.parquet")
    found = catalogue.load({"preset": "small", "data": {"mirror": str(tmp_path)}})
    mine = rows_of(found, "rte", tmp_path)
    assert (len(mine.train), len(mine.dev)) == (30, 7)


def test_a_damaged_file_of_a_mirror_is_one_line(tmp_path):
    folder = tmp_path / "nyu-mll/glue/rte"
    folder.mkdir(parents=True)
    (folder / "train-00000-of-00001.parquet").write_text("version https://git-lfs.github.com/spec/v1")
    with pytest.raises(UserError, match=r"train-00000-of-00001\.parquet is damaged .*: copy it from the hub again"):
        rows_of(catalogue.load({"preset": "small", "data": {"mirror": str(tmp_path)}}), "rte", tmp_path)


def test_a_preset_of_models_of_ones_own_makes_no_base():
    untrained = Measured({}, costs(steps=(), hooks=()), False)
    config = catalogue.load({"preset": "demo"}).config
    assert estimate._base_seconds(config, {"rtn_8bit": untrained}) == 0.0


def test_rows_longer_than_every_bucket_are_timed_at_their_own_length():
    longest = dataclasses.replace(rows(length=1000), max_length=1024)
    assert shapes_for({"num_hidden_layers": 2, "hidden_size": 64}, [longest], 8, "cpu").many[1] in (1000, 1024)


def test_the_shape_of_a_base_in_a_folder_is_that_of_its_configuration(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bert", "hidden_size": 99}')
    found = catalogue.load({"preset": "paper", "base": {"source": "folder", "path": str(tmp_path)}})
    assert estimate.base_shape(found, tmp_path / "results")["hidden_size"] == 99


def test_full_padding_makes_every_row_as_wide_as_the_longest(tmp_path):
    found = catalogue.load({"preset": "paper"})
    assert rows_of(found, "rte", tmp_path).width(32) == pytest.approx(128)
    assert rows_of(catalogue.load({"preset": "small"}), "rte", tmp_path).width(32) < 100


def test_a_large_model_is_timed_with_fewer_rows_on_a_cpu_and_with_all_on_a_gpu():
    base = {"num_hidden_layers": 12, "hidden_size": 768}
    on_cpu, on_gpu = (shapes_for(base, [rows(length=128)], 32, device) for device in ("cpu", "cuda"))
    assert math.prod(on_cpu.many) < math.prod(on_gpu.many) == 32 * 128
    assert on_cpu.few[0] < on_cpu.many[0]
