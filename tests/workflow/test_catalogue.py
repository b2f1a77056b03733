import re

import pytest

from methods.common.errors import UserError
from workflow import catalogue, documents, stanzas

DEMO = {"preset": "demo"}


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"preset": "dmeo"}, r"Unknown preset 'dmeo'\. Did you mean 'demo'\?"),
        ({"sedes": [1]}, r"unknown key 'sedes' at top level\. Did you mean 'seeds'\?"),
        ({"seeds": "1"}, r"seeds: '1' is not of type 'array'"),
        ({"seeds": ["one"]}, r"seeds\.0: 'one' is not of type 'integer'"),
        ({"tasks": ["rt"]}, r"unknown task 'rt'\. Did you mean 'rte'\?"),
        ({"methods": ["fp23"]}, r"unknown method 'fp23'\. Did you mean 'fp32'\?"),
        ({"budget": {"lr_scale": -1}}, r"budget\.lr_scale: -1 is less than or equal to the minimum of 0"),
        ({"budget": {"tasks": {"rt": {}}}}, r"unknown task 'rt'"),
        ({"data": {"miror": "x"}}, r"unknown key 'miror' at data\. Did you mean 'mirror'\?"),
        ({"primary": "first"}, r"primary: 'first' is not one of \['last', 'best'\]"),
    ],
)
def test_a_mistake_in_the_configuration_is_one_line_that_names_the_key(change, line):
    with pytest.raises(UserError, match=line) as error:
        catalogue.load({**DEMO, **change})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("preset", ["demo", "small", "paper"])
def test_every_preset_is_valid_and_every_name_resolves_in_it(preset):
    found = catalogue.load({"preset": preset})
    for method in found.methods:
        for task in found.tasks:
            match = catalogue.NAME.fullmatch(f"{method}_{task}")
            assert (match["method"], match["task"]) == (method, task)
            run_request = found.request(method, task, 1)
            assert run_request["spec"]["sources"].keys() == run_request["spec"]["recipe"].keys()
            assert found.request_data(task)["max_length"] <= found.tasks[task]["max_length"]


def test_values_for_single_tasks_win():
    found = catalogue.load({**DEMO, "budget": {"tasks": {"rte": {"epochs_scale": 7}}}})
    assert found.budget("rte")["epochs_scale"] == 7
    assert found.budget("sst2")["epochs_scale"] != 7


def test_students_have_their_own_epochs_where_the_budget_says_so():
    tasks = {"rte": {"student_epochs_scale": 0.5}, "cola": {"student_epochs_scale": None}}
    found = catalogue.load({**DEMO, "budget": {"epochs_scale": 3, "student_epochs_scale": 1, "tasks": tasks}})

    def epochs(method: str, task: str) -> float:
        return found.request(method, task, 1)["budget"]["epochs_scale"]

    assert [epochs("fp32", task) for task in ("rte", "mrpc", "cola")] == [3, 3, 3]
    assert [epochs("twn_2bit", task) for task in ("rte", "mrpc", "cola")] == [0.5, 1, 3]
    assert epochs("fp32_kd", "rte") == 3, "it has a teacher, but starts from the base model"
    assert found.request("fp32", "squad", 1)["spec"]["recipe"]["epochs"] == 2
    assert found.request("fp32", "rte", 1)["spec"]["recipe"]["epochs"] == 3


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ({"rte": {"epochs_scale": "3", "lr_scale": "1e-3"}}, {"rte": {"epochs_scale": 3, "lr_scale": 0.001}}),
        (["1", "2"], [1, 2]),
        ({"mirror": "null", "source": "hub"}, {"mirror": None, "source": "hub"}),
        ("true", True),
        (4, 4),
        (None, None),
        ("demo", "demo"),
        ("86b5e0934494bd15c9632b12f734a8a67f723594", "86b5e0934494bd15c9632b12f734a8a67f723594"),
    ],
)
def test_what_stands_on_the_command_line_means_what_it_would_in_the_file(given, meant):
    assert documents.typed(given) == meant


def test_teachers_have_one_seed_and_other_ancestors_their_descendants():
    found = catalogue.load({**DEMO, "teacher_seed": 9})
    assert found.ancestors("fp32_kd", "rte", 4) == {"teacher": ("fp32", "rte", 9)}
    assert found.ancestors("fp32", "rte", 4) == {}
    line = {**found.methods, "child": {**found.methods["fp32"], "ancestors": {"init": "fp32_kd", "sibling": "fp32"}}}
    assert catalogue.Catalogue(found.config, line, found.tasks).ancestors("child", "rte", 4) == {
        "init": ("fp32_kd", "rte", 4),
        "sibling": ("fp32", "rte", 9),
    }


def test_only_quantized_methods_that_others_start_from_keep_latent_weights_of_the_primary_protocol():
    found = catalogue.load({**DEMO, "primary": "best"})
    methods = {name: spec for name, spec in found.methods.items() if spec["family"] in ("fp32", "ternarybert")}
    methods["child"] = {**methods["twn_2bit"], "ancestors": {"init": "twn_2bit", "teacher": "fp32"}}
    line = catalogue.Catalogue(found.config, methods, found.tasks)
    kept = {name: line.request(name, "rte", 1)["latent"] for name in ("fp32", "twn_2bit", "lat_2bit", "child")}
    assert kept == {"fp32": None, "twn_2bit": "best", "lat_2bit": None, "child": None}


def test_a_run_knows_its_ancestors_and_those_that_teach_are_trained_once():
    found = catalogue.load({**DEMO, "teacher_seed": 9})
    fp32, half, ternary = ("fp32", "rte", 9), ("dynabert_half", "rte", 9), ("ternary_half_a8", "rte", 4)
    assert found.ancestors("fp32", "rte", 4) == {}
    assert found.ancestors("twn_2bit", "rte", 4) == {"teacher": fp32, "init": fp32}
    assert found.ancestors("tws_1bit", "rte", 4) == {"teacher": half, "init": ternary}


def test_what_a_run_is_told_does_not_change_with_where_it_is_shown():
    asks = [
        catalogue.load({**DEMO, "methods": methods, "tasks": ["rte"]}).request("fp32", "rte", 1)
        for methods in (["fp32"], ["fp32_kd"])
    ]
    assert catalogue.dump(asks[0]) == catalogue.dump(asks[1])


@pytest.mark.parametrize("change", [{"primary": "best"}, {"allow_weak_teacher": True}])
def test_what_is_taken_of_ancestors_reruns_their_descendants_alone(change):
    before, after = catalogue.load(DEMO), catalogue.load({**DEMO, **change})
    assert before.request("fp32", "rte", 1) == after.request("fp32", "rte", 1)
    assert before.request("fp32_kd", "rte", 1) != after.request("fp32_kd", "rte", 1)
    assert before.request("fp32_kd", "rte", 1) | change == after.request("fp32_kd", "rte", 1)


def test_config_readme_describes_every_key_once():
    """The keys of the schemas and of a stanza, as headings of tables: `| `key` | ...`."""
    told = re.findall(r"^\| `([^`]+)` \|", (catalogue.ROOT / "config/README.md").read_text(encoding="utf-8"), re.M)
    schemas = {
        name: documents.read_yaml(catalogue.ROOT / f"workflow/schemas/{name}.schema.yaml") for name in ("config", "tasks")
    }
    wanted = [key for key in _keys(schemas["config"]["properties"])]
    wanted += [f"tasks: {key}" for key in _keys(schemas["tasks"]["additionalProperties"]["properties"])]
    wanted += [f"methods: {key}" for key in stanzas.KEYS]
    assert sorted(told) == sorted(wanted)


def _keys(properties: dict, above: str = ""):
    for key, schema in properties.items():
        if above == "budget." and key == "tasks":
            yield "budget.tasks"
        elif schema.get("properties"):
            yield from _keys(schema["properties"], f"{above}{key}.")
        else:
            yield f"{above}{key}"
