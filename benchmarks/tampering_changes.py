"""Changes to an evidence package, made by rule and not by hand.

Two hands: somebody without the owner's key, who changes any file or field, and the owner itself,
who signs its changes anew. Left out are fields of the owner's own words (``OWN_WORDS``): a judge
cannot refuse what it cannot compute, and does not repeat it.
"""

import itertools
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import json_fields
from benchmarks.json_fields import Edit, altering, edit_file, editing, leaves, words
from benchmarks.tampering_material import Material, payload, rewrite, signed_again, subjects
from smdl_flower import evidence_package, files, signing, weights
from smdl_flower.fingerprint.keys import OwnerKey

OWN_WORDS = (
    *("suspect/path", "suspect/kind", "highest_unnamed_score", "decoys", "custody"),
    *("remarks", "versions"),
)
COMMITMENTS, VERDICT = evidence_package.COMMITMENTS, evidence_package.VERDICT
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


def tamperings(material: Material) -> Iterator[Tampered]:
    """Yield all changes to one package."""
    yield from _files(material)
    yield from _fields(material)
    yield from _signatures(material)
    yield from _suspects(material)
    yield from _verdicts_signed_again(material)
    yield from _openings_signed_again(material)
    yield from _parts_signed_again(material)
    yield from _history_signed_again(material)


# ------------------------------------------------------------------------ without the owner's key


def _files(material: Material) -> Iterator[Tampered]:
    """Every file, in every way in which a file can be another."""
    names = sorted(
        p.relative_to(material.folder).as_posix() for p in material.folder.rglob("*") if p.is_file()
    )
    for name in names:
        for how, change in _FILE_CHANGES.items():
            yield Tampered(f"{name}: {how}", "files", _on_file(name, change), material)
        for other, whose in zip(material.others, ("evidence", "owner"), strict=True):
            source = other / name
            if not source.exists():  # what is disclosed lies under the model's name
                source = next(other.rglob(Path(name).name), other / "statement.json")
            if source.read_bytes() != (material.folder / name).read_bytes():
                change = _on_file(name, _replaced_by(source))
                yield Tampered(f"{name}: of another {whose}", "files swapped", change, material)
    for one, two in itertools.pairwise(names):
        yield Tampered(f"{one} and {two} exchanged", "files swapped", _exchange(one, two), material)
    yield Tampered("a file added", "files", _added, material)


def _flip(place: float) -> Change:
    def change(path: Path) -> None:
        content = bytearray(path.read_bytes())
        content[min(int(place * len(content)), len(content) - 1)] ^= 1
        path.write_bytes(content)

    return change


def _link(path: Path) -> None:
    target = path.parent.parent / f"{path.parent.name}.linked"
    shutil.copy(path, target)
    path.unlink()
    path.symlink_to(target)


_FILE_CHANGES: dict[str, Change] = {
    **{f"a bit at {place:.0%}": _flip(place) for place in (0.0, 0.25, 0.5, 0.75, 1.0)},
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
            change = _on_file(name, altering(where))
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
            on = _on_file(name, editing(change))
            yield Tampered(f"{name}: {how}", "signatures", on, material)


def _suspects(material: Material) -> Iterator[Tampered]:
    """Another suspect than the evidence is about."""
    if material.suspect is None:
        return
    for other in sorted(material.suspect.parent.glob("other*")):
        yield Tampered(f"shown {other.name}", "suspects", lambda _: None, material, other)


# --------------------------------------------------------------------------- by the owner, signed


def _verdicts_signed_again(material: Material) -> Iterator[Tampered]:
    """Every field of the verdict that a judge can compute, or that must be there."""
    verdict = json.loads((material.folder / VERDICT).read_bytes())
    for where in leaves(verdict):
        if not words(where).startswith(OWN_WORDS):
            change = _on_file(VERDICT, altering(where))
            yield _signed(f"verdict: {words(where)}", "verdict, signed again", change, material)
    name = material.innocent["customer"]
    lies: dict[str, Edit] = {
        "an innocent instead": lambda d: d["accused"][0].update(customer=name),
        "an innocent too": lambda d: d["accused"].append({**d["accused"][0], "customer": name}),
        "one accused left out": lambda d: d["accused"].pop(),
        "an innocent as best match": lambda d: d["payload"].update(best_match=name),
        "nobody accused": lambda d: d.update(accused=[]),
        "a participant named": lambda d: d.update(participants=[{"participant": name}]),
        "what is not shown, left out": lambda d: d.update(not_shown=[]),
        "of the other kind": _other_kind,
    }
    for how, lie in lies.items():
        change = _on_file(VERDICT, editing(lie))
        yield _signed(f"verdict: {how}", "verdict, signed again", change, material)


def _other_kind(verdict: dict[str, Any]) -> None:
    if verdict.pop("queries", None) is None:
        verdict["queries"] = {"pool": 1, "images": 64, "one_of_two": 64, "probabilities": False}


def _openings_signed_again(material: Material) -> Iterator[Tampered]:
    """Every field of what is opened, and customers' secrets exchanged."""
    path = next(material.folder.rglob(material.opened))
    name, group = path.relative_to(material.folder).as_posix(), "openings, signed again"
    for where in leaves(json.loads(path.read_bytes())):
        change = _on_file(name, altering(where))
        yield _signed(f"{path.name}: {words(where)}", group, change, material)
    secret = "key" if material.kind == "file" else "secret"
    innocent = material.innocent
    lies: dict[str, Edit] = {
        "an innocent's secret": lambda d: d["customers"][0].update({secret: innocent[secret]}),
        "an innocent's leaf": lambda d: d["customers"][0].update(
            {k: v for k, v in innocent.items() if k != "customer"}
        ),
        "an innocent opened instead": lambda d: d["customers"].__setitem__(0, innocent),
        "an innocent opened too": lambda d: d["customers"].append(innocent),
        "nobody opened": lambda d: d["customers"].clear(),
        "a proof of one step less": lambda d: d["customers"][0]["proof"].pop(),
        "a proof of one step more": lambda d: d["customers"][0]["proof"].append("00" * 32),
        "a proof turned round": lambda d: d["customers"][0]["proof"].reverse(),
    }
    for how, lie in lies.items():
        change = _on_file(name, editing(lie))
        yield _signed(f"{path.name}: {how}", group, change, material)


def _parts_signed_again(material: Material) -> Iterator[Tampered]:
    """Weights, pictures and answers other than they were."""
    group = "parts, signed again"
    for path in sorted(material.folder.rglob("*.safetensors")):
        name = path.relative_to(material.folder).as_posix()
        for tensor in weights.read(path).weights:
            change = _on_file(name, _nudging(tensor))
            yield _signed(f"{path.name}: a value of {tensor}", group, change, material)
    for path in sorted(material.folder.rglob(evidence_package.POOL)):
        name = path.relative_to(material.folder).as_posix()
        for place in (0.0, 0.5, 1.0):
            change = _on_file(name, _flip(place))
            yield _signed(f"{path.name}: a pixel at {place:.0%}", group, change, material)
    if material.kind == "answers":
        answers: dict[str, Edit] = {
            "one answer is another": lambda said: said.__setitem__(0, (said[0] + 1) % 10),
            "half of them are others": lambda said: said.__setitem__(
                slice(0, None, 2), [(n + 1) % 10 for n in said[::2]]
            ),
            "one is missing": lambda said: said.pop(),
            "one too many": lambda said: said.append(0),
            "one is no class": lambda said: said.__setitem__(0, 10),
            "one is negative": lambda said: said.__setitem__(0, -1),
            "turned round": lambda said: said.reverse(),
        }
        for how, alter in answers.items():
            change = _on_file(evidence_package.ANSWERS, _on_labels(alter))
            yield _signed(f"answers: {how}", group, change, material)


def _history_signed_again(material: Material) -> Iterator[Tampered]:
    """The chain of commitments rewritten by who holds the key, after a digest was published."""
    folder = material.folder / COMMITMENTS
    chain = sorted(path.name for path in folder.glob("*.json"))
    predicate = payload(folder / chain[-1])["predicate"]
    group = "history, signed again"
    for where in leaves(predicate):
        yield Tampered(
            f"statement {len(chain)}: {words(where)}",
            group,
            _rewritten(material, len(chain), where),
            material,
        )
    places = {
        "the last statement dropped": lambda f: (f / chain[-1]).unlink(),
        "the first statement dropped": lambda f: (f / chain[0]).unlink(),
        "the last statement twice": lambda f: shutil.copy(f / chain[-1], f / "999999.json"),
        "statements in another order": lambda f: _swap(f / chain[0], f / chain[-1]),
    }
    for how, change in places.items():
        yield _signed(f"chain: {how}", group, _on_file(COMMITMENTS, change), material)
    yield Tampered(
        "chain: a statement after the published one, with an invented key",
        group,
        lambda f: _late(material, f),
        material,
    )


def _rewritten(material: Material, number: int, where: json_fields.Where) -> Change:
    """A statement with another value, those after it following it, all signed again."""

    def on_that(n: int, predicate: dict[str, Any]) -> None:
        if n == number:
            json_fields.change(predicate, where)

    def change(folder: Path) -> None:
        rewrite(folder, material.key, on_that)
        signed_again(material, folder)

    return change


def _late(material: Material, folder: Path) -> None:
    """Commit to an invented key of an innocent after the leak, and open that."""
    place = folder / COMMITMENTS
    last = sorted(place.glob("*.json"))[-1]
    statement = payload(last)
    predicate = {**statement["predicate"], "previous": signing.digest(last.read_bytes())}
    predicate["merkle_root"] = "6b" * 32
    for pool in predicate["pools"]:
        pool["merkle_root"] = "6b" * 32
    envelope = material.key.sign(subjects(statement), statement["predicateType"], predicate)
    files.write(place / "999999.json", envelope)
    opened = next(folder.rglob(material.opened))
    edit_file(opened, lambda d: d.update(commitment_sha256=signing.digest(envelope)))
    signed_again(material, folder)


# ---------------------------------------------------------------------------------- other changes


def _on_file(name: str, change: Change) -> Change:
    return lambda folder: change(folder / name)


def _signed(name: str, group: str, change: Change, material: Material) -> Tampered:
    def both(folder: Path) -> None:
        change(folder)
        signed_again(material, folder)

    return Tampered(name, group, both, material)


def _exchange(one: str, two: str) -> Change:
    return lambda folder: _swap(folder / one, folder / two)


def _swap(one: Path, two: Path) -> None:
    first, second = one.read_bytes(), two.read_bytes()
    one.write_bytes(second)
    two.write_bytes(first)


def _nudging(tensor: str) -> Change:
    """The next number that a float32 can be, for one weight."""

    def change(path: Path) -> None:
        content = weights.read(path).weights
        changed = content[tensor].copy()
        changed.ravel()[0] = np.nextafter(changed.ravel()[0], np.float32(np.inf))
        weights.write(path, {**content, tensor: changed}, replace=True)

    return change


def _on_labels(alter: Edit) -> Change:
    return editing(lambda document: alter(document["heard"][0]["labels"]))


def _replaced_by(source: Path) -> Change:
    return lambda path: path.write_bytes(source.read_bytes())


def _added(folder: Path) -> None:
    (folder / "more.txt").write_text("he confessed")
