"""The demo's base model: what is hidden of a text, and a head that scores hidden words only."""

import numpy as np
import torch
from tokenizers import Tokenizer
from transformers.models.bert.configuration_bert import BertConfig
from transformers.models.bert.modeling_bert import BertForMaskedLM

from methods.model.encoder import wordpiece
from methods.tasks import base
from tests.fixtures.world import CONFIG, WORDS

VOCABULARY = [*base.SPECIALS, *WORDS[:-1]]  # [MASK] is among the specials
TEXTS = [("the film was very good .", "a fine story ."), ("dog", None), ("where was the dog ?", "the dog ran fast .")] * 400


def masked(share: float) -> dict:
    return base.masked(TEXTS, Tokenizer.from_str(wordpiece(VOCABULARY)), {"seed": 0, "masked": share})


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
