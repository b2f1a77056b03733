"""The layers: linear maps and embeddings on a grid or in two factors, and attention over quantized operands.

They are drop-in replacements of torch's own, with the same parameter names, so that they can be put into any stock model.
"""

import copy
import warnings

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import skip_init

from methods.kernel import products, trace
from methods.kernel.fusing import fused
from methods.kernel.quantizers import Quantizer

FINEST_DROPOUT = 0.999  # above it, a share drawn by 16 bits is off by more than 1 %


class Quantized:
    """The base of quantized layers: latent weights, their quantizer, and its latest values."""

    weight: nn.Parameter
    weight_quantizer: Quantizer | None

    def quantized_weight(self) -> Tensor:
        """Return the weight on its grid. An unchanged weight (evaluation, micro-batches) is not quantized twice."""
        if self.weight_quantizer is None:
            return self.weight
        dtype = self._dtype()
        quantizer = self.weight_quantizer
        version = (self.weight._version, self.weight.data_ptr(), dtype, quantizer, *quantizer.state())
        if self._quantized is None or self._quantized[0] != version:
            self._quantized = version, quantizer.values(self.weight, dtype=dtype)
        return quantizer.attached(self.weight, self._quantized[1])

    def _dtype(self) -> torch.dtype:
        """Return the precision that the values are needed in."""
        return self.weight.dtype


class QuantLinear(Quantized, nn.Linear):
    """y = Q_a(x) Q_w(W)^T + b, put on a grid again by Q_o. Any of the three quantizers may be None."""

    def __init__(
        self, linear: nn.Linear, weight: Quantizer | None, inputs: Quantizer | None, outputs: Quantizer | None = None
    ):
        nn.Module.__init__(self)  # takes the parameters of `linear` over instead of making new ones
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight, self.bias = linear.weight, linear.bias
        self.weight_quantizer, self.input_quantizer, self._quantized = weight, inputs, None
        self.output_quantizer = outputs

    def forward(self, x: Tensor) -> Tensor:  # (..., in) -> (..., out)
        if self.input_quantizer is not None:
            x = self.input_quantizer(x, dtype=product_dtype(x))
        y = products.linear(x, self.quantized_weight(), self.bias)
        return y if self.output_quantizer is None else self.output_quantizer(y)

    def _dtype(self) -> torch.dtype:
        return product_dtype(self.weight)


class QuantEmbedding(Quantized, nn.Embedding):
    """Rows on a grid. Where rows can be quantized apart, only those looked up are: the work grows with the batch.

    Values and gradients equal those of quantizing the whole table first: every looked-up row is quantized once, and
    rows that were looked up as padding get no gradient.
    """

    def __init__(self, embedding: nn.Embedding, weight: Quantizer | None):
        nn.Module.__init__(self)
        self.num_embeddings, self.embedding_dim = embedding.num_embeddings, embedding.embedding_dim
        self.padding_idx, self.max_norm, self.norm_type = embedding.padding_idx, None, 2.0
        self.scale_grad_by_freq, self.sparse = False, False
        self.weight, self.weight_quantizer, self._quantized = embedding.weight, weight, None

    def forward(self, ids: Tensor) -> Tensor:  # (...,) -> (..., width)
        quantizer = self.weight_quantizer
        if quantizer is None or not quantizer.by_rows or not self.training:
            return F.embedding(ids, self.quantized_weight(), self.padding_idx)
        distinct, places = ids.unique(return_inverse=True)  # (U,), (...,)
        rows = quantizer(F.embedding(distinct, self.weight, self.padding_idx), distinct)  # (U, width)
        if self.padding_idx is not None:
            rows = torch.where((distinct == self.padding_idx)[:, None], rows.detach(), rows)
        return F.embedding(places, rows)


class Factored(nn.Sequential):
    """A linear map or an embedding whose matrix is the product of two thin ones, applied one after the other.

    The product is never formed: from `rank` (out + in) numbers come results that took out * in.
    """

    @classmethod
    def like(cls, layer: nn.Linear | nn.Embedding, rank: int) -> "Factored":
        """Return factors in `layer`'s place, with its bias. Their weights are yet to be set."""
        place = {"device": layer.weight.device, "dtype": layer.weight.dtype}
        if isinstance(layer, nn.Embedding):
            rows, width = layer.weight.shape
            table = skip_init(nn.Embedding, rows, rank, layer.padding_idx, **place)
            return cls(table, skip_init(nn.Linear, rank, width, bias=False, **place))
        inner = skip_init(nn.Linear, layer.in_features, rank, bias=False, **place)
        outer = skip_init(nn.Linear, rank, layer.out_features, bias=False, **place)
        outer.bias = layer.bias
        return cls(inner, outer)

    @torch.no_grad()
    def approximate(self, weight: Tensor) -> None:
        """Set the best product of this rank (Eckart and Young 1936), its singular values shared evenly by both factors."""
        left, values, right = torch.linalg.svd(weight, full_matrices=False)  # (m, k), (k,), (k, n) with k = min(m, n)
        inner, outer = self
        rank = outer.weight.shape[1]
        roots = values[:rank].sqrt()
        left, right = left[:, :rank] * roots, roots[:, None] * right[:rank]  # (m, r), (r, n)
        table = isinstance(inner, nn.Embedding)  # whose rows come first, where a linear map starts with its columns
        inner.weight.copy_(left if table else right)
        outer.weight.copy_(right.T if table else left)


class SplitLayer(nn.Module):
    """The sum of a layer and its copy, over one quantized input and with one bias.

    BinaryBERT's code gives each its own range of inputs and half the bias. Halves of a bias stay equal for ever, as their
    gradients are; and with one range the tensor is quantized once.
    """

    def __init__(self, layer: QuantLinear | QuantEmbedding):
        super().__init__()
        self.input_quantizer = self.output_quantizer = None
        if isinstance(layer, QuantLinear):
            self.input_quantizer, layer.input_quantizer = layer.input_quantizer, None
            self.output_quantizer, layer.output_quantizer = layer.output_quantizer, None
        self.first, self.second = layer, copy.deepcopy(layer)
        if isinstance(layer, QuantLinear):
            self.second.bias = None

    def forward(self, x: Tensor) -> Tensor:  # (..., in) -> (..., out), or ids (...,) -> (..., width)
        if self.input_quantizer is not None:
            x = self.input_quantizer(x, dtype=product_dtype(x))
        y = self.first(x) + self.second(x)
        return y if self.output_quantizer is None else self.output_quantizer(y)


class Shifted(nn.Module):
    """A quantizer of a layer's inputs behind a learned shift, one number for each of their `width` features."""

    def __init__(self, quantizer: Quantizer, width: int, device: torch.device | None = None):
        super().__init__()
        self.quantizer, self.bias = quantizer, nn.Parameter(torch.zeros(width, device=device))

    def forward(self, x: Tensor, dtype: torch.dtype | None = None) -> Tensor:  # (..., width) -> (..., width)
        return self.quantizer(x + self.bias, dtype=dtype)


class Int8Linear(nn.Module):
    """torch's dynamic int8: weights in 8 bits once and for all, inputs as they come, products in integers.

    The numbers are those of `torch.ao.quantization.quantize_dynamic`; the codes are kept as ordinary tensors. Padding, which
    that would count into the range of the inputs, is left out: its outputs are zero.
    """

    input_bits = 8

    def __init__(self, linear: nn.Linear):
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        weight = linear.weight.detach()
        step = (weight.abs().amax() / 127.5).clamp(min=torch.finfo(torch.float32).eps)  # torch's symmetric observer
        scaled = weight * (1 / step)  # as torch does it: dividing would round some ties the other way
        self.register_buffer("weight", scaled.round().clamp(-128, 127).to(torch.int8))
        self.register_buffer("weight_step", step)
        self.register_buffer("bias", linear.bias.detach())
        self._packed = None

    def forward(self, x: Tensor) -> Tensor:
        version = (self.weight._version, self.weight_step._version, self.bias._version)
        if self._packed is None or self._packed[0] != version:
            with warnings.catch_warnings():  # torch announces the end of this kind of tensor; its kernels know no other
                warnings.simplefilter("ignore", UserWarning)
                weight = torch._make_per_tensor_quantized_tensor(self.weight, float(self.weight_step), 0)
            self._packed = version, torch.ops.quantized.linear_prepack(weight, self.bias)
        real = trace.real(x)
        if real is None:
            return torch.ops.quantized.linear_dynamic(x.float(), self._packed[1], reduce_range=True)
        y = x.new_zeros((*x.shape[:-1], self.out_features), dtype=torch.float32)
        real = real.squeeze(-1)  # (B, S)
        y[real] = torch.ops.quantized.linear_dynamic(x[real].float(), self._packed[1], reduce_range=True)
        return y


class QuantAttention(nn.Module):
    """Quantizers of an attention's four operands; any of them may be None."""

    def __init__(self, query: Quantizer | None, key: Quantizer | None, probs: Quantizer | None, value: Quantizer | None):
        super().__init__()
        self.query, self.key, self.probs, self.value = query, key, probs, value
        if isinstance(probs, Quantizer):
            probs.pairs = True  # both of their last dimensions are tokens


def attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float, dropout: float, quantizers=None
) -> tuple[Tensor, Tensor]:
    """Return the context (B, S, heads, width) and the scores before softmax, mask added, (B, heads, S, S).

    Probabilities are quantized after dropout, as in all published codes of this family. Their grid need not hold the zero
    that padded keys have; values of padding are therefore left out of the product. A quantizer `of_scores` makes
    probabilities of the scores instead of softmax; dropout then takes some of them away and leaves the others as they are.
    """
    of_scores = getattr(getattr(quantizers, "probs", None), "of_scores", False)

    def put(name: str, x: Tensor) -> Tensor:
        quantizer = getattr(quantizers, name, None)
        return x if quantizer is None else quantizer(x, dtype=product_dtype(x))

    query, key, value = put("query", query), put("key", key), put("value", value)  # (B, heads, S, width)
    scores = products.matmul_transposed(query, key)
    kept = kept_by_dropout(scores, dropout) if dropout else None
    if of_scores:
        scores = _masked(scores, mask, scaling).to(scores.dtype)
        probs = put("probs", scores)
        probs = probs if kept is None else probs * kept
    else:
        scores, probs = _softmax(scores, mask, scaling, kept, _share(dropout))  # (B, heads, S, S)
        probs = put("probs", probs)
    real = None if getattr(quantizers, "probs", None) is None else trace.real(value)
    return products.matmul(probs, value, real).transpose(1, 2).contiguous(), scores


def _masked(scores: Tensor, mask: Tensor | None, scaling: float) -> Tensor:
    """Return scaled and masked scores in fp32."""
    exact = scores.float() * scaling
    if mask is None:
        return exact
    return exact + mask.clamp(min=torch.finfo(scores.dtype).min)  # so low that it is finite after rounding too


@fused
def _softmax(scores: Tensor, mask: Tensor | None, scaling: float, kept: Tensor | None, share: float):
    """Return scaled and masked scores, and the probabilities that dropout leaves, both in the precision of `scores`."""
    exact = _masked(scores, mask, scaling)
    probs = exact.softmax(-1)
    if kept is not None:
        probs = probs * kept / share
    return exact.to(scores.dtype), probs.to(scores.dtype)


class Dropout(nn.Dropout):
    """torch's dropout at a third of its price on a CPU."""

    def forward(self, x: Tensor) -> Tensor:
        return _dropped(x, kept_by_dropout(x, self.p), _share(self.p)) if self.training and self.p else x


@fused
def _dropped(x: Tensor, kept: Tensor, share: float) -> Tensor:
    return x * kept / share


def kept_by_dropout(like: Tensor, dropout: float) -> Tensor:
    """Return 1 where dropout leaves an element, else 0. One number drawn decides for four elements, by 16 bits each.

    Where fewer than a thousandth is left, 16 bits are too coarse, and torch draws for each element. These are numbers and
    not truth values, because compiled code multiplies by numbers twice as fast as it chooses by truth values.
    """
    if not 0 <= dropout <= 1:
        raise ValueError(f"dropout is a probability from 0 to 1, not {dropout}")
    if dropout > FINEST_DROPOUT:
        return torch.empty(like.shape, dtype=torch.bfloat16, device=like.device).bernoulli_(1 - dropout)
    drawn = _drawn(max(-(-like.numel() // 4), 1), like.device).view(torch.int16)[: like.numel()].view(like.shape)
    kept = torch.empty(like.shape, dtype=torch.bfloat16, device=like.device)
    return torch.ge(drawn, round(dropout * 2**16) - 2**15, out=kept)


def _share(dropout: float) -> float:
    """Return the divisor of what dropout leaves: the share that is left, or 1 where nothing is."""
    return 1 - dropout if dropout < 1 else 1.0


def _drawn(count: int, device: torch.device) -> Tensor:
    """Return 64 random bits, `count` times. On a CPU by numpy, at a third of torch's price, from a seed that torch draws."""
    if device.type != "cpu":
        return torch.empty(count, dtype=torch.int64, device=device).random_(-(2**63), None)
    seed = int(torch.empty((), dtype=torch.int64).random_())
    return torch.from_numpy(np.random.SFC64(seed).random_raw(count).view(np.int64))


def product_dtype(operand: Tensor) -> torch.dtype:
    """Return the precision in which a product with `operand` is computed: autocast's, where it is on."""
    kind = operand.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else operand.dtype
