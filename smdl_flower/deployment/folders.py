"""The folder of a federation: what the owner keeps, and one folder to hand to each participant.

    FEDERATION/federation.json          server, port, participants
    FEDERATION/owner/                   authority, server certificate, participants' public keys
    FEDERATION/participants/NAME/       what NAME gets, and nobody else

A participant's folder holds its own private key and public things only.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from smdl_flower import files
from smdl_flower.deployment import certificates, scripts
from smdl_flower.deployment.certificates import DAYS, Credentials
from smdl_flower.errors import ConfigError, MissingFileError
from smdl_flower.registry import check_names

FORMAT = "smdl-federation/1"
EXECUTABLE = 0o700


@dataclass(frozen=True)
class Federation:
    """A federation as its folder describes it.

    Attributes:
        folder: Where it is.
        server: Name or address by which participants reach the server.
        port: Of the server.
        participants: Names, in the order of their numbers (Flower's ``partition-id``).
    """

    folder: Path
    server: str
    port: int
    participants: tuple[str, ...]

    @property
    def address(self) -> str:
        """Host and port, as Flower takes them."""
        host = f"[{self.server}]" if ":" in self.server else self.server
        return f"{host}:{self.port}"

    @property
    def owner(self) -> Path:
        """The owner's part."""
        return self.folder / "owner"

    @property
    def state(self) -> Path:
        """What Flower stores while it runs: models too, so it is as secret as the vault."""
        return self.owner / "state"

    def of(self, participant: str) -> Path:
        """Return the folder that a participant is handed."""
        return self.folder / "participants" / participant

    def public_key(self, participant: str) -> Path:
        """Return where the owner keeps a participant's public key."""
        return self.owner / "participants" / f"{participant}.pub"


def create(
    folder: Path, server: str, participants: Sequence[str], *, port: int, days: int = DAYS
) -> Federation:
    """Write a new federation: authority, certificates, keys and scripts.

    The folder appears whole or not at all.

    Raises:
        ConfigError: A name or the server is unfit, a name is given twice, or there is none.
        OutputExistsError: The folder is there already.
    """
    files.refuse_to_overwrite(folder)
    certificates.check_host(server)
    check_names(participants)
    if not participants or len({name.casefold() for name in participants}) < len(participants):
        raise ConfigError("name at least one participant, each once (--participant NAME)")
    with files.new_folder(folder) as draft:
        _write(Federation(draft, server, port, tuple(participants)), days)
    return load(folder)


def load(folder: Path) -> Federation:
    """Read what :func:`create` wrote.

    Raises:
        MissingFileError: There is no federation.
        ConfigError: ``federation.json`` is not as it was written.
    """
    path = folder / "federation.json"
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise MissingFileError(
            f"{path}: not there; make a federation with: smdl deploy init"
        ) from None
    except (ValueError, RecursionError):
        raise ConfigError(f"{path}: no JSON; restore it") from None
    try:
        server, port = document["server"], document["port"]
        participants = tuple(document["participants"])
        if document["format"] != FORMAT or type(port) is not int or not 0 < port < 65_536:
            raise ValueError
        certificates.check_host(server)
        check_names(participants)
    except (ConfigError, KeyError, TypeError, ValueError):
        raise ConfigError(f"{path}: not a federation of format {FORMAT}; restore it") from None
    return Federation(folder, server, port, participants)


def _write(federation: Federation, days: int) -> None:
    authority = certificates.create_authority(days)
    _write_owner(federation, authority, days)
    for number, name in enumerate(federation.participants):
        key = certificates.create_node_key()
        place = federation.of(name)
        files.write(place / "node.key", key.private)
        files.write(place / "ca.crt", authority.certificate)
        start = scripts.participant_start(federation.address, name, number, federation.participants)
        files.write(place / "start.sh", start.encode(), mode=EXECUTABLE)
        files.write(place / "README.md", scripts.participant_readme(name).encode())
        files.write(federation.public_key(name), key.public)
    description = {
        "format": FORMAT,
        **{k: v for k, v in asdict(federation).items() if k != "folder"},
    }
    files.write_json(federation.folder / "federation.json", description)


def _write_owner(federation: Federation, authority: Credentials, days: int) -> None:
    server = certificates.create_server(authority, federation.server, days)
    place = federation.owner
    files.write(place / "ca.key", authority.key)
    files.write(place / "ca.crt", authority.certificate)
    files.write(place / "server.key", server.key)
    files.write(place / "server.crt", server.certificate)
    start = scripts.server_start(federation.port)
    files.write(place / "start.sh", start.encode(), mode=EXECUTABLE)
    files.write(place / "README.md", scripts.owner_readme(federation.participants).encode())
