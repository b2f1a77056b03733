"""The interface of a session on torch, for what the engine cannot run and for machines without a C compiler.

On a CPU, linear layers whose weights and inputs lie on grids multiply their codes in eight bits. In an `exact` session they
do not, and it computes what scoring computed.
"""

from pathlib import Path

import numpy as np
import torch
from torch import nn

from methods.engine import MOST_THREADS
from methods.kernel import products
from methods.kernel.layers import QuantLinear
from methods.model import artifact, description
from methods.model.anatomy import anatomy
from methods.tasks import kinds
from methods.tasks.data import Split
from methods.training.device import open_device
from methods.training.loader import Loader
from methods.training.trainer import batch_outputs


class Fallback:
    """A model file, run by the code that scored it. The rows of one call are one batch, whose ranges they share."""

    kernels = "torch"

    def __init__(self, path: Path, threads: int | None = None, exact: bool = False):
        if threads:
            torch.set_num_threads(min(threads, MOST_THREADS))
        self.threads = torch.get_num_threads()
        model, self.meta = artifact.load(path)
        description.require(path, self.meta, ("kind", "padding", "max_length"))
        device, _, _ = open_device("fp32")
        self.model = model.to(device.device).eval()
        tensors = [*self.model.parameters(), *self.model.buffers()]
        if device.device.type == "cpu" and not exact:
            tensors += give_integers(self.model, path)
        self.memory = sum(tensor.nbytes for tensor in tensors)
        self._loader = Loader(
            Split(*[np.zeros(0, np.int32)] * 3),
            kinds.of(self.meta["kind"]),
            device.device,
            padding=self.meta["padding"],
            max_length=self.meta["max_length"],
            pad=model.config.pad_token_id or 0,
            segments=anatomy(model).segments,
        )

    def __call__(self, ids: np.ndarray, ends: np.ndarray, first: np.ndarray) -> list[np.ndarray]:
        """Return each row's outputs: (outputs,), (2, tokens) for spans, (tokens, outputs) for words."""
        if not len(ends):
            return []
        with products.in_integers():
            return batch_outputs(self.model, self._loader.on(Split(ids, ends, first)), np.arange(len(ends)))

    def close(self) -> None:
        """Let the model go."""
        self.__dict__.pop("model", None)

    def __enter__(self) -> "Fallback":
        return self

    def __exit__(self, *error) -> None:
        self.close()


def give_integers(model: nn.Module, path: Path) -> list[torch.Tensor]:
    """Let the linear layers of a loaded model carry the codes of its file; return those codes."""
    arrays, _ = description.read(path)
    steps = {name: torch.from_numpy(array) for name, array in arrays.items() if name.endswith(".weight.step")}
    weights = {
        f"{name}.weight.step": layer.weight for name, layer in model.named_modules() if isinstance(layer, QuantLinear)
    }
    given = [
        weights[name] for name, step in steps.items() if name in weights and products.give_integers(weights[name], step)
    ]
    return [weight.integers.codes for weight in given]
