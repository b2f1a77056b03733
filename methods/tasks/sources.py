"""Where a task's rows come from: the user's files, the demo's generator, or the hub (or its mirror)."""

import hashlib
from collections import defaultdict
from dataclasses import dataclass
from pathlib import PurePath

import numpy as np

from methods.common.errors import UserError
from methods.common.files import canonical
from methods.tasks import kinds


@dataclass(frozen=True)
class Source:
    """A source of rows, as errors and a run's record name it."""

    name: str
    place: str
    remedy: str  # the end of an error about its rows
    provenance: dict
    official_rows: dict | None  # None where whatever is there is the whole
    own: bool = False


def of(request: dict) -> Source:
    """Return the source of a data request."""
    entry, source = request["entry"], request["source"]
    if "files" in entry:
        names = ", ".join(dict.fromkeys(PurePath(path).name for path in entry["files"].values()))
        facts = {"source": "files", "dataset": names, "config": None, "revision": None}
        return Source(names, names, "add rows to its file.", facts, None, own=True)
    place, name = f"{entry['dataset']}/{entry['config']}", f"{entry['dataset']} ({entry['config']})"
    if source["source"] == "generated":
        facts = {"source": "generated", "dataset": "generated demo data", "revision": f"seed {source['seed']}"}
        return Source(name, place, kinds.AGAIN, facts | {"config": entry["config"]}, None)
    facts = {"source": source["source"], **{key: entry[key] for key in ("dataset", "config", "revision")}}
    return Source(name, place, kinds.AGAIN, facts, entry["rows"])


def rows(request: dict) -> dict[str, kinds.Columns]:
    """Return the rows of a data request: split name -> column name -> values.

    Where a share is held out, all are training rows, and those of the first dev split's name are the ones held out.
    """
    splits, share = _all_rows(request), request["source"].get("held_out")
    if share is None:
        return splits
    train = splits["train"]
    dev = next(name for name in splits if name != "train")
    texts = kinds.of(request["entry"]["kind"]).complete(request["entry"])["columns"]
    held_out = _held_out(train, texts, share)
    sides = {"train": [], dev: []}
    for row in range(len(train[texts[0]])):
        sides[dev if row in held_out else "train"].append(row)
    return {side: {name: [values[row] for row in rows] for name, values in train.items()} for side, rows in sides.items()}


def _held_out(train: kinds.Columns, texts: list[str], share: float) -> set[int]:
    """Return the rows to hold out, about `share` of all and the same for every method and seed.

    Rows with equal text in the column that repeats itself most, such as questions on one passage, stay on one side. A column
    is ignored where one text has more rows than are held out.
    """
    total = len(train[texts[0]])
    wanted = round(share * total)
    if not 0 < wanted < total:
        raise UserError(f"data.held_out: {share} of {total} training rows leaves one side empty: choose another share.")
    together = [list(_rows_by_value(train[name]).values()) for name in texts]
    together = [groups for groups in together if max(map(len, groups)) <= wanted]
    groups = min(together, key=len, default=[[row] for row in range(total)])
    chosen: set[int] = set()
    for number in np.random.default_rng(0).permutation(len(groups)):
        if len(chosen) + len(groups[number]) <= wanted:
            chosen.update(groups[number])
    return chosen


def _rows_by_value(values: list[str]) -> dict[str, list[int]]:
    found = defaultdict(list)
    for row, value in enumerate(values):
        found[value].append(row)
    return found


def _all_rows(request: dict) -> dict[str, kinds.Columns]:
    entry, source = request["entry"], request["source"]
    if "files" in entry:
        from methods.tasks import files

        return files.rows(entry, request["task"])
    if source["source"] == "generated":
        from methods.tasks import demo

        if request["task"] not in demo.TASKS:
            raise UserError(
                f"The demo generates no rows for {request['task']}: take a preset with real data (--config preset=small)."
            )
        generated = demo.generate(request["task"], source["seed"])
        return {split: {name: [row[name] for row in some] for name in some[0]} for split, some in generated.items()}
    from methods.tasks import hub

    return hub.rows(entry, source["mirror"])


def fingerprint(splits: dict[str, kinds.Columns]) -> str:
    """Return the SHA-256 of the rows themselves, equal wherever they came from."""
    total = hashlib.sha256()
    for split, columns in sorted(splits.items()):
        for name, values in sorted(columns.items()):
            total.update(f"{split}.{name}\0".encode())
            for value in values:
                total.update(canonical(value).encode() + b"\n")
    return total.hexdigest()
