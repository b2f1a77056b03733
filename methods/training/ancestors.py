"""Ancestors: earlier runs that a run learns from, starts from, or reads an allocation of."""

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from methods.common import files
from methods.common.errors import UserError
from methods.model import artifact

LATENT = "latent.safetensors"  # the weights that a model file rounds, where other runs start from this one
ALLOCATION = "allocation.json"  # what a search run decided


@dataclass(frozen=True)
class Ancestor:
    """An earlier run in one role, with the protocol whose model is taken."""

    folder: Path
    run: dict
    protocol: str

    @classmethod
    def read(cls, folder: Path, protocol: str) -> "Ancestor":
        run = files.read_json(Path(folder) / "run.json")
        if not isinstance(run, dict) or not {"request", "status", "files"} <= run.keys():
            raise UserError(f"{folder}/run.json is damaged: delete it and run the same command again.")
        return cls(Path(folder), run, protocol)

    @property
    def name(self) -> str:
        return self.run["request"]["method"]

    @property
    def ok(self) -> bool:
        return self.run["status"] == "ok"

    @property
    def sha256(self) -> str | None:
        """The hash of its product: its allocation, or its model file. A run that diverged has none."""
        return self.run["files"].get(ALLOCATION) or self.run["files"].get(f"{self.protocol}.safetensors")

    @property
    def latent(self) -> str | None:
        """The hash of its latent weights, if it kept those of this protocol."""
        return self.run["files"].get(LATENT) if self.run["request"].get("latent") == self.protocol else None

    @property
    def score(self) -> float | None:
        scores = self.run["scores"]
        return scores[self.protocol]["metrics"][self.run["metric"]] if scores else None

    def model(self) -> nn.Module:
        """Return its model as the file stores it."""
        return artifact.load(self._checked(f"{self.protocol}.safetensors", self.sha256))[0]

    def start(self) -> nn.Module:
        """Return its model as it was in training, where it kept the latent weights: to be trained on."""
        latent = self._checked(LATENT, self.latent) if self.latent else None
        return artifact.load(self._checked(f"{self.protocol}.safetensors", self.sha256), latent)[0]

    def allocation(self) -> dict:
        """Return what a search run decided."""
        return files.read_json(self._checked(ALLOCATION, self.run["files"].get(ALLOCATION)))

    def _checked(self, name: str, digest: str | None) -> Path:
        path = self.folder / name
        if digest is None:
            raise UserError(f"The run in {self.folder} has no {name}: its method cannot be an ancestor in this role.")
        if not path.is_file() or files.sha256_file(path) != digest:
            what = "damaged (its SHA-256 is not the one in its run.json)" if path.is_file() else "missing"
            raise UserError(f"{path} is {what}: delete the run.json beside it and run the same command again.")
        return path

    def identity(self) -> dict:
        """Return what a run depends on of this ancestor: which run it is, and the bytes that are taken from it."""
        found = {"method": self.name, "seed": self.run["request"]["seed"], "sha256": self.sha256}
        return {**found, **({"latent": self.latent} if self.latent else {})}
