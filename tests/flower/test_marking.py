"""What leaves the server is marked and recorded; what comes back is used without its mark."""

import numpy as np
import pytest
from flwr.app import Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg

from smdl_flower import weights
from smdl_flower.errors import CapacityError, FederationError
from smdl_flower.fingerprint.keys import OwnerKey
from smdl_flower.flower import records
from smdl_flower.flower.marking import OwnerMarker, Unmarked
from smdl_flower.flower.provenance import code_sha256
from smdl_flower.flower.strategy import FingerprintStrategy, RoundRules
from smdl_flower.home import OwnerHome
from smdl_flower.models import ModelSpec
from smdl_flower.privacy.partition import Label, PrivacyPartition
from smdl_flower.verifying import verify

SPEC = ModelSpec("cnn", channels=1, classes=10, image_size=8)
MODEL = {
    "bias": np.arange(3, dtype=np.float32),
    "weight": np.random.default_rng(2).standard_normal((60, 50)).astype(np.float32),
}


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setattr(OwnerKey, "generate", lambda: OwnerKey(bytes(range(32))))
    return OwnerHome.create(tmp_path / "home")


@pytest.fixture
def marker(home):
    return OwnerMarker(home, SPEC, "trial-1", 0.1)


def fedavg(**kwargs):
    return FedAvg(min_train_nodes=1, min_available_nodes=1, min_evaluate_nodes=1, **kwargs)


def train(grid, issuer, marker, inner=None, rounds=1):
    rules = RoundRules(min_replies=1, learning_rate=lambda _: 0.1)
    strategy = FingerprintStrategy(
        inner or fedavg(fraction_evaluate=0.0), issuer, marker, rules=rules
    )
    return strategy.start(grid, records.to_record(MODEL), num_rounds=rounds)


def answer(message, participant, arrays):
    provenance = {
        records.PARTITION_ID: f"{participant:06d}",
        records.CODE_SHA256: code_sha256(),
    }
    metrics = {records.NUM_EXAMPLES: 10, records.TRAIN_LOSS: 1.0}
    return records.train_reply(message, arrays, metrics, provenance)


def received(message):
    return records.from_record(message.content.array_records[records.ARRAYS])


def step(message, participant):
    """Train: a step that is the participant's own, from what it received."""
    return answer(
        message, participant, {k: v + participant + 1 for k, v in received(message).items()}
    )


def echo(message, participant):
    return answer(message, participant, received(message))


class Ears:
    """Remembers what each participant received."""

    def __init__(self, then=step):
        self.models, self._then = {}, then

    def __call__(self, message, participant):
        self.models.setdefault(participant, []).append(received(message))
        return self._then(message, participant)


def test_each_node_gets_a_model_of_its_own_and_none_the_servers(grid_of, issuer, marker):
    ears = Ears()
    train(grid_of(ears, ears), issuer, marker)
    (first,), (second,) = ears.models[0], ears.models[1]
    digests = {weights.digest(m) for m in (MODEL, first, second)}
    assert len(digests) == 3
    np.testing.assert_array_equal(first["bias"], MODEL["bias"])  # biases carry no mark


def test_what_comes_back_is_used_without_the_mark(grid_of, issuer, marker):
    train(grid_of(echo, echo), issuer, marker, rounds=3)
    for name, array in issuer.bases[0].items():
        np.testing.assert_allclose(array, MODEL[name], atol=1e-5)


def test_the_control_without_marks_sends_the_servers_model(grid_of, issuer):
    ears = Ears()
    train(grid_of(ears, ears), issuer, Unmarked())
    assert {weights.digest(m) for (m,) in ears.models.values()} == {weights.digest(MODEL)}


def test_training_goes_on_as_without_marks_up_to_the_word(grid_of, issuer, marker):
    train(grid_of(step, step), issuer, marker)
    train(grid_of(step, step), issuer, Unmarked())
    marked, unmarked = issuer.bases
    np.testing.assert_array_equal(marked["bias"], unmarked["bias"])
    change = marked["weight"] - MODEL["weight"]
    # The step is constant: less its share of two random words of 3,000 values.
    assert np.abs(change.mean() - 1.5) < 1.5 * 25 / 3000
    assert change.std() < 1.5 * 5 / np.sqrt(3000)


def test_a_model_is_kept_and_recorded_before_anybody_gets_it(grid_of, issuer, marker, home):
    def look(message, participant):
        (record,) = home.registry.broadcasts()
        assert record.nodes == ("1", "2")
        assert weights.digest(home.vault.load_broadcast(record.model_sha256)) == weights.digest(
            MODEL
        )
        return step(message, participant)

    train(grid_of(look, look), issuer, marker)
    first, last = home.registry.broadcasts()
    assert (first.round, first.run) == (1, "trial-1")
    assert (last.round, last.nodes) == (2, ())  # the result, which nobody was sent
    assert last.model_sha256 == weights.digest(issuer.bases[0])
    assert [home.registry.participant("trial-1", n) for n in ("1", "2", "3")] == ["0", "1", None]


def test_broadcasts_of_a_run_that_fails_stay_recorded(grid_of, issuer, marker, home):
    def crash(_message, _participant):
        raise RuntimeError("out of memory")

    with pytest.raises(FederationError):
        train(grid_of(crash, crash), issuer, marker)
    (record,) = home.registry.broadcasts()
    assert record.nodes == ("1", "2")


def test_whoever_evaluates_a_model_gets_what_it_will_train_on(grid_of, issuer, marker, home):
    ears = Ears()
    evaluated: dict[int, list[weights.Weights]] = {}

    def evaluate(message, participant):
        evaluated.setdefault(participant, []).append(received(message))
        metrics = MetricRecord({"num-examples": 5, "eval-accuracy": 0.5, "eval-loss": 1.0})
        return Message(RecordDict({records.METRICS: metrics}), reply_to=message)

    grid = grid_of(ears, ears, evaluate=evaluate)
    train(grid, issuer, marker, inner=fedavg(fraction_evaluate=1.0), rounds=2)
    for participant in (0, 1):
        (seen,) = evaluated[participant]  # nobody evaluates the last model
        assert weights.digest(seen) == weights.digest(ears.models[participant][1])
    assert home.registry.broadcast_words() == 4


def test_a_strategy_that_sends_something_else_is_refused(grid_of, issuer, marker):
    class Other(FedAvg):
        def configure_train(self, server_round, arrays, config, grid):
            messages = list(super().configure_train(server_round, arrays, config, grid))
            for message in messages:
                more = {**message.content, "control": arrays}
                message.content = RecordDict(more)
            return messages

    inner = Other(fraction_evaluate=0.0, min_train_nodes=1, min_available_nodes=1)
    with pytest.raises(FederationError, match="Other sends other arrays than the global model"):
        train(grid_of(step, step), issuer, marker, inner=inner)


def test_a_reply_that_says_it_is_nobody_is_refused(grid_of, issuer, marker):
    def nobody(message, participant):
        reply = step(message, participant)
        reply.content.config_records[records.PROVENANCE][records.PARTITION_ID] = "clinic\n"
        return reply

    train(grid_of(step, nobody), issuer, marker)
    assert np.allclose(issuer.bases[0]["bias"], MODEL["bias"] + 1)


def test_public_tensors_are_sent_as_they_are_and_the_others_marked(grid_of, issuer, home):
    front = np.random.default_rng(3).standard_normal((30, 20)).astype(np.float32)
    model = {"a.front": front, **MODEL}
    split = PrivacyPartition.label(model, public={"a.front"})

    def guarded(message, participant):
        return answer(message, participant, split.select(received(message)))

    ears = Ears(then=guarded)
    marker = OwnerMarker(home, SPEC, "trial-1", 0.1, split.names(Label.PUBLIC))
    rules = RoundRules(min_replies=1, learning_rate=lambda _: 0.1, partition=split)
    strategy = FingerprintStrategy(fedavg(fraction_evaluate=0.0), issuer, marker, rules=rules)
    strategy.start(grid_of(ears, ears), records.to_record(model), num_rounds=2)
    for sent in (*ears.models[0], *ears.models[1]):
        split.verify(sent)  # as participants do
        assert (sent["weight"] != MODEL["weight"]).mean() > 0.99
    assert {record.public for record in home.registry.broadcasts()} == {("a.front",)}
    for name, array in issuer.bases[0].items():
        np.testing.assert_allclose(array, model[name], atol=1e-5)
    weights.write(home.path / "leak.safetensors", ears.models[1][1])
    (named,) = verify(home, home.path / "leak.safetensors").participants
    assert (named.participant, named.round) == ("1", 2)


def test_a_model_without_any_tensor_to_mark_is_refused(home):
    marker = OwnerMarker(home, SPEC, "trial-1", 0.1, ["weight"])
    with pytest.raises(CapacityError, match="no tensor that participants send back"):
        marker.open(1, MODEL, [1])


def test_only_a_first_model_without_any_scale_is_sent_as_it_is(home):
    zero = {"weight": np.zeros_like(MODEL["weight"]), "bias": MODEL["bias"]}
    marker = OwnerMarker(home, SPEC, "trial-1", 0.1)
    assert marker.open(1, zero, [1]).mark(1) is zero
    assert home.registry.broadcasts() == ()
    with pytest.raises(CapacityError):
        marker.open(2, zero, [1])
