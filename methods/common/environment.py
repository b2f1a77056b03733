"""Environment variables of the libraries: none may change a result unseen.

A run's request names everything that its numbers depend on. Variables that change how a library computes are therefore
removed before any library is loaded; those that only name places, threads, memory or logs stay.
"""

import os
from collections.abc import Iterable, MutableMapping

CHANGE_RESULTS = (
    *("ACCELERATE_", "ATEN_", "BLIS_", "CUBLAS", "CUDNN_", "DNNL_", "FSDP_", "GOMP_", "KMP_", "MKL_", "NVIDIA_TF32", "OMP_"),
    *("ONEDNN_", "OPENBLAS_", "PYTORCH_", "TORCH", "TRANSFORMERS_", "USE_", "XLA_", "NPY_", "DISABLE_KERNEL_MAPPING"),
)
HARMLESS = (
    # Where things are.
    *("TORCH_HOME", "TORCH_EXTENSIONS_DIR", "TORCHINDUCTOR_CACHE_DIR", "TRANSFORMERS_CACHE", "TRANSFORMERS_OFFLINE"),
    # How many threads there are, where they run and how they wait. A run sets the number of its own threads.
    *("OMP_NUM_THREADS", "OMP_THREAD_LIMIT", "OMP_WAIT_POLICY", "OMP_PROC_BIND", "OMP_PLACES", "OMP_STACKSIZE"),
    *("GOMP_CPU_AFFINITY", "GOMP_SPINCOUNT", "KMP_AFFINITY", "KMP_BLOCKTIME", "KMP_DUPLICATE_LIB_OK"),
    *("MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "BLIS_NUM_THREADS", "TORCHINDUCTOR_COMPILE_THREADS"),
    # Memory, logs, and how processes find each other.
    *("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "TORCH_LOGS", "TORCH_CPP_LOG_LEVEL", "TRANSFORMERS_VERBOSITY"),
    *("TORCH_NCCL_", "TORCHELASTIC_", "TORCH_DISTRIBUTED_DEBUG", "USER", "USERNAME", "USE_HOST"),
)


OWN = {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"}  # what a run sets itself, and hands down to the processes that it starts


def changing(names: Iterable[str]) -> list[str]:
    """Return the names of variables that could change a result."""
    return sorted(name for name in names if name.startswith(CHANGE_RESULTS) and not name.startswith(HARMLESS))


def clean(environment: MutableMapping[str, str] = os.environ) -> list[str]:
    """Remove the variables that could change a result; return their names.

    In the processes that `accelerate launch` starts they stay: the launcher sets them, from an environment that was clean.
    """
    if "LOCAL_RANK" in environment:
        return []
    removed = changing(name for name, value in environment.items() if OWN.get(name) != value)
    for name in removed:
        del environment[name]
    return removed
