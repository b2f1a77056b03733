"""The benchmark of inference times real answers, in turns; it says what it did not measure, and refuses what it cannot."""

import json

import numpy as np
import pytest

from methods import engine
from methods.__main__ import main
from methods.common.errors import UserError
from methods.engine.fallback import Fallback
from methods.use.bench import contenders, footprint, inference, models, runners, tables, timing, workloads
from methods.use.bench.contenders import Contender
from methods.use.bench.models import Models

SHAPE = {"num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64}
VOCABULARY = 1100


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setitem(timing.SIZES, "tiny", SHAPE)
    monkeypatch.setattr(inference, "VOCABULARY", VOCABULARY)
    monkeypatch.setattr(inference, "LEAST", 0.0)


@pytest.fixture
def engine_on_torch(monkeypatch):
    monkeypatch.setattr(engine, "open_session", lambda path, threads: Fallback(path, threads))


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Models:
    return Models(tmp_path_factory.mktemp("models"), {"vocab_size": VOCABULARY, **SHAPE})


def wanted(**changes) -> inference.Wanted:
    plain = {"size": "tiny", "batches": (1, 3), "lengths": (8, "mrpc"), "rounds": 2}
    return inference.Wanted(**{**plain, "only": ("engine-w2-static", "torch-float", "torch-int8"), **changes})


def test_a_report_holds_a_table_for_each_workload_and_says_what_each_contender_is(small, engine_on_torch):
    report = inference.bench_inference(wanted(), say=lambda line: None, memory=False)
    assert json.loads(json.dumps(report)) == report
    assert [(one["batch"], one["length"]) for one in report["tables"]] == [(1, 8), (1, "mrpc"), (3, 8), (3, "mrpc")]
    for one in report["tables"]:
        assert list(one["rows"]) == ["engine-w2-static", "torch-float", "torch-int8"]
        assert one["reference"] in ("torch-float", "torch-int8")
        assert one["rows"][one["reference"]]["ratio"] == one["rows"]["torch-float"]["speedup"] == 1
        assert all(len(row["turns_ms"]) == 2 and min(row["turns_ms"]) > 0 for row in one["rows"].values())
    assert report["contenders"]["engine-w2-static"]["kernels"] == "torch"
    assert report["machine"]["cpu"] and report["machine"]["packages"]["torch"]
    packed, full = (report["contenders"][name]["file_bytes"] for name in ("engine-w2-static", "torch-float"))
    assert packed < full
    page = tables.page(report)
    assert page.count("engine, W2 static") == 5
    assert "3 rows of MRPC's lengths, 1 thread" in page


@pytest.mark.parametrize("name", [name for name in contenders.of_size() if name != contenders.COMPILED])
def test_every_contender_answers_as_its_model_does(name, files):
    one = contenders.of_size()[name]
    if reason := one.absent():
        pytest.skip(reason)
    field = inference.Field(files, {name: one}, wanted(only=None), say=lambda line: None)
    runner = field._open(threads=1).get(name)
    if runner is None and "compiler" in field.absent[name]:
        pytest.skip(field.absent[name])
    assert runner is not None, field.absent[name]
    assert field.facts[name]["difference"] < (1e-4 if "float" in name else 0.1)
    runner.close()


def test_a_contender_that_answers_without_looking_is_not_measured(files, tmp_path):
    class Blind(runners.Torch):
        def run(self, inputs):
            return [np.full((len(inputs["input_ids"]), 2), 0.1, np.float32)]

    class Unmasked(runners.Torch):
        def run(self, inputs):
            return super().run({**inputs, "attention_mask": inputs["attention_mask"] * 0 + 1})

    kinds = {"seeing-float": runners.Torch, "blind": Blind, "unmasked-float": Unmasked}
    named = {name: Contender(name, "", Models.float, kind) for name, kind in kinds.items()}
    wide = Models(tmp_path, {**files.config, "initializer_range": 0.2})  # so that tokens attend to one another
    field = inference.Field(wide, named, wanted(only=None), say=lambda line: None)
    assert list(field._open(threads=1)) == ["seeing-float"]
    assert "its answers differ from the model's" in field.absent["blind"]
    assert len(field.warnings) == 2


def test_what_the_engine_cannot_run_is_left_out_with_its_reason(small, monkeypatch):
    def refuse(path, threads):
        raise engine.Unsupported("it has wheels")

    monkeypatch.setattr(engine, "open_session", refuse)
    report = inference.bench_inference(wanted(batches=(1,), lengths=(8,)), say=lambda line: None, memory=False)
    assert report["absent"] == {"engine-w2-static": "it has wheels"}
    assert "not measured: engine-w2-static: it has wheels" in tables.page(report)


def test_a_model_file_is_compared_with_the_float_model_of_its_shape(small, engine_on_torch, files):
    only_model = wanted(model=files.packed(1, "dynamic"), lengths=(8,), only=None)
    report = inference.bench_inference(only_model, say=lambda line: None, memory=False)
    assert list(report["tables"][0]["rows"]) == ["engine-model", "engine-float", "torch-model", "torch-float"]
    assert report["contenders"]["engine-model"]["difference"] < 1e-4
    assert report["tables"][0]["reference"] == "torch-float"  # the model through torch is nothing off the shelf
    with pytest.raises(UserError, match="takes 512 tokens at most"):
        inference.bench_inference(wanted(lengths=(513,)), say=lambda line: None)


def test_contenders_are_chosen_by_name_or_by_their_first_word():
    everybody = contenders.of_size()
    assert contenders.COMPILED not in contenders.chosen(everybody, None, compiled=False)
    assert contenders.COMPILED in contenders.chosen(everybody, None, compiled=True)
    assert contenders.COMPILED in contenders.chosen(everybody, [contenders.COMPILED], compiled=False)
    names = list(contenders.chosen(everybody, ["openvino", "torch-float"], compiled=False))
    assert names == ["torch-float", "openvino-float", "openvino-bf16", "openvino-w8a8"]
    with pytest.raises(UserError, match=r"no contender is called 'opnvino'\. Did you mean 'openvino'"):
        contenders.chosen(everybody, ["opnvino"], compiled=False)


def test_a_named_contender_whose_package_is_missing_is_refused_with_the_remedy(files):
    named = {"x": Contender("x", "", Models.float, runners.Torch, packages=("no_such_package",))}
    with pytest.raises(UserError, match=r"no_such_package not installed \(pip install -r requirements-export.txt"):
        inference.Field(files, named, wanted(only=("x",)), say=lambda line: None)


def test_mrpc_s_rows_come_shuffled_or_sorted_and_others_are_of_one_length():
    plain, shuffled, ordered = (workloads.workload(4, length, VOCABULARY) for length in (7, "mrpc", "mrpc-sorted"))
    assert [list(rows.lengths) for rows in plain.batches] == [[7] * 4]
    assert (plain.title, plain.tokens) == ("4 rows of 7 tokens", 28)
    come, sorted_ = (np.concatenate([rows.lengths for rows in one.batches]) for one in (shuffled, ordered))
    assert sorted(come) == list(sorted_) != list(come)
    assert sorted_[0] >= timing.MRPC[0] and sorted_[-1] <= timing.MRPC[-1]
    assert abs(np.median(sorted_) - timing.MRPC[10]) <= 1


def test_rows_are_padded_to_the_longest_and_masked():
    feed = models.feeds(timing.random_rows([3, 5], VOCABULARY))
    assert feed["attention_mask"].tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]
    assert feed["token_type_ids"].tolist() == [[0, 1, 1, 0, 0], [0, 0, 1, 1, 1]]
    assert not feed["input_ids"][0, 3:].any() and feed["input_ids"][0, :3].all()


def test_contenders_take_turns_and_fast_ones_are_called_often():
    calls = []
    found = timing.alternate({"a": lambda turn: calls.append(("a", turn)), "b": lambda turn: calls.append(("b", turn))}, 2)
    assert calls == [("a", 0), ("b", 0), ("a", 1), ("b", 1), ("a", 2), ("b", 2)]
    assert [len(times) for times in found.values()] == [2, 2]
    calls.clear()
    timing.alternate({"a": lambda turn: calls.append(turn)}, 1, least=0.01)
    assert len(calls) > 10


def test_other_work_is_what_this_process_did_not_do(monkeypatch):
    samples = iter([(0.0, 100.0, 5.0), (10.0, 118.0, 8.0), None])
    monkeypatch.setattr(timing.OtherWork, "_sample", staticmethod(lambda: next(samples)))
    other = timing.OtherWork()
    assert other.cores() == 1.5  # 18 s of work in 10 s, 3 of them its own
    assert other.cores() is None


def measured(work: workloads.Workload, **milliseconds) -> dict:
    turns = {name.replace("_", "-"): np.full(3, float(value)) for name, value in milliseconds.items()}
    return tables.table(work, 2, turns, [name for name in turns if not name.startswith("engine")])


def test_ratios_are_over_openvino_s_w8a8_or_else_the_fastest_off_the_shelf():
    work = workloads.workload(8, 128, VOCABULARY)
    one = measured(work, engine_w2_static=5, torch_float=40, onnxruntime_qdq=8, openvino_w8a8=10)
    row = one["rows"]["engine-w2-static"]
    assert (one["reference"], row["ratio"], row["speedup"], row["median_ms"]) == ("openvino-w8a8", 2, 8, 5)
    one = measured(work, engine_w2_static=5, torch_float=40, onnxruntime_qdq=8)
    assert (one["reference"], one["rows"]["engine-w2-static"]["ratio"]) == ("onnxruntime-qdq", 1.6)
    assert measured(work, engine_w2_static=5)["rows"]["engine-w2-static"]["ratio"] is None


def test_a_kernel_far_slower_than_its_siblings_is_named():
    many, few = (workloads.workload(*shape, VOCABULARY) for shape in ((8, 128), (1, 16)))
    shelf = {"torch_float": 40, "openvino_w8a8": 10}
    assert tables.suspicions([measured(many, engine_w1_static=6, engine_w2_static=9, engine_w8_static=12, **shelf)]) == []
    (line,) = tables.suspicions([measured(many, engine_w2_static=20, engine_w8_static=12, engine_w1_dynamic=12, **shelf)])
    assert line.startswith("engine-w2-static takes 1.7 times as long as engine-w8-static (8 rows of 128 tokens, 2 threads)")
    (line,) = tables.suspicions([measured(many, engine_w8_dynamic=20, **shelf)])
    assert line.startswith("engine-w8-dynamic takes 2.0 times as long as openvino-w8a8")
    (line,) = tables.suspicions([measured(many, engine_w8_dynamic=20, torch_int8=15)])
    assert line.startswith("engine-w8-dynamic takes 1.3 times as long as torch-int8")
    assert tables.suspicions([measured(few, engine_w8_dynamic=20, **shelf)]) == []


def test_json_is_all_that_stands_on_stdout(small, monkeypatch, capsys):
    costs = {"load_seconds": 0.1, "memory_bytes": 10**6, "process_bytes": 10**8}
    monkeypatch.setattr(footprint, "measure", lambda *_: costs)
    words = "bench inference --size tiny --batch 2 --length 8 --threads 1 --rounds 1 --only torch-float --json"
    assert main(words.split()) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["contenders"]["torch-float"]["memory_bytes"] == 10**6


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ("train --length 16", "unrecognized arguments: --length 16"),
        ("inference --batch 0", "'0' is no whole number from 1 upwards"),
        ("inference --length 16,mrcp", "'mrcp' is no whole number"),
        ("inference --threads 100000", "100000 threads are more than the"),
        ("inference --size tiny --model x", "not allowed with argument"),
        ("nothing", "invalid choice: 'nothing'"),
    ],
)
def test_options_that_do_not_belong_are_refused(words, complaint, capsys):
    with pytest.raises(SystemExit):
        main(["bench", *words.split()])
    assert complaint in capsys.readouterr().err


def test_a_contender_that_fails_alone_keeps_its_times(small, monkeypatch):
    def fail(*_):
        raise footprint.Failed("Killed")

    monkeypatch.setattr(footprint, "measure", fail)
    report = inference.bench_inference(wanted(only=("torch-float",), batches=(1,), lengths=(8,)), say=lambda line: None)
    assert report["tables"][0]["rows"]["torch-float"]["median_ms"] > 0
    assert report["warnings"][0] == "torch-float has no load time and no memory, for it failed alone: Killed"
    assert "over torch\n" in tables.page(report)


@pytest.mark.slow
def test_costs_are_measured_in_a_process_of_its_own(files):
    found = footprint.measure(runners.Torch, files.float(), 1, {}, 16, VOCABULARY)
    assert found["load_seconds"] > 0
    assert found["process_bytes"] > 10**8
