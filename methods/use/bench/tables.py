"""What `bench inference` says of its measurements: a table for each workload, for JSON and as text."""

from collections.abc import Iterator

import numpy as np

from methods.use.bench.contenders import FLOAT, REFERENCE
from methods.use.bench.workloads import Workload

SLOW = 1.6  # times what a kernel should take at most: one whose registers were spilled takes about 2
MANY = 512  # tokens of a batch from which kernels count, and not the reading of weights
PACKED = "engine-w"  # the first letters of the engine's packed models, before their bits


def table(work: Workload, threads: int, milliseconds: dict[str, np.ndarray], shelf: list[str]) -> dict:
    """Return medians and quartiles of one workload, and both ratios of each contender.

    `speedup` is over torch in full precision. `ratio` is over `reference`: OpenVINO's W8A8, or where that was not measured
    the fastest of the contenders off the shelf.
    """
    medians = {name: float(np.median(turns)) for name, turns in milliseconds.items()}
    reference = REFERENCE if REFERENCE in medians else min(shelf, key=medians.get, default=None)
    rows = {}
    for name, turns in milliseconds.items():
        rows[name] = {
            "median_ms": medians[name],
            "quartiles_ms": [float(edge) for edge in np.percentile(turns, [25, 75])],
            "turns_ms": [float(turn) for turn in turns],
            "speedup": medians[FLOAT] / medians[name] if FLOAT in medians else None,
            "ratio": medians[reference] / medians[name] if reference else None,
        }
    shape = {"title": work.title, "batch": work.batch, "length": work.length, "tokens": work.tokens, "threads": threads}
    return {**shape, "reference": reference, "rows": rows}


def suspicions(tables: list[dict]) -> list[str]:
    """Return a line for each of the engine's kernels that is far slower than others show that it can be.

    Compilers sometimes spill a kernel's registers, which halves its speed and changes nothing else. A model of fewer bits
    must not be much slower than one of more bits with the same ranges; nor one of 8 bits than OpenVINO's W8A8, nor slower at
    all than others off the shelf. Only what lies outside both spreads counts.
    """
    return [line for one in tables for line in _suspicions(one)]


def _suspicions(one: dict) -> Iterator[str]:
    packed = {name: _parts(name) for name in one["rows"] if name.startswith(PACKED)}
    for name, (bits, ranges) in packed.items():
        rivals = {other: SLOW for other, (more, same) in packed.items() if more > bits and same == ranges}
        if not rivals and one["tokens"] >= MANY and one["reference"]:
            rivals = {one["reference"]: SLOW if one["reference"] == REFERENCE else 1}
        for rival, limit in rivals.items():
            (best, _), (_, worst) = (one["rows"][each]["quartiles_ms"] for each in (name, rival))
            if best > limit * worst:
                where = f"{one['title']}, {threads(one['threads'])}"
                yield f"{name} takes {best / worst:.1f} times as long as {rival} ({where}): was a kernel compiled badly?"
                break


def page(report: dict) -> str:
    """Return a report as text."""
    machine, model = report["machine"], report["model"] or f"{report['size']}, random weights"
    facts = report["contenders"]
    width = max(len(fact["title"]) for fact in facts.values())
    lines = [f"Inference of {model}; medians and quartiles of {report['rounds']} rounds in turns.", _machine(machine)]
    for one in report["tables"]:
        over = facts[one["reference"]]["title"] if one["reference"] not in (None, FLOAT) else None
        lines += ["", f"{one['title']}, {threads(one['threads'])}"]
        heading = f"  {'':{width}}{'ms':>10}{'quartiles':>20}{'over torch':>12}"
        lines.append(f"{heading}  over {over}" if over else heading)
        for name, row in one["rows"].items():
            low, high = row["quartiles_ms"]
            line = f"  {facts[name]['title']:{width}}{row['median_ms']:>10.2f}{f'{low:.2f} to {high:.2f}':>20}"
            line += f"{_times(row['speedup']):>12}"
            lines.append(f"{line}{_times(row['ratio']):>{len(over) + 7}}" if over else line.rstrip())
    lines += ["", f"{'What each takes':{width + 2}}{'file MB':>10}{'load s':>8}{'memory MB':>11}{'off by':>8}  kernels"]
    for fact in facts.values():
        line = f"  {fact['title']:{width}}{_millions(fact['file_bytes']):>10}{_seconds(fact.get('load_seconds')):>8}"
        lines.append(
            f"{line}{_millions(fact.get('memory_bytes')):>11}{fact['difference']:>8.0e}  {fact['kernels'] or ''}".rstrip()
        )
    lines += [""] if report["absent"] or report["warnings"] else []
    lines += [f"not measured: {', '.join(names)}: {reason}" for reason, names in _by_reason(report["absent"]).items()]
    lines += [f"warning: {line}" for line in report["warnings"]]
    return "\n".join(lines)


def threads(count: int) -> str:
    return f"{count} thread{'s' if count > 1 else ''}"


def _parts(name: str) -> tuple[int, str]:
    """Return the bits and the ranges in the name of a packed model."""
    bits, _, ranges = name.removeprefix(PACKED).partition("-")
    return int(bits), ranges


def _machine(machine: dict) -> str:
    packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    return f"{machine['cpu']} ({', '.join(machine['flags']) or 'no flags known'}), {machine['cores']} cores; {packages}"


def _by_reason(absent: dict[str, str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, reason in absent.items():
        found.setdefault(reason, []).append(name)
    return found


def _times(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.2f}x"


def _millions(count: int | None) -> str:
    return "" if count is None else f"{count / 1e6:.1f}"


def _seconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds:.2f}"
