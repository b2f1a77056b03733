"""What a teacher shows is kept once and used ever after: the same numbers, in bounded memory."""

import numpy as np
import pytest
import torch

from methods import bibert, moebert
from methods.kernel.trace import Trace
from methods.model.edits import show_scores
from methods.model.encoder import from_base
from methods.training import objective, teaching
from methods.training.forward import forward
from methods.training.objective import Objective, terms_of
from methods.training.recipe import Optimization, Pass, Stage
from methods.training.teaching import Teaching, worth_keeping
from tests.fixtures.models import batch_of
from tests.fixtures.world import loader

WANTED = frozenset({"hidden", "scores", "queries", "keys", "values"})


@pytest.fixture
def teacher(base):
    model = from_base(base, "sequence", 2, 2).eval()
    show_scores(model)
    return model


def stage(terms: dict, epochs: float, rows: int = 8) -> Stage:
    wanted = Optimization(optimizer="adamw", lr=1e-3, epochs=epochs, batch_size=rows)
    return Stage("one", (Pass(Objective(terms, None)),), wanted)


def same(ours, theirs, mask) -> None:
    """Check that two traces agree wherever tokens are real."""
    for mine, other in zip(ours.logits, theirs.logits, strict=True):
        assert torch.allclose(mine, other, atol=1e-5)
    assert ours.shown.keys() == theirs.shown.keys()
    real = mask.bool()
    for name, layers in theirs.shown.items():
        for mine, other in zip(ours.shown[name], layers, strict=True):
            assert mine.shape == other.shape and mine.dtype == other.dtype
            where = {
                "hidden": real[:, :, None],
                "scores": (real[:, :, None] & real[:, None, :])[:, None],
            }.get(name, real[:, None, :, None])
            assert torch.allclose(*(torch.where(where, one, 0.0) for one in (mine, other)), atol=1e-4), name
            assert mine.isfinite().all()


@pytest.mark.parametrize("limit", [0, 300_000, 10**9])
@pytest.mark.parametrize("rows", [[3], [0, 1, 2, 3], [39, 7, 22, 5, 30, 11, 2]])
def test_what_is_kept_is_what_the_teacher_shows(teacher, sst2, device, rows, limit):
    batches, rows = loader(sst2), np.array(rows)
    taught = Teaching(teacher, limit)
    taught.keep(batches, WANTED, device)
    batch = batches.batch(rows)
    with torch.no_grad():
        same(taught(rows, batch, WANTED), forward(teacher, batch, WANTED), batch["attention_mask"])


@pytest.mark.parametrize("parts, shape", [(1, (2,)), (2, (0,)), (1, (0, 5))])
def test_outputs_of_rows_of_spans_and_of_words_come_back(parts, shape):
    """A stand-in for a model of each kind: its logits are random, cut to rows and joined again."""
    batch, width, lengths = batch_of(rows=4), 12, [12, 3, 7, 9]
    sizes = [width if size == 0 else size for size in shape]
    logits = tuple(torch.randn(4, *sizes) for _ in range(parts))
    trace = Trace(batch["input_ids"], batch["attention_mask"], frozenset(), logits=logits)
    rows = list(teaching._rows_of(trace, lengths))
    back = teaching._joined("logits", [row["logits"] for row in rows], width)
    for mine, other in zip(back, logits, strict=True):
        for at, length in enumerate(lengths):
            until = length if shape[0] == 0 else None
            assert torch.equal(mine[at, :until], other[at, :until])
            assert shape[0] != 0 or not mine[at, length:].any()


def test_a_stage_that_wants_less_gets_less(teacher, sst2, device):
    batches, rows = loader(sst2), np.arange(5)
    taught = Teaching(teacher)
    taught.keep(batches, WANTED, device)
    shown = taught(rows, batches.batch(rows), frozenset({"scores"})).shown
    assert shown.keys() == {"scores"}


def test_a_kept_row_is_not_computed_again(teacher, sst2, device):
    batches, rows = loader(sst2), np.arange(6)
    taught, calls = Teaching(teacher), []
    taught.keep(batches, frozenset(), device)
    assert len(taught.kept) == len(batches)
    teacher.register_forward_pre_hook(lambda module, inputs, words: calls.append(len(words["input_ids"])), with_kwargs=True)
    taught(rows, batches.batch(rows), frozenset())
    assert calls == []
    for row in (1, 4):
        del taught.kept[row]
    taught(rows, batches.batch(rows), frozenset())
    assert calls == [2]


def test_memory_is_bounded_and_the_shortest_rows_come_first(teacher, sst2, device, monkeypatch):
    monkeypatch.setattr(teaching, "BATCH", 8)
    batches = loader(sst2)
    whole = Teaching(teacher)
    whole.keep(batches, WANTED, device)
    assert whole.bytes == sum(one.nbytes for row in whole.kept.values() for one in row.values())
    half = Teaching(teacher, whole.bytes // 2)
    half.keep(batches, WANTED, device)
    assert 0 < half.bytes <= whole.bytes // 2
    lengths = sst2.train.lengths
    left = set(range(len(batches))) - set(half.kept)
    assert max(lengths[list(half.kept)]) <= min(lengths[list(left)])


def test_next_to_nothing_is_not_kept(teacher, sst2, device):
    batches = loader(sst2)
    whole = Teaching(teacher)
    whole.keep(batches, WANTED, device)
    few = Teaching(teacher, whole.bytes // 1000)
    few.keep(batches, WANTED, device)
    assert few.kept == {} and few.bytes == 0


def test_the_bytes_of_a_row_are_known_before_it_is_kept(teacher, sst2, device):
    batches = loader(sst2)
    taught = Teaching(teacher)
    taught.keep(batches, WANTED, device)
    longest = int(np.argmax(sst2.train.lengths))
    length = int(sst2.train.lengths[longest])
    batch = batches.batch(np.array([longest]))
    alone = {name: batch[name][:, :length] for name in teaching.INPUTS}
    powers = teaching.row_bytes(teacher, alone, WANTED)
    for row in (longest, 0, 1):
        tokens = int(sst2.train.lengths[row])
        expected = sum(factor * tokens**power for power, factor in enumerate(powers))
        assert sum(one.nbytes for one in taught.kept[row].values()) == pytest.approx(expected)


@pytest.mark.parametrize(
    "terms, epochs, kept",
    [
        ({"logits": 1.0}, 2, frozenset()),
        ({"logits": 1.0}, 1, None),  # a pass to fill the memory would cost what it saves
        ({"logits": 1.0, "hidden": 1.0, "labels": 1.0}, 3, frozenset({"hidden"})),
        ({"labels": 1.0}, 9, None),
        ({"hidden_padded": 1.0}, 9, None),
    ],
)
def test_it_is_kept_where_it_is_used_twice_and_padding_is_not_read(terms, epochs, kept):
    assert worth_keeping([stage(terms, epochs)], 80, torch.device("cpu")) == kept


def test_all_stages_of_a_run_share_what_is_kept():
    stages = [stage({"hidden": 1.0}, 1), stage({"labels": 1.0}, 5), stage({"attention": 1.0}, 1)]
    assert worth_keeping(stages, 80, torch.device("cpu")) == {"hidden", "scores"}
    assert worth_keeping(stages, 80, torch.device("cuda")) is None


def test_every_term_says_what_it_reads_of_padding(base, sst2):
    """Change what the teacher shows of padding: the terms that do not say that they read it must not notice."""
    batches = loader(sst2, padding="max_length")
    batch = batches.batch(np.arange(6))
    student, teacher = (from_base(base, "sequence", 2, seed).eval() for seed in (1, 2))
    for model in (student, teacher):
        show_scores(model)
    mask = batch["attention_mask"].bool()
    every = {name: term for module in (objective, bibert, moebert) for name, term in terms_of(vars(module)).items()}
    checked = 0
    for name, function in every.items():
        if not function.needs_teacher:
            continue
        with torch.no_grad():
            ours, theirs, other = (forward(model, batch, function.reads) for model in (student, teacher, teacher))
        for layers in other.shown.values():
            for shown in layers:
                disturbed = mask if shown.dim() == 3 else mask[:, None]
                shown[~disturbed.expand(shown.shape[:-1])] = 7.0
        changed = not torch.allclose(function(ours, theirs, batch), function(ours, other, batch))
        assert function.reads_padding or not changed, name
        checked += 1
    assert checked >= 6
