"""A table in its written form, for Markdown and LaTeX, whatever it is about."""

from dataclasses import dataclass, field

MISSING = "--"


@dataclass(frozen=True)
class Text:
    """One place of a written table. Only `text` is ever bold."""

    text: str
    bold: bool = False
    small: str = ""  # set smaller after the text: a deviation or an interval
    second: str = ""  # after both, in normal size: a second metric
    seeds: str = ""  # set smaller after the metrics
    marks: str = ""  # raised signs, which the notes explain
    paper: str | None = None  # whose arXiv numbers are cited


@dataclass(frozen=True)
class Grid:
    name: str
    caption: str
    header: list[str]
    rows: list[list[Text]]
    notes: list[str]
    text_columns: int = 2  # columns from the left that hold text, not numbers
    under: list[str] = field(default_factory=list)  # second line of the header
    groups: list[tuple[str, int]] = field(default_factory=list)  # titles of consecutive rows, and how many rows each has

    def grouped(self) -> list[tuple[str | None, list[list[Text]]]]:
        """Return (title, rows) of each group; a table without groups is one that has no title."""
        found, start = [], 0
        for title, count in self.groups or [(None, len(self.rows))]:
            found.append((title, self.rows[start : start + count]))
            start += count
        return found
