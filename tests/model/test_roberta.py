"""RoBERTa of transformers, a second encoder: a tiny random one with a byte-level tokenizer of its own."""

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from methods.kernel.layers import Quantized
from methods.model import artifact
from methods.model.anatomy import layers, pooler
from methods.model.edits import matrices
from methods.model.encoder import Base, build, from_base, read_base, write_base
from methods.tasks import data
from methods.training import trainer
from methods.training.forward import forward
from tests.fixtures.runs_of_methods import Runs
from tests.fixtures.world import CONFIG, loader, rows_of_sst2

SPECIALS = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]  # in RoBERTa's order: padding is token 1
LONGEST = 40
PAIRS = {"sentence1": ["the film is good .", "a dog ran ."], "sentence2": ["not bad", "it was very fast ."], "label": [0, 1]}


def byte_level() -> str:
    """Return a byte-level BPE tokenizer that puts its special tokens where RoBERTa does, as tokenizer.json."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    learner = trainers.BpeTrainer(vocab_size=300, special_tokens=SPECIALS, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(rows_of_sst2(60, 1)["sentence"], learner)
    numbers = [(name, tokenizer.token_to_id(name)) for name in ("<s>", "</s>")]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=numbers
    )
    return tokenizer.to_str()


@pytest.fixture(scope="module")
def roberta() -> Base:
    tokenizer = byte_level()
    config = {
        **CONFIG,
        "model_type": "roberta",
        "vocab_size": Tokenizer.from_str(tokenizer).get_vocab_size(),
        "max_position_embeddings": LONGEST + 2,
        "type_vocab_size": 1,
        "pad_token_id": 1,
        "layer_norm_eps": 1e-5,
    }
    torch.manual_seed(0)
    weights = build(config, "sequence", 2).base_model.state_dict()
    source = {"source": "generated", "id": "tiny roberta", "revision": "seed 0"}
    return Base({name: tensor.numpy() for name, tensor in weights.items()}, config, tokenizer, source)


@pytest.fixture(scope="module")
def runs(roberta, write_task, tmp_path_factory) -> Runs:
    folder = tmp_path_factory.mktemp("roberta")
    write_base(folder / "base.safetensors", roberta)
    splits = {"train": rows_of_sst2(60, 1), "validation": rows_of_sst2(30, 2)}
    task = write_task("sst2", splits, tokenizer=roberta.tokenizer)
    return Runs(folder, {"tiny": folder / "base.safetensors"}, {"sst2": task})


def reading(task: data.TaskData, split: str, padding: str = "bucket"):
    """Return a loader that pads as RoBERTa does."""
    usual = loader(task, split, padding=padding)
    return type(usual)(usual.split, usual.kind, usual.device, 1, padding, 32, pad=1, segments=False)


def test_the_base_file_keeps_what_the_architecture_needs(roberta, tmp_path):
    write_base(tmp_path / "base", roberta)
    base, _ = read_base(tmp_path / "base")
    model = from_base(base, "sequence", 2, 1)
    assert type(model).__name__ == "RobertaForSequenceClassification"
    assert model.config.pad_token_id == 1
    assert model.base_model.embeddings.padding_idx == 1
    assert len(layers(model)) == 2 and pooler(model) is None
    assert len(matrices(model)) == 1 + 2 * 6
    assert all(
        torch.equal(model.base_model.state_dict()[name], torch.from_numpy(array)) for name, array in base.weights.items()
    )


@pytest.mark.parametrize("head", ["sequence", "span", "token"])
def test_every_head_can_be_put_on(head, roberta):
    assert from_base(roberta, head, 2, 1).record.head == head


def test_pairs_have_two_separators_and_no_segments(roberta, write_task):
    splits = {"train": PAIRS, "validation": PAIRS}
    task = data.load(write_task("rte", splits, tokenizer=roberta.tokenizer))
    first = task.train.ids[task.train.tokens(0)].tolist()
    assert (first[0], first[-1], first.count(2)) == (0, 2, 3)
    middle = first.index(2)
    assert first[middle + 1] == 2
    assert int(task.train.first[0]) == middle + 2
    batch = reading(task, "train").batch(np.arange(2))
    assert not batch["token_type_ids"].any()
    assert (batch["input_ids"][batch["attention_mask"] == 0] == 1).all()


@pytest.mark.parametrize(
    "method",
    [
        "fp32",
        "twn_2bit",
        "lsq_4bit",
        "lsq_4bit_step",
        "rtn_8bit",
        "int8_dynamic",
        "dynabert_half",
        "obert_90",
        "oberta_90_8bit",
    ],
)
def test_it_trains_packs_comes_back_and_scores(method, runs, device):
    record, folder = runs(method)
    assert record["status"] == "ok"
    student, (model, meta) = runs.students[folder].eval(), artifact.load(folder / "last.safetensors")
    assert meta["config"]["model_type"] == "roberta"
    task = data.load(runs.tasks["sst2"])
    batch = next(reading(task, "validation").sample(16))
    with torch.no_grad():
        ours, theirs = (forward(one.eval(), batch).logits[0] for one in (student, model))
    assert torch.equal(ours, theirs)
    stored = np.load(folder / "predictions.npz")["last.validation"]
    outputs = np.stack(trainer.predict(model, reading(task, "validation"), device, exact=True))
    np.testing.assert_array_equal(stored, outputs)
    size = record["size"]["last"]
    assert size["counted_bytes"] == pytest.approx(size["file_bytes"], rel=0.01)
    assert size["groups"].keys() >= {"word embedding", "position embedding", "encoder matrices", "head"}
    assert "pooler" not in size["groups"]


@pytest.mark.parametrize(("method", "weights", "activations"), [("fp32", 32, 32), ("twn_2bit", 2, 8), ("lsq_4bit", 4, 8)])
def test_its_bits_are_measured(method, weights, activations, runs):
    assert runs(method)[0]["bits"] == {"weights": weights, "embeddings": weights, "activations": activations}


@pytest.mark.parametrize("method", ["twn_2bit", "lsq_4bit"])
def test_every_matrix_and_the_word_embedding_are_quantized(method, runs):
    record, folder = runs(method)
    found = {name for name, module in runs.students[folder].named_modules() if isinstance(module, Quantized)}
    assert {name.removeprefix("roberta.") for name in found} >= set(matrices(runs.students[folder]))
    assert {(entry["layer"], entry["matrix"]) for entry in record["quantization_error"]} >= {
        (0, "word embedding"),
        *(
            (layer, part)
            for layer in (1, 2)
            for part in ("query", "key", "value", "attention output", "intermediate", "output")
        ),
    }


@pytest.mark.parametrize("method", ["fp32", "lsq_4bit"])
def test_padding_does_not_change_its_outputs(method, runs):
    """Positions count real tokens from 2 on, whatever padding follows."""
    model, task = runs.students[runs(method)[1]].eval(), data.load(runs.tasks["sst2"])
    rows = np.arange(8)
    short, long = (reading(task, "validation", padding).batch(rows) for padding in ("bucket", "max_length"))
    assert short["input_ids"].shape[1] < long["input_ids"].shape[1]
    with torch.no_grad():
        ours, theirs = (forward(model, batch).logits[0] for batch in (short, long))
    assert torch.allclose(ours, theirs, atol=1e-5)
