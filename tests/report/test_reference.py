"""The reference is made from cells alone, names what it lacks, and what is quoted elsewhere is what its files say."""

import json
import math
import re
import shutil
from pathlib import Path

import pytest

from methods.common.errors import UserError
from methods.common.files import sha256_file, write_json
from report import reference
from report.evidence.reading import read_cells
from report.verification import interval
from tests.fixtures import cells as fixture

ROOT = Path(__file__).resolve().parents[2]
METHODS, TASKS = ("fp32", "rtn_4bit", "lsq_4bit"), ("stsb", "rte")
NAMES = "config/reference.yaml and config/reference_large.yaml"
TEXT = "Before.\n\n<!-- reference: {} -->\nstale words\n<!-- end -->\n\nAfter.\n"


@pytest.fixture
def root(tmp_path):
    """A project with two configurations and two texts, and cells beside it."""
    (tmp_path / "config").mkdir()
    names = json.dumps({"preset": "paper", "methods": [*METHODS, "twn_2bit"], "tasks": [*TASKS, "cola"], "seeds": [1, 2, 3]})
    (tmp_path / "config/reference.yaml").write_text(names)
    names = json.dumps({"preset": "paper", "methods": ["fp32", "twn_2bit"], "tasks": ["sst2"], "seeds": [1]})
    (tmp_path / "config/reference_large.yaml").write_text(names)
    (tmp_path / "README.md").write_text(TEXT.format("table"))
    (tmp_path / "ARTIFACT.md").write_text(TEXT.format("intervals"))
    for cell in fixture.board(METHODS, TASKS, seeds=(1, 2, 3), rows=60):
        for of_seed in cell["ran_on"]["volatile"]["machines"]:
            of_seed["machine"] |= {"git_commit": "c" * 40, "git_dirty": False}
        write_json(tmp_path / f"made/{cell['request']['method']}_{cell['request']['task']}.json", cell)
    return tmp_path


def publish(root: Path, *names: str) -> Path:
    reference.publish([root / f"made/{name}.json" for name in names], root / "docs", root)
    return root / "docs"


ALL = [f"{method}_{task}" for method in METHODS for task in TASKS]


def test_the_same_cells_give_the_same_files_in_any_order_and_number_of_steps(root):
    folder = publish(root, *ALL)
    once = {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    shutil.rmtree(folder)
    publish(root, *ALL[3:])
    publish(root, *reversed(ALL[:3]))
    publish(root)  # from what is there
    again = {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert once == again
    assert {"index.html", "provenance.json"} <= {str(name) for name in once}
    assert {name.suffix for name in once} == {".html", ".json", ".csv", ".md", ".tex", ".bib", ".svg"}


def test_cells_are_copied_and_the_provenance_names_code_machines_hours_and_gaps(root):
    folder = publish(root, *ALL)
    found = json.loads((folder / "provenance.json").read_text())
    assert found["commits"] == ["c" * 40]
    assert found["left_out"] == {
        "fp32": ["cola", "sst2"],
        "rtn_4bit": ["cola"],
        "lsq_4bit": ["cola"],
        "twn_2bit": [*TASKS, "cola", "sst2"],
    }
    assert found["fewer_seeds"] == {}
    assert list(found["cells"]) == ALL
    for name, entry in found["cells"].items():
        assert (folder / f"cells/{name}.json").read_bytes() == (root / f"made/{name}.json").read_bytes()
        assert entry["sha256"] == sha256_file(folder / f"cells/{name}.json")
    (cell,) = read_cells([folder / "cells/fp32_rte.json"])
    cost = cell["ran_on"]["volatile"]["cost"]
    assert found["hours"]["fp32"] == pytest.approx(2 * cost["seconds"] * cost["n"] / 3600, abs=2e-3)
    assert found["machines"] and all("git_commit" not in machine for machine in found["machines"])


def test_texts_quote_the_numbers_between_their_markers(root):
    folder = publish(root, *ALL)
    readme, artifact = ((root / name).read_text() for name in ("README.md", "ARTIFACT.md"))
    for text in (readme, artifact):
        assert text.startswith("Before.\n\n<!-- reference: ") and text.endswith("<!-- end -->\n\nAfter.\n")
        assert "stale words" not in text
    assert f"Not run yet, of what {NAMES} name: fp32 (cola, sst2), rtn_4bit (cola), lsq_4bit (cola) and twn_2bit." in readme
    assert quoted_scores(readme) == scores_of(folder / "cells")
    assert quoted_intervals(artifact) == intervals_of(folder / "cells")


def test_cells_of_fewer_seeds_are_named(root):
    path = root / "made/lsq_4bit_rte.json"
    (cell,) = fixture.board(("lsq_4bit",), ("rte",), seeds=(1,), rows=60)
    cell["ran_on"]["volatile"]["machines"][0]["machine"] |= {"git_commit": "c" * 40, "git_dirty": False}
    write_json(path, cell)
    folder = publish(root, *ALL)
    assert json.loads((folder / "provenance.json").read_text())["fewer_seeds"] == {"lsq_4bit": ["rte"]}
    assert f"With fewer seeds, of what {NAMES} name: lsq_4bit (rte)." in (root / "README.md").read_text()


def test_a_task_of_the_second_configuration_needs_no_more_seeds_than_that_names(root):
    path = root / "made/fp32_sst2.json"
    (cell,) = fixture.board(("fp32",), ("sst2",), seeds=(1,), rows=60)
    cell["ran_on"]["volatile"]["machines"][0]["machine"] |= {"git_commit": "c" * 40, "git_dirty": False}
    write_json(path, cell)
    folder = publish(root, *ALL, "fp32_sst2")
    found = json.loads((folder / "provenance.json").read_text())
    assert list(found["cells"]) == [*ALL, "fp32_sst2"] and found["fewer_seeds"] == {}


def test_nothing_is_published_where_one_cell_is_refused(root):
    folder = publish(root, *ALL)
    before = {path: path.read_bytes() for path in folder.rglob("*.json")}
    for name, change in (("fp32_rte", {"python": "3.99"}), ("lsq_4bit_rte", {"git_dirty": True})):
        cell = json.loads((root / f"made/{name}.json").read_text())
        cell["ran_on"]["volatile"]["machines"][0]["machine"] |= change
        write_json(root / f"made/{name}.json", cell)
    with pytest.raises(UserError, match=r"lsq_4bit_rte.json was made from code that is in no commit"):
        publish(root, "fp32_rte", "lsq_4bit_rte")
    assert before == {path: path.read_bytes() for path in folder.rglob("*.json")}


def test_no_figure_of_what_is_no_longer_there_stays(root):
    folder = publish(root, *ALL)
    for path in folder.glob("cells/*_rte.json"):
        path.unlink()
    publish(root)
    assert not list(folder.glob("figures/*rte*")) and list(folder.glob("figures/*stsb*"))


def test_a_published_cell_that_is_no_longer_named_is_one_line(root):
    publish(root, *ALL)
    names = json.dumps({"preset": "paper", "methods": METHODS[:2], "tasks": TASKS, "seeds": [1, 2, 3]})
    (root / "config/reference.yaml").write_text(names)
    with pytest.raises(UserError, match=r"lsq_4bit_rte.json: .* do not name this cell"):
        publish(root)


@pytest.mark.parametrize("change", [{"git_commit": None}, {"git_dirty": True}])
def test_a_cell_of_changed_code_is_refused(root, change):
    path = root / "made/lsq_4bit_rte.json"
    cell = json.loads(path.read_text())
    cell["ran_on"]["volatile"]["machines"][1]["machine"] |= change
    write_json(path, cell)
    with pytest.raises(UserError, match=r"lsq_4bit_rte.json was made from code that is in no commit \(seed 2\)"):
        publish(root, "lsq_4bit_rte")


@pytest.mark.parametrize(
    "key, value, told",
    [
        ("preset", "demo", "is of the preset demo, and the reference is of paper: make its cells with --configfile"),
        ("method", "lsq_2bit", f"{NAMES} do not name this cell"),
        ("task", "mrpc", f"{NAMES} do not name this cell"),
    ],
)
def test_a_cell_that_does_not_belong_to_it_is_refused(root, key, value, told):
    path = root / "made/lsq_4bit_rte.json"
    cell = json.loads(path.read_text())
    cell["request"][key] = value
    write_json(path, cell)
    with pytest.raises(UserError, match=told):
        publish(root, "lsq_4bit_rte")
    assert not (root / "docs").exists()


# --- the numbers of a text, read without the code that wrote them ----------------------------------------------


def block(text: str) -> list[list[str]]:
    """The places of a text's quoted table, row by row."""
    quoted = re.search(r"<!-- reference: \w+ -->\n(.*?)<!-- end -->", text, re.DOTALL)[1]
    rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in quoted.splitlines() if line.startswith("|")]
    return [[place.strip() for place in row] for row in rows]


def quoted_scores(text: str) -> dict[tuple[str, str], str]:
    """{(title of a method, title of a task): mean as printed} of the README's table."""
    header, _, *rows = block(text)
    columns = {at: head.partition(" (")[0] for at, head in enumerate(header) if head.endswith(")") and at > 3}
    found = {}
    for row in rows:
        for at, task in columns.items():
            if (number := re.match(r"\*{0,2}(-?\d+\.\d)\*{0,2}", row[at])) and task != "Loss":
                found[row[0], task] = number[1]
    return found


def scores_of(folder: Path) -> dict[tuple[str, str], str]:
    found = {}
    for path in folder.glob("*.json"):
        cell = json.loads(path.read_text())
        known = cell["measured"]["protocols"][cell["request"]["primary"]]["metrics"][cell["measured"]["metric"]]
        if known["n"]:
            found[cell["about"]["method"]["title"], cell["about"]["task"]["title"]] = f"{known['mean']:.1f}"
    return found


def quoted_intervals(text: str) -> dict[tuple[str, str], tuple[str, ...]]:
    header, _, *rows = block(text)
    found = {}
    for row in rows:
        for task, place in zip(header[1:-1], row[1:-1], strict=True):
            if place != "--":
                found[row[0].strip("`"), task] = tuple(re.fullmatch(r"(.+) \((.+) to (.+)\)", place).groups())
    return found


def intervals_of(folder: Path) -> dict[tuple[str, str], tuple[str, ...]]:
    found = {}
    for path in folder.glob("*.json"):
        (cell,) = read_cells([path])
        known = cell["measured"]["protocols"][cell["request"]["primary"]]["metrics"][cell["measured"]["metric"]]
        low, high, _ = interval(cell, known["n"])
        numbers = (known["mean"], low, high)
        found[cell["request"]["method"], cell["about"]["task"]["title"]] = tuple(f"{number:.1f}" for number in numbers)
    return found


# --- the reference of this project -----------------------------------------------------------------------------


def test_readme_and_artifact_say_what_the_reference_says():
    cells = ROOT / "docs/reference/cells"
    assert quoted_scores((ROOT / "README.md").read_text(encoding="utf-8")) == scores_of(cells)
    assert quoted_intervals((ROOT / "ARTIFACT.md").read_text(encoding="utf-8")) == intervals_of(cells)


def interval_of(row: dict, unit: str = "") -> str:
    return f"{row['loss']:.1f}{unit} (95 % CI {row['loss_low']:.1f} to {row['loss_high']:.1f})"


def cost(cell: dict) -> float:
    return cell["ran_on"]["volatile"]["cost"]["seconds"]


def test_what_readme_found_is_what_the_tables_say():
    """Every number of the README's sentences on the reference."""
    text = " ".join((ROOT / "README.md").read_text(encoding="utf-8").replace("−", "-").split())
    rows = json.loads((ROOT / "docs/reference/tables/glue_last.json").read_text(encoding="utf-8"))["rows"]
    row = {one["method"]: one for one in rows}
    full, gptq, twn = row["fp32"], row["gptq_4bit"], row["twn_2bit"]
    cells = {path.stem: read_cells([path])[0] for path in (ROOT / "docs/reference/cells").glob("*.json")}
    tasks = ("stsb", "mrpc", "rte", "cola")
    assert max(cost(cells[f"gptq_4bit_{task}"]) for task in tasks) < 60
    lat, tws, bwn, lsq = (row[method] for method in ("lat_2bit", "tws_1bit", "bwn_1bit", "lsq_2bit"))
    low, high, unsplit, split = (one["file_bytes"] / 2**20 for one in (twn, full, bwn, tws))
    longer = [sum(cost(cells[f"{method}_{task}"]) for task in tasks) for method in ("lat_2bit", "twn_2bit")]
    assert round(longer[0] / longer[1]) == 2
    lada = row["lada_5x"]
    assert round(lada["file_bytes"] / twn["file_bytes"]) == 3 and twn["loss"] < lada["loss"]
    constant = cells["fp32_rte"]["measured"]["baseline"]["metrics"]["accuracy"]
    differences = [one["measured"]["latency"]["difference"] for one in cells.values()]
    above = [row[method]["cola_matthews"] - full["cola_matthews"] for method in ("rtn_8bit", "lsq_4bit")]
    mean, end = row["rtn_8bit"]["cola_matthews"], row["rtn_8bit"]["cola_high"]
    for sentence in (
        f"Rounding each matrix loses {interval_of(row['rtn_8bit'], ' points on average')}, "
        f"KDLSQ-BERT, which is trained, {interval_of(row['lsq_8bit'])}.",
        f"GPTQ loses {interval_of(gptq, ' points on average')}",
        f"with one step loses {row['rtn_4bit']['loss']:.1f}.",
        f"GPTQ loses {interval_of(row['gptq_3bit'])}, and KDLSQ-BERT {interval_of(row['lsq_3bit'])}.",
        f"TernaryBERT loses {interval_of(twn, ' points')}",
        f"its file has {low:.2f} MiB where full precision's has {high:.1f}.",
        f"it loses {interval_of(lat)} and trains about twice as long.",
        f"KDLSQ-BERT, whose file has {lsq['file_bytes'] / 2**20:.2f} MiB, loses {interval_of(lsq)}.",
        f"BinaryBERT, split from a ternary model, loses {interval_of(tws, ' points')}.",
        f"without splitting lose {interval_of(bwn)}, with {unsplit:.2f} MiB instead of {split:.2f}.",
        f"With activations of 4 bits instead of 8 BinaryBERT loses {interval_of(row['tws_1bit_a4'])}.",
        f"in 32 bits, lose {interval_of(lada, ' points')} with {lada['file_bytes'] / 2**20:.1f} MiB. "
        "TernaryBERT loses less with a third of that.",
        f"full precision is {full['rte_accuracy'] - constant:.1f} points above the constant answer",
        f"differ from torch's by up to {math.ceil(100 * max(differences)) / 100:.2f} points",
        f"rounding to 8 bits scores {above[0]:.1f} points *above* full precision, and KDLSQ-BERT at 4 bits {above[1]:.1f}.",
        f"error of a score on this dev set is {(end - mean) / 1.96:.1f} points",
    ):
        assert sentence in text


def test_the_provenance_is_that_of_the_cells():
    folder = ROOT / "docs/reference"
    found = json.loads((folder / "provenance.json").read_text(encoding="utf-8"))
    paths = sorted((folder / "cells").glob("*.json"))
    assert sorted(found["cells"]) == [path.stem for path in paths]
    assert all(found["cells"][path.stem]["sha256"] == sha256_file(path) for path in paths)
    assert found["left_out"] == reference.left_out(read_cells(paths))
