"""The example method of CONTRIBUTING.md, run as it is printed there."""

import json
import re
import shutil
import subprocess
import sys

import pytest
import yaml

from tests.workflow.test_workflow import ROOT, TINY
from workflow import catalogue


@pytest.mark.slow
def test_the_example_method_runs_as_it_is_printed(tmp_path):
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (python,) = re.findall(r"```python\n(.*?)```", text, re.S)
    (stanza,) = re.findall(r"```yaml\n(.*?)```", text, re.S)
    for name in ("Snakefile", "config", "environment.yml", "methods", "profiles", "report", "workflow"):
        source = ROOT / name
        copy = shutil.copytree if source.is_dir() else shutil.copy
        copy(source, tmp_path / name)
    (tmp_path / "methods/frozen.py").write_text(python, encoding="utf-8")
    with open(tmp_path / "config/methods.yaml", "a", encoding="utf-8") as file:
        file.write("\n" + stanza)
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump({**TINY, "allow_weak_teacher": True}))
    command = [
        sys.executable,
        "-m",
        "snakemake",
        "--cores",
        "1",
        "results/frozen_2bit_sst2.json",
        "--configfile",
        "tiny.yaml",
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    cell = json.loads((tmp_path / "results/frozen_2bit_sst2.json").read_text(encoding="utf-8"))
    assert cell["request"]["method"] == "frozen_2bit"
    assert cell["measured"]["teacher"]["method"] == "fp32"
    assert cell["measured"]["size"]["paper"]["ratio"] > 5


def test_a_family_without_a_file_is_one_line(monkeypatch):
    def read(path):
        found = original(path)
        return {**found, "mine": {**found["fp32"], "family": "ternarybret"}} if path.name == "methods.yaml" else found

    original = catalogue.read_yaml
    monkeypatch.setattr(catalogue, "read_yaml", read)
    with pytest.raises(catalogue.ConfigError, match=r"no methods/ternarybret\.py .* Did you mean 'ternarybert'"):
        catalogue.load({"preset": "demo"})
