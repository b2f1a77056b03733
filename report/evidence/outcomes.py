"""Outcomes: every model's prediction for every example, packed small enough for a cell. Paired tests need nothing else.

A run's predictions.npz holds logits, values or answer texts. A cell keeps labels as a byte or two, values and scores as
four, deflated: of two classes mostly less than two bits an example. Only the first dev split is kept, whose metric counts.
"""

import base64
import hashlib
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from methods.common.errors import UserError

TYPES = {"labels": np.dtype("u1"), "values": np.dtype("<f4"), "scores": np.dtype("<f4")}
WIDE = np.dtype("<u2")  # of labels, where a task has more than a byte can tell apart
MOST = 2**24  # bytes of an array, far above every dev set
TOLERANCE = 0.01  # points by which a metric may be off when it is computed from four-byte numbers


@dataclass(frozen=True)
class Outcomes:
    """The examples of a split and every seed's predictions: labels, values, or the score of each answer."""

    kind: str
    key: str  # equal keys are the same examples in the same order, so that they can be paired
    references: np.ndarray | None  # None where `kind` is "scores"
    predictions: dict[str, dict[int, np.ndarray]]  # protocol -> seed -> one entry for each example

    @property
    def examples(self) -> int:
        return len(next(iter(next(iter(self.predictions.values())).values())))


def pack(runs: dict[int, Path], protocols: tuple[str, ...], metric: str) -> dict | None:
    """Return the outcomes of all runs, {seed: predictions.npz}, as JSON; None where there is nothing to pair."""
    outcomes = {seed: _read(path, protocols, metric) for seed, path in runs.items()}
    if not outcomes or any(outcome is None for outcome in outcomes.values()):
        return None
    kinds, keys = ({outcome[place] for outcome in outcomes.values()} for place in (0, 1))
    if len(kinds) > 1 or len(keys) > 1:
        names = ", ".join(str(path) for path in runs.values())
        raise UserError(f"{names} do not hold predictions for the same examples: make the runs again with Snakemake.")
    first = next(iter(outcomes.values()))
    predictions = {protocol: {seed: outcome[3][protocol] for seed, outcome in outcomes.items()} for protocol in protocols}
    return to_json(Outcomes(*first[:3], predictions))


def to_json(outcomes: Outcomes) -> dict:
    kind, references = outcomes.kind, outcomes.references
    arrays = [answers for of_seeds in outcomes.predictions.values() for answers in of_seeds.values()]
    arrays += [] if references is None else [references]
    wide = kind == "labels" and any(array.max(initial=0) > 255 for array in arrays)
    as_type = WIDE if wide else TYPES[kind]
    return {
        "kind": kind,
        **({"wide": True} if wide else {}),
        "key": outcomes.key,
        "references": None if references is None else _squeeze(references, as_type),
        "predictions": {
            protocol: {str(seed): _squeeze(answers, as_type) for seed, answers in of_seeds.items()}
            for protocol, of_seeds in outcomes.predictions.items()
        },
    }


def unpack(packed: dict) -> Outcomes:
    """Return the outcomes of a cell; ValueError where they are damaged, or not as many for every seed."""
    kind = packed["kind"]
    as_type = WIDE if packed.get("wide") else TYPES[kind]
    references = None if packed["references"] is None else _expand(packed["references"], as_type)
    predictions = {
        protocol: {int(seed): _expand(text, as_type) for seed, text in of_seeds.items()}
        for protocol, of_seeds in packed["predictions"].items()
    }
    arrays = [array for of_seeds in predictions.values() for array in of_seeds.values()]
    arrays += [] if references is None else [references]
    if not all(predictions.values()) or len({len(array) for array in arrays}) != 1 or not len(arrays[0]):
        raise ValueError("not every seed has one prediction for each example")
    if len({tuple(of_seeds) for of_seeds in predictions.values()}) != 1 or (kind == "scores") != (references is None):
        raise ValueError("the seeds or the right answers are not those that its kind needs")
    if not all(np.isfinite(array).all() for array in arrays):
        raise ValueError("a prediction is not finite")
    return Outcomes(kind, packed["key"], references, predictions)


def _read(path: Path, protocols: tuple[str, ...], metric: str):
    """Return (kind, key, references, {protocol: predictions}) of one run; None where they allow no test."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            splits = sorted(name.removeprefix("labels.") for name in arrays if name.startswith("labels."))
            if splits:  # the first dev split is the one whose metric counts: MNLI's matched comes before mismatched
                references = arrays[f"labels.{splits[0]}"]
                answers = {protocol: arrays[f"{protocol}.{splits[0]}"] for protocol in protocols}
                if all(answer.ndim == 2 for answer in answers.values()):
                    labels = {protocol: answer.argmax(1) for protocol, answer in answers.items()}
                    return "labels", digest(references), references, labels
                return "values", digest(references.astype("<f4")), references, answers
            scored = sorted(name for name in arrays if name.startswith(f"{protocols[0]}.") and name.endswith(f".{metric}"))
            if scored:  # questions with several right answers: the run scored each answer
                split = scored[0].split(".")[1]
                ids = arrays[f"{protocols[0]}.{split}.ids"]
                return "scores", digest(ids), None, {name: arrays[f"{name}.{split}.{metric}"] for name in protocols}
            return None
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path} is not readable as predictions ({reason}): make the run again with Snakemake.") from None


def digest(array: np.ndarray) -> str:
    return hashlib.sha256(f"{array.dtype.str} {array.shape} ".encode() + array.tobytes()).hexdigest()


def _squeeze(array: np.ndarray, as_type: np.dtype) -> str:
    return base64.b64encode(zlib.compress(np.ascontiguousarray(array, as_type).tobytes())).decode("ascii")


def _expand(text: str, as_type: np.dtype) -> np.ndarray:
    """Return an array that `_squeeze` packed. A few bytes may unfold to gigabytes, so no more than MOST are unfolded."""
    packed = zlib.decompressobj()
    try:
        content = packed.decompress(base64.b64decode(text, validate=True), MOST)
    except zlib.error as error:
        raise ValueError(error) from None
    if not packed.eof:
        raise ValueError(f"an array is cut or larger than {MOST} bytes")
    return np.frombuffer(content, as_type)
