"""The structures and functions of `c/engine.h`, for ctypes."""

import ctypes
from ctypes import POINTER, Structure, c_char_p, c_float, c_int32, c_int64, c_void_p

import numpy as np

ABI = 1
RANGES = {"none": 0, "step": 1, "shifted": 2, "symmetric": 3, "asymmetric": 4, "torch": 5}
ACTIVATIONS = {"gelu": 1, "relu": 2}
ERROR = 512  # bytes of the line that a call may leave


class Range(Structure):
    _fields_ = (
        *((name, c_int32) for name in ("kind", "low", "high", "by_rows", "two_levels")),
        *((name, c_float) for name in ("step", "clip_low", "clip_high")),
    )


class Matrix(Structure):
    _fields_ = (
        *((name, c_int64) for name in ("rows", "columns")),
        *((name, c_int32) for name in ("bits", "trits", "from_", "by")),
        *(("codes", c_void_p), ("bytes", c_int64), ("step", c_void_p), ("steps", c_int64)),
    )


class Linear(Structure):
    pass


Linear._fields_ = (
    *(("first", Matrix), ("second", Matrix), ("bias", c_void_p)),
    *(("input", Range), ("inner", POINTER(Linear))),
)


class Norm(Structure):
    _fields_ = (("weight", c_void_p), ("bias", c_void_p))


class Layer(Structure):
    _fields_ = (
        *((name, Linear) for name in ("query", "key", "value", "output", "up", "down")),
        *((name, Range) for name in ("input", "of_query", "of_key", "of_probabilities", "of_value")),
        *((name, Norm) for name in ("after_attention", "after_feed_forward")),
        *((name, c_int32) for name in ("heads", "width", "activation")),
    )


class Model(Structure):
    _fields_ = (
        *((name, c_int32) for name in ("hidden", "layers", "outputs")),
        *((name, c_int64) for name in ("vocabulary", "positions", "types")),
        *(("epsilon", c_float), ("by_token", c_int32)),
        *(("words", Matrix), ("words_too", Matrix), ("words_out", POINTER(Linear))),
        *(("position_table", c_void_p), ("type_table", c_void_p), ("embedding", Norm)),
        *(("layer", POINTER(Layer)), ("pooler", POINTER(Linear)), ("head", POINTER(Linear))),
    )


_TEXT = (c_char_p, c_int64)  # room for an error
FUNCTIONS = {
    "engine_abi": (c_int32,),
    "engine_size_of": (c_int64, c_int32),
    "engine_sets": (c_char_p,),
    "engine_open": (c_void_p, POINTER(Model), c_char_p, c_int32, *_TEXT),
    "engine_set": (c_char_p, c_void_p),
    "engine_memory": (c_int64, c_void_p),
    "engine_close": (None, c_void_p),
    "engine_run": (c_int32, *[c_void_p] * 4, c_int64, c_void_p, c_int64, c_void_p, *_TEXT),
    "engine_product": (c_int32, POINTER(Matrix), c_char_p, c_void_p, c_int64, c_int32, c_void_p, *_TEXT),
}


def declare(library: ctypes.CDLL) -> ctypes.CDLL:
    """Give the library's functions their types, and check that both sides mean the same structures."""
    for name, (result, *arguments) in FUNCTIONS.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    sizes = [library.engine_size_of(number) for number in range(5)]
    if library.engine_abi() != ABI or sizes != [ctypes.sizeof(one) for one in (Range, Matrix, Linear, Layer, Model)]:
        raise ImportError("the engine's library and methods/engine/abi.py describe different structures")
    return library


def address(array: np.ndarray) -> int:
    return array.ctypes.data
