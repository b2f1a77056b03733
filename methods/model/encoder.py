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
from methods.model.description import CONFIG

HEAD = "head."  # prefix of the head's arrays in a base model file
GUESSES = "guesses."  # and of the masked-word head's


@dataclass(frozen=True)
class Base:
    """A pretrained model as one sealed file: encoder, configuration, tokenizer and where they come from."""

    weights: dict[str, np.ndarray]
    config: dict
    tokenizer: str
    source: dict
    head: dict[str, np.ndarray] = field(default_factory=dict)  # of a fine-tuned model; a pretrained one has none
    # The masked-word head: `dense.weight`, `dense.bias`, `norm.weight`, `norm.bias`, `bias`. Empty where there is none.
    guesses: dict[str, np.ndarray] = field(default_factory=dict)


def write_base(path: Path, base: Base) -> None:
    tokenizer = np.frombuffer(base.tokenizer.encode(), np.uint8)
    heads = {f"{HEAD}{name}": array for name, array in base.head.items()}
    heads |= {f"{GUESSES}{name}": array for name, array in base.guesses.items()}
    write_sealed(path, {**base.weights, **heads, "tokenizer": tokenizer}, {"config": base.config, "source": base.source})


def read_base(path: Path) -> tuple[Base, str]:
    """The base model and the SHA-256 of its file."""
    arrays, meta = read_sealed(path)
    if "tokenizer" not in arrays:
        raise UserError(f"{path} is no base model file: name the base.safetensors of a preset.")
    tokenizer = arrays.pop("tokenizer").tobytes().decode()
    head, guesses = (
        {name.removeprefix(prefix): arrays.pop(name) for name in list(arrays) if name.startswith(prefix)}
        for prefix in (HEAD, GUESSES)
    )
    return Base(arrays, meta["config"], tokenizer, meta["source"], head, guesses), sha256_file(path)


def import_base(folder: Path, source: dict, head: str = "sequence", outputs: int | None = None) -> Base:
    """A base model from the plain files of a hub repository, whatever prefix or old names its weights carry.

    With `outputs` the head is taken over too: it is that of a fine-tuned model.
    """
    config = read_config(folder)
    path = folder / "model.safetensors"
    if not path.is_file():
        raise UserError(f"{folder} holds no model.safetensors (pickled weights are never loaded): convert the model first.")
    if source.get("sha256") and sha256_file(path) != source["sha256"]:
        raise UserError(
            f"{path} is damaged or another model (its SHA-256 is not {source['sha256'][:12]}...): fetch it again."
        )
    stored = read_weights(path, config["model_type"])
    anatomy = ANATOMIES[config["model_type"]]
    with torch.device("meta"):
        expected = build(known(config), head, outputs or 2)
    weights, heads = {}, {}
    for name, tensor in expected.state_dict().items():
        if anatomy.is_head(name):
            if outputs is not None:
                heads[name] = _expected(stored, name, tensor.shape, path, "")
        else:
            own = name.removeprefix(f"{expected.base_model_prefix}.")
            weights[own] = _expected(stored, own, tensor.shape, path, ": a base model needs the whole encoder")
    guesses = masked_word_head(stored, config)
    return Base(weights, known(config), tokenizer_json(folder), {**source, "sha256": sha256_file(path)}, heads, guesses)


def masked_word_head(stored: dict[str, np.ndarray], config: dict) -> dict[str, np.ndarray]:
    """Return the masked-word head among a model's weights, by the names of `Base.guesses`; nothing where it is not whole.

    Its last matrix is the word embedding. A head with another one is not taken over.
    """
    anatomy = ANATOMIES[config["model_type"]]
    width, places = config["hidden_size"], anatomy.guesses
    shapes = {f"{part}.bias": (width,) for part in ("dense", "norm")}
    shapes |= {"dense.weight": (width, width), "norm.weight": (width,), "bias": (config["vocab_size"],)}
    found = {}
    for name, shape in shapes.items():
        part, _, parameter = name.partition(".")
        array = stored.get(f"{places[part]}.{parameter}" if parameter else places[part])
        if array is None or array.shape != shape:
            return {}
        found[name] = array
    own = stored.get(f"{places['bias'].removesuffix('bias')}decoder.weight")
    tied = own is None or np.array_equal(own, stored[f"{anatomy.words}.weight"])
    return found if tied else {}


def read_config(folder: Path) -> dict:
    """The config.json of a model that can be used here."""
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        raise UserError(f"{path} is missing or no JSON: name a folder with config.json and model.safetensors.") from None
    kind = config.get("model_type") if isinstance(config, dict) else None
    if not isinstance(kind, str) or kind not in ANATOMIES:
        raise UserError(f"{path} describes a {kind!r:.60} model, which cannot be used. There are: {', '.join(ANATOMIES)}.")
    return config


def read_weights(path: Path, architecture: str) -> dict[str, np.ndarray]:
    """The weights of a safetensors file in fp32, without the encoder's prefix and under today's names."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is damaged or no safetensors file ({error}): copy the model again.") from None
    short = {name: name.removeprefix(f"{architecture}.") for name in tensors}
    names = {name: one.replace(".gamma", ".weight").replace(".beta", ".bias") for name, one in short.items()}
    return {names[name]: tensor.float().numpy() for name, tensor in tensors.items()}


def _expected(stored: dict[str, np.ndarray], name: str, shape: torch.Size, path: Path, hint: str) -> np.ndarray:
    """Return a stored weight, if it has the shape that the configuration says."""
    if name not in stored:
        raise UserError(f"{path} lacks {name!r}{hint}.")
    if stored[name].shape != tuple(shape):
        raise UserError(f"{path}: {name!r} has shape {stored[name].shape}, but {tuple(shape)} was expected.")
    return stored[name]


def known(config: dict) -> dict:
    """The architecture alone: no paths, versions or heads of whoever saved it."""
    return {key: config[key] for key in CONFIG if key in config}


def tokenizer_json(folder: Path) -> str:
    """The tokenizer of a model folder, as tokenizer.json."""
    if (folder / "tokenizer.json").is_file():
        return (folder / "tokenizer.json").read_text(encoding="utf-8")
    if (folder / "vocab.txt").is_file():
        settings = folder / "tokenizer_config.json"
        cased = settings.is_file() and json.loads(settings.read_text(encoding="utf-8")).get("do_lower_case") is False
        return wordpiece((folder / "vocab.txt").read_text(encoding="utf-8").splitlines(), lowercase=not cased)
    raise UserError(f"{folder} holds neither tokenizer.json nor vocab.txt: copy one of them from the hub.")


def wordpiece(vocabulary: list[str], lowercase: bool = True) -> str:
    """BERT's WordPiece tokenizer over a vocabulary, as tokenizer.json."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    numbers = {word: number for number, word in enumerate(vocabulary)}
    tokenizer = Tokenizer(models.WordPiece(numbers, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
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
    model.record = Record({key: getattr(settings, key) for key in CONFIG}, head, max(outputs, 1))
    return model


@dataclass
class Record:
    """A model beside its tensors: the stock encoder it was made from, its head, and the edits made since."""

    config: dict
    head: str
    outputs: int
    edits: list[dict] = field(default_factory=list)


def from_base(base: Base, head: str, outputs: int, seed: int) -> nn.Module:
    """Return the pretrained encoder under a new head, which depends on the run's seed, or under the base's own head."""
    torch.manual_seed(seed)
    model = build(base.config, head, outputs)
    anatomy = ANATOMIES[base.config.get("model_type", "bert")]
    prefix = model.base_model_prefix
    weights = {f"{prefix}.{name}": torch.from_numpy(array.copy()) for name, array in base.weights.items()}
    weights |= {name: torch.from_numpy(array.copy()) for name, array in base.head.items()}
    expected = model.state_dict().keys()
    model.load_state_dict({name: tensor for name, tensor in weights.items() if name in expected}, strict=False)
    if missing := [name for name in expected if name not in weights and not anatomy.is_head(name)]:
        raise UserError(f"The base model lacks {missing[0]!r}: make it again.")
    return model


def logits(output) -> tuple[torch.Tensor, ...]:
    """Return a head's scores: (B, outputs) once, (B, S) twice for spans, or (B, S, outputs) once for words."""
    if hasattr(output, "start_logits"):
        return output.start_logits, output.end_logits
    return (output.logits,)
