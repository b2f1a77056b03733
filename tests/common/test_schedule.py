"""The time left is estimated from steps, at the speed of the runs that are done."""

import json
import os
import time

from methods.common import schedule


def finish(folder, name: str, seconds: float, ended: float) -> None:
    run = folder / "runs" / name
    run.mkdir(parents=True)
    (run / "machine.json").write_text(json.dumps({"seconds": {"total": seconds}}))
    (run / "run.json").write_text("{}")
    os.utime(run / "run.json", (ended, ended))


def test_the_rest_is_the_steps_of_other_runs_at_the_speed_of_their_task():
    steps = {"a/one/1": 100, "b/one/1": 200, "c/two/1": 50, "d/two/1": 0}
    assert schedule.remaining(steps, {"a/one/1": 10.0}) == (3 + 20) + (3 + 5) + 3
    assert schedule.remaining(steps, {"a/one/1": 10.0, "c/two/1": 50.0}) == (3 + 20) + 3
    assert schedule.remaining(steps, {"a/one/1": 10.0, "b/one/1": 20.0, "c/two/1": 1.0, "d/two/1": 1.0}) == 0


def test_a_line_counts_runs_and_says_what_is_left(tmp_path):
    now = time.time()
    plan = tmp_path / "progress.json"
    schedule.write(plan, {"a/one/1": 100, "b/one/1": 100, "c/one/1": 100})
    assert schedule.left(plan) is None
    content = json.loads(plan.read_text())
    plan.write_text(json.dumps({**content, "started": now - 20}))
    finish(tmp_path, "a/one/1", 7.0, now)
    assert schedule.left(plan) == "1 of 3 runs, 0:20 left"  # ten seconds for 100 steps: two runs are left
    finish(tmp_path, "b/one/1", 7.0, now - 1000)  # an earlier workflow's
    assert schedule.left(plan) == "1 of 3 runs, 0:20 left"


def test_without_a_whole_plan_nothing_is_said(tmp_path):
    plan = tmp_path / "progress.json"
    assert schedule.left(plan) is None
    for text in ("", "[]", "null", "{}", '{"steps": 1}'):
        plan.write_text(text)
        assert schedule.left(plan) is None
