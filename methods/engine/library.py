"""The engine's shared library: built with the system's C compiler at first use, cached, and loaded by ctypes.

`isa_NAME.c` holds the kernels of one instruction set and is compiled with that set's flags, where the machine's
architecture and the compiler know them. `dispatch.c` learns from HAVE_NAME which sets were built.
"""

import ctypes
import functools
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from methods.common import provenance
from methods.common.files import atomic, lock
from methods.engine import NoCompiler

SOURCES = Path(__file__).parent / "c"
PROJECT = "bert-quantization-benchmark"
FLAGS = (
    *("-std=gnu11", "-O3", "-fPIC", "-fvisibility=hidden", "-fopenmp-simd", "-pthread", "-Wall"),
    *("-fno-math-errno", "-fno-trapping-math"),
)
_AVX2 = ("-mavx2", "-mfma", "-mf16c")
_AVX512 = (
    *_AVX2,
    *("-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mavx512vnni"),
    "-mprefer-vector-width=512",
)
# The flags of each instruction set, by architecture.
SETS: dict[str, dict[str, tuple[str, ...]]] = {
    "x86_64": {
        "portable": (),
        "avx2": _AVX2,
        "avxvnni": (*_AVX2, "-mavxvnni"),
        "avx512": _AVX512,
        "amx": (*_AVX512, "-mamx-tile", "-mamx-int8"),
    },
}
ANY = {"portable": ()}  # what every architecture has
OLD = 30 * 24 * 3600  # seconds after which a build that nobody has used is removed
INSTALL = "install one (Debian, Ubuntu: `apt install gcc libc6-dev`; macOS: `xcode-select --install`)"


@functools.cache
def library(folder: Path = SOURCES, extra_flags: tuple[str, ...] = ()) -> ctypes.CDLL:
    """Return the library of the C files in `folder`, built if this machine has not built it yet."""
    compiler, version = find_compiler()
    place = cache()
    path = place / f"{_key(folder, extra_flags, compiler, version)}.so"
    if not path.is_file():
        with lock(place):
            if not path.is_file():  # another process may have built it meanwhile
                print("Building the engine for this machine, once: about 10 seconds", file=sys.stderr, flush=True)
                _remove_old(place)
                _build(path, folder, extra_flags, compiler)
    with suppress(OSError):
        os.utime(path)  # keeps it from being removed as old
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        advice = "delete it, or name another cache folder in XDG_CACHE_HOME"
        raise NoCompiler(f"The engine's library cannot be loaded ({error}): {advice}.") from None


def find_compiler() -> tuple[tuple[str, ...], str]:
    """Return the command of the C compiler that $CC names, or else of the first that works, and its version."""
    named = os.environ.get("CC", "").strip()
    try:
        candidates = [shlex.split(named)] if named else [["cc"], ["gcc"], ["clang"]]
    except ValueError:  # a quote that nobody closes
        candidates = []
    for words in candidates:
        if (program := shutil.which(words[0])) is None:
            continue
        command = (program, *words[1:])
        with suppress(OSError):
            answer = subprocess.run([*command, "--version"], capture_output=True, text=True, stdin=subprocess.DEVNULL)
            if answer.returncode == 0:
                return command, answer.stdout
    if named:
        raise NoCompiler(f"The engine needs a C compiler, and CC={named} is none: unset CC or correct it.")
    raise NoCompiler(f"The engine needs a C compiler, and there is none: {INSTALL}.")


def cache() -> Path:
    """Return a folder that this user alone can write: a library that somebody else plants there would be run."""
    homes = [Path(os.environ.get("XDG_CACHE_HOME", "")), Path(os.path.expanduser("~/.cache"))]
    places = [home / PROJECT for home in homes if home.is_absolute()][:1]  # neither is absolute for a user without a home
    places.append(Path(tempfile.gettempdir()) / f"{PROJECT}-{os.getuid()}")
    for place in places:
        with suppress(OSError):
            place.mkdir(mode=0o700, parents=True, exist_ok=True)
            if _is_private(place) and os.access(place, os.W_OK | os.X_OK):
                return place
    raise NoCompiler(
        f"The engine needs a cache folder that you alone can use, and {' or '.join(map(str, places))} is none: "
        "name another place in XDG_CACHE_HOME."
    )


def _is_private(folder: Path) -> bool:
    found = folder.lstat()  # of a link itself, which is no folder
    return folder.is_dir() and not folder.is_symlink() and found.st_uid == os.getuid() and not found.st_mode & 0o077


def _key(folder: Path, extra_flags: tuple[str, ...], compiler: tuple[str, ...], version: str) -> str:
    """Return the hash of all that a build depends on, and of the processor."""
    contents = [(path.name, path.read_bytes()) for path in sorted(folder.iterdir()) if path.is_file()]
    about = (compiler, version, FLAGS, SETS, extra_flags, platform.machine(), platform.system(), provenance.cpu())
    return hashlib.sha256(repr((contents, about)).encode()).hexdigest()[:32]


def _build(path: Path, folder: Path, extra_flags: tuple[str, ...], compiler: tuple[str, ...]) -> None:
    """Compile all files, a few at a time, and link them."""
    kernels = _kernels(folder, compiler)
    have = tuple(f"-DHAVE_{name.upper()}" for name in kernels)
    flags = {folder / f"isa_{name}.c": special for name, special in kernels.items()}
    flags |= {source: () for source in folder.glob("*.c") if not source.name.startswith("isa_")}
    if (dispatch := folder / "dispatch.c") in flags:
        flags[dispatch] = have
    with tempfile.TemporaryDirectory(prefix=".build-", dir=path.parent) as objects:

        def compile_one(source: Path) -> str:
            made = f"{objects}/{source.stem}.o"
            _run([*compiler, *FLAGS, *flags[source], *extra_flags, "-c", str(source), "-o", made])
            return made

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            made = list(pool.map(compile_one, sorted(flags)))
        with atomic(path) as temporary:
            _run([*compiler, "-shared", "-pthread", *extra_flags, *made, "-lm", "-o", str(temporary)])


def _kernels(folder: Path, compiler: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """Return the instruction sets that there are kernels of and that the compiler knows, each with its flags."""
    machine = platform.machine().lower()
    sets = SETS.get({"amd64": "x86_64"}.get(machine, machine), ANY)
    return {name: flags for name, flags in sets.items() if (folder / f"isa_{name}.c").is_file() and _knows(compiler, flags)}


def _knows(compiler: tuple[str, ...], flags: tuple[str, ...]) -> bool:
    """Return whether the compiler takes the flags, by letting it read an empty file."""
    command = [*compiler, "-Werror", *flags, "-fsyntax-only", "-x", "c", os.devnull]
    return not flags or subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL).returncode == 0


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        first = next((line for line in lines if "error" in line), lines[0])
        raise NoCompiler(
            f"The C compiler {command[0]} cannot build the engine ({first}): name another one in CC, or {INSTALL}."
        )


def _remove_old(place: Path) -> None:
    """Remove what nobody has used for long: builds of other keys, and what killed builds left."""
    before = time.time() - OLD
    for path in [*place.glob("*.so"), *place.glob(".build-*")]:
        with suppress(OSError):
            if path.stat().st_mtime < before:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
