"""The reference: cells that are published with the project, and all that is made of them.

`publish` copies cells into a folder and makes tables, figures, the page and `provenance.json` there, from nothing else. Two
texts outside it quote its numbers, between markers: the README's table, and ARTIFACT's intervals for whoever makes a cell
again.
"""

import json
import re
import shutil
from collections.abc import Iterable
from pathlib import Path

import yaml

from methods.common.errors import UserError
from methods.common.files import sha256, write_bytes, write_text
from report import figures
from report.evidence.comparison import Evidence, compare
from report.evidence.reading import read_cells
from report.page.page import render
from report.tables.exports import export, to_markdown
from report.tables.suites import tables
from report.verification import interval
from report.wording import joined, score

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "docs/reference"
CONFIGURATIONS = ("config/reference.yaml", "config/reference_large.yaml")  # what belongs to the reference
QUOTED = ("README.md", "ARTIFACT.md")  # the texts with markers
MACHINE = ("cpu", "flags", "cores", "platform", "gpu", "python")
MARKED = re.compile(r"(<!-- reference: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def publish(paths: list[Path], folder: Path = FOLDER, root: Path = ROOT) -> list[Path]:
    """Add these cells to a reference, or replace those of their names, and make everything anew; return its cells.

    Without cells those that are there are used: after a change of the report.
    """
    configurations = _configurations(root)
    there = sorted((folder / "cells").glob("*.json"))
    published = dict(zip(there, read_cells(there) if there else [], strict=True))
    for path, cell in published.items():
        _require_named(cell, path, configurations)
    copies = {}
    for cell, path in zip(read_cells(paths) if paths else [], paths, strict=True):
        _require_named(cell, path, configurations)
        _require_provenance(cell, path)
        copies[folder / "cells" / f"{_name(cell)}.json"] = cell, path.read_bytes()
    published |= {path: cell for path, (cell, _) in copies.items()}
    cells = _in_order(list(published.values()), root)
    evidence = compare(cells)
    pictures, texts = list(figures.draw(evidence)), list(export(evidence))
    page = render(evidence, pictures, None)
    for path, (_, content) in copies.items():  # all were found good
        write_bytes(path, content)
    for made in ("tables", "figures"):
        shutil.rmtree(folder / made, ignore_errors=True)  # no picture of what is no longer there
    write_text(folder / "index.html", page)
    for name, text in texts:
        write_text(folder / "tables" / name, text)
    for picture in pictures:
        write_bytes(folder / "figures" / f"{picture.name}.svg", picture.contents["svg"])
    write_text(folder / "provenance.json", json.dumps(provenance(cells, folder, root), indent=1) + "\n")
    quote(evidence, root)
    return sorted(published)


def provenance(cells: list[dict], folder: Path, root: Path) -> dict:
    """Return where the reference comes from, for programs: code, data, machines, hours, and what is not there."""
    machines: dict[str, dict] = {}
    commits, hours = set(), {}
    for cell in cells:
        seconds = cell["ran_on"]["volatile"]["cost"]["seconds"] * cell["ran_on"]["volatile"]["cost"]["n"]
        method = cell["request"]["method"]
        hours[method] = hours.get(method, 0.0) + seconds / 3600
        for of_seed in cell["ran_on"]["volatile"]["machines"]:
            commits.add(of_seed["machine"]["git_commit"])
            machine = {key: of_seed["machine"].get(key) for key in MACHINE}
            machines[json.dumps(machine, sort_keys=True)] = machine
    return {
        "configurations": list(_configurations(root)),
        "commits": sorted(commits),
        "machines": [machines[key] for key in sorted(machines)],
        "packages": cells[0]["ran_on"]["packages"],
        "base": cells[0]["ran_on"]["base"],
        "data": {cell["request"]["task"]: cell["ran_on"]["dataset"] for cell in cells},
        "hours": {method: round(value, 3) for method, value in hours.items()},
        "resumed": [_name(cell) for cell in cells if _resumed(cell)],  # of these the hours are those of the last part
        "cells": {
            _name(cell): {
                "seeds": cell["request"]["seeds"],
                "code": cell["ran_on"]["code"],
                "sha256": sha256((folder / "cells" / f"{_name(cell)}.json").read_bytes()),
            }
            for cell in cells
        },
        "left_out": left_out(cells, root),
        "fewer_seeds": fewer_seeds(cells, root),
    }


def left_out(cells: Iterable[dict], root: Path = ROOT) -> dict[str, list[str]]:
    """Return {method: tasks} that the configurations name and the reference lacks."""
    there = {_place(cell) for cell in cells}
    return _by_method(place for place in wanted(root) if place not in there)


def fewer_seeds(cells: Iterable[dict], root: Path = ROOT) -> dict[str, list[str]]:
    """Return {method: tasks} of the cells that have fewer seeds than the configurations name."""
    seeds = wanted(root)
    return _by_method(_place(cell) for cell in cells if not seeds[_place(cell)] <= set(cell["request"]["seeds"]))


def wanted(root: Path = ROOT) -> dict[tuple[str, str], set[int]]:
    """Return the seeds of every (method, task) that the configurations name, in their order."""
    return {
        (method, task): set(configuration["seeds"])
        for configuration in _configurations(root).values()
        for method in configuration["methods"]
        for task in configuration["tasks"]
    }


# Quotations


def quote(evidence: Evidence, root: Path = ROOT) -> None:
    """Write the reference's numbers into the texts that quote them."""
    blocks = {"table": lambda: table(evidence, root), "intervals": lambda: intervals(evidence)}
    for name in QUOTED:
        text = (root / name).read_text(encoding="utf-8")
        quoted = MARKED.sub(lambda found: f"{found[1]}{blocks[found[2]]()}{found[3]}", text)
        if quoted != text:
            write_text(root / name, quoted)


def table(evidence: Evidence, root: Path = ROOT) -> str:
    """Return the README's table, of the first suite, and what it lacks."""
    main = tables(evidence)[0]
    lines = [to_markdown(main.grid())]
    cells = evidence.board.cells
    named = joined(list(_configurations(root)))
    for what, found, of in (
        ("Not run yet", left_out(cells, root), wanted(root)),
        ("With fewer seeds", fewer_seeds(cells, root), map(_place, cells)),
    ):
        every = _by_method(of)
        words = [name if tasks == every[name] else f"{name} ({', '.join(tasks)})" for name, tasks in found.items()]
        lines += [f"{what}, of what {named} name: {joined(words)}.\n"] if words else []
    return "\n".join(lines)


def intervals(evidence: Evidence) -> str:
    """Return a table of each cell's mean and the interval in which as many new seeds land, with the minutes of a run."""
    board = evidence.board
    tasks = [task for suite in board.suites for task in suite.tasks if board.of_task(task)]
    lines = [" | ".join(["| Method", *map(board.task_title, tasks), "minutes a run |"]), "|---" * (len(tasks) + 2) + "|"]
    for method in board.methods:
        cells = {cell["request"]["task"]: cell for cell in board.of_method(method)}
        minutes = [cell["ran_on"]["volatile"]["cost"]["seconds"] / 60 for cell in cells.values() if not _resumed(cell)]
        shown = [_interval(cells[task]) if task in cells else "--" for task in tasks]
        ends = dict.fromkeys(f"{end:.1f}" for end in (min(minutes), max(minutes))) if minutes else ["--"]
        lines.append(" | ".join([f"| `{method}`", *shown, f"{' to '.join(ends)} |"]))
    return "\n".join([*lines, ""])


def _interval(cell: dict) -> str:
    metric, primary = cell["measured"]["metric"], cell["request"]["primary"]
    known = cell["measured"]["protocols"][primary]["metrics"][metric]
    found = interval(cell, known["n"]) if known["n"] else None
    if found is None:
        return "--"
    low, high, _ = found
    return f"{score(known['mean'])} ({score(low)} to {score(high)})"


# Cells


def _require_named(cell: dict, path: Path, configurations: dict[str, dict]) -> None:
    """Raise one line for a cell of another preset, or of a method and task that no configuration names."""
    method, task, preset = (cell["request"][key] for key in ("method", "task", "preset"))
    naming = [name for name, one in configurations.items() if method in one["methods"] and task in one["tasks"]]
    if not naming:
        names = joined(list(configurations))
        raise UserError(f"{path}: {names} do not name this cell. Add it there, or leave it out.")
    for name in naming:
        if (other := configurations[name]["preset"]) != preset:
            raise UserError(
                f"{path} is of the preset {preset}, and the reference is of {other}: make its cells with "
                f"--configfile {name}."
            )


def _require_provenance(cell: dict, path: Path) -> None:
    """Raise one line for a cell that nobody could make again: of a changed working copy, or of no commit."""
    for of_seed in cell["ran_on"]["volatile"]["machines"]:
        machine = of_seed["machine"]
        if machine["git_commit"] is None or machine["git_dirty"]:
            raise UserError(
                f"{path} was made from code that is in no commit (seed {of_seed['seed']}): commit the changes, delete the "
                "run's folder and make the cell again."
            )


def _resumed(cell: dict) -> bool:
    return any(of_seed["machine"].get("resumed") for of_seed in cell["ran_on"]["volatile"]["machines"])


def _in_order(cells: list[dict], root: Path) -> list[dict]:
    """Return cells in the order of the configurations."""
    order = list(wanted(root))
    return sorted(cells, key=lambda cell: order.index(_place(cell)))


def _by_method(places: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for method, task in places:
        found.setdefault(method, []).append(task)
    return found


def _place(cell: dict) -> tuple[str, str]:
    return cell["request"]["method"], cell["request"]["task"]


def _configurations(root: Path) -> dict[str, dict]:
    return {name: yaml.safe_load((root / name).read_text(encoding="utf-8")) for name in CONFIGURATIONS}


def _name(cell: dict) -> str:
    return f"{cell['request']['method']}_{cell['request']['task']}"
