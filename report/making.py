"""The workflow in a folder of its own, beside the user's results: for cells that are made to be compared with others."""

import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from methods.common.errors import UserError
from workflow import entries
from workflow.catalogue import Catalogue

ROOT = Path(__file__).resolve().parents[1]
MIRROR = "mirror"  # what `snakemake prefetch` fills


def make(folder: Path, words: list[str], cores: int, own: Iterable[str] = ()) -> None:
    """Run Snakemake with these words and `folder` as its working directory; what is there already is taken up again.

    `own` are paths of the user's files; relative ones are linked into the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for path in own:
        _link(folder, path)
    start = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--directory", str(folder)]
    start += ["--workflow-profile", str(ROOT / "profiles/default"), "--cores", str(cores)]
    done = subprocess.run([*start, *words], env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=sys.stderr)
    if done.returncode:
        raise UserError(
            f"Not all was made: see the lines above, and the logs in {folder}/results. The same command goes on."
        )


def _link(folder: Path, path: str) -> None:
    """Make a relative path lead to the same file from `folder`; a file that is there already is never touched."""
    if Path(path).is_absolute() or folder.resolve() == Path.cwd():
        return
    if ".." in Path(path).parts:
        raise UserError(f"config/tasks.yaml: {path}: write an absolute path, because the work is done in another folder.")
    link = folder / path
    link.parent.mkdir(parents=True, exist_ok=True)
    if link.exists() and not link.is_symlink():
        raise UserError(
            f"{link} exists, and {path} should be linked there: move it away, or name another folder with --out."
        )
    link.unlink(missing_ok=True)
    link.symlink_to(Path(path).resolve())


def own_paths(catalogue: Catalogue, task: str) -> list[str]:
    """Return the paths of the user's own files and folders that the runs of a task read."""
    entry, config = catalogue.tasks[task], catalogue.config
    vectors = (config["augmentation"] or {}).get("vectors")
    places = [config["base"].get("path"), entry.get("finetuned"), vectors]
    return [*entries.files_of(entry), *(place for place in places if place)]


def mirror_of(named: str | None, config: dict) -> str | None:
    """Return the mirror that such a folder reads, as a path that holds there: the named, the configuration's, or mirror/."""
    configured = (config.get("data") or {}).get("mirror")
    found = named or configured or (MIRROR if Path(MIRROR).is_dir() else None)
    return str(Path(found).resolve()) if found else None
