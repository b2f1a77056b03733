"""Figures for papers, as SVG and PDF by matplotlib: byte-equal for equal cells, readable in print and without colour vision.

A figure is one file of this folder and needs no entry anywhere else. It has a function

    def drawings(evidence: Evidence, axis: str) -> Iterator[tuple[str, Callable[[], Figure]]]:

which yields a file name without its ending and a function that draws it, once for each picture that the cells have data
for. `evidence` holds every number (`report.evidence.comparison`), `axis` is the requested count of size, and
`report.figures.style` has the palette, shapes and helpers. A file that also has

    ON_PAGE = "One sentence about the figure."

is shown on the page too, with that sentence below it.
"""

import importlib
import io
import pkgutil
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType

from report.evidence.comparison import Evidence
from report.evidence.cores import on_all_cores


@dataclass(frozen=True)
class Picture:
    """One drawn figure."""

    name: str
    contents: dict[str, bytes]  # ending -> file
    caption: str | None  # on the page; None for figures that only papers need


def figure_files() -> list[ModuleType]:
    """Return the modules of this folder that are figures."""
    modules = [importlib.import_module(f"{__name__}.{module.name}") for module in pkgutil.iter_modules(__path__)]
    return [module for module in modules if hasattr(module, "drawings")]


def draw(evidence: Evidence, axis: str = "paper", only_on_page: bool = False) -> Iterator[Picture]:
    """Draw every figure that the cells have data for, on all cores."""
    drawings, captions = {}, {}
    for module in figure_files():
        caption = getattr(module, "ON_PAGE", None)
        if only_on_page and caption is None:
            continue
        for name, function in module.drawings(evidence, axis):
            if name in drawings:
                raise ValueError(f"{module.__name__} draws {name!r}, which another file of report/figures draws too")
            drawings[name], captions[name] = function, caption
    contents = on_all_cores(_files, list(drawings.values()))
    for name, files in zip(drawings, contents, strict=True):
        yield Picture(name, files, captions[name])


def _files(function) -> dict[str, bytes]:
    from report.figures.style import NO_DATE, STYLE, pyplot

    with pyplot.style.context(["default", STYLE]):  # whatever this machine's matplotlibrc sets
        figure = function()
        if figure.get_layout_engine():  # once for all files: it takes longer than writing one
            figure.draw_without_rendering()
            figure.set_layout_engine(None)
        files = {}
        for ending, metadata in NO_DATE.items():
            file = io.BytesIO()
            figure.savefig(file, format=ending, metadata=metadata)
            files[ending] = file.getvalue()
        pyplot.close(figure)
    return files
