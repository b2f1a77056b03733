"""Entries of config/tasks.yaml: mistakes are one line, defaults are complete, and requests follow the user's files."""

import os

import pytest

from methods.common.errors import UserError
from workflow import catalogue, entries

OWN = {
    "kind": "classification",
    "columns": ["text"],
    "labels": ["a", "b"],
    "files": {"train": "t.csv", "validation": "v.csv"},
}


@pytest.fixture
def load(monkeypatch):
    """`load(mine=entry)`: the catalogue with more entries."""
    read = catalogue.read_yaml

    def load(**more) -> catalogue.Catalogue:
        monkeypatch.setattr(catalogue, "read_yaml", lambda path: read(path) | (more if path.name == "tasks.yaml" else {}))
        return catalogue.load({"preset": "demo"})

    return load


HUB = catalogue.load({"preset": "demo"}).tasks["rte"]


def without(entry: dict, *keys: str) -> dict:
    return {key: value for key, value in entry.items() if key not in keys}


@pytest.mark.parametrize(
    ("entry", "line"),
    [
        ({**OWN, "dataset": "nyu-mll/glue"}, r"mine has `files` and `dataset`: keep `files` for rows of your own, or"),
        (without(OWN, "files"), r"mine names no rows: add `files: \{train: my\.csv, validation: my\.csv\}`"),
        (without(HUB, "revision"), "mine is a task of the hub and lacks `revision`: add it"),
        (without(HUB, "suite"), "mine is a task of the hub and lacks `suite`: add it"),
        ({**OWN, "suite": "GLUE"}, r"mine\.suite: a task of your own belongs to no suite"),
        ({**OWN, "averaged": True}, r"mine\.averaged: a task of your own belongs to no suite"),
        ({**OWN, "kind": "clasification"}, r"unknown kind 'clasification'\. Did you mean 'classification'\?"),
        ({**OWN, "labels": [True, False]}, r"mine\.labels: True is no text: write every label in quotes"),
        ({**OWN, "labels": [0, 1]}, r"mine\.labels: 0 is no text"),
        ({**OWN, "range": [5, 0]}, r"mine\.range: \[5, 0\] is empty: write the lower bound first"),
        ({**OWN, "colums": ["text"]}, r"unknown key 'colums' at mine\. Did you mean 'columns'\?"),
        ({**OWN, "files": {"train": "t.csv"}}, r"mine\.files: 'validation' is a required property"),
        ({**OWN, "files": {**OWN["files"], "test": "x"}}, r"unknown key 'test' at mine\.files"),
        ({**OWN, "columns": "text"}, r"mine\.columns: 'text' is not of type 'array'"),
        (without(OWN, "kind"), r"mine: 'kind' is a required property"),
        (None, "mine is empty: write the task's keys below it"),
    ],
)
def test_a_mistake_in_an_entry_is_one_line(load, entry, line):
    with pytest.raises(UserError, match=line) as error:
        load(mine=entry)
    assert str(error.value).startswith("config/tasks.yaml: ") and "\n" not in str(error.value)


def test_a_name_that_no_cell_can_have_is_one_line(load):
    with pytest.raises(UserError, match=r"'My_Task' cannot be a task's name: use lower-case letters and digits"):
        load(My_Task=OWN)


def test_an_own_task_has_defaults_and_enters_no_average(load):
    entry = load(mine=OWN).tasks["mine"]
    assert {key: entry[key] for key in ("title", "suite", "averaged")} == {"title": "mine", "suite": None, "averaged": False}
    assert load(mine=OWN).evaluate_every("mine") == 50, "of the demo's budget"
    assert load(mine={**OWN, "evaluate_every": 7}).tasks["mine"]["evaluate_every"] == 7
    suites = {name: (entry["suite"], entry["averaged"]) for name, entry in load().tasks.items()}
    assert suites["wnli"] == ("GLUE", False)
    assert {suite for suite, averaged in suites.values() if averaged} == {"GLUE", "SQuAD"}


def test_titles_and_suites_change_no_data(load):
    changed = {**HUB, "title": "Entailment", "suite": "Mine", "averaged": False}
    before, after = load(), load(rte=changed)
    assert before.request_data("rte") == after.request_data("rte")
    assert before.request("fp32", "rte", 1) == after.request("fp32", "rte", 1)


def test_changed_files_change_the_requests_and_touched_ones_do_not(load, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    for name in ("t.csv", "v.csv", "model/config.json", "model/model.safetensors", "model/vocab.txt"):
        (tmp_path / name).write_text("1")
    found = load(mine={**OWN, "finetuned": "model"})
    data, base = found.request_data("mine"), found.request_base("mine")
    for name in ("t.csv", "model/vocab.txt"):
        os.utime(tmp_path / name, (0, 0))
    assert (found.request_data("mine"), found.request_base("mine")) == (data, base)
    (tmp_path / "t.csv").write_text("2")
    assert found.request_data("mine") != data and found.request_base("mine") == base
    (tmp_path / "model/vocab.txt").write_text("22")
    assert found.request_base("mine") != base
    (tmp_path / "v.csv").unlink()
    assert found.request_data("mine")["files"]["v.csv"] is None
    assert entries.missing(entries.files_of(found.tasks["mine"]), "mine.files") == (
        "v.csv does not exist: correct `mine.files` in config/tasks.yaml (paths start at the working directory)."
    )


def test_an_own_model_is_the_run_of_methods_without_ancestors_and_the_base_of_its_task_alone(load):
    found = load(mine={**OWN, "finetuned": "model"})
    assert found.request("fp32", "mine", 1)["finetuned"] is True
    assert "finetuned" not in found.request("lsq_4bit", "mine", 1)
    assert "finetuned" not in found.request("fp32", "rte", 1)
    assert (found.base_file("mine"), found.base_file("rte")) == ("base/mine.safetensors", "base.safetensors")
    assert found.request_base("rte") == found.request_base()
    assert all(row["id"] != "t.csv" for row in found.repositories())


def test_a_task_that_the_demo_does_not_generate_is_one_line(load):
    from methods.tasks import sources

    with pytest.raises(UserError, match="The demo generates no rows for mine: take a preset with real data"):
        sources.rows(load(mine=HUB).request_data("mine"))
