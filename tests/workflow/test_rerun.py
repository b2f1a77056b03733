"""What reruns what, line by line of the table in the documentation: the requests that a change of one file changes."""

import ast
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.fixtures.copies import ROOT, copy_project, run_in
from tests.fixtures.workflow import TINY, jobs
from workflow import catalogue, digests

METHODS = ("fp32", "rtn_8bit", "lsq_4bit", "twn_2bit", "ternary_half_a8", "tws_1bit")
REQUESTS = f"""
import json
from workflow import catalogue as c
found = c.load({{"preset": "demo", **json.loads(input())}})
products = {{"base": found.request_base(), "data": found.request_data("mrpc")}}
for method in {METHODS}:
    request = found.request(method, "mrpc", 1)
    products |= {{f"score {{method}}": request.pop("scoring"), f"run {{method}}": request}}
    shown = [found.about(method, "mrpc"), found.overrides(method, "mrpc"), found.config["primary"]]
    products[f"cell {{method}}"] = [shown, c.digest(*c.CELL_SOURCES)]
products["latency"] = found.request_latency()
products["page"] = [found.config["report"], c.digest(*c.PAGE_SOURCES)]
print(json.dumps(products))
"""
RUNS = {f"run {method}" for method in METHODS}
STUDENTS = {"run lsq_4bit", "run twn_2bit", "run ternary_half_a8", "run tws_1bit"}
SCORES = {f"score {method}" for method in METHODS}
CELLS = {f"cell {method}" for method in METHODS}


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    return copy_project(tmp_path_factory.mktemp("copy"))


@pytest.fixture(scope="module")
def before(copy):
    return products(copy)


def products(root: Path, **config) -> dict:
    """Return everything that decides whether a product of the copy is made again, by product."""
    words = [sys.executable, "-c", REQUESTS]
    done = subprocess.run(words, cwd=root, input=json.dumps(config), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture
def changed(copy, before):
    """Change a file of the copy for one test, and return the products that this changes by themselves."""
    kept = {}

    def change(name: str, edit) -> set[str]:
        path = copy / name
        kept[path] = path.read_text(encoding="utf-8")
        path.write_text(edit(kept[path]), encoding="utf-8")
        assert path.read_text(encoding="utf-8") != kept[path]
        return different(before, products(copy))

    yield change
    for path, content in kept.items():
        path.write_text(content, encoding="utf-8")


def different(one: dict, other: dict) -> set[str]:
    return {name for name in one.keys() | other.keys() if one.get(name) != other.get(name)}


def harmless(text: str) -> str:
    """Add a comment, a docstring, formatting, a log line and another message of an error."""
    text = text.replace("\nimport ", "\n# a comment\n\n\nimport ", 1)
    text = re.sub(
        r"^(def \w+\([^\n]*\)[^\n]*:)\n", r'\1\n    "A docstring."\n\n    print("a log line")\n', text, count=1, flags=re.M
    )
    text = re.sub(r"raise (\w+)\(f?\"", r'raise \1("another message " f"', text, count=1)
    return text + '\n\n# the end\n"""And a text."""\n'


@pytest.mark.parametrize(
    "name",
    [
        *("methods/common/files.py", "methods/kernel/layers.py", "methods/kernel/packing.py", "methods/model/artifact.py"),
        *("methods/training/trainer.py", "methods/run.py", "methods/kdlsq.py", "methods/scoring/metrics.py"),
        *("methods/tasks/data.py", "methods/tasks/encode.py", "methods/tasks/kinds/span.py", "methods/tasks/base.py"),
        *("methods/tasks/demo/__init__.py", "report/evidence/cells.py", "methods/__main__.py"),
    ],
)
def test_comments_docstrings_formatting_and_log_lines_rerun_nothing(name, changed):
    assert changed(name, harmless) == set()


def adding(line: str):
    return lambda text: f"{text}\n\n{line}\n"


CODE = adding("SOMETHING = 1")


@pytest.mark.parametrize(
    ("name", "direct"),
    [
        ("methods/kdlsq.py", {"run lsq_4bit"}),
        ("methods/ptq.py", {"run rtn_8bit"}),
        ("methods/kernel/packing.py", RUNS | {"base"}),
        ("methods/model/artifact.py", RUNS | {"base"}),
        ("methods/training/trainer.py", RUNS | {"base"}),
        ("methods/run.py", RUNS),
        ("methods/tasks/kinds/span.py", RUNS | {"data"}),
        ("methods/tasks/data.py", RUNS | {"data"}),
        ("methods/tasks/encode.py", {"data"}),
        ("methods/tasks/demo/reviews.py", {"data", "base"}),
        ("methods/tasks/augment.py", set()),  # makes augmented rows, and this configuration augments nothing
        ("methods/tasks/files.py", set()),  # reads a user's own files, and this task has none
        ("methods/tasks/base.py", {"base"}),
        ("methods/scoring/metrics.py", SCORES),
        ("methods/use/prediction.py", set()),
        ("methods/use/latency.py", {"latency"}),
        ("methods/engine/session.py", {"latency"}),
        ("methods/use/inspection.py", set()),
        ("methods/common/progress.py", CELLS | {"page"}),  # the report uses common; a cell takes a third of a second
        ("methods/__main__.py", set()),
        ("workflow/catalogue.py", set()),
        ("report/evidence/cells.py", CELLS | {"page"}),
        ("report/page/page.py", {"page"}),
    ],
)
def test_code_reruns_what_executes_it(name, direct, changed):
    assert changed(name, CODE) == direct


@pytest.mark.parametrize("name", ["engine.c", "isa_avx2.c", "engine.h"])
def test_the_engines_sources_in_c_measure_again_and_train_nothing(name, changed):
    """C counts by its bytes: what a comment does to it is for a compiler to know."""
    assert changed(f"methods/engine/c/{name}", lambda text: text + "/* a comment */\n") == {"latency"}


def test_one_stanza_reruns_its_method(changed):
    def slower(text: str) -> str:
        return text.replace("lr: [2.0e-5,", "lr: [3.0e-5,", 1)

    assert changed("config/methods/fp32.yaml", slower) == {"run fp32"}


def test_a_comment_beside_a_stanza_and_another_order_rerun_nothing(changed):
    assert changed("config/methods/kdlsq.yaml", lambda text: "# a comment\n\n" + text) == set()


@pytest.mark.parametrize(
    ("name", "old", "new", "direct"),
    [
        ("config/methods/fp32.yaml", "title: Full precision\n", "title: Another\n", {"cell fp32"}),
        ("config/tasks.yaml", "title: MRPC", "title: Paraphrases", CELLS),
    ],
)
def test_titles_reach_cells_and_no_run(name, old, new, direct, changed):
    assert changed(name, lambda text: text.replace(old, new, 1)) == direct


@pytest.mark.parametrize(
    ("config", "direct"),
    [
        ({"seeds": [1, 2, 3]}, CELLS),  # their command says which seeds; runs of seed 1 stay
        ({"tasks": ["mrpc", "rte"], "methods": ["fp32"]}, set()),
        ({"threads": 2}, RUNS | CELLS),  # science: other numbers of threads round differently
        ({"primary": "best"}, (RUNS - {"run fp32"}) | CELLS | {"latency"}),
        ({"latency": {"seconds": 3}}, CELLS | {"latency"}),
        ({"latency": False}, CELLS | {"latency"}),
        ({"report": {"margin": 0.5, "texts": True}}, {"page"}),
        ({"tasks": ["mrpc"], "augmentation": {}}, STUDENTS | CELLS),
        ({"tasks": ["mrpc"], "augmentation": {"methods": ["twn_2bit"]}}, {"run twn_2bit"} | CELLS),
    ],
)
def test_configuration_reruns_what_depends_on_it(config, direct, copy, before):
    assert different(before, products(copy, **config)) == direct


def test_an_added_paper_reruns_nothing(copy, before):
    path = copy / "methods/mine.py"
    path.write_text("from methods import kdlsq\n")
    try:
        assert different(before, products(copy)) == set()
    finally:
        path.unlink()


def test_a_paper_depends_on_the_papers_that_it_imports(copy, monkeypatch):
    monkeypatch.setattr(digests, "ROOT", copy)
    for name, text in (("one", "from methods.two import x"), ("two", "import methods.fp32"), ("three", "")):
        (copy / f"methods/{name}.py").write_text(text)
    try:
        assert digests.papers_read_by("one") == ["methods/fp32.py", "methods/one.py", "methods/two.py"]
        assert digests.papers_read_by("three") == ["methods/three.py"]
    finally:
        for name in ("one", "two", "three"):
            (copy / f"methods/{name}.py").unlink()


def modules_of(source: str) -> list[Path]:
    path = ROOT / source
    return [path] if path.suffix == ".py" else sorted(path.rglob("*.py"))


def imported_by(path: Path) -> set[Path]:
    """Return the project's files with code that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        for name in names:
            path = ROOT / str(name).replace(".", "/")
            files = [file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()]
            found |= {file for file in files if len(ast.parse(file.read_text(encoding="utf-8")).body) > 1}
    return found


@pytest.mark.parametrize(
    ("sources", "elsewhere"),
    [
        (catalogue.RUN_SOURCES, ("methods/common", "methods/scoring")),
        (catalogue.PRETRAINING_SOURCES, ("methods/common", "methods/tasks", "methods/scoring")),
        (
            catalogue.AUGMENTATION_SOURCES,
            ("methods/common", "methods/kernel", "methods/model", "methods/scoring", *catalogue.DATA_SOURCES),
        ),
        (catalogue.SCORING_SOURCES, ("methods/common", "methods/tasks")),
    ],
)
def test_a_digest_misses_no_file_that_its_code_imports(sources, elsewhere):
    known = {path for source in (*sources, *elsewhere) for path in modules_of(source)}
    papers = {ROOT / f"methods/{path.stem}.py" for path in (ROOT / "methods").glob("*.py")} | {ROOT / "methods/__init__.py"}
    for source in sources:
        for path in modules_of(source):
            missing = {file for file in imported_by(path) if file.is_relative_to(ROOT / "methods")} - known - papers
            assert not missing, f"{path} imports {missing}"


# The digest itself.


def digest_of(tmp_path: Path, text: str, name: str = "a.py") -> str:
    folder = tmp_path / str(len(list(tmp_path.iterdir())))
    (folder / "code").mkdir(parents=True)
    (folder / "code" / name).write_text(text, encoding="utf-8")
    return digests._digest(folder, "code")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("a = 1", "a = 1  # one"),
        ("a = [1, 2]", "a = [\n    1,\n    2,\n]\n"),
        ("a = 'x'", 'a = "x"'),
        ("def f():\n    return 1", 'def f():\n    """Return."""\n    return 1'),
        ("def f():\n    pass", "def f():\n    say('x')"),
        ("def f(self):\n    x()", "def f(self):\n    self.progress.say(f'{x}')\n    x()\n    log.warning('y')"),
        ("if a:\n    f()", "if a:\n    print(a)\n    f()"),
        ("f()", "if quiet:\n    print(1)\nf()"),
        ("raise Bad('x')", "raise Bad(f'y {z}' 'more')"),
        ("raise Bad('x') from e", "raise Bad('y') from e"),
        ("raise Bad('a' + b)", "raise Bad('c' + b)"),
    ],
)
def test_what_has_no_effect_changes_no_digest(one, other, tmp_path):
    assert digest_of(tmp_path, one) == digest_of(tmp_path, other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("a = 1", "a = 2"),
        ("a = 1", "a = 1.0"),
        ("a = 1", "a = True"),
        ("a = 'x'", "a = b'x'"),
        ("f(x)", "g(x)"),
        ("print(x)", "y = print(x)"),
        ("print(x := 1)", ""),
        ("def f():\n    yield 1", "def f():\n    say((yield 1))"),
        ("raise Bad(1)", "raise Bad(2)"),
        ("raise Bad('x')", "raise Worse('x')"),
        ("raise Bad('x') from e", "raise Bad('x') from None"),
        ("if f():\n    print(1)", ""),
        ("x.append('a')", "x.append('b')"),
        ("x[0]", "x[1]"),
        ("a = b\nc = d", "c = d\na = b"),
        ("def f(a, b=1): return a", "def f(a, *, b=1): return a"),
    ],
)
def test_what_executes_otherwise_changes_the_digest(one, other, tmp_path):
    assert digest_of(tmp_path, one) != digest_of(tmp_path, other)


def test_yaml_counts_by_its_values_and_other_files_by_their_bytes(tmp_path):
    assert digest_of(tmp_path, "a: 1", "a.yaml") == digest_of(tmp_path, "# one\na:   1\n", "a.yaml")
    assert digest_of(tmp_path, "a: 1", "a.yaml") != digest_of(tmp_path, "a: 2", "a.yaml")
    assert digest_of(tmp_path, "a", "a.css") != digest_of(tmp_path, "a ", "a.css")
    assert digest_of(tmp_path, "a = (", "a.py") != digest_of(tmp_path, "a = ((", "a.py")


def test_names_count_and_caches_products_and_dates_do_not(tmp_path):
    folder = tmp_path / "report"
    folder.mkdir()
    (folder / "a.py").write_text("a = 1")

    def digest() -> str:
        digests._digest.cache_clear()
        return digests._digest(tmp_path, "report")

    first = digest()
    for name in ("html/index.html", "html/demo/tables/a.csv", "__pycache__/a.pyc"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")
    (folder / "a.py").touch()
    assert digest() == first
    (folder / "a.py").rename(folder / "b.py")
    assert digest() != first


# The same through Snakemake, in a copy in which a cell and the page were made.


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = copy_project(tmp_path_factory.mktemp("made"))
    (folder / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    run_in(folder, *ALL)
    return folder


ALL = ("snakemake", "--cores", "2", "all", "--configfile", "tiny.yaml")


@pytest.mark.slow
def test_a_log_line_in_every_room_reruns_nothing(made):
    for name in ("kernel/layers.py", "model/edits.py", "training/trainer.py", "run.py", "scoring/metrics.py", "fp32.py"):
        path = made / "methods" / name
        path.write_text(harmless(path.read_text(encoding="utf-8")), encoding="utf-8")
    done = run_in(made, *ALL, "-n")
    assert "Nothing to be done" in done.stdout + done.stderr


@pytest.mark.slow
def test_scoring_code_scores_again_and_trains_nothing(made):
    run = made / "results/demo/runs/fp32/sst2/1"
    model, record = (run / "last.safetensors").stat(), json.loads((run / "run.json").read_text())
    path = made / "methods/scoring/metrics.py"
    path.write_text(CODE(path.read_text(encoding="utf-8")), encoding="utf-8")
    assert jobs(run_in(made, *ALL, "-n")).keys() == {"run", "latency", "cell", "page", "all"}
    run_in(made, *ALL)
    after = json.loads((run / "run.json").read_text())
    assert (run / "last.safetensors").stat() == model
    assert after["ran_on"].pop("scoring") != record["ran_on"].pop("scoring")
    assert after == record
    assert "scoring its models again" in (made / "results/demo/logs/fp32/sst2/1.log").read_text()


@pytest.mark.slow
def test_a_lost_run_json_is_made_again_without_training(made):
    run = made / "results/demo/runs/fp32/sst2/1"
    before, model = (run / "run.json").read_bytes(), (run / "last.safetensors").stat()
    for target in ("all", "results/fp32_sst2.json"):
        (run / "run.json").unlink()
        run_in(made, "snakemake", "--cores", "2", target, "--configfile", "tiny.yaml")
        assert (run / "run.json").read_bytes() == before
        assert (run / "last.safetensors").stat() == model
    run_in(made, *ALL)


@pytest.mark.slow
def test_runs_of_another_base_are_never_good_for_one_that_fails(made):
    run = made / "results/demo/runs/fp32/sst2/1/run.json"
    before = run.read_bytes()
    for target in ("all", "all", "results/fp32_sst2.json"):  # Snakemake removes the base at the first, and no run is newer
        failed = run_in(made, *ALL[:3], target, *ALL[4:], "--config", "base={source: folder, path: nowhere}", check=False)
        assert failed.returncode != 0 and "'nowhere' is no folder" in failed.stdout + failed.stderr, target
    run_in(made, *ALL)
    assert run.read_bytes() == before


@pytest.mark.slow
def test_a_fresh_clone_with_copied_results_reruns_nothing(made, tmp_path):
    copy_project(tmp_path)
    shutil.copy(made / "methods/scoring/metrics.py", tmp_path / "methods/scoring")  # which a test above has changed
    for name in ("results", "report", ".snakemake"):
        shutil.copytree(made / name, tmp_path / name, dirs_exist_ok=True)
    shutil.copy(made / "tiny.yaml", tmp_path)
    done = run_in(tmp_path, *ALL, "-n", "--cores", "1")
    assert "Nothing to be done" in done.stdout + done.stderr
