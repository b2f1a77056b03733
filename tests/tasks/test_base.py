"""The demo's base model: what is hidden of a text, and a head that scores hidden words only."""

import dataclasses

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from transformers.models.bert.configuration_bert import BertConfig
from transformers.models.bert.modeling_bert import BertForMaskedLM

from methods import fp32
from methods import run as harness
from methods.common.errors import UserError
from methods.model.encoder import wordpiece, write_base
from methods.tasks import base
from tests.fixtures.world import CONFIG, WORDS

VOCABULARY = [*base.SPECIALS, *WORDS[:-1]]  # [MASK] is among the specials
TEXTS = [("the film was very good .", "a fine story ."), ("dog", None), ("where was the dog ?", "the dog ran fast .")] * 400


def masked(share: float) -> dict:
    return base.masked(TEXTS, Tokenizer.from_str(wordpiece(VOCABULARY)), {"seed": 0, "masked": share})


@pytest.mark.parametrize("what", ["tokenizer", "length"])
def test_a_base_that_does_not_fit_the_data_is_refused_before_training(
    tmp_path, base, sst2_path, write_task, run_request, what
):
    data_path, other = sst2_path, base
    if what == "tokenizer":
        other = dataclasses.replace(base, tokenizer=wordpiece(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *reversed(WORDS)]))
        line = r"sst2\.safetensors was made with another tokenizer than that of .*base\.safetensors: make the data again"
    else:
        rows = {"sentence": ["good film"], "label": [1]}
        data_path = write_task("sst2", {"train": rows, "validation": rows}, max_length=64)
        other = dataclasses.replace(base, config={**CONFIG, "max_position_embeddings": 32})
        line = r"has inputs of 64 tokens, but the model of .* reads 32: lower the task's max_length"
    write_base(tmp_path / "base.safetensors", other)
    with pytest.raises(UserError, match=line) as error:
        harness.execute(
            run_request, fp32, tmp_path / "run", data_path=data_path, base_path=tmp_path / "base.safetensors", ancestors={}
        )
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run/run.json").exists()


def test_hidden_words_are_remembered_and_the_others_stay():
    splits = masked(0.15)
    assert {name: len(split) for name, split in splits.items()} == {"held out": 24, "train": 1176}
    tokenizer = Tokenizer.from_str(wordpiece(VOCABULARY))
    plain = [tokenizer.encode(a, b) if b else tokenizer.encode(a) for a, b in TEXTS[24:]]
    before = np.concatenate([encoding.ids for encoding in plain])
    train = splits["train"]
    words = train.targets["words"]
    hidden = words != -100
    assert np.array_equal(words[hidden], before[hidden])
    assert np.array_equal(train.ids[~hidden], before[~hidden])
    assert (before[hidden] >= len(base.SPECIALS)).all()
    assert all(hidden[train.tokens(row)].any() for row in range(len(train)))
    assert train.first[:3].tolist() == [8, 3, 7]  # [CLS], words, [SEP] of the first part
    fates = train.ids[hidden] == VOCABULARY.index("[MASK]"), train.ids[hidden] == before[hidden]
    assert abs(fates[0].mean() - base.AS_MASK) < 0.04
    assert abs(fates[1].mean() - (1 - base.AS_MASK - base.AS_OTHER)) < 0.06  # some of the others fall on the word itself


def test_equal_seeds_hide_equal_words():
    first, second = masked(0.3), masked(0.3)
    assert np.array_equal(first["train"].ids, second["train"].ids)
    assert np.array_equal(first["held out"].targets["words"], second["held out"].targets["words"])


def test_scores_on_demand_are_those_of_the_whole_head():
    torch.manual_seed(0)
    model = base.MaskedWords(BertConfig(**CONFIG)).eval()
    inputs = {"input_ids": torch.tensor([[2, 7, 4, 3], [2, 4, 9, 3]]), "attention_mask": torch.ones(2, 4, dtype=torch.long)}
    whole = BertForMaskedLM.forward(model, **inputs).logits  # (B, S, V)
    places = torch.tensor([0, 1]), torch.tensor([2, 1])
    assert torch.allclose(model(**inputs).logits[places], whole[places], atol=1e-6)
