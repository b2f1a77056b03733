"""Who may import whom: the rooms stand in one order, and the cheap ones stay cheap."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from workflow.catalogue import ROOT

PAPERS = sorted(path.stem for path in (ROOT / "methods").glob("*.py") if "\ndef student(" in path.read_text("utf-8"))
# A room may import itself and what is named here, of `methods`.
ROOMS = {
    "common": (),
    "kernel": ("common",),
    "model": ("common", "kernel"),
    "scoring": ("common", "tasks.data"),
    "training": ("common", "kernel", "model", "scoring", "tasks.data"),
    "tasks": ("common", "kernel", "model", "scoring", "training"),
    "engine": ("common", "kernel", "model", "tasks", "training"),
}


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_rooms_below_it(room):
    allowed = tuple(f"methods.{name}" for name in (room, *ROOMS[room]))
    for path in (ROOT / "methods" / room).rglob("*.py"):
        for name in imported(path):
            assert not name.startswith("methods") or name.startswith(allowed), f"{path} imports {name}"
            assert not name.startswith(("report", "workflow", "snakemake")), f"{path} imports {name}"


def test_no_training_imports_the_engine():
    for path in (ROOT / "methods").glob("*.py"):
        assert path.stem == "__main__" or not any(name.startswith("methods.engine") for name in imported(path)), path


def test_no_room_names_a_paper():
    for room in (*ROOMS, "use", "planning"):
        for path in (ROOT / "methods" / room).rglob("*.py"):
            for name in imported(path):
                assert not any(name.startswith(f"methods.{paper}") for paper in PAPERS), f"{path} imports {name}"


def test_snakefiles_and_report_import_neither_torch_nor_what_does():
    places = [ROOT / "Snakefile", *(ROOT / "workflow").rglob("*.smk")]
    for path in places:
        text = path.read_text(encoding="utf-8")
        assert "import torch" not in text and "from methods" not in text, path
    for path in [*(ROOT / "workflow").rglob("*.py"), *(ROOT / "report").rglob("*.py")]:
        for name in imported(path):
            assert not name.startswith("torch"), path
            assert not name.startswith("methods") or name.startswith("methods.common"), path
