"""Checks of documents against the schemas of runs and cells, both when they are read and before they are written."""

import functools
from pathlib import Path

import jsonschema
import referencing
import yaml

from methods.common.errors import UserError
from methods.common.files import read_object

SCHEMAS = Path(__file__).resolve().parents[2] / "workflow" / "schemas"
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's is ten times faster


def read_valid(path: Path, schema: str) -> dict:
    """Return the JSON object in `path` after checking it against `schema`."""
    document = read_object(path)
    validate(document, schema, path)
    return document


def validate(document: dict, schema: str, where: Path | str) -> None:
    """Refuse a document that does not fit `schema`: a file name, with `#/$defs/...` for a part of one."""
    if error := jsonschema.exceptions.best_match(_validator(schema).iter_errors(document)):
        place = ".".join(map(str, error.absolute_path))[:160] or "the top level"
        problem = " ".join(error.message.split())
        problem = problem if len(problem) <= 160 else problem[:160] + "..."
        raise UserError(
            f"{where} does not fit {schema.partition('#')[0]} at {place}: {problem}. "
            "It is damaged or was made by another version: delete it and run the same command again."
        )


@functools.cache
def _validator(schema: str) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator({"$ref": schema}, registry=referencing.Registry(retrieve=_resource))


@functools.cache
def _resource(name: str) -> referencing.Resource:
    """Return a schema that another one, or a check, names: each is read when it is needed, which takes time."""
    return referencing.Resource.from_contents(yaml.load((SCHEMAS / name).read_text(encoding="utf-8"), LOADER))
