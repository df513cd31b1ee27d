"""Flower's own command line as a library: submit a run, follow it, admit nodes.

``flwr run --stream`` exits 0 when a run failed; so a run is submitted, and its status polled.
"""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import tomli_w

from smdl_flower.config import FlatConfig
from smdl_flower.errors import FederationError

CONNECTION = "own"
POLL_SECONDS = 5.0
POLLS_UNANSWERED = 12  # in a row, before the server counts as gone: a minute
POLLS_PER_LOG = 3  # each command of Flower's is a process of more than a second of computing
# Flower's own defaults send telemetry, ask for updates, and install all dependencies anew per run.
QUIET_FLOWER = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "HF_HUB_OFFLINE": "1",
}
_ROUND = re.compile(r"\[ROUND (\d+)/\d+\]")


@dataclass(frozen=True)
class RunEnd:
    """How a run is doing, as Flower says it.

    Attributes:
        status: ``running``, ``finished:completed`` ...
        details: Why it failed; empty if Flower does not say.
    """

    status: str
    details: str

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen."""
        return self.status.startswith("finished") or self.status == "unknown"

    @property
    def completed(self) -> bool:
        """Whether it did all that was asked."""
        return self.status == "finished:completed"


@dataclass(frozen=True)
class Control:
    """A connection to a SuperLink.

    Attributes:
        variables: The environment of each command, Flower's home included.
    """

    variables: Mapping[str, str]

    @classmethod
    def to(
        cls,
        address: str,
        flower_home: Path,
        *,
        root_certificates: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> "Control":
        """Prepare a connection.

        Args:
            address: Host and port.
            flower_home: A directory of ours for Flower's settings.
            root_certificates: Authority that the server's certificate must be signed by; None for
                a SuperLink without TLS, on this machine.
            environment: Added to that of the commands.
        """
        settings: dict[str, object] = {"address": address}
        if root_certificates:
            settings["root-certificates"] = str(root_certificates.resolve())
        else:
            settings["insecure"] = True
        document = {"superlink": {"default": CONNECTION, CONNECTION: settings}}
        (flower_home / "config.toml").write_bytes(tomli_w.dumps(document).encode())
        scripts = str(Path(sys.executable).parent)
        variables = {
            **os.environ,
            **QUIET_FLOWER,
            **(environment or {}),
            "FLWR_HOME": str(flower_home),
            "PATH": f"{scripts}{os.pathsep}{os.environ.get('PATH', '')}",
        }
        return cls(variables)

    def submit(self, app: Path, run_config: FlatConfig, *federation: str) -> str:
        """Start a run and return its id.

        Args:
            app: Directory of the Flower app.
            run_config: All keys.
            federation: Settings of a simulation, ``key=value``.

        Raises:
            FederationError: Flower refuses it.
        """
        overrides = Path(self.variables["FLWR_HOME"]) / "run-config.toml"
        overrides.write_bytes(tomli_w.dumps(_nested(run_config)).encode())
        simulated = ("--federation-config", " ".join(federation)) if federation else ()
        answer = self.call(
            *("run", str(app), CONNECTION, "--format", "json", "--run-config", str(overrides)),
            *simulated,
        )
        return str(answer["run-id"])

    def wait(self, run_id: str, each: Callable[[], None] = lambda: None) -> RunEnd:
        """Poll until a run has ended, and return how.

        Args:
            run_id: From :meth:`submit`.
            each: Called at every third poll, and at the end.

        Raises:
            FederationError: The server has not answered for a minute: the run may go on there.
        """
        polls = 0
        while not (end := self._patient_status(run_id)).ended:
            if polls % POLLS_PER_LOG == 0:
                each()
            polls += 1
            time.sleep(POLL_SECONDS)
        each()
        return end

    def _patient_status(self, run_id: str) -> RunEnd:
        """As :meth:`status`; a server that is busy or starts again may miss some polls."""
        for _ in range(POLLS_UNANSWERED - 1):
            try:
                return self.status(run_id)
            except FederationError:
                time.sleep(POLL_SECONDS)
        return self.status(run_id)

    def status(self, run_id: str) -> RunEnd:
        """Return how a run is doing."""
        runs = self.call("list", CONNECTION, "--run-id", run_id, "--format", "json")["runs"]
        if not isinstance(runs, list) or not runs:
            return RunEnd("unknown", "Flower does not list it")
        details = str(runs[0].get("status-details") or "")
        return RunEnd(str(runs[0]["status"]), "" if details == "N/A" else details)

    def current_round(self, run_id: str) -> int:
        """Return the newest round that a run's log mentions; 0 if none."""
        return max((int(number) for number in _ROUND.findall(self.log(run_id))), default=0)

    def log(self, run_id: str) -> str:
        """Return what a run has logged at the server."""
        done = self._run("log", run_id, CONNECTION, "--show")
        return done.stdout + done.stderr

    def call(self, *arguments: str) -> dict[str, object]:
        """Run ``flwr`` with arguments that make it print JSON, and return that.

        Raises:
            FederationError: It failed, or printed something else.
        """
        done = self._run(*arguments)
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

    def _run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        flwr = str(Path(sys.executable).parent / "flwr")
        return subprocess.run(  # noqa: S603 - our own interpreter's script
            [flwr, *arguments],
            env=dict(self.variables),
            capture_output=True,
            text=True,
            check=False,
        )


def _nested(flat: FlatConfig) -> dict[str, object]:
    """Dotted keys as tables: tomli_w would quote them, and Flower would not know them."""
    nested: dict[str, object] = {}
    for key, value in flat.items():
        table, _, name = key.rpartition(".")
        target = nested.setdefault(table, {}) if table else nested
        assert isinstance(target, dict)  # noqa: S101 - for the type checker
        target[name] = value
    return nested
