"""Robust strategies stand a poisoning participant; what is around them goes on as with FedAvg."""

import json
from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord
from flwr.serverapp.strategy import Krum

import client_app.app
import server_app.app
from smdl_flower import config
from smdl_flower.errors import FederationError
from smdl_flower.fingerprint.keys import OwnerKey
from smdl_flower.flower import inline, owner, records, strategies
from smdl_flower.flower.marking import OwnerMarker, Unmarked
from smdl_flower.flower.provenance import code_sha256
from smdl_flower.flower.robust import KrumOfUpdates
from smdl_flower.flower.run_folder import RUN_DIRECTORY_VARIABLE
from smdl_flower.flower.strategy import FingerprintStrategy, RoundRules
from smdl_flower.home import OwnerHome
from smdl_flower.models import ModelSpec
from smdl_flower.verifying import verify
from smdl_flower.weights import Weights, write
from tests.flower.offline import OFFLINE
from tests.flower.wire import model_in, put_model

PARTICIPANTS = 7
ROBUST = ("krum", "multikrum", "fedmedian", "fedtrimmedavg", "bulyan")
DEFAULTS = config.load_defaults(config.example_app_dir())
FLAT = DEFAULTS | {
    "data": "digits",
    "num-participants": PARTICIPANTS,
    "min-replies": PARTICIPANTS,
    "num-server-rounds": 4,
    "local-epochs": 4,
    "learning-rate": 0.1,
    "demo-customers": 2,
    "fingerprint.code-length": 64,
    "fingerprint.max-accuracy-drop": 1.0,
}


@pytest.fixture
def place(tmp_path, monkeypatch):
    OwnerHome.create(tmp_path / "home")
    monkeypatch.setenv(owner.HOME_VARIABLE, str(tmp_path / "home"))
    monkeypatch.setenv(RUN_DIRECTORY_VARIABLE, str(tmp_path / "run"))
    return tmp_path


class Poisoner:
    """The client app; participant 0 sends a multiple of its update."""

    def __init__(self, factor):
        self.factor, self.received = factor, {}

    def __call__(self, message, context):
        reply = client_app.app.app(message, context)
        sent = model_in(message.content)
        number = context.node_config["partition-id"]
        self.received.setdefault(number, []).append(sent)
        if number:
            return reply
        arrays = model_in(reply.content)
        turned = {k: sent[k] + np.float32(self.factor) * (v - sent[k]) for k, v in arrays.items()}
        put_model(reply.content, turned)
        return reply


def accuracy(place, client, strategy, **changes):
    malicious = 1 if strategy in ROBUST else 0
    flat = FLAT | {"strategy": strategy, "num-malicious-nodes": malicious} | changes
    inline.run(server_app.app.app, client, PARTICIPANTS, flat)
    lines = (place / "run" / "metrics.jsonl").read_text().splitlines()
    return json.loads(lines[-1])["accuracy"]


@pytest.mark.parametrize("factor", [-100, 100])
def test_the_control_one_poisoner_ruins_an_average(place, factor):
    """After one round nobody can train what it made, and the run stops."""
    with pytest.raises(FederationError, match=r"round 2: . valid replies .*train-loss is nan"):
        accuracy(place, Poisoner(factor), "fedavg", **OFFLINE)


def test_the_control_without_a_poisoner_the_average_is_good(place):
    assert accuracy(place, Poisoner(1), "fedavg", **OFFLINE) > 0.75


@pytest.mark.parametrize(
    ("strategy", "factor"), [*((name, -100) for name in ROBUST), ("krum", 100), ("fedmedian", 100)]
)
def test_a_poisoner_does_not_ruin_a_robust_strategy(place, strategy, factor):
    assert accuracy(place, Poisoner(factor), strategy, **OFFLINE) > 0.75


def test_copies_are_traced_and_so_are_models_of_training(place):
    client = Poisoner(-100)
    assert accuracy(place, client, "krum") > 0.75
    home = OwnerHome.open(place / "home")
    copies = sorted((place / "run" / "copies").glob("*.safetensors"))
    assert len(copies) == 2
    for copy in copies:
        assert [a.customer for a in verify(home, copy).accused] == [copy.stem]
    write(place / "leak.safetensors", client.received[3][2])
    (named,) = verify(home, place / "leak.safetensors").participants
    assert (named.participant, named.round) == ("3", 3)


# -------------------------------------------------------------------- training marks and the choice

SIZE = (60, 50)
MODEL = {
    "bias": np.arange(3, dtype=np.float32),
    "weight": np.random.default_rng(2).standard_normal(SIZE).astype(np.float32),
}


def updates() -> list[Weights]:
    """A common step, and each participant's own deviation from it; the last has turned round."""
    rng = np.random.default_rng(5)
    common = 0.05 * rng.standard_normal(SIZE)
    steps = [common + 0.002 * (i + 1) * rng.standard_normal(SIZE) for i in range(PARTICIPANTS)]
    steps[-1] = -100 * common
    return [{"bias": np.ones(3, np.float32), "weight": s.astype(np.float32)} for s in steps]


def result(grid_of, issuer, marker, name):
    steps = updates()

    def answer(message, participant):
        received = records.from_record(message.content.array_records[records.ARRAYS])
        arrays = {k: v + steps[participant][k] for k, v in received.items()}
        provenance = {records.PARTITION_ID: f"{participant:06d}"}
        provenance[records.CODE_SHA256] = code_sha256()
        metrics = {records.NUM_EXAMPLES: 10, records.TRAIN_LOSS: 1.0}
        return records.train_reply(message, arrays, metrics, provenance)

    flat = FLAT | {"strategy": name, "num-malicious-nodes": 1}
    strategy = FingerprintStrategy(
        strategies.build(config.parse(flat)),
        issuer,
        marker,
        rules=RoundRules(min_replies=7, learning_rate=lambda _: 0.1),
    )
    strategy.start(grid_of(*[answer] * 7), records.to_record(MODEL), num_rounds=1)
    return issuer.bases[-1]["weight"] - MODEL["weight"]


@pytest.mark.parametrize("name", ROBUST)
def test_training_marks_do_not_disturb_the_choice(name, grid_of, issuer, tmp_path, monkeypatch):
    """The mark is as large as the step. What is left of it, a share of one in 3,000, is nothing."""
    monkeypatch.setattr(OwnerKey, "generate", lambda: OwnerKey(bytes(range(32))))
    spec = ModelSpec("cnn", channels=1, classes=10, image_size=8)
    marker = OwnerMarker(OwnerHome.create(tmp_path / "home"), spec, "trial", 0.1)
    marked = result(grid_of, issuer, marker, name)
    unmarked = result(grid_of, issuer, Unmarked(), name)
    assert np.linalg.norm(marked - unmarked) < 0.1 * np.linalg.norm(unmarked)
    if name == "krum":  # it is one of the replies, and the same one
        nearest = [
            int(np.argmin([np.linalg.norm(step - u["weight"]) for u in updates()]))
            for step in (marked, unmarked)
        ]
        assert nearest[0] == nearest[1] < 6


def test_the_control_a_mark_that_stays_in_disturbs_the_choice(
    grid_of, issuer, tmp_path, monkeypatch
):
    home = OwnerHome.create(tmp_path / "home")
    spec = ModelSpec("cnn", channels=1, classes=10, image_size=8)
    marker = OwnerMarker(home, spec, "trial", 0.1)
    open_ = marker.open

    class StaysIn:
        def __init__(self, broadcast):
            self.mark = broadcast.mark

        def take_out(self, node, reply):
            return reply

    monkeypatch.setattr(marker, "open", lambda *a: StaysIn(open_(*a)))
    marked = result(grid_of, issuer, marker, "krum")
    unmarked = result(grid_of, issuer, Unmarked(), "krum")
    assert np.linalg.norm(marked - unmarked) > 0.5 * np.linalg.norm(unmarked)


# --------------------------------------------------------------------------- rounding of distances


def chosen(strategy, model, steps):
    """Which reply Krum chooses."""
    inline.allow_messages()
    arrays = records.to_record(model)
    grid = inline.InlineGrid(lambda message, _: message, len(steps), {})
    messages = list(strategy.configure_train(1, arrays, ConfigRecord(), grid))
    replies = []
    for message, step in zip(messages, steps, strict=True):
        metrics = {records.NUM_EXAMPLES: 10, records.TRAIN_LOSS: 1.0}
        moved = {"w": model["w"] + step}
        replies.append(records.train_reply(message, moved, metrics, {"x": "y"}))
    result, _ = strategy.aggregate_train(1, replies)
    moved = records.from_record(result)["w"] - model["w"]
    return min(range(len(steps)), key=lambda i: float(np.abs(moved - steps[i]).sum()))


def exact_choice(model, steps):
    replies = [(model["w"] + step).astype(np.float64) for step in steps]
    distances = np.array([[((a - b) ** 2).sum() for b in replies] for a in replies])
    scores = np.sort(distances, axis=1)[:, 1 : len(steps) - 2].sum(axis=1)  # n - f - 2, f = 1
    return int(np.argmin(scores))


def test_krum_chooses_as_exact_distances_do_where_flowers_own_is_led_by_rounding():
    """Two million weights, steps of 1e-4 of a weight: late in the training of a small ResNet."""
    rng = np.random.default_rng(1)
    settings: dict[str, Any] = {"num_malicious_nodes": 1, "min_train_nodes": 7}
    right = {"ours": 0, "flower": 0}
    for _ in range(5):
        model = {"w": rng.standard_normal(2_000_000).astype(np.float32)}
        steps = [
            (1e-4 * (1 + 0.01 * i) * rng.standard_normal(2_000_000)).astype(np.float32)
            for i in rng.permutation(7)
        ]
        exact = exact_choice(model, steps)
        right["ours"] += chosen(KrumOfUpdates(**settings), model, steps) == exact
        right["flower"] += chosen(Krum(**settings), model, steps) == exact
    assert right["ours"] == 5
    assert right["flower"] < 5
