"""Texts of single rows: decoded as the model reads them, of the very runs that a cell sums up, and only where allowed."""

import json

import numpy as np
import pytest

from methods.common.files import read_sealed, sha256_file, write_sealed
from methods.model.encoder import wordpiece
from methods.tasks import encode
from report.evidence.texts import Texts
from tests.fixtures import cells as fixture
from workflow import catalogue

WORDS = "the nurse stole a bag pear ##s who what in kitchen ? . , < >".split()
PAIRS = {
    "sentence1": ["The nurse stole pears.", "A bag", "The pear"],
    "sentence2": ["the bag", "The nurse, the nurse and <b>", "pears"],
    "label": [0, 1, 0],
}
PASSAGE = "The nurse stole a bag in the kitchen."
QUESTIONS = {
    "id": ["one", "two"],
    "question": ["Who stole a bag?", "What stole the nurse?"],
    "context": [PASSAGE] * 2,
    "answers": [{"text": ["The nurse", "nurse"], "answer_start": [0, 4]}, {"text": [], "answer_start": []}],
}


def results(folder, task: str, columns: dict):
    """Write the base model file and the task file of a preset; return their cells, of full precision and one method."""
    tokenizer = wordpiece(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS])
    write_sealed(folder / "base.safetensors", {"tokenizer": np.frombuffer(tokenizer.encode(), np.uint8)}, {})
    request = json.loads(catalogue.dump(catalogue.load({"preset": "demo"}).request_data(task)))
    path = folder / f"data/{task}.safetensors"
    encode.write_task(path, request, tokenizer, {"train": columns, "validation": columns})
    cells = fixture.board(("fp32", "rtn_2bit"), (task,), seeds=(1,), rows=4, source="generated")
    for cell in cells:
        cell["ran_on"]["dataset"]["fingerprint"] = read_sealed(path, ())[1]["data"]["fingerprint"]
    return cells


def predict(folder, cell: dict, answers: list[str], nulls: list[float], ids: list[str] = QUESTIONS["id"]) -> None:
    """Write the predictions of a cell's run, as `methods run` does."""
    path = folder / f"runs/{cell['request']['method']}/{cell['request']['task']}/1/predictions.npz"
    path.parent.mkdir(parents=True)
    arrays = {"": np.array(answers), ".ids": np.array(ids), ".null": np.array(nulls, np.float32)}
    np.savez_compressed(path, **{f"last.validation{part}": array for part, array in arrays.items()})
    cell["ran_on"]["runs"][0]["files"]["predictions.npz"] = sha256_file(path)


def test_texts_are_as_the_model_reads_them(tmp_path):
    full, cell = results(tmp_path, "mrpc", PAIRS)
    found = Texts(tmp_path).of(cell, full, "last", 1, [1, 0])
    assert {row: texts.columns for row, texts in found.items()} == {
        1: {"sentence1": "a bag", "sentence2": "the nurse, the nurse [UNK] < [UNK] >"},
        0: {"sentence1": "the nurse stole pears.", "sentence2": "the bag"},
    }
    assert found[0].truths is None and found[0].answer is None


@pytest.mark.parametrize("task", ["squad", "squad2"])
def test_a_question_has_its_passage_its_gold_answers_and_both_answers(tmp_path, task):
    answerable = {name: values[:1] for name, values in QUESTIONS.items()}
    full, cell = results(tmp_path, task, QUESTIONS if task == "squad2" else answerable)
    count = len(QUESTIONS["id"]) if task == "squad2" else 1
    predict(tmp_path, full, ["The nurse", "a bag"][:count], [-3.0, 1.0][:count], QUESTIONS["id"][:count])
    predict(tmp_path, cell, ["a bag", "the kitchen"][:count], [-1.0, -2.0][:count], QUESTIONS["id"][:count])
    found = Texts(tmp_path).of(cell, full, "last", 1, list(range(count)))
    assert found[0].columns == {"question": "who stole a bag?", "context": PASSAGE}
    assert (found[0].truths, found[0].reference, found[0].answer) == (["The nurse", "nurse"], "The nurse", "a bag")
    if task == "squad2":
        assert (found[1].truths, found[1].reference, found[1].answer) == ([], "", "the kitchen"), "a null score above 0"


def test_real_texts_need_a_word_of_the_user(tmp_path):
    full, cell = results(tmp_path, "mrpc", PAIRS)
    for source in ("hub", "files"):
        cell["ran_on"]["data"] = source
        assert Texts(tmp_path).of(cell, full, "last", 1, [0]) == {}
        assert len(Texts(tmp_path, real=True).of(cell, full, "last", 1, [0])) == 1


@pytest.mark.parametrize("missing", ["base.safetensors", "data/mrpc.safetensors"])
def test_a_missing_or_damaged_file_leaves_rows_without_texts(tmp_path, missing):
    full, cell = results(tmp_path, "mrpc", PAIRS)
    content = (tmp_path / missing).read_bytes()
    for damage in (content[:-1] + bytes([content[-1] ^ 1]), b"", None):
        (tmp_path / missing).unlink()
        if damage is not None:
            (tmp_path / missing).write_bytes(damage)
        assert Texts(tmp_path).of(cell, full, "last", 1, [0]) == {}
        (tmp_path / missing).touch()


def test_texts_of_other_data_another_tokenizer_or_another_run_are_not_shown(tmp_path):
    full, cell = results(tmp_path / "data", "mrpc", PAIRS)
    cell["ran_on"]["dataset"]["fingerprint"] = "0" * 64
    assert Texts(tmp_path / "data").of(cell, full, "last", 1, [0]) == {}

    full, cell = results(tmp_path / "tokenizer", "mrpc", PAIRS)
    other = np.frombuffer(wordpiece(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the"]).encode(), np.uint8)
    write_sealed(tmp_path / "tokenizer/base.safetensors", {"tokenizer": other}, {})
    assert Texts(tmp_path / "tokenizer").of(cell, full, "last", 1, [0]) == {}

    full, cell = results(tmp_path / "run", "squad2", QUESTIONS)
    predict(tmp_path / "run", full, ["The nurse", "a bag"], [0, 0])
    predict(tmp_path / "run", cell, ["a bag", "the kitchen"], [0, 0])
    assert len(Texts(tmp_path / "run").of(cell, full, "last", 1, [0, 1])) == 2
    cell["ran_on"]["runs"][0]["files"]["predictions.npz"] = "0" * 64
    assert Texts(tmp_path / "run").of(cell, full, "last", 1, [0, 1]) == {}


def test_a_row_that_the_task_file_lacks_shows_no_text(tmp_path):
    full, cell = results(tmp_path, "mrpc", PAIRS)
    assert Texts(tmp_path).of(cell, full, "last", 1, [3]) == {}
