"""One change to an evidence package, and changes that any forger makes."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.tampering_material import Material

Change = Callable[[Path], object]


@dataclass(frozen=True)
class Tampered:
    """One change.

    Attributes:
        name: What is changed.
        group: Of which kind.
        change: Carries it out in a folder of its own.
        about: The evidence that it is about.
        suspect: Shown to the judge instead of the right one.
    """

    name: str
    group: str
    change: Change
    about: "Material"
    suspect: Path | None = None


def on_file(name: str, change: Change) -> Change:
    """Return a change to a folder, of one thing in it."""
    return lambda folder: change(folder / name)


def flip(place: float) -> Change:
    """Return what turns a bit, at that share of a file's length."""

    def change(path: Path) -> None:
        content = bytearray(path.read_bytes())
        content[min(int(place * len(content)), len(content) - 1)] ^= 1
        path.write_bytes(content)

    return change


def swap(one: Path, two: Path) -> None:
    """Exchange two files."""
    first, second = one.read_bytes(), two.read_bytes()
    one.write_bytes(second)
    two.write_bytes(first)
