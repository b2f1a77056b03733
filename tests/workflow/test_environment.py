"""One exact set of packages, said in several files that must agree; and the files that every project has."""

import re
import subprocess
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
EXACT_PIN = re.compile(r"([A-Za-z0-9._-]+)==([0-9][0-9A-Za-z.]*)")


def read_pins(lines):
    """{canonical name: version} of lines that must be exact pins, each package once, or comments."""
    pins = {}
    for line in lines:
        if not line or line.startswith("#"):
            continue
        match = EXACT_PIN.fullmatch(line)
        assert match, f"not an exact pin: {line!r}"
        name = canonicalize_name(match[1])
        assert name not in pins, f"pinned twice: {name}"
        pins[name] = match[2]
    return pins


def pins_of(file):
    return read_pins((ROOT / file).read_text().splitlines())


def needed(names):
    """Canonical names of all distributions that the named ones pull in here, the named ones included."""
    seen, queue = set(), [(name, "") for name in names]
    while queue:
        item = queue.pop()
        if item in seen:
            continue
        seen.add(item)
        name, extra = item
        for text in metadata.requires(name) or []:
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                queue += [(canonicalize_name(requirement.name), e) for e in ("", *requirement.extras)]
    return {name for name, _ in seen}


@pytest.mark.parametrize("line", ["torch", "torch>=2.13.0", "torch==2.*", "torch==2.13.0+cpu", "-r more.txt"])
def test_a_line_that_is_no_exact_pin_is_noticed(line):
    with pytest.raises(AssertionError, match="not an exact pin"):
        read_pins([line])


def test_a_package_pinned_twice_is_noticed():
    with pytest.raises(AssertionError, match="pinned twice: scikit-learn"):
        read_pins(["scikit-learn==1.9.1", "scikit_learn==1.9.0"])


@pytest.mark.parametrize("file", ["requirements.txt", "requirements-dev.txt"])
def test_direct_pins_are_those_of_the_constraints(file):
    constraints = pins_of("constraints.txt")
    direct = pins_of(file)
    assert direct == {name: constraints.get(name) for name in direct}


def test_the_extras_of_exports_are_pinned_and_contradict_nothing():
    constraints, extras = pins_of("constraints.txt"), pins_of("requirements-export.txt")
    assert {"onnx", "onnxruntime", "openvino"} <= extras.keys()
    assert all(constraints.get(name, version) == version for name, version in extras.items())


def test_every_package_installed_for_the_project_is_pinned_and_is_the_pinned_version():
    constraints = pins_of("constraints.txt")
    names = needed([*pins_of("requirements.txt"), *pins_of("requirements-dev.txt")])
    installed = {name: metadata.version(name).partition("+")[0] for name in names}  # a CPU torch is 2.13.0+cpu
    assert {name: constraints.get(name) for name in names} == installed


def test_conda_gets_the_same_pins():
    *conda, with_pip = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    portable, cuda = (ROOT / "constraints.txt").read_text().split("# asked for by the CUDA build of torch alone\n")
    assert read_pins(with_pip["pip"]) == read_pins(portable.splitlines())
    assert all(name.startswith(("nvidia-", "cuda-", "triton")) for name in read_pins(cuda.splitlines()))
    (python,) = [line.removeprefix("python=") for line in conda if line.startswith("python")]
    assert tuple(map(int, python.split("."))) >= (3, 11)
    assert "pip" in conda


def test_pre_commit_runs_the_pinned_linters():
    repos = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    revisions = {Path(repo["repo"]).name: repo["rev"] for repo in repos}
    pins = pins_of("requirements-dev.txt")
    assert revisions["ruff-pre-commit"] == f"v{pins['ruff']}"
    assert revisions["snakefmt"] == f"v{pins['snakefmt']}"


# A package index belongs to a machine's pip settings, not to the project. (No pattern here matches itself.)
INDEX = re.compile(r"--(?:extra-)?index[-]url|--find[-]links|pypi[.]org|pythonhosted[.]org|download[.]pytorch[.]org")


@pytest.mark.parametrize(
    "text",
    ["pip install --extra-index-" + "url x", "--find-" + "links=wheels", "see pypi" + ".org/project/torch"],
)
def test_a_package_index_is_noticed(text):
    assert INDEX.search(text)


def test_no_file_names_a_package_index_or_a_folder_of_this_machine():
    try:
        names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True).stdout.split("\0")
    except FileNotFoundError:
        names = []
    if "Makefile" not in names:
        pytest.skip("not a git checkout, so the project's own files cannot be told from others")
    this_folder = re.compile(rf"(?<![\w.>}}/]){re.escape(str(ROOT))}/")
    texts = {name: (ROOT / name).read_text(errors="replace") for name in names if (ROOT / name).is_file()}
    assert [name for name, text in texts.items() if INDEX.search(text) or this_folder.search(text)] == []


def test_licence_is_apache_2():
    text = (ROOT / "LICENSE").read_text()
    assert text.split()[:4] == ["Apache", "License", "Version", "2.0,"]
    assert "END OF TERMS AND CONDITIONS" in text


def test_citation_is_complete_and_agrees_with_the_licence():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0"
    assert citation["license"] == "Apache-2.0"
    assert re.fullmatch(r"\d+\.\d+\.\d+", citation["version"])
    assert all(author["name"] for author in citation["authors"])
    assert citation["title"]
    assert citation["message"]


def test_changelog_has_a_place_for_the_next_change():
    headings = re.findall(r"^## .*", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    assert headings[0] == "## [Unreleased]"
