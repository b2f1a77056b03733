"""A user's own fine-tuned model: taken over with its head, or refused in one line."""

import json
import shutil

import numpy as np
import pytest
import torch
from transformers.models.bert.configuration_bert import BertConfig
from transformers.models.bert.modeling_bert import (
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
)

from methods import fp32
from methods import run as harness
from methods.common.errors import UserError
from methods.model import artifact
from methods.model.encoder import from_base, logits, read_base, write_base
from methods.tasks import data, encode, finetuned, sources
from methods.training.forward import forward
from tests.fixtures.world import CONFIG

TASK = {"name": "mine", "kind": "classification", "labels": ["negative", "positive"]}
NAMED = {0: "negative", 1: "positive"}
HEADS = {
    "classification": (BertForSequenceClassification, {"id2label": NAMED}, ["negative", "positive"]),
    "regression": (BertForSequenceClassification, {"num_labels": 1}, []),
    "span": (BertForQuestionAnswering, {}, []),
}


@pytest.fixture
def save(tmp_path, base):
    """`save(BertForSequenceClassification, id2label=...)`: a folder as transformers saves it, and the model."""

    def save(architecture, **changes):
        torch.manual_seed(0)
        model = architecture(BertConfig(**{**CONFIG, **changes})).eval()
        model.save_pretrained(tmp_path / "model")
        (tmp_path / "model/tokenizer.json").write_text(base.tokenizer)
        return tmp_path / "model", model

    return save


def inputs() -> dict:
    ids = torch.tensor([[2, 7, 4, 3], [2, 4, 9, 3]])
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "token_type_ids": torch.zeros_like(ids)}


@pytest.mark.parametrize("kind", HEADS)
def test_the_base_file_computes_what_the_folder_does(save, tmp_path, kind):
    architecture, changes, labels = HEADS[kind]
    folder, model = save(architecture, **changes)
    write_base(tmp_path / "base.safetensors", finetuned.load(folder, {"name": "mine", "kind": kind, "labels": labels}))
    base, _ = read_base(tmp_path / "base.safetensors")
    from methods.tasks import kinds

    taken = from_base(base, kinds.of(kind).head, kinds.of(kind).outputs(labels), seed=1).eval()
    with torch.no_grad():
        for ours, theirs in zip(forward(taken, inputs()).logits, logits(model(**inputs())), strict=True):
            assert torch.equal(ours, theirs)
    assert base.source["source"] == "finetuned" and base.source["id"] == "model"


def test_outputs_are_matched_by_name_and_put_in_the_tasks_order(save):
    folder, model = save(BertForSequenceClassification, id2label={0: "Positive", 1: "Negative"})
    taken = from_base(finetuned.load(folder, TASK), "sequence", 2, seed=1).eval()
    with torch.no_grad():
        assert torch.equal(forward(taken, inputs()).logits[0], model(**inputs()).logits.flip(1))


def test_labels_without_names_keep_their_order(save):
    folder, model = save(BertForSequenceClassification)
    assert np.array_equal(finetuned.load(folder, TASK).head["classifier.weight"], model.classifier.weight.detach())


@pytest.mark.parametrize(
    ("task", "architecture", "changes", "line"),
    [
        (
            {"labels": ["a", "b"]},
            BertForSequenceClassification,
            {"id2label": NAMED},
            "has the labels negative, positive, but",
        ),
        (
            {},
            BertForSequenceClassification,
            {"num_labels": 3},
            r"has 3 labels \(LABEL_0, LABEL_1, LABEL_2\), but mine has 2",
        ),
        ({"kind": "regression", "labels": []}, BertForSequenceClassification, {}, "has 2 outputs, but mine needs 1"),
        ({}, BertForQuestionAnswering, {}, "a BertForQuestionAnswering, but a classification task needs a BertForSequence"),
        ({}, BertForTokenClassification, {}, "a BertForTokenClassification, but a classification task needs"),
        (
            {"kind": "span", "labels": []},
            BertForSequenceClassification,
            {},
            "but a span task needs a BertForQuestionAnswering",
        ),
        (
            {},
            BertForSequenceClassification,
            {"problem_type": "multi_label_classification"},
            "gives several labels to a text",
        ),
    ],
)
def test_a_model_of_another_task_is_one_line(save, task, architecture, changes, line):
    folder, _ = save(architecture, **changes)
    with pytest.raises(UserError, match=line) as error:
        finetuned.load(folder, {**TASK, **task})
    assert "\n" not in str(error.value)


def damage(folder, how: str) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    match how:
        case "no config":
            path.unlink()
        case "electra":
            path.write_text(json.dumps({**config, "model_type": "electra"}))
        case "a list":
            path.write_text("[]")
        case "no head":
            path.write_text(json.dumps({**config, "architectures": None}))
            from safetensors.torch import load_file, save_file

            weights = load_file(folder / "model.safetensors")
            save_file(
                {name: value for name, value in weights.items() if "classifier" not in name}, folder / "model.safetensors"
            )
        case "cut":
            path = folder / "model.safetensors"
            path.write_bytes(path.read_bytes()[:-10])
        case "no weights":
            (folder / "model.safetensors").unlink()
        case "wider":
            path.write_text(json.dumps({**config, "hidden_size": 32}))
        case "few words":
            path.write_text(json.dumps({**config, "vocab_size": 5}))
        case "not finite":
            from safetensors.torch import load_file, save_file

            weights = load_file(folder / "model.safetensors")
            weights["classifier.bias"][0] = float("nan")
            save_file(weights, folder / "model.safetensors")
        case "no tokenizer":
            (folder / "tokenizer.json").unlink()
        case "bad tokenizer":
            (folder / "tokenizer.json").write_text("{}")
        case "nowhere":
            shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("how", "line"),
    {
        "no config": r"config\.json is missing or no JSON",
        "electra": "describes a 'electra' model",
        "a list": r"config\.json describes a None model",
        "no head": "lacks 'classifier.weight'",
        "cut": "is damaged or no safetensors file",
        "no weights": r"holds no model\.safetensors",
        "wider": r"has shape \(24, 16\), but \(24, 32\) was expected",
        "few words": r"has shape \(24, 16\), but \(5, 16\) was expected",
        "not finite": "'classifier.bias' holds a number that is not finite",
        "no tokenizer": r"neither tokenizer\.json nor vocab\.txt",
        "bad tokenizer": "The tokenizer of .* cannot be read",
        "nowhere": "is no folder: correct `finetuned` of mine",
    }.items(),
)
def test_a_damaged_folder_is_one_line(save, how, line):
    folder, _ = save(BertForSequenceClassification, id2label=NAMED)
    damage(folder, how)
    with pytest.raises(UserError, match=line) as error:
        finetuned.load(folder, TASK)
    assert "\n" not in str(error.value)


def test_a_tokenizer_with_more_tokens_than_the_model_is_one_line(save):
    from methods.model.encoder import wordpiece

    folder, _ = save(BertForSequenceClassification, id2label=NAMED)
    words = [f"word{number}" for number in range(60)]
    (folder / "tokenizer.json").write_text(wordpiece(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *words]))
    with pytest.raises(UserError, match="has 64 tokens, but the model knows 24"):
        finetuned.load(folder, TASK)


def test_a_cased_vocabulary_stays_cased(save):
    from tokenizers import Tokenizer

    folder, _ = save(BertForSequenceClassification, id2label=NAMED)
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\nThe\nthe\n")
    for cased, ids in ((True, [2, 4, 3]), (False, [2, 5, 3])):
        (folder / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": not cased}))
        tokenizer = Tokenizer.from_str(finetuned.load(folder, TASK).tokenizer)
        assert tokenizer.encode("The").ids == ids


ROWS = {
    "classification": [{"text": "good film", "label": "positive"}, {"text": "bad film", "label": "negative"}],
    "regression": [{"text": "good film", "label": 7.5}, {"text": "bad film", "label": -2}],
    "span": [
        {"id": "1", "question": "who ran", "context": "the dog ran", "answers": {"text": ["dog"], "answer_start": [4]}},
        {"id": "2", "question": "who ran", "context": "a film ran", "answers": {"text": ["film"], "answer_start": [2]}},
    ],
}


@pytest.mark.parametrize("kind", HEADS)
def test_the_run_scores_the_model_as_it_is_and_trains_no_step(save, tmp_path, base, run_request, kind):
    architecture, changes, labels = HEADS[kind]
    folder, model = save(architecture, **changes)
    base_path, data_path = tmp_path / "base.safetensors", tmp_path / "data.safetensors"
    write_base(base_path, finetuned.load(folder, {"name": "mine", "kind": kind, "labels": labels}))
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, ROWS[kind])))
    rows = str(tmp_path / "rows.jsonl")
    entry = {"kind": kind, "labels": labels, "max_length": 32, "files": {"train": rows, "validation": rows}}
    entry |= {} if kind == "span" else {"columns": ["text"]}
    request = {"task": "mine", "entry": entry, "source": {"source": "generated"}, "max_length": None, "train_rows": None}
    encode.write_task(data_path, request, base.tokenizer, sources.rows(request))
    asked = {**run_request, "task": "mine", "finetuned": True}
    record = harness.execute(asked, fp32, tmp_path / "run", data_path=data_path, base_path=base_path, ancestors={})
    assert (record["status"], record["steps"], record["curve"]) == ("ok", 0, [])
    stored, _ = artifact.load(tmp_path / "run/last.safetensors")
    for name, weight in model.state_dict().items():
        assert torch.equal(stored.state_dict()[name], weight), name
    assert record["scores"]["last"]["metrics"].keys() == set(data.load(data_path).meta["metrics"])
