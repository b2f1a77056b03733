"""A run, from its request to its files: prepare, train, write, score. Methods do none of it.

The score in a run is the score of the model that was read back from its file, in fp32. `run.json` is written last and holds
nothing volatile, so that equal seeds give equal bytes; the machine and the time it took are in `machine.json`.
"""

import contextlib
import io
import resource
import sys
import time
import zipfile
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from torch import nn

from methods.common import files, interrupt, provenance, schema
from methods.common.errors import UserError
from methods.common.terminal import plain
from methods.kernel import fusing, products
from methods.model import artifact
from methods.model.anatomy import ANATOMIES
from methods.model.edits import quantization_error
from methods.model.encoder import from_base, read_base
from methods.tasks import data
from methods.training import compiling, trainer
from methods.training.ancestors import ALLOCATION, LATENT, Ancestor
from methods.training.checkpoints import Checkpoints
from methods.training.context import Context, Journal
from methods.training.device import open_device
from methods.training.loader import Loader
from methods.training.recipe import Stage
from methods.training.trainer import Diverged, Fit, Trainer

PROTOCOLS = ("last", "best")
PREDICTIONS = "predictions.npz"
# A copy of run.json. Snakemake deletes run.json before it starts a job, and a finished run would be trained again.
RECORD = "record.json"
OUTPUTS = ("run.json", RECORD, "machine.json", "last.safetensors", "best.safetensors", LATENT, ALLOCATION, PREDICTIONS)


def execute(
    request: dict,
    paper: ModuleType,
    out: Path,
    *,
    data_path: Path,
    base_path: Path,
    ancestors: dict[str, Path],
    checkpoint_steps: int | None = None,
    checkpoint_seconds: float = 60.0,
) -> dict:
    """Do what is requested, in `out`, and return the content of run.json. A run that is already there is left alone."""
    interrupt.listen()
    torch.set_num_threads(request["threads"])
    device, precision, note = open_device(request["precision"])
    out.mkdir(parents=True, exist_ok=True)
    with files.lock(out) if device.is_main_process else contextlib.nullcontext():
        if device.is_main_process:
            for folder in (out, out / "checkpoints"):
                files.remove_litter(folder)
        device.wait_for_everyone()  # until the folder is ours: every process must find the same files in it
        run = Run(request, paper, out, device, precision, data_path, base_path, ancestors)
        run.record["events"] += [note] if note else []
        run.checkpoints = Checkpoints(out / "checkpoints", run.identity, checkpoint_steps, checkpoint_seconds, say=run.say)
        return run.execute()


class Run:
    """One run: its inputs, and the record that becomes run.json."""

    checkpoints: Checkpoints

    def __init__(self, request, paper, out: Path, device, precision: str, data_path: Path, base_path: Path, ancestors):
        self.request, self.paper, self.out, self.device = request, paper, out, device
        self.recipe = paper.Recipe(**request["spec"]["recipe"])
        self.task, (self.base, base_sha) = data.load(data_path), read_base(base_path)
        self.ancestors = {role: Ancestor.read(folder, request["primary"]) for role, folder in ancestors.items()}
        self._check_inputs(data_path, base_path)
        self.record = self._frame(base_sha, precision)
        self.identity = self._identity()
        self.started = time.monotonic()

    def execute(self) -> dict:
        done = self._finished()
        if done and (done["scores"] is None or self._scored(done)):
            self.say(f"already done in {self.out}")
            if self.device.is_main_process:
                files.write_json(self.out / "run.json", done)
            self._clear_checkpoints()
            return done
        try:
            return self._score_again(done) if done else self._make()
        except (Diverged, artifact.NotFinite) as reason:
            return self._write_diverged("diverged", str(reason))

    def _make(self) -> dict:
        """Do the whole run."""
        self._remove_outputs()
        if failed := next((one for one in self.ancestors.values() if not one.ok), None):
            return self._write_diverged("diverged (ancestor)", f"its ancestor {failed.name} {failed.run['status']}")
        self._check_teacher()
        student, stages, context = self.prepare()
        fit = self.train(student, stages)
        if fit.diverged:
            return self._write_diverged("diverged", fit.diverged)
        if self.request["product"] == "allocation":
            return self.write_allocation(student, fit, context)
        self.write(student, fit)
        return self._score()

    def _score_again(self, done: dict) -> dict:
        """Score the models of a finished run, and train nothing."""
        self.say("scoring its models again, because the scoring code has changed or the predictions are not whole")
        self.record = {**done, **{key: self.record[key] for key in ("metric", "baseline", "ancestors")}}
        return self._score()

    def prepare(self) -> tuple[nn.Module, list[Stage], Context]:
        """Make the student and its stages."""
        context = Context(
            self._loader(self.task.train),
            self.request["budget"],
            self.ancestors,
            Journal(self.out / "checkpoints/journal.json", self.identity),
        )
        start = self._start().to(self.device.device)
        student = self.paper.student(start, self.recipe, context)
        if self.request.get("finetuned") and not student.record.edits:
            return student, [], context  # the user's own model, which is trained already
        return student, self.paper.stages(student, self.recipe, context), context

    def train(self, student: nn.Module, stages: list[Stage]) -> Fit:
        """Train the student; its record gains steps and curves."""
        wanted, kind = self.request["compile"], self.device.device.type
        compiled, note = compiling.compiles(wanted, student, stages, self.task.train, kind)
        self.record["ran_on"]["compiled"] = compiled
        self.record["events"] += [note] if note else []
        teacher = self.ancestors.get("teacher")
        with fusing.compiled(compiled), products.on_codes(self.record["ran_on"]["precision"] == "codes"):
            fit = Trainer(
                student,
                stages,
                self._loader(self.task.train),
                lambda model: self.task.score(self._predict(model)),
                self.device,
                evaluate_every=self.request["budget"]["evaluate_every"],
                teacher=teacher.model() if teacher else None,
                checkpoints=self.checkpoints,
                title=self.title,
            ).fit()
        state = fit.state
        self.trained = time.monotonic()
        self.record |= {"steps": state.step, "examples_seen": state.examples, "curve": state.curve, "dev": state.dev}
        self.record["events"] += state.events
        return fit

    def write(self, student: nn.Module, fit: Fit) -> None:
        """Write the models of both protocols, packed, and the latent weights where another run starts from them."""
        digests, latent = {}, self.request["latent"]
        for weights in (fit.last, fit.best):
            artifact.require_finite(weights)  # by every process, so that all of them stop
        if self.device.is_main_process:
            if latent:
                student.load_state_dict(getattr(fit, latent))
                digests[LATENT] = artifact.save_latent(self.out / LATENT, student)
            for protocol, step in (("last", fit.state.step), ("best", fit.state.best_step)):
                student.load_state_dict(getattr(fit, protocol))
                path = self.out / f"{protocol}.safetensors"
                digests[path.name] = artifact.save(path, student, self._header(protocol, step), self.request["ternary"])
        student.load_state_dict(fit.last)
        self.record["quantization_error"] = quantization_error(student)
        self.record["files"] = digests
        self.record["at_step"] = {"last": fit.state.step, "best": fit.state.best_step}
        self.device.wait_for_everyone()

    def write_allocation(self, student: nn.Module, fit: Fit, context: Context) -> dict:
        """Write what a search decided."""
        allocation = self.paper.allocation(student, self.recipe, context)
        if self.device.is_main_process:
            files.write_json(self.out / ALLOCATION, allocation)
            self.record["files"] = {ALLOCATION: files.sha256_file(self.out / ALLOCATION)}
        return self._write_record()

    def _score(self) -> dict:
        """Score the models as read back from their files, and write the run."""
        scores, sizes, predicted = {}, {}, {}
        arrays = self.task.references()
        for protocol, step in self.record["at_step"].items():
            path = self.out / f"{protocol}.safetensors"
            if step not in predicted:  # where the best model is the last, it is scored once
                self.say(f"scoring its {protocol} model, as read back from the file")
                model = artifact.load(path)[0].to(self.device.device)
                predicted[step] = self._predict(model, exact=True)
                self.record["bits"] = self.record["bits"] or artifact.bits(path, model)
            scores[protocol] = {"step": step, "metrics": self.task.score(predicted[step])}
            sizes[protocol] = artifact.size(path)
            for split, found in self.task.stored(predicted[step]).items():
                arrays |= {
                    f"{protocol}.{split}" if key == "values" else f"{protocol}.{split}.{key}": value
                    for key, value in found.items()
                }
        self.record |= {"scores": scores, "size": sizes}
        self.record["ran_on"]["scoring"] = self.request["scoring"]
        if self.device.is_main_process:
            self.record["files"][PREDICTIONS] = _write_npz(self.out / PREDICTIONS, arrays)
        return self._write_record()

    # --- inputs -----------------------------------------------------------------------------------------------

    def _loader(self, split: data.Split) -> Loader:
        architecture = ANATOMIES[self.base.config.get("model_type", "bert")]
        return Loader(
            split,
            self.task.kind,
            self.device.device,
            seed=self.request["seed"],
            padding=self.request["padding"],
            max_length=self.task.meta["max_length"],
            pad=self.base.config.get("pad_token_id", 0),
            segments=architecture.segments,
        )

    def _start(self) -> nn.Module:
        """The model that the student is made of: an ancestor's, or the pretrained encoder under a new head."""
        if "init" in self.ancestors:
            return self.ancestors["init"].start()
        kind = self.task.kind
        return from_base(self.base, kind.head, kind.outputs(self.task.meta["labels"]), self.request["seed"])

    def _predict(self, model: nn.Module, exact: bool = False) -> dict:
        loaders = {name: self._loader(split) for name, split in self.task.dev.items()}
        outputs = {name: trainer.predict(model, loader, self.device, exact) for name, loader in loaders.items()}
        return self.task.predictions(outputs)

    def _check_inputs(self, data_path: Path, base_path: Path) -> None:
        """Raise one line for data that another tokenizer made, or that are longer than the model reads."""
        meta, config = self.task.meta, self.base.config
        if meta["tokenizer"] != files.sha256(self.base.tokenizer.encode()):
            raise UserError(
                f"{data_path} was made with another tokenizer than that of {base_path}: make the data again with "
                f"`python -m methods data {meta['task']} --base {base_path} --out {data_path}`."
            )
        longest = config["max_position_embeddings"] - ANATOMIES[config.get("model_type", "bert")].skipped
        self._check_augmentation(data_path)
        if meta["max_length"] > longest:
            raise UserError(
                f"{data_path} has inputs of {meta['max_length']} tokens, but the model of {base_path} reads {longest}: "
                "lower the task's max_length, or budget.max_length."
            )

    def _check_augmentation(self, data_path: Path) -> None:
        """Raise one line for data that were not augmented as requested."""
        wanted, made = self.request.get("augmentation"), self.task.meta["data"].get("augmentation")
        if (made and {key: made.get(key) for key in wanted or {}}) != wanted:
            state = "without copies of its training rows" if made is None else "with copies of its training rows"
            raise UserError(
                f"{data_path} was made {state}, and {self.title} is requested with other data: name the data file that "
                f"`python -m methods data {self.task.meta['task']}` makes{' with --augmented' if wanted else ''}."
            )

    def _check_teacher(self) -> None:
        """A teacher that knows no more than a constant teaches nothing: say so before hours are spent on its students."""
        teacher = self.ancestors.get("teacher")
        if teacher is None or self.request["allow_weak_teacher"]:
            return
        bar = teacher.run["baseline"]["metrics"][teacher.run["metric"]]
        if teacher.score <= bar:
            raise UserError(
                f"The teacher {teacher.name} on {self.request['task']} scores {teacher.score:.1f} {teacher.run['metric']}, "
                f"no more than the constant baseline's {bar:.1f}: give it a larger budget, or set allow_weak_teacher: true."
            )

    # --- the record -------------------------------------------------------------------------------------------

    @property
    def title(self) -> str:
        return f"{self.request['method']} {self.request['task']} seed {self.request['seed']}"

    def say(self, text: str) -> None:
        if self.device.is_main_process:
            print(plain(f"{self.title}: {text}"), file=sys.stderr)

    def _frame(self, base_sha: str, precision: str) -> dict:
        """Return what is known of a run before it starts."""
        source, config = self.base.source, self.base.config
        digests = ("code", "scoring")
        return {
            "format": 2,
            "request": {key: value for key, value in self.request.items() if key not in digests},
            "status": "ok",
            "reason": None,
            "metric": self.task.meta["metrics"][0],
            "scores": None,
            "baseline": self.task.baseline(),
            "ancestors": {role: {**one.identity(), "score": one.score} for role, one in self.ancestors.items()},
            "size": None,
            "bits": None,
            "quantization_error": [],
            "steps": 0,
            "at_step": {},
            "examples_seen": 0,
            "curve": [],
            "dev": [],
            "files": {},
            "events": [],
            "ran_on": {
                "data": self.task.meta["data"],
                "base": {
                    **{key: source.get(key) for key in ("source", "id", "revision")},
                    "sha256": base_sha,
                    "layers": config["num_hidden_layers"],
                    "hidden": config["hidden_size"],
                },
                "code": self.request["code"],
                "scoring": self.request["scoring"],
                "compiled": False,  # until the student is known
                "device": self.device.device.type,
                "precision": precision,
                "threads": self.request["threads"],
                "processes": self.device.num_processes,
                "packages": provenance.packages(),
            },
        }

    def _identity(self) -> str:
        """Hash what training depends on: it identifies a run and its checkpoints. How a model is scored is not in it."""
        ran_on = {key: value for key, value in self.record["ran_on"].items() if key != "scoring"}
        ancestors = {role: one.identity() for role, one in self.ancestors.items()}
        known = {"request": self.record["request"], "ancestors": ancestors, "ran_on": ran_on}
        return files.sha256(files.canonical(known).encode())

    def _finished(self) -> dict | None:
        """Return the record of this very run, if it is there and all that was trained is whole."""
        with contextlib.suppress(UserError, KeyError, TypeError, AttributeError, OSError):
            done = schema.read_valid(self.out / RECORD, "run.schema.yaml")
            trained = {name: sha for name, sha in done["files"].items() if name != PREDICTIONS}
            whole = all(files.sha256_file(self.out / name) == sha for name, sha in trained.items())
            if done["identity"] == self.identity and whole and (self.out / "machine.json").is_file():
                return done
        return None

    def _scored(self, done: dict) -> bool:
        """Return whether a finished run has the scores and the predictions of today's scoring code."""
        path, sha = self.out / PREDICTIONS, done["files"].get(PREDICTIONS)
        return done["ran_on"]["scoring"] == self.request["scoring"] and path.is_file() and files.sha256_file(path) == sha

    def _remove_outputs(self) -> None:
        """Remove what another request left; run.json first, because the others are trusted where it exists."""
        if self.device.is_main_process:
            for name in OUTPUTS:
                (self.out / name).unlink(missing_ok=True)

    def _header(self, protocol: str, step: int) -> dict:
        """Return what a model file says of its origin and use."""
        meta = self.task.meta
        tokenizer = {
            "sha256": meta["tokenizer"],
            "base": self.record["ran_on"]["base"]["sha256"],
            "id": self.base.source.get("id"),
        }
        requested = {key: self.request[key] for key in ("method", "task", "seed", "preset", "spec", "padding", "code")}
        shape = {key: meta[key] for key in ("kind", "columns", "labels", "max_length", "span")}
        return {**requested, **shape, "tokenizer": tokenizer, "protocol": protocol, "step": step}

    def _write_diverged(self, status: str, reason: str) -> dict:
        """Write a run without model and scores: a result to show, not an error to hide."""
        self._remove_outputs()
        self.record |= {"status": status, "reason": reason, "files": {}, "scores": None, "size": None, "bits": None}
        return self._write_record()

    def _write_record(self) -> dict:
        if self.device.is_main_process:
            if hasattr(self, "trained") or self.record["scores"] is None:  # a run that is only scored again keeps its times
                self._write_machine()
            for name in (RECORD, "run.json"):
                files.write_json(self.out / name, {**self.record, "identity": self.identity})
            self._clear_checkpoints()
        return self.record

    def _clear_checkpoints(self) -> None:
        if self.device.is_main_process:
            self.checkpoints.clear()

    def _write_machine(self) -> None:
        now, trained = time.monotonic(), getattr(self, "trained", self.started)
        training = trained - self.started
        files.write_json(
            self.out / "machine.json",
            {
                **provenance.machine(),
                "seconds": {"train": training, "evaluate": now - trained, "total": now - self.started},
                "resumed": self.checkpoints.resumed,
                "steps_per_second": self.record["steps"] / training if training else None,
                "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
                * (1 if sys.platform == "darwin" else 1024),
            },
        )


def _write_npz(path: Path, arrays: dict[str, np.ndarray]) -> str:
    """Write an .npz with fixed dates, so that equal predictions are equal bytes; objects (pickles) are refused."""
    with files.atomic(path) as temporary:
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, array in sorted(arrays.items()):
                content = io.BytesIO()
                np.lib.format.write_array(content, np.ascontiguousarray(array), allow_pickle=False)
                archive.writestr(zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0)), content.getvalue())
        return files.sha256_file(temporary)
