"""Edits of a stock BERT: what a method changes in the model's structure, written down so that a file can repeat it.

A method calls `edit(model, "quantize", ...)`; the edit and its options are remembered in `model.edits`, go into the header
of the model's file, and are applied again to a fresh BERT when the file is loaded. The model class stays transformers'.
"""

import re

import torch
from torch import Tensor, nn
from transformers.activations import ACT2FN
from transformers.masking_utils import AttentionMaskInterface, eager_mask
from transformers.modeling_utils import AttentionInterface

from methods.kernel import layers, quantizers
from methods.kernel.layers import (
    Factored,
    Int8Linear,
    QuantAttention,
    QuantEmbedding,
    Quantized,
    QuantLinear,
    SplitLayer,
    product_dtype,
)

WEIGHT_SPECS = ("weights", "embeddings", "positions", "by")  # options that a model has no use for once it has its weights
SCORES = "scores"  # our attention implementation: quantizers where there are any, and the scores before softmax


def edit(model: nn.Module, kind: str, **options) -> nn.Module:
    """Apply an edit of EDITS in place and remember it."""
    EDITS[kind](model, **options)
    model.edits = [*edits(model), {"kind": kind, **options}]
    return model


def edits(model: nn.Module) -> list[dict]:
    return getattr(model, "edits", [])


def quantize(
    model: nn.Module,
    weights: dict | None = None,
    embeddings: dict | None = None,
    positions: dict | None = None,
    activations: dict | None = None,
    one_sided: dict | None = None,
) -> None:
    """Put quantizers where the methods' codes have them (each argument is a stanza of `quantizers.make`, or None).

    `weights`: the encoder's linears and the pooler. `embeddings`, `positions`: the tables. `activations`: the input of
    every quantized linear, and queries, keys, probabilities and values. `one_sided` replaces it for tensors that are
    never or hardly negative: probabilities and the input of the feed-forward's second linear. Token types, LayerNorms,
    biases and the head stay in full precision. Queries, keys and values share one quantized input: it is one tensor.
    The second of two factors is a linear, and so is quantized as one, with its input.
    """
    one_sided = one_sided or activations
    bert = model.base_model

    def linear(module: nn.Linear | Factored, inputs: dict | None) -> QuantLinear | Factored:
        if isinstance(module, Factored):
            return Factored(linear(module[0], inputs), linear(module[1], activations))
        return QuantLinear(module, weight_quantizer(weights, module.weight), activation_quantizer(inputs))

    def table(module: nn.Embedding | Factored, spec: dict | None) -> QuantEmbedding | Factored:
        if isinstance(module, Factored):
            return Factored(table(module[0], spec), linear(module[1], activations))
        return QuantEmbedding(module, weight_quantizer(spec, module.weight))

    bert.embeddings.word_embeddings = table(bert.embeddings.word_embeddings, embeddings)
    bert.embeddings.position_embeddings = table(bert.embeddings.position_embeddings, positions)
    for layer in bert.encoder.layer:
        attention = layer.attention.self
        for name in ("query", "key", "value"):
            setattr(attention, name, linear(getattr(attention, name), None))
        if activations:
            attention.input_quantizer = activation_quantizer(activations)
            attention.register_forward_pre_hook(_quantize_input)
            attention.quantizers = QuantAttention(
                *(activation_quantizer(spec) for spec in (activations, activations, one_sided, activations))
            )
        layer.attention.output.dense = linear(layer.attention.output.dense, activations)
        layer.intermediate.dense = linear(layer.intermediate.dense, activations)
        layer.output.dense = linear(layer.output.dense, one_sided)
    if bert.pooler is not None:
        bert.pooler.dense = linear(bert.pooler.dense, activations)
    show_scores(model)


def int8_dynamic(model: nn.Module) -> None:
    """torch's own dynamic int8 on every linear of the encoder and the pooler: the deployed baseline."""
    for parent in list(model.base_model.modules()):
        for name, module in parent.named_children():
            if isinstance(module, nn.Linear):
                setattr(parent, name, Int8Linear(module))


def factor(model: nn.Module, share: float, by: str | None = None) -> None:
    """Every weight matrix as a product of two that together have at most `share` of its numbers.

    `by: svd` sets them to the best approximation; a model that is loaded gets its factors from the file.
    """
    for name, layer in matrices(model).items():
        rows, columns = layer.weight.shape
        rank = min(max(1, int(share * rows * columns / (rows + columns))), rows, columns)
        factors = Factored.like(layer, rank)
        if by == "svd":
            factors.approximate(layer.weight)
        model.base_model.set_submodule(name, factors)


def narrow(model: nn.Module, heads: int, neurons: int) -> None:
    """Keep the first attention heads and feed-forward neurons of every layer. The hidden size stays as it is."""
    for layer in model.base_model.encoder.layer:
        attention = layer.attention.self
        width = heads * attention.attention_head_size
        for linear in (attention.query, attention.key, attention.value):
            _cut(linear, outputs=width)
        _cut(layer.attention.output.dense, inputs=width)
        _cut(layer.intermediate.dense, outputs=neurons)
        _cut(layer.output.dense, inputs=neurons)
        attention.num_attention_heads, attention.all_head_size = heads, width


def activate(model: nn.Module, function: str) -> None:
    """Put another function, by transformers' name for it, between the two linears of every feed-forward."""
    for layer in model.base_model.encoder.layer:
        layer.intermediate.intermediate_act_fn = ACT2FN[function]


def requantize(model: nn.Module, modules: list[str], weights: dict | None = None, embeddings: dict | None = None) -> None:
    """Give these quantized layers another quantizer of weights: that of `embeddings` to tables, of `weights` to others."""
    for name in modules:
        _requantize(model.get_submodule(name), weights, embeddings)


def split(model: nn.Module, modules: list[str], weights: dict | None = None, embeddings: dict | None = None) -> None:
    """Make each of these quantized layers the sum of two, both with its weight, on the grids of `requantize`."""
    for name in modules:
        pair = SplitLayer(model.get_submodule(name))
        model.set_submodule(name, pair)
        for half in (pair.first, pair.second):
            _requantize(half, weights, embeddings)


EDITS = {
    "quantize": quantize,
    "int8_dynamic": int8_dynamic,
    "narrow": narrow,
    "activate": activate,
    "requantize": requantize,
    "split": split,
    "factor": factor,
}


def matrices(model: nn.Module) -> dict[str, nn.Linear | nn.Embedding]:
    """The layers of the body whose weights compression is about: every linear, and the word embedding, by their names.

    The tables of positions and token types are too small to matter.
    """

    def is_one(name: str, layer: nn.Module) -> bool:
        words = name.startswith("embeddings.word_embeddings")
        return isinstance(layer, nn.Linear) or (words and isinstance(layer, nn.Embedding))

    return {name: layer for name, layer in model.base_model.named_modules() if is_one(name, layer)}


def weight_quantizer(spec: dict | None, weight: Tensor) -> quantizers.Quantizer | None:
    """A quantizer fitted to a weight."""
    quantizer = quantizers.make(spec)
    if quantizer is not None:
        quantizer.calibrate(weight.detach())
        quantizer.role = "weights"
    return quantizer


def activation_quantizer(spec: dict | None) -> quantizers.Quantizer | None:
    quantizer = quantizers.make(spec)
    if quantizer is not None:
        quantizer.role = "activations"
    return quantizer


def roles(model: nn.Module) -> dict[nn.Parameter, str]:
    """Return the learned ranges of a model's quantizers, each with its role: "weights" or "activations"."""
    found = (module for module in model.modules() if isinstance(module, quantizers.Quantizer))
    return {parameter: quantizer.role for quantizer in found for parameter in quantizer.parameters()}


def calibrate(model: nn.Module, batches) -> None:
    """Set the learned ranges of all activations from training batches, in the order in which a forward pass meets them.

    Each quantizer sees inputs that those before it have already quantized, as it will in training.
    """
    found = [one for one in model.modules() if isinstance(one, quantizers.Quantizer) and one.role == "activations"]
    hooks = [one.register_forward_pre_hook(lambda module, inputs: module.calibrate(inputs[0].detach())) for one in found]
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            for batch in batches:
                model(**{name: batch[name] for name in ("input_ids", "attention_mask", "token_type_ids")})
    finally:
        for hook in hooks:
            hook.remove()
        model.train(was_training)


@torch.no_grad()
def quantization_error(model: nn.Module) -> list[dict]:
    """What the grid takes from each matrix of a trained model: squared error over squared values of the latent weights."""
    found = []
    for name, module in model.named_modules():
        if isinstance(module, Quantized) and module.weight_quantizer is not None:
            layer, matrix = _place(name, model.config.num_hidden_layers)
            error = (module.weight_quantizer.values(module.weight) - module.weight).square().sum()
            share = error / module.weight.square().sum().clamp(min=1e-30)
            found.append({"layer": layer, "matrix": matrix, "error": float(share)})
    return found


def _place(name: str, layers: int) -> tuple[int, str]:
    """Layer (0 for the embeddings) and matrix of a module, such as `bert.encoder.layer.3.attention.self.query`."""
    place = name.replace(".dense", "").replace("_embeddings", " embedding")
    if found := re.search(r"layer\.(\d+)\.(?:attention\.self\.)?(.*)", place):
        return int(found[1]) + 1, found[2].replace(".", " ")
    layer = layers + 1 if "pooler" in name else 0
    return layer, place.removeprefix("bert.").removeprefix("embeddings.").replace(".", " ")


def show_scores(model: nn.Module) -> None:
    """Let the model compute attention so that `output_attentions` gives the scores before softmax."""
    model.set_attn_implementation(SCORES)


def _attention(module: nn.Module, query, key, value, attention_mask, scaling=None, dropout=0.0, **_):
    scaling = scaling or query.shape[-1] ** -0.5
    return layers.attention(
        query, key, value, attention_mask, scaling, dropout, quantizers=getattr(module, "quantizers", None)
    )


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
