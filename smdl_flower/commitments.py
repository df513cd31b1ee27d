"""What an owner publishes before copies go out, so that nothing can be invented after a leak.

A chain of signed statements in ``HOME/commitments``: first the owner's own, then one for each base
model and each list of customers that copies are made for. A statement binds to the base model, the
mark's parameters, the secrets that a judge would be shown, and to every customer's key (the root of
a Merkle tree), and tells none of them. Each names the digest of the one before: publish the newest,
or have it time-stamped, and none can be put in earlier. When the master key is changed, a statement
signed by the old one names the new one, which signs all that follow.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from smdl_flower import clock, files, merkle, signing, weights
from smdl_flower.blackbox.queries import Pool
from smdl_flower.errors import IntegrityError
from smdl_flower.evidence import versions
from smdl_flower.fingerprint import carriers
from smdl_flower.fingerprint.accusation import DEFAULT_BOUND
from smdl_flower.fingerprint.keys import CampaignKey, CustomerKey, OwnerKey
from smdl_flower.fingerprint.layout import Layout
from smdl_flower.home import OwnerHome
from smdl_flower.signing import PUBLIC_BYTES, SigningKey, Statement
from smdl_flower.vault import BaseModel

OWNER_KIND = "urn:smdl-flower:commitment:owner:1"
CAMPAIGN_KIND = "urn:smdl-flower:commitment:campaign:1"
ROTATION_KIND = "urn:smdl-flower:commitment:rotation:1"
DETECTOR = "smdl-carrier/1"  # read and compared as docs/formats.md, section 4, says
OWNER, BASE, PROFILE, TAUGHT = "key", "base", "profile", "taught"
FIRST = ""  # what the first statement says of the one before


@dataclass(frozen=True)
class Commitment:
    """A signed statement of the chain.

    Attributes:
        envelope: As published.
        kind: :data:`OWNER_KIND`, :data:`CAMPAIGN_KIND` or :data:`ROTATION_KIND`.
        subjects: SHA-256 of what it is about.
        predicate: What it says.
        signer: Public key, hexadecimal.
    """

    envelope: bytes
    kind: str
    subjects: dict[str, str]
    predicate: dict[str, Any]
    signer: str

    @property
    def digest(self) -> str:
        """SHA-256 of the envelope."""
        return signing.digest(self.envelope)

    @property
    def model_id(self) -> str:
        """Short name of the base model that it is about; empty if it is about none."""
        return self.subjects.get(BASE, "")[:16]


def publish(home: OwnerHome, model: BaseModel) -> Commitment:
    """Commit to a base model and to the keys of all customers there are now.

    If the newest statement about the model says just that, it is returned instead.

    Raises:
        IntegrityError: The chain in the home is damaged.
    """
    with files.locked(directory(home)):  # two processes cannot both be next
        chain = of_home_begun(home)
        campaign = home.campaign(model)
        customers = home.registry.customers()
        leaves = [leaf(campaign.customer(name)) for name in customers]
        stated = {
            **_terms(model),
            "customers": len(customers),
            "merkle_root": merkle.root(leaves).hex(),
            "streams": stream_digests(campaign, model),
            "pools": [_pool(campaign, pool, customers) for pool in pools_of(model)],
        }
        newest = newest_of(chain, model.digest)
        subjects = {name: weights.digest(part) for name, part in parts_of(model).items()}
        if newest and newest.subjects == subjects and stated == _part(newest.predicate, stated):
            home.registry.record_commitments([c.digest for c in chain])  # a crash came before that
            return newest
        return _append(home, chain, CAMPAIGN_KIND, subjects, stated)


def publish_owner(home: OwnerHome) -> Commitment:
    """Write the first statement of a new home: the master key's commitment, and who signs."""
    return _append(home, [], OWNER_KIND, *_introduced(home.keys[0]))


def publish_rotation(home: OwnerHome) -> list[Commitment]:
    """Write the statements, if any are missing, that lead to the home's newest key.

    Returns:
        The chain.
    """
    with files.locked(directory(home)):
        chain = of_home_begun(home)
        for key in home.keys[len(keys_of(chain)) :]:
            chain.append(_append(home, chain, ROTATION_KIND, *_introduced(key)))
        return chain


def signer(home: OwnerHome, chain: Sequence[Commitment]) -> SigningKey:
    """Return the key that signs what follows a home's statements."""
    return home.keys[max(len(keys_of(chain)), 1) - 1].signing_key()


def keys_of(chain: Sequence[Commitment]) -> list[str]:
    """Return the public keys that sign a chain, each introduced by the one before."""
    return [c.predicate["public_key"] for c in chain if c.kind in (OWNER_KIND, ROTATION_KIND)]


def of_home_begun(home: OwnerHome) -> list[Commitment]:
    """Return the chain of a home, with its first statement if ``smdl init`` was cut off before it.

    Raises:
        IntegrityError: The chain in the home is damaged.
    """
    return of_home(home) or [publish_owner(home)]


def of_home(home: OwnerHome) -> list[Commitment]:
    """Return the chain of a home, checked.

    Raises:
        IntegrityError: A statement is missing, altered, or in another place.
    """
    recorded = home.registry.commitments()  # first: files are written before they are recorded
    folder = directory(home)
    envelopes = [path.read_bytes() for path in sorted(folder.glob("*.json"))]
    chain = check_chain(envelopes, home.keys[0].signing_key().public)
    own = [key.signing_key().public for key in home.keys]
    if keys_of(chain) != own[: len(keys_of(chain))]:
        raise IntegrityError(f"{folder}: another master key signs; restore master.key")
    if tuple(c.digest for c in chain[: len(recorded)]) != recorded:
        raise IntegrityError(
            f"{folder}: not the {len(recorded)} statements that the registry says were published; "
            "restore them from a backup"
        )
    return chain


def check_chain(envelopes: Sequence[bytes], public: str) -> list[Commitment]:
    """Check statements that may be hostile, and return them.

    Args:
        envelopes: In their order.
        public: Key that must have signed the first of them.

    Raises:
        IntegrityError: One is not signed by the key in charge, or does not follow the one before.
    """
    chain: list[Commitment] = []
    for number, envelope in enumerate(envelopes):
        kinds = (CAMPAIGN_KIND, ROTATION_KIND) if number else (OWNER_KIND,)
        said = signing.read(envelope, public, *kinds)
        before = chain[-1].digest if chain else FIRST
        if said.predicate.get("previous") != before:
            raise IntegrityError(f"commitment {number + 1} does not follow the one before it")
        chain.append(Commitment(envelope, said.kind, said.subjects, said.predicate, public))
        if said.kind == ROTATION_KIND:
            public = _named_key(said)
        elif said.kind == OWNER_KIND and _named_key(said) != public:
            raise IntegrityError("the first commitment names another key than signs it")
    return chain


def stamp_file(home: OwnerHome, number: int) -> Path:
    """Return where the time stamp of a statement is kept, counted from 1."""
    return directory(home) / f"{number:06d}.tsr"


def newest_of(chain: Sequence[Commitment], base: str) -> Commitment | None:
    """Return the newest statement about a base model, by its digest or model id."""
    about = ((c, c.subjects.get(BASE, "")) for c in reversed(chain))
    return next((c for c, digest in about if digest.startswith(base)), None)


def leaf(key: CustomerKey) -> bytes:
    """Return the hash that stands for a customer in a statement; it tells neither name nor key."""
    entry = [key.customer, hashlib.sha256(key.secret).hexdigest()]
    return merkle.leaf_hash(json.dumps(entry).encode())


def word_leaf(customer: str, pool: int, secret: bytes) -> bytes:
    """Return the hash that stands for a customer's codeword for a pool of queries.

    The word can then be opened alone, without the key that all else of the customer follows from.

    Args:
        customer: Name.
        pool: Its number.
        secret: Of the key stream that the word is drawn from.
    """
    entry = [customer, pool, hashlib.sha256(secret).hexdigest()]
    return merkle.leaf_hash(json.dumps(entry).encode())


def word_leaves(campaign: CampaignKey, pool: Pool, customers: Sequence[str]) -> list[bytes]:
    """Return the leaf of each customer's word for a pool."""
    keys = map(campaign.customer, customers)
    return [word_leaf(key.customer, pool.number, key.open(pool.word_label)) for key in keys]


def pools_of(model: BaseModel) -> tuple[Pool, ...]:
    """Return the pools of queries of a base model."""
    return model.queries.pools if model.queries else ()


def opened_streams(model: BaseModel) -> tuple[str, ...]:
    """Return the labels of the key streams that a judge needs to read a suspect."""
    size = Layout.of(model.weights).size
    compressed = (model.carrier_length or carriers.length_for(size)) < size
    return ("chips", "payload") if compressed else ("payload",)


def stream_digests(campaign: CampaignKey, model: BaseModel) -> dict[str, str]:
    """Return the SHA-256 of the secret of each of these streams."""
    return digests(campaign.open(opened_streams(model)).secrets)


def digests(secrets: Mapping[str, bytes]) -> dict[str, str]:
    """Return the SHA-256 of each secret, hexadecimal."""
    return {label: hashlib.sha256(secret).hexdigest() for label, secret in secrets.items()}


def parts_of(model: BaseModel) -> dict[str, weights.Weights]:
    """Return the weights that a judge needs to read a suspect, by what statements call them."""
    layout = Layout.of(model.weights)
    profile = {t.name: model.profile[t.where].reshape(t.shape) for t in layout.tensors}
    taught = {TAUGHT: {model.taught.name: model.taught.basis}} if model.taught else {}
    return {BASE: model.weights, PROFILE: profile, **taught}


def directory(home: OwnerHome) -> Path:
    """Return where a home keeps its statements."""
    return home.path / "commitments"


def _terms(model: BaseModel) -> dict[str, Any]:
    size = Layout.of(model.weights).size
    return {
        "detector": DETECTOR,
        "spec": asdict(model.spec),
        "code": asdict(model.code),
        "query_code": asdict(model.queries.code) if model.queries else None,
        "max_false_accusation": DEFAULT_BOUND,
        "strength": model.strength,
        "carrier_length": model.carrier_length or carriers.length_for(size),
    }


def _pool(campaign: CampaignKey, pool: Pool, customers: Sequence[str]) -> dict[str, Any]:
    root = merkle.root(word_leaves(campaign, pool, customers))
    return {"sha256": pool.digest(), "merkle_root": root.hex()}


def _append(
    home: OwnerHome,
    chain: Sequence[Commitment],
    kind: str,
    subjects: Mapping[str, str],
    stated: Mapping[str, Any],
) -> Commitment:
    predicate = {
        **stated,
        "previous": chain[-1].digest if chain else FIRST,
        "time": clock.now(),
        "versions": versions(),
    }
    home.require_writable()  # before a statement is out that could not be recorded
    key = signer(home, chain)
    envelope = key.sign(subjects, kind, predicate)
    path = directory(home) / f"{len(chain) + 1:06d}.json"
    files.write(path, envelope, replace=False)
    added = Commitment(envelope, kind, dict(subjects), predicate, key.public)
    home.registry.record_commitments([c.digest for c in (*chain, added)])
    return added


def _named_key(statement: Statement) -> str:
    """The public key that a statement brings."""
    try:
        text = statement.predicate["public_key"]
        if len(bytes.fromhex(text)) != PUBLIC_BYTES or text != text.lower():
            raise ValueError(text)
    except (KeyError, TypeError, ValueError):
        raise IntegrityError("a commitment brings no signing key") from None
    return str(text)


def _introduced(key: OwnerKey) -> tuple[dict[str, str], dict[str, Any]]:
    """What a statement says that brings a key: subjects and predicate."""
    keys = {"public_key": key.signing_key().public, "bundle_key": key.bundle_key().public_id}
    return {OWNER: key.commitment()}, keys


def _part(predicate: Mapping[str, Any], like: Mapping[str, Any]) -> dict[str, Any]:
    return {key: predicate.get(key) for key in like}
