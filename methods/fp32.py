"""Full precision (Devlin et al. 2019, arXiv 1810.04805): fine-tuning, the baseline and teacher of every method."""

from torch import nn

from methods.core.train import Stage


def student(init: nn.Module, spec: dict) -> nn.Module:
    return init


def stages(spec: dict, budget: dict) -> list[Stage]:
    recipe = spec["recipe"]
    return [
        Stage(
            name="+".join(recipe["terms"]),
            epochs=recipe["epochs"] * budget["epochs_scale"],
            lr=recipe["lr"] * budget["lr_scale"],
            batch_size=budget["batch_size"] or recipe["batch_size"],
            terms=recipe["terms"],
            optimizer=recipe["optimizer"],
            warmup=recipe["warmup"],
            weight_decay=recipe["weight_decay"],
            clip=recipe["clip"],
        )
    ]
