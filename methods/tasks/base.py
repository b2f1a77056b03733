"""The base model file: imported from the hub, a folder or a package, or a micro-BERT pre-trained on generated text."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer

from methods.common import interrupt
from methods.common.errors import UserError
from methods.common.files import canonical, lock, sha256
from methods.model.anatomy import anatomy, layers
from methods.model.description import CONFIG
from methods.model.encoder import Base, build, import_base, masked_word_head, read_config, wordpiece, write_base
from methods.model.lean import modelling_file
from methods.tasks import demo, finetuned, hub, losses
from methods.tasks.data import Split, pack
from methods.training.checkpoints import Checkpoints
from methods.training.device import open_device
from methods.training.forward import forward
from methods.training.loader import Loader
from methods.training.objective import Objective
from methods.training.recipe import Optimization, Pass, Stage
from methods.training.trainer import Trainer

BertConfig = modelling_file("models.bert.configuration_bert").BertConfig
BertForMaskedLM = modelling_file("models.bert.modeling_bert").BertForMaskedLM
MaskedLMOutput = modelling_file("modeling_outputs").MaskedLMOutput

SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
EVERYTHING = (lambda value: True, "")  # of a key of config.json that no model here depends on
HELD_OUT = 0.02  # of the text, to tell how well masked words are guessed

# In a minute of pre-training a micro-BERT learns to compare two texts only from a start that favours it (ours, tried):
# queries equal keys, so that attention begins by looking for the same word, and positions weigh less than words.
SPREAD, MATCHING, POSITIONS = 0.04, 0.1, 0.3
# Of the hidden words most become [MASK], some a random word, and the rest stay. BERT takes 0.8 and 0.1; so short a
# training needs more words in plain sight.
AS_MASK, AS_OTHER = 0.6, 0.2


def make(out: Path, request: dict) -> None:
    if "finetuned" in request:
        folder = Path(request["finetuned"])
        with foreign(folder):
            base = finetuned.load(folder, request["task"])
    elif request["base"]["source"] == "generated":
        base = pretrain(request["base"], out, sha256(canonical(request).encode()))
    else:
        folder = hub.model_files(request["base"], request["mirror"])
        source = {key: request["base"].get(key) for key in ("source", "id", "revision", "sha256")}
        source["id"] = source["id"] or folder.resolve().name
        with foreign(folder):
            base = import_base(folder, source)
            Tokenizer.from_str(base.tokenizer)
    write_base(out, base)


@contextlib.contextmanager
def foreign(folder: Path) -> Iterator[None]:
    """Turn whatever goes wrong with a model folder made elsewhere into one line.

    Its numbers are checked first: a model of a million layers would take for ever to be refused.
    """
    if (folder / "config.json").is_file():
        for key, value in read_config(folder).items():
            takes, words = CONFIG.get(key, EVERYTHING)
            if not takes(value):
                raise UserError(f"{folder}/config.json: {key} is {value!r:.60} and should be {words}: copy the model again.")
    try:
        yield
    except (UserError, OSError, MemoryError):
        raise
    except Exception as error:  # transformers and tokenizers raise anything at all
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise UserError(f"{folder} holds no model that can be used ({reason}): copy the model again.") from None


def pretrain(base: dict, out: Path, identity: str) -> Base:
    """Return a micro-BERT pre-trained on masked words of generated text, as BERT (Devlin et al. 2019, section 3.1)."""
    interrupt.listen()
    torch.set_num_threads(base["threads"])
    device, _, _ = open_device("fp32")
    tokenizer_json = wordpiece([*SPECIALS, *pieces(demo.vocabulary())])
    tokenizer = Tokenizer.from_str(tokenizer_json)
    tokenizer.enable_truncation(base["positions"])
    text = masked(list(islice(demo.corpus(base["seed"]), base["texts"])), tokenizer, base)
    config = {
        "vocab_size": tokenizer.get_vocab_size(),
        "hidden_size": base["hidden"],
        "num_hidden_layers": base["layers"],
        "num_attention_heads": base["heads"],
        "intermediate_size": base["intermediate"],
        "max_position_embeddings": base["positions"],
        "initializer_range": SPREAD,
        "hidden_dropout_prob": 0.0,  # every text is read once: there is nothing to over-fit
        "attention_probs_dropout_prob": 0.0,
    }
    torch.manual_seed(base["seed"])
    model = MaskedWords(BertConfig(**config))
    lean_to_matching(model)
    wanted = Optimization(
        optimizer="adamw",
        lr=base["lr"],
        epochs=1,
        batch_size=base["batch_size"],
        warmup=base["warmup"],
        weight_decay=0.01,
        clip="global",
    )
    stage = Stage("masked words", (Pass(Objective({"labels": 1.0})),), wanted)
    loader = Loader(text["train"], HiddenWords(), device.device, base["seed"], max_length=base["positions"])
    folder = out.with_name(f"{out.name}.checkpoints")
    with lock(folder):
        checkpoints = Checkpoints(folder, identity)
        Trainer(
            model,
            [stage],
            loader,
            lambda student: {"masked words right": accuracy(student, loader.on(text["held out"]))},
            device,
            evaluate_every=stage.steps(len(loader)),
            checkpoints=checkpoints,
            title="pre-training",
        ).fit()
        checkpoints.clear()
    # The pooler was not trained: next-sentence prediction gains nothing (Liu et al. 2019), so it starts at random, seeded.
    torch.manual_seed(base["seed"])
    skeleton = build(config, "sequence", 2).base_model
    skeleton.load_state_dict(model.bert.state_dict(), strict=False)
    weights = {name: tensor.numpy() for name, tensor in skeleton.state_dict().items()}
    trained = {name.removeprefix("bert."): tensor.numpy() for name, tensor in model.state_dict().items()}
    guesses = masked_word_head(trained, {**config, "model_type": "bert"})
    source = {
        "source": "generated",
        "id": "micro-BERT pre-trained on generated text",
        "revision": f"seed {base['seed']}",
    }
    dropout = {"hidden_dropout_prob": base["dropout"], "attention_probs_dropout_prob": base["dropout"]}
    return Base(weights, {**config, **dropout, "initializer_range": 0.02}, tokenizer_json, source, guesses=guesses)


class HiddenWords:
    """The loss of pre-training, with the interface of a task kind's."""

    def loss(self, logits: tuple, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return each text's mean cross-entropy over its hidden words, (B,)."""
        return losses.tokens(*logits, batch["words"])


class MaskedWords(BertForMaskedLM):
    """BERT on masked text, whose head scores a word only when it is looked up: six places in seven are not hidden."""

    def forward(self, **inputs):
        return MaskedLMOutput(logits=OnDemand(self.bert(**inputs).last_hidden_state, self.cls))


@dataclass(frozen=True)
class OnDemand:
    """Scores of all words, computed at the places that are looked up."""

    hidden: torch.Tensor  # (B, S, H)
    head: torch.nn.Module

    def __getitem__(self, places: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        return self.head(self.hidden[places])  # (places, V)


@torch.no_grad()
def lean_to_matching(model) -> None:
    """Let a fresh model begin by looking for the same word."""
    model.base_model.get_submodule(anatomy(model).positions).weight.mul_(POSITIONS)
    for layer in layers(model):
        layer["query"].weight.normal_(0, MATCHING)
        layer["key"].weight.copy_(layer["query"].weight)


def pieces(words: list[str]) -> list[str]:
    """Return the words, and letters and digits in both positions, so that text from outside is spelled and not unknown."""
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    return list(dict.fromkeys([*words, *letters, *(f"##{letter}" for letter in letters)]))


def masked(texts, tokenizer: Tokenizer, base: dict) -> dict[str, Split]:
    """Return rows with words hidden, once and for all (Devlin et al. 2019, appendix A.1); a share is held out."""
    encodings = tokenizer.encode_batch([(a, b) if b else a for a, b in texts])
    random = np.random.default_rng(base["seed"])
    mask, words = tokenizer.token_to_id("[MASK]"), tokenizer.get_vocab_size()
    count = int(len(encodings) * HELD_OUT)
    splits = {}
    for name, members in (("held out", encodings[:count]), ("train", encodings[count:])):
        first = [encoding.type_ids.index(1) if 1 in encoding.type_ids else len(encoding) for encoding in members]
        split = pack([encoding.ids for encoding in members], first)
        chosen = (split.ids >= len(SPECIALS)) & (random.random(len(split.ids)) < base["masked"])
        starts = split.ends - split.lengths
        chosen[starts + 1] |= ~np.logical_or.reduceat(chosen, starts)  # no text without a hidden word
        targets = np.where(chosen, split.ids, -100).astype(np.int64)
        fate = random.random(len(split.ids))
        other = random.integers(len(SPECIALS), words, len(split.ids), dtype=np.int32)
        split.ids[chosen & (fate < AS_MASK)] = mask
        swapped = chosen & (fate >= AS_MASK) & (fate < AS_MASK + AS_OTHER)
        split.ids[swapped] = other[swapped]
        splits[name] = replace(split, targets={"words": targets})
    return splits


@torch.no_grad()
def accuracy(model, loader: Loader) -> float:
    """Return the percentage of hidden words that the model guesses."""
    model.eval()
    right = total = 0
    for rows in loader.in_order(64):
        batch = loader.batch(rows)
        hidden = (batch["words"] != -100).nonzero(as_tuple=True)
        guesses = forward(model, batch).logits[0][hidden].argmax(1)  # (words,)
        right += int((guesses == batch["words"][hidden]).sum())
        total += len(guesses)
    return 100 * right / total
