"""Open an evidence package that may be hostile: what was signed, and what was committed to.

Nothing in a package is believed for being there. All files are those that the owner signed, the
commitments follow each other, and each opened secret is the one that a commitment binds to. What
the owner alone could have made up later is left to those who compute it anew.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography import x509

from smdl_flower import (
    commitments,
    evidence_package,
    merkle,
    signing,
    timestamps,
    verifying,
    weights,
)
from smdl_flower.commitments import Commitment
from smdl_flower.errors import IntegrityError, SmdlError
from smdl_flower.fingerprint.accusation import Level
from smdl_flower.weights import Limits

SMALL = Limits(file_bytes=16 << 20)  # of a JSON file
# What a document of another shape than expected may raise when it is taken apart.
SHAPELESS = (LookupError, TypeError, ValueError, ArithmeticError, AttributeError, StopIteration)
MODEL_ID = 16  # digits
MOST = 1 << 40  # customers, or tests
LONG = Limits(file_bytes=1 << 30)  # of one with answers


@dataclass(frozen=True)
class Package:
    """A package whose signatures and digests hold.

    Attributes:
        folder: Where it is.
        keys: That sign the commitments, hexadecimal, each named by the one before; the last one
            signed all of the package.
        chain: Commitments that count: all, or those up to the one that is known as published.
        later: Commitments after these.
        suspect_sha256: Of the suspect that was signed for.
        verdict: The verdict, as the owner states it.
    """

    folder: Path
    keys: tuple[str, ...]
    chain: list[Commitment]
    later: list[Commitment]
    suspect_sha256: str
    verdict: dict[str, Any] = field(repr=False)

    @classmethod
    def open(cls, folder: Path, public: str | None, published: str | None = None) -> "Package":
        """Check a package.

        Args:
            folder: May be hostile.
            public: A key that the owner published, hexadecimal, the newest or one that it took over
                from; None believes the package's own.
            published: Digest of the newest commitment known to have been published in time.

        Raises:
            IntegrityError: Something was changed.
        """
        chain_files = sorted((folder / evidence_package.COMMITMENTS).glob("*.json"))
        if not chain_files:
            raise IntegrityError(f"{folder}: no evidence package, it has no commitments")
        envelopes = [content(path) for path in chain_files]
        chain = commitments.check_chain(envelopes, signing.claimed_key(envelopes[0]))
        # Each key signs the statement that names the next, and the last one all files: whoever
        # trusts any of them has the word of that key for what it handed over to, and so for all.
        keys = tuple(commitments.keys_of(chain))
        if public is not None and public.lower() not in keys:
            raise IntegrityError(f"the evidence is not signed by key {_short(public)}")
        statement = signing.read(
            content(folder / evidence_package.STATEMENT), keys[-1], evidence_package.KIND
        )
        subjects = dict(statement.subjects)
        suspect = subjects.pop(evidence_package.SUSPECT, "")
        if dict(_digests(folder)) != subjects:
            raise IntegrityError(f"{folder}: files are not those that were signed")
        count = len(chain) if published is None else _place(chain, published)
        verdict = document(folder / evidence_package.VERDICT)
        return cls(folder, keys, chain[:count], chain[count:], suspect, verdict)

    def stamped_at(self, used: Sequence[str], authorities: Sequence[x509.Certificate]) -> str:
        """When the newest of some statements had been seen; a stamp holds for all before it."""
        if not authorities:
            return ""
        chain = [*self.chain, *self.later]
        last = max(n for n, commitment in enumerate(chain) if commitment.digest in used)
        times = []
        for number in range(last, len(chain)):
            path = self.folder / evidence_package.COMMITMENTS / f"{number + 1:06d}.tsr"
            if path.exists():
                stamp = timestamps.read(path)
                times.append(timestamps.check(stamp, chain[number].envelope, authorities))
        return min(times, default="")

    @property
    def was_asked(self) -> bool:
        """Whether the verdict rests on answers of the suspect, not on a file."""
        return "queries" in self.verdict

    @property
    def model_ids(self) -> list[str]:
        """Base models whose customers are accused."""
        found = sorted({model_id for model_id, _ in self._accused()})
        if not found:
            raise IntegrityError("the verdict names no customer: there is nothing to judge")
        return found

    def accused_of(self, model_id: str) -> set[str]:
        """Return who is accused of a base model's copy."""
        return {customer for model, customer in self._accused() if model == model_id}

    def level(self, commitment: Commitment, hypotheses: int) -> Level:
        """What each comparison may spend: never more than was committed to.

        Args:
            commitment: Of the base model.
            hypotheses: Tests of a word that there are at least.
        """
        stated, committed = self.stated_level(), commitment.predicate
        try:
            return Level(
                min(stated.total, float(committed["max_false_accusation"])),
                max(stated.words, _count(committed["customers"])),
                max(stated.hypotheses, hypotheses),
            )
        except SHAPELESS:
            raise IntegrityError("a commitment is damaged") from None

    def stated_level(self) -> Level:
        """What each comparison may spend by the verdict's own account."""
        try:
            total, words = self.verdict["max_false_accusation"], self.verdict["customers"]
            words = _count(words) + _count(self.verdict["broadcasts"])
            verifying.check_bound(float(total))
            return Level(float(total), words, _count(self.verdict["hypotheses"]))
        except (*SHAPELESS, SmdlError):
            raise IntegrityError("verdict.json is damaged") from None

    def committed(self, model_id: str, digest: str | None = None) -> Commitment:
        """Return the newest statement about a base model, which is all that a judge may use.

        Args:
            model_id: Of the base model.
            digest: Of its weights, if these are shown.

        Raises:
            IntegrityError: There is none.
        """
        about = digest or model_id
        found = commitments.newest_of(self.chain, about)
        if found is None and commitments.newest_of(self.later, about):
            raise IntegrityError(
                f"model {model_id}: was committed to only after the statement that is known as "
                "published"
            )
        if found is None or not about.startswith(model_id) or len(model_id) != MODEL_ID:
            raise IntegrityError(f"model {model_id}: this base model was never committed to")
        if found.predicate.get("detector") != commitments.DETECTOR:
            raise IntegrityError(
                f"this version reads {commitments.DETECTOR}, not what was committed to"
            )
        return found

    def place(self, model_id: str) -> Path:
        """Return the folder of what is disclosed of a base model."""
        return self.folder / evidence_package.DISCLOSURE / Path(model_id).name

    def _accused(self) -> list[tuple[str, str]]:
        try:
            found = [(str(a["model_id"]), str(a["customer"])) for a in self.verdict["accused"]]
        except SHAPELESS:
            raise IntegrityError("verdict.json is damaged") from None
        if len(set(found)) != len(found):
            raise IntegrityError("verdict.json accuses somebody twice")
        return found


def check_about(opened: dict[str, Any], name: str, commitment: Commitment) -> None:
    """Raise :class:`IntegrityError` unless a disclosure is of that format and commitment."""
    model_id = str(opened["model_id"])
    base = commitment.subjects.get(commitments.BASE, "")
    if (opened["format"], opened["commitment_sha256"]) != (name, commitment.digest) or (
        len(model_id) != MODEL_ID or not base.startswith(model_id)
    ):
        raise IntegrityError("what is disclosed belongs to another commitment")


def check_opened(leaf: bytes, entry: dict[str, Any], root: object, count: int) -> None:
    """Raise :class:`IntegrityError` unless an opened secret is the one committed to.

    Args:
        leaf: Of the secret, as opened.
        entry: With its ``customer``, ``index`` and ``proof``.
        root: Of the tree that was committed to.
        count: Leaves of that tree.
    """
    path = [bytes.fromhex(step) for step in entry["proof"]]
    found = merkle.check(leaf, int(entry["index"]), count, path)
    if found is None or found.hex() != root:
        name = str(entry["customer"])[:80]
        raise IntegrityError(f"customer {name!r}: another key was committed to")


def content(path: Path, limits: Limits = SMALL) -> bytes:
    """Return the bytes of a file of a package.

    Raises:
        IntegrityError: It is missing, no plain file, or too large.
    """
    try:
        return weights.read_bytes(path, limits)
    except SmdlError as error:
        raise IntegrityError(str(error)) from None


def document(path: Path, limits: Limits = SMALL) -> dict[str, Any]:
    """Return the JSON object in a file of a package.

    Raises:
        IntegrityError: There is none.
    """
    try:
        found = json.loads(content(path, limits))
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise IntegrityError(f"{path.name} is damaged")
    return found


def _count(value: Any) -> int:
    """A number of things, if it is a reasonable one."""
    if type(value) is not int or not 0 <= value <= MOST:
        raise ValueError("no count")
    return value


def _place(chain: Sequence[Commitment], published: str) -> int:
    """How many statements there are up to the published one."""
    for number, commitment in enumerate(chain, start=1):
        if commitment.digest == published.strip().lower():
            return number
    raise IntegrityError(f"commitment {published[:16]} is not in the chain of this evidence")


def _short(public: str) -> str:
    try:
        return signing.key_id(public)
    except ValueError:
        return repr(public[:80])


def _digests(folder: Path) -> Sequence[tuple[str, str]]:
    try:
        return list(evidence_package.digests(folder))
    except SmdlError as error:  # a link, a pipe, too large
        raise IntegrityError(str(error)) from None
