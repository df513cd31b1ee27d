"""Which node of the server is which participant, and who of them is connected.

Flower numbers nodes and does not tell their names afterwards; so the numbers are kept beside its
database, and go with it: a server that has forgotten its nodes admits them under new numbers.
"""

import json
from pathlib import Path

from smdl_flower import files
from smdl_flower.deployment.folders import Federation
from smdl_flower.errors import ConfigError, FederationError
from smdl_flower.flower.control import CONNECTION, Control

FORMAT = "smdl-nodes/1"
_ALREADY_ADMITTED = "Public key already in use"


def admit(federation: Federation, control: Control) -> list[str]:
    """Admit the keys of all participants at the running server; return who was new.

    Raises:
        FederationError: The server is not reached, or refuses a key.
    """
    known = nodes(federation)
    new = []
    for name in federation.participants:
        if name not in known and (node := _admit(federation, control, name)):
            known[name] = node
            new.append(name)
            # After each of them: what the server knows is never lost by an interruption.
            files.write_json(_path(federation), {"format": FORMAT, "nodes": known})
    return new


def nodes(federation: Federation) -> dict[str, str]:
    """Return each admitted participant's node, by name.

    Raises:
        ConfigError: The file is not as it was written.
    """
    path = _path(federation)
    if not path.exists():
        return {}
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        found = document["nodes"]
        if document["format"] != FORMAT or not all(
            isinstance(node, str) and node.isdecimal() for node in found.values()
        ):
            raise ValueError
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise ConfigError(
            f"{path}: not as it was written; stop the server, say smdl deploy clean, and admit all "
            "participants anew"
        ) from None
    return {str(name): node for name, node in found.items()}


def require_connected(federation: Federation, control: Control, *, least: int) -> list[str]:
    """Return who is not connected.

    Raises:
        FederationError: So many that no round could begin, or the server is not reached.
    """
    listed = control.call("supernode", "list", CONNECTION, "--format", "json").get("nodes", [])
    if not isinstance(listed, list):
        raise FederationError(f"flwr supernode list: unexpected answer {str(listed)[:200]}")
    online = {str(node.get("node-id")) for node in listed if node.get("status") == "online"}
    known = nodes(federation)
    missing = [name for name in federation.participants if known.get(name) not in online]
    if len(online) < least:
        # By numbers: a participant admitted by other means than admit has no name here.
        raise FederationError(
            f"{len(online)} participants are connected and a round needs {least}; admit them (smdl "
            f"deploy register {federation.folder}) and start those of {', '.join(missing)} "
            "(start.sh of their folders)"
        )
    return missing


def _admit(federation: Federation, control: Control, name: str) -> str | None:
    """The new node's number; None if the server knows the key already."""
    key = str(federation.public_key(name).resolve())
    try:
        answer = control.call(
            *("supernode", "register", key, CONNECTION, "--name", name, "--format", "json")
        )
    except FederationError as error:
        if _ALREADY_ADMITTED in str(error):
            return None
        raise
    return str(answer["node-id"])


def _path(federation: Federation) -> Path:
    return federation.state / "nodes.json"
