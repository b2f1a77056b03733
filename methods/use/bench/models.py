"""The files that contenders load: one shape of model with random weights, written in every form that is asked for."""

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from methods.model import description
from methods.model.anatomy import ANATOMIES
from methods.tasks.data import Split, collate
from methods.use.bench.timing import random_rows

SAMPLE = np.full((16, 4), 64)  # lengths of the rows that set ranges: batches, rows of a batch
# Quantizers of the suite's methods by their bits: BinaryBERT's, TernaryBERT's, and KDLSQ's. The first two quantize the word
# embedding by rows.
WEIGHTS = {
    1: {"kind": "binary"},
    2: {"kind": "ternary"},
    4: {"kind": "threshold", "bits": 4},
    8: {"kind": "threshold", "bits": 8},
}
EMBEDDINGS = WEIGHTS | {1: {"kind": "binary", "rows": True}, 2: {"kind": "ternary", "rows": True}}
# 8-bit activations: KDLSQ's learned ranges, and TernaryBERT's range of the moment.
ACTIVATIONS = {"static": {"kind": "threshold", "bits": 8}, "dynamic": {"kind": "asymmetric", "bits": 8}}
# The header of a run's model file, as far as it says what the model is for.
HEADER = {
    **{"method": "bench", "task": "bench", "seed": 0, "preset": "bench", "protocol": "last", "step": 0},
    **{"head": "sequence", "outputs": 2, "kind": "classification", "labels": ["0", "1"], "columns": ["sentence"]},
    "span": None,
    "padding": "bucket",
}
INPUTS = ("input_ids", "attention_mask", "token_type_ids")


class Models:
    """Files of one shape of model in a folder. Each is made when it is first asked for."""

    def __init__(self, folder: Path, config: dict, given: Path | None = None, header: dict | None = None):
        self.folder, self.config, self._given = folder, config, given
        self._header = header or {**HEADER, "max_length": self.longest}
        self._head, self._outputs = self._header["head"], self._header["outputs"]

    @classmethod
    def like(cls, folder: Path, path: Path) -> "Models":
        """Return the files of the shape of a model file, with this one among them."""
        _, meta = description.read(path)
        return cls(folder, meta["config"], path, meta)

    @property
    def longest(self) -> int:
        """Tokens of the longest row that the model takes."""
        return self.config.get("max_position_embeddings", 512) - ANATOMIES[self.config.get("model_type", "bert")].skipped

    def given(self) -> Path:
        """Return the user's model file."""
        return self._given

    def float(self) -> Path:
        """Return the model file in full precision."""
        return self._once("float.safetensors", lambda path: self._save(path, self._float()))

    def packed(self, bits: int, ranges: str) -> Path:
        """Return the model file with weights of `bits` bits and 8-bit activations in `static` or `dynamic` ranges."""
        return self._once(f"w{bits}-{ranges}.safetensors", lambda path: self._save(path, self._quantized(bits, ranges)))

    def int8_dynamic(self) -> Path:
        """Return the model file of the suite's `int8_dynamic`."""

        def write(path: Path) -> None:
            from methods.model.edits import apply

            self._save(path, apply(self._float(), "int8_dynamic"))

        return self._once("int8_dynamic.safetensors", write)

    def onnx(self) -> Path:
        """Return the graph of full precision, of any batch and length, as torch exports it."""
        return self._once("float.onnx", self._export)

    def onnx_dynamic(self) -> Path:
        """Return ONNX Runtime's dynamic int8."""

        def write(path: Path) -> None:
            from onnxruntime.quantization import QuantType, quantize_dynamic

            quantize_dynamic(self.onnx(), path, weight_type=QuantType.QInt8)

        return self._once("dynamic.onnx", write)

    def onnx_qdq(self) -> Path:
        """Return ONNX Runtime's static int8, calibrated on random rows."""

        def write(path: Path) -> None:
            from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

            class Reader(CalibrationDataReader):
                feeds = self._sample()

                def get_next(self) -> dict | None:
                    return next(self.feeds, None)

            products = ["MatMul", "Gemm"]
            options = {"quant_format": QuantFormat.QDQ, "weight_type": QuantType.QInt8, "op_types_to_quantize": products}
            quantize_static(self.onnx(), path, Reader(), **options)

        return self._once("qdq.onnx", write)

    def openvino(self) -> Path:
        """Return OpenVINO's own file of the graph of full precision."""

        def write(path: Path) -> None:
            import openvino

            openvino.save_model(openvino.Core().read_model(self.onnx()), path, compress_to_fp16=False)

        return self._once("float.xml", write)

    def openvino_w8a8(self) -> Path:
        """Return OpenVINO's static int8: `nncf.quantize` for transformers, calibrated on random rows."""

        def write(path: Path) -> None:
            import nncf
            import openvino

            nncf.set_log_level(logging.ERROR)
            graph, feeds = openvino.Core().read_model(self.onnx()), list(self._sample())
            kind = nncf.ModelType.TRANSFORMER
            openvino.save_model(nncf.quantize(graph, nncf.Dataset(feeds), model_type=kind, subset_size=len(feeds)), path)

        return self._once("w8a8.xml", write)

    def exported(self, bits: int, ranges: str, stored: int) -> Path:
        """Return the graph that `export` makes of a packed model, its codes stored in `stored` bits at least."""

        def write(path: Path) -> None:
            import onnx

            from methods.model import artifact
            from methods.use import export_onnx

            packed = self.packed(bits, ranges)
            onnx.save(export_onnx.build(artifact.load(packed)[0], description.read(packed)[0], stored), path)

        return self._once(f"w{bits}-{ranges}-int{stored}.onnx", write)

    def _once(self, name: str, write: Callable[[Path], object]) -> Path:
        """Return a file of the folder, written now if it is not there. What libraries say meanwhile goes nowhere."""
        path = self.folder / name
        if not path.exists():
            with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), _quiet():
                warnings.simplefilter("ignore")
                write(path)
        return path

    def _float(self):
        import torch

        from methods.model.encoder import build

        torch.manual_seed(0)
        return build(self.config, self._head, self._outputs).eval()

    def _quantized(self, bits: int, ranges: str):
        import torch

        from methods.model.edits import apply, calibrate

        model = self._float()
        apply(model, "quantize", weights=WEIGHTS[bits], embeddings=EMBEDDINGS[bits], activations=ACTIVATIONS[ranges])
        if ranges == "static":
            feed = next(self._sample())  # one is enough for speed: each sorts every activation
            calibrate(model, [{name: torch.from_numpy(values) for name, values in feed.items()}])
        return model

    def _save(self, path: Path, model) -> None:
        """Write a model file as a run does."""
        from methods.model import artifact

        artifact.save(path, model, {key: value for key, value in self._header.items() if key not in description.STRUCTURE})

    def _export(self, path: Path) -> None:
        import torch

        class Logits(torch.nn.Module):
            def __init__(self, model):
                super().__init__()
                self.model = model

            def forward(self, *inputs):  # (B, S) each -> (B, outputs)
                return self.model(**dict(zip(INPUTS, inputs, strict=True))).logits

        model = self._float()
        model.set_attn_implementation("eager")  # plain products, which the runtimes find and quantize
        feed = feeds(random_rows((9, 16), self.config["vocab_size"]))
        axes = {name: {0: "batch", 1: "length"} for name in INPUTS} | {"logits": {0: "batch"}}
        names = {"input_names": list(INPUTS), "output_names": ["logits"], "dynamic_axes": axes}
        example = tuple(torch.from_numpy(feed[name]) for name in INPUTS)
        torch.onnx.export(Logits(model), example, path, dynamo=False, opset_version=17, **names)

    def _sample(self) -> Iterator[dict[str, np.ndarray]]:
        """Yield batches of random rows."""
        for seed, lengths in enumerate(SAMPLE.clip(max=self.longest)):
            yield feeds(random_rows(lengths, self.config["vocab_size"], seed))


def feeds(rows: Split, padding: str = "max_length", pad: int = 0, segments: bool = True) -> dict[str, np.ndarray]:
    """Return rows as a model's padded inputs, (B, S) each: as wide as the longest, or the `bucket` that holds it."""
    width = int(rows.lengths.max()) if padding == "max_length" else 512
    batch = collate(rows, np.arange(len(rows)), padding, width, pad, segments)
    return {name: batch[name] for name in INPUTS}


def file_bytes(path: Path) -> int:
    """Return the bytes of a file, and of the weights that stand beside it."""
    weights = path.with_suffix(".bin")
    return path.stat().st_size + (weights.stat().st_size if path.suffix == ".xml" and weights.is_file() else 0)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
