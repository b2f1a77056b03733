"""Recipes are checked when the catalogue loads: against the source of what they name, without running any of it."""

import ast
import dataclasses
import importlib
import inspect
import shutil
import subprocess
import sys

import pytest
import yaml

from methods.common import options
from methods.common.errors import UserError
from methods.kernel import quantizers
from methods.model import edits
from methods.training import objective
from tests.fixtures.runs_of_methods import CATALOGUE
from workflow import catalogue, documents, stanzas

SOURCE = "ours, for a test"
METHODS = catalogue.ROOT / "config/methods"


def recipe(**changes) -> dict:
    """Return TernaryBERT's recipe as it is written, with some entries replaced; None takes one out."""
    values = {
        "weights": {"kind": "ternary"},
        "embeddings": {"kind": "ternary", "rows": True},
        "activations": {"kind": "asymmetric", "bits": 8},
        "terms": {"hidden": 1.0, "logits": 1.0},
        "optimizer": "bertadam",
        "lr": 2.0e-5,
        "epochs": 3,
        "batch_size": 32,
        **changes,
    }
    return {key: value if _written(value) else [value, SOURCE] for key, value in values.items() if value is not None}


def _written(value) -> bool:
    """Whether an entry has its source already, or is meant to be malformed."""
    return isinstance(value, tuple | list)


def stanza(**changes) -> dict:
    whole = {
        "family": "ternarybert",
        "title": "Mine",
        "paper": "ours",
        "ancestors": {"teacher": "fp32", "init": "fp32"},
        "recipe": recipe(),
        **changes,
    }
    return {key: value for key, value in whole.items() if value is not None}


def load(path):
    """Read a file with none of the catalogue's own checks before the stanzas'."""
    return yaml.safe_load(path.read_text(encoding="utf-8"))


@pytest.fixture
def read(tmp_path):
    """`read(mine={...})`: all stanzas of the catalogue, and these."""

    def do(**written):
        folder = tmp_path / "methods"
        shutil.copytree(METHODS, folder, dirs_exist_ok=True)
        (folder / "mine.yaml").write_text(yaml.safe_dump(written, sort_keys=False), encoding="utf-8")
        return stanzas.read(folder, load)

    return do


def refused(read, message: str, **written) -> None:
    """Check that stanzas are refused in one line that names their place and holds the message."""
    with pytest.raises(UserError) as error:
        read(**written)
    line = str(error.value)
    assert "\n" not in line and line.startswith("config/methods"), line
    assert message in line, line


def test_a_stanza_of_the_usual_kind_passes(read):
    found = read(mine=stanza())["mine"]
    assert found["recipe"] == recipe()
    assert found["listed"] is True


# --- values -----------------------------------------------------------------------------------------------

ASYMMETRIC = {"kind": "asymmetric", "bits": 8}
WRONG_RECIPES = {
    "unknown key": ({"warmpu": 0.1}, "mine.recipe: unknown key 'warmpu'. Did you mean 'warmup'?"),
    "unknown quantizer": ({"weights": {"kind": "ternray"}}, "unknown kind of quantizer 'ternray'. Did you mean 'ternary'?"),
    "half a bit": (
        {"activations": {"kind": "asymmetric", "bits": 2.5}},
        "activations.bits: 2.5 must be a whole number from 1",
    ),
    "nine bits": (
        {"activations": {"kind": "asymmetric", "bits": 9}},
        "activations.bits: 9 must be a whole number from 1 to 8",
    ),
    "no bits": (
        {"activations": {"kind": "asymmetric", "bits": 0}},
        "activations.bits: 0 must be a whole number from 1 to 8",
    ),
    "true bits": ({"activations": {"kind": "asymmetric", "bits": True}}, "activations.bits: True must be a whole number"),
    "bits that are missing": ({"activations": {"kind": "asymmetric"}}, "mine.recipe.activations: 'bits' is missing."),
    "bits of a kind that has its own": ({"weights": {"kind": "ternary", "bits": 2}}, "weights: unknown key 'bits'."),
    "unknown option": ({"activations": {**ASYMMETRIC, "clipp": 2.5}}, "unknown key 'clipp'. Did you mean 'clip'?"),
    "option of another type": (
        {"weights": {"kind": "ternary", "rows": "yes"}},
        "weights.rows: 'yes' must be true or false.",
    ),
    "unknown option among words": (
        {"activations": {"kind": "step", "bits": 8, "count": "feature"}},
        "activations.count: 'feature' is not known. Did you mean 'features'?",
    ),
    "no kind": ({"weights": {"bits": 2}}, "must be a mapping with `kind`."),
    "a word for a quantizer": ({"weights": "ternary"}, "'ternary' must be a mapping with `kind`."),
    "unknown term": ({"terms": {"hiden": 1.0}}, "mine.recipe.terms: unknown term 'hiden'. Did you mean 'hidden'?"),
    "no terms": ({"terms": {}}, "mine.recipe.terms: {} must be a mapping from terms to weights."),
    "a weight of zero": ({"terms": {"hidden": 0}}, "terms.hidden: 0 must be a weight, a number above 0."),
    "a negative weight": ({"terms": {"hidden": {"weight": -1.0}}}, "must be a weight, a number above 0."),
    "a weight that is no number": ({"terms": {"hidden": "1"}}, "'1' must be a weight, a number above 0."),
    "unknown option of a term": (
        {"terms": {"hidden": {"mapp": [0]}}},
        "terms.hidden: unknown key 'mapp'. Did you mean 'map'?",
    ),
    "a map of words": ({"terms": {"hidden": {"map": ["a"]}}}, "terms.hidden.map.0: 'a' must be a whole number."),
    "a map of fractions": ({"terms": {"hidden": {"map": [0.5]}}}, "terms.hidden.map.0: 0.5 must be a whole number."),
    "unknown optimizer": ({"optimizer": "adam"}, "mine.recipe.optimizer: 'adam' is not known. Did you mean 'adamw'?"),
    "a rate of zero": ({"lr": 0}, "mine.recipe.lr: 0 must be a number above 0."),
    "a rate in words": ({"lr": "2e-5"}, "mine.recipe.lr: '2e-5' must be a number above 0."),
    "a rate without end": ({"lr": float("inf")}, "mine.recipe.lr: inf must be a number above 0."),
    "a rate that is no number": ({"lr": float("nan")}, "mine.recipe.lr: nan must be a number above 0."),
    "half a row": ({"batch_size": 2.5}, "mine.recipe.batch_size: 2.5 must be a whole number from 1 upwards."),
    "more than all steps": ({"warmup": 1.5}, "mine.recipe.warmup: 1.5 must be a number from 0 to 1."),
    "negative decay": ({"weight_decay": -0.1}, "mine.recipe.weight_decay: -0.1 must be a number from 0 upwards."),
    "unknown clipping": ({"clip": "globl"}, "mine.recipe.clip: 'globl' is not known. Did you mean 'global'?"),
    "a list of rates": ({"quantizer_lr": [[1.0e-3], SOURCE]}, "mine.recipe.quantizer_lr: [0.001] must be a mapping."),
    "a rate of zero for a role": ({"quantizer_lr": {"weights": 0}}, "quantizer_lr.weights: 0 must be a number above 0."),
    "a missing key": ({"lr": None}, "mine.recipe: 'lr' is missing."),
    "a missing quantizer": ({"embeddings": None}, "mine.recipe: 'embeddings' is missing."),
    "a value without a source": ({"warmup": [0.1]}, "mine.recipe.warmup: write [value, source]"),
    "a source that is no text": ({"warmup": [0.1, 5]}, "mine.recipe.warmup: write [value, source]"),
    "a source that says nothing": ({"warmup": [0.1, ""]}, "mine.recipe.warmup: write [value, source]"),
    "too much": ({"warmup": [0.1, {"cola": 0.2}, SOURCE, SOURCE]}, "mine.recipe.warmup: write [value, source]"),
    "tasks in a list": ({"warmup": [0.1, [0.2], SOURCE]}, "[value, {task: value}, source] where tasks differ."),
    "a wrong value for one task": (
        {"warmup": [0.1, {"cola": 2}, SOURCE]},
        "mine.recipe (for cola).warmup: 2 must be a number from 0 to 1.",
    ),
}


@pytest.mark.parametrize("what", WRONG_RECIPES)
def test_a_wrong_recipe_is_one_line(what, read):
    changes, message = WRONG_RECIPES[what]
    refused(read, message, mine=stanza(recipe=recipe(**changes)))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ({"kind": "quantise"}, "mine.recipe.edits.0: unknown edit 'quantise'. Did you mean 'quantize'?"),
        ({"kind": "narrow", "heads": 0, "neurons": 4}, "edits.0.heads: 0 must be a whole number from 1 upwards."),
        ({"kind": "narrow", "heads": 6}, "edits.0: 'neurons' is missing."),
        ({"kind": "layers", "keep": [-1]}, "edits.0.keep.0: -1 must be a whole number from 0 upwards."),
        ({"kind": "quantize", "weights": {"kind": "symetric", "bits": 8}}, "edits.0.weights: unknown kind of quantizer"),
        ({"kind": "quantize", "wieghts": {"kind": "ternary"}}, "edits.0: unknown key 'wieghts'. Did you mean 'weights'?"),
        ({"kind": "factor", "share": 2}, "edits.0.share: 2 must be a number from 0 to 1."),
        ({"kind": "int8_dynamic", "bits": 8}, "edits.0: unknown key 'bits'."),
        ("quantize", "'quantize' must be a mapping with `kind`."),
    ],
)
def test_a_wrong_edit_is_one_line(edit, message, read):
    refused(read, message, mine=stanza(family="ptq", recipe={"edits": [[edit], SOURCE]}))


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"terms": {"logitss": 1.0}}, "mine.recipe.stages.0.terms: unknown term 'logitss'. Did you mean 'logits'?"),
        ({"lr_factor": 1.0}, "mine.recipe.stages.0: 'terms' is missing."),
        ({"terms": {"logits": 1.0}, "lr_factor": 0}, "stages.0.lr_factor: 0 must be a number above 0."),
        ({"terms": {"logits": 1.0}, "lr_fator": 2}, "stages.0: unknown key 'lr_fator'. Did you mean 'lr_factor'?"),
    ],
)
def test_a_wrong_part_of_a_paper_is_one_line(part, message, read):
    refused(read, message, mine={"family": "binarybert", "like": "tws_1bit", "recipe": {"stages": [[part], SOURCE]}})


# --- stanzas ----------------------------------------------------------------------------------------------

WRONG_STANZAS = {
    "unknown key": ({"ancestor": {}}, "mine: unknown key 'ancestor'. Did you mean 'ancestors'?"),
    "an old key": ({"teacher": "fp32"}, "mine: unknown key 'teacher'."),
    "unknown family": ({"family": "ternarybret"}, "with a function `student`. Did you mean 'ternarybert'?"),
    "no title": ({"title": None}, "mine: 'title' is missing."),
    "no paper": ({"paper": None}, "mine: 'paper' is missing."),
    "listed in words": ({"listed": "yes"}, "mine.listed: 'yes' must be true or false."),
    "unknown product": ({"product": "modle"}, "mine.product: 'modle' is not known. Did you mean 'model'?"),
    "unknown ancestor": ({"ancestors": {"init": "fp23"}}, "ancestors.init: unknown method 'fp23'. Did you mean 'fp32'?"),
    "a search as teacher": ({"ancestors": {"teacher": "split_search"}}, "ancestors.teacher: split_search is a search"),
    "a search as start": ({"ancestors": {"init": "split_search"}}, "ancestors.init: split_search is a search"),
    "bits of another width": (
        {"bits": {"activations": 4}},
        "mine.bits.activations: 4 is declared, but the recipe's quantizer has 8.",
    ),
    "weights of another width": ({"bits": {"weights": 1}}, "bits.weights: 1 is declared, but the recipe's quantizer has 2."),
    "half a bit": ({"bits": {"weights": 2.5}}, "mine.bits.weights: 2.5"),
    "bits of what nobody quantizes": ({"bits": {"wieghts": 2}}, "bits: unknown key 'wieghts'. Did you mean 'weights'?"),
    "deviations in one text": ({"deviations": "none"}, "mine.deviations: expected a list."),
    "two ancestors in a role": ({"ancestors": {"init": ["fp32"]}}, "ancestors.init: expected the name of one method."),
    "a role that a shell would run": ({"ancestors": {"x; rm y": "fp32"}}, "ancestors: 'x; rm y' is no role"),
    "like two": ({"like": ["twn_2bit"]}, "mine.like: expected one name."),
    "two families": ({"family": ["fp32"]}, "mine.family: expected one name."),
    "a recipe in a list": ({"recipe": [1]}, "mine.recipe: expected a mapping."),
    "a family of its own": ({"like": "nobody"}, "mine.like: unknown method 'nobody'."),
    "like a name that is nearly one": ({"like": "twn_2bits"}, "unknown method 'twn_2bits'. Did you mean 'twn_2bit'?"),
}


@pytest.mark.parametrize("what", WRONG_STANZAS)
def test_a_wrong_stanza_is_one_line(what, read):
    changes, message = WRONG_STANZAS[what]
    refused(read, message, mine=stanza(**changes))


def test_bits_that_agree_with_the_quantizers_pass(read):
    assert read(mine=stanza(bits={"weights": 2, "embeddings": 2, "activations": 8}))["mine"]["bits"]["weights"] == 2


@pytest.mark.parametrize("content", ["3", "- a\n- b\n", "text"])
def test_a_file_that_is_no_mapping_is_one_line(content, tmp_path):
    (tmp_path / "mine.yaml").write_text(content)
    with pytest.raises(UserError, match=r"config/methods/mine\.yaml: expected a mapping"):
        stanzas.read(tmp_path, load)


def test_a_stanza_that_is_no_mapping_is_one_line(read):
    refused(read, "config/methods/mine.yaml: mine: expected a mapping.", mine=["like", "fp32"])


def test_a_name_that_is_taken_is_refused(read):
    refused(read, "twn_2bit is already a stanza of", twn_2bit=stanza())


def test_cycles_are_named(read):
    refused(read, "a -> b -> a: a stanza cannot be like itself.", a={"like": "b"}, b={"like": "a"})
    refused(read, "a -> a: a stanza cannot be like itself.", a={"like": "a"})
    ring = {"a": stanza(ancestors={"init": "b"}), "b": stanza(ancestors={"teacher": "c"}), "c": stanza(ancestors={"x": "a"})}
    refused(read, "config/methods: a -> b -> c -> a: a method cannot descend from itself.", **ring)
    refused(read, "a -> a: a method cannot descend from itself.", a=stanza(ancestors={"init": "a"}))


# --- names with parameters --------------------------------------------------------------------------------


def test_one_stanza_is_written_for_each_value(read):
    written = {
        "mine_{bits}bit": stanza(
            each={"bits": [4, 8]},
            title="Mine, {bits} bits",
            recipe=recipe(activations={"kind": "asymmetric", "bits": "{bits}"}),
        )
    }
    found = read(**written)
    for bits in (4, 8):
        one = found[f"mine_{bits}bit"]
        assert one["title"] == f"Mine, {bits} bits"
        assert one["recipe"]["activations"] == [{"kind": "asymmetric", "bits": bits}, SOURCE]
        assert "each" not in one


WRONG_EACH = {
    "no values": ("mine_{bits}bit", {}, "the name's parameters and the keys of `each` must be the same."),
    "no parameter": ("mine", {"bits": [4]}, "the name's parameters and the keys of `each` must be the same."),
    "another parameter": ("mine_{bits}bit", {"bit": [4]}, "the name's parameters and the keys of `each` must be the same."),
    "values that are no list": ("mine_{bits}bit", {"bits": 4}, "each.bits: expected a list"),
    "no value": ("mine_{bits}bit", {"bits": []}, "each.bits: expected a list"),
    "a name that is none": ("mine_{bits}bit", {"bits": [2.5]}, "'mine_2.5bit' is no name of a method"),
    "equal values": ("mine_{bits}bit", {"bits": [4, 4]}, "mine_4bit is already a stanza of"),
}


@pytest.mark.parametrize("what", WRONG_EACH)
def test_mistakes_with_each_are_one_line(what, read):
    name, each, message = WRONG_EACH[what]
    refused(read, message, **{name: stanza(each=each)})


@pytest.mark.parametrize("name", ["Mine", "mine__a", "mine-a", "{", "mine_{}", "mine_{a.b}", "3bit", "mine_{bits", ""])
def test_a_name_that_is_none_is_one_line(name, read):
    refused(read, "", **{name: stanza()})


def test_a_wrong_value_of_each_is_found_in_the_stanza_that_it_makes(read):
    wrong = recipe(activations={"kind": "asymmetric", "bits": "{bits}"})
    refused(
        read,
        "mine_9bit.recipe.activations.bits: 9 must be",
        **{"mine_{bits}bit": stanza(each={"bits": [8, 9]}, recipe=wrong)},
    )


def test_values_of_a_task_replace_the_usual_ones(read):
    found = read(mine=stanza(recipe=recipe(batch_size=[32, {"cola": 16}, SOURCE])))["mine"]
    entry = found["recipe"]["batch_size"]
    assert (stanzas.value_of(entry), stanzas.value_of(entry, "cola"), stanzas.value_of(entry, "rte")) == (32, 16, 32)


def test_a_stanza_like_another_papers_is_of_that_paper_unless_it_names_one(read):
    """Its recipe is then checked against its own paper, which takes nothing that it does not declare."""
    assert read(mine={"like": "fp32"})["mine"]["family"] == "fp32"
    refused(read, "mine.recipe: unknown key 'weights'", mine={"like": "twn_2bit", "family": "fp32"})


def test_a_child_replaces_entries_and_takes_some_out(read):
    child = {
        "like": "twn_2bit",
        "title": "Child",
        "ancestors": {"teacher": None},
        "recipe": {"lr": [1.0e-3, SOURCE], "warmup": None},
    }
    found, parent = read(child=child)["child"], CATALOGUE.methods["twn_2bit"]
    assert found["ancestors"] == {"init": "fp32"}
    assert found["recipe"]["lr"] == [1.0e-3, SOURCE]
    assert "warmup" not in found["recipe"] and "warmup" in parent["recipe"]
    assert found["recipe"]["weights"] == parent["recipe"]["weights"]


# --- the catalogue as it is -------------------------------------------------------------------------------


def test_every_stanza_of_the_catalogue_passes():
    found = stanzas.read(METHODS, documents.read_yaml)
    assert len(found) > 30
    assert all(len(entry[-1]) >= 4 for one in found.values() for entry in one["recipe"].values())


def test_recipes_are_read_without_importing_torch():
    code = (
        "import sys; from workflow import catalogue; catalogue.load({'preset': 'demo'}); "
        "assert not {'torch', 'transformers', 'numpy'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], cwd=catalogue.ROOT, check=True)


def declared(found: dict[str, options.Option]) -> dict[str, bool]:
    return {name: option.required for name, option in found.items()}


def of_signature(function, skip: int = 0) -> dict[str, bool]:
    parameters = list(inspect.signature(function).parameters.values())[skip:]
    return {one.name: one.default is inspect.Parameter.empty for one in parameters}


def test_options_of_quantizers_are_those_of_the_classes():
    found = options.quantizers()
    assert found.keys() == quantizers.KINDS.keys()
    for kind, cls in quantizers.KINDS.items():
        assert declared(found[kind]) == of_signature(cls), cls


def test_options_of_edits_are_those_of_the_functions():
    found = options.edits()
    functions = {name: one for name, one in vars(edits).items() if getattr(one, "is_edit", False)}
    assert {name for name in found if "." not in name} == functions.keys()
    for name, options_of_edit in found.items():
        assert declared(options_of_edit) == of_signature(edits.resolve(name), skip=1), name


@pytest.mark.parametrize("paper", options.papers())
def test_options_of_terms_are_those_of_the_functions(paper):
    path = catalogue.ROOT / f"methods/{paper}.py"
    module = importlib.import_module(f"methods.{paper}")
    known = objective.terms_of(vars(objective)) | objective.terms_of(vars(module))
    found = options.terms(path)
    assert found.keys() == known.keys()
    for name, function in known.items():
        skip = 2 if inspect.isclass(function) else 3
        assert declared(found[name]) == of_signature(function, skip), name


@pytest.mark.parametrize("paper", options.papers())
def test_options_of_recipes_are_their_fields(paper):
    path = catalogue.ROOT / f"methods/{paper}.py"
    module = importlib.import_module(f"methods.{paper}")
    assert declared(options.of_class(path, "Recipe")) == of_signature(module.Recipe)
    assert [one.name for one in dataclasses.fields(module.Recipe)] == list(options.of_class(path, "Recipe"))


def test_options_of_a_term_with_parameters_are_those_of_its_class():
    path = catalogue.ROOT / "tests/fixtures/papers/projected.py"
    assert declared(options.terms(path)["projection"]) == {"at": False}


def test_every_annotation_is_one_that_can_be_checked():
    """A type that nothing checks would be found only by the first stanza that uses it."""
    every = [*options.quantizers().values(), *options.edits().values()]
    for paper in options.papers():
        path = catalogue.ROOT / f"methods/{paper}.py"
        every += [options.of_class(path, "Recipe"), *options.terms(path).values()]
    names = {*options.RANGES, "Quantizer", "Edit", "Terms", "Literal", "list", "dict", "None", "Part", "Quantizers"}
    for declared_options in every:
        for name, option in declared_options.items():
            assert option.annotation is not None, f"{name} has no annotation"
            used = {node.id for node in ast.walk(option.annotation) if isinstance(node, ast.Name)}
            assert used <= names, f"{name}: {used - names}"


@pytest.mark.parametrize("method", CATALOGUE.methods)
def test_derived_bits_are_those_of_the_quantizers_that_are_made(method):
    values = CATALOGUE.values(method)
    stated = dict(options.stanzas(values))
    for group, bits in options.quantized_bits(values).items():
        assert quantizers.make(stated[group]).bits == bits
