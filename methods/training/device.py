"""The device of a run: one process on a CPU or a GPU, or accelerate's several.

A run alone needs little of accelerate, and importing that takes half a second; `Device` has the part of its interface that
the trainer uses.
"""

import contextlib
import ctypes
import os

import torch
from torch import Tensor

from methods.common import provenance

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of malloc.h


class Device:
    """One process on one device."""

    num_processes, process_index, is_main_process = 1, 0, True

    def __init__(self, precision: str = "fp32"):
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.in_bf16 = precision == "bf16"

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.in_bf16)

    @staticmethod
    def backward(loss: Tensor) -> None:
        loss.backward()

    @staticmethod
    def wait_for_everyone() -> None:
        """Return at once: there is nobody else."""


def open_device(wanted: str):
    """Return the device of this machine and its precision, and a line where the precision is not the one asked for."""
    keep_freed_memory()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # before CUDA starts, for equal results
    precision, note = provenance.precision(wanted, torch.cuda.is_available())
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # no operator here reads what it did not write
    torch.set_flush_denormal(True)
    if "LOCAL_RANK" not in os.environ:
        return Device(precision), precision, note
    from accelerate import Accelerator

    several_cpus = not torch.cuda.is_available()
    return Accelerator(mixed_precision="bf16" if precision == "bf16" else "no", cpu=several_cpus), precision, note


def keep_freed_memory() -> None:
    """Let glibc keep freed memory: every step takes as much as the one before, and fresh pages cost a tenth of its time."""
    with contextlib.suppress(OSError, AttributeError):  # another C library
        library = ctypes.CDLL(None)
        library.mallopt(M_MMAP_MAX, 0)
        library.mallopt(M_TRIM_THRESHOLD, -1)
