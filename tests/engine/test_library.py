"""The build of the engine's library, tried with a few C files of three lines."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from methods.engine import NoCompiler, library
from workflow.catalogue import ROOT

SOURCES = {
    "toy.h": '#define EXPORT __attribute__((visibility("default")))\nint portable(void);\n',
    "isa_portable.c": '#include "toy.h"\nint portable(void) { return 7; }\n',
    "isa_avx2.c": "#ifndef __AVX2__\n#error flags\n#endif\nint avx2(void) { return 256; }\n",
    "dispatch.c": (
        '#include "toy.h"\n#ifndef HAVE_PORTABLE\n#error flags\n#endif\n'
        "#ifdef HAVE_AVX2\nint avx2(void);\nEXPORT int widest(void) { return avx2(); }\n"
        "#else\nEXPORT int widest(void) { return portable(); }\n#endif\n"
    ),
}
WIDEST = 256 if os.uname().machine == "x86_64" else 7


@pytest.fixture(autouse=True)
def cache_home(tmp_path, monkeypatch) -> Path:
    home = tmp_path / "home"
    monkeypatch.setenv("XDG_CACHE_HOME", str(home))
    monkeypatch.delenv("CC", raising=False)
    library.library.cache_clear()
    return home


@pytest.fixture
def sources(tmp_path) -> Path:
    folder = tmp_path / "c"
    folder.mkdir()
    for name, text in SOURCES.items():
        (folder / name).write_text(text)
    return folder


def builds(home: Path) -> list[Path]:
    return sorted(home.rglob("*.so"))


def test_it_is_built_once_and_says_so(sources, cache_home, capfd):
    assert library.library(sources).widest() == WIDEST
    assert capfd.readouterr().err == "Building the engine for this machine, once: about 10 seconds\n"
    library.library.cache_clear()
    assert library.library(sources).widest() == WIDEST
    assert capfd.readouterr().err == ""
    (path,) = builds(cache_home)
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert {one.name for one in path.parent.iterdir()} == {path.name, ".lock"}, "nothing else is left behind"


@pytest.mark.parametrize("changed", ["header", "flags", "compiler"])
def test_another_header_flag_or_compiler_is_another_build(sources, cache_home, monkeypatch, changed):
    library.library(sources)
    library.library.cache_clear()
    if changed == "header":
        (sources / "toy.h").write_text(SOURCES["toy.h"] + "\n")
    if changed == "compiler":
        monkeypatch.setenv("CC", f"{shutil.which('cc')} -DOTHER")
    library.library(sources, ("-g",) if changed == "flags" else ())
    assert len(builds(cache_home)) == 2


def test_concurrent_processes_build_once(sources, cache_home):
    code = f"from pathlib import Path; from methods.engine.library import library; library(Path({str(sources)!r}))"
    jobs = [subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    told = [job.communicate()[1] for job in jobs]
    assert [job.returncode for job in jobs] == [0, 0, 0], told
    assert "".join(told).count("Building") == 1
    assert len(builds(cache_home)) == 1


def test_an_instruction_set_that_the_compiler_or_the_machine_lacks_is_left_out(sources, monkeypatch):
    monkeypatch.setitem(library.SETS, "x86_64", {"portable": (), "avx2": ("-mavx2000",)})
    assert library.library(sources).widest() == 7
    library.library.cache_clear()
    monkeypatch.setattr(library.platform, "machine", lambda: "sparc")
    assert library.library(sources).widest() == 7


def test_without_a_compiler_a_line_says_what_to_install(sources, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NoCompiler, match=r"there is none: install one .*apt install gcc.*xcode-select --install"):
        library.library(sources)


@pytest.mark.parametrize("named", ["no-such-compiler", "false", "'cc"])
def test_a_wrong_compiler_in_the_environment_is_named(sources, monkeypatch, named):
    monkeypatch.setenv("CC", named)
    with pytest.raises(NoCompiler, match=r"CC=.* is none: unset CC"):
        library.library(sources)


def test_a_compiler_that_fails_is_one_line_with_its_first_error(sources, cache_home):
    (sources / "broken.c").write_text("#warning first\nint x = nowhere;\n")
    with pytest.raises(NoCompiler, match=r"cannot build the engine \(.*broken\.c:2.*nowhere") as error:
        library.library(sources)
    assert "\n" not in str(error.value)
    assert not builds(cache_home)


def test_a_build_that_nobody_has_used_for_a_month_is_removed(sources, cache_home):
    library.library(sources)
    (first,) = builds(cache_home)
    litter = first.parent / ".build-killed"
    litter.mkdir()
    for days, left in ((29, True), (31, False)):
        for path in (first, litter):
            os.utime(path, (time.time() - days * 24 * 3600,) * 2)
        (sources / "toy.h").write_text(SOURCES["toy.h"] + "\n" * days)
        library.library.cache_clear()
        library.library(sources)
        assert first.exists() == litter.exists() == left


def test_a_use_keeps_a_build_young(sources, cache_home):
    library.library(sources)
    (path,) = builds(cache_home)
    os.utime(path, (0, 0))
    library.library.cache_clear()
    library.library(sources)
    assert time.time() - path.stat().st_mtime < 3600


@pytest.mark.parametrize("home", ["a file", "open to others", "a link", "relative"])
def test_a_home_that_cannot_be_used_gives_way_to_a_private_folder_under_the_temporary_one(tmp_path, monkeypatch, home):
    monkeypatch.setattr(library.tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("HOME", "/dev/null")
    expected = tmp_path / f"{library.PROJECT}-{os.getuid()}"
    folder = tmp_path / "home" / library.PROJECT
    folder.parent.mkdir()
    match home:
        case "a file":
            folder.write_text("")
        case "open to others":
            folder.mkdir()
            folder.chmod(0o777)
        case "a link":
            (tmp_path / "elsewhere").mkdir(mode=0o700)
            folder.symlink_to(tmp_path / "elsewhere")
        case "relative":
            monkeypatch.setenv("XDG_CACHE_HOME", "home")
    assert library.cache() == expected
    assert expected.stat().st_mode & 0o777 == 0o700
    expected.chmod(0o755)
    with pytest.raises(NoCompiler, match=r"a cache folder that you alone can use, .* is none: .* XDG_CACHE_HOME"):
        library.cache()


def test_a_library_that_cannot_be_loaded_is_one_line(sources, monkeypatch):
    monkeypatch.setattr(library, "_key", lambda *about: "damaged")
    (library.cache() / "damaged.so").write_bytes(b"\x7fELF")
    with pytest.raises(NoCompiler, match=r"cannot be loaded .*damaged\.so.*: delete it") as error:
        library.library(sources)
    assert "\n" not in str(error.value)


def test_the_engines_own_kernels_have_flags():
    known = {name for sets in library.SETS.values() for name in sets}
    assert {path.stem.removeprefix("isa_") for path in library.SOURCES.glob("isa_*.c")} <= known
