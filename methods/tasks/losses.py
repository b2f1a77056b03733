"""Losses that task kinds share. Imports torch: kinds import this inside their functions."""

import torch.nn.functional as F
from torch import Tensor


def soft(student: Tensor, teacher: Tensor) -> Tensor:
    """Soft cross-entropy with the teacher's distribution at temperature 1, (B, outputs) twice -> (B,).

    Where there is one output it is the squared error: softmax over a single output is constant, and its cross-entropy is
    zero whatever the student returns.
    """
    student, teacher = student.float(), teacher.float()
    if student.shape[1] == 1:
        return F.mse_loss(student, teacher, reduction="none").squeeze(1)
    return -(teacher.softmax(1) * student.log_softmax(1)).sum(1)


def real(scores: Tensor, batch: dict[str, Tensor]) -> Tensor:
    """Scores of tokens, (B, S), in fp32 with padding out of the running."""
    return scores.float().masked_fill(batch["attention_mask"] == 0, -1e9)


def tokens(scores: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy over each row's tokens that have a target, (B, S, outputs) and (B, S) -> (B,); -100 is none."""
    row, column = (targets != -100).nonzero(as_tuple=True)  # most tokens may have none: leave them out at once
    losses = F.cross_entropy(scores[row, column].float(), targets[row, column], reduction="none")
    counts = (targets != -100).sum(1).clamp(min=1)
    return losses.new_zeros(len(targets)).index_add(0, row, losses) / counts


def soft_tokens(student: Tensor, teacher: Tensor, counted: Tensor) -> Tensor:
    """Mean of `soft` over each row's tokens where `counted` (B, S) is true; (B, S, outputs) twice -> (B,)."""
    row, column = counted.nonzero(as_tuple=True)
    losses = soft(student[row, column], teacher[row, column])
    return losses.new_zeros(len(counted)).index_add(0, row, losses) / counted.sum(1).clamp(min=1)
