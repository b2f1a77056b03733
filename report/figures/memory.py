"""Quality against the memory to load and run a model, as `size` draws it against the size: on one machine only."""

from collections.abc import Callable, Iterator

from matplotlib.figure import Figure

from report.evidence.comparison import Evidence
from report.figures import size


def drawings(evidence: Evidence, axis: str) -> Iterator[tuple[str, Callable[[], Figure]]]:
    yield from size.against(evidence, "memory", "memory")
