"""What the catalogue makes of a configuration: one line for a broken one, requests, roles, overrides and priorities."""

import time

import pytest

from methods.common.errors import UserError
from workflow import catalogue, stanzas

DEMO = {"preset": "demo"}


@pytest.fixture
def with_search(monkeypatch):
    """Add a search, and a method that reads its allocation, to the catalogue."""
    read = stanzas.read

    def more(*arguments):
        found = read(*arguments)
        found["search"] = {**found["fp32"], "product": "allocation", "ancestors": {"teacher": "fp32"}}
        found["mixed"] = {**found["twn_2bit"], "ancestors": {"init": "fp32", "plan": "search"}}
        return found

    monkeypatch.setattr(stanzas, "read", more)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("- preset\n", "must hold `key: value` lines, and not list alone"),
        ("demo", "must hold `key: value` lines, and not str alone"),
        ("[" * 100_000, "is not valid YAML|is nested too deeply"),
        ("seeds: " + "[" * 60 + "]" * 60, "is nested too deeply"),
        ("budget: {lr_scale: .nan}", r"budget\.lr_scale: nan is not a finite number"),
        ("budget: {lr_scale: .inf}", r"budget\.lr_scale: inf is not a finite number"),
        ("seeds: [1000000000000000000000000000000]", r"seeds\.0: 10+ is greater than the maximum of 4294967295"),
        ("teacher_seed: 5000000000", r"teacher_seed: 5000000000 is greater than the maximum"),
        ("1: 2", "the key 1 is not a name"),
        ("preset: [demo]", r"Unknown preset \['demo'\]"),
        (b"\xff\xfe\x00", "is not valid YAML"),
        ("a: [", "is not valid YAML"),
        ("methods: [search]", "methods: search is a search and has no cell"),
    ],
)
def test_a_broken_configuration_file_is_one_line(text, line, tmp_path, monkeypatch, with_search):
    path = tmp_path / "config.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    read = catalogue.read_yaml
    monkeypatch.setattr(catalogue, "read_yaml", lambda asked: read(path if asked.name == "config.yaml" else asked))
    with pytest.raises(UserError, match=line) as error:
        catalogue.load()
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 500


def test_a_search_is_an_ancestor_in_a_role_of_any_name_and_has_no_cell(with_search):
    found = catalogue.load({**DEMO, "teacher_seed": 9})
    assert found.ancestors("mixed", "rte", 4) == {"init": ("fp32", "rte", 9), "plan": ("search", "rte", 4)}
    assert found.lineage("mixed") == ["fp32", "search"]
    assert found.request("search", "rte", 4)["product"] == "allocation"
    assert "search" not in found.cell_methods()
    assert found.refuse("search_rte") == (
        "search is a search: its runs make an allocation for other methods, and it has no cell. It is used by mixed."
    )
    assert set(found.runs(["mixed"], ["rte"])) == {("mixed", "rte", 1), ("search", "rte", 1), ("fp32", "rte", 9)}


SLOW = {"like": "lsq_4bit", "title": "slow", "recipe": {"lr": [1e-5, "tried"]}}


def test_a_stanza_of_the_configuration_is_a_method_and_an_override_of_what_it_makes_alone():
    own = {"slow": SLOW, "slower": {"like": "slow", "ancestors": {"init": "slow"}}, "other": {"like": "fp32"}}
    found = catalogue.load({**DEMO, "stanzas": own, "methods": ["slow"]})
    assert found.values("slow", "rte") == found.values("lsq_4bit", "rte") | {"lr": 1e-5}
    assert found.ancestors("slower", "rte", 4)["init"] == ("slow", "rte", 4)
    overrides = {name: found.overrides(name, "rte").get("stanzas", {}) for name in ("fp32", "lsq_4bit", "slow", "slower")}
    assert {name: list(stanzas) for name, stanzas in overrides.items()} == {
        "fp32": [],
        "lsq_4bit": [],
        "slow": ["slow"],
        "slower": ["slower", "slow"],
    }
    assert found.request("lsq_4bit", "rte", 1) == catalogue.load(DEMO).request("lsq_4bit", "rte", 1)


@pytest.mark.parametrize(
    "own, line",
    [
        (
            {"slow": {**SLOW, "like": "lsq_4bti"}},
            "configuration: stanzas: slow.like: unknown method 'lsq_4bti'. Did you mean",
        ),
        ({"slow": {"title": "slow"}}, "configuration: stanzas: slow: write `like: METHOD`, or `family: NAME`"),
        ({"fp32": SLOW}, "configuration: stanzas: fp32 is already a stanza of config/methods/fp32.yaml"),
        ({"slow_{n}": {**SLOW, "each": {"n": [1]}}}, "slow_{n}.each: only stanzas of config/methods have it"),
        ({"slow": {**SLOW, "recipe": {"lr": 1}}}, "configuration: stanzas: slow.recipe.lr: write [value, source]"),
        ({"slow": 3}, "configuration: stanzas: slow: expected a mapping"),
        ([1], "configuration: stanzas: [1] is not of type 'object'"),
    ],
)
def test_a_mistake_in_a_stanza_of_the_configuration_is_one_line(own, line):
    with pytest.raises(UserError) as error:
        catalogue.load({**DEMO, "stanzas": own})
    assert line in str(error.value) and "\n" not in str(error.value)


def test_a_recipe_for_a_task_that_does_not_exist_is_one_line():
    slow = {**SLOW, "recipe": {"lr": [1e-4, {"mprc": 3e-4}, "tried by hand"]}}
    with pytest.raises(UserError, match=r"slow.recipe.lr: unknown task 'mprc'. Did you mean 'mrpc'"):
        catalogue.load({**DEMO, "stanzas": {"slow": slow}})


@pytest.mark.parametrize("base", [{"source": "hub"}, {"source": "folder"}])
def test_a_base_without_its_place_is_one_line(base):
    with pytest.raises(UserError, match=r"configuration: base: '(id|path)' is a required property"):
        catalogue.load({**DEMO, "base": base})


@pytest.mark.parametrize("preset", ["demo", "small"])
def test_a_base_from_elsewhere_takes_nothing_over_from_the_presets(preset):
    base = {"source": "folder", "path": "/somewhere/bert"}
    found = catalogue.load({"preset": preset, "base": base})
    assert found.config["base"] == base
    assert catalogue.load({"preset": preset, **found.changes}).config["base"] == base  # as a cell records it


def test_another_model_of_the_hub_takes_over_no_checksum():
    base = {"source": "hub", "id": "prajjwal1/bert-tiny", "revision": "0" * 40}
    found = catalogue.load({"preset": "small", "base": base})
    assert found.config["base"] == base == catalogue.load({"preset": "small", **found.changes}).config["base"]


def test_a_part_of_a_base_is_laid_over_the_presets():
    assert catalogue.load({**DEMO, "base": {"layers": 2}}).config["base"]["hidden"] == 128


def test_generated_data_need_no_repository():
    assert catalogue.load({"preset": "demo"}).repositories() == []


@pytest.mark.parametrize("preset", ["demo", "small", "paper"])
def test_every_preset_lists_methods_that_have_cells(preset):
    found = catalogue.load({"preset": preset})
    assert set(found.config["methods"]) <= set(found.cell_methods())


def test_overrides_are_what_the_user_wrote_beyond_the_preset_and_the_cell_depends_on():
    budget = {"lr_scale": 20, "epochs_scale": 3, "tasks": {"rte": {"epochs_scale": 5}, "sst2": {"lr_scale": 1}}}
    found = catalogue.load({**DEMO, "tasks": ["rte", "cola"], "seeds": [1, 2], "primary": "last", "budget": budget})
    assert found.overrides("fp32", "rte") == {
        "seeds": [1, 2],
        "budget": {"epochs_scale": 3, "tasks": {"rte": {"epochs_scale": 5}}},
    }
    assert found.overrides("fp32", "cola") == {"seeds": [1, 2], "budget": {"epochs_scale": 3}}
    assert catalogue.load({**DEMO, "methods": ["fp32"], "report": {"margin": 2}}).overrides("fp32", "rte") == {}
    assert catalogue.load({**DEMO, "budget": {"tasks": {"rte": {"epochs_scale": 5}}}}).overrides("fp32", "cola") == {}


def test_cells_learn_titles_and_suites_and_no_request_does():
    found = catalogue.load(DEMO)
    about = found.about("twn_2bit", "wnli")
    assert about["method"].keys() == {"title", "family", "family_title", "paper", "listed", "deviations"}
    assert about["task"] == {"title": "WNLI", "suite": "GLUE", "averaged": False, "kind": "classification"} | {
        "labels": ["not_entailment", "entailment"]
    }
    assert found.about("fp32", "stsb")["task"]["labels"] == []
    shown = {"title", "suite", "averaged", "listed", "deviations", "paper"}
    assert not shown & found.request("twn_2bit", "wnli", 1)["spec"].keys()
    assert not shown & found.request_data("wnli")["entry"].keys()


def test_long_lines_of_runs_come_first():
    found = catalogue.load(DEMO)
    runs = found.runs(found.config["methods"], found.config["tasks"])
    first = found.priorities(runs)
    for run in runs:
        for ancestor in found.ancestors(*run).values():
            assert first[ancestor] > first[run]
    assert found.steps("int8_dynamic", "rte") == 0
    assert first["int8_dynamic", "squad", 1] == 1


def test_requests_of_hundreds_of_runs_take_no_second():
    found = catalogue.load({"preset": "paper"})
    started = time.process_time()
    for seed in range(300):
        found.request("tws_1bit", "rte", seed), found.sources("tws_1bit", "rte")
    assert time.process_time() - started < 1
