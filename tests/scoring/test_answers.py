"""Answers from logits: by hand, and against a twin that looks at every span."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from methods.scoring.answers import Answer, Example, Windows, decode, log_mass

OUTSIDE = (-1, -1)


def context_of(words: list[str]) -> tuple[str, list[tuple[int, int]]]:
    """Words joined by spaces, and the characters of each."""
    ends = np.cumsum([len(word) + 1 for word in words]) - 1
    return " ".join(words), [(int(end) - len(word), int(end)) for word, end in zip(words, ends, strict=True)]


def decode_one(start, end, words: str = "zero one two three", **options) -> Answer:
    """One example in one window: [CLS], a question of one token, [SEP], the words, [SEP]."""
    context, spans = context_of(words.split())
    offsets = np.array([[OUTSIDE] * 3 + spans + [OUTSIDE]])
    windows = Windows([0], offsets)
    return decode(np.array([start]), np.array([end]), windows, [Example("q", context)], **options)["q"]


def logits(null: float, *words: float) -> list[float]:
    """Of a window as in `decode_one`; the tokens outside the context tempt with a high value."""
    return [null, 50.0, 50.0, *words, 50.0]


def test_the_best_span_is_cut_from_the_context():
    answer = decode_one(logits(1, 0, 5, 0, 0), logits(2, 0, 0, 4, 0))
    assert answer == Answer("one two", score=9.0, null_difference=-6.0)


def test_text_is_the_original_to_the_letter():
    context = "Im  „Café“\u2014seit 1920"  # two spaces, no space around the dash
    offsets = [OUTSIDE, (0, 2), (4, 5), (5, 9), (9, 10), (10, 11), (11, 15), (16, 20)]
    start, end = np.zeros(8), np.zeros(8)
    start[2], end[6] = 3, 3
    answer = decode([start], [end], Windows([0], [np.array(offsets)]), [Example("q", context)])["q"]
    assert answer.text == "„Café“\u2014seit"


def test_a_span_never_ends_before_it_starts():
    assert decode_one(logits(0, 0, 0, 0, 9), logits(0, 8, 0, 0, 0)).text == "three"


def test_a_span_is_at_most_so_many_tokens_long():
    start, end = logits(0, 9, 0, 0, 0), logits(0, 0, 0, 1, 9)
    assert decode_one(start, end, max_answer_tokens=4).text == "zero one two three"
    assert decode_one(start, end, max_answer_tokens=3).text == "zero one two"


def test_only_the_n_best_starts_and_ends_are_paired():
    start, end = logits(0, 5, 4, 0, 0), logits(0, 0, 6, 0, 0)
    assert decode_one(start, end, n_best=1) == Answer("zero one", 11.0, -11.0)
    # the one best start lies behind the one best end: no span is left, and the null score stands in
    assert decode_one(logits(3, 0, 5, 0, 0), logits(1, 6, 0, 0, 0), n_best=1) == Answer("", 4.0, 0.0)


def test_ties_go_to_the_first_window_the_earliest_start_and_the_shortest_span():
    assert decode_one(logits(0, 1, 1, 1, 1), logits(0, 1, 1, 1, 1)).text == "zero"
    assert decode_one(logits(0, 0, 1, 0, 0), logits(0, 0, 0, 1, 1)).text == "one two"
    context, spans = context_of(["left", "right"])
    offsets = np.array([[OUTSIDE, spans[1]], [OUTSIDE, spans[0]]])
    flat = np.zeros((2, 2))
    assert decode(flat, flat, Windows([0, 0], offsets), [Example("q", context)])["q"].text == "right"


def test_the_null_score_is_the_least_of_all_windows_and_the_answer_the_best():
    context, spans = context_of(["left", "right"])
    offsets = np.array([[OUTSIDE, spans[0]], [OUTSIDE, spans[1]], [OUTSIDE, spans[0]]])
    start = np.array([[4.0, 1.0], [7.0, 3.0], [0.0, 0.0]])
    windows, examples = Windows([0, 0, 1], offsets), [Example("q", context), Example("r", context)]
    answers = decode(start, start, windows, examples)
    assert answers == {"q": Answer("right", 6.0, 2.0), "r": Answer("left", 0.0, 0.0)}


def test_null_threshold_empties_strictly_above():
    start = logits(2, 0, 1, 0, 0)  # null 4, best span 2: difference 2
    assert decode_one(start, start, null_threshold=None) == Answer("one", 2.0, 2.0)
    assert decode_one(start, start, null_threshold=2.0) == Answer("one", 2.0, 2.0)
    assert decode_one(start, start, null_threshold=1.9) == Answer("", 2.0, 2.0)


def test_an_example_without_a_possible_span_answers_nothing():
    windows = Windows([0], np.array([[OUTSIDE, OUTSIDE]]))
    answers = decode(np.array([[1.0, 9.0]]), np.array([[2.0, 9.0]]), windows, [Example("q", "context")])
    assert answers == {"q": Answer("", 3.0, 0.0)}


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_scores_of_a_diverged_model_are_finite(bad):
    for start in (logits(bad, bad, bad, bad, bad), logits(bad, 0, 1, 0, 0), logits(0, 0, bad, 0, 0)):
        answer = decode_one(start, start)
        assert np.isfinite([answer.score, answer.null_difference]).all()
        assert np.isfinite(np.float32(answer.null_difference))  # as it is stored


def test_the_mass_of_all_spans_by_hand():
    start, end = np.array([[50.0, 1.0, 2.0, 50.0]]), np.array([[50.0, 3.0, 4.0, 50.0]])
    windows, examples = Windows([0], np.array([[OUTSIDE, (0, 1), (2, 3), OUTSIDE]])), [Example("q", "a b")]
    assert log_mass(start, end, windows, examples)["q"] == pytest.approx(np.log(np.exp([4.0, 5.0, 6.0]).sum()))
    one_token = log_mass(start, end, windows, examples, max_answer_tokens=1)["q"]
    assert one_token == pytest.approx(np.log(np.exp([4.0, 6.0]).sum()))
    nowhere = Windows([0], np.array([[OUTSIDE] * 4]))
    assert log_mass(start, end, nowhere, examples)["q"] == -np.inf


def test_mistakes_are_errors():
    window = np.array([[OUTSIDE, (0, 1)]])
    two = np.zeros((1, 2))
    with pytest.raises(ValueError, match="logits of shape"):
        decode(np.zeros((1, 3)), two, Windows([0], window), [Example("q", "x")])
    with pytest.raises(ValueError, match="example 'r' has no window"):
        decode(two, two, Windows([0], window), [Example("q", "x"), Example("r", "x")])
    with pytest.raises(ValueError, match="no windows"):
        decode([], [], Windows([], []), [])


# --- the twin -----------------------------------------------------------------------------------------------


def slow_decode(start, end, windows, examples, n_best, max_answer_tokens, null_threshold):
    """The definition, spelled out span by span."""
    answers = {}
    for index, (key, context) in enumerate(examples):
        spans, nulls = [], []
        for window, (owner, offsets) in enumerate(zip(*windows, strict=True)):
            if owner != index:
                continue
            s, e = ([float(value) for value in logits[window]] for logits in (start, end))
            nulls.append(s[0] + e[0])
            inside = [token for token, (begin, _) in enumerate(offsets) if begin >= 0]
            best_starts = sorted(inside, key=lambda token: (-s[token], token))[:n_best]
            best_ends = sorted(inside, key=lambda token: (-e[token], token))[:n_best]
            for first in range(len(offsets)):
                for last in range(len(offsets)):
                    length = last - first + 1
                    if first in best_starts and last in best_ends and 1 <= length <= max_answer_tokens:
                        text = context[offsets[first][0] : offsets[last][1]]
                        spans.append((-(s[first] + e[last]), window, first, length, text))
        null = min(nulls)
        if not spans:
            answers[key] = Answer("", null, 0.0)
            continue
        score, text = -min(spans)[0], min(spans)[-1]
        emptied = null_threshold is not None and null - score > null_threshold
        answers[key] = Answer("" if emptied else text, score, null - score)
    return answers


def slow_log_mass(start, end, windows, examples, max_answer_tokens) -> dict[str, float]:
    sums = {key: 0.0 for key, _ in examples}
    for window, (owner, offsets) in enumerate(zip(*windows, strict=True)):
        inside = [token for token, (begin, _) in enumerate(offsets) if begin >= 0]
        for first in inside:
            for last in inside:
                if 1 <= last - first + 1 <= max_answer_tokens:
                    sums[examples[owner].id] += np.exp(float(start[window][first]) + float(end[window][last]))
    return {key: np.log(total) if total else -np.inf for key, total in sums.items()}


def random_case(seed: int):
    """Windows of several lengths in mixed order; coarse logits in every second case, so that ties abound."""
    rng = np.random.default_rng(seed)
    examples = [Example(f"q{i}", " ".join(f"w{i}{j}" for j in range(12))) for i in range(3)]
    owners = rng.permutation([0, 1, 2, *rng.integers(0, 3, rng.integers(0, 4))])
    offsets, start, end = [], [], []
    for owner in owners:
        _, spans = context_of(examples[owner].context.split())
        begin = rng.integers(0, 12)
        inside = spans[begin : begin + rng.integers(0, 9)]
        tokens = [OUTSIDE] * rng.integers(1, 4) + inside + [OUTSIDE] * rng.integers(0, 4)
        offsets.append(np.array(tokens))
        for side in (start, end):
            values = rng.normal(size=len(tokens)) * 3
            side.append((values.round() if seed % 2 else values).astype(np.float32))
    return start, end, Windows(owners, offsets), examples


def padded(rows: list[np.ndarray], fill) -> np.ndarray:
    width = max(map(len, rows))
    return np.array([np.pad(row, [(0, width - len(row))] + [(0, 0)] * (row.ndim - 1), constant_values=fill) for row in rows])


@settings(max_examples=300, deadline=None)
@given(
    st.integers(0, 10**9),
    st.sampled_from([1, 2, 3, 20]),
    st.sampled_from([1, 2, 5, 30]),
    st.sampled_from([None, -2.0, 0.0, 1.0]),
)
def test_decode_equals_its_slow_twin(seed, n_best, max_answer_tokens, null_threshold):
    start, end, windows, examples = random_case(seed)
    options = {"n_best": n_best, "max_answer_tokens": max_answer_tokens, "null_threshold": null_threshold}
    expected = slow_decode(start, end, windows, examples, **options)
    assert decode(start, end, windows, examples, **options) == expected
    rectangular = Windows(windows.example, padded(windows.offsets, fill=-1))
    assert decode(padded(start, 99.0), padded(end, 99.0), rectangular, examples, **options) == expected


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10**9), st.sampled_from([1, 2, 5, 30]))
def test_the_mass_equals_its_slow_twin_and_no_answer_outweighs_it(seed, max_answer_tokens):
    case = random_case(seed)
    mass = log_mass(*case, max_answer_tokens=max_answer_tokens)
    assert mass == pytest.approx(slow_log_mass(*case, max_answer_tokens))
    for key, answer in decode(*case, max_answer_tokens=max_answer_tokens).items():
        assert not answer.text or answer.score <= mass[key] + 1e-9


def test_a_whole_dev_set_decodes_in_seconds():
    """SQuAD v1.1's 10,570 questions: half a second on one core, with room for a slow machine."""
    rng = np.random.default_rng(0)
    count, width, words = 10_570, 180, 150
    owners = np.sort(np.append(np.arange(count), rng.integers(0, count, 430)))
    offsets = np.full((len(owners), width, 2), -1)
    offsets[:, 20 : 20 + words] = np.arange(words)[:, None] * 5 + [0, 4]
    examples = [Example(str(index), "word " * words) for index in range(count)]
    start, end = rng.normal(size=(2, len(owners), width)).astype(np.float32)
    began = time.process_time()
    assert len(decode(start, end, Windows(owners, offsets), examples)) == count
    assert time.process_time() - began < 10
