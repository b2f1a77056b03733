"""Edits of a stock encoder: what a method changes in the model's structure, written down so that a file can repeat it.

A method calls `apply(model, "quantize", ...)`; the edit and its options are remembered in `model.record`, go into the header
of the model's file, and are applied again to a fresh encoder when the file is loaded. The model class stays transformers'.

An edit is a function marked `@edit`, here or in a paper's file, where its name is `paper.function`.
"""

import importlib
from collections.abc import Callable

import torch
from torch import Tensor, nn

from methods.common.options import Count, Quantizer, Share, Whole
from methods.kernel import layers as kernel_layers
from methods.kernel import quantizers, trace
from methods.kernel.layers import (
    Factored,
    Int8Linear,
    QuantAttention,
    QuantEmbedding,
    Quantized,
    QuantLinear,
    Shifted,
    SplitLayer,
    product_dtype,
)
from methods.model import anatomy as anatomies
from methods.model.anatomy import anatomy
from methods.model.lean import modelling_file

ACT2FN = modelling_file("activations").ACT2FN
AttentionInterface = modelling_file("modeling_utils").AttentionInterface
AttentionMaskInterface = modelling_file("masking_utils").AttentionMaskInterface
eager_mask = modelling_file("masking_utils").eager_mask
WEIGHT_OPTIONS = ("weights", "embeddings", "positions", "types", "by")  # a model has no use for them once it has its weights
SHOWN_BY_ATTENTION = frozenset({"scores", "queries", "keys", "values"})
SCORES = "scores"  # our attention implementation: quantizers where there are any, and the scores before softmax


def edit(function: Callable) -> Callable:
    """Mark a function (model, options) as an edit."""
    function.is_edit = True
    return function


def apply(model: nn.Module, kind: str, **options) -> nn.Module:
    """Apply an edit in place and remember it."""
    resolve(kind)(model, **options)
    model.record.edits.append({"kind": kind, **options})
    return model


def resolve(kind: str) -> Callable:
    """Return the edit of a name: one of this file, or `paper.function` of a paper's file."""
    paper, _, name = kind.rpartition(".")
    if paper and not paper.isidentifier():
        raise ValueError(f"there is no edit {kind!r}")
    names = vars(importlib.import_module(f"methods.{paper}")) if paper else globals()
    function = names.get(name)
    if not getattr(function, "is_edit", False):
        raise ValueError(f"there is no edit {kind!r}")
    return function


@edit
def quantize(
    model: nn.Module,
    weights: Quantizer | None = None,
    embeddings: Quantizer | None = None,
    positions: Quantizer | None = None,
    activations: Quantizer | None = None,
    one_sided: Quantizer | None = None,
    attention: bool = True,
    pooler: bool = True,
    outputs: Quantizer | None = None,
    types: Quantizer | None = None,
    head: bool = False,
    own_inputs: bool = False,
    shift: bool = False,
    probs: Quantizer | None = None,
) -> None:
    """Put quantizers where the methods' codes have them (each argument is a stanza of `quantizers.make`, or None).

    - `weights`: the encoder's linears and the pooler. `embeddings`, `positions`, `types`: the tables. LayerNorms and biases
      stay in full precision.
    - `activations`: the input of every quantized linear, and queries, keys, probabilities and values.
    - `one_sided` replaces it for tensors that are never or hardly negative: probabilities, for which `probs` replaces both,
      and the input of the feed-forward's second linear.
    - `outputs`: what comes out of every quantized linear of the body, bias included.
    - `attention: false` leaves queries, keys, probabilities and values as they are, `pooler: false` the pooler. `head: true`
      quantizes the linears of the task's head and their inputs as well.
    - Queries, keys and values share one quantized input, as it is one tensor. With `own_inputs` each linear quantizes it by
      itself. With `shift` a learned vector, at first zero, is added to every input before it is quantized.
    - The second of two factors is a linear, and so is quantized as one, with its input.
    """
    one_sided = one_sided or activations
    device = next(model.parameters()).device

    def inputs_of(width: int, spec: dict | None) -> quantizers.Quantizer | Shifted | None:
        quantizer = activation_quantizer(spec)
        return Shifted(quantizer, width, device) if shift and quantizer is not None else quantizer

    def linear(module: nn.Linear | Factored, inputs: dict | None, results=outputs) -> QuantLinear | Factored:
        if isinstance(module, Factored):
            return Factored(linear(module[0], inputs, None), linear(module[1], activations, results))
        around = inputs_of(module.in_features, inputs), activation_quantizer(results)
        return QuantLinear(module, weight_quantizer(weights, module.weight), *around)

    def table(module: nn.Embedding | Factored, spec: dict | None) -> QuantEmbedding | Factored:
        if isinstance(module, Factored):
            return Factored(table(module[0], spec), linear(module[1], activations))
        return QuantEmbedding(module, weight_quantizer(spec, module.weight))

    body, parts = model.base_model, anatomy(model)
    body.set_submodule(parts.words, table(body.get_submodule(parts.words), embeddings))
    body.set_submodule(parts.positions, table(body.get_submodule(parts.positions), positions))
    if types:
        body.set_submodule(parts.types, table(body.get_submodule(parts.types), types))
    for layer in anatomies.layers(model):
        for name in ("query", "key", "value"):
            layer[name] = linear(layer[name], activations if own_inputs else None)
        if activations:
            if not own_inputs:
                layer.attention.input_quantizer = inputs_of(model.config.hidden_size, activations)
                layer.attention.register_forward_pre_hook(_quantize_input)
            if attention:
                operands = (activations, activations, probs or one_sided, activations)
                layer.attention.quantizers = QuantAttention(*map(activation_quantizer, operands))
        for name, inputs in (("attention output", activations), ("intermediate", activations), ("output", one_sided)):
            layer[name] = linear(layer[name], inputs)
    if pooler and (path := anatomies.pooler(model)):
        body.set_submodule(path, linear(body.get_submodule(path), activations))
    for name, module in list(model.named_modules()) if head else ():
        if isinstance(module, nn.Linear) and parts.is_head(f"{name}."):
            model.set_submodule(name, linear(module, activations, None))
    show_scores(model)


@edit
def int8_dynamic(model: nn.Module) -> None:
    """torch's own dynamic int8 on every linear of the encoder and the pooler: the deployed baseline."""
    for parent in list(model.base_model.modules()):
        for name, module in parent.named_children():
            if isinstance(module, nn.Linear):
                setattr(parent, name, Int8Linear(module))


@edit
def factor(model: nn.Module, share: Share, by: str | None = None) -> None:
    """Write every weight matrix as a product of two that together have at most `share` of its numbers.

    `by: svd` sets them to the best approximation; a model that is loaded gets its factors from the file.
    """
    if any(isinstance(module, Factored) for module in model.modules()):
        raise ValueError("the weights are products already")  # each time again would double them
    for name, layer in matrices(model).items():
        rows, columns = layer.weight.shape
        rank = min(max(1, int(share * rows * columns / (rows + columns))), rows, columns)
        factor_one(model, name, rank, by)


@edit
def factor_words(model: nn.Module, rank: Count, by: str | None = None) -> None:
    """Write the word embedding as a product of rank `rank` (ALBERT's and ROSITA's small table)."""
    factor_one(model, anatomy(model).words, rank, by)


def factor_one(model: nn.Module, name: str, rank: int, by: str | None) -> None:
    layer = model.base_model.get_submodule(name)
    factors = Factored.like(layer, rank)
    if by == "svd":
        factors.approximate(layer.weight)
    model.base_model.set_submodule(name, factors)


@edit
def narrow(model: nn.Module, heads: Count, neurons: Count) -> None:
    """Keep the first attention heads and feed-forward neurons of every layer. The hidden size stays as it is."""
    for layer in anatomies.layers(model):
        attention = layer.attention
        width = heads * attention.attention_head_size
        for name in ("query", "key", "value"):
            _cut(layer[name], outputs=width)
        _cut(layer["attention output"], inputs=width)
        _cut(layer["intermediate"], outputs=neurons)
        _cut(layer["output"], inputs=neurons)
        attention.num_attention_heads, attention.all_head_size = heads, width


@edit
def layers(model: nn.Module, keep: list[Whole]) -> None:
    """Keep these layers of the encoder, counted from 0, in this order."""
    place = anatomy(model).layers
    found = model.base_model.get_submodule(place)
    if not keep or max(keep) >= len(found):
        raise ValueError(f"layers {keep} cannot be kept of {len(found)}")
    model.base_model.set_submodule(place, nn.ModuleList(found[at] for at in keep))
    model.config.num_hidden_layers = len(keep)


@edit
def activate(model: nn.Module, function: str) -> None:
    """Put another function, by transformers' name for it, between the two linears of every feed-forward."""
    for layer in anatomies.layers(model):
        layer.feed_forward.intermediate_act_fn = ACT2FN[function]


@edit
def requantize(
    model: nn.Module, modules: list[str], weights: Quantizer | None = None, embeddings: Quantizer | None = None
) -> None:
    """Give these quantized layers another quantizer of weights: that of `embeddings` to tables, of `weights` to others."""
    for name in modules:
        _requantize(model.get_submodule(name), weights, embeddings)


@edit
def requantize_activations(model: nn.Module, activations: Quantizer, one_sided: Quantizer | None = None) -> None:
    """Give the activations of a quantized model other quantizers, each in the place of one that `quantize` put there.

    `one_sided` is as in `quantize`. A quantizer of the same kind as the one before it keeps what that has learned.
    """
    places = [place for layer in anatomies.layers(model) for place in _one_sided_places(layer)]
    spec_of = {module: one_sided or activations for place in places for module in place.modules()}
    for parent in list(model.modules()):
        for name, before in parent.named_children():
            if isinstance(before, quantizers.Quantizer) and before.role == "activations":
                setattr(parent, name, _in_place_of(before, spec_of.get(before, activations)))


def _one_sided_places(layer: anatomies.Layer) -> list[nn.Module]:
    """Return the places of a layer's quantizers of tensors that are never or hardly negative."""
    operands, down = getattr(layer.attention, "quantizers", None), layer["output"]
    places = (
        getattr(operands, "probs", None),
        getattr(down[0] if isinstance(down, Factored) else down, "input_quantizer", None),
    )
    return [place for place in places if place is not None]


def _in_place_of(before: quantizers.Quantizer, spec: dict) -> quantizers.Quantizer:
    quantizer = activation_quantizer(spec)
    quantizer.pairs = before.pairs
    if type(quantizer) is type(before):
        quantizer.load_state_dict(before.state_dict())
    return quantizer


@edit
def split(
    model: nn.Module, modules: list[str], weights: Quantizer | None = None, embeddings: Quantizer | None = None
) -> None:
    """Make each of these quantized layers the sum of two, both with its weight, on the grids of `requantize`."""
    for name in modules:
        pair = SplitLayer(model.get_submodule(name))
        model.set_submodule(name, pair)
        for half in (pair.first, pair.second):
            _requantize(half, weights, embeddings)


def matrices(model: nn.Module) -> dict[str, nn.Linear | nn.Embedding]:
    """The layers of the body whose weights compression is about: every linear, and the word embedding, by their names.

    The tables of positions and token types are too small to matter.
    """
    words = anatomy(model).words

    def is_one(name: str, layer: nn.Module) -> bool:
        return isinstance(layer, nn.Linear) or (name.startswith(words) and isinstance(layer, nn.Embedding))

    return {name: layer for name, layer in model.base_model.named_modules() if is_one(name, layer)}


def weight_quantizer(spec: dict | None, weight: Tensor) -> quantizers.Quantizer | None:
    """Return a quantizer fitted to a weight."""
    quantizer = quantizers.make(spec)
    if quantizer is not None:
        quantizer.role = "weights"
        quantizer.calibrate(weight.detach())
    return quantizer


def activation_quantizer(spec: dict | None) -> quantizers.Quantizer | None:
    """Return a quantizer whose range is set by `calibrate`, or taken from each tensor."""
    quantizer = quantizers.make(spec)
    if quantizer is not None:
        quantizer.role = "activations"
    return quantizer


def roles(model: nn.Module) -> dict[nn.Parameter, str]:
    """Return the learned ranges among a model's parameters, and what they quantize: `weights` or `activations`."""
    found = [module for module in model.modules() if isinstance(module, quantizers.Quantizer)]
    return {parameter: module.role for module in found for parameter in module.parameters(recurse=False)}


def calibrate(model: nn.Module, batches) -> None:
    """Set the learned ranges of all activations from training batches, in the order in which a forward pass meets them.

    Each quantizer sees inputs that those before it have already quantized, as it will in training, and no padding. What
    earlier calibrations saw no longer counts.
    """

    def look(module: quantizers.Quantizer, inputs: tuple) -> None:
        module.calibrate(trace.real_numbers(inputs[0].detach(), module.pairs))

    found = [one for one in model.modules() if isinstance(one, quantizers.Quantizer) and one.role == "activations"]
    for counter in (one.batches for one in found if hasattr(one, "batches")):
        counter.zero_()
    hooks = [one.register_forward_pre_hook(look) for one in found]
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            for batch in batches:
                with trace.tracing(trace.Trace(batch["input_ids"], batch["attention_mask"])):
                    model(**{name: batch[name] for name in ("input_ids", "attention_mask", "token_type_ids")})
    finally:
        for hook in hooks:
            hook.remove()
        model.train(was_training)


@torch.no_grad()
def quantization_error(model: nn.Module) -> list[dict]:
    """Return each matrix' quantization error: squared error over squared values of its latent weights."""
    found, parts = [], anatomy(model)
    for name, module in model.named_modules():
        if isinstance(module, Quantized) and module.weight_quantizer is not None:
            layer, matrix = parts.place(name, model.config.num_hidden_layers)
            error = (module.weight_quantizer.values(module.weight) - module.weight).square().sum()
            share = error / module.weight.square().sum().clamp(min=1e-30)
            found.append({"layer": layer, "matrix": matrix, "error": float(share)})
    return found


def show_scores(model: nn.Module) -> None:
    """Let the model show what SHOWN_BY_ATTENTION names: scores before softmax, and real-valued queries, keys and values."""
    model.set_attn_implementation(SCORES)


def _attention(module: nn.Module, query, key, value, attention_mask, scaling=None, dropout=0.0, **_):
    scaling = scaling or query.shape[-1] ** -0.5
    context, scores = kernel_layers.attention(
        query, key, value, attention_mask, scaling, dropout, quantizers=getattr(module, "quantizers", None)
    )
    if (current := trace.current()) is not None:
        for name, tensor in (("queries", query), ("keys", key), ("values", value), ("scores", scores)):
            current.show(name, tensor)
    return context, scores


AttentionInterface.register(SCORES, _attention)
AttentionMaskInterface.register(SCORES, eager_mask)  # without it padding is silently left unmasked


def _cut(linear: nn.Linear, outputs: int | None = None, inputs: int | None = None) -> None:
    linear.weight = nn.Parameter(linear.weight.detach()[:outputs, :inputs].clone())
    linear.bias = nn.Parameter(linear.bias.detach()[:outputs].clone())
    linear.out_features, linear.in_features = linear.weight.shape


def _requantize(layer: Quantized, weights: dict | None, embeddings: dict | None) -> None:
    spec = embeddings if isinstance(layer, QuantEmbedding) else weights
    layer.weight_quantizer = weight_quantizer(spec, layer.weight)


def _quantize_input(module: nn.Module, inputs: tuple) -> tuple:
    return (module.input_quantizer(inputs[0], dtype=product_dtype(inputs[0])), *inputs[1:])
