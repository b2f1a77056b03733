"""The figures of the tables: plain functions from predictions to percent, as papers print them.

Two rules hold everywhere. Wrong input (nothing to score, unequal lengths, an unanswered question) raises
ValueError. A degenerate model (constant output, an empty positive class, a NaN) is no error but a bad model:
it scores 0.0, never NaN, without a warning.

scikit-learn and scipy take a second to import, so only the functions that need them import them.
"""

import re
import string
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

# --- classification and regression ------------------------------------------------------------------------


def accuracy(predictions, references) -> float:
    """Return the share of equal labels. Most runs need nothing else, so this one needs no library."""
    predictions, references = _paired(predictions, references)
    return _percent(np.mean(predictions == references)) if _usable(predictions) else 0.0


def f1(predictions, references) -> float:
    """Return the F1 of the positive class, which is label 1."""
    predictions, references = _paired(predictions, references)
    hits = (predictions == 1) & (references == 1)
    if not _usable(predictions) or not hits.any():
        return 0.0
    from sklearn.metrics import f1_score

    return _percent(f1_score(references == 1, predictions == 1))


def matthews(predictions, references) -> float:
    """Return the Matthews correlation of two or more classes."""
    predictions, references = _paired(predictions, references)
    if not _usable(predictions) or _constant(predictions) or _constant(references):
        return 0.0
    from sklearn.metrics import matthews_corrcoef

    return _percent(matthews_corrcoef(references, predictions))


def pearson(predictions, references) -> float:
    """Return the linear correlation."""
    return _correlation("pearsonr", predictions, references)


def spearman(predictions, references) -> float:
    """Return the rank correlation; equal values share their mean rank."""
    return _correlation("spearmanr", predictions, references)


def _correlation(name: str, predictions, references) -> float:
    predictions, references = _paired(predictions, references)
    if not _usable(predictions) or _constant(predictions) or _constant(references):
        return 0.0
    from scipy import stats

    with warnings.catch_warnings(), np.errstate(all="ignore"):
        # scipy warns where a correlation would measure rounding noise only: constant but for the last bits
        warnings.simplefilter("error", stats.DegenerateDataWarning)
        try:
            value = getattr(stats, name)(predictions, references).statistic
        except stats.DegenerateDataWarning:
            return 0.0
    return _percent(value) if np.isfinite(value) else 0.0


CLASSIFICATION = {"accuracy": accuracy, "f1": f1, "matthews": matthews}
REGRESSION = {"pearson": pearson, "spearman": spearman}


def classification(names: Iterable[str], predictions, references) -> dict[str, float]:
    """Return the named scores of predicted class indices."""
    return _scores(CLASSIFICATION, names, predictions, references)


def regression(names: Iterable[str], predictions, references) -> dict[str, float]:
    """Return the named scores of predicted values."""
    return _scores(REGRESSION, names, predictions, references)


def _scores(table: Mapping, names: Iterable[str], predictions, references) -> dict[str, float]:
    names = list(names)
    if unknown := [name for name in names if name not in table]:
        raise ValueError(f"no such metric here: {', '.join(unknown)} (there are {', '.join(table)})")
    return {name: table[name](predictions, references) for name in names}


def _paired(predictions, references) -> tuple[np.ndarray, np.ndarray]:
    predictions, references = np.asarray(predictions), np.asarray(references)
    for what, values in (("predictions", predictions), ("references", references)):
        if values.ndim != 1:
            raise ValueError(f"{what} must be one value per example, not an array of shape {values.shape}")
    if len(predictions) != len(references):
        raise ValueError(f"{len(predictions)} predictions for {len(references)} references")
    if not len(references):
        raise ValueError("nothing to score: no predictions and no references")
    if not _usable(references):
        raise ValueError("the references hold a NaN or an infinity")
    return predictions, references


def _usable(values: np.ndarray) -> bool:
    return bool(np.isfinite(values).all())


def _constant(values: np.ndarray) -> bool:
    return bool((values == values[0]).all())


def _percent(fraction) -> float:
    return 100.0 * float(fraction)


# --- SQuAD --------------------------------------------------------------------------------------------------

_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalise(text: str) -> str:
    """Return the form in which answers are compared: lower case, no ASCII punctuation, articles or extra space."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split())


def overlap(prediction: str, gold: str) -> tuple[float, float]:
    """Return F1 over the words, each counted as often as it occurs, and exact match, as fractions.

    Two answers of which nothing is left agree entirely, so that F1 is never below exact match (as in SQuAD v2 and
    torchmetrics; the official v1.1 script gives F1 0 here, and 3 of the 10,570 dev questions have
    such a gold).
    """
    prediction, gold = normalise(prediction), normalise(gold)
    if prediction == gold:
        return 1.0, 1.0
    predicted_words, gold_words = prediction.split(), gold.split()
    shared = (Counter(predicted_words) & Counter(gold_words)).total()
    return 2.0 * shared / (len(predicted_words) + len(gold_words)), 0.0


def squad(predictions: Mapping[str, str], references: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """Return the scores of SQuAD v1.1: each answer counts with its best gold."""
    return {name: _percent(values.mean()) for name, values in squad_questions(predictions, references).items()}


def squad_questions(predictions: Mapping[str, str], references: Mapping[str, Sequence[str]]) -> dict[str, np.ndarray]:
    """Return F1 and exact match of each question, as fractions in the order of `references`: `squad` gives their means."""
    _check_ids(references, predictions=predictions)
    for key, golds in references.items():
        if not golds:
            raise ValueError(f"question {key!r} has no gold answer: such questions belong to squad2")
    return _best_over_golds(predictions, references)


def squad2(
    predictions: Mapping[str, str],
    references: Mapping[str, Sequence[str]],
    null_scores: Mapping[str, float],
    threshold: float = 0.0,
) -> dict[str, float]:
    """Return the scores of SQuAD v2, where a question without golds has no answer and scores 1 for the empty answer only.

    `predictions` are the best *non-empty* answers and `null_scores` tell how much higher the model scores
    "no answer" (null score minus score of that answer). The answer is emptied where this difference is above
    the threshold: strictly above, so that a threshold which equals a difference keeps that answer. Emptying
    here and not before is what lets `best_f1` and `best_exact` look at every threshold; the thresholds they
    report are the smallest that reach the best score, and can really be set: equal differences are kept or
    emptied together.

    `hasans_*` and `noans_*` average over the questions with and without an answer (0.0 if there are none).
    """
    answerable, differences, kept = _squad2(predictions, references, null_scores)

    def score(name: str, limit: float, among: np.ndarray) -> float:
        values = np.where(differences > limit, ~answerable, kept[name])[among]
        return _percent(values.mean()) if len(values) else 0.0

    everyone = np.ones_like(answerable)
    groups = {"": everyone, "hasans_": answerable, "noans_": ~answerable}
    result = {group + name: score(name, threshold, among) for group, among in groups.items() for name in kept}
    for name in kept:
        best = _best_threshold(differences, gains=kept[name] - ~answerable)
        result |= {f"best_{name}": score(name, best, everyone), f"best_{name}_threshold": best}
    return result


def squad2_questions(
    predictions: Mapping[str, str],
    references: Mapping[str, Sequence[str]],
    null_scores: Mapping[str, float],
    threshold: float = 0.0,
) -> dict[str, np.ndarray]:
    """Return F1 and exact match of each question, as fractions in the order of `references`: `squad2` gives their means."""
    answerable, differences, kept = _squad2(predictions, references, null_scores)
    return {name: np.where(differences > threshold, ~answerable, values) for name, values in kept.items()}


def _squad2(predictions: Mapping, references: Mapping, null_scores: Mapping) -> tuple:
    """For each question: whether it has an answer, its null difference, and its scores if its answer is kept."""
    _check_ids(references, predictions=predictions, null_scores=null_scores)
    answerable = np.array([len(golds) > 0 for golds in references.values()])
    differences = np.array([null_scores[key] for key in references], dtype=np.float64)
    if not _usable(differences):
        first = list(references)[np.isfinite(differences).argmin()]
        raise ValueError(f"the null score of question {first!r} is not finite")
    # A gold of punctuation only would reward silence: it does not count, unless there is no other.
    golds = {key: [gold for gold in golds if normalise(gold)] or [""] for key, golds in references.items()}
    return answerable, differences, _best_over_golds(predictions, golds)


def _best_threshold(differences: np.ndarray, gains: np.ndarray) -> float:
    """The smallest threshold with the best sum of `gains` (of keeping the answer over emptying it)."""
    order = np.argsort(differences, kind="stable")
    limits = differences[order]
    last_of_equals = np.append(limits[1:] != limits[:-1], True)
    # rounded, so that equal sums are equal whatever the order in which they were added up
    totals = np.round(np.append(0.0, np.cumsum(gains[order])[last_of_equals]), 9)
    nothing_kept = np.nextafter(limits[0], -np.inf)
    return float(np.append(nothing_kept, limits[last_of_equals])[totals.argmax()])


def _best_over_golds(predictions: Mapping, golds: Mapping) -> dict[str, np.ndarray]:
    """F1 and exact match of each question, in the order of `golds`."""
    pairs = [[overlap(predictions[key], text) for text in texts] for key, texts in golds.items()]
    word_f1, exact = np.array([np.max(of_question, axis=0) for of_question in pairs]).T
    return {"f1": word_f1, "exact": exact}


def _check_ids(references: Mapping, **answers: Mapping) -> None:
    if not references:
        raise ValueError("nothing to score: no references")
    for what, given in answers.items():
        if missing := references.keys() - given.keys():
            raise ValueError(f"{len(missing)} questions have no {what}, the first is {min(missing)!r}")
        if unknown := given.keys() - references.keys():
            raise ValueError(f"{len(unknown)} {what} are for no question, the first is {min(unknown)!r}")
