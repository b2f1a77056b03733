"""What a student is trained on: terms that compare its outputs with labels or with a teacher's.

Each term gives one number for each example, shape (B,), from which the loop takes the mean over the *global* batch.
Padding never enters a term, so padding, micro-batches and the number of devices do not change what is learned beyond
rounding.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from methods.kernel.fusing import fused
from methods.model.encoder import logits


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
    pairs = zip(logits(student), logits(teacher), strict=True)
    if "start" in batch:
        return sum(_soft(_real(ours, batch), _real(theirs, batch)) for ours, theirs in pairs)
    return sum(_soft(ours, theirs) for ours, theirs in pairs)


def teacher_logits_mean(student, teacher, batch: dict[str, Tensor]) -> Tensor:
    """`logits` as the official codes average it: over classes, or over all of a span's positions, as well as over rows."""
    pairs = zip(logits(student), logits(teacher), strict=True)
    return sum(_soft(ours, theirs) / ours.shape[1] for ours, theirs in pairs)


def _soft(ours: Tensor, theirs: Tensor) -> Tensor:
    ours, theirs = ours.float(), theirs.float()
    if ours.shape[1] == 1:
        return F.mse_loss(ours, theirs, reduction="none").squeeze(1)
    return -(theirs.softmax(1) * ours.log_softmax(1)).sum(1)


def hidden(student, teacher, batch: dict[str, Tensor]) -> Tensor:
    """Squared error of the embedding output and of every layer's, averaged over real tokens, summed over layers."""
    mask = batch["attention_mask"].float().unsqueeze(2)  # (B, S, 1)
    ours, theirs = _layers(student, teacher, "hidden_states")
    total = sum(_distance(a, b, mask) for a, b in zip(ours, theirs, strict=True))
    return total / (mask.sum((1, 2)) * ours[0].shape[2])


def hidden_padded(student, teacher, batch: dict[str, Tensor]) -> Tensor:
    """`hidden` as the official codes average it: padding counts like any token, so that padding changes the loss."""
    pairs = zip(*_layers(student, teacher, "hidden_states"), strict=True)
    return sum(((a.float() - b.float()) ** 2).mean((1, 2)) for a, b in pairs)


def attention(student, teacher, batch: dict[str, Tensor]) -> Tensor:
    """Squared error of the attention scores before softmax between real tokens, averaged, summed over layers."""
    mask = batch["attention_mask"].float()
    pairs = (mask[:, :, None] * mask[:, None, :]).unsqueeze(1)  # (B, 1, S, S)
    ours, theirs = _layers(student, teacher, "attentions")
    total = sum(_distance(a, b, pairs) for a, b in zip(ours, theirs, strict=True))
    return total / (pairs.sum((1, 2, 3)) * ours[0].shape[1])


def attention_padded(student, teacher, batch: dict[str, Tensor]) -> Tensor:
    """`attention` as the official codes average it: masked scores are set to zero, and count."""
    unmasked = batch["attention_mask"][:, None, None, :] != 0  # (B, 1, 1, S)
    pairs = zip(*_layers(student, teacher, "attentions"), strict=True)
    return sum((torch.where(unmasked, a.float() - b.float(), 0.0) ** 2).mean((1, 2, 3)) for a, b in pairs)


@fused
def _distance(a: Tensor, b: Tensor, mask: Tensor) -> Tensor:
    """Each example's squared distance where `mask` is 1, summed; (B, ...) -> (B,).

    Masked scores are very low but finite (transformers adds the smallest number), so that a product with 0 is 0. Compiled,
    it takes a sixth of the time of choosing by `where`.
    """
    return ((a.float() - b.float()) * mask).square().sum(tuple(range(1, a.dim())))


def _layers(student, teacher, what: str) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """What both models show of their layers. None shown, or not as many, would make a term silently zero."""
    ours, theirs = getattr(student, what) or (), getattr(teacher, what) or ()
    if not ours or len(ours) != len(theirs):
        raise ValueError(f"{what}: the student shows {len(ours)}, the teacher {len(theirs)}")
    return ours, theirs


def _real(scores: Tensor, batch: dict[str, Tensor]) -> Tensor:
    """Span scores (B, S) in fp32 with padding out of the running."""
    return scores.float().masked_fill(batch["attention_mask"] == 0, -1e9)


TERMS = {
    "labels": labels,
    "logits": teacher_logits,
    "logits_mean": teacher_logits_mean,
    "hidden": hidden,
    "hidden_padded": hidden_padded,
    "attention": attention,
    "attention_padded": attention_padded,
}
NEEDS_TEACHER = TERMS.keys() - {"labels"}
SHOWS = {  # what a model must show of its inside for a term
    "output_hidden_states": {"hidden", "hidden_padded"},
    "output_attentions": {"attention", "attention_padded"},
}


def shown(terms) -> dict[str, bool]:
    """The options of a model's forward pass that these terms need."""
    return {option: True for option, needing in SHOWS.items() if needing & set(terms)}
