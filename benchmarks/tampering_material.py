"""Good evidence, and all that a forger may take from elsewhere."""

import base64
import contextlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import blackbox_thieves as thieves
from benchmarks.json_fields import edit_file
from benchmarks.judging_suspects import Run, foreign_run
from smdl_flower import (
    commitments,
    evidence_package,
    files,
    questioning,
    signing,
    timestamps,
    verdict_page,
    weights,
)
from smdl_flower.attacks import collusion
from smdl_flower.blackbox import recorded
from smdl_flower.errors import SmdlError
from smdl_flower.evidence import Verdict
from smdl_flower.judging import Trust
from smdl_flower.questioning import Question
from smdl_flower.signing import SigningKey
from smdl_flower.verifying import verify

# An authority's root and one answer of it, made once with OpenSSL.
STAMPED = Path(__file__).parents[1] / "tests" / "stamped"


@dataclass(frozen=True)
class Material:
    """Good evidence, and what else a forger may take from.

    Attributes:
        kind: ``file`` or ``answers``.
        folder: The evidence.
        suspect: The file that it is about.
        others: Good evidence about another suspect, and of another owner.
        key: Of the owner.
        trust: What the judge knows.
        innocent: The entry that opens a customer who is not accused.
    """

    kind: str
    folder: Path
    suspect: Path | None
    others: tuple[Path, Path]
    key: SigningKey
    trust: Trust
    innocent: dict[str, Any]

    @property
    def opened(self) -> str:
        """Name of the document in which secrets are opened."""
        return evidence_package.TERMS if self.kind == "file" else evidence_package.WORDS


def materials(run: Run, place: Path) -> list[Material]:
    """Return good evidence about a file and about answers."""
    first, second, third, *_ = run.customers
    other_owner = foreign_run(run, place / "foreign")
    found = place / "found"
    suspect = _write(found / "suspect", collusion.average([run.copies[first], run.copies[second]]))
    other = _write(found / "other-copy", run.copies[third])
    theirs = _write(found / "other-owner", other_owner.copies[other_owner.customers[0]])
    changed = bytearray(suspect.read_bytes())
    changed[-1000] ^= 1  # of a weight
    (found / "other-by-a-bit").write_bytes(changed)
    of_files = [
        disclosed(r, verify(r.home, s), place / f"file-{n}")
        for n, (r, s) in enumerate(((run, suspect), (run, other), (other_owner, theirs)))
    ]
    made = [_material(run, "file", of_files, suspect)]
    if run.model.queries:
        asked = [_answers(run, customer) for customer in (first, third)]
        of_answers = [disclosed(run, v, place / f"answers-{n}") for n, v in enumerate(asked)]
        made.append(_material(run, "answers", [*of_answers, of_files[2]], None))
    return made


def disclosed(run: Run, verdict: Verdict, folder: Path) -> Path:
    """Write what ``smdl verify --report FOLDER --disclose`` writes."""
    evidence_package.require_disclosable(run.home, verdict)
    files.write_json(folder / evidence_package.VERDICT, verdict.to_json())
    verdict_page.write(verdict, folder / "report.html")
    evidence_package.write(run.home, verdict, folder)
    return folder


def trust_in(run: Run) -> Trust:
    """What a judge knows: the published key, and the newest published digest."""
    newest = commitments.of_home(run.home)[-1]
    authorities = timestamps.load_roots(STAMPED / "root.pem")
    return Trust(run.home.key.signing_key().public, newest.digest, authorities)


def signed_again(material: Material, folder: Path, key: SigningKey | None = None) -> None:
    """Sign a folder as it is now."""
    said = _signed_suspect(folder)
    answers = folder / evidence_package.ANSWERS
    if answers.exists() and answers.read_bytes() != good(material, evidence_package.ANSWERS):
        with contextlib.suppress(SmdlError):  # answers that are none have no digest
            said = recorded.digest(recorded.parse(json.loads(answers.read_bytes())))
            edit_file(folder / "verdict.json", lambda d: d["suspect"].update(sha256=said))
    _sign(folder, said, key or material.key)


def signed_as_it_is(material: Material, folder: Path) -> None:
    """Sign a folder as it is now, and nothing else."""
    _sign(folder, _signed_suspect(folder), material.key)


def _signed_suspect(folder: Path) -> str:
    return subjects(payload(folder / evidence_package.STATEMENT))[evidence_package.SUSPECT]


def _sign(folder: Path, suspect: str, key: SigningKey) -> None:
    about = {evidence_package.SUSPECT: suspect, **dict(evidence_package.digests(folder))}
    envelope = key.sign(about, evidence_package.KIND, {"time": "now"})
    (folder / evidence_package.STATEMENT).write_bytes(envelope)


def good(material: Material, name: str) -> bytes:
    """Return a file as it was."""
    return (material.folder / name).read_bytes()


def _material(run: Run, kind: str, folders: Sequence[Path], suspect: Path | None) -> Material:
    place = folders[0].parent
    key, trust = run.home.key.signing_key(), trust_in(run)
    innocent = _opened(run, kind, place / f"innocent-{kind}")
    return Material(kind, folders[0], suspect, (folders[1], folders[2]), key, trust, innocent)


def _opened(run: Run, kind: str, folder: Path) -> dict[str, Any]:
    """The entry that truly opens the last customer, whom the evidence does not accuse."""
    customer = run.customers[-1]
    copy = run.copies[customer]
    if kind == "file":
        verdict = verify(run.home, _write(folder.parent / f"copy-{kind}", copy))
    else:
        verdict = _answers(run, customer)
    name = evidence_package.TERMS if kind == "file" else evidence_package.WORDS
    opened = next(disclosed(run, verdict, folder).rglob(name))
    entry: dict[str, Any] = json.loads(opened.read_bytes())["customers"][0]
    return entry


def _answers(run: Run, customer: str) -> Verdict:
    predictor = thieves.served(run.copies[customer], run.model.spec)
    return questioning.question(run.home, predictor, customer, Question(pool=1))


def _write(path: Path, content: weights.Weights) -> Path:
    weights.write(path, content)
    return path


def payload(path: Path) -> dict[str, Any]:
    """Return what an envelope says."""
    document: dict[str, Any] = json.loads(
        base64.b64decode(json.loads(path.read_bytes())["payload"])
    )
    return document


def subjects(statement: dict[str, Any]) -> dict[str, str]:
    """Return what a statement is about."""
    return {s["name"]: s["digest"]["sha256"] for s in statement["subject"]}


def rewrite(folder: Path, key: SigningKey, change: Callable[[int, dict[str, Any]], object]) -> None:
    """Sign a whole chain again, each statement following the one before."""
    previous = commitments.FIRST
    for number, path in enumerate(
        sorted((folder / evidence_package.COMMITMENTS).glob("*.json")), start=1
    ):
        statement = payload(path)
        predicate = {**statement["predicate"], "previous": previous}
        if number == 1:
            predicate["public_key"] = key.public
        change(number, predicate)
        envelope = key.sign(subjects(statement), statement["predicateType"], predicate)
        path.write_bytes(envelope)
        previous = signing.digest(envelope)
