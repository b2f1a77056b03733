import re
import subprocess
import sys
from collections import Counter

import pytest

from methods.common.files import canonical, sha256
from methods.tasks import demo
from workflow import catalogue

TASKS = catalogue.load({"preset": "demo"}).tasks


@pytest.fixture(scope="module")
def generated():
    return {task: demo.generate(task) for task in TASKS}


def test_every_task_has_its_columns_labels_and_rows(generated):
    for task, splits in generated.items():
        entry = TASKS[task]
        wanted = (
            {"id", "title", "context", "question", "answers"}
            if entry["kind"] == "span"
            else {*entry["columns"], "label", "idx"}
        )
        assert list(splits) == list(entry["rows"])
        for split, rows in splits.items():
            assert len(rows) >= ((1000, 200) if entry["kind"] == "span" else (2000, 400))[split != "train"]
            assert all(row.keys() == wanted for row in rows)
            if entry["labels"]:
                assert {row["label"] for row in rows} == set(range(len(entry["labels"])))


def test_answers_stand_where_they_are_said_to_and_squad2_has_both_kinds(generated):
    for task in ("squad", "squad2"):
        for row in generated[task]["train"]:
            for text, start in zip(row["answers"]["text"], row["answers"]["answer_start"], strict=True):
                assert row["context"][start : start + len(text)] == text
    assert all(row["answers"]["text"] for row in generated["squad"]["train"])
    assert (
        0.4
        < sum(not row["answers"]["text"] for row in generated["squad2"]["train"]) / len(generated["squad2"]["train"])
        < 0.6
    )


def test_no_text_stands_in_two_splits_and_none_is_clumsy(generated):
    for splits in generated.values():
        texts = {
            split: {tuple(v for k, v in row.items() if isinstance(v, str) and k not in ("id", "title")) for row in rows}
            for split, rows in splits.items()
        }
        first, *others = texts.values()
        assert not any(first & other for other in others)
        for said in (text for found in texts.values() for row in found for text in row):
            assert "  " not in said
            # By the first letter: no word of the demo world is one that is spoken otherwise (an hour, a uniform).
            assert not re.search(r"\ba [aeiou]|\ban [^aeiou]", said, re.IGNORECASE), said


def test_the_vocabulary_is_small_and_covers_every_row(generated):
    words = demo.vocabulary()
    assert words == sorted(set(words))
    assert 1000 <= len(words) <= 2000
    known = set(words)
    for splits in generated.values():
        for row in splits["train"][:200]:
            texts = [value for name, value in row.items() if isinstance(value, str) and name != "id"]
            assert all(word in known for text in texts for word in demo.WORD.findall(text.lower()))


def test_majority_baselines_are_low(generated):
    for task, splits in generated.items():
        if TASKS[task]["labels"]:
            counts = Counter(row["label"] for row in splits["train"])
            assert max(counts.values()) / len(splits["train"]) <= 0.6, task


# SHA-256 of every task's rows at seed 0. Whoever changes what the demo says changes these too, and says so in the changelog.
DIGESTS = {
    "cola": "67ff9eb3c06296729489d033701626d80c417b97c616c6edf842465b2b07f796",
    "sst2": "97f67aa4a58ddbb0fe073fc5f3381681fae9a227a79053591842240300b1869b",
    "mrpc": "4444e79eda700c4ee9037623f41568720b95bcf84adb3f790fc82ddb09565aef",
    "stsb": "00ae65d339b9801180ca0a99a77622fd60e30fe4be324d5c852c8b1e21beb3ef",
    "qqp": "a3ecc20891bfac61acbc1c35fbf111cf4b58548fc2d028a6986c4b65e466cc45",
    "mnli": "9104246345b98498a3abe4529494a78ba6732fdeb3d8cc27cd769d063508847e",
    "qnli": "c02d42a0847faf1b4fcfe1cc4300a563a671665289fe7728aa976661da92f642",
    "rte": "252c980845e4b4c3c29b3c708ca4bc4f7cdd6a67d864fb8ed65dd3a37a86a11c",
    "wnli": "7e240186302a3183cd8a301e1fc492d3602c48b6abe7dfa42c1c0e9bcad7da1e",
    "squad": "30ae902e4a54f004824ce3852399f3123115671f5e9e9ac0df042518d5a72564",
    "squad2": "48ce8eade4b3b1fef3f69d8aba88289fcb5c670cad9b8ea575e7cb28a4c85dae",
}


@pytest.mark.parametrize("task", DIGESTS)
def test_rows_are_the_same_bytes_on_every_machine(generated, task):
    assert sha256(canonical(generated[task]).encode()) == DIGESTS[task]


def test_rows_are_the_same_bytes_whatever_the_order_of_sets():
    code = (
        "from methods.common.files import canonical, sha256; from methods.tasks import demo; "
        "print(*(sha256(canonical(demo.generate(task)).encode()) for task in ('rte', 'stsb', 'squad2')))"
    )
    for seed in ("1", "2"):
        environment = {"PYTHONHASHSEED": seed, "PYTHONPATH": str(catalogue.ROOT)}
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
        assert done.stdout.split() == [DIGESTS[task] for task in ("rte", "stsb", "squad2")], done.stderr


PAIRS = ("mrpc", "stsb", "qqp", "mnli", "qnli", "rte", "wnli", "squad2")


@pytest.mark.slow
@pytest.mark.parametrize(("task", "half"), [(task, half) for task in PAIRS for half in (0, 1)])
def test_one_half_of_a_pair_does_not_tell_its_label(generated, task, half):
    """Its words and pairs of words foretell at most five points more than the majority, or a correlation of 0.05."""
    from scipy.stats import spearmanr
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression, Ridge

    column, span = TASKS[task]["columns"][half], TASKS[task]["kind"] == "span"
    train, dev = (generated[task][split] for split in list(TASKS[task]["rows"])[:2])
    told, asked = ([bool(row["answers"]["text"]) if span else row["label"] for row in rows] for rows in (train, dev))
    words = CountVectorizer(ngram_range=(1, 2), min_df=2)
    seen = words.fit_transform([row[column] for row in train])
    unseen = words.transform([row[column] for row in dev])
    if TASKS[task]["kind"] == "regression":
        assert abs(spearmanr(Ridge(10).fit(seen, told).predict(unseen), asked).statistic) <= 0.05
    else:
        majority = Counter(asked).most_common(1)[0][1] / len(asked)
        assert LogisticRegression(C=0.1, max_iter=300).fit(seen, told).score(unseen, asked) - majority <= 0.05
