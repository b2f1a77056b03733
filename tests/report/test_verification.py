"""Verification: a cell made again is judged by the reference's own scatter, and by nothing else."""

import copy
import json
import math
import statistics
from pathlib import Path

import numpy as np
import pytest

from methods.common.errors import UserError
from report import verification
from report.__main__ import main
from tests.fixtures import cells as fixture
from tests.fixtures.workflow import TINY, snakemake


@pytest.fixture(scope="module")
def reference():
    return fixture.board(("lsq_4bit",), ("mrpc",), (1, 2, 3))[0]


def remade(cell: dict, scores: list[float]) -> dict:
    """Return a cell whose seeds have these accuracies in both protocols."""
    made = copy.deepcopy(cell)
    made["measured"]["seeds"] = made["measured"]["seeds"][: len(scores)]
    for seed, score in zip(made["measured"]["seeds"], scores, strict=True):
        for protocol in seed["scores"].values():
            protocol["metrics"]["accuracy"] = score
    for protocol in made["measured"]["protocols"].values():
        known = protocol["metrics"]["accuracy"]
        sd = statistics.stdev(scores) if len(scores) > 1 else None
        known |= {"mean": statistics.fmean(scores), "sd": sd, "n": len(scores), "n_diverged": 0}
    return made


def test_equal_scores_are_the_same_numbers(reference):
    verdict = verification.compare(reference, copy.deepcopy(reference))
    assert verdict.lands
    assert verdict.lines[-1].startswith("The same numbers")


def test_the_interval_is_students_for_the_mean_of_new_seeds(reference):
    old = remade(reference, [80.0, 82.0, 84.0])
    low, high, _ = verification.interval(old, seeds=1)
    assert (low + high) / 2 == pytest.approx(82.0)
    assert (high - low) / 2 == pytest.approx(4.3027 * 2.0 * math.sqrt(1 / 3 + 1), rel=1e-4)  # t of 2 degrees of freedom
    narrower = verification.interval(old, seeds=3)
    assert narrower[1] - narrower[0] < high - low


def test_the_interval_holds_95_of_100_new_means():
    """Seeds are drawn from one normal distribution: of many reference and new triples, 95 % land."""
    random = np.random.default_rng(0)
    quantile = verification.student_quantile(0.975, 2)
    old, new = random.normal(size=(2, 20_000, 3))
    half = quantile * old.std(1, ddof=1) * math.sqrt(1 / 3 + 1 / 3)
    assert (abs(new.mean(1) - old.mean(1)) <= half).mean() == pytest.approx(0.95, abs=0.01)


@pytest.mark.parametrize(("scores", "lands"), [([83.0, 81.5, 82.0], True), ([60.0, 61.0, 62.0], False)])
def test_a_mean_lands_where_it_lies_within(reference, scores, lands):
    verdict = verification.compare(remade(reference, [80.0, 82.0, 84.0]), remade(reference, scores))
    assert verdict.lands == lands
    assert verdict.lines[-1].startswith("Lands" if lands else "Does not land")


def test_one_seed_is_judged_by_the_dev_set(reference):
    """Of 408 rows with 80 % right, the standard error of the accuracy is 2 points."""
    score = next(iter(reference["measured"]["seeds"][0]["scores"].values()))["metrics"]["accuracy"]
    old = remade(reference, [score])
    low, high, basis = verification.interval(old, seeds=1)
    assert (high - low) / 2 == pytest.approx(1.96 * 100 * math.sqrt(score / 100 * (1 - score / 100) / 408), rel=0.15)
    assert "dev set" in basis


def test_without_seeds_and_outcomes_other_numbers_do_not_land(reference):
    old = remade(reference, [80.0])
    old["measured"]["outcomes"] = None
    assert not verification.compare(old, remade(reference, [80.1])).lands
    assert verification.compare(old, remade(reference, [80.0])).lands


def test_a_seed_that_diverges_here_alone_does_not_land(reference):
    old, new = remade(reference, [80.0, 82.0, 84.0]), remade(reference, [80.0, 82.0])
    new["measured"]["protocols"]["last"]["metrics"]["accuracy"]["n_diverged"] = 1
    assert not verification.compare(old, new).lands


def test_other_code_is_named_and_judged_all_the_same(reference):
    new = copy.deepcopy(reference)
    new["ran_on"]["code"] = "0" * 16
    verdict = verification.compare(reference, new)
    assert verdict.lands
    assert any("code:" in line and "0" * 16 in line for line in verdict.lines)


@pytest.mark.parametrize("change", ["budget", "rows"])
def test_another_request_or_other_rows_are_refused_in_one_line(reference, change):
    new = copy.deepcopy(reference)
    if change == "budget":
        new["request"]["budget"] = {**new["request"]["budget"], "epochs_scale": 9}
    else:
        new["ran_on"]["dataset"]["fingerprint"] = "another"
    with pytest.raises(UserError) as error:
        verification.compare(reference, new)
    assert "\n" not in str(error.value)


def test_the_reference_decides_configuration_and_seeds_and_this_machine_the_mirror(reference):
    request = {**reference["request"], "preset": "small"}
    request["overrides"] = {"data": {"mirror": "/elsewhere"}, "budget": {"train_rows": 50}}
    words = verification.snakemake_words(request, verification.configuration(request, None))
    assert words[0] == "results/lsq_4bit_mrpc.json"
    assert {"preset=small", "seeds=[1, 2, 3]", "latency=false", 'budget={"train_rows": 50}'} <= set(words)
    assert not any("elsewhere" in word for word in words)
    assert any(
        word.endswith('here"}')
        for word in verification.snakemake_words(request, verification.configuration(request, "here"))
    )


def test_the_command_ends_with_1_where_the_cell_does_not_land(reference, tmp_path, capsys):
    folder = tmp_path / "cells"
    folder.mkdir()
    (folder / "lsq_4bit_mrpc.json").write_text(json.dumps(remade(reference, [80.0, 82.0, 84.0])))
    for name, scores, code in (("good", [81.0, 82.0, 83.5], 0), ("bad", [50.0, 50.5, 51.0], 1)):
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(remade(reference, scores)))
        assert main(["verify", "lsq_4bit_mrpc", "--reference", str(folder), "--made", str(path)]) == code
    assert capsys.readouterr().out.count("reference:") == 2


def test_an_unknown_cell_is_one_line_with_the_known_ones(reference, tmp_path, capsys):
    (tmp_path / "lsq_4bit_mrpc.json").write_text(json.dumps(reference))
    assert main(["verify", "lsq_4bit_rte", "--reference", str(tmp_path)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "lsq_4bit_mrpc" in line
    assert main(["verify", "lsq_4bit_rte", "--reference", str(tmp_path / "nowhere")]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.slow
def test_a_cell_is_made_again_in_a_folder_of_its_own(tmp_path, capfd):
    """The reference is made by Snakemake, and made again from nothing but its cell."""
    made = tmp_path / "made"
    made.mkdir()
    snakemake(made, "results/fp32_sst2.json", "--cores", "2", config={**TINY, "latency": False})
    before = (made / "results/fp32_sst2.json").read_bytes()
    again = tmp_path / "again"
    words = ["verify", "fp32_sst2", "--reference", str(made / "results"), "--out", str(again), "--cores", "2"]
    assert main(words) == 0
    assert "The same numbers" in capfd.readouterr().out
    assert (again / "results/fp32_sst2.json").is_file()
    assert (made / "results/fp32_sst2.json").read_bytes() == before
    assert Path(again / "results/demo/runs/fp32/sst2/1/run.json").is_file()
