"""Admit participants and run scenarios on the federation's server; remove what Flower stored."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from smdl_flower.config import FlatConfig
from smdl_flower.deployment.folders import Federation
from smdl_flower.errors import FederationError
from smdl_flower.flower.control import CONNECTION, Control

COMPLETED = "finished:completed"


def register(federation: Federation) -> list[str]:
    """Admit all participants' keys at the running server; return who was new.

    Raises:
        FederationError: The server is not reached, or refuses a key.
    """
    with _control(federation) as control:
        known = _registered(control)
        new = [name for name in federation.participants if name not in known]
        for name in new:
            key = str(federation.public_key(name).resolve())
            register_one = ("supernode", "register", key, CONNECTION)
            control.call(*register_one, "--name", name, "--format", "json")
    return new


def run(
    federation: Federation,
    app: Path,
    run_config: FlatConfig,
    round_done: Callable[[int], None] = lambda _: None,
) -> None:
    """Run the app at the participants, and wait for its end.

    Args:
        federation: Its server runs, and participants have been admitted.
        app: Directory of the Flower app.
        run_config: All keys.
        round_done: Told the newest round that the server's log mentions.

    Raises:
        FederationError: The server is not reached, or the run did not complete.
    """
    with _control(federation) as control:
        run_id = control.submit(app, run_config)
        status = control.wait(run_id, lambda: round_done(control.current_round(run_id)))
        if status != COMPLETED:
            raise FederationError(
                f"run {run_id} ended as {status}; see run.json in its folder on the server, or: "
                f"flwr log {run_id}"
            )


def clean(federation: Federation) -> bool:
    """Remove what Flower stored at the server, models included; return whether there was any.

    The server must be stopped: participants are admitted anew when it starts again.
    """
    if not federation.state.exists():
        return False
    shutil.rmtree(federation.state)
    return True


def _registered(control: Control) -> set[str]:
    nodes = control.call("supernode", "list", CONNECTION, "--format", "json").get("nodes", [])
    if not isinstance(nodes, list):
        raise FederationError(f"flwr supernode list: unexpected answer {nodes!r}")
    return {str(node.get("name")) for node in nodes}


@contextmanager
def _control(federation: Federation) -> Iterator[Control]:
    with tempfile.TemporaryDirectory(prefix="smdl-deploy-") as name:
        authority = federation.owner / "ca.crt"
        yield Control.to(federation.address, Path(name), root_certificates=authority)
