"""Runs that search: an allocation is what they leave, a kill costs no answer, and students read what was found."""

import json

import pytest

from methods import binarybert
from methods.common import files, interrupt
from methods.common.errors import UserError
from methods.model import artifact
from methods.training.ancestors import ALLOCATION, Ancestor
from methods.training.context import Journal
from tests.fixtures.runs_of_methods import request

QUESTIONS = 1 + 1 + 2 * 6 + 1  # the loss as it is; then the word embedding, the matrices and the pooler, one by one


class Killed(BaseException):
    """What nothing catches."""


@pytest.fixture
def search(run_method, tmp_path):
    """`search()`: the search of adaptive splitting, in a folder of this test."""
    half = run_method("ternary_half_a8")[1]

    def run(**settings):
        return run_method.execute(request("split_search", **settings), tmp_path / "search", {"init": half})

    return run


def count_answers(monkeypatch) -> list[str]:
    """Return a list that every question which is worked out is added to."""
    asked, once = [], Journal.once

    def counted(self, question, compute):
        return once(self, question, lambda: asked.append(question) or compute())

    monkeypatch.setattr(Journal, "once", counted)
    return asked


def equal_to_the_whole_one(tmp_path, whole) -> None:
    for name in ("run.json", ALLOCATION):
        assert (tmp_path / "search" / name).read_bytes() == (whole / name).read_bytes(), name
    assert not (tmp_path / "search/checkpoints").exists()


@pytest.mark.parametrize("answers", [1, 6, QUESTIONS])
def test_a_search_that_was_killed_goes_on_with_the_next_question(answers, search, run_method, monkeypatch, tmp_path):
    """With all answers found it is killed before it writes its allocation."""
    write, written = files.write_json, []

    def kill(path, content):
        write(path, content)
        written.append(path)
        if len(written) == answers:
            raise Killed

    asked = count_answers(monkeypatch)
    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(files, "write_json", kill)
        search()
    assert len(asked) == answers
    assert {path.name for path in (tmp_path / "search").iterdir()} == {"checkpoints", ".lock"}
    search()
    assert len(asked) == len(set(asked)) == QUESTIONS
    equal_to_the_whole_one(tmp_path, run_method("split_search")[1])


def test_a_search_that_is_asked_to_leave_does_so_before_the_next_question(search, run_method, monkeypatch, tmp_path):
    asked = count_answers(monkeypatch)
    usual = binarybert.labels

    def told(*inputs):
        if len(asked) == 4:
            monkeypatch.setattr(interrupt, "_asked", True)
        return usual(*inputs)

    with monkeypatch.context() as patched, pytest.raises(interrupt.Interrupted):
        patched.setattr(binarybert, "labels", told)
        search()
    assert len(asked) == 4
    monkeypatch.setattr(interrupt, "_asked", False)
    search()
    assert len(asked) == QUESTIONS
    equal_to_the_whole_one(tmp_path, run_method("split_search")[1])


def test_the_answers_of_another_search_are_not_taken(search, monkeypatch, tmp_path):
    asked = count_answers(monkeypatch)
    write = files.write_json

    def kill(path, content):
        write(path, content)
        if len(asked) == 5:
            raise Killed

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(files, "write_json", kill)
        search()
    search(padding="max_length")
    assert len(asked) == 5 + QUESTIONS


@pytest.mark.parametrize("content", ["", "[]", "null", '{"identity": "x"}', '{"identity": 3, "answers": []}'])
def test_a_damaged_journal_is_begun_anew(content, search, run_method, tmp_path):
    (tmp_path / "search/checkpoints").mkdir(parents=True)
    (tmp_path / "search/checkpoints/journal.json").write_text(content)
    search()
    equal_to_the_whole_one(tmp_path, run_method("split_search")[1])


def test_a_finished_search_is_left_alone_and_a_damaged_one_is_made_again(search, monkeypatch, tmp_path):
    search()
    asked = count_answers(monkeypatch)
    before = (tmp_path / "search" / ALLOCATION).read_bytes()
    search()
    assert not asked
    (tmp_path / "search" / ALLOCATION).write_text("{}")
    with pytest.raises(UserError, match=r"allocation\.json is damaged"):
        Ancestor.read(tmp_path / "search", "last").allocation()
    search()
    assert len(asked) == QUESTIONS
    assert (tmp_path / "search" / ALLOCATION).read_bytes() == before


def test_an_answer_that_is_no_number_is_never_kept(tmp_path):
    journal = Journal(tmp_path / "journal.json", "x")
    with pytest.raises(ValueError):
        journal.once("loss", lambda: float("nan"))
    assert not (tmp_path / "journal.json").exists()


def test_the_allocation_names_layers_and_adaptive_splitting_runs_on_top_of_it(run_method):
    """The mixed model is binary where the search said so; splitting leaves binary layers alone."""
    allocation = json.loads((run_method("split_search")[1] / ALLOCATION).read_text())
    mixed = run_method.students[run_method("mixed_half_a8")[1]]
    assert mixed.record.edits[-1]["modules"] == allocation["binary"]
    record, folder = run_method("tws_1bit_adaptive")
    assert record["status"] == "ok"
    model, meta = artifact.load(folder / "last.safetensors")
    assert meta["edits"][-1]["modules"] == allocation["split"]
    halves = {name.removesuffix(".first") for name, _ in model.named_modules() if name.endswith(".first")}
    assert halves == set(allocation["split"])


def test_a_search_has_no_model_to_give(run_method):
    search = Ancestor.read(run_method("split_search")[1], "last")
    assert search.score is None
    with pytest.raises(UserError, match="its method cannot be an ancestor in this role"):
        Ancestor.read(run_method("fp32")[1], "last").allocation()
