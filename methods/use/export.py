"""Export a model file for other tools: as an ONNX graph for runtimes, or as a folder that transformers loads."""

import contextlib
import copy
import importlib
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from methods.common import files
from methods.common.errors import UserError
from methods.model import artifact, description
from methods.model.anatomy import anatomy, layers
from methods.model.encoder import logits
from methods.use.model import tokenizer_of

INSTALL = "pip install -r requirements-export.txt -c constraints.txt"
ROWS, LONGEST = 12, 128  # rows that a finished export is checked with, and their tokens
# Relative differences that rounding explains. Where a value lies between two codes, the last bit decides which it takes.
# In a deep model this adds up, and its own differences between single and double precision are the measure.
MEDIAN, MOST, TIMES = 1e-5, 2e-3, 10  # the middle one, nine in ten, and how many times the model's own a difference may be
Run = Callable[[dict[str, np.ndarray]], np.ndarray]  # a batch's inputs -> the head's scores, one array behind the other


@dataclass(frozen=True)
class Difference:
    """How far an export's scores are from those of the model file, relative to the largest score of their row."""

    median: float
    most: float  # of nine scores in ten
    worst: float
    same_answers: bool

    def __str__(self) -> str:
        answers = "the same answer in every row" if self.same_answers else "not the same answer in every row"
        sizes = f"median {self.median:.1e}, nine in ten {self.most:.1e}, worst {self.worst:.1e}"
        return f"relative difference {sizes}; {answers}"

    @property
    def is_rounding(self) -> bool:
        return self.median <= MEDIAN and self.most <= MOST


def to_onnx(path: Path, folder: Path, base: Path | None, runtime: str, least_bits: int, exact: bool) -> list[str]:
    """Write an ONNX graph with its tokenizer and a description into a new folder; return what is worth saying."""
    onnx = _needed("onnx")
    from methods.use import export_onnx, runtimes

    if runtime == "openvino" and least_bits == 2:
        raise UserError("OpenVINO refuses codes of 2 bits: export with --width 4, or --for onnxruntime.")
    with _writing(folder) as work:
        model, meta, tokenizer = _read(path, base)
        graph = export_onnx.build(model, description.read(path)[0], least_bits, exact)
        notes = export_onnx.notes(model, exact)
        graph.doc_string = " ".join([f"{meta['method']} on {meta['task']}, seed {meta['seed']}.", *notes])
        onnx.checker.check_model(graph)
        (work / "model.onnx").write_bytes(graph.SerializeToString())
        (work / "tokenizer.json").write_text(tokenizer, encoding="utf-8")
        files.write_json(work / "config.json", export_onnx.description(model, meta))
        (work / "README.md").write_text(export_onnx.readme(model, meta, notes), encoding="utf-8")
        lines = [f"{folder / 'model.onnx'}: {(work / 'model.onnx').stat().st_size:,} bytes", *notes]
        if (run := runtimes.open(runtime, work / "model.onnx")) is None:
            return [*lines, f"The numbers were not checked, because {runtime} is not installed: {INSTALL}"]
        found = difference(model, run)
        lines.append(f"Checked in {runtime}, {ROWS} rows of random words: {found}.")
        if not export_onnx.is_static(model) or found.is_rounding:
            return lines
        own = difference(model, in_double_precision(model))
        if found.median > TIMES * max(own.median, MEDIAN):
            raise UserError(f"{runtime} computes other numbers than the model file: nothing was written.")
        return [*lines, f"Codes at ties, which rounding decides: torch in single and in double precision has {own}."]


def to_hf(path: Path, folder: Path, base: Path | None) -> list[str]:
    """Write decoded weights with configuration, tokenizer and model card into a new folder, for transformers."""
    from methods.use import export_hf

    with _writing(folder) as work:
        model, meta, tokenizer = _read(path, base)
        notes = export_hf.write(work, path, model, meta, tokenizer)
        size = (work / "model.safetensors").stat().st_size
        found = difference(export_hf.without_activations(model), export_hf.opened(work, meta))
        if not found.is_rounding:
            raise UserError(f"transformers computes other numbers than the model file ({found}): nothing was written.")
        checked = f"Checked in transformers, {ROWS} rows of random words, no activations quantized on either side: {found}."
        return [f"{folder / 'model.safetensors'}: {size:,} bytes", *notes, checked]


def difference(model: nn.Module, run: Run) -> Difference:
    """Compare a model with another form of it, one row at a time: with no padding, ranges of the batch are the same."""
    differences, same = [], True
    for row in _rows(model):
        with torch.no_grad():
            output = model(**{name: torch.from_numpy(array) for name, array in row.items()})
        expected = torch.cat(logits(output)).numpy()  # (1, outputs), (2, S) for spans, (1, S, outputs) for words
        found = run(row)
        differences.append(np.abs(found - expected).ravel() / max(np.abs(expected).max(), 1e-30))
        same &= np.array_equal(found.argmax(-1), expected.argmax(-1))
    median, most, worst = np.quantile(np.concatenate(differences), (0.5, 0.9, 1))
    return Difference(float(median), float(most), float(worst), bool(same))


def in_double_precision(model: nn.Module) -> Run:
    """Return a model as a function of a batch, computed in double precision up to its grids."""
    exact = copy.deepcopy(model).double()

    @torch.no_grad()
    def run(batch: dict[str, np.ndarray]) -> np.ndarray:
        return torch.cat(logits(exact(**{name: torch.from_numpy(array) for name, array in batch.items()}))).numpy()

    return run


def _rows(model: nn.Module) -> Iterator[dict[str, np.ndarray]]:
    """Yield rows of random words of many lengths as a model's inputs, half of each a second text."""
    random, config, parts = np.random.default_rng(0), model.config, anatomy(model)
    longest = min(config.max_position_embeddings - parts.skipped, LONGEST)
    for length in np.linspace(min(4, longest), longest, ROWS).astype(int):
        ids = random.integers(min((config.pad_token_id or 0) + 1, config.vocab_size - 1), config.vocab_size, (1, length))
        segment = np.zeros_like(ids)
        if parts.segments:
            segment[:, length // 2 :] = 1
        yield {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": segment}


def _read(path: Path, base: Path | None) -> tuple[nn.Module, dict, str]:
    model, meta = artifact.load(path)
    description.require(path, meta, description.USE, description.ORIGIN)
    _require_stock_parts(path, model)
    return model.eval(), meta, tokenizer_of(path, meta, base)


def _require_stock_parts(path: Path, model: nn.Module) -> None:
    """Raise one line for layers in which something else has taken the place of a stock matrix."""
    for layer in layers(model):
        for part in anatomy(model).parts:
            try:
                layer[part]
            except AttributeError:
                kinds = ", ".join(repr(edit["kind"]) for edit in model.record.edits)
                raise UserError(
                    f"{path} cannot be exported: its layers have no {part!r} matrix after the edits {kinds}, and neither "
                    "the ONNX graph nor transformers has another form for it."
                ) from None


def _needed(module: str):
    try:
        return importlib.import_module(module)
    except ImportError:
        raise UserError(f"{module} is not installed: {INSTALL}") from None


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[Path]:
    """Yield a folder that becomes `folder`, once everything in it is written and right."""
    if not folder.name:
        raise UserError(f"{folder} is no new folder: name one, such as exported.")
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise UserError(f"{folder} exists and is not empty: name a new folder.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    files.remove_litter(folder.parent, folder.name)
    work = files.temporary_of(folder)
    work.mkdir()
    try:
        yield work
        os.replace(work, folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)
