"""The workflow in a folder of its own, beside the user's results: for cells that are made to be compared with others."""

import os
import subprocess
import sys
from pathlib import Path

from methods.common.errors import UserError
from workflow import catalogue

ROOT = Path(__file__).resolve().parents[1]
MIRROR = "mirror"  # what `snakemake prefetch` fills


def make(folder: Path, words: list[str], cores: int) -> None:
    """Run Snakemake with these words and `folder` as its working directory; what is there already is taken up again."""
    folder.mkdir(parents=True, exist_ok=True)
    start = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--directory", str(folder)]
    start += ["--workflow-profile", str(ROOT / "profiles/default"), "--cores", str(cores)]
    done = subprocess.run([*start, *words], env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=sys.stderr)
    if done.returncode:
        raise UserError(
            f"Not all was made: see the lines above, and the logs in {folder}/results. The same command goes on."
        )


def mirror_of(named: str | None) -> str | None:
    """Return the mirror that such a folder reads, as a path that holds there: the named, the configuration's, or mirror/."""
    configured = (catalogue.read_config().get("data") or {}).get("mirror")
    found = named or configured or (MIRROR if Path(MIRROR).is_dir() else None)
    return str(Path(found).resolve()) if found else None
