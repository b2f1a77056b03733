"""A run, from its request to its files: the harness loads, trains, saves, loads back, scores and writes. Methods do none of it.

The score in a run is the score of the model that was read back from its file, in fp32. `run.json` holds nothing
volatile, so that equal seeds give equal bytes; what the machine was and how long it took stands in `machine.json`.
"""

import contextlib
import io
import os
import resource
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from accelerate import Accelerator

from methods.common import files, interrupt, provenance
from methods.common.errors import UserError
from methods.kernel import fusing, products
from methods.model import artifact
from methods.model.edits import edits, quantization_error
from methods.model.encoder import from_base, read_base
from methods.tasks import data
from methods.training import compiling, trainer
from methods.training.checkpoints import Checkpoints

PROTOCOLS = ("last", "best")
LATENT = "latent.safetensors"  # the weights that a model file rounds, where other runs start from this one
OUTPUTS = ("run.json", "machine.json", "last.safetensors", "best.safetensors", LATENT, "predictions.npz")
SAMPLE_BATCH = 32  # rows of a batch that a method may look at before it trains


@dataclass(frozen=True)
class Ancestor:
    """An earlier run that this one learns from (`teacher`) or starts from (`init`)."""

    folder: Path
    run: dict
    protocol: str

    @property
    def sha256(self) -> str | None:
        """The hash of its model file; a run that diverged has none."""
        return self.run["files"].get(f"{self.protocol}.safetensors")

    @property
    def latent(self) -> str | None:
        """The hash of its latent weights, if it kept those of this protocol."""
        return self.run["files"].get(LATENT) if self.run["request"].get("latent") == self.protocol else None

    @property
    def name(self) -> str:
        return self.run["request"]["method"]

    @property
    def score(self) -> float | None:
        return self.run["scores"] and self.run["scores"][self.protocol]["metrics"][self.run["metric"]]

    def model(self) -> torch.nn.Module:
        """Its model, as what it stores says."""
        return artifact.load(self._checked(f"{self.protocol}.safetensors", self.sha256))[0]

    def start(self) -> torch.nn.Module:
        """Its model as it was in training, where it kept the latent weights: to be trained on."""
        latent = self.latent and self._checked(LATENT, self.latent)
        return artifact.load(self._checked(f"{self.protocol}.safetensors", self.sha256), latent)[0]

    def _checked(self, name: str, digest: str) -> Path:
        path = self.folder / name
        if not path.is_file() or files.sha256_file(path) != digest:
            what = "damaged (its SHA-256 is not the one in its run.json)" if path.is_file() else "missing"
            raise UserError(f"{path} is {what}: delete the run.json beside it and run the same command again.")
        return path

    def told(self) -> dict:
        return {"method": self.name, "seed": self.run["request"]["seed"], "sha256": self.sha256}


def ancestor(folder: Path, protocol: str) -> Ancestor:
    return Ancestor(Path(folder), files.read_json(Path(folder) / "run.json"), protocol)


def accelerate(wanted: str) -> tuple[Accelerator, str, str | None]:
    """The device and precision of this machine, and a line where the precision is not the one asked for."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # before CUDA starts, for equal results
    precision, note = provenance.precision(wanted, torch.cuda.is_available())
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # no operator here reads what it did not write
    torch.set_flush_denormal(True)
    several_cpus = "LOCAL_RANK" in os.environ and not torch.cuda.is_available()
    return Accelerator(mixed_precision="bf16" if precision == "bf16" else "no", cpu=several_cpus), precision, note


def run(
    request: dict,
    family: ModuleType,
    out: Path,
    *,
    data_path: Path,
    base_path: Path,
    ancestors: dict[str, Path],
    checkpoint_steps: int | None = None,
    checkpoint_seconds: float = 60.0,
) -> dict:
    """Do what is asked, in `out`; the content of run.json. A run that is already there is left alone."""
    interrupt.listen()
    torch.set_num_threads(request["threads"])
    accelerator, precision, note = accelerate(request["precision"])
    out.mkdir(parents=True, exist_ok=True)
    with files.lock(out) if accelerator.is_main_process else contextlib.nullcontext():
        accelerator.wait_for_everyone()  # until the folder is ours: what stands in it must look alike to every process
        return _run(
            request, family, out, data_path, base_path, ancestors, accelerator, precision, note,
            (checkpoint_steps, checkpoint_seconds),
        )  # fmt: skip


def _run(request, family, out, data_path, base_path, ancestors, accelerator, precision, note, every) -> dict:
    started = time.monotonic()
    title = f"{request['method']} {request['task']} seed {request['seed']}"

    def say(text: str) -> None:
        if accelerator.is_main_process:
            print(f"{title}: {text}", file=sys.stderr)

    task, (base, base_sha) = data.load(data_path), read_base(base_path)
    _check_base(task, base, data_path, base_path)
    found = {role: ancestor(folder, request["primary"]) for role, folder in ancestors.items()}
    record = _frame(request, task, base, base_sha, found, precision, accelerator)
    record["events"] += [note] if note else []
    identity = files.sha256(files.canonical(record).encode())
    if (done := _finished(out, identity)) is not None:
        say(f"already done in {out}")
        return done
    if accelerator.is_main_process:
        for name in OUTPUTS:  # what another request left; run.json first, as it is written last: where it stands, all stands
            (out / name).unlink(missing_ok=True)
    checkpoints = Checkpoints(out / "checkpoints", identity, *every, say=say)
    failed = next((one for one in found.values() if one.run["status"] != "ok"), None)
    teacher = found.get("teacher")
    if failed:
        record |= {"status": "diverged (ancestor)", "reason": f"its ancestor {failed.name} {failed.run['status']}"}
        return _write_diverged(out, record, identity) if accelerator.is_main_process else record
    _check_teacher(teacher, request)

    inputs = {"accelerator": accelerator, "padding": request["padding"], "max_length": task.meta["max_length"]}

    def predict(model, exact: bool = False) -> dict:
        outputs = {name: trainer.predict(model, split, exact=exact, **inputs) for name, split in task.dev.items()}
        return task.predictions(outputs)

    init = found["init"].start() if "init" in found else None
    start = init or from_base(base, task.kind.head, task.kind.outputs(task.meta["labels"]), request["seed"])
    start.to(accelerator.device)
    sample = trainer.sample(task.train, batch_size=SAMPLE_BATCH, seed=request["seed"], **inputs)
    student = family.student(start, request["spec"], sample)
    scored_only = request.get("finetuned") and not edits(student)  # the user's own model: it is trained already
    stages = [] if scored_only else family.stages(request["spec"], request["budget"])
    compiled, note = compiling.compiles(request["compile"], student, stages, task.train, accelerator.device.type)
    record["ran_on"]["compiled"] = compiled
    record["events"] += [note] if note else []
    fusing.switch(compiled)
    products.switch(precision == "codes")
    fitted = trainer.fit(
        student,
        stages,
        task.train,
        lambda model: task.score(predict(model)),
        seed=request["seed"],
        evaluate_every=request["budget"]["evaluate_every"],
        teacher=teacher.model() if teacher else None,
        checkpoints=checkpoints,
        title=title,
        **inputs,
    )
    fusing.switch(False)  # what counts is scored the same way on every machine
    products.switch(False)
    trained = time.monotonic()
    state = fitted.state
    record |= {"steps": state.step, "examples_seen": state.examples, "curve": state.curve, "dev": state.dev}
    record["events"] += state.events
    if fitted.diverged:
        record |= {"status": "diverged", "reason": fitted.diverged}
        return _write_diverged(out, record, identity) if accelerator.is_main_process else record

    scores, kept, sizes, digests, predicted = {}, task.references(), {}, {}, {}
    if accelerator.is_main_process and request["latent"]:
        student.load_state_dict(getattr(fitted, request["latent"]))
        digests[LATENT] = artifact.save_latent(out / LATENT, student)
    for protocol, weights, step in (
        ("last", fitted.last, state.step),
        ("best", fitted.best, state.best_step),
    ):
        path = out / f"{protocol}.safetensors"
        meta = _artifact_meta(request, task, base, base_sha, protocol, step)
        if accelerator.is_main_process:
            student.load_state_dict(weights)
            digests[path.name] = artifact.save(path, student, meta, request["ternary"])
        accelerator.wait_for_everyone()
        if step not in predicted:  # where the best model is the last, it is scored once
            say(f"scoring its {protocol} model, as read back from the file")
            model, _ = artifact.load(path)
            predicted[step] = predict(model.to(accelerator.device), exact=True)
        scores[protocol] = {"step": step, "metrics": task.score(predicted[step])}
        sizes[protocol] = artifact.size(path)
        for split, arrays in task.stored(predicted[step]).items():
            kept |= {
                f"{protocol}.{split}" if key == "values" else f"{protocol}.{split}.{key}": v for key, v in arrays.items()
            }
    student.load_state_dict(fitted.last)
    record["quantization_error"] = quantization_error(student)
    record |= {"status": "ok", "scores": scores, "size": sizes}
    if accelerator.is_main_process:
        record["files"] = {**digests, "predictions.npz": _write_npz(out / "predictions.npz", kept)}
        _write_machine(out, started, trained, state.step, checkpoints.resumed)
        files.write_json(out / "run.json", {**record, "identity": identity})
        checkpoints.clear()
    return record


def _frame(request: dict, task, base, base_sha: str, found: dict, precision: str, accelerator: Accelerator) -> dict:
    """What is known of a run before it starts; its hash identifies the run and its checkpoints."""
    teacher, init = found.get("teacher"), found.get("init")
    requested = {key: value for key, value in request.items() if key != "code"}
    return {
        "format": 1,
        "request": requested,
        "status": "ok",
        "reason": None,
        "metric": task.meta["metrics"][0],
        "scores": None,
        "baseline": task.baseline(),
        "teacher": teacher and {**teacher.told(), "score": teacher.score},
        "init": init and {**init.told(), **({"latent": init.latent} if init.latent else {})},
        "size": None,
        "quantization_error": [],
        "steps": 0,
        "examples_seen": 0,
        "curve": [],
        "dev": [],
        "files": {},
        "events": [],
        "ran_on": {
            "data": task.meta["data"],
            "base": {
                **{key: base.source.get(key) for key in ("source", "id", "revision")},
                "sha256": base_sha,
                "layers": base.config["num_hidden_layers"],
                "hidden": base.config["hidden_size"],
            },
            "code": request["code"],
            "compiled": False,  # until the student is known
            "device": accelerator.device.type,
            "precision": precision,
            "threads": request["threads"],
            "processes": accelerator.num_processes,
            "packages": provenance.packages(),
        },
    }


def _finished(out: Path, identity: str) -> dict | None:
    """The run that stands in `out`, if it is this very run and whole."""
    if not (out / "run.json").is_file():
        return None
    with contextlib.suppress(UserError, KeyError, OSError):
        done = files.read_json(out / "run.json")
        whole = all((out / name).is_file() and files.sha256_file(out / name) == sha for name, sha in done["files"].items())
        if done["identity"] == identity and whole and (out / "machine.json").is_file():
            return done
    return None


def _check_base(task, base, data_path: Path, base_path: Path) -> None:
    """Raise one line for data that another tokenizer made, or that are longer than the model reads."""
    if task.meta["tokenizer"] != files.sha256(base.tokenizer.encode()):
        raise UserError(
            f"{data_path} was made with another tokenizer than that of {base_path}: make the data again with "
            f"`python -m methods data {task.meta['task']} --base {base_path} --out {data_path}`."
        )
    if task.meta["max_length"] > base.config["max_position_embeddings"]:
        raise UserError(
            f"{data_path} has inputs of {task.meta['max_length']} tokens, but the model of {base_path} reads "
            f"{base.config['max_position_embeddings']}: lower the task's max_length, or budget.max_length."
        )


def _check_teacher(teacher: Ancestor | None, request: dict) -> None:
    """A teacher that knows no more than a constant teaches nothing; say so before hours are spent on its students."""
    if teacher is None or request["allow_weak_teacher"]:
        return
    bar = teacher.run["baseline"]["metrics"][teacher.run["metric"]]
    if teacher.score <= bar:
        raise UserError(
            f"The teacher {teacher.name} on {request['task']} scores {teacher.score:.1f} {teacher.run['metric']}, no more than "
            f"the constant baseline's {bar:.1f}: give it a larger budget, or set allow_weak_teacher: true."
        )


def _write_diverged(out: Path, record: dict, identity: str) -> dict:
    """A run without model and scores: a result to show, not an error to hide."""
    now = time.monotonic()
    _write_machine(out, now, now, record["steps"])
    files.write_json(out / "run.json", {**record, "identity": identity})
    return record


def _artifact_meta(request: dict, task, base, base_sha: str, protocol: str, step: int) -> dict:
    tokenizer = {"sha256": task.meta["tokenizer"], "base": base_sha, "id": base.source.get("id")}
    asked = {key: request[key] for key in ("method", "task", "seed", "preset", "spec", "padding", "code")}
    shape = {key: task.meta[key] for key in ("kind", "columns", "labels", "max_length", "span")}
    head = {"head": task.kind.head, "outputs": task.kind.outputs(task.meta["labels"])}
    return {**asked, **shape, **head, "tokenizer": tokenizer, "protocol": protocol, "step": step}


def _write_npz(path: Path, arrays: dict[str, np.ndarray]) -> str:
    """An .npz with fixed dates, so that equal predictions are equal bytes; objects (pickles) are refused."""
    import zipfile

    with files.atomic(path) as temporary:
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, array in sorted(arrays.items()):
                content = io.BytesIO()
                np.lib.format.write_array(content, np.ascontiguousarray(array), allow_pickle=False)
                archive.writestr(zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0)), content.getvalue())
        return files.sha256_file(temporary)


def _write_machine(out: Path, started: float, trained: float, steps: int, resumed: int = 0) -> None:
    now = time.monotonic()
    files.write_json(
        out / "machine.json",
        {
            **provenance.machine(),
            "seconds": {"train": trained - started, "evaluate": now - trained, "total": now - started},
            "resumed": resumed,
            "steps_per_second": steps / (trained - started) if trained > started else None,
            "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            * (1 if sys.platform == "darwin" else 1024),
        },
    )
