"""A whole run at whose end participants that are customers get their copies."""

import json

import pytest

import client_app.app
import server_app.app
from smdl_flower import config
from smdl_flower.cli import tables
from smdl_flower.errors import ConfigError
from smdl_flower.flower import inline, owner
from smdl_flower.flower.run_folder import RUN_DIRECTORY_VARIABLE
from smdl_flower.home import OwnerHome
from smdl_flower.verifying import verify
from tests.flower.test_delivery import write_key

FLAT = config.load_defaults(config.example_app_dir()) | {
    "data": "digits",
    "num-participants": 2,
    "num-server-rounds": 1,
    "fingerprint.max-accuracy-drop": 0.2,
    "fingerprint.deliver": True,
}


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv(owner.HOME_VARIABLE, str(tmp_path / "home"))
    monkeypatch.setenv(RUN_DIRECTORY_VARIABLE, str(tmp_path / "run"))
    return OwnerHome.create(tmp_path / "home")


def node(tmp_path, name):
    place = tmp_path / name
    return {"node-key": str(place / "node.key"), "copies-dir": str(place / "copies")}


def run(node_configs=()):
    inline.run(server_app.app.app, client_app.app.app, 2, FLAT, node_configs)


def test_a_run_delivers_and_says_who_must_be_served_otherwise(home, tmp_path, capsys):
    key = write_key(tmp_path / "clinic-a" / "node.key")
    home.registry.add_customers(["clinic-a", "bank-b"], {"clinic-a": key})
    run([{}, node(tmp_path, "clinic-a")])
    outcome = json.loads((tmp_path / "run" / "run.json").read_text())
    delivered, missing = outcome["deliveries"]
    assert delivered == {"customer": "clinic-a", "node": "2", "delivered": True, "reason": ""}
    assert (missing["customer"], missing["node"], missing["delivered"]) == ("bank-b", None, False)
    (copy,) = (tmp_path / "clinic-a" / "copies").iterdir()
    assert [a.customer for a in verify(home, copy).accused] == ["clinic-a"]
    (record,) = home.registry.deliveries()
    assert (record.run, record.customer) == (outcome["run_id"], "clinic-a")
    tables.print_run(outcome)
    shown = " ".join(capsys.readouterr().out.split())
    assert "Delivered over Flower: clinic-a" in shown
    assert "To be handed over by other means: bank-b (no public key is registered" in shown


def test_a_run_in_which_nobody_is_delivered_completes(home, tmp_path):
    key = write_key(tmp_path / "clinic-a" / "node.key")
    home.registry.add_customers(["clinic-a"], {"clinic-a": key})
    run()  # no node has been told where its key is
    outcome = json.loads((tmp_path / "run" / "run.json").read_text())
    assert outcome["status"] == "completed"
    assert "node 1: declined: this node has no node-key" in outcome["deliveries"][0]["reason"]
    assert (tmp_path / "run" / "copies" / "clinic-a.safetensors").is_file()


def test_delivering_without_any_key_is_refused_before_training(home, tmp_path):
    home.registry.add_customers(["clinic-a"])
    with pytest.raises(ConfigError, match="no customer has a public key to be known by"):
        run()
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_a_run_that_does_not_deliver_asks_nobody(home, tmp_path, monkeypatch):
    key = write_key(tmp_path / "clinic-a" / "node.key")
    home.registry.add_customers(["clinic-a"], {"clinic-a": key})
    monkeypatch.setitem(FLAT, "fingerprint.deliver", False)
    run([{}, node(tmp_path, "clinic-a")])
    assert "deliveries" not in json.loads((tmp_path / "run" / "run.json").read_text())
    assert not (tmp_path / "clinic-a" / "copies").exists()
