"""YAML documents: read within bounds, laid one over another, and checked against a schema, with one line for a mistake."""

import contextlib
import json
import math
from pathlib import Path

import jsonschema
import yaml

from methods.common.errors import UserError
from methods.common.options import nearest
from workflow.digests import LOADER, ROOT

DEEPEST = 50  # levels of a document


def read_yaml(path: Path) -> dict:
    """Return the mapping in a YAML file; raise one line where it holds anything else."""
    name = path.relative_to(ROOT) if path.is_relative_to(ROOT) else path
    try:
        text = path.read_text(encoding="utf-8")
        if _depth(text) > DEEPEST:  # libyaml's loader recurses, and ends the process where the stack does
            raise UserError(f"{name} is nested too deeply: write it as config/README.md shows.")
        value = yaml.load(text, LOADER)
    except (yaml.YAMLError, UnicodeDecodeError, ValueError) as error:
        raise UserError(f"{name} is not valid YAML: {' '.join(str(error).split())}") from None
    except OSError as error:
        raise UserError(f"{name} cannot be read ({error.strerror}): restore it, or name another file.") from None
    value = {} if value is None else value
    if not isinstance(value, dict):
        raise UserError(f"{name} must hold `key: value` lines, and not {type(value).__name__} alone: see config/README.md.")
    check_tree(value, str(name))
    return value


def _depth(text: str) -> int:
    """Return how deeply a YAML text is nested, as far as one level more than is allowed."""
    depth = deepest = 0
    for event in yaml.parse(text, LOADER):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        deepest = max(deepest, depth)
        if deepest > DEEPEST:
            break
    return deepest


def check_tree(value, where: str, place: tuple = ()) -> None:
    """Raise one line for what no schema can refuse: numbers that are not finite, keys that are not text, endless depth."""
    if len(place) > DEEPEST:
        raise UserError(f"{where} is nested too deeply: write it as config/README.md shows.")
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{where}: {'.'.join(place)}: {value} is not a finite number: write a number.")
    if isinstance(value, dict):
        for key, inner in value.items():
            if not isinstance(key, str):
                raise UserError(f"{where}: {'.'.join(place) or 'top level'}: the key {key!r} is not a name.")
            check_tree(inner, where, (*place, key))
    elif isinstance(value, list | tuple):
        for number, inner in enumerate(value):
            check_tree(inner, where, (*place, str(number)))


def difference(below: dict, above: dict) -> dict:
    """Return the part of `above` that changes `below`, mapping by mapping."""
    found = {}
    for key, value in above.items():
        if isinstance(value, dict) and isinstance(below.get(key), dict):
            if inner := difference(below[key], value):
                found[key] = inner
        elif key not in below or below[key] != value:
            found[key] = value
    return found


def merge(below: dict, above: dict) -> dict:
    """Return `above` laid over `below`, mapping by mapping; lists and scalars are replaced whole."""
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = merge(merged[key], value) if both else value
    return merged


def typed(value):
    """Return a value of `--config` with its types: within {} and [] Snakemake leaves numbers and nulls as strings."""
    if isinstance(value, dict):
        return {key: typed(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [typed(inner) for inner in value]
    with contextlib.suppress(ValueError, TypeError, RecursionError):  # a word, or typed already
        return json.loads(value)
    return value


def check(value: dict, schema_name: str, where: str) -> None:
    """Raise one line for the first thing that the schema forbids."""
    schema = read_yaml(ROOT / f"workflow/schemas/{schema_name}.schema.yaml")
    errors = sorted(jsonschema.Draft202012Validator(schema).iter_errors(value), key=lambda error: list(error.path))
    if not errors:
        return
    error = errors[0]
    place = ".".join(str(step) for step in error.path) or "top level"
    if error.validator == "additionalProperties" and error.schema.get("properties"):
        known = error.schema["properties"]
        unknown = sorted(str(key) for key in error.instance if key not in known)[0]
        raise UserError(f"{where}: unknown key {unknown!r} at {place}. {nearest(unknown, known)}")
    raise UserError(f"{where}: {place}: {error.message}. Every key is described in config/README.md.")
