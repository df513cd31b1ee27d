"""One attempt at a command, on a home of its own, and what the home says after it."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smdl_flower import commitments, models, weights
from smdl_flower.home import OwnerHome
from smdl_flower.models import ModelSpec
from tests.e2e.power import machine

Words = tuple[object, ...]
CUSTOMERS = ("clinic-a", "bank-b", "clinic-c")
TINY = "tests.e2e.power:tiny"
SPEC = ModelSpec(TINY, channels=1, classes=10, image_size=8)


def prepared(place: Path) -> Path:
    """Put an owner's home with three customers, and a trained model, into a folder."""
    with machine(place) as power:
        made = [
            power.run("init", "--home", place / "home"),
            power.run("customer", "add", *CUSTOMERS, "--home", place / "home"),
        ]
    assert [ended.code for ended in made] == [0, 0], made
    write_model(place / "model.safetensors", seed=1)
    return place


def write_model(path: Path, seed: int) -> None:
    """Write a base model that is quickly issued."""
    weights.write(path, models.to_weights(models.build(SPEC, seed=seed)), SPEC.to_metadata())


@dataclass(frozen=True)
class Trial:
    """A folder for one attempt, with a home like that of ``place``."""

    folder: Path

    @classmethod
    def new(cls, place: Path) -> "Trial":
        folder = place / "trial"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        shutil.copytree(place / "home", folder / "home")
        return cls(folder)

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @property
    def copies(self) -> Path:
        return self.folder / "copies"

    def issue(self, out: str = "copies", model: Path | None = None) -> Words:
        """The command that issues a copy to every customer."""
        return (
            *("issue", model or self.folder.parent / "model.safetensors"),
            *("--out", self.folder / out),
            *("--home", self.home, "--no-fidelity-check", "--code-length", 64),
            *("--arch", TINY, "--channels", 1, "--image-size", 8),
        )


@dataclass(frozen=True)
class State:
    """All that a home says, times aside."""

    customers: tuple[str, ...]
    models: dict[str, str]
    bases: list[str]
    copies: set[tuple[str, str]]
    commitments: list[tuple[dict[str, str], Any]]
    recorded: int


def state(home: Path) -> State:
    """Read a home; fails unless it is whole."""
    owner = OwnerHome.open(home)
    registry, chain = owner.registry, commitments.of_home(owner)
    return State(
        customers=registry.customers(),
        models=registry.models(),
        bases=[model.digest for model in owner.base_models()],
        copies={
            (copy.customer, copy.weights_sha256)
            for model in registry.models()
            for copy in registry.copies(model)
        },
        commitments=[(c.subjects, c.predicate.get("merkle_root")) for c in chain],
        recorded=len(registry.commitments()),
    )


def out(folder: Path) -> dict[str, str]:
    """The copies that somebody could take from a folder, finished or not: name -> digest."""
    found = {}
    for path in folder.rglob("*") if folder.exists() else ():
        if path.suffix == ".safetensors":
            found[path.stem] = weights.digest(weights.read(path).weights)  # whole, or it raises
        elif path.name.endswith(".tmp") and path.stat().st_size:
            assert path.name.startswith("."), path
    return found
