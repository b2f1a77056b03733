"""Tables as LaTeX that needs booktabs and nothing else, and that fits a page at a readable size.

LaTeX does not break a table that is too wide or too long. Widths are therefore estimated here: what is too wide for the page
is split into tabulars with the same rows, one below the other, and what is too long goes on in a second float.
"""

import itertools
import math
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from report.tables.grid import Grid, Text

WIDTH = 455  # pt, 6.3 inches: both columns of ACL's style, and less than those of ICML, IEEE or a letter page
HEIGHT = 630  # pt, of a page of 9 inches less what surrounds a float
FOOTNOTE, SCRIPT = 8, 7  # pt: \footnotesize and \scriptsize of a 10 pt class
LINE = 9.5  # pt from line to line in \footnotesize
RULE = 6.5  # pt that \midrule takes with its space
GAP = 3  # pt, \tabcolsep: half the space between two columns
WRAPPED = 130  # pt: longer texts are broken into lines

_MARKS = {
    "≈": r"\approx",
    "▽": r"\bigtriangledown",
    "△": r"\bigtriangleup",
    "†": r"\dagger",
    "‡": r"\ddagger",
}
_SIGNS = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "_": r"\_",
    "%": r"\%",
    "&": r"\&",
    "#": r"\#",
    "$": r"\$",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "±": r"$\pm$",
    "×": r"$\times$",
    **{sign: f"$^{{{command}}}$" for sign, command in _MARKS.items()},
    "\N{MINUS SIGN}": "$-$",
    "\N{EN DASH}": "--",
}
_NARROW, _BROAD = set("ijlftIr.,:;'|!()[]/ "), set("mwMW±×≈▽△")


def latex(text: str) -> str:
    """Return text that LaTeX prints literally; signs that a plain pdflatex cannot print become a question mark."""
    text = unicodedata.normalize("NFC", " ".join(text.split()))
    return "".join(_SIGNS.get(sign, sign if sign.isprintable() and ord(sign) < 0x180 else "?") for sign in text)


def to_latex(grid: Grid, citation_keys: Callable[[str | None], list[str]]) -> str:
    """Return floats of the whole page's width; `citation_keys` returns the BibTeX keys of a method's paper."""
    return _Layout(grid, citation_keys).text()


@dataclass(frozen=True)
class _Tabular:
    lines: list[str]
    height: float


class _Layout:
    """The columns and rows of a grid, spread over tabulars and floats."""

    def __init__(self, grid: Grid, citation_keys: Callable[[str | None], list[str]]):
        self.grid, self.citation_keys = grid, citation_keys
        self.under = grid.under or [""] * len(grid.header)
        self.widths = [self._width(column) for column in range(len(grid.header))]
        self.digits = [self._digits(column) for column in range(len(grid.header))]

    def text(self) -> str:
        tabulars = [self._tabular(groups, columns) for groups in self._row_parts() for columns in self._column_parts()]
        floats = list(_packed(tabulars, HEIGHT - self._height_of_notes()))
        return "\n".join(
            [
                r"% Needs \usepackage{booktabs} and \usepackage[T1]{fontenc}; references.bib has what is cited.",
                f"% Set for a page at least {WIDTH} pt ({WIDTH / 72.27:.1f} in) wide, a 10 pt class and numbered citations.",
                r"% In a larger class, or with authors and years as citations, write \scriptsize for \footnotesize.",
                *itertools.chain.from_iterable(self._float(number, floats) for number in range(len(floats))),
                "",
            ]
        )

    # Floats

    def _float(self, number: int, floats: list[list[_Tabular]]) -> Iterator[str]:
        yield from (r"\begin{table*}", r"\centering")
        if number:
            yield r"\addtocounter{table}{-1}"
        caption = f"{self.grid.caption.removesuffix('.')} (continued)." if number else self.grid.caption
        yield rf"\caption{{{latex(caption)}}}"
        if not number:
            yield rf"\label{{tab:{re.sub(r'[^a-z0-9]+', '-', self.grid.name)}}}"
        yield from (r"\footnotesize", rf"\setlength{{\tabcolsep}}{{{GAP}pt}}")
        for place, tabular in enumerate(floats[number]):
            if place:
                yield r"\par\medskip"
            yield from tabular.lines
        if number == len(floats) - 1 and self.grid.notes:
            notes = "; ".join(self.grid.notes)
            yield r"\par\smallskip"
            yield rf"\parbox{{\linewidth}}{{\scriptsize\raggedright {latex(notes[0].upper() + notes[1:])}.}}"
        yield r"\end{table*}"

    def _height_of_notes(self) -> float:
        """Return the height of notes and caption together."""
        signs = len("; ".join(self.grid.notes))
        return LINE * (math.ceil(signs * 0.5 * SCRIPT / WIDTH) + math.ceil(len(self.grid.caption) * 5 / WIDTH)) + 30

    # Tabulars

    def _tabular(self, groups: list[list[list[Text]]], columns: list[int]) -> _Tabular:
        cited = columns == self._column_parts()[0]
        alignment = "".join("l" if column < self.grid.text_columns or self.digits[column] else "r" for column in columns)
        heads = [" & ".join(latex(heads[column]) for column in columns) + r" \\" for heads in (self.grid.header, self.under)]
        body = []
        for group in groups:
            body += [r"\midrule"] if body else []
            body += [" & ".join(self._place(row[column], column, cited) for column in columns) + r" \\" for row in group]
        lines = [
            rf"\begin{{tabular}}{{@{{}}{alignment}@{{}}}}",
            r"\toprule",
            *(heads if any(self.under) else heads[:1]),
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
        ]
        return _Tabular(lines, self._height(groups))

    def _place(self, place: Text, column: int, cited: bool) -> str:
        text = latex(place.text)
        if self._is_wrapped(column):
            text = rf"\parbox[t]{{{WRAPPED}pt}}{{\raggedright\strut {text}\strut}}"
        text = rf"\textbf{{{text}}}" if place.bold else text
        if missing := self.digits[column] - _whole_digits(place.text):
            text = rf"\phantom{{{'0' * missing}}}{text}" if _is_number(place.text) and missing > 0 else text
        text += _small(place.small)
        keys = self.citation_keys(place.paper) if cited else []
        cite = rf"~\cite{{{','.join(keys)}}}" if keys else ""
        marks = f"$^{{{' '.join(_MARKS[sign] for sign in place.marks)}}}$" if place.marks else ""
        return text + latex(place.second) + _small(place.seeds) + marks + cite

    # Sizes

    def _digits(self, column: int) -> int:
        """Return how many digits stand before the decimal point, where a column must be aligned by hand."""
        places = [row[column] for row in self.grid.rows]
        styled = any(place.small or place.marks or place.second or place.seeds for place in places)
        return max(map(_whole_digits, (place.text for place in places)), default=0) if styled else 0

    def _is_wrapped(self, column: int) -> bool:
        return column < self.grid.text_columns and any(
            _width(row[column].text, FOOTNOTE) > WRAPPED for row in self.grid.rows
        )

    def _width(self, column: int) -> float:
        heads = (_width(heads[column], FOOTNOTE) for heads in (self.grid.header, self.under))
        return max(*heads, *(self._width_of(row[column], column) for row in self.grid.rows), 0) + 2 * GAP

    def _width_of(self, place: Text, column: int) -> float:
        text = _width(place.text, FOOTNOTE) * (1.15 if place.bold else 1)
        cite = sum(_width(" [12]", FOOTNOTE) for _ in self.citation_keys(place.paper))
        rest = _width(place.second, FOOTNOTE) + _width(place.small + place.seeds, SCRIPT) + _width(place.marks, 6)
        return min(text, WRAPPED) + rest + cite if column < self.grid.text_columns else text + rest + cite

    def _height(self, groups: list[list[list[Text]]]) -> float:
        return RULE * (len(groups) + 3) + LINE * (2 + sum(self._lines(row) for group in groups for row in group)) + 8

    def _lines(self, row: list[Text]) -> int:
        texts = [row[column].text for column in range(len(row)) if self._is_wrapped(column)]
        return max((math.ceil(1.15 * _width(text, FOOTNOTE) / WRAPPED) for text in texts), default=1) or 1

    # Parts

    def _column_parts(self) -> list[list[int]]:
        """Return the columns of each tabular: as few tabulars as possible, about equally wide, the first column in each."""
        parts = self._cut(WIDTH)
        return next(cut for limit in range(50, WIDTH + 1, 5) if len(cut := self._cut(limit)) == len(parts))

    def _cut(self, limit: float) -> list[list[int]]:
        parts = [[0]]
        for column in range(1, len(self.widths)):
            used = sum(self.widths[one] for one in parts[-1])
            if used + self.widths[column] > limit and len(parts[-1]) > 1:
                parts.append([0])
            parts[-1].append(column)
        return parts

    def _row_parts(self) -> Iterable[list[list[list[Text]]]]:
        """Yield groups of rows that fit on a page; a group that alone is too long is cut."""
        room, part = HEIGHT - self._height_of_notes(), []
        for _, rows in self.grid.grouped():
            for row in rows:
                new = not part or row is rows[0]
                longer = [*part, [row]] if new else [*part[:-1], [*part[-1], row]]
                if part and self._height(longer) > room:
                    yield part
                    longer = [[row]]
                part = longer
        yield part


def _packed(tabulars: list[_Tabular], room: float) -> Iterator[list[_Tabular]]:
    """Yield the tabulars of each float."""
    part = []
    for tabular in tabulars:
        if part and sum(one.height for one in (*part, tabular)) > room:
            yield part
            part = []
        part.append(tabular)
    yield part


def _width(text: str, size: float) -> float:
    """Return about how wide Computer Modern sets a text, in pt: rather too much than too little."""
    wide = sum(0.34 if sign in _NARROW else 0.9 if sign in _BROAD else 0.78 if sign.isupper() else 0.54 for sign in text)
    return size * wide


def _small(text: str) -> str:
    """Return small print, with a little space before what is in brackets."""
    if not text:
        return ""
    space = r"\," if text.startswith(("[", "(")) else " "
    return rf"{{\scriptsize{space}{latex(text)}}}"


def _is_number(text: str) -> bool:
    return re.fullmatch("[+\N{MINUS SIGN}]?[0-9]+([.][0-9]+)?", text) is not None


def _whole_digits(text: str) -> int:
    return len(text.partition(".")[0].lstrip("+\N{MINUS SIGN}")) if _is_number(text) else 0
