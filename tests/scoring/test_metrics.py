"""Scores against scikit-learn, scipy and torchmetrics, by hand, and through `evaluate` without network."""

import json
import subprocess
import sys
import textwrap
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from methods.scoring import metrics as scores

ROOT = Path(__file__).resolve().parents[2]
CASES = 200

CLASS_SCORES = ("accuracy", "f1", "matthews")
VALUE_SCORES = ("pearson", "spearman")
TABLE = scores.CLASSIFICATION | scores.REGRESSION


def agree(percent: float, fraction: float) -> None:
    assert percent / 100 == pytest.approx(fraction, rel=1e-12, abs=1e-12)


@pytest.fixture
def torchmetrics(monkeypatch):
    """torchmetrics' functions, made to count in double precision."""
    import torch
    from torchmetrics import functional

    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield functional
    torch.set_default_dtype(before)


# --- classification and regression ------------------------------------------------------------------------


def random_labels(seed: int, classes: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Labels of any balance and predictions of any quality; both classes occur in both."""
    rng = np.random.default_rng(seed)
    n = rng.integers(4, 200)
    references = rng.choice(classes, n, p=rng.dirichlet(np.ones(classes) * 3))
    predictions = np.where(rng.random(n) < rng.random(), references, rng.integers(0, classes, n))
    references[:2] = predictions[1:3] = [0, 1]
    return predictions, references


def random_values(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Similarities between 0 and 5, with ties in every second case."""
    rng = np.random.default_rng(seed)
    references = rng.uniform(0, 5, rng.integers(3, 200))
    predictions = rng.normal() * references + rng.normal(size=len(references))
    return (predictions.round(), references.round(1)) if seed % 2 else (predictions, references)


def test_class_scores_equal_scikit_learn():
    from sklearn import metrics

    for seed in range(CASES):
        predictions, references = random_labels(seed)
        agree(scores.accuracy(predictions, references), metrics.accuracy_score(references, predictions))
        agree(scores.f1(predictions, references), metrics.f1_score(references, predictions))
        predictions, references = random_labels(seed, classes=2 + seed % 2)
        agree(scores.matthews(predictions, references), metrics.matthews_corrcoef(references, predictions))


def test_correlations_equal_scipy():
    from scipy import stats

    for seed in range(CASES):
        predictions, references = random_values(seed)
        agree(scores.pearson(predictions, references), stats.pearsonr(predictions, references).statistic)
        agree(scores.spearman(predictions, references), stats.spearmanr(predictions, references).statistic)


def test_scores_equal_torchmetrics(torchmetrics):
    from torch import from_numpy as tensor
    from torchmetrics.functional.regression.spearman import _spearman_corrcoef_compute

    theirs = {
        "accuracy": torchmetrics.classification.binary_accuracy,
        "f1": torchmetrics.classification.binary_f1_score,
        "matthews": torchmetrics.classification.binary_matthews_corrcoef,
        "pearson": torchmetrics.pearson_corrcoef,
        # the public function adds 1e-6 to the denominator
        "spearman": partial(_spearman_corrcoef_compute, eps=0.0),
    }
    for seed in range(CASES):
        for names, case in ((CLASS_SCORES, random_labels(seed)), (VALUE_SCORES, random_values(seed))):
            for name in names:
                agree(TABLE[name](*case), theirs[name](*map(tensor, case)).item())


def test_scores_by_hand():
    predictions, references = [1, 1, 0, 0, 1], [1, 0, 0, 1, 1]  # tp 2, fp 1, fn 1, tn 1
    assert scores.accuracy(predictions, references) == pytest.approx(60)
    assert scores.f1(predictions, references) == pytest.approx(100 * 4 / 6)
    assert scores.matthews(predictions, references) == pytest.approx(100 * (2 * 1 - 1 * 1) / 6)
    assert scores.pearson([0, 0, 3], [0, 1, 2]) == pytest.approx(100 * 3 / 12**0.5)
    assert scores.spearman([1, 10, 100, 50], [1, 2, 3, 4]) == pytest.approx(80)  # 1 - 6 * (1 + 1) / (4 * 15)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("name", "predictions", "references"),
    [
        ("f1", [0, 0, 0], [0, 1, 1]),
        ("f1", [1, 1, 0], [0, 0, 0]),
        ("f1", [0, 0], [0, 0]),
        ("f1", [0], [0]),
        ("f1", [1.0, np.nan], [1, 1]),
        ("accuracy", [1.0, np.nan], [1, 1]),
        ("accuracy", [1.0, np.inf], [1, 1]),
        ("matthews", [1, 1, 1], [0, 1, 1]),
        ("matthews", [0, 1, 1], [1, 1, 1]),
        ("matthews", [1], [1]),
        ("matthews", [1.0, np.nan, 0.0], [1, 1, 0]),
        *[
            (name, predictions, references)
            for name in VALUE_SCORES
            for predictions, references in [
                ([0.1, 0.1, 0.1], [1, 2, 3]),
                ([1.0, 2.0, 3.0], [2.5, 2.5, 2.5]),
                ([1.0, np.nan, 3.0], [1, 2, 3]),
                ([1.0, -np.inf, 3.0], [1, 2, 3]),
                ([1.0], [1.0]),
            ]
        ],
        ("pearson", [1e6, 1e6 + 1e-9, 1e6 + 2e-9], [1, 2, 3]),  # constant but for the last bits
    ],
)
def test_degenerate_models_score_zero_without_a_warning(name, predictions, references):
    assert TABLE[name](predictions, references) == 0.0


@pytest.mark.filterwarnings("error")
def test_huge_but_finite_predictions_stay_finite():
    for name in VALUE_SCORES:
        assert np.isfinite(TABLE[name]([1e308, -1e308, 1e-308], [1, 2, 3]))


@pytest.mark.parametrize("score", TABLE.values(), ids=TABLE)
@pytest.mark.parametrize(
    ("predictions", "references", "complaint"),
    [
        ([], [], "nothing to score"),
        ([1, 0], [1], "2 predictions for 1 references"),
        ([[0.1, 0.9], [0.8, 0.2]], [1, 0], "one value per example"),
        ([1, 0], [1, np.nan], "references hold a NaN"),
    ],
)
def test_wrong_input_is_an_error(score, predictions, references, complaint):
    with pytest.raises(ValueError, match=complaint):
        score(predictions, references)


def test_tables_give_the_named_scores_in_order():
    result = scores.classification(["f1", "accuracy"], [1, 0, 0], [1, 1, 0])
    assert list(result) == ["f1", "accuracy"]
    assert result == pytest.approx({"f1": 100 * 2 / 3, "accuracy": 100 * 2 / 3})
    assert scores.regression(["pearson"], [1, 2, 4], [2, 4, 8]) == pytest.approx({"pearson": 100})
    with pytest.raises(ValueError, match=r"no such metric here: bleu \(there are accuracy, f1, matthews\)"):
        scores.classification(["accuracy", "bleu"], [1], [1])


pairs_of_labels = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=30)


@given(pairs_of_labels)
def test_class_scores_are_bounded_and_symmetric(pairs):
    predictions, references = zip(*pairs, strict=True)
    for name in CLASS_SCORES:
        score = TABLE[name](predictions, references)
        assert -100 - 1e-9 <= score <= 100 + 1e-9
        assert score == pytest.approx(TABLE[name](references, predictions))


@given(st.lists(st.integers(-1000, 1000), min_size=2, max_size=30, unique=True), st.integers(1, 9), st.integers())
def test_correlations_ignore_scale_and_shift(values, scale, shift):
    moved = [scale * value + shift % 1000 for value in values]
    for name in VALUE_SCORES:
        assert TABLE[name](moved, values) == pytest.approx(100)
        assert TABLE[name](values, [-value for value in values]) == pytest.approx(-100)


# --- SQuAD --------------------------------------------------------------------------------------------------

words = st.lists(st.sampled_from(["a", "The", "cat", "Cat.", "sat", "--", "on", "mat,", "über"]), max_size=6)
texts = words.map(" ".join)


@pytest.mark.parametrize(
    ("prediction", "golds", "f1", "exact"),
    [
        ("The Eiffel Tower", ["Eiffel Tower"], 1, 1),  # article, case
        ("an  apple\ta day", ["apple day"], 1, 1),  # articles inside, white space
        ("theatre", ["atre"], 0, 0),  # an article is a whole word
        ("U.S.A.", ["USA"], 1, 1),  # punctuation vanishes, it does not split
        ("well-known", ["well known"], 0, 0),
        ("Fifty-two,", ["fiftytwo"], 1, 1),
        ("Paris", ["Lyon", "in Paris", "PARIS!"], 1, 1),  # the best gold counts
        ("Paris", ["Lyon", "in Paris"], 2 / 3, 0),
        ("cat cat dog", ["cat dog dog dog"], 4 / 7, 0),  # a repeated word counts as often as in both
        ("dog the cat", ["cat dog"], 1, 0),  # order matters for exact match only
        ("Łódź", ["łódź"], 1, 1),
        ("naïve", ["naive"], 0, 0),
        ("„Zürich“", ["Zürich"], 0, 0),  # typographic quotes are not ASCII punctuation
        ("", ["anything"], 0, 0),
        ("the", ["."], 1, 1),  # nothing is left of either
        ("10\u00a0km", ["10 km"], 1, 1),
    ],
)
def test_squad_by_hand(prediction, golds, f1, exact):
    result = scores.squad({"q": prediction}, {"q": golds})
    assert result == pytest.approx({"f1": 100 * f1, "exact": 100 * exact})


def random_squad(seed: int, least_golds: int) -> tuple[dict, dict, dict]:
    """Questions with up to three golds, answers near them or not, and null scores with ties."""
    rng = np.random.default_rng(seed)
    vocabulary = ["the", "a", "red", "Red,", "house", "on", "hill", "1,000", "(hill)", "être", "!"]

    def some_words() -> str:
        return " ".join(rng.choice(vocabulary, rng.integers(1, 5)))

    references = {f"q{i}": [some_words() for _ in range(rng.integers(least_golds, 4))] for i in range(12)}
    predictions = {
        key: rng.choice(golds) if golds and rng.random() < 0.4 else some_words() for key, golds in references.items()
    }
    return predictions, references, {key: float(rng.integers(-4, 5)) / 2 for key in references}


def test_squad_equals_torchmetrics(torchmetrics):
    from torchmetrics.functional.text import squad

    for seed in range(CASES):
        predictions, references, _ = random_squad(seed, least_golds=1)
        theirs = squad(
            [{"id": key, "prediction_text": text} for key, text in predictions.items()],
            [{"id": key, "answers": {"text": golds, "answer_start": [0] * len(golds)}} for key, golds in references.items()],
        )
        ours = scores.squad(predictions, references)
        agree(ours["f1"], theirs["f1"].item() / 100)
        agree(ours["exact"], theirs["exact_match"].item() / 100)


@given(texts, texts)
def test_overlap_is_symmetric_and_f1_is_never_below_exact(one, other):
    assert scores.overlap(one, other) == scores.overlap(other, one)
    f1, exact = scores.overlap(one, other)
    assert 0 <= exact <= f1 <= 1
    assert scores.overlap(one, one) == (1, 1)


@given(st.text(max_size=40))
def test_normalised_text_is_normal(text):
    normal = scores.normalise(text)
    assert scores.normalise(normal) == normal
    assert scores.normalise(f" The {text}!") == normal


def test_squad2_by_hand():
    references = {"fact": ["red house"], "half": ["a red house"], "none": [], "tempted": []}
    predictions = {"fact": "the red house", "half": "red", "none": "a hill", "tempted": "a hill"}
    null_scores = {"fact": -3.0, "half": -1.0, "none": 2.0, "tempted": -2.0}
    result = scores.squad2(predictions, references, null_scores)  # kept: fact, half, tempted
    two_thirds = 200 / 3
    assert result == pytest.approx(
        {
            "f1": (100 + two_thirds + 100 + 0) / 4,
            "exact": 50,
            "hasans_f1": (100 + two_thirds) / 2,
            "hasans_exact": 50,
            "noans_f1": 50,
            "noans_exact": 50,
            "best_f1": 75,  # keep `fact` only
            "best_f1_threshold": -3,
            "best_exact": 75,
            "best_exact_threshold": -3,
        }
    )


def test_scores_of_single_questions_by_hand_and_their_means():
    references = {"fact": ["red house"], "half": ["a red house"], "none": [], "tempted": []}
    predictions = {"tempted": "a hill", "none": "a hill", "half": "red", "fact": "the red house"}  # in any order
    null_scores = {"fact": -3.0, "half": -1.0, "none": 2.0, "tempted": -2.0}
    each = scores.squad2_questions(predictions, references, null_scores)
    assert each["f1"].tolist() == pytest.approx([1, 2 / 3, 1, 0])
    assert each["exact"].tolist() == [1, 0, 1, 0]
    assert scores.squad2_questions(predictions, references, null_scores, -2.5)["f1"].tolist() == [1, 0, 1, 1]
    for seed in range(20):
        predictions, references, null_scores = random_squad(seed, least_golds=1)
        pairs = [(scores.squad, scores.squad_questions, ()), (scores.squad2, scores.squad2_questions, (null_scores,))]
        for whole, each, rest in pairs:
            means, questions = whole(predictions, references, *rest), each(predictions, references, *rest)
            assert all(means[name] == pytest.approx(100 * values.mean()) for name, values in questions.items())


def test_squad2_empties_strictly_above_the_threshold():
    def exact(threshold: float, golds: list[str]) -> float:
        return scores.squad2({"q": "yes"}, {"q": golds}, {"q": 1.5}, threshold)["exact"]

    assert [exact(1.5, ["yes"]), exact(1.4, ["yes"])] == [100, 0]
    assert [exact(1.5, []), exact(1.4, [])] == [0, 100]


def test_squad2_silence_is_right_for_unanswerable_questions_only():
    result = scores.squad2({"q": "", "n": ""}, {"q": ["yes"], "n": []}, {"q": 0, "n": 0})
    assert (result["hasans_f1"], result["noans_f1"], result["noans_exact"]) == (0, 100, 100)
    # a gold of punctuation beside a real one does not make silence right
    assert scores.squad2({"q": ""}, {"q": [".", "yes"]}, {"q": 0})["f1"] == 0


def test_squad2_without_thresholds_is_squad_on_answerable_questions():
    for seed in range(20):
        predictions, references, null_scores = random_squad(seed, least_golds=1)
        references = {
            key: [gold for gold in golds if scores.normalise(gold)] or ["hill"] for key, golds in references.items()
        }
        without = scores.squad2(predictions, references, null_scores, threshold=np.inf)
        assert scores.squad(predictions, references) == {name: without[name] for name in ("f1", "exact")}
        assert (without["noans_f1"], without["noans_exact"]) == (0, 0)


def test_best_thresholds_equal_brute_force():
    for seed in range(CASES):
        case = random_squad(seed, least_golds=0)
        result = scores.squad2(*case)
        limits = sorted({-np.inf, *case[2].values()})
        for name in ("f1", "exact"):
            brute = [scores.squad2(*case, threshold=limit)[name] for limit in limits]
            assert result[f"best_{name}"] == pytest.approx(max(brute), rel=1e-12)
            reached = scores.squad2(*case, threshold=result[f"best_{name}_threshold"])[name]
            assert reached == result[f"best_{name}"]
            assert np.isfinite(result[f"best_{name}_threshold"])
            smallest = limits[int(np.argmax(np.round(brute, 9)))]
            assert result[f"best_{name}_threshold"] == (
                smallest if np.isfinite(smallest) else np.nextafter(limits[1], -np.inf)
            )


@pytest.mark.parametrize(
    ("score", "arguments", "complaint"),
    [
        (scores.squad, ({}, {}), "nothing to score"),
        (scores.squad, ({"b": "x"}, {"a": ["x"], "b": ["x"]}), "1 questions have no predictions.*'a'"),
        (scores.squad, ({"a": "x", "z": "x"}, {"a": ["x"]}), "1 predictions are for no question.*'z'"),
        (scores.squad, ({"a": "x"}, {"a": []}), "'a' has no gold answer"),
        (scores.squad2, ({"a": "x"}, {"a": []}, {}), "1 questions have no null_scores.*'a'"),
        (scores.squad2, ({"a": "x"}, {"a": []}, {"a": np.nan}), "null score of question 'a' is not finite"),
    ],
)
def test_squad_input_errors_name_the_question(score, arguments, complaint):
    with pytest.raises(ValueError, match=complaint):
        score(*arguments)


# --- start-up and `evaluate` -----------------------------------------------------------------------------


def run_python(script: str, **options) -> str:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=120,
        **options,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_scores_and_answers_is_cheap():
    loaded = run_python(
        "import sys, methods.scoring.metrics, methods.scoring.answers; print(*sys.modules)", cwd=ROOT
    ).split()
    assert not {"torch", "datasets", "evaluate", "sklearn", "scipy"} & set(loaded)


EVALUATE_SCRIPT = """
    import json, socket, sys

    def refuse(*_, **__):
        raise AssertionError("the network was used")

    socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = refuse

    from methods.scoring import metrics
    from methods.scoring.evaluate_metrics import SquadV1, SquadV2, Values

    def load(task):
        if task in ("squad", "squad2"):
            return SquadV1() if task == "squad" else SquadV2()
        if task == "stsb":
            return Values(metrics.regression, ["spearman", "pearson"], "float64")
        names = {"mrpc": ["accuracy", "f1"], "cola": ["matthews", "accuracy"], "rte": ["accuracy"]}
        return Values(metrics.classification, names[task], "int64")

    case = json.load(sys.stdin)
    result = {task: load(task).compute(**case[task]) for task in case}
    result["squad2 at -1"] = load("squad2").compute(**case["squad2"], threshold=-1.0)

    batches = load("mrpc")
    for prediction, reference in zip(case["mrpc"]["predictions"], case["mrpc"]["references"]):
        batches.add(prediction=prediction, reference=reference)
    result["mrpc, one by one"] = batches.compute()

    def complaint(task, rows):
        try:
            load(task).compute(**rows)
        except ValueError as error:
            return str(error)

    doubled = {side: rows + rows[:1] for side, rows in case["squad"].items()}
    result["complaints"] = [
        complaint("rte", {"predictions": [1], "references": [1, 0]}),
        complaint("rte", {"predictions": [], "references": []}),
        complaint("squad", doubled),
    ]
    result["citations"] = [load(task).citation for task in ("squad", "squad2")]
    json.dump(result, sys.stdout, allow_nan=False)
"""


def test_evaluate_metrics_give_the_same_scores_and_run_nothing_foreign(tmp_path):
    folder, home = tmp_path / "work", tmp_path / "home"
    home.mkdir()
    trap = "open('TRAPPED', 'w').close()"
    for name in ("glue", "squad", "squad2", "squad_v2", "squad_v1", "mrpc", "accuracy", "f1"):
        (folder / name).mkdir(parents=True)
        (folder / name / f"{name}.py").write_text(trap)
        (folder / name / "__init__.py").write_text(trap)
    laid = sorted(folder.rglob("*"))

    predictions, references = (column.tolist() for column in random_labels(7))
    values = [column.tolist() for column in random_values(7)]
    answers, golds, null_scores = random_squad(7, least_golds=1)
    golds2 = {key: golds[key] if index % 3 else [] for index, key in enumerate(golds)}

    def rows(answers: dict, golds: dict, **extra: dict) -> dict:
        return {
            "predictions": [
                {"id": key, "prediction_text": text} | {name: column[key] for name, column in extra.items()}
                for key, text in answers.items()
            ],
            "references": [
                {"id": key, "answers": {"text": texts, "answer_start": [0] * len(texts)}} for key, texts in golds.items()
            ],
        }

    glue = ("cola", "mrpc", "rte")
    case = {task: {"predictions": predictions, "references": references} for task in glue}
    case["stsb"] = {"predictions": values[0], "references": values[1]}
    case["squad"] = rows(answers, golds)
    case["squad2"] = rows(answers, golds2, null_score=null_scores)

    places = {"HOME": home, "HF_HOME": home, "XDG_CACHE_HOME": home, "TMPDIR": home, "PYTHONPATH": ROOT}
    environment = {"PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"} | {k: str(v) for k, v in places.items()}
    result = json.loads(run_python(EVALUATE_SCRIPT, cwd=folder, env=environment, input=json.dumps(case)))

    accuracy_f1 = scores.classification(["accuracy", "f1"], predictions, references)
    assert result["mrpc"] == result["mrpc, one by one"] == accuracy_f1
    assert result["cola"] == scores.classification(["matthews", "accuracy"], predictions, references)
    assert result["rte"] == {"accuracy": accuracy_f1["accuracy"]}
    # its BLAS is not told what the caller's is told, and may sum in another order
    assert result["stsb"] == pytest.approx(scores.regression(["spearman", "pearson"], *values), rel=1e-12)
    assert result["squad"] == scores.squad(answers, golds)
    assert result["squad2"] == scores.squad2(answers, golds2, null_scores)
    assert result["squad2 at -1"] == scores.squad2(answers, golds2, null_scores, threshold=-1.0)

    unequal, nothing, twice = result["complaints"]
    assert "Mismatch" in unequal
    assert "nothing to score" in nothing
    assert "'q0' is there twice" in twice
    assert all(citation.startswith("@inproceedings{") for citation in result["citations"])

    assert sorted(folder.rglob("*")) == laid
    assert not [path for path in home.rglob("*") if path.is_file()]
