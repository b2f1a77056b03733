"""Encoders: a stock model of transformers with a head for the task, built from a base file or from a description."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import nn

from methods.common.errors import UserError
from methods.common.files import read_sealed, sha256_file, write_sealed
from methods.kernel.layers import Dropout
from methods.model.anatomy import ANATOMIES


@dataclass(frozen=True)
class Base:
    """A pretrained model as one sealed file: encoder, configuration, tokenizer and where they come from."""

    weights: dict[str, np.ndarray]
    config: dict
    tokenizer: str
    source: dict


def write_base(path: Path, base: Base) -> None:
    tokenizer = np.frombuffer(base.tokenizer.encode(), np.uint8)
    write_sealed(path, {**base.weights, "tokenizer": tokenizer}, {"config": base.config, "source": base.source})


def read_base(path: Path) -> tuple[Base, str]:
    """The base model and the SHA-256 of its file."""
    weights, meta = read_sealed(path)
    tokenizer = weights.pop("tokenizer").tobytes().decode()
    return Base(weights, meta["config"], tokenizer, meta["source"]), sha256_file(path)


def import_base(folder: Path, source: dict) -> Base:
    """A base model from the plain files of a hub repository, whatever prefix or old names its weights carry."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if config.get("model_type") not in ANATOMIES:
        raise UserError(
            f"{folder}/config.json describes a {config.get('model_type')!r} model, which cannot be used. "
            f"There are: {', '.join(ANATOMIES)}."
        )
    path = folder / "model.safetensors"
    if not path.is_file():
        raise UserError(f"{folder} holds no model.safetensors (pickled weights are never loaded): convert the model first.")
    if source.get("sha256") and sha256_file(path) != source["sha256"]:
        raise UserError(
            f"{path} is damaged or another model (its SHA-256 is not {source['sha256'][:12]}...): fetch it again."
        )
    from safetensors.torch import load_file

    weights = {}
    for name, tensor in load_file(path).items():
        name = name.removeprefix(f"{config['model_type']}.").replace(".gamma", ".weight").replace(".beta", ".bias")
        weights[name] = tensor.float().numpy()
    expected = build(known(config), "sequence", 2).base_model.state_dict()
    if missing := [name for name in expected if name not in weights]:
        raise UserError(f"{path} lacks {missing[0]!r}: a base model needs the whole encoder, with a pooler where it has one.")
    kept = {name: weights[name] for name in expected}
    return Base(kept, known(config), _tokenizer_json(folder, config), {**source, "sha256": sha256_file(path)})


def known(config: dict) -> dict:
    """The architecture alone: no paths, versions or heads of whoever saved it."""
    keys = (
        "model_type vocab_size hidden_size num_hidden_layers num_attention_heads intermediate_size hidden_act "
        "hidden_dropout_prob attention_probs_dropout_prob max_position_embeddings type_vocab_size initializer_range layer_norm_eps pad_token_id"
    )
    return {key: config[key] for key in keys.split() if key in config}


def _tokenizer_json(folder: Path, config: dict) -> str:
    if (folder / "tokenizer.json").is_file():
        return (folder / "tokenizer.json").read_text(encoding="utf-8")
    if (folder / "vocab.txt").is_file():
        vocabulary = (folder / "vocab.txt").read_text(encoding="utf-8").splitlines()
        return wordpiece(vocabulary)
    raise UserError(f"{folder} holds neither tokenizer.json nor vocab.txt: copy one of them from the hub.")


def wordpiece(vocabulary: list[str]) -> str:
    """BERT's lower-casing WordPiece tokenizer over a vocabulary, as tokenizer.json."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    numbers = {word: number for number, word in enumerate(vocabulary)}
    tokenizer = Tokenizer(models.WordPiece(numbers, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", numbers["[CLS]"]), ("[SEP]", numbers["[SEP]"])],
    )
    return tokenizer.to_str()


def build(config: dict, head: str, outputs: int) -> nn.Module:
    """Return a stock encoder of transformers under a head, freshly initialised from torch's random state.

    Only its dropout is cheaper. `model.record` holds what the model is and which edits were made to it.
    """
    anatomy = ANATOMIES[config.get("model_type", "bert")]
    settings = anatomy.config_class()(**{key: value for key, value in config.items() if key != "model_type"})
    settings.num_labels = max(outputs, 1)
    model = anatomy.model_class(head)(settings)
    for parent in list(model.modules()):
        for name, module in parent.named_children():
            if type(module) is nn.Dropout:
                setattr(parent, name, Dropout(module.p))
    model.record = Record(known(config), head, outputs)
    return model


@dataclass
class Record:
    """What a model is beside its tensors: the stock encoder it was made from, its head, and the edits made since."""

    config: dict
    head: str
    outputs: int
    edits: list[dict] = field(default_factory=list)


def from_base(base: Base, head: str, outputs: int, seed: int) -> nn.Module:
    """Return the pretrained encoder under a new head, which depends on the run's seed."""
    torch.manual_seed(seed)
    model = build(base.config, head, outputs)
    anatomy = ANATOMIES[base.config.get("model_type", "bert")]
    prefix = model.base_model_prefix
    weights = {f"{prefix}.{name}": torch.from_numpy(array.copy()) for name, array in base.weights.items()}
    expected = model.state_dict().keys()
    model.load_state_dict({name: tensor for name, tensor in weights.items() if name in expected}, strict=False)
    if missing := [name for name in expected if name not in weights and not anatomy.is_head(name)]:
        raise UserError(f"The base model lacks {missing[0]!r}: make it again.")
    return model


def logits(output) -> tuple[torch.Tensor, ...]:
    """Return a head's scores: (B, labels) once, or (B, S) twice for spans."""
    if hasattr(output, "start_logits"):
        return output.start_logits, output.end_logits
    return (output.logits,)
