"""Text from files and users, on a terminal: shown, and never obeyed."""

import json
import re

# What moves the cursor, starts an escape sequence, breaks a line, turns the direction of writing, or has no shape or code.
BEYOND_ASCII = (
    "\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e0fff"
)
HIDDEN, HIDDEN_IN_JSON = re.compile(f"[\x00-\x1f{BEYOND_ASCII}]"), re.compile(f"[{BEYOND_ASCII}]")


def plain(text: str) -> str:
    r"""Return a text as one line without control characters: they are written as in JSON, such as \n and \u001b."""
    return HIDDEN.sub(_escaped, text)


def as_json(value, indent: int | None = None) -> str:
    """Return JSON in readable letters, with what a terminal would obey escaped. It means the same to every program."""
    return HIDDEN_IN_JSON.sub(_escaped, json.dumps(value, ensure_ascii=False, indent=indent))


def _escaped(found: re.Match) -> str:
    return r"\u007f" if found[0] == "\x7f" else json.dumps(found[0])[1:-1]
