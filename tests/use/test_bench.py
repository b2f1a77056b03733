"""The benchmark measures real steps: every contender trains, and the table holds them all."""

import re

import pytest
import torch

from methods.use import bench


@pytest.mark.slow
def test_every_contender_stands_in_both_tables(monkeypatch):
    shape = {"num_hidden_layers": 1, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32}
    monkeypatch.setitem(bench.SIZES, "tiny", shape)
    monkeypatch.setattr(bench, "VOCABULARY", 1100)
    table = bench.bench_train("tiny", batch=4, rounds=1, threads=torch.get_num_threads())
    rows = re.findall(r"^  (.+?) +(\d+\.\d{3}) +(\d+\.\d{2})x$", table, re.M)
    assert len(rows) == 8
    assert [name for name, *_ in rows[:4]] == [name for name, *_ in rows[4:]]
    assert all(ratio == "1.00" for name, _, ratio in rows if name.startswith("2020"))


@pytest.mark.parametrize("make", [bench.Naive, lambda teacher: bench.Here(teacher, "fp32", compiled=False)])
def test_a_contender_trains_its_student_and_leaves_the_teacher(make, monkeypatch):
    monkeypatch.setattr(bench, "VOCABULARY", 1100)
    torch.manual_seed(0)
    config = {"num_hidden_layers": 1, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32}
    teacher = bench.build({"vocab_size": 1100, **config}, "sequence", 2).eval().requires_grad_(False)
    bench.show_scores(teacher)
    contender, split = make(teacher), bench._rows(bench._lengths(4))
    before = {name: tensor.clone() for name, tensor in contender.student.state_dict().items()}
    frozen = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    for _ in range(2):  # the first step of a warm-up may have rate zero
        contender.step(split, bench.np.arange(4))
    moved = [name for name, tensor in contender.student.state_dict().items() if not torch.equal(tensor, before[name])]
    assert len(moved) > 20
    assert all(torch.equal(tensor, frozen[name]) for name, tensor in teacher.state_dict().items())
