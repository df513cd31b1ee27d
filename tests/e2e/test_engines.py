"""The same apps on Flower's own engines: simulation and ``flwr run``.

SuperLink and SuperNodes: ``test_real_federation.py``.
"""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from smdl_flower.flower.control import QUIET_FLOWER

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]
SMOKE = ROOT / "scenarios" / "digits-smoke.toml"
SCRIPTS = Path(sys.executable).parent


@pytest.fixture
def home(smdl, tmp_path):
    assert smdl("init", "--home", tmp_path / "home").code == 0
    return tmp_path / "home"


def traced(smdl, home, run):
    """Return who is named for each of the run's three copies."""
    names = []
    for number in (1, 2, 3):
        copy = run / "copies" / f"customer-{number:02d}.safetensors"
        verdict = smdl("verify", copy, "--home", home, "--json")
        names.append([accused["customer"] for accused in verdict.document["accused"]])
    return names


THREE = [["customer-01"], ["customer-02"], ["customer-03"]]


def test_the_simulation_engine_trains_issues_and_copies_are_traced(smdl, home, tmp_path):
    run = tmp_path / "run"
    outcome = smdl("simulate", SMOKE, "--home", home, "--out", run, "--json")
    assert outcome.code == 0, outcome.err
    assert outcome.document["base_accuracy"] > 0.8
    assert traced(smdl, home, run) == THREE
    key = json.loads((home / "master.key").read_text())["key"]
    assert key not in (run / "flower.log").read_text()


def test_a_run_that_fails_on_the_simulation_engine_fails(smdl, home, tmp_path):
    """Every participant raises (16 images are too few for 10); ``flwr run`` would exit 0."""
    folder = tmp_path / "images"
    make_image_folder(folder)
    outcome = smdl(
        *("simulate", SMOKE, "--home", home, "--out", tmp_path / "run", "--json"),
        *("--set", "data=imagefolder", "--set", f"data-dir={folder}"),
        *("--set", "num-participants=10"),
    )
    assert outcome.code == 2
    assert "0 valid replies of 10" in outcome.err
    assert "participants.log" in outcome.err
    said = (tmp_path / "run" / "participants.log").read_text()
    assert "too few for 10 participants" in said  # the server is told "data" only
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "failed"
    assert not (tmp_path / "run" / "copies").exists()


def test_a_simulation_that_is_terminated_leaves_no_process_behind(home, tmp_path):
    command = [SCRIPTS / "smdl", "simulate", SMOKE, "--home", home, "--out", tmp_path / "run"]
    marker = f"SMDL_RUN_DIR={tmp_path / 'run'}".encode()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(600):
            if len(processes_with(marker)) >= 2:  # the SuperLink and what it started
                break
            time.sleep(0.1)
        assert processes_with(marker)
    finally:
        process.terminate()
    assert process.wait(timeout=60) == 143
    for _ in range(100):
        if not processes_with(marker):
            break
        time.sleep(0.1)
    assert processes_with(marker) == []


def processes_with(marker):
    """Return the processes whose environment holds the marker."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if marker in (entry / "environ").read_bytes():
                found.append((entry / "cmdline").read_bytes())
        except OSError:
            continue
    return found


def make_image_folder(folder):
    """Write ten tiny images in each of two classes."""
    import numpy as np  # noqa: PLC0415
    from PIL import Image  # noqa: PLC0415

    rng = np.random.default_rng(0)
    for label in ("cat", "dog"):
        (folder / label).mkdir(parents=True)
        for i in range(10):
            pixels = rng.integers(0, 255, (8, 8), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / label / f"{i}.png")


# ------------------------------------------------------------------ Flower's own command line


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Flower:
    """Flower's command line with a home of its own."""

    def __init__(self, place, home):
        self.port = free_port()
        self.place = place
        self.run = place / "run"
        self.environment = {
            **os.environ,
            **QUIET_FLOWER,
            "FLWR_HOME": str(place / "flower"),
            "SMDL_HOME": str(home),
            "SMDL_RUN_DIR": str(self.run),
            "PATH": f"{SCRIPTS}{os.pathsep}{os.environ['PATH']}",
            "OMP_NUM_THREADS": "1",
        }
        (place / "flower").mkdir()

    def flwr(self, *arguments, cwd=None):
        done = subprocess.run(
            [str(SCRIPTS / "flwr"), *map(str, arguments)],
            env=self.environment,
            cwd=cwd,
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        )
        return json.loads(done.stdout[done.stdout.index("{") :])

    def await_status(self, connection, run_id, seconds=300):
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            runs = self.flwr("list", connection, "--run-id", run_id, "--format", "json")["runs"]
            if runs[0]["status"].startswith("finished"):
                return runs[0]["status"]
            time.sleep(3)
        return "still running"


@pytest.fixture
def flower(tmp_path, home):
    return Flower(tmp_path, home)


def test_flwr_run_of_the_checkout_does_the_same(flower, smdl, home):
    """``flwr run . local --run-config scenarios/NAME.toml``, as people know it from Flower."""
    flower.environment["FLWR_LOCAL_SUPERLINK_HTTP_API_PORT"] = str(flower.port)
    flower.environment["FLWR_LOCAL_CONTROL_API_PORT"] = str(free_port())
    try:
        started = flower.flwr(
            *("run", ".", "local", "--run-config", SMOKE, "--format", "json"),
            *("--federation-config", "num-supernodes=3 client-resources-num-cpus=1"),
            cwd=ROOT,
        )
        assert flower.await_status("local", started["run-id"]) == "finished:completed"
    finally:  # flwr leaves a daemon: it is found by the port it was told to use
        subprocess.run(["pkill", "-f", f"flower-superlink.*--port {flower.port}"], check=False)
    assert traced(smdl, home, flower.run) == THREE
