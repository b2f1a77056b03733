"""A model file as one ONNX graph, with its weights' codes as they are: one builder for all models and widths.

The graph takes padded token ids, their mask and token types, and returns the head's scores. Only operators of ONNX itself
are used; which of them become int8 kernels is the runtime's business.
"""

import json

import numpy as np
from onnx import ModelProto, TensorProto, helper
from torch import Tensor, nn

from methods.common.errors import UserError
from methods.kernel.layers import Factored, Int8Linear, QuantEmbedding, QuantLinear, Shifted, SplitLayer
from methods.model import anatomy as anatomies
from methods.model.anatomy import Layer, anatomy
from methods.training.forward import INPUTS
from methods.use.onnx_graph import Graph, Grid, is_replaced, quantized

OPSETS = {8: (21, 10), 4: (21, 10), 2: (25, 13)}  # by the fewest bits of a weight's code: opset, and version of the file
LOWEST = float(np.finfo(np.float32).min)  # added to the scores of padding
STATIC = ("threshold", "step", "elastic", "ema", "sign", "bool")  # kinds whose levels no batch changes, but for shifted ones
ACTIVATIONS = {
    "GELUActivation": ("Gelu", {}),
    "NewGELUActivation": ("Gelu", {"approximate": "tanh"}),
    "ReLU": ("Relu", {}),
    "Tanh": ("Tanh", {}),
}


def build(model: nn.Module, arrays: dict[str, np.ndarray], least_bits: int = 8, exact: bool = False) -> ModelProto:
    """Return the graph of a loaded model; `arrays` are those of its file, among them the steps of its weights.

    `least_bits` is the fewest bits of a stored code: 8, 4 or 2. `exact` computes dynamic ranges as the method does.
    """
    return Encoder(model, arrays, least_bits, exact).build()


class Encoder:
    def __init__(self, model: nn.Module, arrays: dict[str, np.ndarray], least_bits: int, exact: bool):
        self.model, self.arrays, self.least_bits, self.exact = model, arrays, least_bits, exact
        self.names = {module: name for name, module in model.named_modules()}
        self.graph = Graph()

    def build(self) -> ModelProto:
        outputs = self._head(self._body())
        for name, value in outputs.items():
            self.graph.renamed(value, name)
        shape, graph = ["batch", "sequence"], self.graph
        of_row = self.model.record.head == "sequence"
        shapes = {"logits": ["batch", *([] if of_row else ["sequence"]), self.model.record.outputs]}
        inputs = [helper.make_tensor_value_info(name, TensorProto.INT64, shape) for name in INPUTS]
        results = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shapes.get(name, shape)) for name in outputs]
        whole = helper.make_graph(graph.nodes, "model", inputs, results, graph.initializers)
        opset, version = OPSETS[self.least_bits]
        return helper.make_model(whole, opset_imports=[helper.make_opsetid("", opset)], ir_version=version)

    # --- the encoder ------------------------------------------------------------------------------------------

    def _body(self) -> str:
        graph, parts = self.graph, anatomy(self.model)
        body = self.model.base_model
        words = self._lookup(body.get_submodule(parts.words), INPUTS[0])
        types = self._lookup(body.get_submodule(parts.types), INPUTS[2])
        positions = self._lookup(body.get_submodule(parts.positions), self._positions())
        hidden = self._norm(graph("Add", graph("Add", words, types), positions), body, parts.words)
        mask = graph("Unsqueeze", graph("Cast", INPUTS[1], to=TensorProto.FLOAT), [1, 2])  # (B, 1, 1, S)
        mask = graph("Mul", graph("Sub", 1.0, mask), LOWEST)
        for layer in anatomies.layers(self.model):
            hidden = self._layer(layer, hidden, mask)
        return hidden

    def _positions(self) -> str:
        """The number of each token's position: of all tokens, or in encoders that skip some, of all but padding."""
        graph, skipped = self.graph, anatomy(self.model).skipped
        if not skipped:
            length = graph("Gather", graph("Shape", INPUTS[0]), 1)
            return graph("Unsqueeze", graph("Range", 0, length, 1), [0])  # (1, S)
        pad = self.model.config.pad_token_id
        real = graph("Cast", graph("Not", graph("Equal", INPUTS[0], pad)), to=TensorProto.INT64)
        return graph("Add", graph("Mul", graph("CumSum", real, 1), real), pad)  # (B, S)

    def _layer(self, layer: Layer, hidden: str, mask: str) -> str:
        graph, parts = self.graph, anatomy(self.model).parts
        context = self._attention(layer, hidden, mask)
        attended = graph("Add", self._linear(layer["attention output"], context), hidden)
        attended = self._norm(attended, layer.module, parts["attention output"])
        name = type(layer.feed_forward.intermediate_act_fn).__name__
        if name not in ACTIVATIONS:
            raise UserError(f"The activation function {name} cannot be exported. There are: {', '.join(ACTIVATIONS)}.")
        operator, options = ACTIVATIONS[name]
        inner = graph(operator, self._linear(layer["intermediate"], attended), **options)
        return self._norm(graph("Add", self._linear(layer["output"], inner), attended), layer.module, parts["output"])

    def _attention(self, layer: Layer, hidden: str, mask: str) -> str:
        graph, attention = self.graph, layer.attention
        heads, width = attention.num_attention_heads, attention.attention_head_size
        hidden = self._quantized(hidden, getattr(attention, "input_quantizer", None))
        of = getattr(attention, "quantizers", None)

        def operand(part: str, order: list[int]) -> str | Grid:
            quantizer = getattr(of, part, None)
            x = graph("Reshape", self._linear(layer[part], hidden), [0, 0, heads, width])  # (B, S, heads, width)
            if getattr(quantizer, "rows", False):  # a row is a token's, so it is quantized before it becomes a column
                x, quantizer = self._values(self._quantized(x, quantizer)), None
            return self._quantized(graph("Transpose", x, perm=order), quantizer)

        query, key, value = operand("query", [0, 2, 1, 3]), operand("key", [0, 2, 3, 1]), operand("value", [0, 2, 1, 3])
        scores = graph("Add", graph("Mul", self._product(query, key), width**-0.5), mask)  # (B, heads, S, S)
        if not getattr(getattr(of, "probs", None), "of_scores", False):
            scores = graph("Softmax", scores, axis=-1)
        probs = self._quantized(scores, getattr(of, "probs", None))
        context = graph("Transpose", self._product(probs, value), perm=[0, 2, 1, 3])  # (B, S, heads, width)
        return graph("Reshape", context, [0, 0, heads * width])

    def _head(self, hidden: str) -> dict[str, str]:
        graph, model = self.graph, self.model
        if model.record.head == "token":
            return {"logits": self._linear(model.classifier, hidden)}
        if model.record.head == "span":
            names, scores = ("start_logits", "end_logits"), self._linear(model.qa_outputs, hidden)
            return {name: graph("Gather", scores, at, axis=2) for at, name in enumerate(names)}
        first = graph("Gather", hidden, 0, axis=1)  # (B, H)
        if path := anatomies.pooler(model):
            inner, outer = model.base_model.get_submodule(path), model.classifier
        else:
            inner, outer = model.classifier.dense, model.classifier.out_proj
        return {"logits": self._linear(outer, graph("Tanh", self._linear(inner, first)))}

    def _norm(self, x: str, parent: nn.Module, beside: str) -> str:
        """The LayerNorm that stands beside a matrix, behind its residual."""
        norm = parent.get_submodule(f"{beside.rpartition('.')[0]}.LayerNorm")
        arrays = _numpy(norm.weight), _numpy(norm.bias)
        return self.graph("LayerNormalization", x, *arrays, axis=-1, epsilon=norm.eps)

    # --- layers -----------------------------------------------------------------------------------------------

    def _quantized(self, x: str, quantizer) -> str | Grid:
        if isinstance(quantizer, Shifted):
            return self._quantized(self.graph("Add", x, _numpy(quantizer.bias)), quantizer.quantizer)
        return x if quantizer is None else quantized(self.graph, x, quantizer, self.exact)

    def _lookup(self, table: nn.Module, ids: str) -> str:  # (B, S) -> (B, S, width)
        match table:
            case Factored():
                return self._linear(table[1], self._lookup(table[0], ids))
            case SplitLayer():
                return self.graph("Add", self._lookup(table.first, ids), self._lookup(table.second, ids))
            case QuantEmbedding() | nn.Embedding():
                return self._rows(table, ids)
        raise self._unknown(table)

    def _rows(self, table: nn.Embedding, ids: str) -> str:
        """Rows of a table, dequantized once they are looked up."""
        graph, weight = self.graph, self._codes(table)
        if weight is None:
            return graph("Gather", graph.constant(_numpy(table.weight), f"{self.names[table]}.weight"), ids)
        codes, step = weight
        rows = graph("Cast", graph("Gather", self._stored(table, codes), ids), to=TensorProto.FLOAT)
        return graph("Mul", rows, graph("Gather", step, ids) if step.ndim else step)

    def _linear(self, layer: nn.Module, x: str | Grid) -> str:  # (..., in) -> (..., out)
        match layer:
            case Factored():
                return self._linear(layer[1], self._linear(layer[0], x))
            case SplitLayer():
                x = self._quantized(x, layer.input_quantizer)
                y = self.graph("Add", self._linear(layer.first, x), self._linear(layer.second, x))
                return self._values(self._quantized(y, layer.output_quantizer))
            case QuantLinear():
                y = self._with_bias(layer, self._times(layer, self._quantized(x, layer.input_quantizer)))
                return self._values(self._quantized(y, layer.output_quantizer))
            case Int8Linear():
                codes, step, zero = self.graph("DynamicQuantizeLinear", x, outputs=3)
                return self._with_bias(layer, self._times(layer, Grid(codes, step, zero)))
            case nn.Linear():
                return self._with_bias(layer, self._times(layer, x))
        raise self._unknown(layer)

    def _with_bias(self, layer: nn.Module, x: str) -> str:
        return x if layer.bias is None else self.graph("Add", x, _numpy(layer.bias))

    def _times(self, layer: nn.Module, x: str | Grid) -> str:
        """Multiply by the transpose of a layer's weight."""
        graph, weight = self.graph, self._codes(layer)
        if weight is None:
            matrix = np.ascontiguousarray(_numpy(layer.weight).T)
            return graph("MatMul", self._values(x), graph.constant(matrix, f"{self.names[layer]}.weight"))
        codes, step = np.ascontiguousarray(weight[0].T), weight[1].reshape(-1) if weight[1].ndim else weight[1]
        stored = self._stored(layer, codes)  # (in, out)
        if not isinstance(x, Grid):
            # Not DequantizeLinear, beside which ONNX Runtime would round the activations to 8 bits too (its MatMulNBits).
            return graph("MatMul", x, graph("Mul", graph("Cast", stored, to=TensorProto.FLOAT), step))
        if not x.in_integers:
            return graph("MatMul", self._values(x), graph("DequantizeLinear", stored, step, axis=1))
        product = graph("Cast", graph("MatMulInteger", x.codes, stored, x.zero), to=TensorProto.FLOAT)
        if x.by_rows:  # ONNX Runtime 1.32 takes the product of both steps for one number (MatMulIntegerToFloat)
            product = graph("Mul", graph("Mul", product, x.step), step)
        else:
            product = graph("Mul", product, graph("Mul", x.step, step))
        if x.offset is None:
            return product
        sums = (codes.sum(0, dtype=np.int64) * step.astype(np.float64)).astype(np.float32)  # (out,) of the weight's rows
        return graph("Add", product, graph("Mul", x.offset, sums))

    def _product(self, a: str | Grid, b: str | Grid) -> str:  # (..., M, K), (..., K, N) -> (..., M, N)
        graph, both = self.graph, [one for one in (a, b) if isinstance(one, Grid)]
        if len(both) < 2 or any(one.offset or one.by_rows or not one.in_integers for one in both):
            return graph("MatMul", self._values(a), self._values(b))
        product = graph("Cast", graph("MatMulInteger", a.codes, b.codes, a.zero, b.zero), to=TensorProto.FLOAT)
        return graph("Mul", product, graph("Mul", a.step, b.step))

    def _values(self, x: str | Grid) -> str:
        return x.values(self.graph) if isinstance(x, Grid) else x

    def _stored(self, layer: nn.Module, codes: np.ndarray) -> str:
        return self.graph.codes(codes, f"{self.names[layer]}.weight", self.least_bits)

    def _codes(self, layer: nn.Module) -> tuple[np.ndarray, np.ndarray] | None:
        """The int8 codes of a weight and their step, () or (rows, 1); None for a weight in full precision."""
        name = self.names[layer]
        if isinstance(layer, Int8Linear):
            return layer.weight.numpy(), layer.weight_step.numpy()
        step = self.arrays.get(f"{name}.weight.step")
        if step is None:
            return None
        weight = _numpy(layer.weight)
        codes = np.rint(np.divide(weight, step, out=np.zeros_like(weight), where=step > 0))
        if not np.array_equal(codes * step, weight) or np.abs(codes).max() > 127.5:
            raise UserError(f"{name}: its codes do not fit into int8: use `--to hf`.")
        return codes.astype(np.int8), step

    def _unknown(self, layer: nn.Module) -> UserError:
        return UserError(f"{self.names[layer]} is a {type(layer).__name__}, which has no form in ONNX here: use `--to hf`.")


def notes(model: nn.Module, exact: bool) -> list[str]:
    """Return where the graph's numbers differ from the model's by more than rounding."""
    found, activations = [], _activations(model)
    if any(isinstance(one, Int8Linear) for one in model.modules()):
        found.append("Activations have 8 bits (DynamicQuantizeLinear), where torch's dynamic int8 has 7.")
    elif not exact and any(is_replaced(one) for one in activations):
        found.append(
            "Ranges of activations are DynamicQuantizeLinear's: they include zero, and their zero point is rounded. The "
            "method's do neither: --exact exports its own, which run slower."
        )
    if not is_static(model) and not (activations and all(one.rows for one in activations)):
        found.append("Ranges come from the batch, padding included: run rows of one length together, or one at a time.")
    return found


def is_static(model: nn.Module) -> bool:
    """Return whether no range of activations depends on the batch."""
    learned = all(one.kind in STATIC and not getattr(one, "shifted", False) for one in _activations(model))
    return learned and not any(isinstance(one, Int8Linear) for one in model.modules())


def description(model: nn.Module, meta: dict) -> dict:
    """Return what a program has to know beside the graph."""
    facts = {name: meta[name] for name in ("method", "task", "kind", "columns", "labels", "max_length", "seed")}
    return {**facts, "pad_token_id": model.config.pad_token_id or 0, "inputs": list(INPUTS)}


README = """# {method} on {task}

`model.onnx` takes `input_ids`, `attention_mask` and `token_type_ids`, whole numbers of shape (batch, sequence), and returns
{scores}. `config.json` holds the labels in order. A row runs with onnxruntime so:

    import numpy, onnxruntime, tokenizers
    tokenizer = tokenizers.Tokenizer.from_file("tokenizer.json")
    tokenizer.enable_truncation({max_length}, strategy="longest_first")
    row = tokenizer.encode({texts})
    inputs = {{"input_ids": row.ids, "attention_mask": row.attention_mask, "token_type_ids": row.type_ids}}
    session = onnxruntime.InferenceSession("model.onnx")
    print(session.run(None, {{name: numpy.array([numbers]) for name, numbers in inputs.items()}}))

{notes}
"""
SCORES = {
    "sequence": "`logits` of shape (batch, outputs)",
    "token": "`logits` of shape (batch, sequence, outputs)",
    "span": "`start_logits` and `end_logits` of shape (batch, sequence)",
}


def readme(model: nn.Module, meta: dict, notes: list[str]) -> str:
    """Return the page that says how the graph is run."""
    texts = ", ".join(json.dumps(f"A {column}.") for column in meta["columns"])
    remarks = "\n".join(f"- {one}" for one in notes)
    return README.format(**meta, scores=SCORES[model.record.head], texts=texts, notes=remarks).rstrip() + "\n"


def _activations(model: nn.Module) -> list:
    return [module for module in model.modules() if getattr(module, "role", "") == "activations"]


def _numpy(tensor: Tensor) -> np.ndarray:
    return tensor.detach().numpy()
