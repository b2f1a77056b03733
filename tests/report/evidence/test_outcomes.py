"""The predictions that a cell keeps of its runs, and the refusal of those that contradict their run."""

import hashlib
import io
import json
from pathlib import Path

import numpy as np
import pytest

from methods.common.errors import UserError
from report.evidence.cells import make_cell
from report.evidence.outcomes import Outcomes, to_json, unpack
from tests.fixtures.runs import ABOUT, run_record, write_run

REFERENCES = np.array([0, 1, 1, 0] * 25)


def answers(right: int, dtype=np.float32) -> np.ndarray:
    """Logits of two classes of which the first `right` are right."""
    labels = np.where(np.arange(100) < right, REFERENCES, 1 - REFERENCES)
    return np.eye(2, dtype=dtype)[labels]


def classified(last: int, best: int, references=REFERENCES) -> dict:
    return {"labels.validation": references, "last.validation": answers(last), "best.validation": answers(best)}


def folder_of(path: Path, arrays: dict, metric: str = "accuracy", **request) -> Path:
    content = io.BytesIO()
    np.savez(content, **arrays)
    record = run_record(**request)
    record["metric"] = metric
    for block in (*record["scores"].values(), record["baseline"]):
        block["metrics"] = {metric: block["metrics"]["accuracy"]}
    record["files"]["predictions.npz"] = hashlib.sha256(content.getvalue()).hexdigest()
    write_run(path, record)
    (path / "predictions.npz").write_bytes(content.getvalue())
    return path


def test_labels_come_back_seed_by_seed(tmp_path):
    one = folder_of(tmp_path / "1", classified(61, 62), seed=1)
    two = folder_of(tmp_path / "2", classified(70, 71), seed=2, last=70.0, best=71.0)
    cell = json.loads(json.dumps(make_cell([one, two], "last", ABOUT)))
    found = unpack(cell["measured"]["outcomes"])
    assert (found.kind, found.examples) == ("labels", 100)
    assert (found.references == REFERENCES).all()
    assert [int((found.predictions["best"][seed] == REFERENCES).sum()) for seed in (1, 2)] == [62, 71]


def test_labels_of_more_classes_than_a_byte_holds_come_back():
    references, answers = np.array([5, 299, 10, 256]), np.array([261, 299, 10, 0])
    packed = to_json(Outcomes("labels", "k" * 64, references, {"last": {1: answers}}))
    found = unpack(json.loads(json.dumps(packed)))
    assert (found.references == references).all() and (found.predictions["last"][1] == answers).all()
    narrow = to_json(Outcomes("labels", "k" * 64, references % 256, {"last": {1: answers % 256}}))
    assert packed["wide"] is True and "wide" not in narrow


def test_values_and_scores_of_answers_are_kept(tmp_path):
    values = np.linspace(0, 5, 40, dtype=np.float32)
    arrays = {"labels.validation": values, "last.validation": values, "best.validation": -values}
    cell = make_cell([folder_of(tmp_path / "a", arrays, "spearman", last=100.0, best=-100.0)], "last", ABOUT)
    found = unpack(cell["measured"]["outcomes"])
    assert found.kind == "values" and (found.predictions["best"][1] == -values).all()
    arrays = {"last.validation": np.array(["a"] * 4), "last.validation.ids": np.array(list("abcd"))}
    arrays |= {name.replace("last", "best"): array for name, array in arrays.items()}
    unscored = make_cell([folder_of(tmp_path / "b", arrays, "f1", task="squad", last=62.5, best=50.0)], "last", ABOUT)
    assert unscored["measured"]["outcomes"] is None, "texts without golds tell nothing"
    arrays |= {"last.validation.f1": np.array([1.0, 1.0, 0.5, 0.0]), "best.validation.f1": np.array([1.0, 1.0, 0.0, 0.0])}
    cell = make_cell([folder_of(tmp_path / "c", arrays, "f1", task="squad", last=62.5, best=50.0)], "last", ABOUT)
    found = unpack(cell["measured"]["outcomes"])
    assert found.kind == "scores" and found.references is None
    assert found.predictions["last"][1].tolist() == [1.0, 1.0, 0.5, 0.0]


def test_predictions_that_contradict_their_run_are_refused(tmp_path):
    folder = folder_of(tmp_path / "run", classified(61, 63))
    with pytest.raises(UserError, match=r"predictions\.npz gives best accuracy 63\.00 though run\.json records 62\.00"):
        make_cell([folder], "last", ABOUT)


def test_seeds_scored_on_other_examples_are_refused(tmp_path):
    one = folder_of(tmp_path / "1", classified(61, 62), seed=1)
    other = folder_of(tmp_path / "2", classified(61, 62, references=1 - REFERENCES), seed=2)
    with pytest.raises(UserError, match="do not hold predictions for the same examples"):
        make_cell([one, other], "last", ABOUT)


def test_objects_in_predictions_are_refused(tmp_path):
    arrays = classified(61, 62) | {"last.validation": np.array([{"not": "numbers"}] * 100)}
    with pytest.raises(UserError, match="not readable as predictions"):
        make_cell([folder_of(tmp_path / "run", arrays)], "last", ABOUT)


def test_a_large_dev_set_is_kept_in_few_bytes(tmp_path):
    random = np.random.default_rng(0)
    references = random.integers(0, 2, 40_000)
    labels = np.where(random.random(40_000) < 0.9, references, 1 - references)
    score = 100 * float((labels == references).mean())
    logits = np.eye(2, dtype=np.float32)[labels]
    arrays = {"labels.validation": references, "last.validation": logits, "best.validation": logits}
    cell = make_cell([folder_of(tmp_path / "run", arrays, last=score, best=score)], "last", ABOUT)
    assert len(json.dumps(cell["measured"]["outcomes"])) < 40_000
