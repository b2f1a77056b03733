"""The examples of docs/extending.md, each run as it is printed there, in a copy of the project."""

import importlib
import json
import re
import sys

import pytest
import yaml

from tests.fixtures.copies import ROOT, copy_project, run_in

TEXT = (ROOT / "docs/extending.md").read_text(encoding="utf-8")
TINY = {
    "tasks": ["sst2"],
    "methods": ["fp32"],
    "base": {"layers": 3, "hidden": 32, "heads": 2, "intermediate": 128, "texts": 400},
    "budget": {"epochs_scale": 0.34, "student_epochs_scale": None, "lr_scale": 20, "evaluate_every": 50, "train_rows": 200},
    "allow_weak_teacher": True,
}
METHODS = ("sigma_4bit", "directions_short", "small_one", "routed_two", "choosy_two", "lsq_4bit_slow")


def files() -> dict[str, str]:
    """The files that the sections on methods print, by the path that is named before each."""
    found = {}
    for section in TEXT.split("\n## ")[1:]:
        if not section.startswith("A kind of task"):
            found |= dict(re.findall(r"`([\w/]+\.(?:py|yaml))`[^`]*?:\n\n```\w+\n(.*?)```", section, re.DOTALL))
            found |= dict(re.findall(r"^`([\w/]+\.yaml)`, in which.*?```yaml\n(.*?)```", section, re.DOTALL | re.MULTILINE))
    return found


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    folder = copy_project(tmp_path_factory.mktemp("extended"))
    for name, content in files().items():
        (folder / name).write_text(content, encoding="utf-8")
    (folder / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    return folder


def test_every_section_prints_what_it_names():
    assert set(files()) == {
        "config/methods/variants.yaml",
        "methods/kernel/quantizers/sigma.py",
        "config/methods/sigma.yaml",
        "methods/directions.py",
        "config/methods/directions.yaml",
        "methods/small.py",
        "config/methods/small.yaml",
        "methods/routed.py",
        "config/methods/routed.yaml",
        "methods/choosy.py",
        "config/methods/choosy.yaml",
    }


@pytest.mark.slow
def test_every_example_trains_packs_and_scores(project):
    cells = [f"results/{method}_sst2.json" for method in METHODS]
    run_in(project, "snakemake", *cells, "--cores", "2", "--configfile", "tiny.yaml")
    of = {method: json.loads((project / f"results/{method}_sst2.json").read_text()) for method in METHODS}
    measured = {method: cell["measured"] for method, cell in of.items()}
    assert measured["sigma_4bit"]["bits"] == {"weights": 4, "embeddings": 4, "activations": 8}
    full = measured["routed_two"]["size"]["fp32_bytes"]
    assert measured["small_one"]["size"]["paper"]["bytes"] < 0.6 * full
    assert measured["directions_short"]["size"]["paper"]["bytes"] < full
    assert measured["routed_two"]["size"]["paper"]["bytes"] > full  # every expert is in the file
    runs = project / "results/demo/runs"
    allocation = json.loads((runs / "choosy_search/sst2/1/allocation.json").read_text())
    assert len(allocation["keep"]) == 2 and len(allocation["losses"]) == 3
    record = json.loads((runs / "choosy_two/sst2/1/run.json").read_text())
    assert record["ancestors"]["allocation"]["method"] == "choosy_search"
    curve = json.loads((runs / "directions_short/sst2/1/run.json").read_text())["curve"]
    assert set(curve[0]["terms"]) == {"direction", "logits"}
    assert all(set(cell["about"]["method"]) >= {"title", "family"} for cell in of.values())


def test_a_search_has_no_cell(project):
    done = run_in(project, "snakemake", "results/choosy_search_sst2.json", "--configfile", "tiny.yaml", check=False)
    assert "choosy_search is a search" in done.stdout + done.stderr


def test_another_encoder_is_one_line(monkeypatch):
    import torch

    from methods.model import anatomy, encoder

    (line,) = re.findall(r"```anatomy\n(.*?)```", TEXT, re.DOTALL)
    name, made = next(iter(eval("{" + line + "}", {"Anatomy": anatomy.Anatomy}).items()))
    monkeypatch.setitem(anatomy.ANATOMIES, name, made)
    config = {"model_type": name, "vocab_size": 20, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    config |= {"intermediate_size": 32, "max_position_embeddings": 40, "type_vocab_size": 1, "pad_token_id": 1}
    model = encoder.build(config, "sequence", 3).eval()
    ids = torch.tensor([[0, 5, 6, 2]])
    assert model(input_ids=ids).logits.shape == (1, 3)
    assert len(anatomy.layers(model)) == 2 and anatomy.pooler(model) is None
    assert model.record.config["model_type"] == name


def test_a_figure_is_one_file(tmp_path, monkeypatch):
    from report import figures

    (tmp_path / "mine.py").write_text("def drawings(evidence, axis):\n    yield from ()\n", encoding="utf-8")
    monkeypatch.setattr(figures, "__path__", [*figures.__path__, str(tmp_path)])
    importlib.invalidate_caches()
    try:
        assert "report.figures.mine" in [module.__name__ for module in figures.figure_files()]
    finally:
        sys.modules.pop("report.figures.mine", None)
