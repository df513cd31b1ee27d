"""Admit participants and run scenarios on the federation's server; remove what Flower stored."""

import contextlib
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from smdl_flower import config
from smdl_flower.config import FlatConfig
from smdl_flower.deployment import admission
from smdl_flower.deployment.folders import Federation
from smdl_flower.errors import FederationError
from smdl_flower.flower.control import POLL_SECONDS, Control


@dataclass(frozen=True)
class Watch:
    """Who is told how a run goes.

    Attributes:
        begun: Told once who is not connected; the run has been submitted then.
        round_done: Told the newest round that the server's log mentions.
    """

    begun: Callable[[list[str]], None] = lambda _: None
    round_done: Callable[[int], None] = lambda _: None


def register(federation: Federation, *, at: str | None = None) -> list[str]:
    """Admit all participants' keys at the running server; return who was new.

    Args:
        federation: Its server runs.
        at: Host and port of the control API, if other than those that participants use.

    Raises:
        FederationError: The server is not reached, or refuses a key.
    """
    with _control(federation, at) as control:
        return admission.admit(federation, control)


def run(
    federation: Federation,
    app: Path,
    run_config: FlatConfig,
    *,
    at: str | None = None,
    watch: Watch | None = None,
    patience: float = 0.0,
) -> None:
    """Run the app at the participants, and wait for its end.

    Args:
        federation: Its server runs, and participants have been admitted.
        app: Directory of the Flower app.
        run_config: All keys.
        at: Host and port of the control API, if other than those that participants use.
        watch: Told how it goes.
        patience: Seconds to wait for participants: they need some to find a server again that was
            restarted.

    Raises:
        FederationError: The server is not reached, too few participants are connected, or the run
            did not complete.
    """
    told = watch or Watch()
    least = config.parse(run_config).federation.min_replies
    with _control(federation, at) as control:
        missing = _connected(federation, control, least, patience)
        run_id = control.submit(app, run_config)
        told.begun(missing)
        end = control.wait(run_id, lambda: told.round_done(control.current_round(run_id)))
        if not end.completed:
            raise FederationError(
                f"run {run_id} ended as {end.status}: {end.details or 'Flower says no more'}"
            )


def _connected(federation: Federation, control: Control, least: int, patience: float) -> list[str]:
    """Wait until enough participants are connected; return who is not."""
    deadline = time.monotonic() + patience
    while True:
        try:
            return admission.require_connected(federation, control, least=least)
        except FederationError:
            if time.monotonic() >= deadline:
                raise
            time.sleep(min(POLL_SECONDS, patience))


def clean(federation: Federation) -> bool:
    """Remove what Flower stored at the server, models included; return whether there was any.

    Participants are admitted anew when the server starts again.

    Raises:
        FederationError: The server runs: it would go on writing into what was removed.
    """
    if any(_listens(host, federation.port) for host in {federation.server, "127.0.0.1"}):
        raise FederationError(
            f"the server still listens at port {federation.port}; stop it first, then clean"
        )
    if not federation.state.exists():
        return False
    shutil.rmtree(federation.state)
    return True


def _listens(host: str, port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=2):
        return True
    return False


@contextmanager
def _control(federation: Federation, at: str | None) -> Iterator[Control]:
    with tempfile.TemporaryDirectory(prefix="smdl-deploy-") as name:
        authority = federation.owner / "ca.crt"
        yield Control.to(at or federation.address, Path(name), root_certificates=authority)
