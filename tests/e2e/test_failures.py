"""Processes of a real federation die, or are slow: the run goes on, and nothing counts twice.

With noise (channel ``dp``): what may not be lost then is each institution's ledger, too.
"""

import contextlib
import json
import os
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import scipy.stats

import client_app.app
import server_app.app
from smdl_flower import config
from smdl_flower.flower import inline, owner
from smdl_flower.flower.run_folder import RUN_DIRECTORY_VARIABLE
from smdl_flower.home import OwnerHome
from smdl_flower.privacy.ledger import Ledger
from smdl_flower.privacy.private_round import LEDGER_VARIABLE, OWN_LEDGER
from tests.e2e.deployed import NAMES, ROOT, Deployed, write_shards

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(900)]

SMOKE = ROOT / "scenarios" / "digits-smoke.toml"
ROUNDS = 4
PRIVATE: dict[str, config.Scalar] = {
    "data": "imagefolder",
    "model": "scatter-linear",
    "num-server-rounds": ROUNDS,
    "min-replies": 2,
    "connect-timeout": 120.0,
    "local-epochs": 1,
    "learning-rate": 100.0,
    "lr-schedule": "constant",
    "momentum": 0.0,
    "weight-decay": 0.0,
    "fingerprint.max-accuracy-drop": 1.0,
    "privacy.policy": "public-front",
    "privacy.channel": "dp",
    "privacy.shard-size": 479,
}
UNDISTURBED = 6  # runs that tell how far two runs differ by chance


@pytest.fixture(scope="module")
def federation(tmp_path_factory):
    deployed = Deployed(tmp_path_factory.mktemp("failures"))
    write_shards(deployed)
    deployed.begin()
    yield deployed
    deployed.stop()


def assignments(**overrides):
    return [f"{key}={value}" for key, value in (PRIVATE | overrides).items()]


def completed(deployed):
    return len(deployed.metrics())


def asked(deployed, name):
    return deployed.log(name).count("Receiving: train message")


def test_a_run_survives_a_dead_node_and_a_dead_server(federation, tmp_path_factory, monkeypatch):
    running = federation.begin_smdl(*federation.run_arguments(SMOKE, *assignments()))

    # Round 2: an institution's machine loses power while it trains, and is started again.
    federation.await_(lambda: completed(federation) == 1, "no first round", 200)
    federation.await_(lambda: asked(federation, "clinic-b") == 2, "clinic-b was not asked")
    federation.kill("clinic-b")
    federation.start_node("clinic-b")
    # Flower gives a node up after 60 seconds; the round then goes on without it.
    federation.await_(lambda: completed(federation) == 2, "no second round", 200)

    # Round 3: the owner's machine loses power.
    federation.await_(lambda: asked(federation, "clinic-a") == 3, "clinic-a was not asked")
    federation.kill("server")
    out, err = running.communicate(timeout=120)
    assert running.returncode == 2, (out, err)
    (interrupted,) = federation.runs()
    assert not (interrupted / "run.json").exists()
    federation.start_server()

    resumed = assignments(**{"resume-from": interrupted})
    federation.smdl(*federation.run_arguments(SMOKE, *resumed))

    lines = federation.metrics()
    assert [line["round"] for line in lines] == [1, 2, 3, 4]
    # clinic-b's reply of round 2 was lost with its machine; the others' never are.
    assert lines[0]["replies"] == 3
    assert lines[1]["replies"] == 2
    assert min(line["replies"] for line in lines) >= 2
    check_broadcasts(federation)
    check_ledgers(federation)
    check_accuracy(federation, lines[-1]["accuracy"], tmp_path_factory.mktemp("runs"), monkeypatch)


def check_broadcasts(deployed):
    """One run to the registry, though it was begun twice: each round's model is recorded once."""
    sent = OwnerHome.open(deployed.home).registry.broadcasts()
    assert len({broadcast.run for broadcast in sent}) == 1
    # The first head is zero and bears no mark; the last entry is the base model.
    assert [broadcast.round for broadcast in sent] == [2, 3, 4, 5]


def check_ledgers(deployed):
    """Whole; only the round that the server lost may be paid for twice: it was trained twice."""
    spent = {}
    for number, name in enumerate(NAMES):
        path = deployed.folder / "participants" / name / "ledger" / OWN_LEDGER
        account = Ledger(path, cap=8.0, delta=1e-5).read()  # refuses a damaged one
        entries = [json.loads(line) for line in path.read_text().splitlines()[1:]]
        rounds = [entry["round"] for entry in entries]
        assert set(rounds) == {1, 2, 3, 4} or (name == "clinic-b" and set(rounds) >= {1, 4}), rounds
        assert all(rounds.count(n) == 1 for n in rounds if n != 3), (name, rounds)
        assert rounds.count(3) <= 2
        assert account.spent() <= 8.0
        spent[f"{number:06d}"] = account.spent()
    document = json.loads((deployed.runs()[-1] / "privacy.json").read_text())
    assert document["claim"].startswith("For each image")
    assert document["epsilon"] == max(spent.values())


def check_accuracy(deployed, reached, place, monkeypatch):
    """Within the noise of runs that nothing happened to.

    Two runs differ by their noise: the last accuracy of n undisturbed ones has mean m and standard
    deviation s; one more lies within m +- t s sqrt(1 + 1/n) with probability 0.999 if t is that
    quantile of Student's law with n - 1 degrees of freedom.
    """
    undisturbed = [
        undisturbed_accuracy(deployed, place, monkeypatch, i) for i in range(UNDISTURBED)
    ]
    quantile = scipy.stats.t.ppf(0.9995, UNDISTURBED - 1)
    reach = quantile * np.std(undisturbed, ddof=1) * np.sqrt(1 + 1 / UNDISTURBED)
    assert abs(reached - np.mean(undisturbed)) <= reach, (reached, undisturbed)
    assert reach < 0.3  # else it would show nothing: a guess is right once in ten


def undisturbed_accuracy(deployed, place: Path, monkeypatch, number) -> float:
    """The same run, of the same folders, in this process."""
    monkeypatch.setenv(owner.HOME_VARIABLE, str(place / "home"))
    monkeypatch.setenv(owner.DATA_VARIABLE, str(deployed.images["server"]))
    monkeypatch.setenv(RUN_DIRECTORY_VARIABLE, str(place / f"run-{number}"))
    monkeypatch.setenv(LEDGER_VARIABLE, str(place / "unused"))
    if not (place / "home").exists():
        OwnerHome.create(place / "home")
    flat = config.load_defaults(ROOT) | config.load_scenario(SMOKE) | PRIVATE
    nodes: list[dict[str, config.Scalar]] = [
        {"data-dir": str(deployed.images[name]), "ledger-dir": str(place / f"{number}-{name}")}
        for name in NAMES
    ]
    inline.run(server_app.app.app, client_app.app.app, len(NAMES), flat, nodes)
    lines = (place / f"run-{number}" / "metrics.jsonl").read_text().splitlines()
    return float(json.loads(lines[-1])["accuracy"])


def test_a_slow_node_does_not_stop_the_round(federation):
    """It computes a twentieth of the time; SuperNode and client go on telling that they live."""
    for name in NAMES:  # another run of the same images needs a budget of its own
        ledger = federation.folder / "participants" / name / "ledger"
        shutil.rmtree(ledger, ignore_errors=True)
    settings = assignments(**{"num-server-rounds": 1, "round-timeout": 75.0})
    running = federation.begin_smdl(*federation.run_arguments(SMOKE, *settings))
    slowed = 0.0
    while running.poll() is None:
        slow = clients_of(federation, "bank-c")
        signal_all(slow, signal.SIGSTOP)
        time.sleep(1.9 if slow else 0.2)
        signal_all(slow, signal.SIGCONT)
        time.sleep(0.1)
        slowed += 2.0 if slow else 0.0
    out, err = running.communicate()
    assert running.returncode == 0, (out, err)
    assert slowed > 45  # the round did wait for it
    assert [line["replies"] for line in federation.metrics()] == [2]
    assert asked(federation, "bank-c") > federation.log("bank-c").count("Sent successfully")


def signal_all(processes, number):
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, number)


def clients_of(deployed, name):
    """Return the processes in which a participant's client app runs."""
    session = deployed.processes[name].pid
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_bytes()
            if b"flwr-clientapp" in command and os.getsid(int(entry.name)) == session:
                found.append(int(entry.name))
        except OSError:
            continue
    return found
