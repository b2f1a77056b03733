"""The engine reads and writes its own memory alone, whatever it is given: under sanitizers, with absurd shapes and files."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from methods.common.errors import UserError
from methods.common.files import read_sealed, write_sealed
from methods.engine import NoCompiler, Unsupported
from methods.engine.library import find_compiler
from methods.engine.plan import Plan
from tests.fixtures.engines import EMULATED, MODELS, rows_of, save, session_on, sets

pytestmark = pytest.mark.skipif(not sets(), reason="there is no C compiler")
ROOT = Path(__file__).resolve().parents[2]
SANITIZED = (*EMULATED, "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-g")

SEQUENCES = """
import sys
import numpy as np
from methods.engine import abi
from methods.engine.library import library
from methods.engine.session import Session, usable

engine = abi.declare(library(extra_flags=tuple(sys.argv[1].split())))
random = np.random.default_rng(0)
for path in sys.argv[2:]:
    for kernels in usable(engine):
        session = Session(path, 3, kernels, engine)
        for _ in range(8):
            lengths = random.integers(1, 65, random.integers(1, 12))
            ids = random.integers(0, session.meta["config"]["vocab_size"], lengths.sum()).astype(np.int32)
            outputs = session(ids, np.cumsum(lengths), np.maximum(lengths // 2, 1))
            assert all(np.isfinite(row).all() for row in outputs)
        session.close()
print("done")
"""


def sanitizer() -> str | None:
    """Return the sanitizer's library, which has to be loaded before everything else; None where there is none."""
    try:
        compiler, _ = find_compiler()
    except NoCompiler:
        return None
    found = subprocess.run([*compiler, "-print-file-name=libasan.so"], capture_output=True, text=True).stdout.strip()
    return found if os.path.isabs(found) else None


@pytest.mark.slow
@pytest.mark.skipif(sanitizer() is None, reason="this compiler has no address sanitizer")
def test_batches_of_changing_shapes_under_the_sanitizers(tmp_path):
    odd = {"hidden_size": 28, "num_attention_heads": 4, "intermediate_size": 37}
    paths = [save(tmp_path / f"{at}.safetensors", edits) for at, edits in enumerate(MODELS.values())]
    paths += [
        save(tmp_path / f"odd{at}.safetensors", MODELS[name], **odd) for at, name in enumerate(["dynamic, ternary", "rows"])
    ]
    settings = {
        "LD_PRELOAD": sanitizer(),
        "ASAN_OPTIONS": "detect_leaks=0",  # Python's own
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, "-c", SEQUENCES, " ".join(SANITIZED), *map(str, paths)]
    answer = subprocess.run(command, env=os.environ | settings, capture_output=True, text=True, timeout=600)
    assert answer.returncode == 0 and answer.stdout.strip() == "done", answer.stderr[-3000:]


def test_batches_that_are_none_are_refused(tmp_path):
    session = session_on(save(tmp_path / "m.safetensors", MODELS["static, 4 bits"]))
    ids, ends, first = rows_of([3, 4])
    assert session(ids[:0], ends[:0], first[:0]) == []
    for wrong in ([3, 3], [3, 8], [-1, 7], [4, 3, 7], [3, 6]):
        with pytest.raises(ValueError, match="rows stand one after another"):
            session(ids, np.array(wrong), np.ones(len(wrong), np.int32))
    for token in (-1, 10**6):
        with pytest.raises(UserError, match="token 2 is none of the model's"):
            session(np.where(np.arange(7) == 2, token, ids), ends, first)
    with pytest.raises(UserError, match="more than 64"):
        session(*rows_of([65]))
    assert len(session(ids, ends, first)) == 2  # and goes on


def test_a_closed_session_says_so(tmp_path):
    session = session_on(save(tmp_path / "m.safetensors", MODELS["float"]))
    assert session.memory > 0
    session.close()
    session.close()
    assert session.memory == 0
    with pytest.raises(ValueError, match="closed"):
        session(*rows_of([3]))


def test_a_session_is_let_go_when_its_last_answer_is_there(tmp_path):
    session = session_on(save(tmp_path / "m.safetensors", MODELS["float"]))
    rows, begun, outcomes = rows_of([64] * 64), threading.Event(), []

    def ask():
        try:
            while True:
                outcomes.append(session(*rows))
                begun.set()
        except ValueError as error:
            outcomes.append(str(error))

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    begun.wait()
    session.close()
    for thread in threads:
        thread.join()
    assert outcomes[-2:] == ["the session is closed"] * 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_answers_and_ends(tmp_path):
    path = save(tmp_path / "m.safetensors", MODELS["float"])
    code = f"""
import os, sys, time
from methods.engine.session import Session
from tests.fixtures.engines import rows_of
session = Session({str(path)!r}, 2)
first = session(*rows_of([3, 9]))
time.sleep(0.2)  # the workers sleep now
if child := os.fork():
    _, status = os.waitpid(child, 0)
    session.close()
    sys.exit(os.waitstatus_to_exitcode(status))
same = all((a == b).all() for a, b in zip(first, session(*rows_of([3, 9]))))
session.close()
sys.exit(0 if same else 3)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=60)
    assert done.returncode == 0


def test_numbers_that_leave_the_floats_are_no_answer(tmp_path):
    path = save(tmp_path / "m.safetensors", MODELS["static, 4 bits"])
    arrays, meta = read_sealed(path)
    for name in ("bert.embeddings.word_embeddings.weight.step", "bert.encoder.layer.1.attention.output.dense.bias"):
        huge = arrays | {name: np.full_like(arrays[name], 3e38)}
        write_sealed(tmp_path / "huge.safetensors", huge, meta)
        with pytest.raises(UserError, match="not finite"):
            session_on(tmp_path / "huge.safetensors")(*rows_of([5, 6]))


@pytest.mark.parametrize("name", ["static, 4 bits", "split", "narrowed"])
def test_files_whose_parts_do_not_fit_each_other_are_refused(name, tmp_path):
    """Each array in turn is left out, cut, doubled, or given another's name; whatever still answers is whole."""
    path = save(tmp_path / "m.safetensors", MODELS[name])
    arrays, meta = read_sealed(path)
    refused = 0
    for array in list(arrays):
        for change in ("out", "cut", "twice", "renamed"):
            changed = dict(arrays)
            taken = changed.pop(array)
            if change == "cut":
                changed[array] = taken.reshape(-1)[: taken.size // 2]
            if change == "twice":
                changed[array] = np.concatenate([np.atleast_1d(taken)] * 2)
            if change == "renamed":
                changed[f"{array}.more"] = taken
            write_sealed(tmp_path / "c.safetensors", changed, json.loads(json.dumps(meta)))
            try:
                session_on(tmp_path / "c.safetensors", threads=1)(*rows_of([5, 6]))
            except UserError as error:
                assert "\n" not in str(error)
                refused += 1
    assert refused > 3 * len(arrays)


def test_what_the_engine_would_pass_over_is_refused(tmp_path):
    arrays, meta = read_sealed(save(tmp_path / "m.safetensors", MODELS["static, 4 bits"]))
    bias, more = "bert.encoder.layer.0.output.dense.bias", "bert.encoder.layer.0.output.dense.gate"
    twice = meta | {"edits": [*meta["edits"], meta["edits"][0]]}
    foreign = meta | {"edits": [*meta["edits"], {"kind": "moebert.route"}]}
    for changed, header, why in (
        ({name: array for name, array in arrays.items() if name != bias}, meta, f"finds no '{bias}'"),
        (arrays | {more: arrays[bias]}, meta, f"no place for the array '{more}'"),
        (arrays, twice, "cannot compute the edit 'quantize' of a model that has it already"),
        (arrays, foreign, "cannot compute the edit 'moebert.route'"),
    ):
        with pytest.raises(Unsupported, match=why):
            Plan(tmp_path / "m.safetensors", changed, header)
