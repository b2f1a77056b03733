"""Cells: the summary of runs over seeds, the command that makes a cell again, and the refusal of runs that do not fit."""

import json
import shlex
from pathlib import Path

import pytest
from snakemake.cli import parse_config

from methods.common.errors import UserError
from report.__main__ import main
from report.evidence import cells
from report.evidence.cells import command, make_cell, read_run, thin
from report.evidence.comparison import compare
from report.page.page import render
from tests.fixtures.cells import latency
from tests.fixtures.runs import ABOUT, MACHINE, digest, run_record, search_record, write_run
from workflow import documents


@pytest.fixture
def cell_of(tmp_path):
    """Make a cell from run records."""
    made = iter(range(1000))

    def make(*records: dict) -> dict:
        folders = [write_run(tmp_path / f"run{next(made)}", record) for record in records]
        return make_cell(folders, "last", ABOUT)

    return make


def refusal(capsys, *folders, primary: str = "last") -> str:
    """Return the one line that a refused `report cell` prints."""
    arguments = ["cell", "--out", folders[0].parent / "cell.json", "--about", json.dumps(ABOUT), "--primary", primary]
    assert main([*map(str, arguments), "--run", *map(str, folders)]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ")
    assert not (folders[0].parent / "cell.json").exists()
    return lines[0]


# Seeds


def test_a_diverged_seed_is_counted_and_not_averaged(cell_of):
    cell = cell_of(run_record(seed=1, last=60.0), run_record(seed=2, diverged=True), run_record(seed=3, last=64.0))
    summary = cell["measured"]["protocols"]["last"]["metrics"]["accuracy"]
    assert (summary["mean"], summary["n"], summary["n_diverged"]) == (62.0, 2, 1)
    assert [seed["status"] for seed in cell["measured"]["seeds"]] == ["ok", "diverged", "ok"]
    assert cell["measured"]["seeds"][1]["reason"] == "loss became nan at step 120"


def test_all_seeds_diverged_leave_no_mean(cell_of):
    cell = cell_of(run_record(seed=1, diverged=True), run_record(seed=2, diverged=True))
    block = cell["measured"]["protocols"]["best"]
    assert block["metrics"]["accuracy"]["mean"] is None
    assert (block["metrics"]["accuracy"]["n_diverged"], block["drop"]) == (2, None)
    page = render(compare([cell]))
    assert "diverged (2 of 2)" in page
    assert "Every run of Full precision diverged." in page


def test_a_diverged_teacher_has_no_model_to_name(cell_of):
    teacher = {"method": "fp32", "seed": 1, "sha256": None, "score": None}
    init = {key: teacher[key] for key in ("method", "seed", "sha256")}
    child = run_record(method="twn_2bit", diverged=True, teacher=teacher)
    child |= {"status": "diverged (ancestor)", "reason": "its ancestor fp32 diverged"}
    child["ancestors"]["init"] = init
    page = render(compare([cell_of(run_record(diverged=True)), cell_of(child)]))
    assert page.count("fp32, seed 1, diverged") == 2  # as its teacher, and as what it started from
    assert "its ancestor fp32 diverged" in page


def test_both_protocols_drop_size_and_cost(cell_of):
    teacher = {"method": "fp32", "seed": 1, "sha256": digest("teacher"), "score": 63.5}
    cell = cell_of(
        run_record(seed=2, last=60.0, best=63.0, teacher=teacher),
        run_record(seed=1, last=62.0, teacher=teacher),
    )
    protocols = cell["measured"]["protocols"]
    assert protocols["last"]["drop"] == 63.5 - 61.0
    assert protocols["best"]["drop"] == 63.5 - 62.5
    assert cell["request"]["seeds"] == [1, 2]
    assert cell["measured"]["size"]["paper"] == {"bytes": 4_000_000, "ratio": 2.05}
    assert cell["measured"]["size"]["file"]["bytes"] == 4_200_002, "of two seeds the larger file"
    assert cell["ran_on"]["volatile"]["cost"] == {
        "seconds": 15.0,
        "peak_memory_bytes": 500 * 2**20,
        "steps_per_second": 25.0,
        "n": 2,
    }
    assert cell["measured"]["latency"] == "not measured"
    assert cell["ran_on"]["command"] == "snakemake results/fp32_rte.json"


def test_parameters_that_a_token_reads_stand_beside_those_that_are_stored(cell_of):
    """A run from before they were counted has none, and its cell is still valid."""
    routed, older = run_record(seed=1), run_record(seed=1)
    for protocol in ("last", "best"):
        routed["size"][protocol]["active_parameters"] = 600_000
    size = cell_of(routed)["measured"]["size"]
    assert (size["parameters"], size["active_parameters"]) == (1_000_000, 600_000)
    assert size["file"]["bytes"] == 4_200_001, "all that is stored"
    assert "active_parameters" not in cell_of(older)["measured"]["size"]


def test_bits_are_the_mean_of_those_measured(cell_of):
    runs = [run_record(seed=1), run_record(seed=2), run_record(seed=3, diverged=True)]
    for run, weights in zip(runs, (1.25, 1.75), strict=False):
        run["bits"] = {"weights": weights, "embeddings": 2, "activations": 8}
    assert cell_of(*runs)["measured"]["bits"] == {"weights": 1.5, "embeddings": 2, "activations": 8}
    assert cell_of(run_record(diverged=True))["measured"]["bits"] is None


def test_every_role_of_ancestor_is_kept(cell_of):
    ancestor = {"method": "search_2bit", "seed": 1, "sha256": digest("allocation")}
    record = run_record(teacher={"method": "fp32", "seed": 1, "sha256": digest("teacher"), "score": 63.5})
    record["ancestors"]["allocation"] = ancestor
    cell = cell_of(record)
    assert cell["ran_on"]["runs"][0]["ancestors"].keys() == {"teacher", "allocation"}
    assert "search_2bit, seed 1, sha256" in render(compare([cell]))


# The command that makes a cell again


def test_presets_are_in_the_command(cell_of):
    record = run_record()
    record["request"]["preset"] = "small"
    assert cell_of(record)["ran_on"]["command"] == "snakemake results/fp32_rte.json --config preset=small"


def test_overrides_are_in_the_command_and_are_read_back_as_they_were():
    overrides = {
        "seeds": [1, 2],
        "primary": "best",
        "threads": 2,
        "budget": {"epochs_scale": 0.5, "tasks": {"rte": {"lr_scale": 2}}},
        "data": {"mirror": "it's $(touch here); \\ a folder"},
        "allow_weak_teacher": True,
        "train_rows": None,
    }
    text = command("fp32", "rte", "small", overrides)
    words = shlex.split(text)
    assert words[:3] == ["snakemake", "results/fp32_rte.json", "--config"], "target first: --config takes all that follows"
    assert documents.typed(parse_config(words[3:])) == {"preset": "small", **overrides}
    assert "'seeds=[1, 2]'" in text and "primary=best" in text


def test_overrides_are_kept_in_the_cell(tmp_path):
    folder = write_run(tmp_path / "run", run_record())
    cell = make_cell([folder], "last", ABOUT, {"seeds": [1], "preset": "demo"})
    assert cell["request"]["overrides"] == {"seeds": [1], "preset": "demo"}
    assert cell["ran_on"]["command"] == "snakemake results/fp32_rte.json --config 'seeds=[1]'"


# Curves and machines


def test_a_long_curve_is_thinned_and_keeps_its_ends():
    points = [[step, 0.0] for step in range(1000)]
    thinned = thin(points)
    assert len(thinned) == 60
    assert (thinned[0], thinned[-1]) == (points[0], points[-1])
    assert thin(points[:60]) == points[:60]


def test_only_the_volatile_block_changes_with_the_machine(tmp_path):
    slow = MACHINE | {"seconds": {"total": 99.0}, "git_commit": "f" * 40, "peak_memory_bytes": None}
    one = make_cell([write_run(tmp_path / "a", run_record())], "last", ABOUT)
    two = make_cell([write_run(tmp_path / "b", run_record(), slow)], "last", ABOUT)
    assert one["ran_on"].pop("volatile") != two["ran_on"].pop("volatile")
    assert one == two


def test_benchmark_is_read_where_there_is_one(tmp_path):
    folder = write_run(tmp_path / "run", run_record())
    (folder / "benchmark.tsv").write_text("s\th:m:s\tmax_rss\tmax_vms\n16.5\t0:00:16\t512.25\t-\n")
    assert read_run(folder).benchmark == {"seconds": 16.5, "max_rss_mib": 512.25}
    (folder / "benchmark.tsv").write_text("s\th:m:s\tmax_rss\n0.5\t0:00:00\t-\n")
    assert read_run(folder).benchmark == {"seconds": 0.5, "max_rss_mib": None}
    (folder / "benchmark.tsv").write_text("s\th:m:s\tmax_rss\n0.5\n")
    with pytest.raises(UserError, match="is not a benchmark file of Snakemake"):
        read_run(folder)


# Runs that are not averaged

MIXED = {
    "code digest": ("ran_on", "code"),
    "data fingerprint": ("ran_on", "data", "fingerprint"),
    "base model": ("ran_on", "base", "sha256"),
    "precision": ("ran_on", "precision"),
    "recipe": ("request", "spec", "recipe", "lr"),
    "preset": ("request", "preset"),
}


@pytest.mark.parametrize("name", MIXED)
def test_mixed_provenance_is_refused_by_name(name, tmp_path, capsys):
    record = run_record(seed=2)
    *way, last = MIXED[name]
    place = record
    for key in way:
        place = place[key]
    place[last] = "bf16" if name == "precision" else digest("other")
    folders = write_run(tmp_path / "a", run_record(seed=1)), write_run(tmp_path / "b", record)
    assert f"their {name} differs" in refusal(capsys, *folders)


def test_one_seed_named_twice_and_another_protocol_are_refused(tmp_path, capsys):
    teacher = {"method": "fp32", "seed": 1, "sha256": digest("teacher"), "score": 63.5}
    folders = [write_run(tmp_path / name, run_record(teacher=teacher)) for name in "ab"]
    assert "both seed 1" in refusal(capsys, *folders)
    assert "--primary last" in refusal(capsys, folders[0], primary="best")


def test_runs_without_ancestors_are_summed_up_under_either_protocol(tmp_path):
    folder = write_run(tmp_path / "run", run_record(seed=1))
    last, best = (make_cell([folder], primary, ABOUT) for primary in ("last", "best"))
    assert [cell["request"]["primary"] for cell in (last, best)] == ["last", "best"]
    assert [cell["measured"]["size"]["file"]["bytes"] for cell in (last, best)] == [4_200_001, 4_201_001]
    assert last["measured"]["protocols"] == best["measured"]["protocols"]


# Run folders that are no input of a cell


def test_a_search_run_has_no_cell(tmp_path, capsys):
    folder = write_run(tmp_path / "run", search_record())
    assert "is a search run: it has an allocation and no scores" in refusal(capsys, folder)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("run.json", "{", "is damaged"),
        ("run.json", "[]", "no JSON object"),
        ("run.json", '{"format": 2}', "does not fit run.schema.yaml"),
        ("machine.json", None, "machine.json"),
        ("machine.json", "{}", "does not fit cell.schema.yaml"),
        ("predictions.npz", None, "is missing"),
        ("predictions.npz", "other bytes", "sha256 differs"),
        ("last.safetensors", None, "is missing"),
        ("benchmark.tsv", "nonsense", "not a benchmark"),
        ("run.json", "[" * 100_000, "is damaged"),
    ],
)
def test_a_damaged_run_folder_is_named(name, content, words, tmp_path, capsys):
    folder = write_run(tmp_path / "run", run_record())
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_text(content)
    line = refusal(capsys, folder)
    assert str(folder / name) in line and words in line


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999"])
def test_not_finite_numbers_never_reach_a_cell(number, tmp_path):
    folder = write_run(tmp_path / "run", run_record(last=61.25))
    text = (folder / "run.json").read_text()
    (folder / "run.json").write_text(text.replace("61.25", number))
    with pytest.raises(UserError, match="is damaged"):
        make_cell([folder], "last", ABOUT)


def write_latency(folder: Path, **changes) -> dict:
    run = json.loads((folder / "run.json").read_text())
    measured = latency("fp32", "rte", model=run["files"]["last.safetensors"]) | changes
    (folder / "latency.json").write_text(json.dumps(measured))
    return measured


def test_a_cell_takes_up_the_latency_of_the_first_seed_that_has_one(tmp_path):
    one, two = (write_run(tmp_path / str(seed), run_record(seed=seed)) for seed in (1, 2))
    measured = write_latency(two)
    assert make_cell([one, two], "last", ABOUT)["measured"]["latency"] == measured
    (one / "latency.json").write_text(json.dumps({"format": 1, "engine": None, "reason": "diverged: loss became nan"}))
    assert make_cell([one, two], "last", ABOUT)["measured"]["latency"] == measured
    assert make_cell([one], "last", ABOUT)["measured"]["latency"]["reason"] == "diverged: loss became nan"
    assert make_cell([one, two], "last", ABOUT, latency=False)["measured"]["latency"] == "not measured"


def test_the_latency_of_a_model_that_is_no_longer_there_is_passed_over(tmp_path):
    one, two = (write_run(tmp_path / str(seed), run_record(seed=seed)) for seed in (1, 2))
    write_latency(one, model=digest("an earlier model"))
    measured = write_latency(two)
    assert make_cell([one, two], "last", ABOUT)["measured"]["latency"] == measured


def test_seeds_with_and_without_augmented_rows_are_not_averaged(tmp_path):
    records = [run_record(seed=seed) for seed in (1, 2)]
    records[0]["ran_on"]["data"]["augmentation"] = {"copies": 2}
    with pytest.raises(UserError, match="their data augmentation differs"):
        cells._check_alike([cells.Run(tmp_path / str(at), record, {}, None) for at, record in enumerate(records)], "last")


def test_only_the_latency_changes_when_it_is_measured_again(tmp_path):
    run = write_run(tmp_path / "run", run_record())
    cells = []
    for time in (0.1, 0.2):
        write_latency(run, load_seconds=time)
        cells.append(make_cell([run], "last", ABOUT))
    assert cells[0]["measured"].pop("latency") != cells[1]["measured"].pop("latency")
    assert cells[0] == cells[1]


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"model": digest("another")}, "is of another model than last.safetensors of this run: delete it, or measure again"),
        ({"format": 2}, "latency.json does not fit cell.schema.yaml"),
        ({"threads": 0}, "latency.json does not fit cell.schema.yaml"),
        ({"engine": "a guess"}, "latency.json does not fit cell.schema.yaml"),
    ],
)
def test_a_latency_of_another_model_or_form_is_refused(change, line, tmp_path):
    run = write_run(tmp_path / "run", run_record())
    write_latency(run, **change)
    with pytest.raises(UserError, match=line):
        make_cell([run], "last", ABOUT)
