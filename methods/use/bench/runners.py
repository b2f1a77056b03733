"""The runtimes: each opens a model file and answers rows. They import their library when they are made, not before."""

import importlib
import warnings
from pathlib import Path

import numpy as np

from methods.tasks.data import Split
from methods.use.bench.models import feeds


class Runner:
    """A model file opened by one runtime.

    `inputs` prepares rows, untimed; `run` answers them, timed, from token ids to numbers of numpy. `libraries` are the
    modules that it needs.
    """

    libraries: tuple[str, ...] = ()
    kernels: str | None = None  # the instruction set or precision that ran, where the runtime tells

    @classmethod
    def load_libraries(cls) -> None:
        """Import what stays in a process whatever model it runs."""
        for library in cls.libraries:
            importlib.import_module(library)

    @classmethod
    def absent(cls, **options) -> str | None:
        """Return why this runtime cannot run here although its libraries are installed; None where it can."""
        return None

    def inputs(self, rows: Split):
        """Return padded arrays."""
        return feeds(rows)

    def run(self, inputs) -> list[np.ndarray]:
        """Return arrays whose first dimension is the rows: one, or two for spans."""
        raise NotImplementedError

    def answers(self, rows: Split) -> list[np.ndarray]:
        """Return each row's outputs as the engine does: (outputs,), (2, tokens) for spans, (tokens, outputs) for words."""
        return by_row(self.run(self.inputs(rows)), rows.lengths)

    def close(self) -> None:
        """Let go of threads."""


class Engine(Runner):
    """This project's engine. Rows stand one after another, without padding."""

    libraries = ("methods.engine.session",)

    def __init__(self, path: Path, threads: int):
        from methods.engine import open_session

        self.session = open_session(path, threads=threads)
        self.kernels = self.session.kernels

    def inputs(self, rows: Split) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return rows.ids, rows.ends, rows.first

    def run(self, inputs) -> list[np.ndarray]:
        return self.session(*inputs)

    def answers(self, rows: Split) -> list[np.ndarray]:
        return self.session(*self.inputs(rows))

    def close(self) -> None:
        self.session.close()


class Torch(Runner):
    """torch as it is. A quantized model runs as it was scored: numbers on grids, multiplied as floats."""

    libraries = ("torch", "methods.model.artifact", "methods.training.trainer")
    padding = "max_length"

    @classmethod
    def load_libraries(cls) -> None:
        from methods.model.anatomy import ANATOMIES

        super().load_libraries()
        ANATOMIES["bert"].model_class("sequence")  # imports transformers' part

    def __init__(self, path: Path, threads: int, dtype: str | None = None):
        import torch

        from methods.model import artifact
        from methods.model.anatomy import anatomy

        torch.set_num_threads(threads)
        torch.set_flush_denormal(True)
        model = artifact.load(path)[0].eval()
        self.model, self.kernels = self.prepared(model.bfloat16() if dtype == "bf16" else model), dtype
        self.pad, self.segments = model.config.pad_token_id or 0, anatomy(model).segments

    def prepared(self, model):
        """Return what runs in the model's place."""
        return model

    def inputs(self, rows: Split) -> dict:
        import torch

        return {name: torch.from_numpy(x) for name, x in feeds(rows, self.padding, self.pad, self.segments).items()}

    def run(self, inputs) -> list[np.ndarray]:
        import torch

        from methods.training.forward import forward

        with torch.inference_mode():
            return [part.float().numpy() for part in forward(self.model, inputs).logits]


class TorchCompiled(Torch):
    """torch.compile, which compiles every shape anew; rows are padded to one of few lengths."""

    padding = "bucket"

    def prepared(self, model):
        import torch

        return torch.compile(model, dynamic=False)


class TorchDynamic(Torch):
    """torch.ao's quantize_dynamic on every linear, by the kernels of one of its back ends."""

    @classmethod
    def absent(cls, backend: str) -> str | None:
        import torch

        if not hasattr(torch.ao.quantization, "quantize_dynamic"):
            return f"torch {torch.__version__} has no quantize_dynamic any more"
        return None if backend in torch.backends.quantized.supported_engines else f"torch has no {backend} kernels here"

    def __init__(self, path: Path, threads: int, backend: str):
        self.backend = backend
        super().__init__(path, threads)
        self.kernels = backend

    def prepared(self, model):
        import torch
        from torch.ao.quantization import quantize_dynamic

        engines = torch.backends.quantized
        before = engines.engine
        try:
            engines.engine = self.backend
            with warnings.catch_warnings():  # torch announces that it will drop this
                warnings.simplefilter("ignore")
                return quantize_dynamic(model, {torch.nn.Linear}, torch.qint8)
        finally:
            engines.engine = before


class OnnxRuntime(Runner):
    """ONNX Runtime on a CPU."""

    libraries = ("onnxruntime",)

    def __init__(self, path: Path, threads: int):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 3
        options.add_session_config_entry("session.force_spinning_stop", "1")  # its threads sleep while others take turns
        self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.names = [one.name for one in self.session.get_inputs()]

    def inputs(self, rows: Split) -> dict:
        return {name: values for name, values in feeds(rows).items() if name in self.names}

    def run(self, inputs) -> list[np.ndarray]:
        return self.session.run(None, inputs)

    def close(self) -> None:
        del self.session


class OpenVino(Runner):
    """OpenVINO on a CPU, tuned for latency; the precision is its own choice or `f32`."""

    libraries = ("openvino",)

    def __init__(self, path: Path, threads: int, precision: str | None = None):
        import openvino

        options = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}
        if precision:
            options["INFERENCE_PRECISION_HINT"] = precision
        compiled = openvino.Core().compile_model(path, "CPU", options)
        self.request, self.count = compiled.create_infer_request(), len(compiled.outputs)
        self.names = {one.get_any_name() for one in compiled.inputs}
        self.kernels = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()

    def inputs(self, rows: Split) -> dict:
        return {name: values for name, values in feeds(rows).items() if name in self.names}

    def run(self, inputs) -> list[np.ndarray]:
        results = self.request.infer(inputs, share_inputs=True)
        return [results[number] for number in range(self.count)]

    def close(self) -> None:
        del self.request


def by_row(parts: list[np.ndarray], lengths: np.ndarray) -> list[np.ndarray]:
    """Return each row's outputs without those of padding."""
    of_tokens = len(parts) > 1 or parts[0].ndim == 3
    stacked = np.stack(parts, 1)  # (B, 1 or 2, outputs or S or S, outputs)
    rows = [values[:, :length] if of_tokens else values for values, length in zip(stacked, lengths, strict=True)]
    return [values if len(values) > 1 else values[0] for values in rows]
