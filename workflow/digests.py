"""Digests of source code that change only when what executes changes.

A Python file counts by its syntax tree, without comments, docstrings, formatting, log lines and the messages of errors.
A YAML file counts by its values, any other file by its bytes. Dates, caches and products never count.
The digest does not depend on the version of Python, so that results made elsewhere stay valid.
"""

import ast
import functools
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's, which is faster, where PyYAML has it
LOG_FUNCTIONS = {"say", "_say", "print", "warn", "log"}
LOG_METHODS = {"say", "log", "debug", "info", "warn", "warning"}
IGNORED_FIELDS = {"ctx", "kind", "type_comment", "type_ignores", "type_params"}  # formatting, or absent in older Pythons
PRODUCTS = ("report/html",)


def digest(*sources: str) -> str:
    """Return the digest of files and folders below the project's root; a folder without files counts as empty."""
    return _digest(ROOT, *sources)


@functools.cache
def _digest(root: Path, *sources: str) -> str:
    total = hashlib.sha256()
    for name in sorted({name for source in sources for name in _files(root, source)}):
        total.update(f"{name}\0{_file_digest(root / name)}\0".encode())
    return total.hexdigest()[:16]


def papers_read_by(paper: str) -> list[str]:
    """Return the paper's file and the papers' files that it imports, directly or through another, as source names."""
    return _papers_read_by(ROOT, paper)


@functools.cache
def _papers_read_by(root: Path, paper: str) -> list[str]:
    known = {path.stem for path in (root / "methods").glob("*.py")} - {"__init__", "__main__", "run"}
    found, waiting = set(), [paper]
    while waiting:
        name = waiting.pop()
        if name in found or name not in known:
            continue
        found.add(name)
        for node in ast.walk(ast.parse((root / f"methods/{name}.py").read_bytes())):
            if isinstance(node, ast.Import):
                waiting += [alias.name.removeprefix("methods.") for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module == "methods":
                waiting += [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                waiting.append(node.module.removeprefix("methods."))
    return [f"methods/{name}.py" for name in sorted(found)]


def _files(root: Path, source: str) -> Iterator[str]:
    path = root / source
    for file in [path] if path.is_file() else path.rglob("*"):
        name = file.relative_to(root).as_posix()
        if file.is_file() and "__pycache__" not in file.parts and not name.startswith(PRODUCTS):
            yield name


@functools.cache
def _file_digest(path: Path) -> str:
    content = path.read_bytes()
    try:
        if path.suffix == ".py":
            content = "\0".join(_executed(ast.parse(content))).encode("utf-8", "surrogatepass")
        elif path.suffix in (".yaml", ".yml"):
            content = json.dumps(yaml.load(content, LOADER), sort_keys=True, default=str).encode()
    except (SyntaxError, ValueError, TypeError, RecursionError, yaml.YAMLError):
        pass  # a broken file counts by its bytes; whoever uses it reports the error
    return hashlib.sha256(content).hexdigest()


def _executed(value) -> Iterator[str]:
    """Yield a syntax tree in prefix order, without what has no effect on results."""
    if isinstance(value, list):
        yield "["
        for item in value:
            if not (isinstance(item, ast.stmt) and _has_no_effect(item)):
                yield from _executed(item)
        yield "]"
    elif isinstance(value, ast.Raise) and isinstance(value.exc, ast.Call):
        yield "Raise"
        yield from _executed(value.exc.func)
        yield from _executed([argument for argument in value.exc.args if not _is_message(argument)])
        yield from _executed([keyword for keyword in value.exc.keywords if not _is_message(keyword.value)])
        yield from _executed(value.cause)
    elif isinstance(value, ast.AST):
        yield type(value).__name__
        for name in value._fields:
            if name not in IGNORED_FIELDS:
                yield from _executed(getattr(value, name, None))
    else:
        yield f"{type(value).__name__}:{value!r}"


def _has_no_effect(statement: ast.stmt) -> bool:
    """Return whether a statement is a docstring, a `pass`, a log line, or an `if` that holds nothing else."""
    if isinstance(statement, ast.Pass):
        return True
    if isinstance(statement, ast.If):
        inner_is_empty = all(_has_no_effect(inner) for inner in [*statement.body, *statement.orelse])
        return inner_is_empty and not _contains(statement.test, ast.Call, ast.NamedExpr, ast.Await, ast.Yield, ast.YieldFrom)
    if not isinstance(statement, ast.Expr):
        return False
    if isinstance(statement.value, ast.Constant):
        return True
    return _is_log(statement.value) and not _contains(statement, ast.NamedExpr, ast.Await, ast.Yield, ast.YieldFrom)


def _is_log(expression: ast.expr) -> bool:
    if not isinstance(expression, ast.Call):
        return False
    function = expression.func
    if isinstance(function, ast.Name):
        return function.id in LOG_FUNCTIONS
    return isinstance(function, ast.Attribute) and function.attr in LOG_METHODS


def _is_message(expression: ast.expr) -> bool:
    """Return whether an argument of an exception is text: a string, an f-string, or texts put together."""
    if isinstance(expression, ast.BinOp):
        return _is_message(expression.left) or _is_message(expression.right)
    return isinstance(expression, ast.JoinedStr) or (
        isinstance(expression, ast.Constant) and isinstance(expression.value, str)
    )


def _contains(node: ast.AST, *kinds: type) -> bool:
    return any(isinstance(inner, kinds) for inner in ast.walk(node))
