"""Trials of other numbers: stanzas of their own, scored on training rows that no run trained on, judged pair by pair."""

import copy
import json
import subprocess

import pytest

from methods.common.errors import UserError
from methods.common.files import read_json
from report import making, tuning
from report.__main__ import main
from report.evidence.reading import read_cells
from tests.fixtures import cells as fixture
from tests.fixtures.workflow import TINY
from workflow import catalogue, documents

SETTINGS = {"preset": "small", "data": {"held_out": 0.2}}


def test_every_combination_is_a_stanza_like_the_method_but_for_its_numbers():
    found = tuning.plan("lsq_4bit_rte", {"lr": [2e-5, 5e-5], "epochs": [3, 6]}, SETTINGS)
    assert found.trials == {
        "lsq_4bit": {"lr": 5e-5, "epochs": 3},
        "lsq_4bit_lr_2em05_epochs_3": {"lr": 2e-5, "epochs": 3},
        "lsq_4bit_lr_2em05_epochs_6": {"lr": 2e-5, "epochs": 6},
        "lsq_4bit_lr_5em05_epochs_6": {"lr": 5e-5, "epochs": 6},
    }
    made = catalogue.load(found.config)
    own = made.request("lsq_4bit", "rte", 1)
    for name, trial in found.trials.items():
        request = made.request(name, "rte", 1)
        assert request["spec"]["recipe"] == own["spec"]["recipe"] | trial
        assert request["ancestors"] == own["ancestors"] and request["code"] == own["code"]


def test_the_table_has_the_entries_in_the_order_in_which_they_are_tried():
    cells = []
    for name in ("lsq_4bit", "lsq_4bit_warmup_0p1_lr_2em05"):
        (cell,) = copy.deepcopy(fixture.board(("lsq_8bit",), ("stsb",)))
        cell["request"]["method"] = name
        cell["ran_on"]["dataset"]["rows"] = {"train": 4000, "validation": 1000}
        cells.append(cell)
    wanted = tuning.plan("lsq_4bit_stsb", {"warmup": [0.1], "lr": [2e-5]}, SETTINGS)
    _, titles, own, trial, _ = tuning.lines(wanted, cells)
    assert titles.split()[:2] == ["warmup", "lr"]
    assert own.split()[:2] == ["default", "5e-05"]  # the recipe of lsq_4bit names no warmup
    assert trial.split()[:2] == ["0.1", "2e-05"]


def test_each_value_has_a_name_of_its_own():
    values = [0.1, 1, "all", "All", [1, 2], [12], {"a": 1}, {"a": 2}, -1, True]
    names = [tuning._letters(value) for value in values]
    assert len(set(names)) == len(values) and all(name.isalnum() and name == name.lower() for name in names)


@pytest.mark.parametrize(
    "words, told",
    [
        (["lsq_4bit_rte", "--try", "lrr", "1e-5"], "unknown key 'lrr'. Did you mean 'lr'?"),
        (["lsq_4bit_rte", "--try", "lr", "-1"], "lr: -1 must be a number above 0"),
        (["lsq_4bit_rte", "--try", "lr"], "--try lr: name the values to try"),
        (["lsq_4bit_rte", "--try", "lr", "5e-5"], "Nothing to try: lr 5e-05 is what the recipe of lsq_4bit has already"),
        (["lsq_4bit_rte", "--preset", "small", "--try", "batch_size", "8"], "the preset trains batches of 16 on rte"),
        (["lsq_4bit_rtf", "--try", "lr", "1e-5"], "Unknown task 'rtf'"),
        (["lsq_9bit_rte", "--try", "lr", "1e-5"], "Unknown method 'lsq_9bit'"),
        (["lsq_4bit_rte", "--try", "lr", "1e-5", "--held-out", "0.9"], "data.held_out: 0.9 is greater than the maximum"),
        (["lsq_4bit_rte", "--try", "lr", "1e-5", "--held-out", "0"], "data.held_out: 0.0 is less than or equal to"),
        (["lsq_4bit_rte", "--try", "lr", "1e-5", "--preset", "smal"], "Unknown preset 'smal'"),
    ],
)
def test_a_mistake_is_one_line_before_anything_runs(words, told, capsys, monkeypatch):
    monkeypatch.setattr(making, "make", lambda *_: pytest.fail("something ran"))
    assert main(["tune", *words]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert told in line


def test_a_relative_mirror_holds_in_another_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert making.mirror_of(None, {}) is None and making.mirror_of("near", {}) == str(tmp_path / "near")
    assert making.mirror_of(None, {"data": {"mirror": "hub"}}) == str(tmp_path / "hub")


def test_files_of_the_users_own_are_found_in_the_other_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(making.subprocess, "run", lambda words, **_: subprocess.CompletedProcess(words, 0))
    (tmp_path / "data").mkdir()
    (tmp_path / "data/train.csv").write_text("text,label\n")
    folder = tmp_path / "results/tuning"
    for _ in range(2):  # made again, a link is where it was
        making.make(folder, [], 1, ["data/train.csv", str(tmp_path / "data/train.csv")])
        assert (folder / "data/train.csv").read_text() == "text,label\n"
    with pytest.raises(UserError, match="write an absolute path"):
        making.make(folder, [], 1, ["../train.csv"])
    making.make(tmp_path, [], 1, ["data/train.csv"])  # the folder of the user's own files
    (folder / "data/mine.csv").write_text("made by somebody")
    (tmp_path / "data/mine.csv").write_text("text,label\n")
    with pytest.raises(UserError, match=r"exists, and data/mine.csv should be linked there"):
        making.make(folder, [], 1, ["data/mine.csv"])
    assert (tmp_path / "data/train.csv").read_text() == "text,label\n"
    assert (folder / "data/mine.csv").read_text() == "made by somebody"


def test_the_files_of_a_task_belong_to_its_trials(monkeypatch):
    entry = {"kind": "regression", "files": {"train": "data/a.csv", "validation": "data/b.csv"}, "finetuned": "model"}
    read = catalogue.read_yaml
    monkeypatch.setattr(
        catalogue, "read_yaml", lambda path: read(path) | ({"mine": entry} if path.name == "tasks.yaml" else {})
    )
    own = tuning.plan("lsq_4bit_mine", {"lr": [2e-5]}, SETTINGS).own
    assert own == ["data/a.csv", "data/b.csv", "model"]
    assert tuning.plan("lsq_4bit_rte", {"lr": [2e-5]}, SETTINGS).own == []


def test_trials_of_a_method_with_augmented_rows_have_them_too():
    settings = documents.merge(SETTINGS, {"augmentation": {"methods": ["lsq_4bit"], "tasks": ["rte"]}})
    found = catalogue.load(tuning.plan("lsq_4bit_rte", {"lr": [2e-5]}, settings).config)
    assert all(found.augmentation(name, "rte") for name in ("lsq_4bit", "lsq_4bit_lr_2em05"))
    assert not found.augmentation("lsq_8bit", "rte")


# --- what is said ---------------------------------------------------------------------------------------------------


def said(own: str, other: str, seeds=(1, 2, 3)) -> list[str]:
    """What is said where the method scores as one of the fixture's methods, and a trial as another."""
    cells = []
    for name, like in (("lsq_4bit", own), ("lsq_4bit_lr_2em05", other)):
        (cell,) = copy.deepcopy(fixture.board((like,), ("stsb",), seeds))
        cell["request"]["method"] = name
        cell["ran_on"]["dataset"]["rows"] = {"train": 4000, "validation": 1000}
        cells.append(cell)
    return list(tuning.lines(tuning.plan("lsq_4bit_stsb", {"lr": [2e-5]}, SETTINGS), cells))


def test_a_trial_that_is_better_beyond_chance_is_named_with_its_gain():
    head, titles, own, trial, end = said("rtn_4bit", "fp32")
    assert head.endswith("on 1,000 rows held out of 5,000 training rows")
    assert titles.split() == ["lr", "score", "sd", "seeds", "minutes", *"gain over its own numbers".split()]
    assert own.split()[0] == "5e-05" and own.endswith("its own")
    assert trial.split()[0] == "2e-05"
    scores = [float(line.split()[1]) for line in (own, trial)]
    assert f"{scores[1] - scores[0]:+.2f} (95 % CI " in trial
    assert end.startswith("lr 2e-05 is better by ") and "write it into the stanza of lsq_4bit" in end


@pytest.mark.parametrize("own, other", [("fp32", "rtn_4bit"), ("lsq_8bit", "lsq_7bit")])
def test_a_trial_that_is_worse_or_about_as_good_changes_nothing(own, other):
    assert said(own, other)[-1] == (
        "Keep the method's own numbers: none of 1 trial is better beyond chance (Holm's correction, 5 %)."
    )


def test_one_seed_says_as_much_as_examples_do():
    *_, trial, end = said("rtn_4bit", "fp32", seeds=(1,))
    assert "(95 % CI " in trial and end.startswith("lr 2e-05 is better")


# --- from end to end ------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_trials_share_rows_and_teacher_and_are_made_once(tmp_path):
    settings = {**TINY, "data": {"held_out": 0.25}, "allow_weak_teacher": True}
    wanted = tuning.plan("lsq_4bit_sst2", {"lr": [1e-5]}, settings)
    paths = tuning.make(wanted, tmp_path, cores=2)
    cells = read_cells(paths)
    assert [cell["request"]["method"] for cell in cells] == ["lsq_4bit", "lsq_4bit_lr_1em05"]
    (own, trial) = (cell["ran_on"] for cell in cells)
    assert own["teacher"] == trial["teacher"] and own["dataset"] == trial["dataset"]
    assert own["dataset"]["held_out"] == 0.25 and own["dataset"]["partial"] is True
    assert "stanzas" in json.dumps(cells[1]["request"]["overrides"]) and "stanzas" not in cells[0]["request"]["overrides"]
    assert len(list(tuning.lines(wanted, cells))) == 5
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("run.json")}
    assert len(before) == 3  # the teacher and two trials
    tuning.make(wanted, tmp_path, cores=2)
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("run.json")}
    assert read_json(tmp_path / "lsq_4bit_sst2.json")["data"]["held_out"] == 0.25
