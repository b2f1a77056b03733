import hashlib
import json
import subprocess
import sys
from collections import Counter

import pytest

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
            assert not any(slip in f" {said.lower()}" for slip in (" a apple", " a owl", " an box"))


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


def test_bytes_are_equal_in_every_process():
    code = (
        "import json, hashlib; from methods.tasks import demo; "
        "print(hashlib.sha256(json.dumps([demo.generate(t) for t in ('rte', 'stsb', 'squad2')]).encode()).hexdigest())"
    )
    here = hashlib.sha256(json.dumps([demo.generate(task) for task in ("rte", "stsb", "squad2")]).encode()).hexdigest()
    for seed in ("1", "2"):
        answer = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": str(catalogue.ROOT)},
        )
        assert answer.stdout.strip() == here, answer.stderr


PAIRS = ("mrpc", "qqp", "mnli", "qnli", "rte", "wnli")


@pytest.mark.slow
@pytest.mark.parametrize(("task", "half"), [(task, half) for task in PAIRS for half in (0, 1)])
def test_one_half_of_a_pair_does_not_tell_its_label(generated, task, half):
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression

    column = TASKS[task]["columns"][half]
    train, dev = (generated[task][split] for split in list(TASKS[task]["rows"])[:2])
    words = CountVectorizer(ngram_range=(1, 2), min_df=2)
    model = LogisticRegression(C=0.1, max_iter=300).fit(
        words.fit_transform([r[column] for r in train]), [r["label"] for r in train]
    )
    score = model.score(words.transform([r[column] for r in dev]), [r["label"] for r in dev])
    majority = Counter(r["label"] for r in dev).most_common(1)[0][1] / len(dev)
    assert score - majority <= 0.05
