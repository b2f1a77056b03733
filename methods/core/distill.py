"""What a student is trained on: terms that compare its outputs with labels or with a teacher's.

Each term gives one number for each example, shape (B,), from which the loop takes the mean over the *global* batch.
Padding never enters a term, so padding, micro-batches and the number of devices do not change what is learned beyond
rounding.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from methods.core.bert import logits


def labels(student, teacher, batch: dict[str, Tensor]) -> Tensor:
    """Cross-entropy on classes, squared error on numbers, start + end halved on spans, masked words for pre-training."""
    if "words" in batch:
        (scores,), target = logits(student), batch["words"]  # (B, S, V), (B, S)
        row, column = (target != -100).nonzero(as_tuple=True)  # most words are not hidden: leave them out at once
        losses = F.cross_entropy(scores[row, column].float(), target[row, column], reduction="none")
        counts = (target != -100).sum(1).clamp(min=1)
        return torch.zeros(len(target), device=losses.device).index_add(0, row, losses) / counts
    if "start" in batch:
        pair = zip(logits(student), (batch["start"], batch["end"]), strict=True)
        losses = [F.cross_entropy(_real(scores, batch), target, reduction="none") for scores, target in pair]
        return (losses[0] + losses[1]) / 2
    (scores,) = logits(student)
    if batch["labels"].is_floating_point():
        return F.mse_loss(scores.float().squeeze(1), batch["labels"], reduction="none")
    return F.cross_entropy(scores.float(), batch["labels"], reduction="none")


def teacher_logits(student, teacher, batch: dict[str, Tensor]) -> Tensor:
    """Soft cross-entropy with the teacher's distribution at temperature 1; squared error where there is one output.

    (Softmax over a single output is constant, and its cross-entropy is zero whatever the student says.)
    """
    losses = []
    for ours, theirs in zip(logits(student), logits(teacher), strict=True):
        if ours.shape[1] == 1:
            losses.append(F.mse_loss(ours.float(), theirs.float(), reduction="none").squeeze(1))
        else:
            spans = "start" in batch
            ours, theirs = (_real(scores, batch) if spans else scores.float() for scores in (ours, theirs))
            losses.append(-(theirs.softmax(1) * ours.log_softmax(1)).sum(1))
    return torch.stack(losses).sum(0)


def hidden(student, teacher, batch: dict[str, Tensor]) -> Tensor:
    """Squared error of the embedding output and of every layer's, averaged over real tokens, summed over layers."""
    ours, theirs = student.hidden_states, teacher.hidden_states
    if len(ours) != len(theirs):
        raise ValueError(f"student has {len(ours)} hidden states, teacher {len(theirs)}")
    mask = batch["attention_mask"].unsqueeze(2)  # (B, S, 1)
    total = sum(((a.float() - b.float()) ** 2 * mask).sum((1, 2)) for a, b in zip(ours, theirs, strict=True))
    return total / (mask.sum((1, 2)) * ours[0].shape[2])


def _real(scores: Tensor, batch: dict[str, Tensor]) -> Tensor:
    """Span scores (B, S) in fp32 with padding out of the running."""
    return scores.float().masked_fill(batch["attention_mask"] == 0, -1e9)


TERMS = {"labels": labels, "logits": teacher_logits, "hidden": hidden}
NEEDS_TEACHER = {"logits", "hidden"}
NEEDS_HIDDEN = {"hidden"}
