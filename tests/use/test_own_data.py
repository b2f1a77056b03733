"""The tutorial docs/own-data.md, executed as it is printed, and what goes on behind it."""

import json
import re
import shlex

import numpy as np
import pytest

from methods.common.files import read_sealed
from tests.fixtures.copies import ROOT, copy_project, run_in

TEXT = (ROOT / "docs/own-data.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"`(hotel/[\w.]+)`:\n\n```\w+\n(.*?)```", TEXT, re.DOTALL))
COMMANDS = re.findall(r"```sh\n(.*?)\n```", TEXT, re.DOTALL)


def follow(folder):
    """Do steps 1 to 3 of the tutorial."""
    copy_project(folder)
    (folder / "hotel").mkdir()
    assert FILES.keys() == {"hotel/train.csv", "hotel/validation.csv", "hotel/finetune.py"}
    for name, content in FILES.items():
        (folder / name).write_text(content, encoding="utf-8")
    (entry,) = re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)
    with open(folder / "config/tasks.yaml", "a", encoding="utf-8") as file:
        file.write("\n" + entry)
    run_in(folder, "python", "hotel/finetune.py")


@pytest.mark.slow
def test_the_tutorial_compresses_and_asks_a_model_of_ones_own(tmp_path):
    follow(tmp_path)
    compress, predict = COMMANDS
    run_in(tmp_path, *shlex.split(compress))
    lines = run_in(tmp_path, *shlex.split(predict)).stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["positive", "negative"]
    assert all(re.fullmatch(r"\w+ +0\.\d{4}", line) for line in lines)

    work = tmp_path / "results/demo"
    assert not (work / "base.safetensors").exists(), "the preset's base model is not needed"
    fp32, student = (json.loads((work / f"runs/{name}/hotel/1/run.json").read_text()) for name in ("fp32", "lsq_4bit"))
    assert (fp32["steps"], fp32["request"]["finetuned"], fp32["curve"], fp32["dev"]) == (0, True, [], [])
    assert fp32["scores"]["last"]["metrics"]["accuracy"] > fp32["baseline"]["metrics"]["accuracy"]
    assert fp32["ran_on"]["base"]["source"] == "finetuned"
    assert fp32["ran_on"]["data"]["partial"] is False and fp32["ran_on"]["data"]["source"] == "files"
    assert student["steps"] > 0 and "finetuned" not in student["request"]
    theirs, _ = read_sealed(work / "runs/fp32/hotel/1/last.safetensors")
    base, _ = read_sealed(work / "base/hotel.safetensors")
    assert np.array_equal(theirs["classifier.weight"], base["head.classifier.weight"])
    name = "encoder.layer.0.attention.self.query.weight"
    assert np.array_equal(theirs[f"bert.{name}"], base[name])

    again = run_in(tmp_path, *shlex.split(compress))
    assert "Nothing to be done" in again.stdout + again.stderr
    tune = ["-m", "report", "tune", "lsq_4bit_hotel", "--try", "epochs", "1", "--held-out", "0.25", "--seeds", "1"]
    title, _, own, trial, _ = run_in(tmp_path, "python", *tune).stdout.splitlines()
    assert title.startswith("lsq_4bit on hotel: accuracy on 4 rows held out of 16 training rows")
    assert own.endswith("its own") and trial.split()[0] == "1"
    with open(tmp_path / "hotel/train.csv", "a", encoding="utf-8") as file:
        file.write("lovely,postive\n")
    done = run_in(tmp_path, *shlex.split(compress), check=False)
    line = "hotel/train.csv, line 18: unknown label 'postive'. Did you mean 'positive'? There are: negative, positive."
    assert f"error: {line}" in done.stdout + done.stderr
    (tmp_path / "hotel/train.csv").unlink()
    done = run_in(tmp_path, *shlex.split(compress), check=False)
    assert "error: hotel/train.csv does not exist: correct `hotel.files` in config/tasks.yaml" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
