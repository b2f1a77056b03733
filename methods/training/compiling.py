"""Compilation of the kernel's chains: only where that wins more than it costs, and where it works at all."""

from torch import nn

from methods.kernel import fusing
from methods.tasks.data import Split
from methods.training.recipe import Stage

# Tokens x layers x width at which a fused step has saved what compiling costs (20 to 30 s for a machine's first run).
# Measured on two cores with a 6-layer, 384-wide model; a graphics card does the same work in a fiftieth of the time.
BREAK_EVEN = {"cpu": 0.8e9, "cuda": 40e9}


def compiles(wanted: str, student: nn.Module, stages: list[Stage], train: Split, device: str) -> tuple[bool, str | None]:
    """Return whether to compile, and a line for the log where it was asked for and cannot be done.

    A function of the run alone, so that one that is resumed goes on as it began.
    """
    pays = wanted == "always"
    if wanted == "auto":
        rows = sum(stage.steps(len(train)) * stage.optimization.batch_size for stage in stages)
        config = student.config
        work = rows * float(train.lengths.mean()) * config.num_hidden_layers * config.hidden_size
        pays = bool(student.record.edits) and work > BREAK_EVEN.get(device, float("inf"))
    if not pays:
        return False, None
    reason = fusing.trouble(device)
    if reason is not None:
        line = f"torch.compile does not work here ({reason}): training goes on uncompiled, which is slower"
        return False, line
    return True, None
