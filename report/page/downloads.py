"""Files inside the page, as links that hold their content."""

import base64

from report.evidence.comparison import Evidence
from report.figures import Picture
from report.tables import exports

MIME = {"csv": "text/csv", "json": "application/json", "md": "text/markdown", "tex": "text/x-tex", "bib": "text/x-bibtex"}


def table_files(table) -> dict:
    links = {ending: link(text.encode(), MIME[ending]) for ending, text in exports.files_of(table).items()}
    return {"name": table.grid().name, "label": "This table", "links": links.items()}


def picture_files(picture: Picture) -> dict:
    """Return a figure as an image, in which an SVG can run no script and load nothing."""
    return {
        "name": picture.name,
        "caption": picture.caption,
        "svg": link(picture.contents["svg"], "image/svg+xml"),
        "pdf": link(picture.contents["pdf"], "application/pdf"),
    }


def link(content: bytes, mime: str) -> str:
    return f"data:{mime};base64,{base64.b64encode(content).decode()}"


def numbers(evidence: Evidence) -> str:
    """Return the JSON with which another report compares itself with this one."""
    board, rows = evidence.board, []
    for cell in board.cells:
        method, task = cell["request"]["method"], cell["request"]["task"]
        summary, size = evidence.score(method, task).summary, cell["measured"]["size"]
        row = {"method": method, "title": board.title(method), "task": task, "metric": cell["measured"]["metric"]}
        row |= {key: summary[key] for key in ("mean", "sd", "n", "n_diverged")}
        rows.append(row | {"file_bytes": size and size["file"]["bytes"], "code": cell["ran_on"]["code"]})
    return exports.rows_to_json({"format": 1, "protocol": board.primary}, rows)
