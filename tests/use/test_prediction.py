"""`predict` and `Model` over a session that is not there: order, streams, imports, and which engine answers."""

import io
import json
import os
import re
import select
import signal
import subprocess
import sys
from itertools import chain
from pathlib import Path

import pytest

from methods import engine
from methods.__main__ import main
from methods.common.errors import UserError
from methods.common.files import read_sealed, write_sealed
from methods.engine import library
from methods.use import Model, prediction
from tests.fixtures.sessions import FakeSession
from tests.fixtures.world import WORDS
from workflow.catalogue import ROOT

TEXTS = [" ".join(WORDS[: 1 + 7 * number % 12]) for number in range(40)]  # of all lengths, in no order
# The command line over a fake session, which tells at the end what was imported.
DRIVER = """
import sys
from methods import engine
from tests.fixtures.sessions import FakeSession
engine.open_session = FakeSession
from methods.__main__ import main
code = main(["predict", *sys.argv[1:]])
print([name for name in ("torch", "transformers", "scipy") if name in sys.modules], file=sys.stderr)
sys.exit(code)
"""


@pytest.fixture(scope="module")
def folder(run_method, base_path, tmp_path_factory) -> Path:
    """A folder with `last.safetensors` for one text, `pair.safetensors` for two, and their base model file."""
    folder = tmp_path_factory.mktemp("models")
    arrays, meta = read_sealed(run_method("fp32")[1] / "last.safetensors")
    write_sealed(folder / "last.safetensors", arrays, meta)
    pair = {"task": "mrpc", "columns": ["sentence1", "sentence2"], "labels": ["different", "equivalent"]}
    write_sealed(folder / "pair.safetensors", arrays, meta | pair)
    (folder / "base.safetensors").write_bytes(base_path.read_bytes())
    return folder


@pytest.fixture
def fake(monkeypatch) -> list[FakeSession]:
    """The fake sessions that were opened."""
    opened = []

    def open_session(*arguments):
        opened.append(FakeSession(*arguments))
        return opened[-1]

    monkeypatch.setattr(engine, "open_session", open_session)
    return opened


def lines(texts: list[str]) -> str:
    return "".join(json.dumps({"text": text}) + "\n" for text in texts)


def ask(monkeypatch, capsys, content: str, *words) -> tuple[int, list[dict], str]:
    """Exit code, answers and standard error of `predict` with lines on standard input."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content.encode())))
    capsys.readouterr()
    code = main(["predict", *map(str, words)])
    told = capsys.readouterr()
    return code, [json.loads(line) for line in told.out.splitlines()], told.err


# --- lines of JSON ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 2, 7, 64])
def test_lines_are_computed_by_length_and_answered_in_order(folder, fake, monkeypatch, capsys, batch):
    with Model(folder / "last.safetensors") as model:
        expected = [model(text) for text in TEXTS]
    code, answers, _ = ask(monkeypatch, capsys, lines(TEXTS), folder / "last.safetensors", "--batch", batch)
    assert (code, answers) == (0, expected)
    calls = fake[-1].calls
    assert max(map(len, calls)) == min(batch, len(TEXTS))
    assert all(call == sorted(call) for call in calls)
    if batch == 2:
        lengths = list(chain(*calls[: prediction.POOL]))
        assert lengths == sorted(lengths), "sorted over many batches"
    assert fake[-1].closed


def test_a_mistake_in_line_7_leaves_6_answers(folder, fake, monkeypatch, capsys):
    content = lines(TEXTS[:6]) + "nonsense\n" + lines(TEXTS)
    code, answers, error = ask(monkeypatch, capsys, content, folder / "last.safetensors")
    assert (code, len(answers)) == (1, 6)
    assert error.startswith("error: line 7 of the input is no JSON object")
    assert error.count("\n") == 1


@pytest.mark.parametrize("content", ["", "\n\n", lines(TEXTS[:1]).strip(), "\r\n" + lines(TEXTS[:1]).replace("\n", "\r\n")])
def test_input_may_be_empty_have_empty_lines_and_end_without_a_newline(folder, fake, monkeypatch, capsys, content):
    code, answers, error = ask(monkeypatch, capsys, content, folder / "last.safetensors")
    assert (code, len(answers), error) == (0, int("text" in content), "")


def test_a_line_that_arrives_in_pieces_is_one_line_and_a_pause_gives_out_what_has_come():
    reading, writing = os.pipe()
    with open(reading, "rb") as stream, open(writing, "wb", buffering=0) as producer:
        pools = prediction._pools(stream, 3)
        producer.write(b"a\nb\n")
        assert next(pools) == [b"a", b"b"]
        producer.write(b"c\nd")
        assert next(pools) == [b"c"]
        producer.write(b"e\n1\n2\n3\n4\n")
        assert next(pools) == [b"de", b"1", b"2"]
        producer.close()
        assert list(pools) == [[b"3", b"4"]]


def test_lines_longer_than_a_read_are_whole(monkeypatch):
    monkeypatch.setattr(prediction, "CHUNK", 3)
    content = b"\n".join([b"x" * 10, b"", b"y", b"z" * 4])
    assert list(chain(*prediction._pools(io.BytesIO(content), 2))) == content.split(b"\n")


@pytest.fixture
def talk(folder):
    """A process of `predict` that has answered three lines, one at a time, and waits for more."""
    words = [sys.executable, "-c", DRIVER, str(folder / "last.safetensors")]
    with subprocess.Popen(words, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        for text in TEXTS[:3]:
            process.stdin.write(lines([text]).encode())
            process.stdin.flush()
            assert select.select([process.stdout], [], [], 60)[0], "no answer while the input is open"
            assert "label" in json.loads(process.stdout.readline())
        yield process


def test_a_producer_that_waits_for_its_answer_gets_it_from_a_process_without_torch(talk):
    rest, error = talk.communicate()
    assert (talk.returncode, rest, error) == (0, b"", b"[]\n")


def test_an_interrupt_ends_it_quietly(talk):
    talk.send_signal(signal.SIGINT)
    rest, error = talk.communicate()
    assert (talk.returncode, rest, error) == (130, b"", b"[]\n")


def test_a_closed_input_is_one_line(folder):
    done = subprocess.run(
        ["sh", "-c", '"$0" -m methods predict "$1" <&-', sys.executable, str(folder / "last.safetensors")],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (
        1,
        "error: no text was given: write it behind the model file, or pipe lines of JSON in.\n",
    )


def test_the_packed_engine_answers_as_torch_does_without_importing_it(folder):
    try:
        library.library()
    except engine.NoCompiler as reason:
        pytest.skip(str(reason))
    words = [sys.executable, "-c", DRIVER.replace("engine.open_session =", "_ ="), str(folder / "last.safetensors")]
    done = subprocess.run(words, cwd=ROOT, input=lines(TEXTS), capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "[]\n")
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    with Model(folder / "last.safetensors", engine="torch") as model:
        expected = model(TEXTS)
    assert [answer["label"] for answer in answers] == [answer["label"] for answer in expected]
    for answer, other in zip(answers, expected, strict=True):
        assert answer["probability"] == pytest.approx(other["probability"], abs=1e-5)


# --- arguments ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        "MODEL --base BASE first second",
        "MODEL first --base BASE second",
        "MODEL first second --base BASE",
        "--base BASE MODEL first second",
        "MODEL --base BASE -- first second",
        "MODEL --base BASE first -- second",
    ],
)
def test_texts_may_stand_before_and_behind_options(folder, fake, capsys, words):
    names = {"MODEL": str(folder / "pair.safetensors"), "BASE": str(folder / "base.safetensors")}
    with Model(folder / "pair.safetensors") as model:
        expected = prediction.page(model(("first", "second")), model.kind)
    assert main(["predict", *(names.get(word, word) for word in words.split())]) == 0
    assert capsys.readouterr().out == expected + "\n"


def test_a_text_may_begin_with_a_dash_behind_two(folder, fake, capsys):
    model = str(folder / "last.safetensors")
    assert main(["predict", model, "--threads", "2", "--", "--engine"]) == 0
    assert fake[-1].threads == 2
    assert "label" not in capsys.readouterr().err


@pytest.mark.parametrize("words", [["predict", "MODEL", "--bass", "x"], ["inspect", "MODEL", "more"]])
def test_other_commands_and_options_are_refused_as_before(words, capsys):
    with pytest.raises(SystemExit) as left:
        main(words)
    assert left.value.code == 2
    assert f"unrecognized arguments: {' '.join(words[2:])}" in capsys.readouterr().err


# --- Model --------------------------------------------------------------------------------------------------


def test_a_text_has_one_answer_and_a_list_a_list(folder, fake):
    with Model(str(folder / "last.safetensors"), threads=3, base=str(folder / "base.safetensors")) as model:
        answer = model(TEXTS[0])
        assert answer.keys() == {"label", "probability", "probabilities"}
        assert model([TEXTS[1], (TEXTS[0],)]) == [model(TEXTS[1]), answer]
        assert model(text for text in TEXTS[:2]) == model(TEXTS[:2])
        assert model([]) == []
    assert fake[0].threads == 3
    assert fake[0].closed


def test_pairs_are_tuples_or_lists(folder, fake):
    with Model(folder / "pair.safetensors") as model:
        answer = model((WORDS[0], WORDS[1]))
        assert model([(WORDS[0], WORDS[1]), [WORDS[0], WORDS[1]]]) == [answer, answer]
        assert model((WORDS[1], WORDS[0])) != answer
        with pytest.raises(UserError, match=r"^mrpc takes 2 texts \(sentence1, then sentence2\), and 1 can be found"):
            model("one")
        with pytest.raises(UserError, match=r"^row 2: sentence2 is no text but \"b'x'\""):
            model([("one", "two"), ("one", b"x")])


def test_an_unknown_engine_or_no_thread_is_one_line(folder):
    with pytest.raises(UserError, match=r"one thread or more, not on 0"):
        Model(folder / "last.safetensors", threads=0)
    with pytest.raises(UserError, match=r"no engine 'touch'\. Did you mean 'torch'"):
        Model(folder / "last.safetensors", engine="touch")


@pytest.mark.parametrize("reason", [engine.NoCompiler("There is no C compiler."), engine.Unsupported("It has no tail.")])
def test_what_the_engine_cannot_run_is_answered_by_torch_with_a_line_that_says_why(folder, monkeypatch, capsys, reason):
    def refuse(*arguments):
        raise reason

    monkeypatch.setattr(engine, "open_session", refuse)
    with Model(folder / "last.safetensors", threads=1) as model:
        assert (model.session.kernels, model.session.threads) == ("torch", 1)
        assert model.session.memory > 0
        answers = model(TEXTS)
    assert capsys.readouterr().err == f"{reason} Torch answers instead, more slowly.\n"
    with Model(folder / "last.safetensors", engine="torch") as model:
        assert model(TEXTS) == answers
    assert capsys.readouterr().err == ""


def test_the_example_of_the_documentation_runs_as_it_is_printed(folder, monkeypatch, tmp_path, capsys):
    (example,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/use.md").read_text(encoding="utf-8"), re.DOTALL)
    run = tmp_path / "results/demo/runs/twn_2bit/mrpc/1"
    run.mkdir(parents=True)
    (run / "last.safetensors").write_bytes((folder / "pair.safetensors").read_bytes())
    (tmp_path / "results/demo/base.safetensors").write_bytes((folder / "base.safetensors").read_bytes())
    monkeypatch.chdir(tmp_path)
    exec(example, {})
    answers = eval(capsys.readouterr().out)
    assert [label in ("different", "equivalent") and 0.5 <= probability <= 1 for label, probability in answers] == [True] * 2
