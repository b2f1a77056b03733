"""Task kinds: losses by hand, rows under tokenizers of BERT's and RoBERTa's form, and entries that they cannot take."""

import random
import re
import time

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from methods.common.errors import UserError
from methods.model.encoder import wordpiece
from methods.tasks import kinds, losses, text
from methods.tasks.base import HiddenWords
from methods.tasks.kinds.span import OPTIONS, UNANSWERED
from tests.fixtures.copies import modules_after
from tests.fixtures.models import batch_of, model_of
from workflow.catalogue import ROOT

CLASSES, NUMBERS, SPANS = (kinds.of(name) for name in ("classification", "regression", "span"))


def test_a_kind_is_found_by_its_file_and_an_unknown_one_is_one_line():
    assert kinds.names() == ["classification", "regression", "span"]
    for name in kinds.names():
        assert kinds.of(name).name == name
    with pytest.raises(UserError, match=r"Unknown task kind 'spam'\. Did you mean 'span'\? There are: classification"):
        kinds.of("spam")


def test_nothing_outside_the_kinds_asks_which_kind_a_task_has():
    asks = re.compile(r'meta\["kind"\] [!=]=|entry\["kind"\] [!=]=|\bkind [!=]= "(classification|regression|span)"')
    for room in ("methods", "workflow"):
        for path in (ROOT / room).rglob("*.py"):
            if "kinds" not in path.parts:
                assert not asks.search(path.read_text(encoding="utf-8")), path


def test_kinds_import_no_torch():
    loaded = modules_after("from methods.tasks import kinds; [kinds.of(name) for name in kinds.names()]")
    assert not {"torch", "datasets", "evaluate", "pandas", "pyarrow"} & loaded


# --- losses -----------------------------------------------------------------------------------------------


def test_classes_are_learned_by_cross_entropy_and_numbers_by_squared_error():
    scores = torch.log(torch.tensor([[0.25, 0.75], [0.5, 0.5]]))
    assert CLASSES.loss((scores,), {"labels": torch.tensor([0, 1])}).tolist() == pytest.approx([np.log(4), np.log(2)])
    value = NUMBERS.loss((torch.tensor([[1.0], [4.0]]),), {"labels": torch.tensor([3.0, 3.5])})
    assert value.tolist() == [4.0, 0.25]


def test_span_losses_ignore_padding_and_halve_start_and_end():
    logits = torch.tensor([[0.0, 0.0, 50.0]]), torch.tensor([[0.0, np.log(3), 50.0]])
    batch = {"attention_mask": torch.tensor([[1, 1, 0]]), "start": torch.tensor([0]), "end": torch.tensor([0])}
    assert SPANS.loss(logits, batch).item() == pytest.approx((np.log(2) + np.log(4)) / 2)


def test_hidden_words_count_alone_and_each_text_alike():
    scores = torch.zeros(2, 3, 4)
    scores[0, 1, 2] = np.log(3)  # probability 1/2 for the right word
    words = torch.tensor([[-100, 2, -100], [1, -100, 3]])
    assert HiddenWords().loss((scores,), {"words": words}).tolist() == pytest.approx([np.log(2), np.log(4)])


def test_the_teachers_outputs_by_hand():
    student, teacher = torch.log(torch.tensor([[0.25, 0.75]])), torch.log(torch.tensor([[0.5, 0.5]]))
    expected = -(0.5 * np.log(0.25) + 0.5 * np.log(0.75))
    assert CLASSES.soft_loss((student,), (teacher,), {}).item() == pytest.approx(expected)
    assert CLASSES.soft_loss_mean((student,), (teacher,), {}).item() == pytest.approx(expected / 2)
    numbers = torch.tensor([[1.0], [2.0]]), torch.tensor([[0.0], [4.0]])
    for loss in (NUMBERS.soft_loss, NUMBERS.soft_loss_mean):  # softmax over one output would be constant
        assert loss(numbers[:1], numbers[1:], {}).tolist() == [1.0, 4.0]
    batch = {"attention_mask": torch.tensor([[1, 1, 0]])}
    half, quarter = torch.log(torch.tensor([[0.5, 0.5, 9.0]])), torch.log(torch.tensor([[0.25, 0.75, 9.0]]))
    assert SPANS.soft_loss((half, quarter), (half, half), batch).item() == pytest.approx(np.log(2) + expected)
    whole = torch.log(torch.tensor([[0.5, 0.25, 0.25]]))
    entropy = 0.5 * np.log(2) + 0.5 * np.log(4)
    assert SPANS.soft_loss_mean((whole, whole), (whole, whole), batch).item() == pytest.approx(2 * entropy / 3)


@pytest.mark.parametrize("name", ["classification", "regression", "span"])
def test_losses_reach_the_head_of_the_kinds_model_and_ignore_longer_padding(name):
    from methods.training.forward import forward

    kind, student, batch = kinds.of(name), model_of(name), batch_of(name)
    by_token = {key: value for key, value in batch.items() if getattr(value, "ndim", 0) == 2}
    longer = batch | {key: torch.nn.functional.pad(value, (0, 5)) for key, value in by_token.items()}
    short, long = (kind.loss(forward(student, one).logits, one) for one in (batch, longer))
    assert torch.allclose(short, long, rtol=1e-4)
    short.sum().backward()
    head = next(parameter for key, parameter in student.named_parameters() if key.startswith(("classifier", "qa_outputs")))
    assert head.grad.abs().max() > 0


def test_losses_of_tokens_take_the_mean_of_those_that_count():
    targets = torch.tensor([[-100, 0, 1], [-100, -100, -100]])
    scores = torch.log(torch.tensor([[0.5, 0.5], [0.25, 0.75], [0.5, 0.5]])).expand(2, 3, 2)
    assert losses.tokens(scores, targets).tolist() == pytest.approx([(np.log(4) + np.log(2)) / 2, 0.0])
    entropy = -(0.25 * np.log(0.25) + 0.75 * np.log(0.75))
    assert losses.soft_tokens(scores, scores, targets != -100).tolist() == pytest.approx([(entropy + np.log(2)) / 2, 0.0])


# --- tokenizers -------------------------------------------------------------------------------------------


def roberta() -> Tokenizer:
    """One token a character, in the special tokens of RoBERTa: <s> first </s></s> second </s>."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    numbers = {token: number for number, token in enumerate(["<s>", "<pad>", "</s>", "<unk>", *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=numbers, merges=[], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    return tokenizer


def bert() -> Tokenizer:
    return Tokenizer.from_str(wordpiece(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "b"]))


def test_special_tokens_are_read_off_the_tokenizer():
    assert text.template(roberta()) == ([0], [2, 2], [2])
    assert text.template(bert()) == ([2], [3], [3])


@pytest.mark.parametrize("tokenizer", [roberta, bert])
def test_pairs_are_encoded_as_the_tokenizer_does_and_the_first_segment_ends_where_the_second_text_begins(tokenizer):
    columns = {"a": ["ab", "a", ""], "b": ["b", "", "ba"], "label": [0, 1, 0]}
    split = CLASSES.encode(columns, {"columns": ["a", "b"]}, 16, tokenizer(), "train")
    for row, pair in enumerate(zip(columns["a"], columns["b"], strict=True)):
        assert split.ids[split.tokens(row)].tolist() == tokenizer().encode(*pair).ids
    firsts = {roberta: [5, 4, 3], bert: [3, 3, 2]}[tokenizer]  # of the two closing tokens RoBERTa puts between texts
    assert split.first.tolist() == firsts
    single = CLASSES.encode({"a": ["ab"]}, {"columns": ["a"]}, 16, tokenizer(), "request")
    assert single.first.tolist() == single.lengths.tolist()


def cut_by_the_library(texts: list[list[str]], max_length: int, tokenizer: Tokenizer) -> list[tuple]:
    tokenizer.enable_truncation(max_length, strategy="longest_first")
    encodings = tokenizer.encode_batch(list(zip(*texts, strict=True)) if len(texts) == 2 else texts[0])
    return [(one.ids, one.sequence_ids, one.offsets, one.n_sequences) for one in encodings]


@pytest.mark.parametrize("make", [roberta, bert])
def test_texts_are_cut_as_the_library_cuts_them(make):
    chance, tokenizer = random.Random(0), make()
    lengths = [(first, second) for first in range(6) for second in range(6)]
    lengths += [(chance.randrange(25), chance.randrange(25)) for _ in range(20)]
    pairs = [" ".join(chance.choice(("a", "b", "[SEP]")) for _ in range(length)) for two in lengths for length in two]
    for texts in ([pairs[::2], pairs[1::2]], [pairs]):
        for max_length in (*range(4, 13), 20, 31):  # from the four special tokens that RoBERTa puts around a pair
            encodings = text.encode(texts, max_length, tokenizer)
            ours = [(one.ids, one.sequence_ids, one.offsets, one.n_sequences) for one in encodings]
            assert ours == cut_by_the_library(texts, max_length, tokenizer)
            assert max(len(one.ids) for one in encodings) <= max_length


@pytest.mark.parametrize("kind", ["classification", "span"])
def test_a_megabyte_twice_is_encoded_at_once(kind):
    long = "a b " * 2**18
    entry = {"columns": ["question", "context"], "span": OPTIONS}
    columns = {"question": [long], "context": [long], "id": ["0"], "answers": [UNANSWERED]}
    started = time.process_time()
    split = kinds.of(kind).encode(columns, entry, 384, bert(), "request")
    assert time.process_time() - started < 15
    assert split.lengths.max() == 384
    if kind == "classification":
        assert split.first.tolist() == [2 + 381 // 2]


def test_bert_s_first_segment_is_that_of_its_token_types():
    columns = {"a": ["a b a", "a", "", "b " * 30], "b": ["b", "", "a b", "a " * 30], "label": [0] * 4}
    split = CLASSES.encode(columns, {"columns": ["a", "b"]}, 16, bert(), "train")
    tokenizer = bert()
    tokenizer.enable_truncation(16, strategy="longest_first")
    for row, pair in enumerate(zip(columns["a"], columns["b"], strict=True)):
        assert split.first[row] == tokenizer.encode(*pair).type_ids.index(1)


def test_windows_of_another_tokenizer_hold_the_answer_between_its_own_special_tokens():
    context = "the dog ran and the dog slept"
    columns = {
        "id": ["q"],
        "question": ["who ran?"],
        "context": [context],
        "answers": [{"text": ["dog"], "answer_start": [4]}],
    }
    entry = SPANS.complete({"kind": "span", "span": {"stride": 4}})
    train, dev = (SPANS.encode(columns, entry, 24, roberta(), name) for name in ("train", "validation"))
    assert len(train) == len(dev) > 1
    for row in range(len(dev)):
        ids = dev.ids[dev.tokens(row)]
        assert ids[0] == 0 and ids[-1] == 2 and ids[dev.first[row] - 2 : dev.first[row]].tolist() == [2, 2]
        start, end = train.targets["start"][row], train.targets["end"][row]
        if start:
            chars = dev.chars[dev.tokens(row)]
            assert context[chars[start][0] : chars[end][1]] == "dog"
    assert train.targets["start"].any()


# --- entries ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "entry", "line"),
    [
        (
            "classification",
            {"labels": ["a", "b"], "metrics": ["acuracy"]},
            r"unknown metric 'acuracy'\. Did you mean 'accuracy'",
        ),
        ("classification", {"labels": ["a"]}, "labels: name two classes or more"),
        ("classification", {"labels": ["a", "a"]}, "labels: a name occurs twice"),
        ("regression", {"labels": ["a", "b"]}, "labels: a regression task has none"),
        ("regression", {"metrics": ["accuracy"]}, r"unknown metric 'accuracy'\. There are: pearson, spearman"),
        ("span", {"columns": ["passage"]}, r"a span task has \[question, context\]"),
        ("span", {"metrics": ["best_f1"]}, "'best_f1' is for tasks whose questions may have no answer"),
    ],
)
def test_an_entry_that_a_kind_cannot_take_is_one_line(name, entry, line):
    kind = kinds.of(name)
    with pytest.raises(UserError, match=line) as error:
        kind.check_entry(kind.complete(entry), "config/tasks.yaml: mine")
    assert str(error.value).startswith("config/tasks.yaml: mine: ") and "\n" not in str(error.value)


def test_every_entry_of_the_catalogue_is_one_that_its_kind_takes():
    from workflow import catalogue

    for name, entry in catalogue.load({"preset": "paper"}).tasks.items():
        kind = kinds.of(entry["kind"])
        assert kind.complete(entry) == entry
        kind.check_entry(entry, name)
