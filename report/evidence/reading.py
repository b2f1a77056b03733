"""Cells read from files and checked, and the reason for each cell that is missing because a run failed."""

import re
from pathlib import Path

from methods.common.errors import UserError
from methods.common.files import read_json
from methods.common.schema import read_valid
from report.evidence.cores import on_all_cores
from report.evidence.outcomes import unpack


def missing(paths: list[Path], preset: str | None, work: Path, ancestors: dict[str, list[str]]) -> list[Path]:
    """Return the paths where there is no cell, one of another preset, or one of runs that are being made again.

    Cells of all presets have the same names. `work` is results/PRESET, where Snakemake removes a run's run.json before it
    makes the run again; `ancestors` are a method's.
    """
    return [path for path in paths if not path.exists() or _is_outdated(path, preset, work, ancestors)]


def _is_outdated(path: Path, preset: str | None, work: Path, ancestors: dict[str, list[str]]) -> bool:
    """Return whether a cell is of another preset, or a run of it or of an ancestor is unfinished."""
    try:
        cell = read_json(path)
        of_cell, seeds = cell["request"]["preset"], [int(seed["seed"]) for seed in cell["measured"]["seeds"]]
    except (UserError, LookupError, TypeError, ValueError):  # damaged: whoever reads it says so
        return False
    method, _, task = path.stem.rpartition("_")
    runs = [work / "runs" / name / task / str(seed) for name in (method, *ancestors.get(method, [])) for seed in seeds]
    return bool(preset and of_cell != preset) or any(run.is_dir() and not (run / "run.json").exists() for run in runs)


def failures(paths: list[Path], work: Path, ancestors: dict[str, list[str]]) -> dict[tuple[str, str], str]:
    """Return {(method, task): reason} for the missing cells of which a run, or an ancestor of one, failed.

    The reason is the last line of the log. `work` is results/PRESET; `ancestors` are a method's, nearest first.
    """
    reasons = {}
    for path in paths:
        method, _, task = path.stem.rpartition("_")
        for name in (method, *ancestors.get(method, [])):
            if (method, task) not in reasons and (line := _failure(work / "logs" / name / task)):
                reasons[method, task] = line if name == method else f"its ancestor {name} failed: {line}"
    return reasons


def _failure(logs: Path) -> str | None:
    """Return the last line of the first log of a failed run; None where no run failed."""
    for log in sorted(logs.glob("*.log")):
        lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "")
        if last.startswith("error:") or re.match(r"[\w.]*(Error|Exception|Interrupt)\b", last):
            return last.removeprefix("error: ")
    return None


def read_cells(paths: list[Path]) -> list[dict]:
    if not paths:
        raise UserError(
            "There is no cell to make a page from: make one first, for example with snakemake results/fp32_rte.json"
        )
    cells, seen = [], {}
    for path, cell in zip(paths, on_all_cores(_read_cell, paths), strict=True):
        key = (cell["request"]["method"], cell["request"]["task"])
        if key in seen:
            raise UserError(f"{seen[key]} and {path} are both {key[0]} on {key[1]}: name each cell once.")
        seen[key] = path
        cells.append(cell)
    return cells


def _read_cell(path: Path) -> dict:
    cell = read_valid(path, "cell.schema.yaml")
    metric, protocols = cell["measured"]["metric"], cell["measured"]["protocols"]
    reports = [cell["measured"]["baseline"], *protocols.values()]
    if any(metric not in report["metrics"] for report in reports):
        raise UserError(f"{path} lacks its own primary metric {metric}: delete it and make it again with Snakemake.")
    try:
        if packed := cell["measured"].get("outcomes"):
            seeds = {seed["seed"] for seed in cell["measured"]["seeds"] if seed["scores"] is not None}
            if any(set(of_seeds) != seeds for of_seeds in unpack(packed).predictions.values()):
                raise ValueError("they are not of the seeds that are scored")
    except ValueError as error:
        raise UserError(f"{path}: its outcomes are damaged ({error}): delete it and make it again with Snakemake.") from None
    return cell
