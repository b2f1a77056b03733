"""The interface of a session on torch: the reference, and the way to run what the engine cannot."""

from pathlib import Path

import numpy as np
import torch

from methods.model import artifact
from methods.model.anatomy import anatomy
from methods.tasks import kinds
from methods.tasks.data import Split
from methods.training.device import open_device
from methods.training.loader import Loader
from methods.training.trainer import batch_outputs


class Fallback:
    """A model file, run by the code that scored it."""

    kernels = "torch"

    def __init__(self, path: Path, threads: int | None = None):
        if threads:
            torch.set_num_threads(threads)
        self.threads = torch.get_num_threads()
        model, self.meta = artifact.load(path)
        device, _, _ = open_device("fp32")
        self.model = model.to(device.device).eval()
        tensors = [*model.parameters(), *model.buffers()]
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
        rows = np.arange(len(ends))
        return batch_outputs(self.model, self._loader.on(Split(ids, ends, first)), rows) if len(rows) else []

    def close(self) -> None:
        """Let the model go."""
        self.__dict__.pop("model", None)

    def __enter__(self) -> "Fallback":
        return self

    def __exit__(self, *error) -> None:
        self.close()
