"""Tuning: other numbers for a recipe, tried on a share of the training rows and compared pair by pair.

A trial is a stanza of its own, like the method's with other numbers. All trials of a task are made by the workflow in one
folder, so that they share their teacher, run side by side, and are there after a crash. Each is scored on the same training
rows, which no run trained on. The dev set is not used, so that what is chosen here can be compared there.
"""

import itertools
import json
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from methods.common.errors import UserError
from methods.common.files import write_json
from report import making
from report.evidence.comparison import compare
from report.evidence.verdicts import judge
from report.wording import count, metric_title, plural, points
from workflow import catalogue as catalogues
from workflow import documents

SOURCE = "tried on held-out training rows"
UNNAMED = "default"  # what the method's own row shows of an entry that its recipe leaves out


@dataclass(frozen=True)
class Tuning:
    """What is tried: `trials` are the numbers of each stanza by name, the method's own first; `own` the user's files."""

    method: str
    task: str
    preset: str
    config: dict
    trials: dict[str, dict]
    own: list[str]


def plan(cell: str, tried: Mapping[str, Sequence], config: dict) -> Tuning:
    """Return what is tried for a cell such as lsq_4bit_rte: every combination of the values of each recipe entry."""
    catalogue = catalogues.load(config)
    found = catalogues.NAME.fullmatch(cell)
    if not found or found["method"] not in catalogue.cell_methods() or found["task"] not in catalogue.tasks:
        raise UserError(catalogue.refuse(cell))
    method, task = found["method"], found["task"]
    if "batch_size" in tried and (size := catalogue.budget(task).get("batch_size")):
        raise UserError(f"--try batch_size: the preset trains batches of {size} on {task}, whatever the recipe says.")
    own = {key: catalogue.values(method, task).get(key, UNNAMED) for key in tried}
    names, written = {method: own}, {}
    for values in itertools.product(*tried.values()):
        trial = dict(zip(tried, values, strict=True))
        if trial != own:
            name = f"{method}_{'_'.join(f'{key}_{_letters(value)}' for key, value in trial.items())}"
            names[name] = trial
            written[name] = {
                "like": method,
                "title": f"{catalogue.methods[method]['title']}, {_words(trial)}",
                "recipe": {key: [value, SOURCE] for key, value in trial.items()},
            }
    if not written:
        raise UserError(f"Nothing to try: {_words(own)} is what the recipe of {method} has already.")
    if method in ((catalogue.config["augmentation"] or {}).get("methods") or ()):
        config = documents.merge(
            config, {"augmentation": {"methods": [*catalogue.config["augmentation"]["methods"], *written]}}
        )
    config = documents.merge(config, {"stanzas": written, "tasks": [task], "methods": list(names), "latency": False})
    catalogues.load(config)  # what is wrong with a value is said before anything runs
    return Tuning(method, task, catalogue.config["preset"], config, names, making.own_paths(catalogue, task))


def make(tuning: Tuning, folder: Path, cores: int) -> list[Path]:
    """Make the cells of all trials and return their paths; those that are there are not made again."""
    configuration = folder / f"{tuning.method}_{tuning.task}.json"
    write_json(configuration, tuning.config)
    cells = [f"results/{name}_{tuning.task}.json" for name in tuning.trials]
    making.make(folder, ["--configfile", str(configuration.resolve()), "--keep-going", "--", *cells], cores, tuning.own)
    return [folder / cell for cell in cells]


def lines(tuning: Tuning, cells: list[dict]) -> Iterator[str]:
    """Yield the trials as a table, and what follows from it."""
    evidence = compare(cells)
    protocol, task = evidence.board.primary, tuning.task
    losses = {
        name: loss
        for name in tuning.trials
        if name != tuning.method and (loss := evidence.pair(tuning.method, name, task, protocol))
    }
    verdicts = judge(losses, evidence.board.margin)
    rows = cells[0]["ran_on"]["dataset"]["rows"]
    held_out = next(number for split, number in rows.items() if split != "train")
    metric = metric_title(cells[0]["measured"]["metric"])
    of = count(held_out + rows["train"])
    yield f"{tuning.method} on {task}: {metric} on {count(held_out)} rows held out of {of} training rows"
    table = [(*next(iter(tuning.trials.values())), "score", "sd", "seeds", "minutes", "gain over its own numbers")]
    for (name, trial), cell in zip(tuning.trials.items(), cells, strict=True):
        summary = evidence.score(name, task, protocol).summary
        mean, sd = (f"{summary[key]:.2f}" if summary[key] is not None else "--" for key in ("mean", "sd"))
        minutes = f"{cell['ran_on']['volatile']['cost']['seconds'] / 60:.1f}"
        gain = "its own" if name == tuning.method else _gain(losses.get(name))
        table.append((*map(_shown, trial.values()), mean, sd, str(summary["n"]), minutes, gain))
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    yield from ("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in table)
    yield _conclusion(tuning, {name: losses[name] for name, verdict in verdicts.items() if verdict.side == "better"})


def _gain(loss) -> str:
    if loss is None:
        return "--"
    if loss.interval is None:
        return f"{-loss.value:+.2f} (no interval)"
    low, high = loss.interval
    return f"{-loss.value:+.2f} (95 % CI {-high:.2f} to {-low:.2f})"


def _conclusion(tuning: Tuning, better: dict) -> str:
    if not better:
        others = plural(len(tuning.trials) - 1, "trial")
        return f"Keep the method's own numbers: none of {others} is better beyond chance (Holm's correction, 5 %)."
    best = min(better, key=lambda name: better[name].value)
    return (
        f"{_words(tuning.trials[best])} is better by {points(round(-better[best].value, 2))}, beyond chance (Holm's "
        f"correction, 5 %): write it into the stanza of {tuning.method} in config/methods, with its source."
    )


def _letters(value) -> str:
    """Return a value as a part of a method's name, another one for each value."""
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
    plain = text.replace(".", "p").replace("-", "m")
    return plain if re.fullmatch("[a-z0-9]{1,12}", plain) else f"{zlib.crc32(text.encode()):08x}"


def _words(trial: dict) -> str:
    return ", ".join(f"{key} {_shown(value)}" for key, value in trial.items())


def _shown(value) -> str:
    return value if isinstance(value, str) else json.dumps(value)
