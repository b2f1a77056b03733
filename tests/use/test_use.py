"""`inspect` and `predict`: what a finished model file says of itself, and what it answers to texts from outside."""

import dataclasses
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from methods import fp32, ptq
from methods import run as harness
from methods.__main__ import main
from methods.common.errors import UserError
from methods.model import artifact
from methods.model.encoder import build, wordpiece, write_base
from methods.tasks import demo, encode
from methods.use import Model, inspection, prediction
from report.evidence.cells import make_cell
from report.evidence.outcomes import unpack
from tests.fixtures.runs import ABOUT
from tests.fixtures.world import CONFIG
from workflow import catalogue

ROWS = {"train": 48, "validation": 40}  # one batch of scoring holds all dev rows, in any order
SETTINGS = {"preset": "demo", "allow_weak_teacher": True, "budget": {"batch_size": 16, "max_length": 32}}


@pytest.fixture(scope="module")
def world(base, tmp_path_factory):
    """`world("stsb")`: a folder laid out as results/demo, with a short run of fp32 on some of the demo's rows."""
    made = {}

    def make(task: str) -> SimpleNamespace:
        if task in made:
            return made[task]
        folder = tmp_path_factory.mktemp(task)
        rows = {split: rows[: ROWS[split]] for split, rows in demo.generate(task).items()}
        splits = {split: {name: [row[name] for row in some] for name in some[0]} for split, some in rows.items()}
        texts = [value for some in rows.values() for row in some for value in row.values() if isinstance(value, str)]
        words = sorted({word for text in texts for word in demo.WORD.findall(text.lower())})
        tokenizer = wordpiece(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *words])
        config = {**CONFIG, "vocab_size": len(words) + 4, "initializer_range": 0.3}  # so that rows get different answers
        torch.manual_seed(0)
        weights = build(config, "sequence", 2).base_model.state_dict()
        arrays = {name: tensor.numpy() for name, tensor in weights.items()}
        write_base(
            folder / "base.safetensors", dataclasses.replace(base, weights=arrays, config=config, tokenizer=tokenizer)
        )
        found = catalogue.load(SETTINGS)
        run_request = json.loads(catalogue.dump(found.request_data(task)))
        encode.write_task(folder / f"data/{task}.safetensors", run_request, tokenizer, splits)
        made[task] = SimpleNamespace(folder=folder, dev=splits["validation"], task=task)
        run(made[task], "fp32", fp32)
        return made[task]

    return make


def run(world, method: str, family) -> Path:
    """The folder of a run of `method`, which descends from fp32 if from any."""
    out = world.folder / f"runs/{method}/{world.task}/1"
    run_request = json.loads(catalogue.dump(catalogue.load(SETTINGS).request(method, world.task, 1)))
    harness.execute(
        run_request,
        family,
        out,
        data_path=world.folder / f"data/{world.task}.safetensors",
        base_path=world.folder / "base.safetensors",
        ancestors={role: world.folder / f"runs/fp32/{world.task}/1" for role in run_request["ancestors"]},
    )
    return out


def rows_of(world) -> list[tuple[str, ...]]:
    columns = catalogue.load(SETTINGS).tasks[world.task]["columns"]
    return list(zip(*(world.dev[name] for name in columns), strict=True))


def model_of(world, method: str = "fp32") -> Path:
    return world.folder / f"runs/{method}/{world.task}/1/last.safetensors"


def reference(path: Path, base: Path | None = None) -> Model:
    """The model under the code that scored it."""
    return Model(path, engine="torch", base=base)


def ask_stdin(monkeypatch, capsys, model: Path, content: str, *words: str) -> tuple[int, list[dict], str]:
    """Exit code, answers and standard error of `predict` with lines on standard input."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content.encode())))
    capsys.readouterr()
    code = main(["predict", str(model), *words])
    told = capsys.readouterr()
    return code, [json.loads(line) for line in told.out.splitlines()], told.err


def softmax(logits: np.ndarray) -> np.ndarray:
    odds = np.exp(logits - logits.max(1, keepdims=True))
    return odds / odds.sum(1, keepdims=True)


@pytest.mark.parametrize(("task", "method"), [("sst2", "fp32"), ("mrpc", "fp32"), ("sst2", "rtn_4bit")])
def test_labels_and_probabilities_are_those_of_the_runs_stored_logits(world, task, method):
    found = world(task)
    folder = run(found, method, ptq) if method != "fp32" else model_of(found).parent
    stored = np.load(folder / "predictions.npz")["last.validation"].astype(np.float64)
    answers = reference(folder / "last.safetensors")(rows_of(found))
    labels = catalogue.load(SETTINGS).tasks[task]["labels"]
    assert [answer["label"] for answer in answers] == [labels[index] for index in stored.argmax(1)]
    assert np.array_equal([[answer["probabilities"][label] for label in labels] for answer in answers], softmax(stored))
    assert len({answer["probability"] for answer in answers}) > len(answers) / 2, "rows that cannot be told apart"


def test_values_are_those_stored(world):
    found = world("stsb")
    stored = np.load(model_of(found).parent / "predictions.npz")["last.validation"]
    assert [answer["value"] for answer in reference(model_of(found))(rows_of(found))] == stored.tolist()


@pytest.mark.parametrize("task", ["squad", "squad2"])
def test_answers_are_those_stored_with_passages_in_several_windows(world, task):
    found = world(task)
    stored = np.load(model_of(found).parent / "predictions.npz")
    answers = reference(model_of(found))(rows_of(found))
    silent = (stored["last.validation.null"] > 0) & (task == "squad2")
    expected = np.where(silent, "", stored["last.validation"]).tolist()
    assert [answer["answer"] for answer in answers] == expected
    assert any(expected)
    for answer, null in zip(answers, stored["last.validation.null"].tolist(), strict=True):
        assert 0 < answer["probability"] <= 1
        assert ("no_answer" in answer) == (task == "squad2")
        if answer["answer"] and task == "squad2":  # the null difference is the log of the odds
            assert np.log(answer["no_answer"] / answer["probability"]) == pytest.approx(null, abs=1e-5)


def test_a_list_among_an_edits_options_is_told_by_its_length():
    told = inspection._edit({"kind": "split", "modules": ["a", "b"], "weights": {"kind": "binary"}})
    assert told == "split: modules (2), weights (binary)"


def test_lines_of_json_are_answered_in_order_under_either_kind_of_name(world, monkeypatch, capsys):
    found = world("mrpc")
    rows = rows_of(found)
    own = [{"sentence1": a, "sentence2": b, "label": 1, "idx": 7} for a, b in rows[:20]]
    general = [{"pair": b, "text": a} for a, b in rows[20:]]
    content = "\n".join(map(json.dumps, own + general)).replace("\n", "\n\n", 3)
    code, answers, _ = ask_stdin(monkeypatch, capsys, model_of(found), content, "--batch", "7")
    expected = reference(model_of(found))(rows)
    assert code == 0
    assert [answer["label"] for answer in answers] == [answer["label"] for answer in expected]
    pairs = zip(answers, expected, strict=True)
    assert all(answer["probability"] == pytest.approx(one["probability"], abs=1e-5) for answer, one in pairs)


def test_a_wrong_key_of_a_pair_is_named(world, monkeypatch, capsys):
    for line in ('{"sentence1": "a", "sentence_2": "b"}', '{"text": "a", "sentence_2": "b"}'):
        code, _, error = ask_stdin(monkeypatch, capsys, model_of(world("mrpc")), line + "\n")
        told = 'line 1 of the input: unknown key "sentence_2". mrpc takes "sentence1" and "sentence2", or "text" and "pair".'
        assert code == 1 and told in error


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("good film", 'line 3 of the input is no JSON object: write lines such as {"sentence": "..."}.'),
        ("[1]", "line 3 of the input is no JSON object"),
        ('{"sentense": "a"}', 'line 3 of the input: unknown key "sentense". sst2 takes "sentence", or "text".'),
        ('{"label": 1, "a": 2, "b": 3, "c": 4}', 'input: unknown keys "label", "a", "b" and 1 more. sst2 takes'),
        ("{}", "line 3 of the input: sst2 takes 1 text (sentence), and 0 can be found."),
        ('{"text": "a", "pair": "b"}', "line 3 of the input: sst2 takes 1 text (sentence), and 2 can be found."),
        ('{"sentence": 3}', "line 3 of the input: sentence is no text but 3."),
        ('{"sentence": "\\ud800"}', "line 3 of the input: sentence is no valid Unicode text"),
    ],
)
def test_a_malformed_line_is_named_and_those_before_it_are_answered(world, monkeypatch, capsys, line, told):
    good = '{"sentence": "The finale is hardly predictable."}\n'
    code, answers, error = ask_stdin(monkeypatch, capsys, model_of(world("sst2")), good * 2 + line + "\n" + good)
    assert (code, len(answers)) == (1, 2)
    assert error.count("\n") == 1
    assert told in error


def test_one_question_is_answered_in_a_few_aligned_lines(world, capsys):
    def asked(task: str, *texts: str) -> list[str]:
        assert main(["predict", str(model_of(world(task))), *texts]) == 0
        return capsys.readouterr().out.splitlines()

    world("sst2"), world("stsb"), world("squad2")
    capsys.readouterr()
    first, second = (line.split() for line in asked("sst2", "The finale is hardly predictable."))
    assert {first[0], second[0]} == {"negative", "positive"}
    assert float(first[1]) >= float(second[1])
    assert float(first[1]) + float(second[1]) == pytest.approx(1, abs=2e-4)
    (value,) = asked("stsb", "The nurse slept.", "The nurse ran.")
    assert value.split()[0] == "value"
    told = asked("squad2", "Who hid the scarf?", "The nurse concealed the scarf at the bank in April.")
    assert [line[:11].rstrip() for line in told] == ["answer", "probability", "score", "no answer"]


def test_an_empty_passage_has_no_answer_whatever_the_task(world):
    (answer,) = reference(model_of(world("squad")))([("Who hid the scarf?", "")])
    assert (answer["answer"], answer["probability"]) == ("", 1.0)


@pytest.mark.parametrize("texts", [("only one",), ("one", "two", "three")])
def test_a_wrong_number_of_texts_is_one_line_with_the_right_one(world, capsys, texts):
    assert main(["predict", str(model_of(world("squad"))), *texts]) == 1
    told = capsys.readouterr().err
    assert f"squad takes 2 texts (question, then context), and {len(texts)} can be found." in told


def test_the_tokenizer_is_looked_for_above_the_file_then_in_the_results_then_under_base(world, tmp_path, monkeypatch):
    found, other = world("sst2"), world("stsb")
    rows = rows_of(found)[:2]
    monkeypatch.chdir(tmp_path)
    model = tmp_path / "elsewhere/model.safetensors"
    model.parent.mkdir()
    model.write_bytes(model_of(found).read_bytes())
    with pytest.raises(UserError, match=r"needs the tokenizer of tiny, and no base\.safetensors exists .* --preset demo"):
        reference(model)
    with pytest.raises(UserError, match=r"nowhere\.safetensors is missing"):
        reference(model, tmp_path / "nowhere.safetensors")
    with pytest.raises(UserError, match=r"last\.safetensors is no base model file"):
        reference(model, model_of(found))
    with pytest.raises(UserError, match=r"base\.safetensors has another one: .* name it with --base"):
        reference(model, other.folder / "base.safetensors")
    expected = reference(model_of(found))(rows)
    assert reference(model, found.folder / "base.safetensors")(rows) == expected
    (tmp_path / "elsewhere/base.safetensors").write_bytes(b"of another program")
    (tmp_path / "base.safetensors").write_bytes((other.folder / "base.safetensors").read_bytes())
    (tmp_path / "results/demo").mkdir(parents=True)
    (tmp_path / "results/demo/base.safetensors").write_bytes((found.folder / "base.safetensors").read_bytes())
    assert reference(model)(rows) == expected, "another preset's base model above the file is passed over"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no disk that is always full")
def test_an_answer_that_cannot_be_written_is_one_line(world):
    command = [sys.executable, "-m", "methods", "inspect", str(model_of(world("sst2")))]
    environment = {**os.environ, "PYTHONPATH": str(catalogue.ROOT)}
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, env=environment)
    assert done.returncode == 1 and done.stderr.startswith("error: No space is left")
    assert len(done.stderr.splitlines()) == 1


def test_closed_streams_are_no_mistake(world):
    command = f"{sys.executable} -m methods inspect {model_of(world('sst2'))} >&- 2>&-"
    done = subprocess.run(command, shell=True, env={**os.environ, "PYTHONPATH": str(catalogue.ROOT)})
    assert done.returncode == 0


def test_a_task_with_a_column_named_text_takes_text_and_pair(world):
    model = SimpleNamespace(meta={"columns": ["text", "hypothesis"], "task": "mine"}, row=lambda texts, where: texts)
    assert prediction._row(model, b'{"text": "a", "pair": "b"}', 1) == ["a", "b"]
    assert prediction._row(model, b'{"text": "a", "hypothesis": "b", "pair": "c"}', 1) == ["a", "b"]


def test_predict_works_in_a_pipe_and_imports_no_library_of_data_sets(world):
    code = (
        "import sys; from methods.__main__ import main; code = main(sys.argv[1:]); "
        "heavy = {'datasets', 'evaluate', 'pandas', 'pyarrow', 'transformers'}; "
        "print(sorted(heavy & sys.modules.keys()), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "predict", str(model_of(world("sst2")))],
        input='{"text": "The finale is hardly predictable."}\n',
        env={**os.environ, "PYTHONPATH": str(catalogue.ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.stderr.splitlines()[-1] == "[]", done.stderr
    assert json.loads(done.stdout)["label"] in ("negative", "positive")


def test_outputs_that_are_not_finite_are_one_line(world):
    model = reference(model_of(world("sst2")))
    with torch.no_grad():
        model.session.model.classifier.bias[0] = float("inf")
    with pytest.raises(
        UserError, match=r"last\.safetensors returns numbers that are not finite .*: make its run again"
    ) as error:
        model([("a text",)])
    assert "\n" not in str(error.value)


# --- inspect ------------------------------------------------------------------------------------------------


def test_a_file_tells_where_it_comes_from_and_its_sizes_are_those_of_its_run(world, capsys):
    found = world("sst2")
    folder = run(found, "rtn_4bit", ptq)
    record = json.loads((folder / "run.json").read_text())
    capsys.readouterr()
    assert main(["inspect", str(folder / "best.safetensors"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["size"] == record["size"]["best"]
    assert {key: told[key] for key in ("method", "task", "seed", "preset")} == {
        key: record["request"][key] for key in ("method", "task", "seed", "preset")
    }
    assert (told["protocol"], told["step"]) == ("best", record["scores"]["best"]["step"])
    assert told["code"] == record["ran_on"]["code"]
    arrays, meta = artifact.read(folder / "best.safetensors")
    assert told["layers"].keys() == meta["packed"].keys()
    table = told["layers"]["bert.embeddings.word_embeddings.weight"]
    steps = arrays["bert.embeddings.word_embeddings.weight.step"]
    assert (table["bits"], table["step"]["count"]) == (4, len(steps))
    assert (table["step"]["min"], table["step"]["max"]) == (float(steps.min()), float(steps.max()))


def test_a_file_without_the_record_of_its_run_is_measured(world, tmp_path):
    path = run(world("sst2"), "rtn_4bit", ptq) / "last.safetensors"
    expected = inspection.facts(path)
    copied = tmp_path / path.name
    copied.write_bytes(path.read_bytes())
    assert inspection.facts(copied) == expected | {"file": str(copied)}
    record = json.loads(path.with_name("run.json").read_text())
    of_another_file = {**record, "files": {path.name: "0" * 64}, "bits": dict.fromkeys(record["bits"], 1.0)}
    of_another_form = {**record, "bits": dict.fromkeys(record["bits"], "1")}
    for strange in (of_another_file, of_another_form, {**record, "size": None}, {}):
        (tmp_path / "run.json").write_text(json.dumps(strange))
        assert inspection.facts(copied)["bits"] == expected["bits"]


def test_inspecting_the_model_of_a_run_imports_no_torch(world):
    program = (
        "import sys; from methods.__main__ import main; assert main(sys.argv[1:]) == 0; "
        "print(*sorted({'torch', 'transformers', 'scipy'} & {*sys.modules}))"
    )
    words = [sys.executable, "-c", program, "inspect", "--layers", str(model_of(world("sst2")))]
    done = subprocess.run(words, capture_output=True, text=True, check=True, cwd=catalogue.ROOT)
    assert done.stdout.endswith("\n\n"), done.stdout.splitlines()[-1]


def test_the_page_is_readable_on_80_columns_and_lists_matrices_when_asked(world):
    found = world("sst2")
    folder = run(found, "rtn_4bit", ptq)
    told = inspection.facts(folder / "last.safetensors")
    brief, whole = (inspection.page(told, layers) for layers in (False, True))
    lines = whole.splitlines()[1:]  # the first is the file's own path
    assert max(map(len, lines)) <= 80
    for text in ("rtn_4bit (methods/ptq.py)", "seed 1, preset demo, last model", "weights 4"):
        assert text in brief
    assert "layer.0.attention.self.query" in whole
    assert "layer.0.attention.self.query" not in brief
    rows = {line[:14].strip(): line.split() for line in lines}
    for name, key in (("paper", "paper_bytes"), ("counted", "counted_bytes"), ("on disk", "file_bytes")):
        _, count, _, ratio = rows[name][-4:]
        assert count == f"{told['size'][key]:,}"
        assert float(ratio) == pytest.approx(told["size"]["fp32_bytes"] / told["size"][key], abs=0.006)


def test_a_file_without_quantized_weights_says_so(world):
    assert inspection.page(inspection.facts(model_of(world("sst2"))), layers=True).endswith("No matrix is packed.")


def test_what_is_no_model_file_is_one_line(world, tmp_path, capsys):
    found = world("sst2")
    damaged, foreign = (tmp_path / f"{name}.safetensors" for name in ("damaged", "foreign"))
    content = bytearray(model_of(found).read_bytes())
    content[-1] ^= 1
    damaged.write_bytes(content)
    save_file({"weight": np.zeros(3, np.float32)}, foreign)
    cases = {
        damaged: "damaged.safetensors is damaged (tensor ",
        foreign: "foreign.safetensors is damaged or not one of ours (KeyError in its header): name another file",
        tmp_path / "missing.safetensors": "missing.safetensors is missing",
        tmp_path: "is missing",
        found.folder / "base.safetensors": "base.safetensors is no model file: name the last.safetensors",
        found.folder / "data/sst2.safetensors": "sst2.safetensors is no model file",
        found.folder / "runs/fp32/sst2/1/run.json": "run.json is damaged or not one of ours",
    }
    for path, told in cases.items():
        for words in (["inspect", str(path)], ["predict", str(path), "a text"]):
            capsys.readouterr()
            assert main(words) == 1
            error = capsys.readouterr().err
            assert told in error
            assert error.count("\n") == 1


# --- scores of single questions -----------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["squad", "squad2"])
def test_a_run_keeps_each_questions_scores_and_its_cell_takes_them_over(world, task):
    folder = model_of(world(task)).parent
    stored = np.load(folder / "predictions.npz")
    record = json.loads((folder / "run.json").read_text())
    for protocol, scores in record["scores"].items():
        for metric in ("f1", "exact"):
            values = stored[f"{protocol}.validation.{metric}"]
            assert (values.dtype, values.shape) == (np.float32, stored[f"{protocol}.validation.ids"].shape)
            assert 100 * values.mean() == pytest.approx(scores["metrics"][metric], abs=1e-4)
    kept = unpack(make_cell([folder], "last", ABOUT)["measured"]["outcomes"])
    assert (kept.kind, kept.examples) == ("scores", ROWS["validation"])
    assert kept.predictions["last"][1].tolist() == stored["last.validation.f1"].tolist()
