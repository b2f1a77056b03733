"""What can be asked for: the configuration and the catalogues of methods and tasks, merged, validated and resolved.

Plain Python on YAML and JSON, shared by the Snakefile and by the command line. It imports neither Snakemake nor torch,
because the Snakefile is parsed again in every job. What a run is told, its *request*, is made here and nowhere else.
"""

import contextlib
import difflib
import functools
import hashlib
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

import jsonschema
import yaml

from workflow import entries

ROOT = Path(__file__).resolve().parent.parent
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's, which is faster, where PyYAML has it
NAME = re.compile(r"(?P<method>[a-z][a-z0-9]*(_[a-z0-9]+)*)_(?P<task>[a-z][a-z0-9]*)")


class ConfigError(Exception):
    """One line that says which key is wrong and what would be right."""


@dataclass(frozen=True)
class Catalogue:
    config: dict
    methods: dict
    tasks: dict

    @functools.cached_property
    def teachers(self) -> set[str]:
        """Methods that teach some other: they are trained once per task, at `teacher_seed`."""
        return {spec["teacher"] for spec in self.methods.values() if spec.get("teacher")}

    @functools.cached_property
    def keep_latent(self) -> set[str]:
        """Quantized methods that some other starts from: it needs the weights that their model files round."""
        starts = {spec["init"] for spec in self.methods.values() if spec.get("init")}
        return {name for name in starts if self.methods[name]["bits"]["weights"] < 32}

    def ancestors(self, method: str, task: str, seed: int) -> dict[str, tuple[str, str, int]]:
        """The runs that a run needs, by role (`teacher`, `init`): (method, task, seed) of each."""
        found = {}
        for role in ("teacher", "init"):
            if name := self.methods[method].get(role):
                found[role] = (name, task, self.config["teacher_seed"] if name in self.teachers else seed)
        return found

    def lineage(self, method: str) -> list[str]:
        """The methods that a method descends from, nearest first."""
        parents = [name for role in ("init", "teacher") if (name := self.methods[method].get(role))]
        return list(dict.fromkeys([*parents, *(above for name in parents for above in self.lineage(name))]))

    def budget(self, task: str, method: str | None = None) -> dict:
        """The budget of a task's runs; with `method`, its epochs are those of a student where it is one."""
        common = {key: value for key, value in self.config["budget"].items() if key != "tasks"}
        found = common | self.config["budget"].get("tasks", {}).get(task, {})
        students = found.pop("student_epochs_scale", None)
        if students and method and self.methods[method].get("init"):
            found["epochs_scale"] = students
        return found

    def request(self, method: str, task: str, seed: int) -> dict:
        """Everything that a run depends on beside its input files and its code; a change of any of it is another run."""
        spec = dict(self.methods[method])
        recipe = spec.pop("recipe")
        spec.pop("listed", None)  # where a method is shown does not change how it is trained
        spec["recipe"] = {key: entry.get("tasks", {}).get(task, entry["value"]) for key, entry in recipe.items()}
        spec["sources"] = {key: entry["source"] for key, entry in recipe.items()}
        ancestors = self.ancestors(method, task, seed)
        keys = ["preset", "padding", "precision", "threads", "compile", "ternary"]
        if ancestors:  # which of an ancestor's models is taken, and whether a weak one may teach, is nothing to the others
            keys += ["primary", "allow_weak_teacher"]
        own = {"finetuned": True} if "finetuned" in self.tasks[task] and not ancestors else {}
        return {
            **own,
            "method": method,
            "task": task,
            "seed": seed,
            "spec": spec,
            "budget": {**self.budget(task, method), "evaluate_every": self.evaluate_every(task)},
            "ancestors": ancestors,
            "latent": self.config["primary"] if method in self.keep_latent else None,
            "code": digest(
                "methods/common",
                "methods/kernel",
                "methods/model",
                "methods/training",
                "methods/scoring",
                "methods/run.py",
                f"methods/{spec['family']}.py",
            ),
            **{key: self.config[key] for key in keys},
        }

    def evaluate_every(self, task: str) -> int:
        return self.budget(task).get("evaluate_every") or self.tasks[task]["evaluate_every"]

    def request_data(self, task: str) -> dict:
        """What the task file depends on: the task's entry, the source of the rows and the length of the inputs."""
        budget = self.budget(task)
        lengths = [length for length in (self.tasks[task].get("max_length"), budget.get("max_length")) if length]
        unread = ("evaluate_every", "finetuned", *entries.SHOWN)
        return {
            "task": task,
            "entry": {key: value for key, value in self.tasks[task].items() if key not in unread},
            "files": entries.digests(entries.files_of(self.tasks[task])),
            "source": self.config["data"],
            "max_length": min(lengths, default=None),  # an upper bound: a kind has its own length too
            "train_rows": budget.get("train_rows"),
            "code": digest("methods/tasks", "methods/tasks/data.py", "methods/common/files.py"),
        }

    def base_file(self, task: str) -> str:
        """Where a task's base model file is in the results of the preset: the preset's, or the task's own."""
        return f"base/{task}.safetensors" if "finetuned" in self.tasks[task] else "base.safetensors"

    def request_base(self, task: str | None = None) -> dict:
        """What the preset's base model depends on, or with `task` that of a task with a model of its own."""
        if task and "finetuned" in self.tasks[task]:
            entry = self.tasks[task]
            return {
                "finetuned": entry["finetuned"],
                "files": entries.digests(entries.model_files_of(entry)),
                "task": {"name": task, "kind": entry["kind"], "labels": entry.get("labels", [])},
                "code": digest("methods/model/encoder.py", "methods/tasks/finetuned.py", "methods/tasks/kinds"),
            }
        base = self.config["base"]
        # Only pre-training depends on the training core: an imported model is the same whatever the core does.
        sources = (
            ["methods/training", "methods/kernel", "methods/model", "methods/tasks"]
            if base["source"] == "generated"
            else ["methods/model/encoder.py"]
        )
        return {"base": base, "mirror": self.config["data"]["mirror"], "code": digest(*sources)}

    def repositories(self) -> list[dict]:
        """The hub repositories of this preset, for a mirror: type, id, revision and the folders needed of each."""
        found = {}
        for task in self.config["tasks"]:
            entry = self.tasks[task]
            if "files" in entry:
                continue
            row = found.setdefault(entry["dataset"], {"type": "dataset", "revision": entry["revision"], "configs": []})
            row["configs"].append(entry["config"])
        if self.config["base"]["source"] == "hub":
            found[self.config["base"]["id"]] = {"type": "model", "revision": self.config["base"]["revision"]}
        return [{"id": name, **row} for name, row in found.items()]

    def require(self, method: str | None, task: str | None) -> None:
        """Raise one line for a name that is in no catalogue; None stands for a name that is not needed."""
        for what, name, known in (("method", method, self.methods), ("task", task, self.tasks)):
            if name is not None and name not in known:
                raise ConfigError(f"Unknown {what} {name!r}. {_choices(name, known)}")

    def refuse(self, stem: str) -> str:
        """One line for results/{stem}.json that nothing makes: what is wrong with its name, and which names there are."""
        target = f"results/{stem}.json"
        if not (name := NAME.fullmatch(stem)):
            return f"{target!r} is no cell: write results/METHOD_TASK.json, such as results/fp32_rte.json."
        if name["task"] not in self.tasks:
            return f"Unknown task {name['task']!r} in {target!r}. {_choices(name['task'], self.tasks)}"
        return f"Unknown method {name['method']!r} in {target!r}. {_choices(name['method'], self.methods)}"


def load(config: dict | None = None) -> Catalogue:
    """The catalogue for a configuration (by default config/config.yaml as it stands), checked key by key."""
    if config is None:
        config = read_yaml(ROOT / "config/config.yaml")
    presets = sorted(path.stem for path in (ROOT / "config/presets").glob("*.yaml"))
    preset = config.get("preset", "demo")
    if preset not in presets:
        raise ConfigError(f"Unknown preset {preset!r}. {_choices(str(preset), presets)}")
    config = merge(read_yaml(ROOT / f"config/presets/{preset}.yaml"), {**config, "preset": preset})
    methods, tasks = read_yaml(ROOT / "config/methods.yaml"), read_yaml(ROOT / "config/tasks.yaml")
    check(config, "config", "configuration")
    check(methods, "methods", "config/methods.yaml")
    if line := entries.problem(tasks):
        raise ConfigError(line)
    check(tasks, "tasks", "config/tasks.yaml")
    tasks = entries.completed(tasks)
    _check_names(config, methods, tasks)
    return Catalogue(config, methods, tasks)


def read_yaml(path: Path) -> dict:
    try:
        return yaml.load(path.read_text(encoding="utf-8"), LOADER) or {}
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None


def merge(below: dict, above: dict) -> dict:
    """`above` laid over `below`, mapping by mapping; lists and scalars are replaced whole."""
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = merge(merged[key], value) if both else value
    return merged


def typed(value):
    """What was written after `--config`: within {} and [] Snakemake leaves numbers, booleans and nulls as strings."""
    if isinstance(value, dict):
        return {key: typed(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [typed(inner) for inner in value]
    with contextlib.suppress(ValueError, TypeError):  # a word, or typed already
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
        raise ConfigError(f"{where}: unknown key {unknown!r} at {place}. {_choices(unknown, known)}")
    raise ConfigError(f"{where}: {place}: {error.message}. Every key is described in config/README.md.")


def check_writable(folder: Path) -> None:
    """Raise one line for a results folder that Snakemake would meet with a traceback."""
    place = folder if folder.exists() else folder.absolute().parent
    if not (place.is_dir() and os.access(place, os.W_OK)):
        raise ConfigError(
            f"{place} is no folder that can be written: make it one or work in another (--directory), then run the same "
            "command again; nothing finished is lost."
        )


@functools.cache
def digest(*sources: str) -> str:
    """Content hash of source files and folders below the project's root, blind to dates, to caches and to the page."""
    total, made = hashlib.sha256(), ROOT / "report/html"
    for source in sources:
        path = ROOT / source
        files = [path] if path.is_file() else sorted(path.rglob("*"))
        for file in files:
            if file.is_file() and "__pycache__" not in file.parts and made not in file.parents:
                total.update(f"{file.relative_to(ROOT)}\0".encode() + file.read_bytes() + b"\0")
    return total.hexdigest()[:16]


def dump(request: dict) -> str:
    """A request as one canonical line, so that equal requests are equal parameters."""
    return json.dumps(request, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def _check_names(config: dict, methods: dict, tasks: dict) -> None:
    for key, known in (("tasks", tasks), ("methods", methods)):
        for name in config[key]:
            if name not in known:
                raise ConfigError(f"configuration: unknown {key[:-1]} {name!r}. {_choices(name, known)}")
    for name in config["budget"].get("tasks", {}):
        if name not in tasks:
            raise ConfigError(f"configuration: budget.tasks: unknown task {name!r}. {_choices(name, tasks)}")
    families = sorted(path.stem for path in (ROOT / "methods").glob("*.py") if "\ndef student(" in path.read_text("utf-8"))
    for name, spec in methods.items():
        if spec["family"] not in families:
            raise ConfigError(
                f"config/methods.yaml: {name}.family: there is no methods/{spec['family']}.py with a function `student`. "
                f"{_choices(spec['family'], families)}"
            )
        for role in ("teacher", "init"):
            if spec.get(role) and spec[role] not in methods:
                raise ConfigError(f"config/methods.yaml: {name}.{role}: {_choices(spec[role], methods)}")
    for name in methods:
        _check_acyclic([name], methods)


def _check_acyclic(line: list[str], methods: dict) -> None:
    """Follow every line of descent, through teachers and starts alike."""
    spec = methods[line[-1]]
    for name in filter(None, {spec.get("teacher"), spec.get("init")}):
        if name in line:
            raise ConfigError(f"config/methods.yaml: {' -> '.join([*line, name])}: a method cannot descend from itself.")
        _check_acyclic([*line, name], methods)


def _choices(wrong: str, known) -> str:
    close = difflib.get_close_matches(wrong, list(known), n=1)
    return (f"Did you mean {close[0]!r}? " if close else "") + f"There are: {', '.join(known)}."
