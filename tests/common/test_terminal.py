import json

import pytest

from methods.__main__ import main
from methods.common.terminal import as_json, plain
from methods.model import artifact
from methods.tasks import kinds
from methods.use.prediction import page
from tests.fixtures.models import META
from tests.fixtures.world import tiny

HARMFUL = [
    "\x1b[2J",
    "\x1b]0;title\x07",
    "\x9b31m",
    "\r",
    "\n",
    "\x08",
    "\x7f",
    "\u202e",
    "\u2028",
    "\u200b",
    "\ufeff",
    "\ud800",
    "\U000e0041",
]


@pytest.mark.parametrize("text", HARMFUL)
def test_what_a_terminal_would_obey_is_written_out(text):
    shown = plain(f"a{text}b")
    assert shown.isprintable() and shown.startswith("a\\") and shown.endswith("b")
    line = as_json({text: [text]})
    assert line.isprintable() and json.loads(line) == {text: [text]}
    line.encode()


def test_ordinary_text_stays_as_it_is():
    text = "Grüße, 你好, שלום, می‌خواهم, 👩‍🚀 – × “quoted” \u00a0"
    assert plain(text) == text
    assert as_json(text) == f'"{text}"'


def test_indented_json_keeps_its_lines():
    assert as_json({"a": ["\x1b", 1]}, indent=1) == '{\n "a": [\n  "\\u001b",\n  1\n ]\n}'


@pytest.mark.parametrize("command", ["inspect", "predict"])
def test_a_file_s_name_forges_no_line_and_moves_no_cursor(command, capsys):
    assert main([command, "mo\ndel\x1b[2J.safetensors", *(["a text"] if command == "predict" else [])]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(r"error: mo\ndel\u001b[2J.safetensors is missing") and line.isprintable()


def test_what_a_model_file_says_of_itself_forges_nothing(tmp_path, capsys):
    path, forged = tmp_path / "model.safetensors", "good\n\x1b[2Jbits        forged"
    artifact.save(path, tiny(), {**META, "labels": [forged, "bad"], "method": "a\x07", "code": "\x9b31m"})
    assert main(["inspect", "--layers", str(path)]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert all(line.isprintable() for line in shown)
    assert sum(line.startswith("bits ") for line in shown) == 1
    assert main(["inspect", "--json", str(path)]) == 0
    text = capsys.readouterr().out
    assert "\x9b" not in text and "\x1b" not in text
    assert json.loads(text)["labels"][0] == forged


def test_an_answer_forges_nothing():
    answer = {"answer": "a\x1b[2J\nprobability  1.0", "probability": 0.5, "score": 1.0}
    assert page(answer, kinds.of("span")).splitlines()[:2] == [
        r"answer       a\u001b[2J\nprobability  1.0",
        "probability  0.5000",
    ]
