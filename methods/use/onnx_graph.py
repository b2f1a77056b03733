"""A graph of ONNX operators in the making, and the grids of a model's activations as such operators.

A method's quantizer becomes the operators whose codes equal its own, up to rounding:

- a step that training left (`threshold`, `step`, `elastic`, `ema`) becomes QuantizeLinear and DequantizeLinear, the form
  (QDQ) in which runtimes find their int8 kernels. Codes are unsigned with zero point 128, and Clip in front keeps the
  method's number of levels;
- a range of the tensor itself becomes a step that is computed in the graph. `asymmetric` in eight bits becomes
  DynamicQuantizeLinear, which runtimes fuse, although it is another grid: its range includes zero, and its zero point is
  rounded. `exact` has the method's own grid instead.
"""

from dataclasses import dataclass

import ml_dtypes
import numpy as np
from onnx import TensorProto, helper, numpy_helper

from methods.common.errors import UserError
from methods.kernel import quantizers
from methods.kernel.grids import TINY

ONE = np.float32(1)
MIDDLE = 128  # the zero point of signed codes
INTEGERS = {8: np.int8, 4: ml_dtypes.int4, 2: ml_dtypes.int2}  # types of initializers by their bits


class Graph:
    """Nodes and initializers. Calling it adds a node and returns the name of its output.

    Inputs are names, or numbers and arrays that become initializers: a float or a list of integers stands for itself.
    """

    def __init__(self):
        self.nodes, self.initializers, self._names = [], [], {}

    def __call__(self, operator: str, *inputs, outputs: int = 1, **attributes):
        names = [self._name(operator) for _ in range(outputs)]
        inputs = [one if isinstance(one, str) else self.constant(one) for one in inputs]
        self.nodes.append(helper.make_node(operator, inputs, names, **attributes))
        return names[0] if outputs == 1 else names

    def constant(self, value, name: str = "") -> str:
        """Return the name of an initializer; equal numbers without a name share one."""
        if isinstance(value, float):
            value = np.float32(value)
        array = np.asarray(value)
        key = name or f"constant {array.dtype} {array.shape} {array.tobytes()}"
        if key not in self._names:
            self._names[key] = name or self._name("constant")
            self.initializers.append(numpy_helper.from_array(array, self._names[key]))
        return self._names[key]

    def codes(self, codes: np.ndarray, name: str, least_bits: int) -> str:
        """Return int8 codes, stored in the fewest bits that hold them, and not fewer than `least_bits`."""
        least, most = int(codes.min()), int(codes.max())
        bits = next(one for one in (2, 4, 8) if one >= least_bits and -(2 ** (one - 1)) <= least and most < 2 ** (one - 1))
        stored = self.constant(codes.astype(INTEGERS[bits]), name)
        return stored if bits == 8 else self("Cast", stored, to=TensorProto.INT8)

    def renamed(self, value: str, name: str) -> None:
        """Give an output of the model its name."""
        self.nodes.append(helper.make_node("Identity", [value], [name]))

    def _name(self, what: str) -> str:
        number = self._names[f"count of {what}"] = self._names.get(f"count of {what}", -1) + 1
        return f"{what}_{number}"


@dataclass(frozen=True)
class Grid:
    """A tensor on a grid, by the names of its parts: values = (codes - zero) step + offset, with unsigned codes."""

    codes: str
    step: str  # () or (..., 1)
    zero: str
    offset: str | None = None  # as step
    by_rows: bool = False
    in_integers: bool = True  # whether products with it are integer operators; otherwise runtimes find them (QDQ)

    def values(self, graph: Graph) -> str:
        if self.by_rows:
            whole = graph("Cast", self.codes, to=TensorProto.FLOAT)
            values = graph("Mul", graph("Sub", whole, graph("Cast", self.zero, to=TensorProto.FLOAT)), self.step)
        else:
            values = graph("DequantizeLinear", self.codes, self.step, self.zero)
        return values if self.offset is None else graph("Add", values, self.offset)


def quantized(graph: Graph, x: str, quantizer: quantizers.Quantizer, exact: bool) -> Grid:
    """Put a tensor on the grid of a method's quantizer."""
    match quantizer.kind:
        case "threshold" | "step" | "elastic" | "ema" if not getattr(quantizer, "shifted", False):
            return _stepped(graph, x, quantizer)
        case "step" | "elastic":
            return _shifted(graph, x, quantizer)
        case "asymmetric" if is_replaced(quantizer) and not exact:
            codes, step, zero = graph("DynamicQuantizeLinear", _clipped(graph, x, quantizer.clip), outputs=3)
            return Grid(codes, step, zero)
        case "symmetric":
            return _around_zero(graph, _clipped(graph, x, quantizer.clip), quantizer.bits, quantizer.rows)
        case "interval" if quantizer.symmetric:
            return _around_zero(graph, graph("Clip", x, *_bounds(quantizer)), quantizer.bits, rows=False)
        case "asymmetric":
            bounds = () if quantizer.clip is None else (-float(quantizer.clip), float(quantizer.clip))
            return _evenly(graph, x, quantizer.bits, quantizer.rows, bounds)
        case "interval":
            return _evenly(graph, x, quantizer.bits, False, _bounds(quantizer))
        case "sign":
            signs = graph("Sign", x) if quantizer.third else _signs(graph, x, 1.0)
            codes = graph("QuantizeLinear", signs, ONE, np.uint8(MIDDLE))
            return Grid(codes, graph.constant(ONE), graph.constant(np.uint8(MIDDLE)), in_integers=False)
        case "bool":
            codes = graph("Cast", graph("Greater", x, 0.0), to=TensorProto.UINT8)
            return Grid(codes, graph.constant(ONE), graph.constant(np.uint8(0)), in_integers=False)
        case other:
            raise UserError(f"Activations on a grid of kind {other!r} cannot be exported: use `--to hf`.")


def is_replaced(quantizer: quantizers.Quantizer) -> bool:
    """Return whether DynamicQuantizeLinear stands for a quantizer, unless its exact grid is asked for."""
    return quantizer.kind == "asymmetric" and quantizer.bits == 8 and not quantizer.rows


def _stepped(graph: Graph, x: str, quantizer) -> Grid:
    step, low, high = _learned(quantizer), quantizer.codes_from, quantizer.codes_to
    zero = np.uint8(MIDDLE if low < 0 else 0)
    if quantizer.codes_by == 2:
        x = _signs(graph, x, float(step))
    elif (low + int(zero), high + int(zero)) != (0, 255):  # otherwise QuantizeLinear itself cuts there
        x = graph("Clip", x, np.float32(low * step), np.float32(high * step))
    codes = graph("QuantizeLinear", x, step, zero)
    return Grid(codes, graph.constant(step), graph.constant(zero), in_integers=False)


def _shifted(graph: Graph, x: str, quantizer) -> Grid:
    """A learned step above the tensor's minimum."""
    step, zero = _learned(quantizer), np.uint8(0)
    least = graph("ReduceMin", x, keepdims=0)
    above = graph("Clip", graph("Sub", x, least), 0.0, np.float32(quantizer.codes_to * step))
    return Grid(graph("QuantizeLinear", above, step, zero), graph.constant(step), graph.constant(zero), least)


def _around_zero(graph: Graph, x: str, bits: int, rows: bool) -> Grid:
    levels, zero = max(2 ** (bits - 1) - 1, 1), np.uint8(MIDDLE)
    largest = _reduced(graph, "ReduceMax", graph("Abs", x), rows)
    step = graph("Max", graph("Div", largest, float(levels)), TINY)
    if bits == 1:
        x = _signs(graph, x, step)
    return Grid(_codes(graph, x, step, zero, rows), step, graph.constant(zero), by_rows=rows)


def _evenly(graph: Graph, x: str, bits: int, rows: bool, bounds: tuple) -> Grid:
    """2^b levels over the tensor's own range, inside `bounds` where there are any."""
    least, most = (_reduced(graph, operator, x, rows) for operator in ("ReduceMin", "ReduceMax"))
    if bounds:
        least, most, x = (graph("Clip", one, *bounds) for one in (least, most, x))
    step = graph("Max", graph("Div", graph("Sub", most, least), float(2**bits - 1)), TINY)
    zero = np.uint8(0)
    codes = _codes(graph, graph("Sub", x, least), step, zero, rows)
    return Grid(codes, step, graph.constant(zero), least, by_rows=rows)


def _codes(graph: Graph, x: str, step: str, zero: np.uint8, rows: bool) -> str:
    if not rows:
        return graph("QuantizeLinear", x, step, zero)
    # QuantizeLinear knows steps along one axis that are known beforehand, and none of a token.
    return graph("Cast", graph("Add", graph("Round", graph("Div", x, step)), float(zero)), to=TensorProto.UINT8)


def _reduced(graph: Graph, operator: str, x: str, rows: bool) -> str:
    return graph(operator, x, [-1], keepdims=1) if rows else graph(operator, x, keepdims=0)


def _clipped(graph: Graph, x: str, bound: float | None) -> str:
    return x if bound is None else graph("Clip", x, -float(bound), float(bound))


def _signs(graph: Graph, x: str, step) -> str:
    """Two levels: the step with the sign of x, where zero counts as positive."""
    return graph("Mul", graph("Sub", graph("Mul", graph("Cast", graph("GreaterOrEqual", x, 0.0), to=1), 2.0), 1.0), step)


def _learned(quantizer) -> np.ndarray:
    return (quantizer.positive().detach() / quantizer.parts).numpy()


def _bounds(quantizer) -> tuple[float, float]:
    return float(quantizer.low.detach()), float(quantizer.high.detach())
