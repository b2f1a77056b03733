"""Optimizers and their schedule: fused AdamW, and BertAdam as BERT's authors wrote it."""

import torch
from torch import nn
from torch.autograd.graph import increment_version
from torch.optim import AdamW, Optimizer

from methods.kernel.fusing import fused
from methods.model.edits import roles

UNDECAYED = ("bias", "LayerNorm.weight")  # as in BERT's own training code


class BertAdam(Optimizer):
    """Adam of the original BERT code (Devlin et al. 2019).

    It differs from AdamW in two ways that matter: no bias correction, and the gradient norm is clipped for every tensor
    by itself instead of over all of them. Weight decay is decoupled: p -= lr * (m / (sqrt(v) + eps) + decay * p).
    """

    def __init__(
        self,
        params,
        lr: float,
        betas=(0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.01,
        max_norm=1.0,
    ):
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "max_norm": max_norm}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            constants = (*group["betas"], group["eps"], group["weight_decay"], group["max_norm"])
            for param in group["params"]:
                if param.grad is None:
                    continue
                state = self.state[param]
                if not state:
                    state |= {"exp_avg": torch.zeros_like(param), "exp_avg_sq": torch.zeros_like(param)}
                rate = torch.tensor(
                    group["lr"], device=param.device
                )  # a number would be compiled in, and changes every step
                _bertadam(param, param.grad, state["exp_avg"], state["exp_avg_sq"], rate, *constants)


@fused
def _bertadam(param, grad, first, second, rate, beta1, beta2, eps, weight_decay, max_norm) -> None:
    """One tensor's update, in place."""
    grad = grad * (max_norm / (grad.norm() + 1e-6)).clamp(max=1.0)  # with clip_grad_norm_'s own guard against a zero norm
    first.lerp_(grad, 1 - beta1)
    second.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
    param.sub_((first / (second.sqrt() + eps) + weight_decay * param) * rate)


def build(model: nn.Module, wanted) -> Optimizer:
    """Return the optimizer of a stage; learned ranges of quantizers have their own rate and decay, by role."""
    ranges = roles(model)
    groups: dict[str, list] = {}
    for name, param in model.named_parameters():
        if param.requires_grad:
            kind = ranges.get(param, "undecayed" if name.endswith(UNDECAYED) else "decayed")
            groups.setdefault(kind, []).append(param)
    rates = {kind: wanted.quantizer_lr.get(kind, wanted.lr) for kind in groups}
    decays = {"decayed": wanted.weight_decay, **wanted.quantizer_decay}
    params = [
        {"params": members, "lr": rates[kind], "peak": rates[kind], "weight_decay": decays.get(kind, 0.0)}
        for kind, members in groups.items()
    ]
    if wanted.optimizer == "bertadam":
        return BertAdam(params, lr=wanted.lr)
    optimizer = AdamW(params, lr=wanted.lr, eps=1e-8, fused=True)
    optimizer.register_step_post_hook(_note_change)
    return optimizer


def _note_change(optimizer: Optimizer, *_) -> None:
    """Count the step as a change of its parameters, as torch's fused kernels fail to do: quantized values depend on it."""
    for group in optimizer.param_groups:
        increment_version(group["params"])


def set_rate(optimizer: Optimizer, step: int, total: int, wanted) -> float:
    """Set the rate of a step as the recipe `wanted` has it; return the factor of the peak rate that was applied."""
    applied = factor(step / total, wanted.warmup, wanted.ramps)
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * applied
    return applied


def factor(progress: float, warmup: float = 0.0, ramps: list[list[float]] = ()) -> float:
    """Return the factor of the peak rate after a share of the steps.

    Without `ramps`, linear warm-up and then linear decay to zero; the first update of a warm-up has rate 0, as in BERT's
    code. Each of `ramps` is [end, from, to]: up to the share `end` of the steps the factor goes linearly from one number to
    the other. `[[1, 1, 1]]` is a constant rate.
    """
    begin = 0.0
    for end, first, last in ramps:
        if progress < end:
            return first + (last - first) * (progress - begin) / (end - begin)
        begin = end
    if ramps:
        return ramps[-1][2]
    return progress / warmup if progress < warmup else max(0.0, (1 - progress) / (1 - warmup) if warmup < 1 else 0.0)


def clip(model: nn.Module, how: str | None) -> None:
    """Clip the gradient's norm at 1.0 over all parameters where a recipe asks for it; BertAdam clips by itself."""
    if how == "global":
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
