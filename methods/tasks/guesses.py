"""Guesses of hidden words by a base model's own masked-word head."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from methods.common import interrupt
from methods.model.anatomy import ANATOMIES
from methods.model.encoder import Base, from_base
from methods.model.lean import modelling_file

TOKENS = 8192  # of a batch


class Guesser(nn.Module):
    """The encoder of a base model under its masked-word head (Devlin et al. 2019, section 3.1)."""

    def __init__(self, base: Base):
        super().__init__()
        model = from_base(base, "sequence", 2, seed=0)
        anatomy = ANATOMIES[base.config.get("model_type", "bert")]
        self.encoder, self.segments = model.base_model, anatomy.segments
        self.words = self.encoder.get_submodule(anatomy.words)
        self.pad, self.eps = model.config.pad_token_id or 0, model.config.layer_norm_eps
        self.activation = modelling_file("activations").ACT2FN[model.config.hidden_act]
        self.head = nn.ParameterDict(
            {name.replace(".", "_"): torch.from_numpy(array.copy()) for name, array in base.guesses.items()}
        )
        self.eval().requires_grad_(False)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor, types: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        """Return the scores of all words at one place of each row, (B, V), from ids, mask and types (B, S), places (B,)."""
        segments = {"token_type_ids": types} if self.segments else {}
        states = self.encoder(input_ids=ids, attention_mask=mask, **segments).last_hidden_state  # (B, S, H)
        hidden = states[torch.arange(len(ids), device=ids.device), places]  # (B, H)
        hidden = self.activation(F.linear(hidden, self.head["dense_weight"], self.head["dense_bias"]))
        hidden = F.layer_norm(hidden, hidden.shape[1:], self.head["norm_weight"], self.head["norm_bias"], self.eps)
        return F.linear(hidden, self.words.weight, self.head["bias"])

    @torch.no_grad()
    def best(self, prompts: Sequence[tuple[list[int], int, int]], count: int) -> np.ndarray:
        """Return the likeliest words of each prompt, the best first, (prompts, count).

        A prompt is its token ids, the length of its first segment and the place of the hidden word.
        """
        device, count = self.words.weight.device, min(count, len(self.words.weight))
        found = np.zeros((len(prompts), count), np.int64)
        for rows in _batches([len(ids) for ids, _, _ in prompts]):
            interrupt.check()
            width = max(len(prompts[row][0]) for row in rows)
            ids = torch.full((len(rows), width), self.pad)
            mask, types = torch.zeros_like(ids), torch.zeros_like(ids)
            for at, row in enumerate(rows):
                tokens, first, _ = prompts[row]
                ids[at, : len(tokens)] = torch.tensor(tokens)
                mask[at, : len(tokens)] = 1
                types[at, first : len(tokens)] = 1
            places = torch.tensor([prompts[row][2] for row in rows])
            scores = self(*(tensor.to(device) for tensor in (ids, mask, types, places)))
            found[rows] = scores.topk(count, dim=1).indices.cpu().numpy()
        return found


def _batches(lengths: Iterable[int]) -> Iterator[np.ndarray]:
    """Yield the numbers of rows in batches of about equal cost, neighbours in length together."""
    lengths = np.asarray(list(lengths))
    order, start = np.argsort(-lengths, kind="stable"), 0
    while start < len(order):
        rows = order[start : start + max(TOKENS // int(lengths[order[start]]), 1)]
        yield rows
        start += len(rows)
