"""From files to cells: only those that fit their schema, and a line for each that is missing because a run failed."""

import re
from pathlib import Path

from report.files import ReportError, read_json, validate


def failures(paths: list[Path], logs: Path) -> dict[tuple[str, str], str]:
    """(method, task) -> the last line of its log, of the cells that are missing because one of their runs failed."""
    found = {}
    for path in paths:
        method, _, task = path.stem.rpartition("_")
        for log in sorted((logs / method / task).glob("*.log")) if not path.exists() else []:
            lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
            last = next((line.strip() for line in reversed(lines) if line.strip()), "")
            if last.startswith("error:") or re.match(r"\w*(Error|Exception|Interrupt)\b", last):
                found[method, task] = last.removeprefix("error: ")
    return found


def read_cells(paths: list[Path]) -> list[dict]:
    if not paths:
        raise ReportError("there is no cell to make a page from; make one first, such as snakemake results/fp32_rte.json")
    cells, seen = [], {}
    for path in paths:
        cell = read_json(path)
        validate(cell, "cell.schema.yaml", path)
        key = (cell["asked"]["method"], cell["asked"]["task"])
        metric, protocols = cell["measured"]["metric"], cell["measured"]["protocols"]
        reports = [cell["measured"]["baseline"], *protocols.values()]
        if any(metric not in report["metrics"] for report in reports):
            raise ReportError(f"{path} lacks its own primary metric {metric}; delete it and let snakemake make it again")
        if key in seen:
            raise ReportError(f"{seen[key]} and {path} are both {key[0]} on {key[1]}; name each cell once")
        seen[key] = path
        cells.append(cell)
    return cells
