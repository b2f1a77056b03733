"""KDLSQ-BERT (Jin et al. 2021, arXiv 2101.05938): learned quantization ranges under layer-wise distillation, 2 to 8 bits.

The authors' code learns a clip threshold for every weight and activation tensor, without LSQ's gradient scale; true LSQ
steps are the `step` kind of quantizer. Ranges are set on training batches before the first step.
"""

from itertools import islice

from torch import nn

from methods.model.edits import calibrate, edit
from methods.training.trainer import Sample, Stage


def student(init: nn.Module, spec: dict, sample: Sample) -> nn.Module:
    recipe = spec["recipe"]
    edit(init, "quantize", **{part: recipe[part] for part in ("weights", "embeddings", "positions", "activations")})
    calibrate(init, islice(sample, recipe["calibration_batches"]))
    return init


def stages(spec: dict, budget: dict) -> list[Stage]:
    return [Stage.of(spec["recipe"], budget)]
