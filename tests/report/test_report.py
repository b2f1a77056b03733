"""The report: what a cell says about its runs, what the page says about its cells, and how both refuse."""

import errno
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from report.__main__ import main
from report.board import Board
from report.cells import make_cell, read_run, thin
from report.files import SCHEMAS, ReportError, validate, write_text
from report.page import render

ROOT = Path(__file__).resolve().parents[2]


NO_PREDICTIONS = b"PK\5\6" + bytes(18)  # an archive of no arrays


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def run_record(*, method="fp32", task="rte", seed=1, last=61.0, best=62.0, diverged=False, second=None, teacher=None):
    """A run.json as the harness writes it; `second` is (metric's name, score) where a task has two."""
    extra = dict([second]) if second else {}
    size = {
        "paper_bytes": 4_000_000,
        "counted_bytes": 4_100_000,
        "file_bytes": 4_200_000 + seed,
        "parameters": 1_000_000,
        "fp32_bytes": 8_200_000,
        "groups": {"word embedding": {"parameters": 200_000, "bytes": 800_000}},
    }
    files = {name: digest(f"{name} {method} {task} {seed}") for name in ("last.safetensors", "best.safetensors")}
    return {
        "format": 1,
        "request": {
            "method": method,
            "task": task,
            "seed": seed,
            "preset": "demo",
            "spec": {
                "family": "fp32",
                "title": "Full precision" if method == "fp32" else f"Title of {method}",
                "bits": {"weights": 32, "embeddings": 32, "activations": 32},
                "recipe": {"lr": 2e-5, "epochs": 3},
                "sources": {"lr": "paper, appendix A.3", "epochs": "paper, section 4.1"},
            },
            "budget": {"lr_scale": 20, "epochs_scale": 2},
            "precision": "fp32",
            "padding": "bucket",
            "threads": 1,
            **({"primary": "last"} if teacher else {}),
        },
        "status": "diverged" if diverged else "ok",
        "reason": "loss became nan at step 120" if diverged else None,
        "metric": "accuracy",
        "scores": None
        if diverged
        else {
            "last": {"step": 300, "metrics": {"accuracy": last, **extra}},
            "best": {"step": 240, "metrics": {"accuracy": best, **extra}},
        },
        "baseline": {
            "metrics": {"accuracy": 52.5, **{name: 0.0 for name in extra}},
            "what": "always entailment",
        },
        "teacher": teacher,
        "init": None,
        "size": {"last": size, "best": size | {"file_bytes": size["file_bytes"] + 1000}},
        "steps": 120 if diverged else 300,
        "examples_seen": 9600,
        "curve": [
            {"step": step, "stage": "labels", "loss": 0.7 - step / 1000, "terms": {"labels": 0.7}, "lr": 1e-4}
            for step in range(10, 310, 10)
        ],
        "dev": [
            {
                "step": step,
                "stage": "labels",
                "score": 50.0 + step / 30,
                "metrics": {"accuracy": 50.0 + step / 30},
            }
            for step in range(60, 360, 60)
        ],
        "files": {} if diverged else files | {"predictions.npz": hashlib.sha256(NO_PREDICTIONS).hexdigest()},
        "events": [],
        "ran_on": {
            "data": {
                "source": "generated",
                "dataset": "demo",
                "config": task,
                "revision": None,
                "fingerprint": digest(f"data of {task}"),
                "rows": {"train": 2000, "validation": 400},
                "official_rows": None,
                "partial": False,
                "task_version": 1,
            },
            "base": {
                "source": "generated",
                "id": None,
                "revision": None,
                "sha256": digest("base"),
                "layers": 4,
                "hidden": 128,
            },
            "code": digest("code"),
            "device": "cpu",
            "precision": "fp32",
            "threads": 1,
            "processes": 1,
            "packages": {"torch": "2.13.0"},
        },
    }


MACHINE = {
    "cpu": "A processor",
    "flags": ["avx2"],
    "cores": 2,
    "gpu": None,
    "platform": "Linux",
    "python": "3.11.7",
    "git_commit": "0123456789abcdef",
    "git_dirty": False,
    "seconds": {"train": 12.0, "evaluate": 1.0, "total": 15.0},
    "steps_per_second": 25.0,
    "peak_memory_bytes": 500 * 2**20,
    "resumed": 0,
}


def write_run(folder: Path, record: dict, machine: dict = MACHINE) -> Path:
    folder.mkdir(parents=True)
    for name in record["files"]:
        (folder / name).write_bytes(NO_PREDICTIONS if name == "predictions.npz" else b"model")
    (folder / "run.json").write_text(json.dumps(record))
    (folder / "machine.json").write_text(json.dumps(machine))
    return folder


@pytest.fixture
def cell_of(tmp_path):
    """Make a cell from run records, the way the command does."""
    made = iter(range(1000))

    def make(*records: dict) -> dict:
        folders = [write_run(tmp_path / f"run{next(made)}", record) for record in records]
        return make_cell(folders, "last")

    return make


def command(*arguments) -> tuple[int, str]:
    """Exit code and standard error of `python -m report`, as a user meets them."""
    words = [sys.executable, "-m", "report", *map(str, arguments)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.returncode, done.stderr


def refusal(capsys, *arguments) -> str:
    """The one line that a refused command prints."""
    assert main([str(argument) for argument in arguments]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
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
    page = render(Board([cell]))
    assert "diverged (2 of 2)" in page
    assert "Every run of Full precision diverged." in page


def test_a_diverged_teacher_has_no_model_to_name(cell_of):
    teacher = {"method": "fp32", "seed": 1, "sha256": None, "score": None}
    init = {key: teacher[key] for key in ("method", "seed", "sha256")}
    child = run_record(method="twn_2bit", diverged=True, teacher=teacher)
    child |= {"status": "diverged (ancestor)", "reason": "its ancestor fp32 diverged", "init": init}
    page = render(Board([cell_of(run_record(diverged=True)), cell_of(child)]))
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


def test_other_presets_are_in_the_command(cell_of):
    record = run_record()
    record["request"]["preset"] = "small"
    assert cell_of(record)["ran_on"]["command"] == "snakemake results/fp32_rte.json --config preset=small"


def test_a_long_curve_is_thinned_and_keeps_its_ends():
    points = [[step, 0.0] for step in range(1000)]
    thinned = thin(points)
    assert len(thinned) == 60
    assert (thinned[0], thinned[-1]) == (points[0], points[-1])
    assert thin(points[:60]) == points[:60]


def test_only_the_volatile_block_changes_with_the_machine(tmp_path):
    slow = MACHINE | {"seconds": {"total": 99.0}, "git_commit": "f" * 40, "peak_memory_bytes": None}
    one = make_cell([write_run(tmp_path / "a", run_record())], "last")
    two = make_cell([write_run(tmp_path / "b", run_record(), slow)], "last")
    assert one["ran_on"].pop("volatile") != two["ran_on"].pop("volatile")
    assert one == two


def test_benchmark_is_read_where_there_is_one(tmp_path):
    folder = write_run(tmp_path / "run", run_record())
    (folder / "benchmark.tsv").write_text("s\th:m:s\tmax_rss\tmax_vms\n16.5\t0:00:16\t512.25\t-\n")
    assert read_run(folder).benchmark == {"seconds": 16.5, "max_rss_mib": 512.25}
    (folder / "benchmark.tsv").write_text("s\th:m:s\tmax_rss\n0.5\t0:00:00\t-\n")
    assert read_run(folder).benchmark == {"seconds": 0.5, "max_rss_mib": None}


# What is not averaged

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
    line = refusal(capsys, "cell", "--out", tmp_path / "cell.json", "--run", *folders)
    assert f"their {name} differs" in line
    assert not (tmp_path / "cell.json").exists()


def test_one_seed_named_twice_and_another_protocol_are_refused(tmp_path, capsys):
    teacher = {"method": "fp32", "seed": 1, "sha256": digest("teacher"), "score": 63.5}
    folders = [write_run(tmp_path / name, run_record(teacher=teacher)) for name in "ab"]
    assert "both seed 1" in refusal(capsys, "cell", "--out", tmp_path / "c.json", "--run", *folders)
    line = refusal(capsys, "cell", "--out", tmp_path / "c.json", "--run", folders[0], "--primary", "best")
    assert "--primary last" in line


def test_runs_without_ancestors_are_summed_up_under_either_protocol(tmp_path):
    folder = write_run(tmp_path / "run", run_record(seed=1))
    last, best = (make_cell([folder], primary) for primary in ("last", "best"))
    assert [cell["request"]["primary"] for cell in (last, best)] == ["last", "best"]
    assert [cell["measured"]["size"]["file"]["bytes"] for cell in (last, best)] == [4_200_001, 4_201_001]
    assert last["measured"]["protocols"] == best["measured"]["protocols"]


# Schemas


def objects_of(schema, place="schema"):
    """Every subschema with named keys, and where it stands."""
    if isinstance(schema, dict):
        if schema.get("type") == "object" and "properties" in schema:
            yield place, schema
        for key, value in schema.items():
            if key not in ("then", "else", "if"):
                yield from objects_of(value, f"{place}.{key}")
    elif isinstance(schema, list):
        for i, value in enumerate(schema):
            yield from objects_of(value, f"{place}.{i}")


@pytest.mark.parametrize("name", ["run", "cell"])
def test_schemas_are_closed_and_describe_every_key(name):
    schema = yaml.safe_load((SCHEMAS / f"{name}.schema.yaml").read_text())
    found = list(objects_of(schema))
    assert len(found) > 10
    for place, part in found:
        assert part.get("additionalProperties") is False, place
        for key, value in part["properties"].items():
            assert value.get("description"), f"{place}.{key}"


@pytest.mark.parametrize(
    "damage",
    [
        lambda record: record.update(surprise=1),
        lambda record: record.pop("metric"),
        lambda record: record.update(scores=None),
        lambda record: record["request"].update(seed="1"),
        lambda record: record.update(status="fine"),
        lambda record: record["ran_on"]["base"].update(sha256="abc"),
        lambda record: record["files"].pop("predictions.npz"),
    ],
)
def test_a_run_that_does_not_fit_is_refused(damage):
    record = run_record()
    validate(record, "run.schema.yaml", Path("run.json"))
    damage(record)
    with pytest.raises(ReportError, match=r"does not fit run\.schema\.yaml"):
        validate(record, "run.schema.yaml", Path("run.json"))


def test_a_diverged_run_may_not_carry_a_score():
    record = run_record(diverged=True)
    validate(record, "run.schema.yaml", Path("run.json"))
    record["scores"] = run_record()["scores"]
    with pytest.raises(ReportError):
        validate(record, "run.schema.yaml", Path("run.json"))


# Failures that a user can meet


def test_a_missing_run_is_one_line_and_exit_code_1(tmp_path):
    code, stderr = command("cell", "--out", tmp_path / "cell.json", "--run", tmp_path / "nowhere")
    assert code == 1
    assert stderr.count("\n") == 1
    assert "nowhere/run.json" in stderr and "snakemake" in stderr and "Traceback" not in stderr


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("run.json", "{", "not valid JSON"),
        ("run.json", "[]", "no JSON object"),
        ("run.json", '{"format": 2}', "does not fit run.schema.yaml"),
        ("machine.json", None, "machine.json"),
        ("machine.json", "{}", "does not fit cell.schema.yaml"),
        ("predictions.npz", None, "is missing"),
        ("predictions.npz", "other bytes", "sha256 differs"),
        ("last.safetensors", None, "is missing"),
        ("benchmark.tsv", "nonsense", "not a benchmark"),
    ],
)
def test_a_damaged_run_folder_is_named(name, content, words, tmp_path, capsys):
    folder = write_run(tmp_path / "run", run_record())
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_text(content)
    line = refusal(capsys, "cell", "--out", tmp_path / "cell.json", "--run", folder)
    assert str(folder / name) in line and words in line


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999"])
def test_numbers_that_are_none_never_reach_a_cell(number, tmp_path):
    folder = write_run(tmp_path / "run", run_record(last=61.25))
    text = (folder / "run.json").read_text()
    (folder / "run.json").write_text(text.replace("61.25", number))
    with pytest.raises(ReportError, match="not valid JSON"):
        make_cell([folder], "last")


def test_a_failed_write_keeps_the_old_file_and_leaves_no_rest(tmp_path, monkeypatch):
    target = tmp_path / "cell.json"
    write_text(target, "old")
    for number, words in ((errno.ENOSPC, "free some space"), (errno.EROFS, "writable"), (errno.EIO, "--out")):

        def fail(_descriptor, number=number):
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(os, "fsync", fail)
        with pytest.raises(ReportError, match=words):
            write_text(target, "new")
        assert target.read_text() == "old"
        assert list(tmp_path.iterdir()) == [target]


def test_an_output_below_a_file_is_refused(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    folder = write_run(tmp_path / "run", run_record())
    assert "cannot write" in refusal(capsys, "cell", "--out", tmp_path / "file/cell.json", "--run", folder)


@pytest.mark.parametrize("content", [None, "{", '{"format": 1}'])
def test_a_page_names_the_cell_it_cannot_read(content, tmp_path, capsys):
    path = tmp_path / "fp32_rte.json"
    if content:
        path.write_text(content)
    assert str(path) in refusal(capsys, "page", "--out", tmp_path / "index.html", path)


# From the commands to the page


def test_commands_make_the_cell_and_the_page(tmp_path):
    folders = [write_run(tmp_path / str(seed), run_record(seed=seed, last=60.0 + seed)) for seed in (1, 2)]
    out, page = tmp_path / "results/fp32_rte.json", tmp_path / "html/index.html"
    assert command("cell", "--out", out, "--run", *folders, "--primary", "last") == (0, "")
    text = out.read_text()
    assert text == json.dumps(json.loads(text), sort_keys=True, indent=1) + "\n"
    assert command("page", "--out", page, out) == (0, "")
    again = tmp_path / "again.html"
    assert command("page", "--out", again, out) == (0, "")
    assert page.read_bytes() == again.read_bytes()


def test_the_report_loads_no_training_code():
    probe = "import sys, report.cells, report.page, report.plots; print(*{'torch', 'methods'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", probe], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "\n"
