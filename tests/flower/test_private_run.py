"""A whole ``dp`` run through both apps: what leaves, what is refused, what is claimed."""

import json

import numpy as np
import pytest
from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict

import client_app.app
import server_app.app
from smdl_flower import config, verifying
from smdl_flower.errors import FederationError
from smdl_flower.flower import inline, owner, records
from smdl_flower.flower.run_folder import RUN_DIRECTORY_VARIABLE
from smdl_flower.home import OwnerHome
from smdl_flower.privacy.ledger import Ledger
from smdl_flower.privacy.private_round import LEDGER_VARIABLE
from tests.flower.offline import OFFLINE
from tests.flower.wire import model_in, put_model

FLAT = config.load_defaults(config.example_app_dir()) | {
    "data": "digits",
    "model": "scatter-linear",
    "num-participants": 2,
    "num-server-rounds": 3,
    "learning-rate": 100.0,
    "momentum": 0.0,
    "weight-decay": 0.0,
    **OFFLINE,
    "privacy.policy": "public-front",
    "privacy.channel": "dp",
    "privacy.epsilon": 8.0,
    "privacy.shard-size": 700,
    "privacy.averaging": "ema",
}


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setenv(owner.HOME_VARIABLE, str(tmp_path / "home"))
    monkeypatch.setenv(LEDGER_VARIABLE, str(tmp_path / "ledger"))

    def run_in(name):
        monkeypatch.setenv(RUN_DIRECTORY_VARIABLE, str(tmp_path / name))
        return tmp_path / name

    return run_in


def simulate(flat, client=client_app.app.app):
    inline.run(server_app.app.app, client, int(flat["num-participants"]), flat)


def privacy_of(folder):
    return json.loads((folder / "privacy.json").read_text())


class Altered:
    """The client app, with its replies changed on the way."""

    def __init__(self, change, rounds=(1, 2, 3)):
        self.change = change
        self.rounds = rounds
        self.replies = []

    def __call__(self, message, context):
        reply = client_app.app.app(message, context)
        self.replies.append(RecordDict(dict(reply.content)))
        told = message.content.config_records[records.CONFIG]
        if context.node_config["partition-id"] == 0 and told[records.SERVER_ROUND] in self.rounds:
            return Message(self.change(RecordDict(dict(reply.content))), reply_to=message)
        return reply


def test_a_private_run_claims_an_epsilon_under_its_cap_at_every_round(place):
    folder = place("run")
    spy = Altered(lambda content: content)
    simulate(FLAT, spy)
    document = privacy_of(folder)
    assert document["claim"].startswith("For each image")
    assert 0 < document["epsilon"] <= 8.0
    assert document["epsilon_prv_of_this_run"] <= document["epsilon"]
    assert all(check["passed"] for check in document["checks"])
    for lines in document["participants"].values():
        spent = [line["epsilon"] for line in lines]
        assert len(spent) == 3
        assert spent == sorted(spent)
        assert spent[-1] <= 8.0
    for sent in spy.replies:  # nothing else left
        assert set(model_in(sent)) == {"head.bias", "head.weight"}
        assert dict(sent.metric_records["metrics"]) == {"num-examples": 700}
        assert set(sent) == {"arrays", "metrics", "provenance", "declaration"}
    metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert "train-loss" not in metrics[-1]


def test_a_private_run_can_be_marked_issue_copies_and_keep_its_claim(place):
    folder = place("run")
    home = OwnerHome.create(owner.home_path())
    issuing = {
        "fingerprint.where": "server",
        "fingerprint.seal-to": "",
        "fingerprint.mark-training": True,
        "demo-customers": 2,
    }
    simulate(FLAT | issuing | {"fingerprint.max-accuracy-drop": 1.0})
    document = privacy_of(folder)
    assert document["claim"].startswith("For each image")
    assert document["training_marked"] is True
    # The first head is zero: nothing to hide a mark in, and nothing learned that could leak.
    assert [record.round for record in home.registry.broadcasts() if record.nodes] == [2, 3]
    for copy in (folder / "copies").glob("*.safetensors"):
        verdict = verifying.verify(home, copy)
        assert [accused.customer for accused in verdict.accused] == [copy.stem]


def test_a_seeded_run_claims_nothing(place):
    folder = place("run")
    simulate(FLAT | {"privacy.rng": "seeded"})
    document = privacy_of(folder)
    assert document["epsilon"] is None
    assert document["claim"] == "No DP claim: simulation only, a seed decides the noise"


def _without(content):
    del content[records.DECLARATION]
    return content


def _with_loss(content):
    content[records.METRICS] = MetricRecord({"num-examples": 700, "train-loss": 1.0})
    return content


def _exact_count(content):
    content[records.METRICS] = MetricRecord({"num-examples": 713})
    return content


def _less_noise(content):
    declared = dict(content[records.DECLARATION])
    content[records.DECLARATION] = ConfigRecord({**declared, "sigma": declared["sigma"] / 2})
    return content


def _more_tensors(content):
    put_model(content, {**model_in(content), "x": np.ones(1, np.float32)})
    return content


@pytest.mark.parametrize("change", [_without, _with_loss, _exact_count, _less_noise, _more_tensors])
def test_an_update_that_does_not_keep_the_terms_is_not_used(change, place):
    folder = place("run")
    simulate(FLAT | {"num-server-rounds": 1, "min-replies": 1}, Altered(change))
    assert sorted(privacy_of(folder)["participants"]) == ["000001"]
    place("strict")
    with pytest.raises(FederationError, match="1 valid replies of 2"):
        simulate(FLAT | {"num-server-rounds": 1, "seed": 8}, Altered(change))


def test_a_client_that_does_not_add_noise_is_not_used(place):
    """Another run config at the participant: its update comes without a declaration."""
    place("run")

    def unprotected(message, context):
        context.run_config = {**context.run_config, "privacy.channel": "clear"}
        return client_app.app.app(message, context)

    with pytest.raises(FederationError, match="0 valid replies of 2"):
        simulate(FLAT, unprotected)


def test_a_restart_pays_twice_and_stays_under_the_cap(place, tmp_path):
    first = place("first")

    def breaks(content):
        del content[records.ARRAYS]
        return content

    with pytest.raises(FederationError, match="round 2"):
        simulate(FLAT, Altered(breaks, rounds=(2,)))
    second = place("second")
    simulate(FLAT | {"resume-from": str(first)})
    document = privacy_of(second)
    assert [line["round"] for line in document["participants"]["000000"]] == [1, 2, 3]
    assert document["participants"]["000000"][-1]["charges"] == 4
    assert document["epsilon"] <= 8.0
    ledger = Ledger(tmp_path / "ledger" / "digits-000000.jsonl", cap=8.0, delta=1e-5)
    assert ledger.read().spent() == document["epsilon"]


def test_a_resumed_run_releases_the_same_average(place):
    """Seeded, so that it can be repeated; the round that failed draws the same noise again."""
    flat = FLAT | {"privacy.rng": "seeded"}
    whole = place("whole")
    simulate(flat)
    first = place("first")

    def breaks(content):
        del content[records.ARRAYS]
        return content

    ledgers = whole.parent / "ledger"
    for path in ledgers.iterdir():
        path.unlink()
    with pytest.raises(FederationError):
        simulate(flat, Altered(breaks, rounds=(3,)))
    second = place("second")
    simulate(flat | {"resume-from": str(first)})
    lines = [(f / "metrics.jsonl").read_text().splitlines() for f in (whole, second)]
    for one, other in zip(*lines, strict=True):
        assert json.loads(one)["loss"] == json.loads(other)["loss"]


def test_participants_refuse_to_evaluate_in_a_private_run(place, caplog):
    place("run")
    grid = inline.InlineGrid(client_app.app.app, 1, FLAT)
    inline.allow_messages()
    message = grid.create_message(RecordDict(), "evaluate", 1, "1")
    (reply,) = grid.send_and_receive([message])
    assert reply.has_error()
    assert reply.error.reason == "privacy"
    assert "would leave without noise" in caplog.text
