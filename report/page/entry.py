"""The entry page: a list of the presets whose pages exist."""

import html.parser
import os
import urllib.parse
from pathlib import Path

from methods.common.errors import UserError
from report.page.page import TEMPLATES, page
from report.wording import plural


def render_entry(out: Path, paths: list[Path]) -> str:
    """Return the entry page for `out`, which links to the pages in `paths` relative to its own folder."""
    if not paths:
        raise UserError("There is no page to list: make one first with `snakemake all`.")
    style = (TEMPLATES / "style" / "1-base.css").read_text(encoding="utf-8")
    return page("entry.html", style=style, script="", pages=[_listed(out, path) for path in paths])


def _listed(out: Path, path: Path) -> dict:
    facts = _Facts(path.read_text(encoding="utf-8", errors="replace")).facts
    cells = facts.get("benchmark-cells", "")
    return {
        "link": urllib.parse.quote(Path(os.path.relpath(path, out.parent)).as_posix()),
        "preset": facts.get("benchmark-preset") or path.parent.name,
        "headline": facts.get("description", ""),
        "cells": plural(int(cells), "cell") if cells.isdecimal() else "an unknown number of cells",
    }


class _Facts(html.parser.HTMLParser):
    """The facts that a page keeps in its head."""

    def __init__(self, text: str):
        super().__init__()
        self.facts = {}
        self.feed(text.partition("</head>")[0])

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        if tag == "meta" and "name" in attributes:
            self.facts[attributes["name"]] = attributes.get("content") or ""
