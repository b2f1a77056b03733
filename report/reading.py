"""From files to cells: only those that fit their schema, and a line for each that is missing because a run failed."""

import re
from pathlib import Path

from report.cores import on_all_cores
from report.files import ReportError, read_json, validate


def failures(paths: list[Path], logs: Path, ancestors: dict[str, list[str]]) -> dict[tuple[str, str], str]:
    """(method, task) -> why, of the cells that are missing because one of their runs failed, or one that these descend from.

    The reason is the last line of the log. `ancestors` are a method's, nearest first.
    """
    found = {}
    for path in paths:
        method, _, task = path.stem.rpartition("_")
        for name in (method, *ancestors.get(method, [])) if not path.exists() else ():
            if (method, task) not in found and (line := _failure(logs / name / task)):
                found[method, task] = line if name == method else f"its ancestor {name} failed: {line}"
    return found


def _failure(logs: Path) -> str | None:
    """The line with which one of the runs ended that are logged here, if any failed."""
    for log in sorted(logs.glob("*.log")):
        lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "")
        if last.startswith("error:") or re.match(r"\w*(Error|Exception|Interrupt)\b", last):
            return last.removeprefix("error: ")
    return None


def read_cells(paths: list[Path]) -> list[dict]:
    if not paths:
        raise ReportError("there is no cell to make a page from; make one first, such as snakemake results/fp32_rte.json")
    cells, seen = [], {}
    for path, cell in zip(paths, on_all_cores(_read_cell, paths), strict=True):
        key = (cell["request"]["method"], cell["request"]["task"])
        if key in seen:
            raise ReportError(f"{seen[key]} and {path} are both {key[0]} on {key[1]}; name each cell once")
        seen[key] = path
        cells.append(cell)
    return cells


def _read_cell(path: Path) -> dict:
    cell = read_json(path)
    validate(cell, "cell.schema.yaml", path)
    metric, protocols = cell["measured"]["metric"], cell["measured"]["protocols"]
    reports = [cell["measured"]["baseline"], *protocols.values()]
    if any(metric not in report["metrics"] for report in reports):
        raise ReportError(f"{path} lacks its own primary metric {metric}; delete it and let snakemake make it again")
    return cell
