"""The runtimes that an ONNX graph can be checked in, where they are installed."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

Run = Callable[[dict[str, np.ndarray]], np.ndarray]


def open(runtime: str, path: Path) -> Run | None:
    """Return a graph as a function of a batch's inputs, or None where the runtime is not installed."""
    try:
        return {"onnxruntime": _onnxruntime, "openvino": _openvino}[runtime](path)
    except ImportError:
        return None


def _onnxruntime(path: Path) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda batch: np.concatenate(session.run(None, batch))


def _openvino(path: Path) -> Run:
    import openvino

    # As it comes, OpenVINO computes in bf16 where the processor can, and rounds the inputs of weights on grids to 8 bits.
    exact = {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0}
    model = openvino.compile_model(path, "CPU", exact)
    return lambda batch: np.concatenate(list(model(batch).values()))
