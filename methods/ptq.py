"""Post-training baselines: the fine-tuned model rounded as it is, with no training at all."""

from torch import nn

from methods.model.edits import edit
from methods.training.trainer import Sample, Stage


def student(init: nn.Module, spec: dict, sample: Sample) -> nn.Module:
    return edit(init, spec["recipe"]["edit"], **spec["recipe"].get("options", {}))


def stages(spec: dict, budget: dict) -> list[Stage]:
    return []
