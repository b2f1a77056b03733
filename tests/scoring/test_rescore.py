"""`score`: stored predictions scored again, and every damaged file one line."""

import json
import shutil

import numpy as np
import pytest

from methods import fp32
from methods import run as harness
from methods.__main__ import main
from methods.common.files import sha256_file


@pytest.fixture(scope="module")
def finished(tmp_path_factory, base_path, sst2_path, request_of_fp32):
    folder = tmp_path_factory.mktemp("run")
    harness.execute(request_of_fp32, fp32, folder, data_path=sst2_path, base_path=base_path, ancestors={})
    return folder


@pytest.fixture(scope="module")
def request_of_fp32():
    from workflow import catalogue

    budget = {"lr_scale": 50, "epochs_scale": 1, "evaluate_every": 4, "batch_size": 16}
    return json.loads(catalogue.dump(catalogue.load({"preset": "demo", "budget": budget}).request("fp32", "sst2", 1)))


def score(folder, data, capsys) -> tuple[int, str, str]:
    capsys.readouterr()
    code = main(["score", str(folder), "--data", str(data)])
    return (code, *capsys.readouterr())


def test_a_run_is_confirmed_through_evaluate(finished, sst2_path, capsys):
    code, out, _ = score(finished, sst2_path, capsys)
    recorded = json.loads((finished / "run.json").read_text())["scores"]
    expected = [f"{name} accuracy {recorded[name]['metrics']['accuracy']:.2f} confirmed" for name in ("best", "last")]
    assert (code, out.splitlines()) == (0, expected)


def test_a_sealed_file_of_another_kind_is_no_task_file(finished, base_path, capsys):
    for path in (base_path, finished / "last.safetensors"):
        code, _, error = score(finished, path, capsys)
        assert code == 1 and f"{path} is no task file: name the results/PRESET/data/TASK.safetensors" in error


def test_a_search_has_no_scores(finished, sst2_path, tmp_path, capsys):
    run = json.loads((finished / "run.json").read_text()) | {"scores": None, "files": {"allocation.json": "0" * 64}}
    (tmp_path / "run.json").write_text(json.dumps(run))
    code, _, error = score(tmp_path, sst2_path, capsys)
    assert code == 1 and "is a search: it has no model and no scores" in error


def damage(folder, how: str) -> None:
    path, run = folder / "predictions.npz", json.loads((folder / "run.json").read_text())
    match how:
        case "cut":
            path.write_bytes(path.read_bytes()[:-40])
        case "cut and recorded":
            path.write_bytes(path.read_bytes()[:-40])
            run["files"]["predictions.npz"] = sha256_file(path)
        case "arrays missing":
            np.savez(path, other=np.zeros(3))
            run["files"]["predictions.npz"] = sha256_file(path)
        case "fewer rows":
            arrays = {name: array[:-1] if name.startswith("last") else array for name, array in np.load(path).items()}
            np.savez(path, **arrays)
            run["files"]["predictions.npz"] = sha256_file(path)
        case "no predictions":
            path.unlink()
        case "a list" | "null":
            run = [] if how == "a list" else None
        case "no files":
            del run["files"]
        case "no record":
            (folder / "run.json").unlink()
            return
        case "another score":
            run["scores"]["last"]["metrics"]["accuracy"] += 1
        case "another task":
            run["request"]["task"] = "rte"
    (folder / "run.json").write_text(json.dumps(run))


@pytest.mark.parametrize(
    ("how", "line"),
    {
        "cut": "predictions.npz is damaged: delete the run.json beside it",
        "cut and recorded": "predictions.npz is damaged",
        "arrays missing": "its predictions are not those of",
        "fewer rows": "its predictions are not those of",
        "no predictions": "predictions.npz is missing",
        "a list": "run.json holds no JSON object",
        "null": "run.json holds no JSON object",
        "no files": "run.json does not fit run.schema.yaml",
        "no record": "run.json is missing: name the folder of a finished run",
        "another score": "but run.json says",
        "another task": "is a run on rte: name the data of that task",
    }.items(),
)
def test_what_is_damaged_is_one_line(finished, sst2_path, tmp_path, capsys, how, line):
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    damage(folder, how)
    code, _, error = score(folder, sst2_path, capsys)
    assert code == 1 and line in error
    assert error.count("\n") == 1
