"""GPTQ (Frantar et al. 2022, arXiv 2210.17323): weights are rounded input by input, the rest makes up for each error.

No training: the second moments of a layer's inputs say how much each error changes its outputs, and how far the weights that
are still to be rounded can undo it. Official code: IST-DASLab/gptq, gptq.py.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor, nn

from methods.common import interrupt
from methods.common.errors import UserError
from methods.common.options import Count, Positive, Quantizer
from methods.kernel import trace
from methods.kernel.layers import QuantLinear
from methods.model import anatomy
from methods.model.edits import apply, calibrate, roles
from methods.training.context import Context
from methods.training.forward import INPUTS
from methods.training.recipe import Stage

# Parts of a layer in the order of its forward pass. Those that share an input are rounded together.
ORDER = (("query", "key", "value"), ("attention output",), ("intermediate",), ("output",))
BLOCK = 128  # columns whose errors reach the columns behind them in one product; it changes no result


@dataclass(kw_only=True)
class Recipe:
    """The grids, and how the weights on them are found.

    `batches` are those of training rows that the inputs of layers are taken from. `damping` is a share of the mean second
    moment. `ordered` rounds the inputs with the largest second moments first.
    """

    weights: Quantizer
    embeddings: Quantizer
    activations: Quantizer | None = None
    batches: Count = 16
    damping: Positive = 0.01
    ordered: bool = False


def student(init: nn.Module, recipe: Recipe, context: Context) -> nn.Module:
    """Round the weights of every linear, first layer to last; each sees inputs that those before it have made."""
    apply(init, "quantize", weights=recipe.weights, embeddings=recipe.embeddings, activations=recipe.activations)
    batches = list(islice(context.sample, recipe.batches))
    init.eval()
    if "activations" in roles(init).values():
        calibrate(init, batches)
    for layers, moments in moments_of_layers(init, batches):
        interrupt.check()
        for layer in layers:
            round_weight(layer, moments, damping=recipe.damping, ordered=recipe.ordered)
    return init


def stages(student: nn.Module, recipe: Recipe, context: Context) -> list[Stage]:
    return []


# --- one matrix -------------------------------------------------------------------------------------------


def hessian(inputs: Iterable[Tensor]) -> Tensor:
    """Return 2 / N times the sum of x xT over the rows of batches (B, ..., in), N being the sum of B; (in, in), in fp64.

    Its scale changes nothing, as damping is relative to it (code: GPTQ, gptq.py, add_batch).
    """
    total, sequences = torch.zeros(()), 0
    for x in inputs:
        rows = x.flatten(0, -2).float()
        total, sequences = total + (rows.T @ rows).double(), sequences + len(x)
    return total * (2 / sequences)


@torch.no_grad()
def rounded(
    weight: Tensor,
    hessian: Tensor,
    fit: Callable[[Tensor], Callable[[Tensor], Tensor]],
    *,
    damping: float = 0.01,
    ordered: bool = False,
    group: int | None = None,
    block: int = BLOCK,
) -> Tensor:
    """Return `weight` (out, in) on a grid, its columns rounded one after another (code: GPTQ, gptq.py, fasterquant).

    `fit(part)` fits a grid to the rows of a matrix and returns the function that rounds a column (out, 1) on it. With
    `group` every so many columns have a grid of their own, fitted, as in the code, to weights that the last whole block
    has reached and the errors since then have not. Inputs that were always 0 get weights of 0. All is computed in fp64.
    """
    place = None if group else fit(weight)
    latest, moments = weight.T.double(), hessian.double().clone()  # (in, out), (in, in)
    dead = moments.diagonal() == 0
    latest = torch.where(dead[:, None], 0.0, latest)
    moments.diagonal()[dead] = 1
    order = torch.arange(len(moments), device=weight.device)
    if ordered:
        order = moments.diagonal().argsort(descending=True, stable=True)
        latest, moments = latest[order], moments[order][:, order]
    moments.diagonal().add_(damping * moments.diagonal().mean())
    factor = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(moments)), upper=True)  # U of H^-1 = UT U
    found = torch.empty_like(weight.T)
    for start in range(0, len(latest), block):
        end = min(start + block, len(latest))
        part, errors = latest[start:end].clone(), torch.empty_like(latest[start:end])
        for at in range(start, end):
            if group and at % group == 0:
                place = fit(latest[at : at + group].T.float())
            column = part[at - start]
            found[at] = place(column.to(weight.dtype)[:, None])[:, 0]
            errors[at - start] = error = (column - found[at]) / factor[at, at]
            part[at - start :] -= factor[at, at:end, None] * error
        latest[end:] -= factor[start:end, end:].T @ errors
    return torch.empty_like(found).index_copy_(0, order, found).T.contiguous()


def round_weight(layer: QuantLinear, moments: Tensor, **options) -> None:
    """Put a layer's weight on the grid that its quantizer was fitted to, for these second moments of its inputs."""
    quantizer = layer.weight_quantizer
    found = rounded(layer.weight.detach(), moments, lambda weight: quantizer.values, **options)
    if not torch.equal(quantizer.values(found), found):
        raise UserError(
            f"GPTQ needs a grid that does not move with the weights, and {quantizer.kind!r} does: use `clipped`."
        )
    with torch.no_grad():
        layer.weight.copy_(found)


# --- the inputs of layers ---------------------------------------------------------------------------------


class _Reached(Exception):
    """The module whose input was asked for: what comes behind it need not be computed."""


@dataclass
class Call:
    """A call of an encoder's layer for one batch: the hidden states, the other arguments, and the trace of the batch."""

    hidden: Tensor
    arguments: tuple
    options: dict
    trace: trace.Trace

    def make(self, module: nn.Module) -> Tensor:
        with trace.tracing(self.trace):
            found = module(self.hidden, *self.arguments, **self.options)
        return found[0] if isinstance(found, tuple) else found


def moments_of_layers(model: nn.Module, batches: list[dict]) -> Iterator[tuple[list[QuantLinear], Tensor]]:
    """Yield the linears that share an input, and the second moments of it over real tokens, in the order of a forward pass.

    The next inputs are computed when they are asked for, by the weights that the layers have then. An encoder's layer
    starts from the stored outputs of the one before, so that all batches pass the encoder two to three times in all.
    """
    if not batches:
        raise UserError("GPTQ needs training rows to look at, and there are none.")
    stack = anatomy.layers(model)
    calls = [first_call(model, stack[0].module, batch) for batch in batches]
    for layer in stack:
        for parts in ORDER:
            linears = [layer[part] for part in parts]
            yield linears, hessian(inputs_of(layer.module, linears[0], calls))
        with torch.no_grad():
            calls = [Call(call.make(layer.module), call.arguments, call.options, call.trace) for call in calls]
    if path := anatomy.pooler(model):
        linear, pooler = (model.base_model.get_submodule(name) for name in (path, path.partition(".")[0]))
        calls = [Call(call.hidden, (), {}, call.trace) for call in calls]
        yield [linear], hessian(inputs_of(pooler, linear, calls))


def first_call(model: nn.Module, layer: nn.Module, batch: dict) -> Call:
    """Return the call that a model makes of its first layer."""
    found, current = [], trace.Trace(batch["input_ids"], batch["attention_mask"])

    def stop(module, arguments, options):
        found.append(Call(arguments[0].detach(), arguments[1:], options, current))
        raise _Reached

    with trace.tracing(current):
        _until(layer, stop, lambda: model(**{name: batch[name] for name in INPUTS}), with_kwargs=True)
    return found[0]


def inputs_of(module: nn.Module, linear: QuantLinear, calls: list[Call]) -> Iterator[Tensor]:
    """Yield what goes into a linear inside `module` in each call, as quantized as the linear reads it, real tokens alone."""
    found = []

    def stop(_, arguments):
        x = arguments[0] if linear.input_quantizer is None else linear.input_quantizer(arguments[0])
        real = trace.real(x)
        found.append(x if real is None else x[real.squeeze(-1)])
        raise _Reached

    for call in calls:
        _until(linear, stop, lambda call=call: call.make(module))
        yield found.pop()


@torch.no_grad()
def _until(module: nn.Module, stop: Callable, run: Callable, **options) -> None:
    """Run a forward pass up to a module, whose pre-hook is `stop`."""
    handle = module.register_forward_pre_hook(stop, **options)
    try:
        run()
    except _Reached:
        return
    finally:
        handle.remove()
    raise ValueError(f"a forward pass does not reach {type(module).__name__}")
