"""The page as Snakemake makes it: of all cells, of those that exist, and in its own offline report."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

from methods.common.errors import UserError
from methods.common.files import write_json
from tests.fixtures import cells as fixture
from workflow import catalogue, documents

ROOT = Path(__file__).resolve().parents[3]
TASKS = ("cola", "rte")
PAGE = "report/html/demo/index.html"


def snakemake(folder: Path, *words: str, methods: tuple[str, ...] = ("fp32",)) -> subprocess.CompletedProcess:
    (folder / "tiny.yaml").write_text(yaml.safe_dump({"tasks": list(TASKS), "methods": list(methods)}))
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--directory", str(folder)]
    return subprocess.run(
        [*command, *words, "--configfile", "tiny.yaml"], capture_output=True, text=True, timeout=300, cwd=folder
    )


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    folder = tmp_path_factory.mktemp("project")
    for cell in fixture.board(("fp32",), TASKS, seeds=(1, 2), rows=60, source="generated"):
        write_json(folder / f"results/{cell['request']['method']}_{cell['request']['task']}.json", cell)
    # only this rule: the cells are invented, and nothing must be trained to replace them
    done = snakemake(folder, PAGE, "--cores", "1", "--allowed-rules", "page")
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_one_rule_makes_page_tables_and_figures(project):
    made = {str(path.relative_to(project / "report/html/demo")) for path in (project / "report/html/demo").rglob("*.*")}
    assert {"index.html", "tables/glue_last.csv", "tables/glue_best.tex", "tables/references.bib"} <= made
    assert {
        "figures/size_rte.svg",
        "figures/size_average_glue.pdf",
        "figures/curves_cola.svg",
        "figures/seeds_rte.pdf",
    } <= made


def test_the_entry_page_leads_to_the_presets_page(project):
    assert '<a href="demo/index.html">demo</a>' in (project / "report/html/index.html").read_text()


def test_snakemakes_own_report_is_made_offline_with_captions(project):
    done = snakemake(project, PAGE, "--allowed-rules", "page", "--report", "report.zip")
    assert done.returncode == 0, done.stdout + done.stderr
    with zipfile.ZipFile(project / "report.zip") as archive:
        names = archive.namelist()
        text = "".join(archive.read(name).decode(errors="replace") for name in names if name.endswith((".html", ".js")))
    assert any(name.endswith("size_rte.svg") for name in names) and any(name.endswith("glue_last.csv") for name in names)
    for caption in ("one self-contained file", "numbers as numbers", "Hollow points"):
        assert caption in text, caption


def test_the_margin_and_the_texts_reach_the_page_and_remake_it_alone(project):
    def planned(*settings: str) -> str:
        config = ["--config", *settings] if settings else []
        done = snakemake(project, PAGE, "-n", "-p", "--allowed-rules", "page", *config)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert "report page" not in planned()
    shown = planned("report={margin: 0.5, texts: true}")
    assert "--margin 0.5 --results results/demo --texts results/fp32_cola.json" in " ".join(shown.split())


@pytest.mark.parametrize(
    ("value", "line"),
    [
        ("{margn: 2}", "error: configuration: unknown key 'margn' at report. Did you mean 'margin'?"),
        ("{margin: 0}", "error: configuration: report.margin: 0 is less than or equal to the minimum of 0"),
        ("{margin: small}", "error: configuration: report.margin: 'small' is not of type 'number'"),
        ("{texts: 1}", "error: configuration: report.texts: 1 is not of type 'boolean'"),
        ("null", "error: configuration: report: None is not of type 'object'"),
    ],
)
def test_a_wrong_setting_is_one_line(value, line):
    config = documents.merge({"preset": "demo"}, {"report": documents.typed(yaml.safe_load(value))})
    with pytest.raises(UserError) as error:
        catalogue.load(config)
    assert f"error: {error.value}".startswith(line) and "\n" not in str(error.value)


def test_partial_makes_the_page_of_what_exists_and_says_what_failed(project):
    (project / "results/fp32_rte.json").rename(project / "aside.json")
    logs = project / "results/demo/logs/fp32/rte"
    logs.mkdir(parents=True)
    (logs / "1.log").write_text("fp32 rte seed 1: step 5/90\nerror: The disk is full: free some space and run it again.\n")
    done = snakemake(project, "partial", "--cores", "1", methods=("fp32", "lsq_4bit"))
    (project / "aside.json").rename(project / "results/fp32_rte.json")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"The page: {project}/report/html/demo/index.html" in done.stdout + done.stderr
    page = (project / PAGE).read_text()
    assert "2 cells failed: fp32 on rte, lsq_4bit on rte." in page, "without a cell there is no title"
    assert "failed: The disk is full" in page
    assert "its ancestor fp32 failed: The disk is full" in page


def test_partial_without_any_cell_is_one_line(tmp_path):
    done = snakemake(tmp_path, "partial", "--cores", "1")
    assert done.returncode != 0
    assert "There is no cell to make a page from: make one first" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
