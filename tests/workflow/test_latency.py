"""The rule that measures predictions: which runs it measures, and that it is alone."""

import json
import re

import pytest

from tests.fixtures.workflow import TINY, jobs, snakemake


def test_it_takes_all_cores_so_that_no_job_runs_beside_it(tmp_path):
    done = snakemake(tmp_path, "-n", "-p", "--cores", "7", "all")
    assert re.search(r"python -m methods latency .* --threads 7 ", done.stdout + done.stderr)
    done = snakemake(tmp_path, "-n", "-p", "--cores", "7", "all", config={**TINY, "latency": {"threads": 2}})
    assert re.search(r"python -m methods latency .* --threads 7 --threads 2 ", done.stdout + done.stderr)


def test_the_first_seed_of_each_cell_is_measured_and_no_ancestor(tmp_path):
    config = {**TINY, "methods": ["fp32", "tws_1bit"], "seeds": [3, 1]}
    done = snakemake(tmp_path, "-n", "all", config=config)
    measured = re.findall(r"Latency of (\w+) on (\w+), seed (\d+)", done.stdout + done.stderr)
    assert sorted(set(measured)) == [("fp32", "sst2", "3"), ("tws_1bit", "sst2", "3")]
    assert jobs(done)["run"] > jobs(done)["latency"] == 2


def test_a_cell_asked_for_by_name_is_measured_too(tmp_path):
    assert jobs(snakemake(tmp_path, "-n", "results/lsq_4bit_rte.json"))["latency"] == 1


def test_it_can_be_switched_off(tmp_path):
    assert "latency" not in jobs(snakemake(tmp_path, "-n", "all", "--config", "latency=false"))


@pytest.mark.parametrize(
    ("value", "line"),
    [
        ("true", "error: configuration: latency: True should not be valid"),
        ("{secnods: 2}", "error: configuration: unknown key 'secnods' at latency. Did you mean 'seconds'?"),
        ("{seconds: 0}", "error: configuration: latency.seconds: 0 is less than or equal to the minimum of 0"),
    ],
)
def test_a_wrong_setting_is_one_line(value, line, tmp_path):
    done = snakemake(tmp_path, "-n", "all", "--config", f"latency={value}", check=False)
    assert done.returncode != 0
    assert line in done.stderr and "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_lost_or_changed_latency_is_measured_again_and_nothing_else_is_made(tmp_path):
    snakemake(tmp_path, "--cores", "2", "all")
    run = tmp_path / "results/demo/runs/fp32/sst2/1"
    record, model = (run / "run.json").read_bytes(), (run / "last.safetensors").stat()
    for target in ("all", "results/fp32_sst2.json"):
        (run / "latency.json").unlink()
        assert "run" not in jobs(snakemake(tmp_path, "-n", target))
        snakemake(tmp_path, "--cores", "2", target)
        cell = json.loads((tmp_path / "results/fp32_sst2.json").read_text())
        assert cell["measured"]["latency"] == json.loads((run / "latency.json").read_text())
    assert (run / "run.json").read_bytes() == record and (run / "last.safetensors").stat() == model
    snakemake(tmp_path, "--cores", "2", "all")  # the cell that was asked for by name had more inputs
    assert "Nothing to be done" in (done := snakemake(tmp_path, "-n", "all")).stdout + done.stderr
    snakemake(tmp_path, "--cores", "2", "all", config={**TINY, "latency": False})
    cell = json.loads((tmp_path / "results/fp32_sst2.json").read_text())
    assert cell["measured"]["latency"] == "not measured", "what lies beside a run is not looked at"
