"""What is missing, expired or too open in the folder of a federation."""

import contextlib
import datetime
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from smdl_flower.deployment import certificates
from smdl_flower.deployment.folders import Federation

SOON = datetime.timedelta(days=30)
_OWNER_FILES = ("ca.key", "ca.crt", "server.key", "server.crt", "start.sh")
_PARTICIPANT_FILES = ("node.key", "ca.crt", "start.sh")


def problems(federation: Federation, now: datetime.datetime | None = None) -> list[str]:
    """Return what must be put right, each in one line; an empty list if all is well.

    Args:
        federation: From :func:`folders.load`.
        now: UTC; default is the present.
    """
    moment = now or datetime.datetime.now(datetime.UTC)
    return [
        *_missing(federation),
        *_open_to_others(federation.folder),
        *_certificates(federation, moment),
        *_keys(federation),
    ]


def _missing(federation: Federation) -> Iterator[str]:
    for name in _OWNER_FILES:
        if not (federation.owner / name).is_file():
            yield f"owner/{name}: missing; restore it from a backup"
    for participant in federation.participants:
        if not federation.public_key(participant).is_file():
            yield f"owner/participants/{participant}.pub: missing; {participant} cannot be admitted"
        place = federation.of(participant)
        if place.is_dir():  # handed over and removed here: nothing to check
            for name in _PARTICIPANT_FILES:
                if not (place / name).is_file():
                    yield f"participants/{participant}/{name}: missing; restore it from a backup"


def _open_to_others(folder: Path) -> Iterator[str]:
    for path in sorted([folder, *folder.rglob("*")]):
        mode = path.lstat().st_mode
        if not stat.S_ISLNK(mode) and mode & 0o077:
            shown = path.relative_to(folder.parent)
            yield f"{shown}: open to others ({stat.filemode(mode)}); say: chmod -R go= {folder}"
            return  # one line: the remedy is the same for all


def _certificates(federation: Federation, now: datetime.datetime) -> Iterator[str]:
    authority, server = federation.owner / "ca.crt", federation.owner / "server.crt"
    for path in (authority, server):
        if path.is_file():
            yield from _validity(path, now)
    if authority.is_file() and server.is_file():
        with contextlib.suppress(ValueError):  # unreadable: said above
            yield from _server_certificate(federation, server.read_bytes(), authority.read_bytes())
    for participant in federation.participants:
        copy = federation.of(participant) / "ca.crt"
        if copy.is_file() and authority.is_file() and copy.read_bytes() != authority.read_bytes():
            yield f"participants/{participant}/ca.crt: differs from owner/ca.crt; copy that one"


def _validity(path: Path, now: datetime.datetime) -> Iterator[str]:
    try:
        end = certificates.expires(path.read_bytes())
    except ValueError:
        yield f"owner/{path.name}: no certificate; restore it from a backup"
        return
    if end <= now:
        yield f"owner/{path.name}: expired on {end:%Y-%m-%d}; make the federation anew"
    elif end - now < SOON:
        yield f"owner/{path.name}: expires on {end:%Y-%m-%d}; make the federation anew before"


def _server_certificate(federation: Federation, server: bytes, authority: bytes) -> Iterator[str]:
    if not certificates.signed_by(server, authority):
        yield "owner/server.crt: not signed by owner/ca.crt; make the federation anew"
    if federation.server not in certificates.hosts(server):
        yield f"owner/server.crt: not for {federation.server}; make the federation anew"


def _keys(federation: Federation) -> Iterator[str]:
    for name in ("ca", "server"):
        pair = federation.owner / f"{name}.key", federation.owner / f"{name}.crt"
        if not _match(*pair, certificates.belong_together):
            yield f"owner/{name}.key: not the key of {name}.crt; restore both"
    for participant in federation.participants:
        pair = federation.of(participant) / "node.key", federation.public_key(participant)
        if not _match(*pair, lambda key, public: certificates.public_of(key) == public):
            yield f"participants/{participant}/node.key: not that of {pair[1].name}; restore it"


def _match(private: Path, public: Path, belong: Callable[[bytes, bytes], bool]) -> bool:
    if not (private.is_file() and public.is_file()):
        return True  # what is missing was said above
    try:
        return belong(private.read_bytes(), public.read_bytes())
    except ValueError:
        return False
