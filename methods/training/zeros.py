"""Pruning without stored masks: the zeros of a weight are its mask, so that a checkpoint or a model file holds it."""

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


def hold_zeros(weight: nn.Parameter) -> None:
    """Let no gradient reach the numbers that are zero."""
    weight.register_hook(lambda gradient: gradient * (weight != 0))


@torch.no_grad()
def set_zeros(weight: nn.Parameter, stays: Tensor, optimizer: Optimizer) -> None:
    """Set a weight to zero where `stays` is false, and forget the optimizer's moments of it.

    Without gradient and moments zeros stay zero, whatever the optimizer.
    """
    weight.mul_(stays)
    for moment in optimizer.state[weight].values():
        if moment.shape == weight.shape:
            moment.mul_(stays)
