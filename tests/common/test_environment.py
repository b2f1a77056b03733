"""No environment variable of a library changes a result unseen; places, threads and logs stay."""

import pytest

from methods.common import environment


@pytest.mark.parametrize(
    "name",
    [
        *("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "ACCELERATE_MIXED_PRECISION", "ATEN_CPU_CAPABILITY", "MKL_CBWR"),
        *("ONEDNN_DEFAULT_FPMATH_MODE", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE", "TORCHINDUCTOR_MAX_AUTOTUNE", "OMP_DYNAMIC"),
        *("TORCHDYNAMO_DISABLE", "NVIDIA_TF32_OVERRIDE", "USE_HUB_KERNELS", "CUBLAS_WORKSPACE_CONFIG", "OPENBLAS_CORETYPE"),
    ],
)
def test_what_changes_how_libraries_compute_is_removed(name):
    found = {name: "1", "PATH": "/bin"}
    assert environment.clean(found) == [name]
    assert found == {"PATH": "/bin"}


@pytest.mark.parametrize(
    "name",
    [
        *(
            "HF_HOME",
            "HF_TOKEN",
            "HF_ENDPOINT",
            "HF_HUB_OFFLINE",
            "TRANSFORMERS_OFFLINE",
            "TORCH_HOME",
            "CUDA_VISIBLE_DEVICES",
        ),
        *(
            "OMP_NUM_THREADS",
            "MKL_NUM_THREADS",
            "OMP_WAIT_POLICY",
            "PYTORCH_CUDA_ALLOC_CONF",
            "TORCHINDUCTOR_CACHE_DIR",
            "USER",
        ),
        *("PATH", "HOME", "PYTHONPATH", "TOKENIZERS_PARALLELISM", "RANK", "MASTER_ADDR"),
    ],
)
def test_places_threads_and_logs_stay(name):
    assert environment.changing([name]) == []


def test_the_launchers_own_variables_stay_in_the_processes_that_it_starts():
    found = {"LOCAL_RANK": "0", "ACCELERATE_MIXED_PRECISION": "no"}
    assert environment.clean(found) == []
    assert len(found) == 2
