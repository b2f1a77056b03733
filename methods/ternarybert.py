"""TernaryBERT (Zhang et al. 2020, arXiv 2009.12812): ternary weights trained under distillation, by TWN or by LAT.

The student is the fine-tuned teacher with quantizers in it; it follows the teacher's embedding output, layer outputs,
attention scores and logits, all from the first step (equations 9 to 12), and sees no label.
"""

from torch import nn

from methods.kernel.layers import Quantized
from methods.kernel.quantizers import LossAware
from methods.model.edits import edit
from methods.training.trainer import Sample, Stage


def student(init: nn.Module, spec: dict, sample: Sample) -> nn.Module:
    recipe = spec["recipe"]
    return edit(init, "quantize", **{part: recipe[part] for part in ("weights", "embeddings", "activations")})


def stages(spec: dict, budget: dict) -> list[Stage]:
    loss_aware = spec["recipe"]["weights"]["kind"] == "loss_aware"
    return [Stage.of(spec["recipe"], budget, on_step=watch_curvature if loss_aware else None)]


def watch_curvature(student: nn.Module, optimizer, *_) -> None:
    """Hand Adam's second moment of every loss-aware weight to its quantizer, for the next step (Hou & Kwok 2018)."""
    for module in student.modules():
        if isinstance(module, Quantized) and isinstance(module.weight_quantizer, LossAware):
            module.weight_quantizer.watch(optimizer.state[module.weight]["exp_avg_sq"])
