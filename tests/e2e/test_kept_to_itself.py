"""What is wrong with an institution's images is said there; the owner gets a code over real Flower.

Searched is everything the owner's side has after a run: Flower's database and log, the run folder.
"""

import json

import pytest

from tests.e2e.deployed import NAMES, ROOT, Deployed, write_shards

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

SMOKE = ROOT / "scenarios" / "digits-smoke.toml"
PATIENT = "miller-johanna-1961"
SETTINGS = ("data=imagefolder", "num-server-rounds=1", "min-replies=2", "demo-customers=1")


@pytest.fixture(scope="module")
def journey(tmp_path_factory):
    """A run in which one of three institutions has an image that cannot be read."""
    deployed = Deployed(tmp_path_factory.mktemp("kept"))
    write_shards(deployed, train=300, test=100)
    (deployed.images[NAMES[2]] / "digit-1" / f"{PATIENT}.png").write_bytes(b"no image")
    deployed.begin()
    deployed.smdl(*deployed.run_arguments(SMOKE, *SETTINGS, "fingerprint.max-accuracy-drop=1.0"))
    yield deployed
    deployed.stop()


def owners_files(deployed):
    """Everything on the owner's side, as bytes."""
    places = [deployed.folder / "owner", deployed.home]
    paths = [path for place in places for path in place.rglob("*") if path.is_file()]
    return {path: path.read_bytes() for path in [*paths, deployed.place / "server.log"]}


def test_the_institution_is_told_which_image(journey):
    log = journey.log(NAMES[2])
    assert f"digit-1/{PATIENT}.png: not a readable image" in log
    assert "The server is told 'data-unreadable' and no more." in log


def test_the_run_went_on_and_names_the_node_with_a_code(journey):
    outcome = json.loads((journey.runs()[0] / "run.json").read_text())
    nodes = json.loads((journey.folder / "owner" / "state" / "nodes.json").read_text())["nodes"]
    (incident,) = outcome["incidents"]
    assert incident["reason"] == "error reply: data-unreadable"
    assert (incident["node"], incident["name"]) == (nodes[NAMES[2]], NAMES[2])
    assert outcome["status"] == "completed"


@pytest.mark.parametrize("secret", ["patient", "path"])
def test_the_owner_has_neither_path_nor_file_name_anywhere(journey, secret):
    word = PATIENT if secret == "patient" else str(journey.images[NAMES[2]])  # noqa: S105
    found = owners_files(journey)
    assert [path for path, content in found.items() if word.encode() in content] == []
    # The control: what is sent does get there, also into the run's log, which is in the database.
    said = b"refused: error reply: data-unreadable"
    assert any(said in content for path, content in found.items() if ".db" in path.name)
    assert any(b"data-unreadable" in c for path, c in found.items() if path.name == "run.json")
