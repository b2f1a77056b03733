"""Full precision (Devlin et al. 2019, arXiv 1810.04805): fine-tuning, the baseline and teacher of every method."""

from torch import nn

from methods.training.trainer import Sample, Stage


def student(init: nn.Module, spec: dict, sample: Sample) -> nn.Module:
    return init


def stages(spec: dict, budget: dict) -> list[Stage]:
    return [Stage.of(spec["recipe"], budget)]
