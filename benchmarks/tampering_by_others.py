"""Changes by somebody without the owner's key: every file and field, in every way, by rule."""

import itertools
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.json_fields import Edit, altering, editing, leaves, words
from benchmarks.tampering_kinds import Change, Tampered, flip, on_file, swap
from benchmarks.tampering_material import Material, rewrite, signed_again
from smdl_flower import evidence_package
from smdl_flower.fingerprint.keys import OwnerKey

COMMITMENTS = evidence_package.COMMITMENTS


def by_others(material: Material) -> Iterator[Tampered]:
    """Yield all of them."""
    yield from _files(material)
    yield from _fields(material)
    yield from _signatures(material)
    yield from _suspects(material)


def _files(material: Material) -> Iterator[Tampered]:
    """Every file, in every way in which a file can be another."""
    names = sorted(
        p.relative_to(material.folder).as_posix() for p in material.folder.rglob("*") if p.is_file()
    )
    for name in names:
        for how, change in _FILE_CHANGES.items():
            yield Tampered(f"{name}: {how}", "files", on_file(name, change), material)
        for other, whose in zip(material.others, ("evidence", "owner"), strict=True):
            source = other / name
            if not source.exists():  # what is disclosed lies under the model's name
                source = next(other.rglob(Path(name).name), other / "statement.json")
            if source.read_bytes() != (material.folder / name).read_bytes():
                change = on_file(name, _replaced_by(source))
                yield Tampered(f"{name}: of another {whose}", "files swapped", change, material)
    for one, two in itertools.pairwise(names):
        yield Tampered(f"{one} and {two} exchanged", "files swapped", _exchange(one, two), material)
    yield Tampered("a file added", "files", _added, material)


def _link(path: Path) -> None:
    target = path.parent.parent / f"{path.parent.name}.linked"
    shutil.copy(path, target)
    path.unlink()
    path.symlink_to(target)


_FILE_CHANGES: dict[str, Change] = {
    **{f"a bit at {place:.0%}": flip(place) for place in (0.0, 0.25, 0.5, 0.75, 1.0)},
    "a byte less": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "a byte more": lambda path: path.write_bytes(path.read_bytes() + b" "),
    "empty": lambda path: path.write_bytes(b""),
    "gone": Path.unlink,
    "renamed": lambda path: path.rename(path.with_suffix(".old")),
    "a link": _link,
}


def _fields(material: Material) -> Iterator[Tampered]:
    """Every field of every JSON document."""
    for path in sorted(material.folder.rglob("*.json")):
        name = path.relative_to(material.folder).as_posix()
        for where in leaves(json.loads(path.read_bytes())):
            change = on_file(name, altering(where))
            yield Tampered(f"{name}: {words(where)}", "fields", change, material)


def _signatures(material: Material) -> Iterator[Tampered]:
    """The right content under another key, and envelopes that are not what they were."""
    stranger = OwnerKey(bytes(range(32))).signing_key()
    statement = evidence_package.STATEMENT

    def by_a_stranger(folder: Path) -> None:
        signed_again(material, folder, stranger)

    def everything_by_a_stranger(folder: Path) -> None:
        rewrite(folder, stranger, lambda number, predicate: None)
        signed_again(material, folder, stranger)

    def twice(envelope: dict[str, Any]) -> None:
        envelope["signatures"] *= 2

    yield Tampered("evidence signed by a stranger", "signatures", by_a_stranger, material)
    yield Tampered("all signed by a stranger", "signatures", everything_by_a_stranger, material)
    for name in (statement, *(f"{COMMITMENTS}/{n:06d}.json" for n in (1, 2))):
        changes: dict[str, Edit] = {
            "unsigned": lambda e: e["signatures"].clear(),
            "signed twice": twice,
            "of another type": lambda e: e.update(payloadType="text/plain"),
        }
        for how, change in changes.items():
            on = on_file(name, editing(change))
            yield Tampered(f"{name}: {how}", "signatures", on, material)


def _suspects(material: Material) -> Iterator[Tampered]:
    """Another suspect than the evidence is about."""
    if material.suspect is None:
        return
    for other in sorted(material.suspect.parent.glob("other*")):
        yield Tampered(f"shown {other.name}", "suspects", lambda _: None, material, other)


def _exchange(one: str, two: str) -> Change:
    return lambda folder: swap(folder / one, folder / two)


def _replaced_by(source: Path) -> Change:
    return lambda path: path.write_bytes(source.read_bytes())


def _added(folder: Path) -> None:
    (folder / "more.txt").write_text("he confessed")
