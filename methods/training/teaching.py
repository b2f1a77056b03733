"""What a teacher shows of the training rows: the same in every epoch, so it is computed once and kept where it fits.

A forward pass of the teacher is about a sixth of a step of TernaryBERT. Rows are computed before the first step, in
batches by length that depend on nothing but the data, so that a run that resumes is taught by the same numbers. The shortest
rows are kept, as many as fit; the teacher runs on the others at every step.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from methods.common import interrupt
from methods.kernel.trace import Trace
from methods.training.forward import INPUTS, forward
from methods.training.loader import Loader
from methods.training.recipe import Stage

LIMIT = 2 * 2**30  # bytes that are kept in a run
EPOCHS = 2  # fewer do not win back the pass that computes what is kept
LEAST = 0.1  # share of the rows; keeping fewer is not worth its memory
BATCH = 64
# The dimensions of what a model shows that are tokens. Only what is named here can be cut to its row, and kept.
TOKENS = {"hidden": (1,), "scores": (2, 3), "queries": (2,), "keys": (2,), "values": (2,)}


class Teaching:
    """A teacher, in evaluation mode, and what is kept of it: {row: {name: what each layer shows, (layers, ...)}}."""

    def __init__(self, model: nn.Module, limit: int = LIMIT):
        self.model, self.limit = model, limit
        self.kept: dict[int, dict[str, Tensor]] = {}
        self.bytes = 0

    @torch.no_grad()
    def __call__(self, rows: Sequence[int], batch: dict, wanted: frozenset[str]) -> Trace:
        """Return what the teacher shows of some rows, of which `batch` has the tensors; what is not kept is computed."""
        outputs = [self.kept.get(int(row)) for row in rows]
        absent = [at for at, one in enumerate(outputs) if one is None]
        if len(absent) == len(outputs):
            return forward(self.model, batch, wanted)
        if absent:
            part = {name: batch[name][absent] for name in INPUTS}
            found = _rows_of(forward(self.model, part, wanted), part["attention_mask"].sum(1).tolist())
            for at, one in zip(absent, found, strict=True):
                outputs[at] = one
        trace = Trace(batch["input_ids"], batch["attention_mask"], wanted)
        joined = {name: _joined(name, [one[name] for one in outputs], trace.ids.shape[1]) for name in ("logits", *wanted)}
        trace.logits = joined.pop("logits")
        trace.shown = {name: list(shown) for name, shown in joined.items()}
        return trace

    @torch.no_grad()
    def keep(self, loader: Loader, wanted: frozenset[str], accelerator) -> None:
        """Compute and keep what fits of the rows of `loader`, unless that is next to nothing."""
        for rows in loader.in_order(BATCH):
            interrupt.check()
            with accelerator.autocast():
                trace = forward(self.model, loader.batch(rows), wanted)
            found = dict(zip(rows.tolist(), _rows_of(trace, loader.split.lengths[rows].tolist()), strict=True))
            size = sum(tensor.nbytes for outputs in found.values() for tensor in outputs.values())
            if self.bytes + size > self.limit:
                break
            self.kept |= found
            self.bytes += size
        if len(self.kept) < LEAST * len(loader):
            self.kept, self.bytes = {}, 0


def worth_keeping(stages: Sequence[Stage], rows: int, device: torch.device) -> frozenset[str] | None:
    """Return what a run wants of its teacher in all of its stages, or None where nothing is to be kept.

    Only a processor keeps it: a graphics card computes it again in less time than it takes to come from memory.
    """
    taught = [stage for stage in stages if any(one.objective.needs_teacher for one in stage.passes)]
    objectives = [one.objective for stage in taught for one in stage.passes]
    wanted = frozenset().union(*(objective.wanted for objective in objectives))
    uses = sum(stage.steps(rows) * stage.optimization.batch_size for stage in taught)
    possible = wanted <= TOKENS.keys() and not any(objective.reads_padding for objective in objectives)
    return wanted if possible and uses >= EPOCHS * rows and device.type == "cpu" else None


def row_bytes(model: nn.Module, batch: dict, wanted: frozenset[str]) -> tuple[float, float, float]:
    """Return the bytes of a kept row by the powers 0, 1 and 2 of its tokens, read off a row without padding."""
    trace, width = forward(model, batch, wanted), batch["input_ids"].shape[1]
    (outputs, *_) = _rows_of(trace, [width] * len(trace.ids))
    powers = [0.0, 0.0, 0.0]
    for name, tensor in outputs.items():
        power = len(_tokens(name, tensor))
        powers[power] += tensor.nbytes / width**power
    return tuple(powers)


def _rows_of(trace: Trace, lengths: Sequence[int]) -> Iterator[dict[str, Tensor]]:
    """Yield for each example what the model showed of it, without padding."""
    stacked = {name: torch.stack(list(shown)) for name, shown in (("logits", trace.logits), *trace.shown.items())}
    for at, length in enumerate(lengths):
        outputs = {}
        for name, tensor in stacked.items():
            mine = tensor[:, at]  # (layers, ...) of (layers, B, ...)
            for dimension in _tokens(name, mine):
                mine = mine.narrow(dimension, 0, length)
            outputs[name] = mine.clone()
        yield outputs


def _joined(name: str, rows: Sequence[Tensor], width: int) -> tuple[Tensor, ...]:
    """Return what each layer showed of a batch, (B, ...) each, from that of its rows, (layers, ...) each, with padding."""
    shape, dimensions = list(rows[0].shape), _tokens(name, rows[0])
    for dimension in dimensions:
        shape[dimension] = width
    padding = torch.finfo(rows[0].dtype).min if name == "scores" else 0.0  # as masked scores are
    joined = rows[0].new_full((shape[0], len(rows), *shape[1:]), padding)
    for at, row in enumerate(rows):
        place = joined[:, at]
        for dimension in dimensions:
            place = place.narrow(dimension, 0, row.shape[dimension])
        place.copy_(row)
    return joined.unbind(0)


def _tokens(name: str, row: Tensor) -> tuple[int, ...]:
    """Return which dimensions of one row's outputs, (layers, ...), are tokens.

    Logits are (1, labels), or (2, S) for spans, or (1, S, labels) for words.
    """
    if name != "logits":
        return TOKENS[name]
    return (1,) if len(row) > 1 or row.dim() == 3 else ()
