"""The same federation on four hosts: network namespaces with addresses of their own, one bridge.

Participants are customers here: each gets its own copy over Flower, and nobody else's.
"""

import json
import os
import shutil
import subprocess

import pytest

from tests.e2e.deployed import NAMES, ROOT, Deployed, write_shards

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

SMOKE = ROOT / "scenarios" / "digits-smoke.toml"
ADDRESSES = {"server": "10.213.7.1", "clinic-a": "10.213.7.2", "clinic-b": "10.213.7.3"}
ADDRESSES["bank-c"] = "10.213.7.4"


def ip(*words):
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


@pytest.fixture(scope="module")
def hosts():
    """Return command words that run a program on each host."""
    if shutil.which("ip") is None or os.geteuid() != 0:
        pytest.skip("network namespaces need the command ip, and root")
    switch = f"smdl{os.getpid()}"
    names = {host: f"{switch}-{number}" for number, host in enumerate(ADDRESSES)}
    try:
        try:
            connect(switch, names)
        except subprocess.CalledProcessError as error:
            pytest.skip(f"this machine allows no network namespaces: {error.stderr.strip()}")
        yield {host: ["ip", "netns", "exec", name] for host, name in names.items()}
    finally:
        for name in (switch, *names.values()):
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


def connect(switch, names):
    ip("netns", "add", switch)
    ip("-n", switch, "link", "add", "br0", "type", "bridge")
    ip("-n", switch, "link", "set", "br0", "up")
    for number, (host, name) in enumerate(names.items()):
        ip("netns", "add", name)
        port = f"port{number}"
        peer = ("peer", "name", "eth0", "netns", name)
        ip("link", "add", port, "netns", switch, "type", "veth", *peer)
        ip("-n", switch, "link", "set", port, "master", "br0", "up")
        ip("-n", name, "addr", "add", f"{ADDRESSES[host]}/24", "dev", "eth0")
        for device in ("lo", "eth0"):
            ip("-n", name, "link", "set", device, "up")


@pytest.fixture(scope="module")
def journey(hosts, tmp_path_factory):
    place = tmp_path_factory.mktemp("hosts")
    deployed = Deployed(place, host=ADDRESSES["server"], within=hosts)
    write_shards(deployed)
    deployed.create()
    deployed.smdl("customer", "add", "--federation", deployed.folder, "--home", deployed.home)
    try:
        deployed.start_server()
        beside_the_server(deployed, "deploy", "register", deployed.folder)
        deployed.start_nodes()
        settings = (
            *("data=imagefolder", "num-server-rounds=2", "fingerprint.deliver=true"),
            "fingerprint.max-accuracy-drop=0.05",
        )
        beside_the_server(deployed, *deployed.run_arguments(SMOKE, *settings))
    finally:
        deployed.stop()
    return deployed


def beside_the_server(deployed, *arguments):
    process = deployed.begin_smdl(*arguments)
    out, err = process.communicate(timeout=500)
    assert process.returncode == 0, (out, err, deployed.log("server")[-3000:])


def test_all_take_part_from_their_own_addresses(journey):
    assert [line["replies"] for line in journey.metrics()] == [3, 3]
    for name in NAMES:
        assert f"{ADDRESSES[name]}:" in journey.log("server"), name


def test_each_received_its_own_copy_and_a_leak_of_it_names_it(journey, smdl):
    outcome = json.loads((journey.runs()[0] / "run.json").read_text())
    assert {copy["customer"] for copy in outcome["copies"]} == set(NAMES)
    for name in NAMES:
        folder = journey.folder / "participants" / name / "copies"
        (received,) = folder.rglob("*.safetensors")
        issued = journey.runs()[0] / "copies" / f"{name}.safetensors"
        assert received.read_bytes() == issued.read_bytes()
        verdict = smdl("verify", received, "--home", journey.home, "--json").document
        assert [accused["customer"] for accused in verdict["accused"]] == [name]
