"""On what a run ran: packages (they belong to the result), and the machine (it does not)."""

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

PACKAGES = (
    "torch",
    "transformers",
    "accelerate",
    "tokenizers",
    "safetensors",
    "numpy",
    "scipy",
    "scikit-learn",
    "datasets",
)
TOLD_FLAGS = ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8", "asimd", "bf16", "sve")
BF16_FLAGS = {"amx_bf16", "avx512_bf16", "bf16"}  # arithmetic in hardware; elsewhere bf16 is slower than fp32


def packages() -> dict[str, str]:
    return {name: metadata.version(name) for name in PACKAGES}


def cpu() -> tuple[str, list[str]]:
    """Model name and the instruction sets that matter here, as far as the system tells."""
    name, flags = platform.processor() or platform.machine(), []
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                name = value.strip()
            if key.strip() in ("flags", "Features"):
                flags = [flag for flag in TOLD_FLAGS if flag in value.split()]
                break
    except OSError:
        pass  # not Linux: the name from above has to do
    return name, flags


def precision(wanted: str, cuda: bool) -> tuple[str, str | None]:
    """The precision to train in, and a line for the log where it is not the one that was asked for."""
    if wanted in ("fp32", "codes"):
        return wanted, None
    if cuda:
        import torch

        able = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        able = bool(BF16_FLAGS & set(cpu()[1]))
    if able:
        return "bf16", None
    return (
        "fp32",
        "bf16 was asked for, but this device has none in hardware: training in fp32" if wanted == "bf16" else None,
    )


def git() -> tuple[str | None, bool | None]:
    """Commit of the working copy and whether it has uncommitted changes; None where there is no git."""
    root = Path(__file__).resolve().parents[2]

    def run_git(*words: str) -> str | None:
        try:
            answer = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True)
        except OSError:
            return None
        return answer.stdout.strip() if answer.returncode == 0 else None

    commit = run_git("rev-parse", "HEAD")
    return commit, (run_git("status", "--porcelain", "--untracked-files=no") != "") if commit else None


def device() -> dict:
    """Return the processor and the system, without torch."""
    name, flags = cpu()
    return {"cpu": name, "flags": flags, "cores": os.cpu_count(), "platform": platform.platform()}


def machine() -> dict:
    """Return everything of the machine that a run names, its GPU included."""
    import torch

    commit, dirty = git()
    return {
        **device(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "git_commit": commit,
        "git_dirty": dirty,
    }


def resident_bytes() -> int | None:
    """Return the bytes of this process that lie in memory; None where the system does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return None  # not Linux
    return pages * os.sysconf("SC_PAGE_SIZE")
