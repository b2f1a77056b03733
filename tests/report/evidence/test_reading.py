"""Which cells are there, and why the others are not."""

import json

import pytest

from methods.common.errors import UserError
from report.evidence.reading import failures, missing, read_cells
from tests.fixtures import cells as fixture


def test_another_presets_cell_of_the_same_name_is_missing(tmp_path):
    (cell,) = fixture.board(("fp32",), ("rte",))
    mine, other, damaged, absent = (tmp_path / f"{name}_rte.json" for name in ("fp32", "lsq_4bit", "twn_2bit", "lat_2bit"))
    mine.write_text(json.dumps(cell))
    other.write_text(json.dumps(cell | {"request": cell["request"] | {"preset": "other"}}))
    damaged.write_text('{"request"')
    paths = [mine, other, damaged, absent]
    assert missing(paths, cell["request"]["preset"], tmp_path, {}) == [other, absent]  # who reads the damaged one says so
    assert missing(paths, "other", tmp_path, {}) == [mine, absent]
    assert missing(paths, None, tmp_path, {}) == [absent]


def test_a_cell_is_missing_while_a_run_of_it_or_an_ancestor_is_made_again(tmp_path):
    (cell,) = fixture.board(("lsq_4bit",), ("rte",), seeds=(1, 2))
    path = tmp_path / "lsq_4bit_rte.json"
    path.write_text(json.dumps(cell))

    def found() -> list:
        return missing([path], None, tmp_path, {"lsq_4bit": ["fp32"]})

    assert found() == []  # runs that were deleted as a whole leave their cell good
    counts = {"lsq_4bit/rte/3": [], "twn_2bit/rte/1": [], "lsq_4bit/rte/2": [path], "fp32/rte/1": [path]}
    for run, expected in counts.items():
        folder = tmp_path / "runs" / run
        folder.mkdir(parents=True)  # Snakemake removes run.json before it makes a run again
        assert found() == expected, run
        (folder / "run.json").write_text("{}")
        assert found() == [], run


def test_a_cell_is_missing_because_a_run_or_its_nearest_ancestor_failed(tmp_path):
    lasts = {"fp32": "error: The disk is full.", "half": "torch.OutOfMemoryError: 9 GiB", "lsq_4bit": "lsq_4bit: 3 of 9"}
    for name, last in lasts.items():
        (tmp_path / "logs" / name / "rte").mkdir(parents=True)
        (tmp_path / "logs" / name / "rte/1.log").write_text(f"begins\n{last}\n\n")
    paths = [tmp_path / "results/fp32_rte.json", tmp_path / "lsq_4bit_rte.json", tmp_path / "twn_2bit_rte.json"]
    assert failures(paths, tmp_path, {"lsq_4bit": ["half", "fp32"]}) == {
        ("fp32", "rte"): "The disk is full.",
        ("lsq_4bit", "rte"): "its ancestor half failed: torch.OutOfMemoryError: 9 GiB",
    }


def test_predictions_of_other_seeds_than_are_scored_are_damaged(tmp_path):
    (cell,) = fixture.board(("fp32",), ("rte",), seeds=(1, 2), rows=60)
    for of_seeds in cell["measured"]["outcomes"]["predictions"].values():
        of_seeds.pop("2")
    path = tmp_path / "fp32_rte.json"
    path.write_text(json.dumps(cell))
    with pytest.raises(UserError, match=r"outcomes are damaged .they are not of the seeds that are scored"):
        read_cells([path])
