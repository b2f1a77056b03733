"""Measured times of prediction, and which of them can be compared: those of one machine, with as many threads.

The machine with the most cells counts (the first listed of equals). A time from another one enters no axis and no ratio; the
cell that has it is named.
"""

import math
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from statistics import fmean, harmonic_mean

from report.wording import plural

NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class Setting:
    """Where and how times were measured. Torch has no kernels of the packed engine to choose from."""

    cpu: str
    flags: tuple[str, ...]
    cores: int | None
    threads: int
    kernels: str | None

    @classmethod
    def of(cls, latency: dict) -> "Setting":
        device = latency["device"]
        kernels = latency["kernels"] if latency["engine"] == "packed" else None
        return cls(
            device["cpu"] or "an unknown processor", tuple(device["flags"]), device["cores"], latency["threads"], kernels
        )

    @property
    def title(self) -> str:
        return f"{self.cpu}, {plural(self.threads, 'thread')}"

    @property
    def without_kernels(self) -> "Setting":
        return replace(self, kernels=None)

    def is_like(self, usual: "Setting") -> bool:
        return self.without_kernels == usual.without_kernels and self.kernels in (None, usual.kernels)


def _usual(settings: Collection[Setting]) -> Setting | None:
    """Return the machine of most times, with the kernels of most of its packed ones; the first of equals."""
    machines = Counter(setting.without_kernels for setting in settings)
    if not machines:
        return None
    machine, _ = machines.most_common(1)[0]
    kernels = Counter(one.kernels for one in settings if one.kernels and one.without_kernels == machine)
    return replace(machine, kernels=max(kernels, key=kernels.get, default=None))


@dataclass(frozen=True)
class Speed:
    """One method's times on one or several tasks."""

    milliseconds: float  # of a row by itself: the median, mean over the tasks
    p95: float
    per_second: float  # rows, in batches of 32
    memory: int | None
    engines: frozenset[str]
    ratio: float | None = None  # how often it is as fast as full precision, a row by itself


class Latencies:
    """The latencies of all cells, by method and task. Those in `odd` are of other models, and enter no ratio."""

    def __init__(self, cells: list[dict], full_precision: str | None, odd: set[tuple[str, str]]):
        self.full_precision, self.odd = full_precision, odd
        self._of_cells = {
            (cell["request"]["method"], cell["request"]["task"]): latency
            for cell in cells
            if (latency := cell["measured"]["latency"]) != NOT_MEASURED
        }
        measured = {place: latency for place, latency in self._of_cells.items() if latency["engine"]}
        settings = {place: Setting.of(latency) for place, latency in measured.items()}
        self.setting = _usual(settings.values())
        self.comparable = {place: measured[place] for place, one in settings.items() if one.is_like(self.setting)}
        self.elsewhere = {place: one for place, one in settings.items() if place not in self.comparable}

    def reason(self, method: str, task: str) -> str:
        """Return why there is no time that can be compared."""
        if (method, task) in self.elsewhere:
            return f"measured on another device: {self._elsewhere((method, task))}"
        latency = self._of_cells.get((method, task))
        return latency["reason"] if latency else NOT_MEASURED

    def speed(self, method: str, tasks: list[str]) -> Speed | str:
        """Return the method's times over all of the tasks, or the reason why there are none."""
        found = [self.comparable.get((method, task)) for task in tasks]
        if None in found or not found:
            reasons = {self.reason(method, task) for task, one in zip(tasks, found, strict=True) if one is None}
            return reasons.pop() if len(reasons) == 1 and not any(found) else "not all tasks"
        alone, batched = ([one["batches"][size] for one in found] for size in ("1", "32"))
        milliseconds = fmean(calls["median_ms"] for calls in alone)
        full = [self.comparable.get((self.full_precision, task)) for task in tasks]
        alike = None not in full and not any(
            (one, task) in self.odd for one in (method, self.full_precision) for task in tasks
        )
        return Speed(
            milliseconds=milliseconds,
            p95=fmean(calls["p95_ms"] for calls in alone),
            per_second=harmonic_mean([calls["sentences_per_second"] for calls in batched]),
            memory=max(one["memory_bytes"] or 0 for one in found) or None,
            engines=frozenset(one["engine"] for one in found),
            ratio=fmean(one["batches"]["1"]["median_ms"] for one in full) / milliseconds if alike else None,
        )

    def notes(self, title: Callable[[str], str]) -> list[str]:
        """Return sentences on how times were measured, and how scores through the engine differ; none without a time.

        `title` returns the name of a method.
        """
        if self.setting is None:
            return []
        by_torch = {method: None for (method, _), latency in self.comparable.items() if latency["engine"] == "torch"}
        packed = [latency for latency in self.comparable.values() if latency["engine"] == "packed"]
        engine = f", packed engine ({self.setting.kernels} kernels)" if packed else ", torch"
        notes = [
            f"Times: {self.setting.title}{engine}; dev rows by their real lengths, ms of a sentence by itself (median), "
            "sentences/s in batches of 32."
        ]
        if by_torch and packed:
            notes.append(f"Timed through torch: {', '.join(map(title, by_torch))}.")
        others = Counter(map(self._elsewhere, self.elsewhere))
        if others:
            text = ", ".join(f"{plural(number, 'cell')} ({device})" for device, number in others.items())
            notes.append(f"Times of another device are not compared: {text}.")
        if packed:
            most = max(latency["difference"] for latency in packed)
            differ = f"differ by at most {math.ceil(100 * most) / 100:.2f} points" if most else "are the same"
            notes.append(f"Scores are torch's, in fp32; through the packed engine they {differ}.")
        return notes

    def _elsewhere(self, place: tuple[str, str]) -> str:
        """Return on what a cell was measured that is not compared."""
        other = self.elsewhere[place]
        return other.title + (f", {other.kernels} kernels" if other.title == self.setting.title and other.kernels else "")
