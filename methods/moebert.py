"""MoEBERT (Zuo et al. 2022, arXiv 2204.07675): experts in the place of every feed-forward, one of which each token takes.

A fine-tuned model's neurons are ranked by importance. All experts get the most important ones, and each its share of the
next. A table of the vocabulary says which expert a token takes, so that nothing is learned about routing. The student then
follows the fine-tuned model, layer by layer. Its file is as large as BERT's: what is saved is arithmetic.
Official code: SimiaoZuo/MoEBERT.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init

from methods.common.errors import UserError
from methods.common.options import Count, Positive, Share, Whole
from methods.dynabert import order_neurons
from methods.kernel import trace
from methods.model.anatomy import Layer, anatomy, layers
from methods.model.edits import apply, edit
from methods.training.context import Context
from methods.training.forward import forward
from methods.training.objective import labels, term
from methods.training.recipe import Optimization, Stage, stage

MOST = 64  # experts of a layer: far above every published model, and few enough for a stranger's file to be read at once


class Impossible(UserError, ValueError):
    """Experts that a model cannot have: a user's mistake, or a file that is refused."""


@dataclass(kw_only=True)
class Recipe(Optimization):
    """The experts, how tokens find them, the batches that importance is measured on, and the weight of distillation.

    `width` is the share of a layer's neurons that an expert has, and `shared` the share that all experts have.
    """

    count: Count
    width: Share
    shared: Share
    routing: Literal["random", "balanced"]
    importance_batches: Count
    distillation: Positive


def student(init: nn.Module, recipe: Recipe, context: Context) -> nn.Module:
    neurons, words = init.config.intermediate_size, init.config.vocab_size
    scores = importance(init, islice(context.sample, recipe.importance_batches))
    for layer, order in zip(layers(init), scores.argsort(dim=1, descending=True, stable=True), strict=True):
        order_neurons(layer, order)
    width, shared = max(round(recipe.width * neurons), 1), round(recipe.shared * neurons)
    apply(init, "moebert.experts", count=recipe.count, width=width, shared=shared)
    frequencies = None if recipe.routing == "random" else count_words(context.sample, words)
    generator = torch.Generator().manual_seed(context.loader.seed)
    for member in routed(init):
        member.table.copy_(table(words, recipe.count, generator, frequencies))
    return init


def stages(student: nn.Module, recipe: Recipe, context: Context) -> list[Stage]:
    """One stage: the labels' loss, plus the weighted distillation loss (code: modeling_bert_moe.py)."""
    import methods.moebert

    terms = {"labels": 1.0, "hidden": recipe.distillation, "symmetric_kl": recipe.distillation}
    return [stage(recipe, context.budget, terms, paper=methods.moebert)]


@term()
def symmetric_kl(student, teacher, batch) -> Tensor:
    """Half of KL(student, teacher) + KL(teacher, student), (B,); the squared error where the output is a number.

    Each divergence is a soft cross-entropy less an entropy, so the task's kind says what counts. A span's start and end
    are averaged (code: modeling_bert_moe.py).
    """
    soft = batch["kind"].soft_loss
    ours, theirs = student.logits, teacher.logits
    across = soft(ours, theirs, batch) + soft(theirs, ours, batch)
    return (across - soft(ours, ours, batch) - soft(theirs, theirs, batch)) / (2 * len(ours))


# --- which neurons an expert gets -------------------------------------------------------------------------


def importance(model: nn.Module, batches: Iterable[dict]) -> Tensor:
    """Return the importance of every neuron, (layers, neurons), summed over examples.

    That of an example is |sum of w dL/dw| over the row of the first matrix and the column of the second that belong to the
    neuron, under one absolute value and without the bias (code: modeling_bert.py). Both sums equal sums over tokens of an
    activation times its gradient, without the bias' part. One backward pass therefore does for all examples of a batch.
    """
    model.eval()
    found, shown = layers(model), []
    made = [layer["intermediate"].register_forward_hook(lambda _, __, output: shown.append(output)) for layer in found]
    used = [layer["output"].register_forward_pre_hook(lambda _, inputs: shown.append(inputs[0])) for layer in found]
    total = 0.0
    try:
        for batch in batches:
            shown.clear()
            loss = labels(forward(model, batch), None, batch).sum()
            slopes = torch.autograd.grad(loss, shown)
            shares = [x.detach() * slope for x, slope in zip(shown, slopes, strict=True)]  # (B, S, neurons) each
            for at, layer in enumerate(found):
                shares[2 * at] -= layer["intermediate"].bias.detach() * slopes[2 * at]
            by_example = torch.stack([(a + b).sum(1) for a, b in zip(shares[::2], shares[1::2], strict=True)])
            total = total + by_example.abs().sum(1)  # (layers, B, neurons) -> (layers, neurons)
    finally:
        for hook in (*made, *used):
            hook.remove()
    return total


def expert_neurons(order: Tensor, count: int, width: int, shared: int) -> Tensor:
    """Return each expert's neurons, (count, width), from all neurons by falling importance, (neurons,).

    All experts have the first `shared`; the next are dealt one by one, until every expert has `width` (code: utils.py).
    """
    if not 1 <= count <= MOST:
        raise Impossible(f"A layer can have 1 to {MOST} experts, not {count}.")
    if not 0 <= shared <= width or shared + count * (width - shared) > len(order):
        raise Impossible(
            f"{count} experts of {width} neurons, {shared} of them shared, cannot be made of {len(order)} neurons: "
            "lower `width`, or raise `shared`."
        )
    return torch.stack([torch.cat([order[:shared], order[shared + at :: count]])[:width] for at in range(count)])


# --- which expert a token takes ---------------------------------------------------------------------------


def table(words: int, count: int, generator: torch.Generator, frequencies: Tensor | None = None) -> Tensor:
    """Return the expert of each word, (words,) uint8: random, or balanced where training frequencies are given.

    Words that training never sees are random in either (code: moe_layer.py and hash_balance.py).
    """
    drawn = torch.randint(count, (words,), generator=generator).to(torch.uint8)
    if frequencies is None:
        return drawn
    return torch.where(frequencies.cpu() > 0, balanced(frequencies, count), drawn)


def balanced(frequencies: Tensor, count: int, order: Iterable[int] | None = None) -> Tensor:
    """Deal words to experts by falling frequency, each to the expert with the smallest load so far, (words,) uint8.

    Of equal loads the first expert is taken, of equal frequencies the lowest word; the code leaves these to numpy's sort,
    whose order `order` can give. Words of frequency 0 get expert 0.
    """
    numbers, loads = frequencies.tolist(), [0] * count
    experts = torch.zeros(len(numbers), dtype=torch.uint8)
    by_frequency = sorted(range(len(numbers)), key=lambda word: -numbers[word]) if order is None else order
    for word in by_frequency:
        if numbers[word]:
            experts[word] = loads.index(min(loads))
            loads[int(experts[word])] += numbers[word]
    return experts


def count_words(batches: Iterable[dict], words: int) -> Tensor:
    """Return how often each word occurs in batches, (words,). Padding does not count."""
    return sum(torch.bincount(batch["input_ids"][batch["attention_mask"] != 0].cpu(), minlength=words) for batch in batches)


# --- layers -----------------------------------------------------------------------------------------------


class Expert(nn.Module):
    """A feed-forward with a residual and a LayerNorm of its own, made of some neurons of a layer."""

    def __init__(self, layer: Layer, output: nn.Module, neurons: Tensor):
        super().__init__()
        first, second = layer["intermediate"], layer["output"]
        self.fc1 = _linear(first.weight.detach()[neurons], first.bias.detach()[neurons])
        self.activation = layer.feed_forward.intermediate_act_fn
        self.fc2 = _linear(second.weight.detach()[:, neurons], second.bias.detach())
        self.dropout = type(output.dropout)(output.dropout.p)
        self.LayerNorm = nn.LayerNorm(len(second.bias), eps=output.LayerNorm.eps)
        for own, stock in zip(self.LayerNorm.parameters(), output.LayerNorm.parameters(), strict=True):
            own.data = stock.detach().clone()

    def forward(self, x: Tensor) -> Tensor:  # (tokens, hidden) -> (tokens, hidden)
        return self.LayerNorm(self.dropout(self.fc2(self.activation(self.fc1(x)))) + x)


class Experts(nn.Module):
    """A layer's experts. Each token takes the one that the table has for it, padding included."""

    def __init__(self, experts: list[Expert], words: int):
        super().__init__()
        self.experts = nn.ModuleList(experts)
        self.register_buffer("table", torch.zeros(words, dtype=torch.uint8))  # in the file: a loaded model routes alike

    @property
    def active_share(self) -> float:
        """The share of its parameters that one token reads."""
        return 1 / len(self.experts)

    def check_arrays(self) -> None:
        """Raise for a table that names an expert that does not exist."""
        if int(self.table.max()) >= len(self.experts):
            raise ValueError(f"a table names expert {int(self.table.max())} of {len(self.experts)}")

    def forward(self, x: Tensor, _) -> Tensor:  # (B, S, hidden) -> (B, S, hidden)
        running = trace.current()
        if running is None:
            raise RuntimeError("experts are chosen by token ids: run the model by methods.training.forward")
        chosen = self.table[running.ids.flatten()].long()  # (B * S,)
        order = chosen.argsort(stable=True)
        parts = x.flatten(0, 1)[order].split(chosen.bincount(minlength=len(self.experts)).tolist())
        outputs = torch.cat([expert(part) for expert, part in zip(self.experts, parts, strict=True)])
        return outputs[order.argsort()].view_as(x)


@edit
def experts(model: nn.Module, count: Count, width: Count, shared: Whole) -> None:
    """Put experts in the place of every feed-forward, whose neurons lie by falling importance. The tables are yet to be set.

    An expert adds the residual and normalizes by itself, so all of it takes the place of what follows the activation.
    """
    inner, outer = (anatomy(model).parts[part].rpartition(".")[0] for part in ("intermediate", "output"))
    for layer in layers(model):
        if type(layer["intermediate"]) is not nn.Linear or type(layer["output"]) is not nn.Linear:
            raise Impossible("Experts are made of feed-forwards in full precision: let `init` name such a method.")
        first = layer["intermediate"].weight
        neurons = expert_neurons(torch.arange(len(first), device=first.device), count, width, shared)
        made = [Expert(layer, layer.module.get_submodule(outer), some) for some in neurons]
        layer.module.set_submodule(outer, Experts(made, model.config.vocab_size).to(first.device))
        layer.module.set_submodule(inner, nn.Identity())


def routed(model: nn.Module) -> list[Experts]:
    """Return the experts of a model's layers, first to last."""
    return [module for module in model.modules() if isinstance(module, Experts)]


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    """Return a linear map with copies of a weight and a bias."""
    linear = skip_init(nn.Linear, weight.shape[1], weight.shape[0], device=weight.device)
    linear.weight.data, linear.bias.data = weight.clone(), bias.clone()
    return linear
