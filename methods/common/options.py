"""Options that a stanza may set: a vocabulary of types, read from the code that takes them and checked without running it.

A quantizer's `__init__`, a term, an edit and a paper's `Recipe` annotate their options with the names below. The catalogue
reads these annotations from the source (`ast`), because it must not import torch, and refuses a wrong recipe in one line
before any job starts. The same names are plain types at run time.
"""

import ast
import difflib
import functools
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from methods.common.errors import UserError

ROOT = Path(__file__).resolve().parents[2]

# The vocabulary. To the interpreter these are ordinary types; to `check` they are ranges and nested stanzas.
Bits = int  # width of a code, 1 to 8
Count = int  # 1, 2, ...
Whole = int  # 0, 1, ...
Share = float  # 0 to 1
Positive = float
NonNegative = float
Quantizer = dict  # {kind: ..., options}: a class in methods/kernel/quantizers
Terms = dict  # {term: weight} or {term: {weight: ..., options}}: functions marked @term
Edit = dict  # {kind: ..., options}: a function marked @edit

QUANTIZERS = "methods/kernel/quantizers"
OF_ACTIVATIONS = ("activations", "one_sided", "outputs", "probs")  # options whose quantizer is one of activations
TERMS = "methods/training/objective.py"
EDITS = "methods/model/edits.py"


class WrongOption(UserError):
    """A value that the code would not take; the message begins with its place in the recipe."""


@dataclass(frozen=True)
class Option:
    """One option as the source declares it."""

    annotation: ast.expr
    required: bool


def nearest(wrong: str, known) -> str:
    """Return a hint for a name that is not known: the closest one, and the list."""
    names = [str(name) for name in known]
    close = difflib.get_close_matches(str(wrong), names, n=1)
    return (f"Did you mean {close[0]!r}? " if close else "") + f"There are: {', '.join(names)}."


# --- reading declarations ---------------------------------------------------------------------------------


@functools.cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def of_function(function: ast.FunctionDef, skip: int) -> dict[str, Option]:
    """Options of a function: its arguments after the first `skip`."""
    arguments = function.args.args[skip:]
    without = len(arguments) - len(function.args.defaults)
    found = {one.arg: Option(one.annotation, at < without) for at, one in enumerate(arguments)}
    pairs = zip(function.args.kwonlyargs, function.args.kw_defaults, strict=True)
    return found | {one.arg: Option(one.annotation, default is None) for one, default in pairs}


def of_class(path: Path, name: str) -> dict[str, Option]:
    """Options of a class: the arguments of its `__init__`, or the fields of a dataclass with those of its bases."""
    definition = next((node for node in tree(path).body if isinstance(node, ast.ClassDef) and node.name == name), None)
    if definition is None:
        return _imported(path, name)
    for node in definition.body:
        if isinstance(node, ast.FunctionDef) and node.name == "__init__":
            return of_function(node, skip=1)
    found: dict[str, Option] = {}
    for base in definition.bases:
        if isinstance(base, ast.Name):
            found |= of_class(path, base.id)
    for node in definition.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found[node.target.id] = Option(node.annotation, node.value is None)
    return found


def _imported(path: Path, name: str) -> dict[str, Option]:
    """Options of a class that `path` imports from another file of the project."""
    for node in tree(path).body:
        if isinstance(node, ast.ImportFrom) and node.module and name in [alias.name for alias in node.names]:
            source = ROOT / f"{node.module.replace('.', '/')}.py"
            return of_class(source, name) if source.is_file() else {}
    return {}


def marked(path: Path, decorator: str) -> dict[str, ast.FunctionDef | ast.ClassDef]:
    """Functions and classes of a file that carry a decorator, by name."""
    found = {}
    for node in tree(path).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names = [one.func if isinstance(one, ast.Call) else one for one in node.decorator_list]
            if any(isinstance(one, ast.Name) and one.id == decorator for one in names):
                found[node.name] = node
    return found


@functools.cache
def quantizers() -> dict[str, dict[str, Option]]:
    """Kinds of quantizers and their options: every class of the folder with a `kind`."""
    found = {}
    for path in sorted((ROOT / QUANTIZERS).glob("*.py")):
        for node in tree(path).body:
            for line in node.body if isinstance(node, ast.ClassDef) else ():
                if isinstance(line, ast.Assign) and ast.unparse(line.targets[0]) == "kind" and line.value.value:
                    found[line.value.value] = of_class(path, node.name)
    return found


@functools.cache
def only_for_weights() -> set[str]:
    """Kinds of quantizers that activations cannot have: their classes say `only_for_weights = True`."""
    found = set()
    for path in sorted((ROOT / QUANTIZERS).glob("*.py")):
        for node in tree(path).body:
            if isinstance(node, ast.ClassDef):
                values = {ast.unparse(line.targets[0]): line.value for line in node.body if isinstance(line, ast.Assign)}
                if "kind" in values and "only_for_weights" in values and values["only_for_weights"].value:
                    found.add(values["kind"].value)
    return found


def terms(paper: Path) -> dict[str, dict[str, Option]]:
    """Terms that a paper's recipes may name, the shared ones and its own, with their options."""
    found = {}
    for path in (ROOT / TERMS, paper):
        for name, node in marked(path, "term").items():
            found[name] = of_function(node, skip=3) if isinstance(node, ast.FunctionDef) else of_class(path, name)
            if isinstance(node, ast.ClassDef):
                found[name] = {key: value for key, value in found[name].items() if key not in ("student", "teacher")}
    return found


def edits() -> dict[str, dict[str, Option]]:
    """Edits of a model with their options: the shared ones by name, a paper's as `paper.name`."""
    return _edits(*sys.modules[__package__.partition(".")[0]].__path__)  # the folders of `methods`


@functools.cache
def _edits(*folders: str) -> dict[str, dict[str, Option]]:
    found = {name: of_function(node, skip=1) for name, node in marked(ROOT / EDITS, "edit").items()}
    for path in sorted(path for folder in folders for path in Path(folder).glob("*.py")):
        for name, node in marked(path, "edit").items():
            found[f"{path.stem}.{name}"] = of_function(node, skip=1)
    return found


def papers() -> list[str]:
    """Families: the files of methods/ that define `student`."""
    found = []
    for path in sorted((ROOT / "methods").glob("*.py")):
        if any(isinstance(node, ast.FunctionDef) and node.name == "student" for node in tree(path).body):
            found.append(path.stem)
    return found


# --- checking values --------------------------------------------------------------------------------------


def check_recipe(recipe: dict, family: str, where: str) -> None:
    """Raise one line for the first key or value of a recipe that the paper's `Recipe` does not take."""
    paper = ROOT / f"methods/{family}.py"
    _check_options(recipe, of_class(paper, "Recipe"), where, _Scope(paper, terms(paper)))


def check_edit(edit, where: str) -> None:
    """Raise one line for an edit of a model that the code would not take."""
    _check_kind(edit, edits(), "edit", where, _Scope(ROOT / EDITS, {}))


@dataclass(frozen=True)
class _Scope:
    """Where a recipe's names are looked up: a paper's file, and the terms that it may use."""

    paper: Path
    terms: dict[str, dict[str, Option]]


def _check_options(given: dict, declared: dict[str, Option], where: str, scope: _Scope) -> None:
    if not isinstance(given, dict):
        raise WrongOption(f"{where}: {given!r} must be a mapping of options.")
    for key in given:
        if key not in declared:
            raise WrongOption(f"{where}: unknown key {key!r}. {nearest(key, declared)}")
    for key, option in declared.items():
        if key in given:
            _check(given[key], option.annotation, f"{where}.{key}", scope)
        elif option.required:
            raise WrongOption(f"{where}: {key!r} is missing.")


def _check(value, annotation: ast.expr, where: str, scope: _Scope) -> None:
    """Raise where no alternative of the annotation takes the value."""
    failures = []
    for alternative in _alternatives(annotation):
        try:
            return _check_one(value, alternative, where, scope)
        except WrongOption as error:
            failures.append(error)
    raise failures[0]


def _alternatives(annotation: ast.expr) -> Iterator[ast.expr]:
    if isinstance(annotation, ast.BinOp):
        yield from _alternatives(annotation.left)
        yield from _alternatives(annotation.right)
    else:
        yield annotation


def _check_one(value, annotation: ast.expr, where: str, scope: _Scope) -> None:
    if isinstance(annotation, ast.Constant) and annotation.value is None:
        return _require(value is None, value, "null", where)
    if isinstance(annotation, ast.Subscript):
        return _check_container(value, annotation, where, scope)
    name = annotation.id
    if name in RANGES:
        takes, words = RANGES[name]
        return _require(takes(value), value, words, where)
    if name == "Quantizer":
        _check_kind(value, quantizers(), "kind of quantizer", where, scope)
        if where.rpartition(".")[2] in OF_ACTIVATIONS and value["kind"] in only_for_weights():
            raise WrongOption(f"{where}: {value['kind']!r} is a quantizer of weights. Name another kind for activations.")
        return None
    if name == "Edit":
        return _check_kind(value, edits(), "edit", where, scope)
    if name == "Terms":
        return _check_terms(value, where, scope)
    if declared := of_class(scope.paper, name):
        return _check_options(value, declared, where, scope)
    raise WrongOption(f"{where}: the code declares {name!r}, which is no type of methods/common/options.py.")


def _check_container(value, annotation: ast.Subscript, where: str, scope: _Scope) -> None:
    outer, inner = annotation.value.id, annotation.slice
    if outer == "Literal":
        legal = [one.value for one in (inner.elts if isinstance(inner, ast.Tuple) else [inner])]
        if value not in legal or isinstance(value, bool) != isinstance(legal[0], bool):
            raise WrongOption(f"{where}: {value!r} is not known. {nearest(value, legal)}")
    elif outer == "list":
        _require(isinstance(value, list), value, "a list", where)
        for number, one in enumerate(value):
            _check(one, inner, f"{where}.{number}", scope)
    elif outer == "dict":
        _require(isinstance(value, dict), value, "a mapping", where)
        keys, values = inner.elts
        for key, one in value.items():
            _check(key, keys, where, scope)
            _check(one, values, f"{where}.{key}", scope)
    else:
        raise WrongOption(f"{where}: the code declares {outer!r}, which is no container of methods/common/options.py.")


def _check_kind(value, kinds: dict[str, dict[str, Option]], what: str, where: str, scope: _Scope) -> None:
    if not isinstance(value, dict) or not isinstance(value.get("kind"), str):
        raise WrongOption(f"{where}: {value!r} must be a mapping with `kind`. {nearest('', kinds)}")
    if value["kind"] not in kinds:
        raise WrongOption(f"{where}: unknown {what} {value['kind']!r}. {nearest(value['kind'], kinds)}")
    options = {key: one for key, one in value.items() if key != "kind"}
    _check_options(options, kinds[value["kind"]], where, scope)


def _check_terms(value, where: str, scope: _Scope) -> None:
    _require(isinstance(value, dict) and bool(value), value, "a mapping from terms to weights", where)
    for name, weight in value.items():
        if name not in scope.terms:
            raise WrongOption(f"{where}: unknown term {name!r}. {nearest(name, scope.terms)}")
        given = dict(weight) if isinstance(weight, dict) else {"weight": weight}
        takes, words = RANGES["Positive"]
        _require(takes(given.pop("weight", 1.0)), weight, f"a weight, {words}", f"{where}.{name}")
        _check_options(given, scope.terms[name], f"{where}.{name}", scope)


def _require(fits: bool, value, words: str, where: str) -> None:
    if not fits:
        raise WrongOption(f"{where}: {value!r} must be {words}.")


def _whole(value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _number(value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


RANGES: dict[str, tuple[Callable, str]] = {
    "Bits": (lambda value: _whole(value) and 1 <= value <= 8, "a whole number from 1 to 8"),
    "Count": (lambda value: _whole(value) and value >= 1, "a whole number from 1 upwards"),
    "Whole": (lambda value: _whole(value) and value >= 0, "a whole number from 0 upwards"),
    "Share": (lambda value: _number(value) and 0 <= value <= 1, "a number from 0 to 1"),
    "Positive": (lambda value: _number(value) and value > 0, "a number above 0"),
    "NonNegative": (lambda value: _number(value) and value >= 0, "a number from 0 upwards"),
    "int": (_whole, "a whole number"),
    "float": (_number, "a number"),
    "bool": (lambda value: isinstance(value, bool), "true or false"),
    "str": (lambda value: isinstance(value, str), "a word"),
}


# --- what a recipe implies --------------------------------------------------------------------------------


def stanzas(value) -> Iterator[tuple[str, dict]]:
    """Yield (name of the key, stanza) for every quantizer within a recipe."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if isinstance(inner, dict) and inner.get("kind") in quantizers():
                yield key, inner
            else:
                yield from stanzas(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from stanzas(inner)


def quantized_bits(recipe: dict) -> dict[str, int]:
    """Bits of weights, embeddings and activations as a recipe's quantizers say; what has no quantizer is left out."""
    groups = ("weights", "embeddings", "activations")
    found = {name: stanza.get("bits") or _fixed_bits(stanza["kind"]) for name, stanza in stanzas(recipe) if name in groups}
    return {name: bits for name, bits in found.items() if bits}


def _fixed_bits(kind: str) -> int | None:
    """Return the width of a kind that takes no `bits`: its class says `bits = 2`."""
    for path in sorted((ROOT / QUANTIZERS).glob("*.py")):
        for node in tree(path).body:
            if isinstance(node, ast.ClassDef):
                values = {ast.unparse(line.targets[0]): line.value for line in node.body if isinstance(line, ast.Assign)}
                if "kind" in values and values["kind"].value == kind:
                    return values["bits"].value if "bits" in values else None
    return None
