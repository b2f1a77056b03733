"""Data augmentation: which words change and to what, whose copies they become, and what a run makes of them."""

import json

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from transformers.models.bert.configuration_bert import BertConfig
from transformers.models.bert.modeling_bert import BertForPreTraining

from methods import fp32, ternarybert
from methods import run as harness
from methods.__main__ import main
from methods.common.errors import UserError
from methods.common.schema import validate
from methods.model.encoder import Base, import_base, masked_word_head, read_base, wordpiece, write_base
from methods.tasks import augment, base, data, encode
from methods.tasks.augment import Augmenter, words_of
from methods.tasks.guesses import Guesser
from methods.tasks.vectors import Vectors
from tests.fixtures.runs_of_methods import request
from tests.fixtures.workflow import TINY, snakemake
from tests.fixtures.world import CONFIG, WORDS, rows_of_sst2
from workflow import catalogue

VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS, "un", "##kind", "3"]
SETTINGS = {"copies": 6, "share": 0.4, "candidates": 4, "seed": 0, "vectors": None}
PAIRS = {
    "sentence1": ["The dog ran fast.", "a dull story", "the film was fine"],
    "sentence2": ["who ran?", "Dull film, very fine", "is it?"],
    "label": [1, 0, 1],
}
TEXTS = ["sentence1", "sentence2"]


class Fixed:
    """Guesses the same words everywhere, and remembers what it was asked."""

    def __init__(self, *words: str):
        self.tokens, self.asked = [VOCABULARY.index(word) for word in words], []

    def best(self, prompts, count):
        self.asked += prompts
        return np.tile(self.tokens[:count], (len(prompts), 1))


def tokenizer() -> Tokenizer:
    return Tokenizer.from_str(wordpiece(VOCABULARY))


def augmenter(guesses=None, vectors=None, longest=64, **settings) -> Augmenter:
    return Augmenter(tokenizer(), {**SETTINGS, **settings}, guesses, vectors, longest)


def vectors(**words) -> Vectors:
    return Vectors(list(words), np.array(list(words.values()), np.float32))


@pytest.fixture(scope="module")
def masked_words() -> BertForPreTraining:
    torch.manual_seed(0)
    model = BertForPreTraining(BertConfig(**CONFIG)).eval()
    for parameter in model.cls.parameters():  # its biases start at zero, which would hide that they are missing
        torch.nn.init.normal_(parameter, 0.0, 0.5)
    return model


@pytest.fixture(scope="module")
def with_head(masked_words, tmp_path_factory):
    """A base model as it is imported from a folder of transformers', head and all."""
    folder = tmp_path_factory.mktemp("model")
    masked_words.save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS]))
    return import_base(folder, {"source": "folder", "id": "tiny"})


@pytest.fixture(scope="module")
def with_head_path(with_head, tmp_path_factory):
    path = tmp_path_factory.mktemp("base") / "base.safetensors"
    write_base(path, with_head)
    return path


# --- words ------------------------------------------------------------------------------------------------


def test_words_of_letters_change_and_numbers_punctuation_and_function_words_stay():
    text = "The  Dog, 3 unkind dögs: it's 7pm. FILM"
    found = list(words_of(text, tokenizer().encode(text, text)))
    assert [text[word.start : word.end] for word in found] == ["Dog", "unkind", "FILM"]
    places = {"Dog": 2, "unkind": None, "FILM": 14}  # one token, and its place; a word of two tokens has none
    encoding = tokenizer().encode(text, text)
    for word in found:
        name = text[word.start : word.end]
        assert (word.token is None) == (places[name] is None)
        assert word.token is None or VOCABULARY[encoding.ids[word.token]] == name.lower()


def test_a_prompt_hides_one_word_and_ends_with_the_text_itself():
    guesses = Fixed("film")
    augmenter(guesses).of_texts(["the dog ran"])
    words = [[VOCABULARY[token] for token in ids] for ids, _, _ in guesses.asked]
    assert words[0] == ["[CLS]", "the", "[MASK]", "ran", "[SEP]", "the", "dog", "ran", "[SEP]"]
    assert [(first, place) for _, first, place in guesses.asked] == [(5, 2), (5, 3)]


def test_a_prompt_is_cut_and_a_word_behind_the_cut_stays():
    guesses = Fixed("film")
    made = augmenter(guesses, longest=4, share=1.0).rows({"text": ["the dog ran fast"]}, ["text"])
    assert [len(ids) for ids, _, _ in guesses.asked] == [4, 4]
    assert made["text"] == ["the dog ran fast", "the film film fast"]


def test_pieces_and_special_tokens_are_no_substitutes():
    found = augmenter(Fixed("##kind", "[CLS]", "film", "[UNK]")).of_texts(["dog"])
    assert found["dog"][1] == [["film"]]


def test_words_of_several_tokens_take_the_nearest_vectors_and_their_capital():
    near = vectors(unkind=[1, 0], mean=[1, 0.1], cruel=[1, 0.2], soft=[-1, 0])
    text = "Unkind dog unkind"
    _, candidates = augmenter(Fixed("film"), near, candidates=2).of_texts([text])[text]
    assert candidates == [["Mean", "Cruel"], ["film"], ["mean", "cruel"]]
    _, candidates = augmenter(Fixed("film")).of_texts([text])[text]
    assert candidates == [[], ["film"], []], "without vectors such words stay"
    _, candidates = augmenter(None, vectors(dog=[1, 0], cat=[1, 1])).of_texts([text])[text]
    assert candidates == [[], ["cat"], []], "without a head all words take vectors"


def test_a_byte_level_tokenizer_marks_the_start_of_words():
    from tests.model.test_roberta import byte_level

    found = Tokenizer.from_str(byte_level())
    spelled = {token: augment.spelling(found)[number] for token, number in found.get_vocab().items()}
    assert spelled["Ġfilm"] == "film" and spelled["<s>"] is None and spelled["the"] is None
    text = "the film"
    (word,) = words_of(text, found.encode(text, text))
    assert text[word.start : word.end] == "film"


# --- copies -----------------------------------------------------------------------------------------------


def test_every_word_changes_where_all_do_and_the_rest_of_the_text_stays():
    made = augmenter(Fixed("story"), share=1.0).rows({"text": ["The  dog, 3 unkind film: ran!"]}, ["text"])
    assert made["text"] == ["The  dog, 3 unkind film: ran!", "The  story, 3 unkind story: story!"]


def test_copies_of_a_pair_change_one_text_beside_the_original_of_the_other():
    made = augmenter(Fixed("good", "bad", "fast", "dull"), share=0.8).rows(PAIRS, TEXTS)
    count = len(PAIRS["label"])
    assert {name: values[:count] for name, values in made.items()} == PAIRS
    copies = list(zip(made["sentence1"], made["sentence2"], made["label"], strict=True))[count:]
    originals = list(zip(*PAIRS.values(), strict=True))
    changed = {0: 0, 1: 0}
    for first, second, label in copies:
        (row,) = [row for row in originals if (first == row[0]) != (second == row[1])]
        assert label == row[2]
        changed[int(first == row[0])] += 1
    assert changed[0] > 6 and changed[1] > 2
    assert len(set(copies)) == len(copies)


def test_as_many_copies_as_asked_for_unless_some_are_equal():
    one = augmenter(Fixed("good"), share=1.0, copies=50).rows({"text": ["dog"]}, ["text"])
    assert one["text"] == ["dog", "good"]
    many = augmenter(Fixed("good", "bad", "fast", "dull"), share=0.9, copies=5).rows(
        {"text": ["dog film story dog film story dog"]}, ["text"]
    )
    assert len(many["text"]) == 1 + 5
    none = augmenter(Fixed("good")).rows({"text": ["is it the 3 ?"], "label": [1]}, ["text"])
    assert none == {"text": ["is it the 3 ?"], "label": [1]}


def test_about_the_share_of_the_words_changes():
    text = " ".join(["dog"] * 200)
    (copy,) = augmenter(Fixed("good"), copies=1, share=0.4, longest=1000).rows({"text": [text]}, ["text"])["text"][1:]
    assert abs(copy.split().count("good") / 200 - 0.4) < 0.1


def test_copies_follow_from_the_seed_and_from_their_own_row_alone():
    def made(columns, **settings):
        return augmenter(Fixed("good", "bad", "fast", "dull"), **settings).rows(columns, TEXTS)

    assert made(PAIRS) == made(PAIRS)
    assert made(PAIRS) != made(PAIRS, seed=1)
    first = {name: values[:1] for name, values in PAIRS.items()}
    others = {name: [*values[:1], *reversed(values[1:])] for name, values in PAIRS.items()}
    alone = list(zip(*made(first).values(), strict=True))[1:]
    among = list(zip(*made(others).values(), strict=True))[3:]
    assert among[: len(alone)] == alone


def test_many_rows_are_augmented_as_few_are(monkeypatch):
    rows = {**PAIRS, **{name: PAIRS[name] * 3 for name in PAIRS}}
    whole = augmenter(Fixed("good", "bad")).rows(rows, TEXTS)
    monkeypatch.setattr(augment, "TEXTS", 2)
    assert augmenter(Fixed("good", "bad")).rows(rows, TEXTS) == whole


# --- the masked-word head ---------------------------------------------------------------------------------


def test_guesses_are_those_of_transformers_own_head_whatever_shares_the_batch(with_head, masked_words):
    guesser = Guesser(with_head)
    prompts = [([2, 4, 23, 3, 4, 7, 3], 4, 2), ([2, 23, 3], 3, 1), ([2, 5, 6, 23, 8, 3, 5, 3], 6, 3)]
    found = guesser.best(prompts, 5)
    for (ids, first, place), best in zip(prompts, found, strict=True):
        types = torch.tensor([[0] * first + [1] * (len(ids) - first)])
        scores = masked_words(torch.tensor([ids]), token_type_ids=types).prediction_logits[0, place]
        assert best.tolist() == scores.topk(5).indices.tolist()
    assert np.array_equal(guesser.best(prompts[1:2], 5)[0], found[1])


def test_robertas_head_has_other_names_and_the_same_parts():
    from transformers.models.roberta.configuration_roberta import RobertaConfig
    from transformers.models.roberta.modeling_roberta import RobertaForMaskedLM

    torch.manual_seed(0)
    shape = {**CONFIG, "model_type": "roberta", "pad_token_id": 1, "type_vocab_size": 1}
    model = RobertaForMaskedLM(RobertaConfig(**shape)).eval()
    for parameter in model.lm_head.parameters():
        torch.nn.init.normal_(parameter, 0.0, 0.5)
    weights = {name.removeprefix("roberta."): tensor.numpy() for name, tensor in model.state_dict().items()}
    guesses = masked_word_head(weights, shape)
    assert guesses
    prompts = [([0, 7, 4, 9, 2, 2, 7, 5, 9, 2], 5, 2), ([0, 4, 2], 3, 1)]
    found = Guesser(Base(weights, shape, "", {}, guesses=guesses)).best(prompts, 5)
    for (ids, _, place), best in zip(prompts, found, strict=True):
        assert best.tolist() == model(torch.tensor([ids])).logits[0, place].topk(5).indices.tolist()


def test_the_head_is_read_under_its_old_names_and_not_in_part(with_head, masked_words, tmp_path):
    from safetensors.torch import save_file

    masked_words.save_pretrained(tmp_path)
    (tmp_path / "vocab.txt").write_text("\n".join(VOCABULARY))
    state = {f"{name}": tensor.clone() for name, tensor in masked_words.state_dict().items() if "decoder" not in name}
    old = {name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): one
           for name, one in state.items()}  # fmt: skip
    save_file(old, tmp_path / "model.safetensors")
    found = import_base(tmp_path, {}).guesses
    assert found.keys() == with_head.guesses.keys() == {"dense.weight", "dense.bias", "norm.weight", "norm.bias", "bias"}
    assert all(np.array_equal(found[name], with_head.guesses[name]) for name in found)
    for change in (
        {"cls.predictions.bias": None},
        {"cls.predictions.decoder.weight": torch.zeros(CONFIG["vocab_size"], CONFIG["hidden_size"])},
    ):
        changed = {name: one for name, one in {**old, **change}.items() if one is not None}
        save_file(changed, tmp_path / "model.safetensors")
        assert import_base(tmp_path, {}).guesses == {}


def test_a_base_file_keeps_the_head_and_no_model_is_made_of_it(with_head, with_head_path):
    found, _ = read_base(with_head_path)
    assert found.guesses.keys() == with_head.guesses.keys() and found.weights.keys() == with_head.weights.keys()
    assert all(np.array_equal(found.guesses[name], with_head.guesses[name]) for name in found.guesses)


def test_the_demos_base_model_keeps_its_head(tmp_path):
    found = catalogue.load({"preset": "demo", "base": {**TINY["base"], "threads": 1, "texts": 300}})
    base.make(tmp_path / "base.safetensors", json.loads(catalogue.dump(found.request_base())))
    made, _ = read_base(tmp_path / "base.safetensors")
    words = made.config["vocab_size"]
    assert {name: array.shape for name, array in made.guesses.items()} == {
        "dense.weight": (32, 32),
        "dense.bias": (32,),
        "norm.weight": (32,),
        "norm.bias": (32,),
        "bias": (words,),
    }
    assert np.abs(made.guesses["bias"]).max() > 0, "it is the trained one"


# --- word vectors -----------------------------------------------------------------------------------------


def test_nearest_words_by_hand():
    found = vectors(a=[1, 0], b=[0, 1], c=[2, 1], d=[-1, 0], e=[0, 0]).nearest(["a", "b", "z"], 3)
    assert found == {
        "a": ["c", "b", "e"],
        "b": ["c", "a", "d"],
    }  # cosines .894, 0, 0, -1 and .447, 0, 0, 0


@pytest.mark.parametrize("count", [1, 7, 40])
def test_nearest_words_are_those_of_a_full_search(count):
    random = np.random.default_rng(0)
    rows = random.normal(size=(30, 5)).astype(np.float32)
    words = [f"w{number}" for number in range(30)]
    found = Vectors(words, rows).nearest(words, count)
    for at, word in enumerate(words):
        cosines = [rows[at] @ row / np.linalg.norm(row) for row in rows]
        order = sorted((other for other in range(30) if other != at), key=lambda other: -cosines[other])
        assert found[word] == [words[other] for other in order[:count]]


def test_a_vector_file_is_read_with_or_without_counts_and_up_to_a_limit(tmp_path, monkeypatch):
    path = tmp_path / "vectors.txt"
    path.write_text("3 2\nthe 1 0\n. . 0 1\ndog 0.5 -2e-1 \n")
    assert Vectors.read(path).words == ["the", ". .", "dog"]
    path.write_text("the 1 0\ndog 0 1\ncat 1 1\n")
    monkeypatch.setattr("methods.tasks.vectors.MOST", 2)
    assert Vectors.read(path).words == ["the", "dog"]


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"the 1 0\ndog 1\n", "vectors.txt, line 2: write a word and then as many numbers"),
        (b"the 1 0\ndog 1 x\n", "vectors.txt, line 2"),
        (b"the 1 0\ndog 1 nan\n", "vectors.txt, line 2"),
        (b"the\n", "vectors.txt, line 1"),
        (b"the 1 0\n\xff\xfe 1 0\n", "no text in UTF-8"),
        (b"", "holds no word vectors"),
    ],
)
def test_a_damaged_vector_file_is_refused_in_one_line(content, line, tmp_path):
    (tmp_path / "vectors.txt").write_bytes(content)
    with pytest.raises(UserError, match=line) as error:
        Vectors.read(tmp_path / "vectors.txt")
    assert "\n" not in str(error.value)


# --- the task file ----------------------------------------------------------------------------------------


def task_request(task: str, **settings) -> dict:
    found = catalogue.load({"preset": "demo", "tasks": ["mrpc"], "augmentation": settings})
    return {**json.loads(catalogue.dump(found.request_data(task, augmented=True))), "max_length": 32}


def write(path, request, base_path, splits):
    encode.write_task(path, request, encode.read_tokenizer(base_path), splits, base_path)
    return data.load(path)


def test_a_task_file_has_copies_behind_its_training_rows_and_the_same_dev_rows(with_head_path, tmp_path):
    splits = {"train": PAIRS, "validation": {name: values[1:] for name, values in PAIRS.items()}}
    request = task_request("mrpc", copies=4, share=0.7)
    made = write(tmp_path / "a", request, with_head_path, splits)
    plain = write(tmp_path / "b", {**request, "augmentation": None}, with_head_path, splits)
    assert (tmp_path / "a").read_bytes() != (tmp_path / "b").read_bytes()
    assert len(plain.train) == 3 and 3 < len(made.train) <= 3 + 2 * 3 * 4
    for name, array in data.flatten("", made.dev["validation"]).items():
        assert np.array_equal(array, data.flatten("", plain.dev["validation"])[name])
    for row in range(3):
        assert np.array_equal(made.train.ids[made.train.tokens(row)], plain.train.ids[plain.train.tokens(row)])
    facts = made.meta["data"]
    assert facts["rows"] == plain.meta["data"]["rows"] == {"train": 3, "validation": 2}
    assert facts["fingerprint"] == plain.meta["data"]["fingerprint"] and not facts["partial"]
    assert facts["augmentation"] | {"fingerprint": ""} == {
        **{"copies": 4, "share": 0.7, "candidates": 15, "seed": 0, "vectors": None},
        **{"substitutes": "masked-word head", "rows": len(made.train), "fingerprint": ""},
    }
    assert "augmentation" not in plain.meta["data"]
    write(tmp_path / "c", request, with_head_path, splits)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "c").read_bytes()


def test_constant_answers_come_from_the_rows_themselves(with_head_path, tmp_path):
    """Copies could outvote them: the rows of one class may have more words to change."""
    train = {"sentence": ["it ?", "is it ?", "it .", "dog film story"], "label": [0, 0, 0, 1]}
    request = task_request("sst2", copies=20)
    made = write(tmp_path / "a", request, with_head_path, {"train": train, "validation": train})
    assert np.bincount(made.train.targets["labels"]).argmax() == 1
    assert made.baseline() == {"metrics": {"accuracy": 75.0}, "what": "always negative"}


def test_a_base_without_a_head_asks_for_vectors_in_one_line(base_path, tmp_path):
    splits = {"train": PAIRS, "validation": PAIRS}
    with pytest.raises(
        UserError, match=r"tiny has no masked-word head .*: name a word-vector file.*augmentation\.vectors"
    ) as error:
        write(tmp_path / "a", task_request("mrpc"), base_path, splits)
    assert "\n" not in str(error.value)
    path = tmp_path / "vectors.txt"
    path.write_text("dog 1 0\nfilm 1 0.1\nstory 0.9 0\n")
    made = write(tmp_path / "a", task_request("mrpc", vectors=str(path)), base_path, splits)
    assert made.meta["data"]["augmentation"]["substitutes"] == "word vectors"
    assert len(made.meta["data"]["augmentation"]["vectors"]) == 64


def test_spans_are_refused_when_the_configuration_is_read_and_by_hand(capsys, with_head_path, tmp_path):
    with pytest.raises(UserError, match=r"squad cannot be augmented.*Name the tasks.*augmentation\.tasks"):
        catalogue.load({"preset": "demo", "augmentation": {}})
    found = catalogue.load({"preset": "demo", "tasks": ["mrpc"], "augmentation": {}})
    with pytest.raises(UserError, match="squad cannot be augmented"):
        found.request("twn_2bit", "squad", 1)
    assert "augmentation" not in found.request("fp32", "squad", 1)
    request = task_request("mrpc") | {"task": "squad"}
    request["entry"] = found.request_data("squad")["entry"]
    words = ["data", "--request", json.dumps(request), "--base", str(with_head_path), "--out", str(tmp_path / "a")]
    assert main(words) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: squad cannot be augmented") and not (tmp_path / "a").exists()


# --- requests ---------------------------------------------------------------------------------------------


def test_students_train_on_augmented_rows_and_the_teacher_does_not():
    found = catalogue.load({"preset": "small", "tasks": ["rte", "mrpc"], "augmentation": {"tasks": ["rte"], "seed": 3}})
    wanted = {"copies": 30, "share": 0.4, "candidates": 15, "seed": 3, "vectors": None}
    assert found.request("twn_2bit", "rte", 1)["augmentation"] == wanted
    others = [("twn_2bit", "mrpc"), ("fp32", "rte"), ("rtn_8bit", "rte")]
    assert not any("augmentation" in found.request(method, task, 1) for method, task in others)
    plain = catalogue.load({"preset": "small"})
    request = found.request("twn_2bit", "rte", 1)
    assert {key: value for key, value in request.items() if key != "augmentation"} == plain.request("twn_2bit", "rte", 1)
    assert found.request_data("rte") == plain.request_data("rte")
    assert found.steps("twn_2bit", "rte") > 50 * plain.steps("twn_2bit", "rte")


def test_one_method_may_be_augmented_and_its_twin_not():
    settings = {"tasks": ["rte"], "methods": ["twn_2bit"], "copies": 5}
    found = catalogue.load({"preset": "small", "augmentation": settings})
    assert found.request("twn_2bit", "rte", 1)["augmentation"]["copies"] == 5
    assert "augmentation" not in found.request("lat_2bit", "rte", 1)


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"tasks": ["rtee"]}, "augmentation: unknown task 'rtee'. Did you mean 'rte'"),
        ({"methods": ["fp32"]}, "fp32 is not trained by a teacher"),
        ({"methods": ["rtn_8bit"]}, "rtn_8bit is not trained by a teacher"),
        ({"methods": ["twn"]}, "augmentation: unknown method 'twn'"),
        ({"vectors": "nowhere.txt"}, "nowhere.txt is no file"),
        ({"share": 0}, "augmentation.share"),
        ({"copy": 1}, "unknown key 'copy' at augmentation. Did you mean 'copies'"),
    ],
)
def test_mistakes_are_one_line_before_anything_starts(settings, line):
    with pytest.raises(UserError, match=line):
        catalogue.load({"preset": "demo", "tasks": ["rte"], "augmentation": settings})


# --- a run ------------------------------------------------------------------------------------------------


def test_a_student_trains_on_augmented_rows_under_its_own_data_alone(
    with_head, with_head_path, run_method, sst2_path, tmp_path
):
    splits = {"train": rows_of_sst2(60, 1), "validation": rows_of_sst2(30, 2)}
    write(tmp_path / "augmented", task_request("sst2", copies=2), with_head_path, splits)
    write(tmp_path / "plain", {**task_request("sst2"), "augmentation": None}, with_head_path, splits)
    files = {"data_path": tmp_path / "plain", "base_path": with_head_path}
    teacher = harness.execute(request("fp32"), fp32, tmp_path / "fp32", ancestors={}, **files)
    settings = {"tasks": ["sst2"], "augmentation": {"copies": 2}}
    wanted = request("twn_2bit", budget={"epochs_scale": 0.2}, **settings)
    files = {"base_path": with_head_path, "ancestors": {role: tmp_path / "fp32" for role in wanted["ancestors"]}}
    with pytest.raises(UserError, match=r"was made without copies .* --augmented"):
        harness.execute(wanted, ternarybert, tmp_path / "run", data_path=tmp_path / "plain", **files)
    record = harness.execute(wanted, ternarybert, tmp_path / "run", data_path=tmp_path / "augmented", **files)
    validate(json.loads((tmp_path / "run/run.json").read_text()), "run.schema.yaml", "run.json")
    assert record["request"]["augmentation"]["copies"] == 2
    made = record["ran_on"]["data"]["augmentation"]
    assert 60 < made["rows"] <= 180 and record["baseline"] == teacher["baseline"]
    assert record["ran_on"]["data"]["fingerprint"] == teacher["ran_on"]["data"]["fingerprint"]
    plain = request("twn_2bit", budget={"epochs_scale": 0.2})
    with pytest.raises(UserError, match="was made with copies"):
        harness.execute(plain, ternarybert, tmp_path / "other", data_path=tmp_path / "augmented", **files)


@pytest.mark.slow
def test_the_workflow_makes_augmented_rows_once(tmp_path):
    config = {
        **TINY,
        "methods": ["fp32", "twn_2bit"],
        "allow_weak_teacher": True,
        "latency": False,
        "augmentation": {"copies": 2},
    }
    config["budget"] = {**TINY["budget"], "train_rows": 100, "student_epochs_scale": 0.34}
    target = "results/twn_2bit_sst2.json"
    snakemake(tmp_path, target, "--cores", "2", config=config)
    made = json.loads((tmp_path / target).read_text())
    assert made["ran_on"]["dataset"]["augmentation"]["copies"] == 2 and made["ran_on"]["dataset"]["rows"]["train"] == 100
    teacher = json.loads((tmp_path / "results/demo/runs/fp32/sst2/1/run.json").read_text())
    assert "augmentation" not in teacher["ran_on"]["data"]
    augmented = tmp_path / "results/demo/data/sst2.augmented.safetensors"
    before = augmented.stat().st_mtime_ns
    again = snakemake(tmp_path, target, "--cores", "2", config=config)
    assert "Nothing to be done" in again.stdout + again.stderr and augmented.stat().st_mtime_ns == before
    off = snakemake(tmp_path, target, "-n", config={**config, "augmentation": None})
    assert "augmented_data" not in off.stdout + off.stderr
