"""Every file that a command reads, changed at random: the command takes it, or ends in one line of error, and nothing else.

Model files have tests of their own, in tests/model/test_strange_files.py.
"""

import csv
import functools
import json
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.torch import save_file

from methods import fp32
from methods import run as harness
from methods.__main__ import main
from methods.common import files
from methods.common.errors import UserError
from methods.model.encoder import tokenizer_json
from methods.scoring import rescore
from methods.tasks import files as rows_of_files
from methods.training.checkpoints import Checkpoints
from methods.training.context import Journal
from methods.use import latency
from report.__main__ import main as report
from report.evidence.comparison import compare
from report.evidence.reading import read_cells
from tests.fixtures.attacks import Watch, changed_bytes, changed_json, error_of
from tests.fixtures.cells import board
from tests.fixtures.runs_of_methods import CATALOGUE, request
from tests.fixtures.world import WORDS, tiny
from workflow import catalogue

SECONDS, MEMORY = 3.0, 300  # of the processor for one file, and MiB for all
SEEDS = [pytest.param(range(20), id="few"), pytest.param(range(20, 170), id="many", marks=pytest.mark.slow)]
STUDENT = "rtn_8bit"  # with two ancestors, and without training

some_and_many = pytest.mark.parametrize("seeds", SEEDS)


def attack(paths: Path | list[Path], seeds: range, *readers: Callable[[], str | None]) -> int:
    """Change a file, or one of several, at random, once for each seed, and read it; return how many readers refuse.

    A reader returns its line of error, or None where it takes the file; anything that it raises fails the test.
    """
    contents = {path: path.read_bytes() for path in ([paths] if isinstance(paths, Path) else paths)}
    refused = 0
    assert [reader() for reader in readers] == [None] * len(readers), "the honest file is refused"
    with Watch() as watch:
        for seed in seeds:
            chance = random.Random(seed)
            path = chance.choice(list(contents))
            by_value = path.suffix == ".json" and seed % 3
            change = changed_json(json.loads(contents[path]), chance) if by_value else changed_bytes(contents[path], chance)
            path.write_bytes(change[0])
            for reader in readers:
                started = time.process_time()
                try:
                    refused += reader() is not None
                except Exception as error:
                    raise AssertionError(f"{path.name} {seed} ({change[1]}): {type(error).__name__} {error}") from error
                assert time.process_time() - started < SECONDS, f"{path.name} {seed} ({change[1]}) takes too long"
            path.write_bytes(contents[path])
    assert watch.taken < MEMORY
    return refused


def line_of(read: Callable) -> str | None:
    """Return the one line of a UserError, or None."""
    try:
        read()
    except UserError as error:
        assert "\n" not in str(error) and len(str(error)) < 1200
        return str(error)
    return None


# --- runs -------------------------------------------------------------------------------------------------


@pytest.fixture
def commands(run_method, base_path, sst2_path, tmp_path, monkeypatch):
    """The folder of a finished run of this test's own, the data file, and every command that reads them, by name.

    What the commands compute is left out: they end as soon as all is read and checked.
    """
    folder, data = tmp_path / "run", tmp_path / "data.safetensors"
    shutil.copytree(run_method("fp32")[1], folder)
    shutil.copy(sst2_path, data)
    measured = {str(size): {"median_ms": 1.0, "sentences_per_second": 1.0} for size in latency.BATCHES}
    monkeypatch.setattr(latency, "_timed", lambda session, split, size, seconds: measured[str(size)])
    monkeypatch.setattr(rescore, "_scores", lambda task, protocol, stored: task.baseline()["metrics"])
    monkeypatch.setattr(harness.Run, "_make", lambda run: run.prepare() and run.record)
    about = catalogue.dump(CATALOGUE.about("fp32", "sst2"))
    ancestors = [word for role in ("init", "teacher") for word in ("--ancestor", f"{role}={folder}")]
    inputs = ["--data", data, "--base", base_path, "--out", tmp_path / "new"]
    words = {
        "score": (main, "score", folder, "--data", data),
        "latency": (main, "latency", folder, "--data", data, "--seconds", "0.001", "--threads", "1"),
        "cell": (report, "cell", "--out", tmp_path / "cell.json", "--run", folder, "--about", about),
        "first run": (main, "run", "--request", json.dumps(request("fp32")), *inputs),
        "next run": (main, "run", "--request", json.dumps(request(STUDENT)), *ancestors, *inputs),
        "same run": (main, "run", "--request", json.dumps(request("fp32")), *inputs[:-1], folder),
    }
    return folder, data, {name: functools.partial(error_of, *call) for name, call in words.items()}


@some_and_many
@pytest.mark.parametrize("reader", ["score", "latency", "cell", "next run"])
def test_a_changed_run_is_taken_or_is_one_line(reader, seeds, commands):
    folder, _, readers = commands
    assert attack(folder / "run.json", seeds, readers[reader]) > len(seeds) / 4


@some_and_many
def test_a_changed_record_of_a_finished_run_is_taken_or_the_run_is_made_again(seeds, commands, monkeypatch):
    folder, _, readers = commands
    record = (folder / "record.json").read_bytes()
    made = []
    monkeypatch.setattr(harness.Run, "_make", lambda run: made.append(run) or run.record)

    def read() -> str | None:
        (folder / "run.json").unlink(missing_ok=True)  # as Snakemake does before it starts a job
        return readers["same run"]()

    attack(folder / "record.json", seeds, read)
    assert len(made) > len(seeds) / 4
    (folder / "record.json").write_bytes(record)
    made.clear()
    assert read() is None and not made, "the honest record is taken"


@some_and_many
def test_a_changed_journal_is_begun_anew(seeds, tmp_path):
    path = tmp_path / "journal.json"
    Journal(path, "this run").once("question", lambda: {"answer": [1, 2.5]})

    def begin() -> str | None:
        return None if Journal(path, "this run").answers == {"question": {"answer": [1, 2.5]}} else "anew"

    attack(path, seeds, begin)
    path.write_text(path.read_text().replace("2.5", "2.6"))
    assert Journal(path, "this run").answers == {}


@some_and_many
def test_changed_predictions_are_one_line(seeds, commands):
    folder, _, readers = commands
    assert attack(folder / "predictions.npz", seeds, readers["score"], readers["cell"]) > 1.8 * len(seeds)


@some_and_many
def test_a_changed_data_file_is_one_line(seeds, commands):
    _, data, readers = commands
    refused = attack(data, seeds, *(readers[name] for name in ("score", "latency", "first run", "next run")))
    assert refused > 3.6 * len(seeds)


class Stopped(Exception):
    """Ends a run before it writes its model."""


@some_and_many
def test_a_changed_checkpoint_is_passed_over_with_one_line(seeds, sst2_path, base_path, tmp_path, monkeypatch):
    folder = tmp_path / "run/checkpoints"

    def stop(*_):
        raise Stopped

    monkeypatch.setattr(harness.Run, "write", stop)
    inputs = {"data_path": sst2_path, "base_path": base_path, "ancestors": {}}
    with pytest.raises(Stopped):
        wanted = request("fp32", budget={"epochs_scale": 0.1})
        harness.execute(wanted, fp32, folder.parent, **inputs, checkpoint_steps=1)
    older, newest = sorted(folder.glob("step-*"))
    identity = files.read_sealed(newest)[1]["identity"]

    def load() -> str | None:
        said = []
        assert Checkpoints(folder, identity, say=said.append).load() is not None
        assert all("\n" not in line for line in said)
        assert said[-1] == f"Resuming from {newest.name if len(said) == 1 else older.name}"
        return said[0] if len(said) == 2 else None

    assert attack(newest, seeds, load) > 0.9 * len(seeds)


# --- cells ------------------------------------------------------------------------------------------------


@some_and_many
@pytest.mark.parametrize("place", [0, 1])  # the cell of full precision, from which losses are counted, and another one
def test_a_changed_cell_is_taken_or_is_one_line(place, seeds, tmp_path):
    cells = board(["fp32", "int8_dynamic"], ["sst2", "rte"], (1, 2), rows=40)
    paths = [tmp_path / f"{number}.json" for number in range(len(cells))]
    for path, cell in zip(paths, cells, strict=True):
        files.write_json(path, cell)
    changed = paths[place]

    def read() -> str | None:
        return line_of(lambda: compare(read_cells([changed]) + [cells[at] for at in range(len(cells)) if at != place]))

    assert attack(changed, seeds, read) > len(seeds) / 4


@pytest.mark.slow
def test_a_changed_cell_that_is_taken_gives_a_page(tmp_path):
    cells = board(["fp32", "int8_dynamic"], ["sst2"], (1, 2), rows=40)
    paths = [tmp_path / f"{number}.json" for number in range(len(cells))]
    for path, cell in zip(paths, cells, strict=True):
        files.write_json(path, cell)
    page = functools.partial(
        error_of, report, "page", "--out", tmp_path / "page.html", "--tables", tmp_path / "tables", *paths
    )
    attack(paths[1], range(500, 530), page)


# --- mirrors and folders of models ------------------------------------------------------------------------

README = """---
configs:
- config_name: rte
  data_files:
  - split: train
    path: rte/train-*
  - split: validation
    path: rte/validation-*
---
"""
ROWS = {"sentence1": ["a good film", "the dog ran"], "sentence2": ["a film", "was dull"], "label": [0, 1], "idx": [0, 1]}


@pytest.fixture
def mirror(tmp_path, base_path):
    """The dataset's folder in a mirror, and the command that makes the data file from it."""
    folder = tmp_path / "mirror/nyu-mll/glue"
    (folder / "rte").mkdir(parents=True)
    for split in ("train", "validation"):
        table = pa.table({name: values * 20 for name, values in ROWS.items()})
        pq.write_table(table, folder / f"rte/{split}-00000-of-00001.parquet")
    (folder / "README.md").write_text(README)
    names = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    (folder / "SHA256SUMS").write_text("".join(f"{files.sha256_file(folder / name)}  {name}\n" for name in names))
    wanted = json.loads(catalogue.dump(CATALOGUE.request_data("rte")))
    wanted |= {"source": {"source": "hub", "mirror": str(tmp_path / "mirror")}, "max_length": 32}
    out = tmp_path / "data.safetensors"
    return folder, functools.partial(
        error_of, main, "data", "--request", json.dumps(wanted), "--base", base_path, "--out", out
    )


@some_and_many
def test_a_changed_file_of_a_mirror_is_taken_or_is_one_line(seeds, mirror):
    folder, make = mirror
    assert attack([path for path in folder.rglob("*") if path.is_file()], seeds, make) > len(seeds) / 4


@some_and_many
def test_a_changed_file_of_a_mirror_without_sums_is_taken_or_is_one_line(seeds, mirror):
    folder, make = mirror
    (folder / "SHA256SUMS").unlink()
    attack([folder / "README.md", folder / "rte/train-00000-of-00001.parquet"], seeds, make)


@pytest.fixture
def model_folder(tmp_path):
    """A folder with a model's files as the hub has them, and the command that makes the base model file from it."""
    folder, model = tmp_path / "model", tiny()
    folder.mkdir()
    save_file(dict(model.base_model.state_dict()), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({**model.record.config, "architectures": ["BertModel"]}))
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS]))
    (folder / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": True, "model_max_length": 64}))
    wanted = {"base": {"source": "folder", "path": str(folder)}, "mirror": None, "code": "any"}
    make = functools.partial(error_of, main, "base", "--request", json.dumps(wanted), "--out", tmp_path / "base.safetensors")
    return folder, make


@some_and_many
@pytest.mark.parametrize(
    "name", ["config.json", "model.safetensors", "vocab.txt", "tokenizer_config.json", "tokenizer.json"]
)
def test_a_changed_file_of_a_model_folder_is_taken_or_is_one_line(name, seeds, model_folder):
    folder, make = model_folder
    if name == "tokenizer.json":
        (folder / name).write_text(tokenizer_json(folder))
    attack(folder / name, seeds, make)


# --- rows of a user's own ---------------------------------------------------------------------------------

OWN = {"text": ["the film is good", "a bad, dull film", 'it was "fine"'] * 10, "label": ["good", "bad", "good"] * 10}


def write_rows(path: Path) -> None:
    lines = list(zip(*OWN.values(), strict=True))
    if path.suffix == ".parquet":
        pq.write_table(pa.table(OWN), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(dict(zip(OWN, line, strict=True))) + "\n" for line in lines))
    else:
        with path.open("w", newline="") as file:
            csv.writer(file, delimiter="," if path.suffix == ".csv" else "\t").writerows([OWN, *lines])


@some_and_many
@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_changed_rows_are_taken_or_are_one_line(suffix, seeds, tmp_path):
    path = tmp_path / f"rows{suffix}"
    write_rows(path)
    entry = {"kind": "classification", "columns": ["text"], "labels": ["bad", "good"], "files": {"train": str(path)}}
    attack(path, seeds, lambda: line_of(lambda: rows_of_files.rows(entry, "mine")))
