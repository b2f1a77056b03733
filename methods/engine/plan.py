"""From a model file to the engine's description of it: where each matrix, range and norm stands.

The tensors' names say which edits a matrix went through: `.first` and `.second` are the halves of a split, `.0` and `.1` the
factors of a product. Shapes say what was narrowed. The header says what no tensor tells: quantizers of activations, heads
and the function of the feed-forward.
"""

from pathlib import Path

import numpy as np

from methods.engine import Unsupported, abi
from methods.engine.abi import Layer, Linear, Matrix, Model, Norm, Range
from methods.model import description
from methods.model.anatomy import ANATOMIES

EDITS = ("quantize", "int8_dynamic", "factor", "factor_words", "narrow", "layers", "activate", "requantize", "split")
# Edits of which the last one alone would not say all.
ONCE = ("quantize", "int8_dynamic", "activate", "narrow", "factor", "factor_words")
# Options of the edit `quantize` that the engine knows.
OPTIONS = ("kind", "weights", "embeddings", "positions", "types", "activations", "one_sided", "attention", "pooler")
COUNTERS = (".batches",)  # what training alone needs
NEVER = np.float32(np.inf)
TINY = float(np.finfo(np.float32).tiny)  # a moving range acts as if it never fell below


class _Read(dict):
    """Arrays by name that remember which were read."""

    def __init__(self, arrays: dict[str, np.ndarray]):
        super().__init__(arrays)
        self.read: set[str] = set()

    def __getitem__(self, name: str) -> np.ndarray:
        array = super().__getitem__(name)
        self.read.add(name)
        return array

    def get(self, name: str, default=None):
        try:
            return self[name]
        except KeyError:
            return default


class Plan:
    """A description of the model in a file. It keeps the arrays alive that the description points to."""

    def __init__(self, path: Path, arrays: dict[str, np.ndarray], meta: dict):
        self.path, self.arrays, self.packed, self.meta = path, _Read(arrays), meta["packed"], meta
        self.kept: list = []
        kinds = [edit["kind"] for edit in meta["edits"]]
        self.edits = dict(zip(kinds, meta["edits"], strict=True))
        if foreign := [kind for kind in kinds if kind not in EDITS]:
            raise Unsupported(f"{path}: the packed engine cannot compute the edit {foreign[0]!r}.")
        if twice := [kind for kind in ONCE if kinds.count(kind) > 1]:
            raise Unsupported(
                f"{path}: the packed engine cannot compute the edit {twice[0]!r} of a model that has it already."
            )
        config = meta["config"]
        self.anatomy, self.config = ANATOMIES[config["model_type"]], config
        self.body = f"{self.anatomy.architecture}."  # the prefix of the encoder's tensors
        self.hidden, self.width = config["hidden_size"], config["hidden_size"] // config["num_attention_heads"]
        narrow = self.edits.get("narrow", {})
        self.heads = narrow.get("heads", config["num_attention_heads"])
        self.neurons = narrow.get("neurons", config["intermediate_size"])
        self.activation = self.edits.get("activate", {}).get("function", config["hidden_act"])
        if self.activation not in abi.ACTIVATIONS:
            raise Unsupported(f"{path}: the packed engine knows gelu and relu, not {self.activation!r}.")
        quantize = self.edits.get("quantize", {})
        if unknown := [option for option in quantize if option not in OPTIONS and quantize[option]]:
            raise Unsupported(f"{path}: the packed engine cannot compute the option {unknown[0]!r} of the edit 'quantize'.")
        halves = {name.removesuffix(".first.weight") for name in (*arrays, *self.packed) if name.endswith(".first.weight")}
        if halves != set(self.edits.get("split", {}).get("modules", ())):
            raise Unsupported(f"{path}: the packed engine finds other layers split in the file than its edit 'split' names.")
        self.activations = quantize.get("activations")
        self.one_sided = quantize.get("one_sided") or self.activations
        self.of_attention = quantize.get("attention", True)  # whether its operands are quantized
        self.of_pooler = quantize.get("pooler", True)
        self.int8 = "int8_dynamic" in self.edits
        try:
            self.model = self._model()
        except KeyError as error:
            raise Unsupported(f"{path}: the packed engine finds no {error.args[0]!r} in the file.") from None
        for name in arrays:
            if name.endswith(COUNTERS):
                self._array(name, (), np.int64)
        if unread := [name for name in arrays if name not in self.arrays.read]:
            raise Unsupported(f"{path}: the packed engine has no place for the array {unread[0]!r:.99}.")

    # --- parts of the description -----------------------------------------------------------------------------

    def _model(self) -> Model:
        config, anatomy, body = self.config, self.anatomy, self.body
        words = body + anatomy.words
        factored = self._has(f"{words}.0")
        tables = self._halves(f"{words}.0" if factored else words)
        layers = self._layers()
        layer = (Layer * max(layers, 1))(*(self._layer(f"{body}{anatomy.layers}.{at}.") for at in range(layers)))
        pooler, head = self._head()
        self.kept += [layer, *filter(None, (pooler, head))]
        model = Model(
            hidden=self.hidden,
            layers=layers,
            outputs=self.meta["outputs"],
            vocabulary=config["vocab_size"],
            positions=config["max_position_embeddings"],
            types=config["type_vocab_size"],
            epsilon=config["layer_norm_eps"],
            by_token=self.meta["head"] != "sequence",
            words=tables[0],
            words_too=tables[1],
            position_table=self._table(body + anatomy.positions, config["max_position_embeddings"]),
            type_table=self._table(body + anatomy.types, config["type_vocab_size"]),
            embedding=self._norm(f"{body}embeddings.LayerNorm"),
            layer=layer,
            head=abi.POINTER(Linear)(head),
        )
        if factored:
            model.words_out = self._pointer(self._linear(f"{words}.1", self.activations, has_bias=False))
        if pooler is not None:
            model.pooler = abi.POINTER(Linear)(pooler)
        return model

    def _layers(self) -> int:
        """How many layers there are: as many as the file has first norms of."""
        return sum(name.endswith(".attention.output.LayerNorm.weight") for name in self.arrays)

    def _layer(self, prefix: str) -> Layer:
        parts, inside = self.anatomy.parts, prefix + self.anatomy.attention
        spec, one_sided = self.activations, self.one_sided
        quantizers = f"{inside}.quantizers"
        operands, probs = (spec, one_sided) if self.of_attention else (None, None)
        return Layer(
            query=self._linear(prefix + parts["query"], None),
            key=self._linear(prefix + parts["key"], None),
            value=self._linear(prefix + parts["value"], None),
            output=self._linear(prefix + parts["attention output"], spec, own=True),
            up=self._linear(prefix + parts["intermediate"], spec, own=True, rows=self.neurons),
            down=self._linear(prefix + parts["output"], one_sided, own=True),
            input=self._int8_range() if self.int8 else self._range(spec, f"{inside}.input_quantizer"),
            of_query=self._range(operands, f"{quantizers}.query"),
            of_key=self._range(operands, f"{quantizers}.key"),
            of_probabilities=self._range(probs, f"{quantizers}.probs"),
            of_value=self._range(operands, f"{quantizers}.value"),
            after_attention=self._norm(f"{prefix}attention.output.LayerNorm"),
            after_feed_forward=self._norm(f"{prefix}output.LayerNorm"),
            heads=self.heads,
            width=self.width,
            activation=abi.ACTIVATIONS[self.activation],
        )

    def _head(self) -> tuple[Linear | None, Linear]:
        """The matrix with tanh behind it where there is one, and the head's last matrix."""
        if self.meta["head"] != "sequence":
            return None, self._linear("qa_outputs" if self.meta["head"] == "span" else "classifier", None)
        if self.anatomy.pooler is None:
            return self._linear("classifier.dense", None), self._linear("classifier.out_proj", None)
        inputs = self.activations if self.of_pooler else None
        pooler = self._linear(self.body + self.anatomy.pooler, inputs, own=True)
        return pooler, self._linear("classifier", None)

    def _linear(
        self, name: str, inputs: dict | None, own: bool = False, has_bias: bool = True, rows: int | None = None
    ) -> Linear:
        """A linear map; `inputs` is the quantizer of what goes in, and `own` says that torch's int8 has one here."""
        if self._has(f"{name}.0"):  # the input is quantized for the first factor, its result for the second
            outer = self._linear(f"{name}.1", self.activations, rows=rows)
            outer.inner = self._pointer(self._linear(f"{name}.0", inputs, has_bias=False))
            return outer
        if self.int8 and not self.anatomy.is_head(f"{name}.weight"):
            self._array(f"{name}.weight_step", ())  # torch's int8 takes every linear of the encoder
        first, second = self._halves(name)
        if rows not in (None, first.rows):
            raise self._misfit(f"{name}.weight", (first.rows, first.columns))
        bias = f"{name}.first.bias" if self._has(f"{name}.first") else f"{name}.bias"
        bias = self._floats(self._array(bias, (first.rows,))) if has_bias else None
        entry = self._int8_range() if self.int8 and own else self._range(inputs, f"{name}.input_quantizer")
        return Linear(first=first, second=second, bias=bias, input=entry)

    def _halves(self, name: str) -> tuple[Matrix, Matrix]:
        if self._has(f"{name}.first"):
            return self._matrix(f"{name}.first.weight"), self._matrix(f"{name}.second.weight")
        return self._matrix(f"{name}.weight"), Matrix()

    def _matrix(self, name: str) -> Matrix:
        entry = self.packed.get(name)
        if entry is None:
            if self.int8 and f"{name}_step" in self.arrays:
                weight = self._array(name, (None, None), np.int8)
                codes = self._keep(weight.view(np.uint8) ^ 0x80)
                steps = self._keep(self._array(f"{name}_step", ()).reshape(-1))
                return self._coded(weight.shape, codes, steps, bits=8, from_=-128, by=1)
            return self._dense_matrix(self._dense(name.removesuffix(".weight")))
        if f"{name}.step" not in self.arrays:  # sparse, on no grid
            return self._dense_matrix(self._dense(name.removesuffix(".weight")))
        codes, steps = self.arrays[f"{name}.codes"], self._keep(self.arrays[f"{name}.step"].reshape(-1))
        if entry["packing"] == "sparse":
            every = description.codes_of(name, entry, self.arrays)
            codes = np.packbits(every[:, None] >> np.arange(entry["bits"], dtype=np.uint8) & 1, bitorder="little")
        code = {"bits": entry["bits"], "trits": entry["packing"] == "trits", "from_": entry["from"], "by": entry["by"]}
        return self._coded(entry["shape"], self._keep(codes), steps, **code)

    def _coded(self, shape, codes: np.ndarray, steps: np.ndarray, **code) -> Matrix:
        rows, columns = shape
        places = {"codes": abi.address(codes), "bytes": codes.nbytes, "step": abi.address(steps), "steps": steps.size}
        return Matrix(rows=rows, columns=columns, **places, **code)

    def _dense_matrix(self, weight: np.ndarray) -> Matrix:
        return Matrix(rows=len(weight), columns=weight.shape[1], bits=32, codes=abi.address(weight), bytes=weight.nbytes)

    def _dense(self, name: str) -> np.ndarray:
        """A weight as floats, decoded where it is packed."""
        entry = self.packed.get(f"{name}.weight")
        if entry is None:
            return self._keep(self._array(f"{name}.weight", (None, None)))
        return self._keep(description.decoded(f"{name}.weight", entry, self.arrays))

    def _table(self, name: str, rows: int) -> int:
        table = self._dense(name)
        if table.shape != (rows, self.hidden):
            raise self._misfit(f"{name}.weight", table.shape)
        return abi.address(table)

    def _norm(self, name: str) -> Norm:
        return Norm(*(self._floats(self._array(f"{name}.{part}", (self.hidden,))) for part in ("weight", "bias")))

    # --- ranges -----------------------------------------------------------------------------------------------

    def _range(self, spec: dict | None, name: str) -> Range:
        """The range of a quantizer of activations; `name` is its place, where the file keeps what it has learned."""
        if spec is None:
            return Range(kind=abi.RANGES["none"])
        if spec["kind"] not in RANGE_OF:
            raise Unsupported(f"{self.path}: the packed engine cannot quantize activations by {spec['kind']!r}.")
        learned = {key: float(self._array(f"{name}.{key}", ())) for key in LEARNED.get(spec["kind"], ())}
        found = {"clip_low": -NEVER, "clip_high": NEVER, **RANGE_OF[spec["kind"]](spec, learned)}
        return Range(**{**found, "kind": abi.RANGES[found["kind"]]})

    def _int8_range(self) -> Range:
        """Seven bits: torch's `reduce_range`."""
        return Range(kind=abi.RANGES["torch"], high=127, clip_low=-NEVER, clip_high=NEVER)

    # --- memory -----------------------------------------------------------------------------------------------

    def _has(self, name: str) -> bool:
        stems = (f"{name}.weight", f"{name}.first.weight", f"{name}.0.weight")
        return any(stem in self.arrays or stem in self.packed for stem in stems)

    def _keep(self, array: np.ndarray) -> np.ndarray:
        array = np.ascontiguousarray(array)
        self.kept.append(array)
        return array

    def _array(self, name: str, shape: tuple, dtype: type = np.float32) -> np.ndarray:
        """An array of the file, if it has this shape; None stands for any length."""
        array = self.arrays[name]
        wanted = tuple(have if want is None else want for want, have in zip(shape, array.shape, strict=False))
        if array.ndim != len(shape) or array.shape != wanted or array.dtype != dtype:
            raise self._misfit(name, array.shape)
        return array

    def _misfit(self, name: str, shape: tuple) -> Unsupported:
        return Unsupported(f"{self.path}: the array {name!r:.99} of shape {shape} does not fit the model.")

    def _floats(self, array: np.ndarray) -> int:
        return abi.address(self._keep(array))

    def _pointer(self, linear: Linear):
        self.kept.append(linear)
        return abi.POINTER(Linear)(linear)


# --- quantizers of activations, as in methods/kernel/quantizers ---------------------------------------------------


def _threshold(spec: dict, learned: dict) -> dict:
    high = max(2 ** (spec["bits"] - 1) - 1, 1)
    step = np.float32(max(learned["scale"], learned["floor"])) / np.float32(high)
    return {"kind": "step", "low": -high, "high": high, "two_levels": spec["bits"] == 1, "step": step}


def _step(spec: dict, learned: dict) -> dict:
    shifted = spec.get("shifted", False)
    signed = spec.get("signed", True) and not shifted
    low, high = (-(2 ** (spec["bits"] - 1)), 2 ** (spec["bits"] - 1) - 1) if signed else (0, 2 ** spec["bits"] - 1)
    if signed and spec["bits"] == 1:
        high = 1
    two_levels = signed and spec["bits"] == 1
    step = max(learned["scale"], learned["floor"])
    return {"kind": "shifted" if shifted else "step", "low": low, "high": high, "two_levels": two_levels, "step": step}


def _symmetric(spec: dict, learned: dict) -> dict:
    high = max(2 ** (spec["bits"] - 1) - 1, 1)
    clip = {"clip_low": -spec["clip"], "clip_high": spec["clip"]} if spec.get("clip") else {}
    return {
        **{"kind": "symmetric", "low": -high, "high": high, "two_levels": spec["bits"] == 1},
        **{"by_rows": spec.get("rows", False), **clip},
    }


def _asymmetric(spec: dict, learned: dict) -> dict:
    clip = {"clip_low": -spec["clip"], "clip_high": spec["clip"]} if spec.get("clip") else {}
    return {"kind": "asymmetric", "high": 2 ** spec["bits"] - 1, "by_rows": spec.get("rows", False), **clip}


def _ema(spec: dict, learned: dict) -> dict:
    return _threshold(spec, {"scale": learned["range"], "floor": TINY})


def _interval(spec: dict, learned: dict) -> dict:
    bounds = {"clip_low": learned["low"], "clip_high": learned["high"]}
    make = _symmetric if spec.get("symmetric", False) else _asymmetric
    return {**make({"bits": spec["bits"]}, learned), **bounds}


RANGE_OF = {
    "threshold": _threshold,
    "step": _step,
    "symmetric": _symmetric,
    "asymmetric": _asymmetric,
    "interval": _interval,
    "ema": _ema,
}
LEARNED = {"threshold": ("scale", "floor"), "step": ("scale", "floor"), "interval": ("low", "high"), "ema": ("range",)}
