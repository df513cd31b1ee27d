"""A folder that convinces others: verdict, published commitments, and what a judge must be shown.

``verdict.json`` and ``report.html`` are for everybody. ``commitments/`` is the chain that was
published before copies went out. ``disclosure/`` is for a judge alone: the base model, how it is
read, and the keys of the customers who are named; no other customer's, and not the master key.
``statement.json`` signs the digests of all of it and of the suspect.
"""

import datetime
import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from smdl_flower import commitments, files, merkle, weights
from smdl_flower.commitments import Commitment
from smdl_flower.errors import ConfigError
from smdl_flower.evidence import Verdict
from smdl_flower.home import OwnerHome
from smdl_flower.vault import BaseModel

KIND = "urn:smdl-flower:evidence:1"
DISCLOSURE_FORMAT = "smdl-disclosure/1"
STATEMENT, VERDICT = "statement.json", "verdict.json"
COMMITMENTS, DISCLOSURE = "commitments", "disclosure"
TERMS = "terms.json"
SUSPECT = "suspect"


def require_disclosable(home: OwnerHome, verdict: Verdict) -> None:
    """Refuse a verdict that a judge could not compute anew.

    Raises:
        ConfigError: Nobody is named by a file's weights, or what was named was never committed to.
    """
    if not verdict.accused or verdict.queries:
        raise ConfigError(
            "--disclose: only a copy that names its customer by its weights can be judged anew; "
            "this verdict names none"
        )
    chain = commitments.of_home(home)
    for model_id in _models_of(verdict):
        if not commitments.newest_of(chain, model_id):
            raise ConfigError(
                f"--disclose: nothing was committed to before copies of model {model_id} went out"
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
        _disclose(home, models[model_id], commitments.newest_of(chain, model_id), accused, place)
    predicate = {"time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")}
    subjects = {SUSPECT: verdict.suspect.sha256, **dict(digests(folder))}
    files.write(folder / STATEMENT, home.key.signing_key().sign(subjects, KIND, predicate))


def digests(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield name and SHA-256 of every file of a package but the statement itself."""
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if name != STATEMENT and (path.is_symlink() or not path.is_dir()):
            yield name, hashlib.sha256(weights.read_bytes(path)).hexdigest()


def _disclose(
    home: OwnerHome,
    model: BaseModel,
    commitment: Commitment | None,
    accused: list[str],
    place: Path,
) -> None:
    assert commitment is not None  # noqa: S101 - require_disclosable
    campaign = model.key(home.key)
    # Customers are only ever added: those of a statement are the first ones of today's.
    names = home.registry.customers()[: commitment.predicate["customers"]]
    leaves = [commitments.leaf(campaign.customer(name)) for name in names]
    opened = campaign.open(commitments.opened_streams(model))
    document: dict[str, Any] = {
        "format": DISCLOSURE_FORMAT,
        "model_id": model.model_id,
        "spec": asdict(model.spec),
        "commitment_sha256": commitment.digest,
        "streams": {label: secret.hex() for label, secret in opened.secrets.items()},
        "customers": [
            {
                "customer": name,
                "key": campaign.customer(name).secret.hex(),
                "index": names.index(name),
                "proof": [step.hex() for step in merkle.proof(leaves, names.index(name))],
            }
            for name in accused
        ],
    }
    for name, part in commitments.parts_of(model).items():
        weights.write(place / f"{name}.safetensors", part)
    files.write(place / TERMS, json.dumps(document, indent=2).encode())


def _models_of(verdict: Verdict) -> list[str]:
    return sorted({accusation.model_id for accusation in verdict.accused})
