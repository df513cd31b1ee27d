"""A federation as institutions run it: generated scripts, TLS, node keys, folders of their own."""

import http.client
import json
import shutil
import ssl
import stat
import urllib.error
import urllib.request

import httpx
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.proto.fleet_pb2 import ActivateNodeRequest
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from smdl_flower import models, sealing, weights
from smdl_flower.deployment import certificates
from smdl_flower.home import OwnerHome
from smdl_flower.models import ModelSpec
from tests.e2e.deployed import NAMES, ROOT, Deployed, write_shards

pytestmark = pytest.mark.e2e

SMOKE = ROOT / "scenarios" / "digits-smoke.toml"
OWN_FOLDERS = ("data=imagefolder", "num-server-rounds=2", "fingerprint.max-accuracy-drop=0.05")
DELIVER = "fingerprint.deliver=true"


@pytest.fixture(scope="module")
def federation(tmp_path_factory):
    """Three institutions that take part, one that does not yet, and an outsider."""
    deployed = Deployed(tmp_path_factory.mktemp("real"), names=(*NAMES, "idle-d"))
    write_shards(deployed)
    deployed.create()
    deployed.smdl("customer", "add", "--federation", deployed.folder, "--home", deployed.home)
    deployed.start_server()
    start_outsider(deployed)
    deployed.smdl("deploy", "register", deployed.folder)
    deployed.start_nodes()
    yield deployed
    deployed.stop()


@pytest.fixture(scope="module")
def journey(federation):
    """The same, after a run."""
    federation.smdl(*federation.run_arguments(SMOKE, *OWN_FOLDERS, DELIVER))
    return federation


@pytest.fixture(scope="module")
def issued_elsewhere(journey):
    """Copies of another run's model, issued from what its server had: no key, no registry."""
    key = OwnerHome.open(journey.home).key.sealing_key().public
    settings = (
        *("data=imagefolder", "num-server-rounds=1", "fingerprint.mark-training=false"),
        *("fingerprint.where=offline", f"fingerprint.seal-to={sealing.to_text(key)}"),
    )
    journey.smdl(*journey.run_arguments(SMOKE, *settings))
    run, out = journey.runs()[-1], journey.place / "issued-elsewhere"
    assert not list(run.rglob("*.safetensors"))
    to = ("--home", journey.home, "--out", out, "--no-fidelity-check")
    journey.smdl("issue", run / "global.sealed", *to)
    return out


def start_outsider(deployed):
    """Somebody with a participant's whole folder, but another key, which nobody registered."""
    folder = deployed.place / "outsider"
    shutil.copytree(deployed.folder / "participants" / "clinic-a", folder)
    (folder / "node.key").write_bytes(certificates.create_node_key().private)
    images = str(deployed.images["clinic-a"])
    deployed.start_node("outsider", folder, SMDL_DATA_DIR=images)


def copy_of(journey, name):
    return journey.runs()[0] / "copies" / f"{name}.safetensors"


def named(smdl, journey, suspect):
    """Return whom the verifier names: customers, and participants' nodes."""
    verdict = smdl("verify", suspect, "--home", journey.home, "--json").document
    return [a["customer"] for a in verdict["accused"]], verdict.get("participants", [])


def test_the_run_trains_on_all_three_folders_and_issues_copies(journey):
    (run,) = journey.runs()
    outcome = json.loads((run / "run.json").read_text())
    assert outcome["status"] == "completed"
    issued = [copy["customer"] for copy in outcome["copies"] if copy["path"]]
    assert sorted(issued) == sorted([*NAMES, "idle-d"])
    assert [line["replies"] for line in journey.metrics()] == [3, 3]
    # A guess is right once in ten; of 357 images, 0.3 is 12 standard deviations above that.
    assert journey.metrics()[-1]["accuracy"] > 0.3


def test_the_run_config_names_nobodys_folder(journey):
    config = json.loads((journey.runs()[0] / "resolved.json").read_text())["config"]
    assert config["data-dir"] == ""
    assert str(journey.place) not in json.dumps(config)


def test_a_leaked_copy_names_its_customer_another_names_its_own(journey, smdl):
    for name in (*NAMES, "idle-d"):
        assert named(smdl, journey, copy_of(journey, name)) == ([name], [])


def received(folder):
    return list(folder.rglob("*.safetensors"))


def test_each_participant_received_its_own_copy_and_no_other(journey):
    for name in NAMES:
        (copy,) = received(journey.folder / "participants" / name)
        assert copy.read_bytes() == copy_of(journey, name).read_bytes()


def test_who_was_not_connected_and_who_is_nobody_received_nothing(journey):
    """The owner is told whose file is left to hand over."""
    outcome = json.loads((journey.runs()[0] / "run.json").read_text())
    delivered = {d["customer"]: d["delivered"] for d in outcome["deliveries"]}
    assert delivered == {**dict.fromkeys(NAMES, True), "idle-d": False}
    assert received(journey.folder / "participants" / "idle-d") == []
    assert received(journey.place / "outsider") == []


def test_the_owner_finds_a_page_about_the_run(journey):
    page = (journey.runs()[0] / "report.html").read_text()
    for words in (*NAMES, "Delivered over Flower", "To be handed over by other means:\nidle-d"):
        assert words in page


def test_an_innocent_model_names_nobody(journey, smdl, tmp_path):
    """Trained by nobody here: same network, other initial weights."""
    copy = weights.read(copy_of(journey, "clinic-a"))
    spec = ModelSpec.from_metadata(copy.metadata)
    innocent = tmp_path / "innocent.safetensors"
    arrays = models.to_weights(models.build(spec, seed=4711))
    assert {k: v.shape for k, v in arrays.items()} == {k: v.shape for k, v in copy.weights.items()}
    weights.write(innocent, arrays, spec.to_metadata())
    outcome = smdl("verify", innocent, "--home", journey.home, "--json")
    assert outcome.code == 10
    assert outcome.document["accused"] == []


# ------------------------------------------------------------------------------ who is let in


def nodes_of(deployed):
    path = deployed.folder / "owner" / "state" / "nodes.json"
    return json.loads(path.read_text())["nodes"]


def key_of(deployed, name):
    return (deployed.folder / "participants" / name / "node.key").read_bytes()


def activate(deployed, private, *, tls=True):
    """Ask the server to let a node in, with Flower's own client; return the node's number."""
    key = serialization.load_ssh_private_key(private, None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    authority = (deployed.folder / "owner" / "ca.crt").read_bytes()
    client = FleetHttpClient.from_server_address(
        f"127.0.0.1:{deployed.port}",
        not tls,
        authority if tls else None,
        interceptors=[
            RuntimeVersionHttpInterceptor(component_name="SuperNode"),
            NodeAuthHttpInterceptor(key, key.public_key()),
        ],
    )
    public = public_key_to_bytes(key.public_key())
    with client:
        request = ActivateNodeRequest(public_key=public, heartbeat_interval=30)
        return str(client.ActivateNode(request).node_id)


def test_an_unregistered_key_is_refused_a_registered_one_is_let_in(journey):
    assert activate(journey, key_of(journey, "idle-d")) == nodes_of(journey)["idle-d"]
    with pytest.raises(httpx.HTTPStatusError, match="/v1/fleet/activate-node") as refused:
        activate(journey, certificates.create_node_key().private)
    assert "Failed to activate SuperNode" in refused.value.response.text


def test_a_second_process_with_a_participants_key_is_refused_while_the_first_is_connected(journey):
    """So a stolen key shows, as long as its owner is connected; a crash is known after a minute."""
    with pytest.raises(httpx.HTTPStatusError) as refused:
        activate(journey, key_of(journey, "clinic-a"))
    assert "Failed to activate SuperNode" in refused.value.response.text


def test_the_outsider_got_no_message_and_is_in_no_list(journey):
    """It ran the same script with the same certificates; only its key is another."""
    assert "Failed to activate SuperNode" in journey.log("outsider")
    for name, messages in (("outsider", 0), *((name, 2) for name in NAMES)):
        assert journey.log(name).count("Receiving: train message") == messages, name
    assert set(nodes_of(journey)) == {*NAMES, "idle-d"}
    assert journey.log("server").count("Created node_id") == 4


def test_participants_are_admitted_once(journey, smdl):
    before = nodes_of(journey)
    outcome = smdl("deploy", "register", journey.folder)
    assert (outcome.code, outcome.out) == (0, "All participants were admitted before\n")
    assert nodes_of(journey) == before


def test_plain_text_is_refused(journey):
    """The same key was let in over TLS, above; so is the same question."""
    with pytest.raises(httpx.TransportError):
        activate(journey, key_of(journey, "idle-d"), tls=False)
    address = f"127.0.0.1:{journey.port}/health"
    context = ssl.create_default_context(cafile=str(journey.folder / "owner" / "ca.crt"))
    with urllib.request.urlopen(f"https://{address}", context=context, timeout=10) as answer:
        assert answer.status == 200
    with pytest.raises((OSError, http.client.HTTPException)):
        urllib.request.urlopen(f"http://{address}", timeout=10)
    with pytest.raises(urllib.error.URLError, match="CERTIFICATE_VERIFY_FAILED"):
        urllib.request.urlopen(f"https://{address}", timeout=10)


# ------------------------------------------------------------- true status, and what is stored


def test_a_run_that_cannot_work_says_why_and_does_not_exit_0(journey, smdl):
    settings = (*OWN_FOLDERS, "fingerprint.code-length=8192")
    failed = smdl(*journey.run_arguments(SMOKE, *settings))
    assert failed.code == 2
    assert "finished:failed" in failed.err
    assert "cannot carry 8192 bits" in failed.err


def test_a_run_without_enough_participants_is_not_begun(journey, smdl):
    settings = (*OWN_FOLDERS, "num-participants=5", "min-replies=5")
    runs = journey.runs()
    refused = smdl(*journey.run_arguments(SMOKE, *settings), "--wait", "1")
    assert refused.code == 2
    assert "participants are connected and a round needs 5" in refused.err
    assert journey.runs() == runs


def test_a_run_on_a_server_without_keys_ends_sealed_and_its_owner_issues_it(
    journey, issued_elsewhere, smdl
):
    for name in NAMES:
        assert named(smdl, journey, issued_elsewhere / f"{name}.safetensors") == ([name], [])


def test_models_lie_in_the_servers_state_until_it_is_cleaned(journey, issued_elsewhere, smdl):
    """Last: it stops the server."""
    state = journey.folder / "owner" / "state"
    assert stat.S_IMODE(state.stat().st_mode) == 0o700
    assert all(path.stat().st_mode & 0o077 == 0 for path in state.rglob("*"))
    refused = smdl("deploy", "clean", journey.folder)
    assert refused.code == 2
    assert "stop it first" in refused.err
    journey.stop()
    assert models_in(state) > 0  # stopping removes nothing
    shutil.rmtree(journey.folder / "participants" / "clinic-a" / "copies")  # its own, to keep
    assert models_in(journey.folder / "participants" / "clinic-a") == 0
    assert smdl("deploy", "clean", journey.folder).code == 0
    assert not state.exists()
    assert smdl("deploy", "check", journey.folder).code == 0


def models_in(folder):
    """Return how many models of this network lie in clear below a folder, in files of any kind.

    Flower deletes what was delivered, and SQLite leaves deleted bytes where they are.
    """
    begins = b'"features.0.bias":{"dtype":"F32","shape":[24]'
    return sum(path.read_bytes().count(begins) for path in folder.rglob("*") if path.is_file())
