"""The contenders by name: which file each loads, through which runtime, and what it needs of the machine."""

import difflib
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from methods.common import provenance
from methods.common.errors import UserError
from methods.use.bench.models import Models
from methods.use.bench.runners import Engine, OnnxRuntime, OpenVino, Runner, Torch, TorchCompiled, TorchDynamic

FLOAT = "torch-float"  # speed-ups are over it
REFERENCE = "openvino-w8a8"  # the fastest that can be had off the shelf, at every shape that was measured
# How far answers may be from those of the model, in parts of their spread: one that ignores its input is off by 1 or more.
SAME, ROUNDED = 0.01, 0.5
COMPILED = "torch-compiled"  # compiles each shape for most of a minute: only where it is asked for


@dataclass(frozen=True)
class Contender:
    """One way to answer. `file` returns the model file that `runner` opens with `options`, made now if it is not there.

    `baseline` returns the model file whose answers, by torch, these have to resemble. `packages` make the file.
    """

    name: str
    title: str
    file: Callable[[Models], Path]
    runner: type[Runner]
    options: dict = field(default_factory=dict)
    baseline: Callable[[Models], Path] = Models.float
    packages: tuple[str, ...] = ()

    @property
    def tolerance(self) -> float:
        return SAME if self.name.endswith("float") else ROUNDED

    @property
    def off_the_shelf(self) -> bool:
        return self.file != Models.given and not self.name.startswith(("engine", "exported"))

    def open(self, models: Models, threads: int) -> Runner:
        return self.runner(self.file(models), threads, **self.options)

    def absent(self) -> str | None:
        """Return why it cannot run on this machine; None where it can."""
        if missing := [name for name in (*self.packages, *self.runner.libraries) if find_spec(name) is None]:
            return f"{' and '.join(missing)} not installed (pip install -r requirements-export.txt -c constraints.txt)"
        if "bf16" in self.options.values() and not in_bf16():
            return "no bf16 in this processor"
        return self.runner.absent(**self.options)


def in_bf16() -> bool:
    """Return whether this processor computes in bf16."""
    return bool(provenance.BF16_FLAGS & set(provenance.cpu()[1]))


def of_size() -> dict[str, Contender]:
    """Return the contenders on random models of one size."""
    onnx, nncf = ("onnx",), ("onnx", "nncf")
    return _by_name(
        *(_packed(bits, ranges) for ranges in ("static", "dynamic") for bits in (1, 2, 4, 8)),
        Contender("engine-float", "engine, float", Models.float, Engine),
        Contender(FLOAT, "torch, float", Models.float, Torch),
        Contender("torch-bf16", "torch, bf16", Models.float, Torch, {"dtype": "bf16"}),
        Contender(COMPILED, "torch.compile", Models.float, TorchCompiled, {"dtype": "bf16"} if in_bf16() else {}),
        Contender("torch-int8", "torch, int8_dynamic", Models.int8_dynamic, Torch),
        Contender("torch-dynamic", "quantize_dynamic, x86", Models.float, TorchDynamic, {"backend": "x86"}),
        Contender("torch-dynamic-onednn", "quantize_dynamic, onednn", Models.float, TorchDynamic, {"backend": "onednn"}),
        Contender("onnxruntime-float", "ONNX Runtime, float", Models.onnx, OnnxRuntime, packages=onnx),
        Contender("onnxruntime-dynamic", "ONNX Runtime, dynamic int8", Models.onnx_dynamic, OnnxRuntime, packages=onnx),
        Contender("onnxruntime-qdq", "ONNX Runtime, static int8", Models.onnx_qdq, OnnxRuntime, packages=onnx),
        Contender("openvino-float", "OpenVINO, float", Models.openvino, OpenVino, {"precision": "f32"}, packages=onnx),
        Contender("openvino-bf16", "OpenVINO, bf16", Models.openvino, OpenVino, {"precision": "bf16"}, packages=onnx),
        Contender(REFERENCE, "OpenVINO, W8A8 by nncf", Models.openvino_w8a8, OpenVino, packages=nncf),
        _exported("onnxruntime", "static", 8),
        _exported("onnxruntime", "dynamic", 8),
        _exported("openvino", "static", 8),
        _exported("openvino", "static", 4),
        _exported("openvino", "dynamic", 8),
    )


def of_file() -> dict[str, Contender]:
    """Return the contenders on a model file of the user's, and on the model of its shape in full precision."""
    return _by_name(
        Contender("engine-model", "engine, this model", Models.given, Engine, baseline=Models.given),
        Contender("engine-float", "engine, float", Models.float, Engine),
        Contender("torch-model", "torch, this model", Models.given, Torch, baseline=Models.given),
        Contender(FLOAT, "torch, float", Models.float, Torch),
    )


def chosen(contenders: dict[str, Contender], only: list[str] | None, compiled: bool) -> dict[str, Contender]:
    """Return the contenders that are wanted: those of `only`, a name or the first word of several; otherwise all."""
    if only is None:
        return {name: one for name, one in contenders.items() if compiled or name != COMPILED}
    groups = {name.partition("-")[0] for name in contenders}
    for name in only:
        if name not in contenders and name not in groups:
            near = difflib.get_close_matches(name, [*contenders, *groups], 1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise UserError(f"no contender is called {name!r}.{hint} There are: {', '.join(contenders)}.")
    return {
        name: one
        for name, one in contenders.items()
        if name in only or (name.partition("-")[0] in only and (compiled or name != COMPILED))
    }


def _packed(bits: int, ranges: str) -> Contender:
    def file(models: Models) -> Path:
        return models.packed(bits, ranges)

    return Contender(f"engine-w{bits}-{ranges}", f"engine, W{bits} {ranges}", file, Engine, baseline=file)


def _exported(runtime: str, ranges: str, stored: int) -> Contender:
    """Return a model of 2 bits as `export` hands it to a runtime, with its codes in numbers of `stored` bits."""
    title, runner = {"onnxruntime": ("ONNX Runtime", OnnxRuntime), "openvino": ("OpenVINO", OpenVino)}[runtime]

    def packed(models: Models) -> Path:
        return models.packed(2, ranges)

    def file(models: Models) -> Path:
        return models.exported(2, ranges, stored)

    name, title = f"exported-{runtime}-int{stored}-{ranges}", f"{title}, exported W2 {ranges} (int{stored})"
    return Contender(name, title, file, runner, baseline=packed, packages=("onnx",))


def _by_name(*contenders: Contender) -> dict[str, Contender]:
    return {one.name: one for one in contenders}
