"""The configuration and the catalogues of methods and tasks, merged, validated and resolved into requests.

Plain Python on YAML and JSON, shared by the Snakefile and by the command line. It imports neither Snakemake nor torch.
A *request* holds everything that a product depends on beside its input files; requests are made here and nowhere else.
"""

import functools
import json
import math
import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from methods.common import options
from methods.common.errors import UserError
from methods.common.options import nearest
from workflow import augmentation, entries, stanzas
from workflow.digests import ROOT, digest, papers_read_by
from workflow.documents import check, check_tree, difference, merge, read_yaml

NAME = re.compile(r"(?P<method>[a-z][a-z0-9]*(_[a-z0-9]+)*)_(?P<task>[a-z][a-z0-9]*)")


# What a change of the code makes again (the table "What reruns what" in docs). Sources of a digest, below the root.
RUN_SOURCES = ("methods/kernel", "methods/model", "methods/training", "methods/run.py")
RUN_SOURCES += ("methods/tasks/kinds", "methods/tasks/data.py", "methods/tasks/losses.py", "methods/tasks/text.py")
SCORING_SOURCES = ("methods/scoring",)
# The engine reads model files by code that runs are made of too: where that changes, runs and latencies are made again.
LATENCY_SOURCES = ("methods/engine", "methods/use/latency.py", "methods/use/model.py")
DATA_SOURCES = (
    "methods/tasks/kinds",
    "methods/tasks/encode.py",
    "methods/tasks/text.py",
    "methods/tasks/hub.py",
    "methods/tasks/data.py",
)
DATA_SOURCES += ("methods/tasks/sources.py",)
GENERATED_DATA_SOURCES = ("methods/tasks/demo",)
OWN_DATA_SOURCES = ("methods/tasks/files.py",)
AUGMENTATION_SOURCES = ("methods/tasks/augment.py", "methods/tasks/guesses.py", "methods/tasks/vectors.py")
AUGMENTATION_SOURCES += ("methods/model/encoder.py", "methods/model/anatomy.py")
PRETRAINING_SOURCES = ("methods/kernel", "methods/model", "methods/training", "methods/tasks/base.py", "methods/tasks/demo")
IMPORT_SOURCES = ("methods/model/encoder.py", "methods/model/anatomy.py", "methods/tasks/base.py", "methods/tasks/hub.py")
CELL_SOURCES = ("report/__init__.py", "report/__main__.py", "report/evidence", "methods/common", "workflow/schemas")
PAGE_SOURCES = ("report", "methods/common", "workflow/schemas/cell.schema.yaml", "CITATION.cff")
FINETUNED_SOURCES = ("methods/model/encoder.py", "methods/model/anatomy.py", "methods/tasks/finetuned.py")
FINETUNED_SOURCES += ("methods/tasks/kinds",)

# Keys that only the report reads. They come to cells by `about` and enter no request.
SHOWN_OF_METHOD = ("title", "family_title", "paper", "listed", "deviations", "bits")
# Sections that presets may leave out. No run and no cell depends on `report`.
DEFAULTS = {"augmentation": None, "report": {"margin": 1.0, "texts": False}, "stanzas": {}}
GENERATED_ROWS = 4000  # about as many as the demo's training sets have; used to estimate times only


@dataclass(frozen=True)
class Catalogue:
    config: dict
    methods: dict
    tasks: dict
    changes: dict = field(default_factory=dict)  # what the user wrote beyond the preset

    @functools.cached_property
    def teachers(self) -> set[str]:
        """The methods that teach another one: they are trained once per task, at `teacher_seed`."""
        return {spec["ancestors"]["teacher"] for spec in self.methods.values() if "teacher" in spec["ancestors"]}

    @functools.cached_property
    def keep_latent(self) -> set[str]:
        """The quantized methods that another one starts from: it needs the weights that their model files round."""
        starts = {spec["ancestors"]["init"] for spec in self.methods.values() if "init" in spec["ancestors"]}
        return {name for name in starts if any(True for _ in options.stanzas(self.values(name)))}

    def values(self, method: str, task: str | None = None) -> dict:
        """Return a method's recipe as values, those of a task where it has its own."""
        return {key: stanzas.value_of(entry, task) for key, entry in self.methods[method]["recipe"].items()}

    def ancestors(self, method: str, task: str, seed: int) -> dict[str, tuple[str, str, int]]:
        """Return the runs that a run needs, by role: (method, task, seed) of each."""
        return {
            role: (name, task, self.config["teacher_seed"] if name in self.teachers else seed)
            for role, name in sorted(self.methods[method]["ancestors"].items())
        }

    def lineage(self, method: str) -> list[str]:
        """Return the methods that a method descends from, nearest first."""
        parents = list(self.methods[method]["ancestors"].values())
        return list(dict.fromkeys([*parents, *(above for name in parents for above in self.lineage(name))]))

    def is_search(self, method: str) -> bool:
        """Return whether a method's runs make an allocation for other runs, and no model."""
        return self.methods[method]["product"] == "allocation"

    def cell_methods(self) -> list[str]:
        return [name for name in self.methods if not self.is_search(name)]

    def runs(self, methods: list[str], tasks: list[str]) -> list[tuple[str, str, int]]:
        """Return the runs behind cells, with all their ancestors, each once."""
        found = {}
        waiting = [(method, task, seed) for method in methods for task in tasks for seed in self.config["seeds"]]
        while waiting:
            if (run := waiting.pop()) not in found:
                found[run] = None
                waiting += self.ancestors(*run).values()
        return list(found)

    def budget(self, task: str, method: str | None = None) -> dict:
        """Return the budget of a task's runs; with `method`, its epochs are those of a student where it is one."""
        common = {key: value for key, value in self.config["budget"].items() if key != "tasks"}
        found = common | self.config["budget"].get("tasks", {}).get(task, {})
        students = found.pop("student_epochs_scale", None)
        if students and method and "init" in self.methods[method]["ancestors"]:
            found["epochs_scale"] = students
        return found

    def request(self, method: str, task: str, seed: int) -> dict:
        """Return the request of a run; a change of any of it is another run, a change of `scoring` only another score."""
        elsewhere = ("ancestors", "product", *SHOWN_OF_METHOD)  # shown, or requested apart
        spec = {key: value for key, value in self.methods[method].items() if key not in elsewhere}
        spec["sources"] = {key: entry[-1] for key, entry in spec.pop("recipe").items()}
        spec["recipe"] = self.values(method, task)
        ancestors = self.ancestors(method, task, seed)
        keys = ["preset", "padding", "precision", "threads", "compile", "ternary"]
        if ancestors:  # which of an ancestor's models is taken, and whether a weak one may teach, is nothing to the others
            keys += ["primary", "allow_weak_teacher"]
        own = {"finetuned": True} if "finetuned" in self.tasks[task] and not ancestors else {}
        own |= {"augmentation": found} if (found := self.augmentation(method, task)) else {}
        return {
            **own,
            "method": method,
            "task": task,
            "seed": seed,
            "spec": spec,
            "budget": {**self.budget(task, method), "evaluate_every": self.evaluate_every(task)},
            "ancestors": ancestors,
            "product": self.methods[method]["product"],
            "latent": self.config["primary"] if method in self.keep_latent else None,
            "code": digest(*RUN_SOURCES, *papers_read_by(spec["family"])),
            "scoring": digest(*SCORING_SOURCES),
            **{key: self.config[key] for key in keys},
        }

    def request_latency(self) -> dict | None:
        """Return how the time of predictions is measured; None where it is not."""
        if not (latency := self.config["latency"]):
            return None
        return {**latency, "protocol": self.config["primary"], "code": digest(*LATENCY_SOURCES)}

    def steps(self, method: str, task: str) -> int:
        """Estimate the training steps of a run, to say how long the rest of the workflow takes and to order its runs."""
        value, budget = self.values(method, task), self.budget(task, method)
        rows = GENERATED_ROWS if self.is_generated(task) else self.tasks[task].get("rows", {}).get("train", GENERATED_ROWS)
        rows = min(rows, budget.get("train_rows") or rows) * self.copies(method, task)
        epochs = sum(number for key, number in value.items() if key.startswith("epochs") and isinstance(number, int | float))
        batch = budget.get("batch_size") or value.get("batch_size") or 32
        return math.ceil(epochs * budget["epochs_scale"] * rows / batch)

    def priorities(self, runs: list[tuple[str, str, int]]) -> dict[tuple[str, str, int], int]:
        """Return for each run the steps of the longest line of runs that begins with it: long lines start first."""
        children = {}
        for run in runs:
            for ancestor in dict.fromkeys(self.ancestors(*run).values()):
                children.setdefault(ancestor, []).append(run)

        @functools.cache
        def longest(run: tuple[str, str, int]) -> int:
            return 1 + self.steps(run[0], run[1]) + max(map(longest, children.get(run, [])), default=0)

        return {run: longest(run) for run in runs}

    def about(self, method: str, task: str) -> dict:
        """Return what the report shows of a method and of a task and no run depends on."""
        spec, entry = self.methods[method], self.tasks[task]
        return {
            "method": {
                "title": spec["title"],
                "family": spec["family"],
                "family_title": spec["family_title"],
                "paper": spec["paper"],
                "listed": spec["listed"],
                "deviations": spec["deviations"],
            },
            "task": {
                "title": entry["title"],
                "suite": entry["suite"],
                "averaged": entry["averaged"],
                "kind": entry["kind"],
                "labels": entry.get("labels", []),
            },
        }

    def overrides(self, method: str, task: str) -> dict:
        """Return what the user wrote beyond the preset and a cell depends on."""
        found = {key: value for key, value in self.changes.items() if key not in ("preset", "tasks", "methods", "report")}
        if "tasks" in found.get("budget", {}):
            budget = {key: value for key, value in found["budget"].items() if key != "tasks"}
            own = found["budget"]["tasks"].get(task)
            found["budget"] = {**budget, **({"tasks": {task: own}} if own else {})}
            if not found["budget"]:
                del found["budget"]
        found.pop("stanzas", None)
        return found | ({"stanzas": own} if (own := self._own_stanzas(method)) else {})

    def _own_stanzas(self, method: str) -> dict:
        """Return the configuration's stanzas that a method or one that it descends from is written in."""
        own, waiting, found = self.config["stanzas"], [method, *self.lineage(method)], {}
        while waiting:
            name = waiting.pop(0)
            if name in own and name not in found:
                found[name] = own[name]
                waiting.append(own[name].get("like"))
        return found

    def is_generated(self, task: str) -> bool:
        return self.config["data"]["source"] == "generated" and "files" not in self.tasks[task]

    def evaluate_every(self, task: str) -> int:
        return self.budget(task).get("evaluate_every") or self.tasks[task]["evaluate_every"]

    def augmentation(self, method: str, task: str) -> dict | None:
        """Return how a run's training rows are augmented; None where they are not.

        Only those of a student in training are, because its teacher answers for the copies: their labels are those of the
        rows that they were made of.
        """
        settings = self.config["augmentation"]
        if settings is None or not _is_taught(self.methods[method]):
            return None
        chosen = ((settings["methods"], method), (settings["tasks"], task))
        return self._augmentation(task) if all(names is None or name in names for names, name in chosen) else None

    def copies(self, method: str, task: str) -> int:
        """Return how many times its own number of rows a run trains on: once, and once more for each copy."""
        found = self.augmentation(method, task)
        return 1 + found["copies"] * len(self.tasks[task].get("columns") or [None]) if found else 1

    def _augmentation(self, task: str) -> dict:
        settings = self.config["augmentation"]
        if settings is None:
            raise UserError("The configuration augments nothing: set `augmentation`, see docs/augmentation.md.")
        if line := augmentation.refusal(task, self.tasks[task]["kind"]):
            raise UserError(line)
        vectors = settings["vectors"]
        return {
            "copies": augmentation.copies(settings, task),
            **{key: settings[key] for key in ("share", "candidates", "seed")},
            "vectors": vectors and entries.digests([vectors])[vectors],
        }

    def data_file(self, task: str, augmented: bool = False) -> str:
        """Return where a task's rows are in the preset's results; with `augmented`, those that students train on."""
        return f"data/{task}.augmented.safetensors" if augmented else f"data/{task}.safetensors"

    def request_data(self, task: str, augmented: bool = False) -> dict:
        """Return the request of a task's data: its entry, the source of its rows and the length of its inputs.

        With `augmented`, its training rows are followed by copies.
        """
        budget, entry = self.budget(task), self.tasks[task]
        lengths = [length for length in (entry.get("max_length"), budget.get("max_length")) if length]
        sources = DATA_SOURCES
        sources += GENERATED_DATA_SOURCES if self.is_generated(task) else ()
        sources += OWN_DATA_SOURCES if "files" in entry else ()
        elsewhere = ("evaluate_every", "finetuned", *entries.SHOWN)
        own = {}
        if augmented:
            own = {"augmentation": self._augmentation(task), "vectors": self.config["augmentation"]["vectors"]}
            sources += AUGMENTATION_SOURCES
        return {
            **own,
            "task": task,
            "entry": {key: value for key, value in entry.items() if key not in elsewhere},
            "files": entries.digests(entries.files_of(entry)),
            "source": self.config["data"],
            "max_length": min(lengths, default=None),  # an upper bound: a kind has its own length too
            "train_rows": budget.get("train_rows"),
            "code": digest(*sources),
        }

    def base_file(self, task: str) -> str:
        """Return where a task's base model file is in the preset's results: the preset's, or the task's own."""
        return f"base/{task}.safetensors" if "finetuned" in self.tasks[task] else "base.safetensors"

    def request_base(self, task: str | None = None) -> dict:
        """Return the request of the preset's base model, or with `task` of a task with a model of its own.

        An imported model does not depend on how models are trained.
        """
        if task and "finetuned" in self.tasks[task]:
            entry = self.tasks[task]
            return {
                "finetuned": entry["finetuned"],
                "files": entries.digests(entries.model_files_of(entry)),
                "task": {"name": task, "kind": entry["kind"], "labels": entry.get("labels", [])},
                "code": digest(*FINETUNED_SOURCES),
            }
        base = self.config["base"]
        sources = PRETRAINING_SOURCES if base["source"] == "generated" else IMPORT_SOURCES
        return {"base": base, "mirror": self.config["data"]["mirror"], "code": digest(*sources)}

    def sources(self, method: str, task: str) -> dict:
        """Return the requests of the base model and of the rows that a run reads."""
        augmented = self.augmentation(method, task) is not None
        return {"base": self.request_base(task), "data": self.request_data(task, augmented)}

    def repositories(self) -> list[dict]:
        """The hub repositories of this preset, for a mirror: type, id, revision and the folders needed of each."""
        found = {}
        for task in self.config["tasks"]:
            entry = self.tasks[task]
            if "files" in entry or self.is_generated(task):
                continue
            row = found.setdefault(entry["dataset"], {"type": "dataset", "revision": entry["revision"], "configs": []})
            row["configs"].append(entry["config"])
        if self.config["base"]["source"] == "hub":
            found[self.config["base"]["id"]] = {"type": "model", "revision": self.config["base"]["revision"]}
        return [{"id": name, **row} for name, row in found.items()]

    def require(self, method: str | None, task: str | None) -> None:
        """Raise one line for a name that is in no catalogue; None means that no name is needed."""
        for what, name, known in (("method", method, self.methods), ("task", task, self.tasks)):
            if name is not None and name not in known:
                raise UserError(f"Unknown {what} {name!r}. {nearest(name, known)}")

    def refuse(self, stem: str) -> str:
        """Return one line about results/{stem}.json, which nothing makes: what is wrong with its name."""
        target = f"results/{stem}.json"
        if not (name := NAME.fullmatch(stem)):
            return f"{target!r} is no cell: write results/METHOD_TASK.json, such as results/fp32_rte.json."
        if name["task"] not in self.tasks:
            return f"Unknown task {name['task']!r} in {target!r}. {nearest(name['task'], self.tasks)}"
        if name["method"] in self.methods:
            return (
                f"{name['method']} is a search: its runs make an allocation for other methods, and it has no cell. "
                f"{self._used_by(name['method'])}"
            )
        return f"Unknown method {name['method']!r} in {target!r}. {nearest(name['method'], self.cell_methods())}"

    def _used_by(self, method: str) -> str:
        users = [name for name, spec in self.methods.items() if method in spec["ancestors"].values()]
        return f"It is used by {', '.join(users)}." if users else "No method uses it."


def load(config: dict | None = None) -> Catalogue:
    """Return the catalogue for a configuration (by default config/config.yaml), checked key by key."""
    if config is None:
        config = read_config()
    check_tree(config, "configuration")
    presets = sorted(path.stem for path in (ROOT / "config/presets").glob("*.yaml"))
    preset = config.get("preset", "demo")
    if preset not in presets:
        raise UserError(f"Unknown preset {preset!r}. {nearest(preset, presets)}")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", preset):
        raise UserError(f"config/presets/{preset}.yaml: rename it: only letters, digits, '.', '_' and '-' can be used.")
    below = read_yaml(ROOT / f"config/presets/{preset}.yaml")
    if _is_another_base(config.get("base"), below.get("base")):
        below = {key: value for key, value in below.items() if key != "base"}
    changes = difference(below, {key: value for key, value in config.items() if key != "preset"})
    config = merge(merge(DEFAULTS, below), {**config, "preset": preset})
    own = config["stanzas"] if isinstance(config["stanzas"], dict) else {}  # the schema refuses anything else below
    methods = stanzas.read(ROOT / "config/methods", read_yaml, own)
    tasks = read_yaml(ROOT / "config/tasks.yaml")
    check(config, "config", "configuration")
    if line := entries.problem(tasks):
        raise UserError(line)
    check(tasks, "tasks", "config/tasks.yaml")
    tasks = entries.completed(tasks)
    _check_names(config, methods, tasks)
    config = {**config, "augmentation": augmentation.completed(config["augmentation"])}
    _check_augmentation(config, methods, tasks)
    return Catalogue(config, methods, tasks, changes)


def _is_another_base(own, of_preset) -> bool:
    """Return whether `own` names another model than the preset's base, so that nothing of that applies to it."""
    if not isinstance(own, dict) or not isinstance(of_preset, dict):
        return False
    return any(key in own and own[key] != of_preset.get(key) for key in ("source", "id", "path"))


def read_config(file: Path | None = None, preset: str | None = None) -> dict:
    """Return config/config.yaml with the keys of another file laid over it, and the name of a preset over both."""
    config = merge(read_yaml(ROOT / "config/config.yaml"), read_yaml(file) if file else {})
    return config | ({"preset": preset} if preset else {})


def check_writable(folder: Path) -> None:
    """Raise one line for a results folder in which Snakemake would end with a traceback."""
    place = folder if folder.exists() else folder.absolute().parent
    if not (place.is_dir() and os.access(place, os.W_OK)):
        raise UserError(
            f"{place} is no folder that can be written: make it one or work in another (--directory), then run the same "
            "command again; nothing finished is lost."
        )


def dump(request: dict) -> str:
    """Return a request as one canonical line, so that equal requests are equal parameters."""
    return json.dumps(request, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def _check_names(config: dict, methods: dict, tasks: dict) -> None:
    for key, known in (("tasks", tasks), ("methods", methods)):
        for name in config[key]:
            if name not in known:
                raise UserError(f"configuration: unknown {key[:-1]} {name!r}. {nearest(name, known)}")
    for name in config["budget"].get("tasks", {}):
        if name not in tasks:
            raise UserError(f"configuration: budget.tasks: unknown task {name!r}. {nearest(name, tasks)}")
    for name, stanza in methods.items():
        for key, entry in stanza["recipe"].items():
            for task in entry[1] if len(entry) == 3 else ():
                if task not in tasks:
                    raise UserError(f"{name}.recipe.{key}: unknown task {task!r}. {nearest(task, tasks)}")
    for name in config["methods"]:
        if methods[name]["product"] == "allocation":
            raise UserError(f"configuration: methods: {name} is a search and has no cell: list the methods that use it.")


def _check_augmentation(config: dict, methods: dict, tasks: dict) -> None:
    """Raise one line for an augmentation that no run could follow."""
    if (settings := config["augmentation"]) is None:
        return
    for key, known in (("tasks", tasks), ("methods", methods)):
        for name in settings[key] or ():
            if name not in known:
                raise UserError(f"configuration: augmentation: unknown {key[:-1]} {name!r}. {nearest(name, known)}")
    for name in settings["methods"] or ():
        if not _is_taught(methods[name]):
            raise UserError(
                f"configuration: augmentation.methods: {name} is not trained by a teacher, which would answer for the "
                "augmented rows: name students."
            )
    for name in config["tasks"] if settings["tasks"] is None else settings["tasks"]:
        if line := augmentation.refusal(name, tasks[name]["kind"]):
            raise UserError(f"configuration: {line}")
    if (path := settings["vectors"]) and not Path(path).is_file():
        raise UserError(
            f"configuration: augmentation.vectors: {path} is no file: name a file of word vectors (paths start at the "
            "working directory)."
        )


def _is_taught(spec: dict) -> bool:
    """Return whether a method's runs are trained, and have a teacher."""
    return "teacher" in spec["ancestors"] and any(key.startswith("epochs") for key in spec["recipe"])
