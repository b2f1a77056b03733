import errno
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from methods.common import files
from methods.common.errors import UserError, explain

ARRAYS = {"weight": np.arange(12, dtype=np.float32).reshape(3, 4), "codes": np.arange(5, dtype=np.uint8)}


def test_a_sealed_file_gives_back_what_was_sealed_and_has_equal_bytes(tmp_path):
    first = files.write_sealed(tmp_path / "a.safetensors", ARRAYS, {"b": 1, "a": [2.5, "ü"]})
    second = files.write_sealed(tmp_path / "b.safetensors", dict(reversed(ARRAYS.items())), {"a": [2.5, "ü"], "b": 1})
    arrays, meta = files.read_sealed(tmp_path / "a.safetensors")
    assert first == second
    assert meta == {"a": [2.5, "ü"], "b": 1}
    assert all(np.array_equal(arrays[name], ARRAYS[name]) and arrays[name].dtype == ARRAYS[name].dtype for name in ARRAYS)


def test_a_sealed_file_can_be_read_by_whoever_reads_its_neighbours(tmp_path):
    files.write_sealed(tmp_path / "a.safetensors", ARRAYS, {})
    files.write_json(tmp_path / "a.json", {})
    assert (tmp_path / "a.safetensors").stat().st_mode == (tmp_path / "a.json").stat().st_mode


def test_every_flipped_byte_is_found(tmp_path):
    path = tmp_path / "a.safetensors"
    files.write_sealed(path, ARRAYS, {"a": 1})
    content = path.read_bytes()
    for position in range(len(content)):
        damaged = bytearray(content)
        damaged[position] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"a\.safetensors is damaged"):
            files.read_sealed(path)


def test_a_flipped_byte_of_a_tensor_is_found_by_the_tensors_name(tmp_path):
    path = tmp_path / "a.safetensors"
    files.write_sealed(path, {"weight": ARRAYS["weight"]}, {})
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match="tensor 'weight'"):
        files.read_sealed(path)


def test_only_what_is_asked_for_is_read_and_the_header_is_checked_all_the_same(tmp_path):
    path = tmp_path / "a.safetensors"
    files.write_sealed(path, ARRAYS, {"a": 1})
    content = bytearray(path.read_bytes())
    content[-1] ^= 1  # the last byte of `codes`
    path.write_bytes(content)
    arrays, meta = files.read_sealed(path, names=("weight", "absent"))
    assert (list(arrays), meta) == (["weight"], {"a": 1})
    with pytest.raises(UserError, match="tensor 'codes'"):
        files.read_sealed(path, names=("codes",))
    path.write_bytes(bytes(content).replace(b'\\"a\\":1', b'\\"a\\":2'))
    with pytest.raises(UserError, match="does not match its seal"):
        files.read_sealed(path, names=())


def test_a_truncated_file_is_found(tmp_path):
    path = tmp_path / "a.safetensors"
    files.write_sealed(path, ARRAYS, {})
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(UserError, match="damaged"):
        files.read_sealed(path)


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path):
    path = tmp_path / "a.json"
    files.write_json(path, {"old": 1})
    with pytest.raises(ValueError, match="JSON compliant"):
        files.write_json(path, {"new": float("nan")})
    with pytest.raises(RuntimeError), files.atomic(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert files.read_json(path) == {"old": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.skipif(sys.platform != "linux", reason="/dev/full is Linux's")
def test_a_full_disk_is_one_line_that_says_what_to_do():
    with pytest.raises(OSError) as error, open("/dev/full", "w") as file:
        file.write("x")
        file.flush()
    assert error.value.errno == errno.ENOSPC
    assert "free some and run the same command again" in explain(error.value)


def test_a_limit_on_file_sizes_is_told_like_a_full_disk_and_leaves_the_old_file_and_no_litter(tmp_path):
    path = tmp_path / "a.safetensors"
    files.write_sealed(path, ARRAYS, {"old": 1})
    code = f"""
import resource, numpy
from methods.common import files
from methods.common.errors import explain
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    files.write_sealed({str(path)!r}, {{"large": numpy.zeros(1000)}}, {{}})
except OSError as error:
    print(explain(error))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.startswith(f"No space is left for {path}: free some"), done.stderr
    assert files.read_sealed(path)[1] == {"old": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["a.safetensors"]


def test_a_folder_in_place_of_a_file_is_one_line(tmp_path):
    (tmp_path / "out.json").mkdir()
    with pytest.raises(OSError) as error:
        files.write_json(tmp_path / "out.json", {})
    assert "is a folder that is in the way: move it away" in explain(error.value)


@pytest.mark.parametrize("below", ["", "runs/fp32"])
def test_a_file_in_place_of_a_folder_is_one_line(tmp_path, below):
    (tmp_path / "results").touch()
    with pytest.raises(OSError) as error:
        (tmp_path / "results" / below).mkdir(parents=True, exist_ok=True)
    assert "a file has that name: move the file away" in explain(error.value)


def test_a_second_writer_waits_for_the_first(tmp_path):
    code = (
        f"from methods.common.files import lock\nfrom pathlib import Path\nwith lock(Path({str(tmp_path)!r})): print('in')"
    )
    with files.lock(tmp_path):
        waiting = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert "Waiting: process" in waiting.stderr.readline()
        assert waiting.poll() is None
    assert waiting.communicate(timeout=20)[0] == "in\n"


def test_two_writers_exclude_each_other_after_a_third_removed_the_folder(tmp_path):
    """Pre-training removes its folder of checkpoints before it lets go of it."""
    folder = tmp_path / "checkpoints"
    code = (
        "import sys; from pathlib import Path; from methods.common.files import lock\n"
        f"with lock(Path({str(folder)!r})): print('in', flush=True); sys.stdin.read()"
    )
    pipes = {name: subprocess.PIPE for name in ("stdin", "stdout", "stderr")}
    with files.lock(folder):
        second = subprocess.Popen([sys.executable, "-c", code], text=True, **pipes)
        assert "Waiting: process" in second.stderr.readline()
        shutil.rmtree(folder)
    assert second.stdout.readline() == "in\n"
    third = subprocess.Popen([sys.executable, "-c", code], text=True, **pipes)
    assert third.stderr.readline() == f"Waiting: process {second.pid} is writing {folder}\n"
    for process in (second, third):
        process.communicate(timeout=20)
    assert (second.returncode, third.returncode) == (0, 0)


@pytest.mark.parametrize("content", ["{", "[]", "null", '{"a": NaN}', '{"a": 1e999}', "[" * 100_000, b"\xff"])
def test_only_strict_json_objects_are_read(content, tmp_path):
    path = tmp_path / "run.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=r"run\.json (is damaged|holds no JSON object)"):
        files.read_object(path)
    path.write_text('{"a": 1.5}')
    assert files.read_object(path) == {"a": 1.5}


@pytest.mark.parametrize("content", ["[]", "null", "3", '{"request": {}}'])
def test_a_document_without_what_is_needed_is_one_line(content, tmp_path):
    path = tmp_path / "run.json"
    path.write_text(content)
    with pytest.raises(UserError, match=r"run\.json (holds no JSON object|is damaged \(it lacks 'files'\))"):
        files.read_object(path, keys=("request", "files"))


def test_a_folder_in_place_of_a_document_is_one_line(tmp_path):
    with pytest.raises(UserError, match="is a folder and should be a file"):
        files.read_json(tmp_path)


def header_of(path) -> tuple[dict, bytes]:
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def put_header(path, header: str, rest: bytes) -> None:
    path.write_bytes(len(header.encode()).to_bytes(8, "little") + header.encode() + rest)


@pytest.mark.parametrize("dtype", ["F8_E4M3", "BF16", "F4", "I64", "NONE"])
def test_a_tensor_of_a_type_that_numpy_does_not_know_is_one_line(dtype, tmp_path):
    path = tmp_path / "a.safetensors"
    files.write_sealed(path, {"codes": ARRAYS["codes"]}, {})
    header, rest = header_of(path)
    header["codes"]["dtype"] = dtype
    put_header(path, json.dumps(header), rest)
    with pytest.raises(UserError, match=r"a\.safetensors is damaged"):
        files.read_sealed(path)


@pytest.mark.parametrize(
    "meta", ["[" * 100_000, "[]", "null", '{"meta": {}, "tensors": [], "seal": ""}', "{", '{"meta": 1}']
)
def test_a_header_of_another_shape_is_one_line(meta, tmp_path):
    path = tmp_path / "a.safetensors"
    files.write_sealed(path, {"codes": ARRAYS["codes"]}, {})
    header, rest = header_of(path)
    header["__metadata__"][files.HEADER] = meta
    put_header(path, json.dumps(header), rest)
    with pytest.raises(UserError, match=r"a\.safetensors is damaged"):
        files.read_sealed(path)


def test_the_temporary_file_of_a_killed_writer_goes_with_the_next_write(tmp_path):
    code = (
        "import os, signal; from pathlib import Path; from methods.common import files\n"
        f"with files.atomic(Path({str(tmp_path / 'a.json')!r})) as path: path.write_text('half'); os.kill(os.getpid(), 9)"
    )
    for _ in range(2):
        subprocess.run([sys.executable, "-c", code])
        assert len(list(tmp_path.glob(".a.json.*.tmp"))) == 1
    (tmp_path / f".b.json.{files.HOST}.{os.getpid()}.tmp").touch()  # its writer lives
    (tmp_path / ".a.json.elsewhere.999999999.tmp").touch()  # of another machine: nobody here can tell
    (tmp_path / f".c.json.{files.HOST}.999999999.tmp").touch()
    files.write_json(tmp_path / "a.json", {})
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {
        "a.json", f".b.json.{files.HOST}.{os.getpid()}.tmp", ".a.json.elsewhere.999999999.tmp",
        f".c.json.{files.HOST}.999999999.tmp",
    }  # fmt: skip
    (tmp_path / f".d.{files.HOST}.999999999.tmp/half").mkdir(parents=True)  # of what writes folders
    files.remove_litter(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == left - {f".c.json.{files.HOST}.999999999.tmp"}
