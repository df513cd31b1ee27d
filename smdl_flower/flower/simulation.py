"""Run a scenario on Flower's simulation engine, through a SuperLink of our own.

Why not ``flwr run . local``: that reuses a daemon which imports the client app from wherever it was
once started (another checkout, days ago), and exits 0 when the run failed. Here a SuperLink is
started for this run only, in an empty directory, on a free port, with its own Flower home; its run
status is polled; and it is stopped afterwards with everything it started.
"""

import contextlib
import json
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

import tomli_w

from smdl_flower import files
from smdl_flower.config import FlatConfig
from smdl_flower.errors import FederationError

START_SECONDS = 90.0
POLL_SECONDS = 5.0
# Flower's own defaults send telemetry, ask for updates, and install all dependencies anew per run.
QUIET_FLOWER = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "HF_HUB_OFFLINE": "1",
}


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
    with tempfile.TemporaryDirectory(prefix="smdl-superlink-") as name:
        place = Path(name)
        with _superlink(environment, place, log) as variables:
            overrides = place / "run-config.toml"
            overrides.write_bytes(tomli_w.dumps(_nested(run_config)).encode())
            run_id = _submit(app, overrides, participants, variables)
            _wait(run_id, log, variables)


@contextmanager
def _superlink(environment: Mapping[str, str], place: Path, log: Path) -> Iterator[dict[str, str]]:
    """A SuperLink of our own, and the environment to reach it with Flower's command line."""
    port = _free_port()
    home = place / "flower-home"
    home.mkdir()
    address = f"127.0.0.1:{port}"
    (home / "config.toml").write_text(
        f'[superlink]\ndefault = "own"\n[superlink.own]\naddress = "{address}"\ninsecure = true\n'
    )
    scripts = str(Path(sys.executable).parent)
    variables = {
        **os.environ,
        **QUIET_FLOWER,
        **environment,
        "FLWR_HOME": str(home),
        "PATH": f"{scripts}{os.pathsep}{os.environ.get('PATH', '')}",
        # One thread per worker: there are as many workers as cores.
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
    }
    neutral = place / "empty"
    neutral.mkdir()
    files.append(log, b"")  # private: what Flower logs may hold names of the owner's files
    with log.open("ab") as stream:
        process = subprocess.Popen(  # noqa: S603 - our own interpreter's script
            [
                str(Path(scripts) / "flower-superlink"),
                *("--insecure", "--simulation", "--isolation", "subprocess"),
                *("--host", "127.0.0.1", "--port", str(port)),
                "--disable-runtime-dependency-installation",
            ],
            cwd=neutral,
            env=variables,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            _await_start(process, address, log)
            yield variables
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


def _submit(app: Path, overrides: Path, participants: int, variables: Mapping[str, str]) -> str:
    cpus = os.cpu_count() or 1
    answer = _flwr(
        variables,
        *("run", str(app), "own", "--format", "json", "--run-config", str(overrides)),
        "--federation-config",
        f"num-supernodes={participants} client-resources-num-cpus=1 init-args-num-cpus={cpus}",
    )
    return str(answer["run-id"])


def _wait(run_id: str, log: Path, variables: Mapping[str, str]) -> None:
    while True:
        runs = _flwr(variables, "list", "own", "--run-id", run_id, "--format", "json")["runs"]
        status = str(runs[0]["status"]) if isinstance(runs, list) and runs else "unknown"
        if status == "finished:completed":
            return
        if status.startswith("finished") or status == "unknown":
            raise FederationError(f"Flower reports {status}; its log ends:\n{_log_tail(log)}")
        time.sleep(POLL_SECONDS)


def _flwr(variables: Mapping[str, str], *arguments: str) -> dict[str, object]:
    flwr = str(Path(sys.executable).parent / "flwr")
    done = subprocess.run(  # noqa: S603 - our own interpreter's script
        [flwr, *arguments], env=dict(variables), capture_output=True, text=True, check=False
    )
    start = done.stdout.find("{")  # Flower prints notes before its JSON
    try:
        document: dict[str, object] = json.loads(done.stdout[start:])
    except ValueError:
        raise FederationError(
            f"flwr {arguments[0]} failed: {(done.stderr or done.stdout)[-2000:]}"
        ) from None
    if not document.get("success"):
        raise FederationError(f"flwr {arguments[0]} failed: {document}")
    return document


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the SuperLink and all it started (they share its session)."""
    for number, patience in ((signal.SIGTERM, 10.0), (signal.SIGKILL, 10.0)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=patience)


def _nested(flat: FlatConfig) -> dict[str, object]:
    """Dotted keys as tables: tomli_w would quote them, and Flower would not know them."""
    nested: dict[str, object] = {}
    for key, value in flat.items():
        table, _, name = key.rpartition(".")
        target = nested.setdefault(table, {}) if table else nested
        assert isinstance(target, dict)  # noqa: S101 - for the type checker
        target[name] = value
    return nested


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _log_tail(log: Path, lines: int = 25) -> str:
    text = log.read_text(encoding="utf-8", errors="replace")
    return "\n".join(text.splitlines()[-lines:])
