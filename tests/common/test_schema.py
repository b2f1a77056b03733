"""The schemas of runs and cells: closed, described, and strict where it matters."""

from pathlib import Path

import pytest
import yaml

from methods.common.errors import UserError
from methods.common.schema import SCHEMAS, validate
from tests.fixtures.runs import run_record, search_record


def objects_of(schema, place="schema"):
    """Yield every subschema with named keys, and its place."""
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
        lambda record: record.update(bits=None),
        lambda record: record.update(ancestors={"teacher": None}),
    ],
)
def test_a_run_that_does_not_fit_is_refused(damage):
    record = run_record()
    validate(record, "run.schema.yaml", Path("run.json"))
    damage(record)
    with pytest.raises(UserError, match=r"does not fit run\.schema\.yaml"):
        validate(record, "run.schema.yaml", Path("run.json"))


def test_a_diverged_run_may_not_carry_a_score():
    record = run_record(diverged=True)
    validate(record, "run.schema.yaml", Path("run.json"))
    record["scores"] = run_record()["scores"]
    with pytest.raises(UserError):
        validate(record, "run.schema.yaml", Path("run.json"))


def test_a_search_run_fits_without_scores():
    validate(search_record(), "run.schema.yaml", Path("run.json"))
    record = search_record()
    record["files"] = {}
    with pytest.raises(UserError):
        validate(record, "run.schema.yaml", Path("run.json"))
