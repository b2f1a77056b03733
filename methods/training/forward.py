"""A forward pass, and the trace of what the model showed in it."""

import torch
from torch import nn

from methods.kernel.trace import Trace, tracing
from methods.model.encoder import logits

INPUTS = ("input_ids", "attention_mask", "token_type_ids")


def forward(
    model: nn.Module,
    batch: dict[str, torch.Tensor],
    wanted: frozenset[str] = frozenset(),
    total: int | None = None,
    continues: bool = False,
) -> Trace:
    """Run a model on a batch and return the trace: its logits, and what its modules showed of what is wanted."""
    trace = Trace(batch["input_ids"], batch["attention_mask"], wanted, total, continues)
    options = {"output_hidden_states": True} if "hidden" in wanted else {}
    with tracing(trace):
        output = model(**{name: batch[name] for name in INPUTS}, **options)
    trace.logits = logits(output)
    if "hidden" in wanted:
        trace.shown["hidden"] = list(output.hidden_states)  # (B, S, H) each: the embedding output and every layer's
    return trace
