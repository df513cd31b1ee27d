"""A real federation for tests and benchmarks: the generated scripts, as people start them."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from smdl_flower import data
from smdl_flower.cli.main import run
from smdl_flower.config import DataConfig
from smdl_flower.data import Images

ROOT = Path(__file__).parents[2]
SCRIPTS = Path(sys.executable).parent
NAMES = ("clinic-a", "clinic-b", "bank-c")


class Deployed:
    """A federation's folder, the owner's home, and the processes that were started from them.

    Args:
        place: Empty directory for everything.
        host: Address of the server.
        names: Of the participants.
        within: Command words that put a process elsewhere (a network namespace), by ``server`` or
            participant's name.
    """

    def __init__(
        self,
        place: Path,
        host: str = "127.0.0.1",
        names: Sequence[str] = NAMES,
        within: dict[str, list[str]] | None = None,
    ) -> None:
        self.place = place
        self.host = host
        self.names = tuple(names)
        self.home = place / "home"
        self.folder = place / "federation"
        self.images = {name: place / "images" / name for name in ("server", *names)}
        self.port = free_port()
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._node_ports = {name: free_port() for name in names}
        self._within = within or {}

    def create(self) -> None:
        """Make the owner's home and the federation's folder."""
        self.smdl("init", "--home", self.home)
        named = [word for name in self.names for word in ("--participant", name)]
        server = ("--server", self.host, "--port", self.port)
        self.smdl("deploy", "init", self.folder, *server, *named)

    def start_server(self, **variables: str) -> None:
        """Run the owner's script and wait until the server answers."""
        settings = {"SMDL_HOME": self.home, "SMDL_BIND": self.host}
        self._start("server", self.folder / "owner", {**settings, **variables})
        self.await_(lambda: "startup complete" in self.log("server"), "the server did not start")

    def start_node(self, name: str, folder: Path | None = None, **variables: str) -> None:
        """Run a participant's script."""
        settings = {"SMDL_NODE_PORT": str(self._node_ports.get(name) or free_port())}
        place = folder or self.folder / "participants" / name
        self._start(name, place, {**settings, **variables})

    def start_nodes(self, names: Sequence[str] = NAMES) -> None:
        """Run participants' scripts and wait until all are connected."""
        for name in names:
            self.start_node(name)
        for name in names:
            self.await_node(name)

    def begin(self) -> None:
        """Make everything, start the server, admit the participants and start them."""
        self.create()
        self.start_server()
        self.smdl("deploy", "register", self.folder)
        self.start_nodes()

    def await_node(self, name: str) -> None:
        """Wait until a participant's node is connected."""
        self.await_(lambda: "SuperNode ID" in self.log(name), f"{name} did not connect")

    def kill(self, name: str, number: int = signal.SIGKILL) -> None:
        """End a process and everything it started."""
        process = self.processes.pop(name)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=20)
        with contextlib.suppress(ProcessLookupError):  # what outlived it
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(timeout=20)

    def stop(self) -> None:
        """End all processes."""
        for name in list(self.processes):
            self.kill(name, signal.SIGTERM)

    def smdl(self, *arguments: object) -> None:
        """Run ``smdl`` in this process: another takes seconds to begin.

        Raises:
            AssertionError: It fails.
        """
        if run([str(argument) for argument in arguments]):
            raise AssertionError(f"smdl {arguments}\n{self.log('server')[-5000:]}")

    def begin_smdl(self, *arguments: object) -> subprocess.Popen[str]:
        """Start ``smdl`` in a process of its own, beside the server."""
        return subprocess.Popen(
            [*self._within.get("server", ()), str(SCRIPTS / "smdl"), *map(str, arguments)],
            env=_environment({}),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run_arguments(self, scenario: Path, *assignments: str) -> list[object]:
        """Return the words after ``smdl`` that run a scenario here."""
        chosen = [word for a in assignments for word in ("--set", a)]
        place = ("--federation", self.folder, "--home", self.home)
        return ["deploy", "run", scenario, *place, *chosen]

    def runs(self) -> list[Path]:
        """Return the folders of all runs, oldest first."""
        return sorted((self.home / "runs").glob("*"), key=lambda path: path.stat().st_mtime_ns)

    def metrics(self) -> list[dict[str, float]]:
        """Return the lines of the newest run's rounds so far."""
        path = self.runs()[-1] / "metrics.jsonl" if self.runs() else None
        lines = path.read_text().splitlines() if path and path.exists() else []
        return [json.loads(line) for line in lines]

    def log(self, name: str) -> str:
        """Return what a process and its children have written, since it was last started."""
        return (self.place / f"{name}.log").read_text(errors="replace")

    def await_(self, condition: Callable[[], object], failure: str, seconds: float = 120) -> None:
        """Wait until something holds.

        Raises:
            AssertionError: It does not, in time.
        """
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                logs = "\n".join(f"--- {n}\n{self.log(n)[-3000:]}" for n in self.processes)
                raise AssertionError(f"{failure}\n{logs}")
            time.sleep(0.2)

    def _start(self, name: str, folder: Path, variables: Mapping[str, object]) -> None:
        images = self.images.get(name)
        if images:
            variables = {"SMDL_DATA_DIR": images, **variables}
        with (self.place / f"{name}.log").open("wb") as log:
            self.processes[name] = subprocess.Popen(
                [*self._within.get(name, ()), str(folder / "start.sh")],
                env=_environment({key: str(value) for key, value in variables.items()}),
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )


def write_shards(deployed: Deployed, train: int = 1437, test: int = 357) -> None:
    """Give each institution a third of the digits, and the owner those to test on.

    Args:
        deployed: Has the places.
        train: Images of all three together.
        test: Images of the owner's.
    """
    split = data.load_split(DataConfig.of_one_party("digits", "", 0))
    for number, name in enumerate(NAMES):
        write_images(deployed.images[name], split.train.load(np.arange(number, train, 3)))
    write_images(deployed.images["server"], split.test.load(np.arange(test)))


def write_images(folder: Path, images: Images) -> None:
    """Write images as a folder with one sub-folder per class."""
    for number, label in enumerate(images.labels.tolist()):
        place = folder / f"digit-{label}"
        place.mkdir(parents=True, exist_ok=True)
        pixels = np.asarray(images.pixels[number, 0])
        Image.fromarray(pixels).save(place / f"{number}.png")


def free_port() -> int:
    """Return a port of the loopback interface that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _environment(variables: dict[str, str]) -> dict[str, str]:
    """A user's: nothing of ours, so that the scripts have to say all that Flower needs."""
    ours = ("SMDL_", "FLWR_", "PYTHON", "RAY_")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(ours)}
    path = f"{SCRIPTS}{os.pathsep}{os.environ['PATH']}"
    return kept | {"PATH": path, "OMP_NUM_THREADS": "1"} | variables
