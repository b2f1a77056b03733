"""Files of the report: strict JSON and schemas on the way in, whole files or none on the way out."""

import errno
import functools
import hashlib
import json
import math
import os
from pathlib import Path

import jsonschema
import referencing
import yaml

SCHEMAS = Path(__file__).resolve().parent.parent / "workflow" / "schemas"


class ReportError(Exception):
    """A failure that the user can mend: the message is one line that says how."""


def read_json(path: Path) -> dict:
    """The JSON object in `path`, read strictly: NaN and infinities are no JSON."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"), parse_constant=_number, parse_float=_number)
    except OSError as error:
        raise ReportError(f"cannot read {path}: {error.strerror}; make it first with snakemake") from None
    except (ValueError, RecursionError) as error:
        raise ReportError(f"{path} is not valid JSON ({error}); delete it and let snakemake make it again") from None
    if not isinstance(document, dict):
        raise ReportError(f"{path} holds no JSON object; delete it and let snakemake make it again")
    return document


def _number(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise ValueError(f"{text} is no finite number")
    return number


def validate(document: dict, schema: str, where: Path) -> None:
    """Refuse a document that does not fit `schema`: a file name, with `#/$defs/...` for a part of one."""
    if error := jsonschema.exceptions.best_match(_validator(schema).iter_errors(document)):
        place = ".".join(map(str, error.absolute_path)) or "the top level"
        problem = " ".join(error.message.split())
        problem = problem if len(problem) <= 160 else problem[:160] + "..."
        raise ReportError(
            f"{where} does not fit {schema.partition('#')[0]} at {place}: {problem}; "
            "it is damaged or of another version: delete it and let snakemake make it again"
        )


@functools.cache
def _validator(schema: str) -> jsonschema.Draft202012Validator:
    names = ("run.schema.yaml", "cell.schema.yaml")
    contents = {name: yaml.safe_load((SCHEMAS / name).read_text(encoding="utf-8")) for name in names}
    resources = ((name, referencing.Resource.from_contents(content)) for name, content in contents.items())
    return jsonschema.Draft202012Validator({"$ref": schema}, registry=referencing.Registry().with_resources(resources))


def sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ReportError(f"cannot read {path}: {error.strerror}; make it first with snakemake") from None


def write_json(path: Path, document: dict) -> None:
    write_text(path, json.dumps(document, allow_nan=False, sort_keys=True, indent=1) + "\n")


def write_text(path: Path, text: str) -> None:
    write_bytes(path, text.encode("utf-8", "backslashreplace"))  # lone surrogates are legal JSON


def write_bytes(path: Path, content: bytes) -> None:
    """Write all of `content` or leave the old file as it was: a full disk or a kill never leaves half a file."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise ReportError(f"cannot write {path}: {error.strerror}; {_advice(error.errno)}") from None


def _advice(number: int | None) -> str:
    if number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return "free some space and run the same command again"
    if number in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "make its folder writable or choose another with --out"
    return "check the path given with --out"
