"""Changes by the owner, who signs anew: all that a judge can compute, by rule.

Left out are fields of the owner's own words (``OWN_WORDS``): a judge cannot refuse what it cannot
compute, and does not repeat it.
"""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import json_fields
from benchmarks.json_fields import Edit, altering, edit_file, editing, leaves, words
from benchmarks.tampering_kinds import Change, Tampered, flip, on_file, swap
from benchmarks.tampering_material import (
    STAMPED,
    Material,
    payload,
    rewrite,
    signed_again,
    subjects,
)
from smdl_flower import evidence_package, files, signing, weights

OWN_WORDS = (
    *("suspect/path", "suspect/kind", "highest_unnamed_score", "decoys", "custody"),
    *("remarks", "versions"),
)
COMMITMENTS, VERDICT = evidence_package.COMMITMENTS, evidence_package.VERDICT


def by_the_owner(material: Material) -> Iterator[Tampered]:
    """Yield all of them."""
    yield from _verdicts_signed_again(material)
    yield from _openings_signed_again(material)
    yield from _parts_signed_again(material)
    yield from _history_signed_again(material)
    yield from _stamps_signed_again(material)


def _verdicts_signed_again(material: Material) -> Iterator[Tampered]:
    """Every field of the verdict that a judge can compute, or that must be there."""
    verdict = json.loads((material.folder / VERDICT).read_bytes())
    for where in leaves(verdict):
        if not words(where).startswith(OWN_WORDS):
            change = on_file(VERDICT, altering(where))
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
        change = on_file(VERDICT, editing(lie))
        yield _signed(f"verdict: {how}", "verdict, signed again", change, material)


def _other_kind(verdict: dict[str, Any]) -> None:
    if verdict.pop("queries", None) is None:
        verdict["queries"] = {"pool": 1, "images": 64, "one_of_two": 64, "probabilities": False}


def _openings_signed_again(material: Material) -> Iterator[Tampered]:
    """Every field of what is opened, and customers' secrets exchanged."""
    path = next(material.folder.rglob(material.opened))
    name, group = path.relative_to(material.folder).as_posix(), "openings, signed again"
    for where in leaves(json.loads(path.read_bytes())):
        change = on_file(name, altering(where))
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
        change = on_file(name, editing(lie))
        yield _signed(f"{path.name}: {how}", group, change, material)


def _parts_signed_again(material: Material) -> Iterator[Tampered]:
    """Weights, pictures and answers other than they were."""
    group = "parts, signed again"
    for path in sorted(material.folder.rglob("*.safetensors")):
        name = path.relative_to(material.folder).as_posix()
        for tensor in weights.read(path).weights:
            change = on_file(name, _nudging(tensor))
            yield _signed(f"{path.name}: a value of {tensor}", group, change, material)
    for path in sorted(material.folder.rglob(evidence_package.POOL)):
        name = path.relative_to(material.folder).as_posix()
        for place in (0.0, 0.5, 1.0):
            change = on_file(name, flip(place))
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
            change = on_file(evidence_package.ANSWERS, _on_labels(alter))
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
        "statements in another order": lambda f: swap(f / chain[0], f / chain[-1]),
    }
    for how, change in places.items():
        yield _signed(f"chain: {how}", group, on_file(COMMITMENTS, change), material)
    yield Tampered(
        "chain: a statement after the published one, with an invented key",
        group,
        lambda f: _late(material, f),
        material,
    )


def _stamps_signed_again(material: Material) -> Iterator[Tampered]:
    """Time stamps that are none, or an authority's about something else."""
    stamp = (STAMPED / "response.tsr").read_bytes()
    statements = sorted((material.folder / COMMITMENTS).glob("*.json"))
    contents = {
        "about another statement": stamp,
        "cut off": stamp[:-1],
        "with another bit": bytes([stamp[0] ^ 1]) + stamp[1:],
        "empty": b"",
        "a statement": statements[-1].read_bytes(),
    }
    for how, content in contents.items():
        name = f"{COMMITMENTS}/{statements[-1].stem}.tsr"
        yield _signed(f"stamp: {how}", "stamps, signed again", _written(name, content), material)


def _written(name: str, content: bytes) -> Change:
    return lambda folder: (folder / name).write_bytes(content)


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


def _signed(name: str, group: str, change: Change, material: Material) -> Tampered:
    def both(folder: Path) -> None:
        change(folder)
        signed_again(material, folder)

    return Tampered(name, group, both, material)


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
