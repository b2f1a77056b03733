"""Parallel map: the results of map in its order, and one line instead of a hang where a process is lost."""

import os
import signal
import sys

import pytest

from methods.common.errors import UserError
from report.evidence.cores import on_all_cores


@pytest.fixture(autouse=True)
def two_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1}, raising=False)


def test_results_come_in_order_and_closures_need_not_be_sent():
    offset = 3
    assert list(on_all_cores(lambda number: number + offset, range(20))) == list(range(3, 23))
    assert list(on_all_cores(lambda number: number, [])) == []


def test_a_forked_process_forks_no_more():
    def processes(_):
        return {os.getpid(), *on_all_cores(lambda _: os.getpid(), range(4))}

    for seen in on_all_cores(processes, range(2)):
        assert len(seen) == 1


def test_an_error_is_raised_here_and_the_next_call_works():
    def work(number):
        if number == 2:
            raise UserError("cell 2 is damaged")
        return number

    with pytest.raises(UserError, match="cell 2 is damaged"):
        list(on_all_cores(work, range(4)))
    assert list(on_all_cores(abs, [-1, -2])) == [1, 2]


@pytest.mark.skipif(sys.platform != "linux", reason="no process is forked here, so that there is none to lose")
def test_a_killed_process_is_one_line():
    with pytest.raises(UserError, match="was killed"):
        list(on_all_cores(lambda _: os.kill(os.getpid(), signal.SIGKILL), range(4)))
