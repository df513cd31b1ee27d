"""Run a scenario on Flower's simulation engine, through a SuperLink of our own.

Why not ``flwr run . local``: that reuses a daemon which imports the client app from wherever it was
once started (another checkout, days ago), and exits 0 when the run failed. Here a SuperLink is
started for this run only, in an empty directory, on a free port, with its own Flower home; its run
status is polled; and it is stopped afterwards with everything it started.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from smdl_flower import files
from smdl_flower.config import FlatConfig
from smdl_flower.errors import FederationError
from smdl_flower.flower.control import Control

START_SECONDS = 90.0


def run(
    app: Path,
    participants: int,
    run_config: FlatConfig,
    environment: Mapping[str, str],
    *,
    log: Path,
) -> None:
    """Run the app's scenario to its end.

    Args:
        app: Directory with pyproject.toml, server_app and client_app.
        participants: Simulated SuperNodes.
        run_config: All keys.
        environment: Added to the SuperLink's, and so to the server app's.
        log: Where Flower's log goes, run succeeded or not.

    Raises:
        FederationError: Flower did not start, or reports that the run failed.
    """
    cpus = os.cpu_count() or 1
    with (
        tempfile.TemporaryDirectory(prefix="smdl-superlink-") as name,
        _superlink(environment, Path(name), log) as control,
    ):
        run_id = control.submit(
            *(app, run_config, f"num-supernodes={participants}"),
            *("client-resources-num-cpus=1", f"init-args-num-cpus={cpus}"),
        )
        end = control.wait(run_id)
        if not end.completed:
            raise FederationError(f"Flower reports {end.status}; its log ends:\n{_log_tail(log)}")


@contextmanager
def _superlink(environment: Mapping[str, str], place: Path, log: Path) -> Iterator[Control]:
    """A SuperLink of our own, and the connection to it."""
    port = _free_port()
    home = place / "flower-home"
    home.mkdir()
    address = f"127.0.0.1:{port}"
    # One thread per worker: there are as many workers as cores.
    threads = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    control = Control.to(address, home, environment={**environment, **threads})
    neutral = place / "empty"
    neutral.mkdir()
    files.append(log, b"")  # private: what Flower logs may hold names of the owner's files
    with log.open("ab") as stream:
        process = subprocess.Popen(  # noqa: S603 - our own interpreter's script
            [
                str(Path(sys.executable).parent / "flower-superlink"),
                *("--insecure", "--simulation", "--isolation", "subprocess"),
                *("--host", "127.0.0.1", "--port", str(port)),
                "--disable-runtime-dependency-installation",
            ],
            cwd=neutral,
            env=dict(control.variables),
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            _await_start(process, address, log)
            yield control
        finally:
            _stop(process)


def _await_start(process: subprocess.Popen[bytes], address: str, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        with contextlib.suppress(urllib.error.URLError, OSError):
            urllib.request.urlopen(f"http://{address}/health", timeout=1)
            return
        time.sleep(0.2)
    raise FederationError(f"Flower's SuperLink did not start:\n{_log_tail(log)}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the SuperLink and all it started (they share its session)."""
    for number, patience in ((signal.SIGTERM, 10.0), (signal.SIGKILL, 10.0)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=patience)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _log_tail(log: Path, lines: int = 25) -> str:
    text = log.read_text(encoding="utf-8", errors="replace")
    return "\n".join(text.splitlines()[-lines:])
