"""The benchmark measures real steps: every contender trains, and the table holds them all."""

import re

import pytest
import torch

from methods.use.bench import train


@pytest.mark.slow
def test_every_contender_stands_in_both_tables(monkeypatch):
    shape = {"num_hidden_layers": 1, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32}
    monkeypatch.setitem(train.SIZES, "tiny", shape)
    monkeypatch.setattr(train, "VOCABULARY", 1100)
    table = train.bench_train("tiny", batch=4, rounds=1, threads=torch.get_num_threads())
    rows = re.findall(r"^  (.+?) +(\d+\.\d{3}) +(\d+\.\d{2})x$", table, re.M)
    assert len(rows) == 10
    assert [name for name, *_ in rows[:5]] == [name for name, *_ in rows[5:]]
    assert re.search(r"^Of a fused step here \d+\.\d{3} s are Python and calls", table, re.M)
    assert all(ratio == "1.00" for name, _, ratio in rows if name.startswith("2020"))


HERE = [lambda teacher, keeps=keeps: train.Here(teacher, "fp32", compiled=False, keeps=keeps) for keeps in (False, True)]


@pytest.mark.parametrize("make", [train.Naive, *HERE])
def test_a_contender_trains_its_student_and_leaves_the_teacher(make, monkeypatch):
    monkeypatch.setattr(train, "VOCABULARY", 1100)
    torch.manual_seed(0)
    config = {"num_hidden_layers": 1, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32}
    teacher = train.build({"vocab_size": 1100, **config}, "sequence", 2).eval().requires_grad_(False)
    train.show_scores(teacher)
    contender, split = make(teacher), train._rows(train._lengths(4))
    before = {name: tensor.clone() for name, tensor in contender.student.state_dict().items()}
    frozen = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    for _ in range(2):  # the first step of a warm-up may have rate zero
        contender.step(split, train.np.arange(4))
    moved = [name for name, tensor in contender.student.state_dict().items() if not torch.equal(tensor, before[name])]
    assert len(moved) > 20
    assert all(torch.equal(tensor, frozen[name]) for name, tensor in teacher.state_dict().items())
