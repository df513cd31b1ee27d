"""Is a home whole? Everything that a verdict or a judge would need is read and compared.

Nothing is written. Logs of what suspects answered (``asked/``) are checked when they are used. What
cannot be found out from the home alone is whether all of it was put back to an earlier state; only
what was published tells that (``newest``).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from smdl_flower import commitments, rotation
from smdl_flower.commitments import Commitment
from smdl_flower.errors import IntegrityError
from smdl_flower.home import OwnerHome
from smdl_flower.vault import BaseModel

OPEN_TO_OTHERS = 0o077


@dataclass(frozen=True)
class Findings:
    """What a home holds, all of it in order.

    Attributes:
        keys: Master keys.
        customers: In the registry.
        models: Base models; each was loaded, and its mark made.
        copies: That were issued.
        broadcasts: Models sent in training; each was loaded.
        commitments: Statements.
        newest_commitment: Digest of the newest; empty if there is none.
        remarks: What the owner should see to, in sentences.
    """

    keys: int
    customers: int
    models: int
    copies: int
    broadcasts: int
    commitments: int
    newest_commitment: str
    remarks: tuple[str, ...]


def check(home: OwnerHome, newest: str | None = None) -> Findings:
    """Read all of a home and compare it with what the registry says.

    Args:
        home: Open.
        newest: Digest of the newest commitment that the owner published.

    Raises:
        IntegrityError: Something is missing, or not as it was written; or the home is older than
            what was published.
    """
    chain = commitments.of_home(home)
    if newest is not None:
        require_published(chain, newest)
    models = home.registry.models()
    for model in home.base_models():
        home.mark(model)
        _require_committed(home, model, commitments.newest_of(chain, model.digest))
    sent = {record.model_sha256 for record in home.registry.broadcasts()}
    for digest in sent:
        home.vault.load_broadcast(digest)
    return Findings(
        keys=len(home.keys),
        customers=len(home.registry.customers()),
        models=len(models),
        copies=sum(len(home.registry.copies(model_id)) for model_id in models),
        broadcasts=len(sent),
        commitments=len(chain),
        newest_commitment=chain[-1].digest if chain else "",
        remarks=tuple(_remarks(home)),
    )


def require_published(chain: Sequence[Commitment], newest: str) -> None:
    """Refuse a chain that lacks a statement that was published.

    Raises:
        IntegrityError: It does: copies may be out, and statements published, that this home does
            not know of.
    """
    if newest.lower() not in [c.digest for c in chain]:
        raise IntegrityError(
            f"the published commitment {newest[:64]!r} is not among the {len(chain)} of this home: "
            "it is an older state; use a later backup"
        )


def _require_committed(home: OwnerHome, model: BaseModel, statement: Commitment | None) -> None:
    """The key of a base model is the one that was committed to, if anything was."""
    streams = commitments.stream_digests(home.campaign(model), model)
    if statement and statement.predicate.get("streams") != streams:
        raise IntegrityError(
            f"model {model.model_id}: another key was committed to than the registry says it "
            "belongs to"
        )


def _remarks(home: OwnerHome) -> list[str]:
    remarks = []
    if home.tracing_only:
        remarks.append(f"nothing can be recorded: {home.tracing_only}")
    if not rotation.is_finished(home):
        remarks.append("a rotation was interrupted; finish it with: smdl key rotate")
    exposed = [path for path in _paths(home.path) if path.stat().st_mode & OPEN_TO_OTHERS]
    if exposed:
        more = f" and {len(exposed) - 1} more" if exposed[1:] else ""
        remarks.append(f"others can read {exposed[0]}{more}; say: chmod -R go= {home.path}")
    return remarks


def _paths(folder: Path) -> list[Path]:
    return [folder, *sorted(path for path in folder.rglob("*") if not path.is_symlink())]
