"""A folder that convinces others: verdict, published commitments, and what a judge must be shown.

``verdict.json`` and ``report.html`` are for everybody. ``commitments/`` is the chain that was
published before copies went out. ``disclosure/`` is for a judge alone. Of a file: the base model,
how it is read, and the keys of the customers who are named. Of a suspect that was asked: the pool
of queries and these customers' codewords for it, and ``answers.json`` beside. No other customer's
key or word, and not the master key. ``statement.json`` signs the digests of all of it and of the
suspect.
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from smdl_flower import clock, commitments, files, merkle, weights
from smdl_flower.blackbox import recorded
from smdl_flower.blackbox.recorded import Heard
from smdl_flower.commitments import Commitment
from smdl_flower.errors import ConfigError
from smdl_flower.evidence import Accusation, Verdict
from smdl_flower.home import OwnerHome
from smdl_flower.vault import BaseModel

KIND = "urn:smdl-flower:evidence:1"
DISCLOSURE_FORMAT = "smdl-disclosure/1"
WORDS_FORMAT = "smdl-opened-words/1"
STATEMENT, VERDICT = "statement.json", "verdict.json"
COMMITMENTS, DISCLOSURE = "commitments", "disclosure"
TERMS = "terms.json"
ANSWERS, POOL, WORDS = "answers.json", "queries.bin", "words.json"
SUSPECT = "suspect"
CLOSED_BIASES = (
    "codewords of a Tardos code (fingerprint.code) are compared with secret biases; these are not "
    "shown to a judge, since whoever knows them forges codewords better"
)


def require_disclosable(home: OwnerHome, verdict: Verdict) -> list[str]:
    """Refuse a verdict that a judge could not compute anew.

    Returns:
        As :func:`not_judged`: whom a judge cannot confirm all the same.

    Raises:
        ConfigError: No customer is named, not by what a judge can compute, or what was named was
            never committed to.
    """
    if not verdict.accused:
        raise ConfigError(
            "--disclose: only a copy that names its customer can be judged anew; this verdict "
            "names none"
            + (
                " (nothing was committed to before models of training were sent to participants)"
                if verdict.participants
                else ""
            )
        )
    chain = commitments.of_home(home)
    for model_id in _models_of(verdict):
        newest = commitments.newest_of(chain, model_id)
        if not newest or _misses(newest, verdict):
            raise ConfigError(
                f"--disclose: nothing was committed to before copies of model {model_id} went out"
                + (", or it lacks what this version judges" if newest else "")
            )
    left = not_judged(home, verdict)
    if left == [a.customer for a in verdict.accused]:
        raise ConfigError(f"--disclose: {CLOSED_BIASES}")
    return left


def not_judged(home: OwnerHome, verdict: Verdict) -> list[str]:
    """Return who is named by a verdict, but not by anything that a judge is shown.

    These are named by codewords alone, of a code whose biases stay a secret.
    """
    models = {model.model_id: model for model in home.base_models()}
    return [
        a.customer for a in verdict.accused if not _can_be_judged(a, models[a.model_id], verdict)
    ]


def _can_be_judged(accusation: Accusation, model: BaseModel, verdict: Verdict) -> bool:
    if verdict.queries:
        return model.queries is not None and model.queries.code.kind == "flat"
    return model.code.kind == "flat" or any(w.evidence == "carrier" for w in accusation.witnesses)


def _misses(newest: Commitment, verdict: Verdict) -> bool:
    """Whether a statement of an early version lacks what a judge needs."""
    return "code" not in newest.predicate or bool(
        verdict.queries and not newest.predicate.get("pools")
    )


def write(home: OwnerHome, verdict: Verdict, folder: Path) -> None:
    """Add commitments, disclosure and signature to a folder that holds the verdict.

    Args:
        home: Of the owner.
        verdict: For which :func:`require_disclosable` holds.
        folder: Has ``verdict.json`` and, if wanted, other files, which are signed as well.

    Raises:
        OutputExistsError: It holds evidence already.
    """
    files.refuse_to_overwrite(folder / STATEMENT)
    chain = commitments.of_home(home)
    for number, commitment in enumerate(chain):
        files.write(folder / COMMITMENTS / f"{number + 1:06d}.json", commitment.envelope)
        stamp = commitments.stamp_file(home, number + 1)
        if stamp.exists():
            files.write(folder / COMMITMENTS / stamp.name, stamp.read_bytes())
    models = {model.model_id: model for model in home.base_models()}
    for model_id in _models_of(verdict):
        place = folder / DISCLOSURE / model_id
        accused = [a.customer for a in verdict.accused if a.model_id == model_id]
        opening = _Opening(home, models[model_id], commitments.newest_of(chain, model_id), accused)
        if verdict.queries:
            opening.write_words(next(h for h in verdict.heard if h.model_id == model_id), place)
        else:
            opening.write_keys(place)
    if verdict.queries:
        files.write_json(folder / ANSWERS, recorded.document(verdict.heard))
    predicate = {"time": clock.now()}
    subjects = {SUSPECT: verdict.suspect.sha256, **dict(digests(folder))}
    signed = commitments.signer(home, chain).sign(subjects, KIND, predicate)
    files.write(folder / STATEMENT, signed)


def digests(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield name and SHA-256 of every file of a package but the statement itself."""
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if name != STATEMENT and (path.is_symlink() or not path.is_dir()):
            yield name, hashlib.sha256(weights.read_bytes(path)).hexdigest()


class _Opening:
    """Writes what a judge is shown of one base model and the accused.

    Args:
        home: Of the owner.
        model: The base model.
        commitment: The newest about it.
        accused: Customers.
    """

    def __init__(
        self, home: OwnerHome, model: BaseModel, commitment: Commitment | None, accused: list[str]
    ) -> None:
        assert commitment is not None  # noqa: S101 - require_disclosable
        self._model, self._accused = model, accused
        self._campaign = home.campaign(model)
        # Customers are only ever added: those of a statement are the first ones of today's.
        self._names = home.registry.customers()[: commitment.predicate["customers"]]
        self._document = {"model_id": model.model_id, "commitment_sha256": commitment.digest}

    def write_keys(self, place: Path) -> None:
        """Write base model, how it is read, and the keys of the accused."""
        keys = {name: self._campaign.customer(name) for name in self._names}
        leaves = [commitments.leaf(key) for key in keys.values()]
        streams = self._campaign.open(commitments.opened_streams(self._model))
        document = {
            "format": DISCLOSURE_FORMAT,
            **self._document,
            "streams": {label: secret.hex() for label, secret in streams.secrets.items()},
            "customers": [
                {**self._proof(leaves, name), "key": keys[name].secret.hex()}
                for name in self._accused
            ],
        }
        for name, part in commitments.parts_of(self._model).items():
            weights.write(place / f"{name}.safetensors", part)
        files.write(place / TERMS, json.dumps(document, indent=2).encode())

    def write_words(self, heard: Heard, place: Path) -> None:
        """Write the pool that was asked, and the words of the accused for it."""
        pool = commitments.pools_of(self._model)[heard.pool - 1]
        leaves = commitments.word_leaves(self._campaign, pool, self._names)
        document = {
            "format": WORDS_FORMAT,
            **self._document,
            "pool": pool.number,
            "answers": pool.answers.tolist(),
            "customers": [
                {
                    **self._proof(leaves, name),
                    "secret": self._campaign.customer(name).open(pool.word_label).hex(),
                }
                for name in self._accused
            ],
        }
        files.write(place / POOL, pool.images.tobytes())
        files.write(place / WORDS, json.dumps(document).encode())

    def _proof(self, leaves: list[bytes], name: str) -> dict[str, Any]:
        index = self._names.index(name)
        steps = [step.hex() for step in merkle.proof(leaves, index)]
        return {"customer": name, "index": index, "proof": steps}


def _models_of(verdict: Verdict) -> list[str]:
    return sorted({accusation.model_id for accusation in verdict.accused})
