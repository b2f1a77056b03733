"""Verification: a cell is made again in a folder of its own, and compared with the cell of the same name in the reference.

The rule. Let the reference have n seeds with mean score m and standard deviation s, and the new cell k seeds. The new cell
lands if its mean lies within m +- t * s * sqrt(1/n + 1/k), where t is the 97.5 % quantile of Student's distribution with
n - 1 degrees of freedom: the interval in which 95 % of the means of k new seeds lie (Student's prediction interval). A
reference of one seed, or of seeds that all score the same, does not say how far seeds scatter. The interval is then that of
the dev set: 1.96 standard errors of the score over other dev sets of this size, from a bootstrap over its examples.
"""

import math
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from methods.common.errors import UserError
from methods.common.files import canonical
from report import making
from report.evidence import outcomes
from report.evidence.cells import command
from report.evidence.reading import read_cells
from report.evidence.statistics import draws, replicates, student_quantile
from workflow import catalogue

REFERENCE = making.ROOT / "docs/reference/cells"
NAME = re.compile(r"(?:.*/)?([a-z0-9_]+_[a-z0-9]+)(?:\.json)?")
# Equal in both cells, or their numbers are not comparable.
REQUESTED = ("method", "task", "preset", "primary", "padding", "spec", "budget")
SHOWN = ("code", "precision", "packages", "devices", "threads")  # differences that may explain other numbers
QUANTILE = 0.975


@dataclass(frozen=True)
class Verdict:
    """How a new cell compares with its reference."""

    lands: bool
    lines: list[str]


def reference_of(name: str, folder: Path) -> dict:
    """Return the reference's cell of a name such as lsq_4bit_rte."""
    found = NAME.fullmatch(name)
    path = folder / f"{found[1] if found else name}.json"
    if not found or not path.is_file():
        known = sorted(one.stem for one in folder.glob("*_*.json"))
        there = f"There are: {', '.join(known)}." if known else f"{folder} holds no cells: name a folder with --reference."
        raise UserError(f"The reference has no cell {name!r}. {there}")
    return read_cells([path])[0]


def remake(reference: dict, folder: Path, mirror: str | None, cores: int) -> Path:
    """Make the cell of a reference's configuration and seeds in `folder`, and return its path; resumes what is there."""
    request = reference["request"]
    cell = folder / "results" / f"{request['method']}_{request['task']}.json"
    settings = configuration(request, mirror)
    found = catalogue.load({**settings, "preset": request["preset"]})
    found.require(request["method"], request["task"])
    making.make(folder, snakemake_words(request, settings), cores, making.own_paths(found, request["task"]))
    return cell


def configuration(request: dict, mirror: str | None) -> dict:
    """Return what a reference's cell was made with beside its preset, for this machine's mirror."""
    settings = {key: value for key, value in request["overrides"].items() if key not in ("methods", "tasks")}
    data = {key: value for key, value in settings.pop("data", {}).items() if key != "mirror"}
    data |= {"mirror": mirror} if mirror else {}
    settings |= {"data": data} if data else {}
    return settings | {"seeds": request["seeds"], "latency": False}


def snakemake_words(request: dict, settings: dict) -> list[str]:
    """Return the target and the options that make a reference's cell with these settings."""
    _, *words = shlex.split(command(request["method"], request["task"], request["preset"], settings))
    preset = f"preset={request['preset']}"  # this machine's config.yaml may name another than the default
    return words if preset in words else [*words, preset]


def compare(reference: dict, cell: dict) -> Verdict:
    """Return whether a new cell lands in its reference's interval, with the reason in plain words."""
    _require_same_request(reference, cell)
    metric, primary = reference["measured"]["metric"], reference["request"]["primary"]
    old, new = (one["measured"]["protocols"][primary]["metrics"][metric] for one in (reference, cell))
    title = f"{reference['request']['method']} on {reference['request']['task']}: {metric} of the {primary} model"
    lines = [title, f"  reference: {_summary(reference)}", f"  here:      {_summary(cell)}", *_differences(reference, cell)]
    if old["n"] == 0 or new["n"] == 0:
        lands = old["n"] == new["n"]
        where = "as in the reference" if lands else ("here" if old["n"] else "in the reference, and here not")
        return Verdict(lands, [*lines, _outcome(lands, f"every seed diverged {where}")])
    if _numbers(reference) == _numbers(cell):
        return Verdict(True, [*lines, "The same numbers: every seed has the reference's scores, digit for digit."])
    if new["n_diverged"] and not old["n_diverged"]:
        return Verdict(False, [*lines, _outcome(False, "a seed diverged, and none of the reference's did")])
    found = interval(reference, new["n"])
    if found is None:
        reason = "the numbers differ, and the reference holds neither several seeds nor the dev set's outcomes to judge by"
        return Verdict(False, [*lines, _outcome(False, reason)])
    low, high, basis = found
    lands = low <= new["mean"] <= high
    where = f"{new['mean']:.2f} lies {'within' if lands else 'outside'} {low:.2f} to {high:.2f}, {basis}"
    return Verdict(lands, [*lines, _outcome(lands, where)])


def interval(reference: dict, seeds: int) -> tuple[float, float, str] | None:
    """Return the interval for the mean of so many new seeds, and what it is made of; None where the cell allows none."""
    metric, primary = reference["measured"]["metric"], reference["request"]["primary"]
    known = reference["measured"]["protocols"][primary]["metrics"][metric]
    if known["sd"]:
        n = known["n"]
        half = student_quantile(QUANTILE, n - 1) * known["sd"] * math.sqrt(1 / n + 1 / seeds)
        basis = f"where 95 % of the means of {seeds} new seed(s) lie, judged by the scatter of the reference's {n} seeds"
    else:
        error = _error_of_examples(reference)
        if error is None:
            return None
        half = student_quantile(QUANTILE, math.inf) * error
        basis = "the dev set's own error, because the reference has no scatter of seeds"
    return known["mean"] - half, known["mean"] + half, basis


def _error_of_examples(cell: dict) -> float | None:
    """Return the standard error of the score over dev sets of the same size, of the first seed."""
    packed = cell["measured"]["outcomes"]
    if packed is None:
        return None
    found = outcomes.unpack(packed)
    first = next(iter(found.predictions[cell["request"]["primary"]].values()))
    resampled = replicates(cell["measured"]["metric"], draws(found.examples), found.references, np.stack([first]))
    return float(resampled.std(ddof=1))


def _require_same_request(reference: dict, cell: dict) -> None:
    """Raise one line where the cells are not of one request and one data set: their numbers could not be compared."""
    for key in REQUESTED:
        if canonical(reference["request"][key]) != canonical(cell["request"][key]):
            raise UserError(
                f"The new cell differs from the reference in its {key}: check config/config.yaml, and that the code is "
                "the reference's commit."
            )
    prints = [one["ran_on"]["dataset"].get("fingerprint") for one in (reference, cell)]
    if prints[0] != prints[1]:
        raise UserError(
            "The new cell was made from other rows than the reference (another fingerprint): use the same data, "
            "such as the same mirror with --mirror DIR."
        )


def _numbers(cell: dict) -> list:
    return [[one["seed"], one["scores"]] for one in cell["measured"]["seeds"]]


def _summary(cell: dict) -> str:
    metric, primary = cell["measured"]["metric"], cell["request"]["primary"]
    known = cell["measured"]["protocols"][primary]["metrics"][metric]
    if not known["n"]:
        return "every seed diverged"
    scores = [one["scores"][primary]["metrics"][metric] for one in cell["measured"]["seeds"] if one["scores"]]
    listed = ", ".join(f"{score:.2f}" for score in scores)
    lost = f", {known['n_diverged']} diverged" if known["n_diverged"] else ""
    return f"{known['mean']:.2f}  ({known['n']} seed{'s' * (known['n'] > 1)}: {listed}{lost})"


def _differences(reference: dict, cell: dict) -> list[str]:
    """Return a line for each thing that differs and may explain other numbers; nothing is refused for it."""
    found = []
    for key in SHOWN:
        old, new = reference["ran_on"][key], cell["ran_on"][key]
        if isinstance(old, dict):
            pairs = {f"{key[:-1]} {name}": (old.get(name), new.get(name)) for name in sorted({*old, *new})}
        else:
            pairs = {key: (old, new)}
        found += [f"  {name}: {_words(a)} in the reference, {_words(b)} here" for name, (a, b) in pairs.items() if a != b]
    return found


def _words(value) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _outcome(lands: bool, reason: str) -> str:
    return f"{'Lands' if lands else 'Does not land'}: {reason}."
