import gc
import weakref

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp.strategy import FedAdam, FedAvg, FedAvgM

from smdl_flower import config
from smdl_flower.errors import FederationError
from smdl_flower.flower import checkpoint, records, strategies
from smdl_flower.flower.incidents import Incident
from smdl_flower.flower.marking import Unmarked
from smdl_flower.flower.provenance import code_sha256
from smdl_flower.flower.strategy import FingerprintStrategy, RoundRules
from smdl_flower.privacy.partition import PrivacyPartition

MODEL = {"bias": np.zeros(3, np.float32), "weight": np.zeros((2, 3), np.float32)}


def rules(min_replies=2, completed=0, rate=0.1):
    return RoundRules(min_replies=min_replies, learning_rate=lambda _: rate, completed=completed)


def fedavg():
    return FedAvg(fraction_evaluate=0.0, min_train_nodes=1, min_available_nodes=1)


def run(grid, issuer, inner=None, rounds=1, start=None, observers=(), **kwargs):
    strategy = FingerprintStrategy(
        inner or fedavg(), issuer, Unmarked(), rules=rules(**kwargs), observers=observers
    )
    return strategy.start(grid, records.to_record(start or MODEL), num_rounds=rounds)


def honest(message, participant):
    received = records.from_record(message.content.array_records[records.ARRAYS])
    step = np.float32(message.content.config_records[records.CONFIG][records.LEARNING_RATE])
    arrays = {k: v + step * np.float32(participant + 1) for k, v in received.items()}
    return reply(message, participant, arrays)


def reply(message, participant, arrays, examples=10, loss=1.0, code=None, **extra_metrics):
    metrics = {records.NUM_EXAMPLES: examples, records.TRAIN_LOSS: loss, **extra_metrics}
    provenance = {
        records.PARTITION_ID: f"{participant:06d}",
        records.CODE_SHA256: code_sha256() if code is None else code,
    }
    return records.train_reply(message, arrays, metrics, provenance)


def crash(_message, _participant):
    raise RuntimeError("out of memory")


class Rounds:
    """Remembers what an observer is told."""

    def __init__(self):
        self.seen = []

    def round_done(self, server_round, model, metrics):
        self.seen.append((server_round, {k: v.copy() for k, v in model.items()}, dict(metrics)))


def test_the_issuer_receives_the_weighted_average(grid_of, issuer):
    def weighted(message, participant):
        arrays = {k: np.full_like(v, participant) for k, v in MODEL.items()}
        return reply(message, participant, arrays, examples=[10, 30][participant])

    run(grid_of(weighted, weighted), issuer)
    assert len(issuer.bases) == 1
    np.testing.assert_allclose(issuer.bases[0]["weight"], 0.75)
    assert issuer.bases[0]["weight"].dtype == np.float32


def test_no_model_that_was_sent_is_kept(grid_of, issuer):
    """Each is another model: while 100 participants train, they would be 100 models in memory."""
    sent: list[weakref.ref[RecordDict]] = []
    grid = grid_of(honest, honest, honest)
    push = grid.push_messages

    def push_and_remember(messages):
        sent.extend(weakref.ref(message.content) for message in messages)
        return push(messages)

    grid.push_messages = push_and_remember
    strategy = FingerprintStrategy(fedavg(), issuer, Unmarked(), rules=rules())
    strategy.start(grid, records.to_record(MODEL), num_rounds=1)
    gc.collect()
    assert [content() for content in sent] == [None] * 3


def test_training_is_the_inner_strategy_unchanged(grid_of, issuer):
    run(grid_of(honest, honest, honest), issuer, rounds=3)
    train_config = ConfigRecord({records.LEARNING_RATE: 0.1})
    plain = fedavg().start(
        grid_of(honest, honest, honest),
        records.to_record(MODEL),
        num_rounds=3,
        train_config=train_config,
    )
    expected = records.from_record(plain.arrays)
    for name, array in issuer.bases[0].items():
        np.testing.assert_allclose(array, expected[name], rtol=1e-6)


@pytest.mark.parametrize("name", sorted(strategies._FACTORIES))
def test_every_named_strategy_trains_and_hands_over_a_model(name, grid_of, issuer):
    flat = config.load_defaults(config.example_app_dir())
    flat |= {"strategy": name, "min-replies": 5}
    inner = strategies.build(config.parse(flat))
    run(grid_of(*[honest] * 5), issuer, inner=inner, rounds=2, min_replies=5)
    assert set(issuer.bases[0]) == set(MODEL)
    assert all(np.isfinite(a).all() and a.any() for a in issuer.bases[0].values())


def test_a_run_in_which_every_participant_fails_raises(grid_of, issuer):
    with pytest.raises(FederationError, match=r"0 valid replies of 3.*out of memory"):
        run(grid_of(crash, crash, crash), issuer)
    assert issuer.bases == []


def test_a_run_goes_on_without_a_participant_that_fails(grid_of, issuer):
    run(grid_of(honest, crash, honest), issuer, rounds=2)
    assert len(issuer.bases) == 1


def test_too_few_replies_stop_the_run_and_name_who_failed(grid_of, issuer):
    with pytest.raises(FederationError, match=r"round 1: 1 valid replies of 2.*node 2: error"):
        run(grid_of(honest, crash), issuer)


def test_a_refused_node_is_called_what_its_owner_registered_it_as(grid_of, issuer, monkeypatch):
    seen: list[Incident] = []
    grid = grid_of(honest, crash, honest)
    nodes = [NodeInfo(node_id=1, name="clinic-a"), NodeInfo(node_id=2, name="clinic-b")]
    monkeypatch.setattr(grid, "get_nodes", lambda: nodes)
    strategy = FingerprintStrategy(
        *(fedavg(), issuer, Unmarked()),
        rules=RoundRules(min_replies=2, learning_rate=lambda _: 0.1, report=seen.append),
    )
    strategy.start(grid, records.to_record(MODEL), num_rounds=1)
    assert [(i.node, i.name, i.participant) for i in seen] == [(2, "clinic-b", None)]
    with pytest.raises(FederationError, match=r"node 2 \(clinic-b\): error reply"):
        strategy.start(grid_of(crash, crash, crash), records.to_record(MODEL), num_rounds=1)


def test_a_participant_that_never_answers_counts_as_missing(grid_of, issuer):
    grid = grid_of(honest, honest)
    grid.silent = {1, 2}
    with pytest.raises(FederationError, match="node 1: no reply in time; node 2: no reply in time"):
        run(grid, issuer)


def _arrays(**changes):
    return {**{k: v + 1 for k, v in MODEL.items()}, **changes}


def _two_array_records(message, participant):
    answer = reply(message, participant, _arrays())
    content = RecordDict(dict(answer.content))
    content["more"] = records.to_record(MODEL)
    return Message(content, reply_to=message)


def _pickled_array(message, participant):
    answer = reply(message, participant, _arrays())
    array = Array("float32", (3,), "pickle", b"cos\nsystem\n(S'true'\ntR.")
    record = ArrayRecord({**answer.content.array_records[records.ARRAYS], "bias": array})
    content = RecordDict({**answer.content, records.ARRAYS: record})
    return Message(content, reply_to=message)


def _lying_size(message, participant):
    array = Array("float32", (3,), "numpy.ndarray", bytes(1_000_000))
    answer = reply(message, participant, _arrays())
    record = ArrayRecord({**answer.content.array_records[records.ARRAYS], "bias": array})
    return Message(RecordDict({**answer.content, records.ARRAYS: record}), reply_to=message)


def _lying_shape(message, participant):
    """Claims the right shape, holds another."""
    inner = Array(np.ones(7, np.float32))
    array = Array("float32", (3,), "numpy.ndarray", inner.data)
    answer = reply(message, participant, _arrays())
    record = ArrayRecord({**answer.content.array_records[records.ARRAYS], "bias": array})
    return Message(RecordDict({**answer.content, records.ARRAYS: record}), reply_to=message)


def _garbage_array(message, participant):
    array = Array("float32", (3,), "numpy.ndarray", b"not numpy at all")
    answer = reply(message, participant, _arrays())
    record = ArrayRecord({**answer.content.array_records[records.ARRAYS], "bias": array})
    return Message(RecordDict({**answer.content, records.ARRAYS: record}), reply_to=message)


HOSTILE = {
    "NaN": lambda m, p: reply(m, p, _arrays(bias=np.full(3, np.nan, np.float32))),
    "infinity": lambda m, p: reply(m, p, _arrays(bias=np.full(3, np.inf, np.float32))),
    "other shape": lambda m, p: reply(m, p, _arrays(bias=np.ones(4, np.float32))),
    "other type": lambda m, p: reply(m, p, _arrays(bias=np.ones(3, np.float64))),
    "missing tensor": lambda m, p: reply(m, p, {"bias": MODEL["bias"]}),
    "extra tensor": lambda m, p: reply(m, p, _arrays(secret=np.ones(1, np.float32))),
    "no examples": lambda m, p: reply(m, p, _arrays(), examples=0),
    "negative examples": lambda m, p: reply(m, p, _arrays(), examples=-5),
    "a billion examples": lambda m, p: reply(m, p, _arrays(), examples=10**9),
    "fractional examples": lambda m, p: reply(m, p, _arrays(), examples=1.5),
    "a list of examples": lambda m, p: reply(m, p, _arrays(), examples=[1, 2]),
    "NaN loss": lambda m, p: reply(m, p, _arrays(), loss=float("nan")),
    "extra metric": lambda m, p: reply(m, p, _arrays(), accuracy=1.0),
    "other code": lambda m, p: reply(m, p, _arrays(), code="0" * 64),
    "two array records": _two_array_records,
    "a pickled array": _pickled_array,
    "an array larger than it claims": _lying_size,
    "an array of another shape than it claims": _lying_shape,
    "an array that is no array": _garbage_array,
    "nothing": lambda m, p: Message(RecordDict(), reply_to=m),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_reply_changes_nothing(what, grid_of, issuer):
    run(grid_of(honest, HOSTILE[what], honest), issuer)

    def alone(message, participant):  # the same two honest ones, without the hostile one
        return honest(message, 2 * participant)

    run(grid_of(alone, alone), issuer)
    with_hostile, without = issuer.bases
    for name, array in with_hostile.items():
        np.testing.assert_array_equal(array, without[name])


@pytest.mark.parametrize(
    "metrics",
    [
        {"num-examples": 5},
        {"num-examples": 0, "eval-accuracy": 1.0, "eval-loss": 0.0},
        {"num-examples": 5, "eval-accuracy": float("nan"), "eval-loss": 0.0},
        {"num-examples": 5, "eval-accuracy": 0.5, "eval-loss": 0.0, "more": 1.0},
    ],
)
def test_a_hostile_evaluation_neither_stops_the_run_nor_counts(metrics, grid_of, issuer):
    def evaluate(message, participant):
        good = MetricRecord({"num-examples": 5, "eval-accuracy": 0.5, "eval-loss": 1.0})
        record = MetricRecord(metrics) if participant == 1 else good
        return Message(RecordDict({records.METRICS: record}), reply_to=message)

    inner = FedAvg(min_train_nodes=1, min_evaluate_nodes=1, min_available_nodes=1)
    seen = Rounds()
    grid = grid_of(honest, honest, evaluate=evaluate)
    run(grid, issuer, inner=inner, rounds=2, observers=[seen])
    assert seen.seen[0][2]["participants-eval-accuracy"] == 0.5


def test_the_final_model_is_sent_to_nobody(grid_of, issuer):
    """Participants evaluate after each round but the last, whose model is the unmarked w0."""
    sent = []

    def evaluate(message, participant):
        sent.append(records.from_record(message.content.array_records[records.ARRAYS]))
        metrics = MetricRecord({"num-examples": 5, "eval-accuracy": 0.5, "eval-loss": 1.0})
        return Message(RecordDict({records.METRICS: metrics}), reply_to=message)

    inner = FedAvg(min_train_nodes=1, min_evaluate_nodes=1, min_available_nodes=1)
    run(grid_of(honest, evaluate=evaluate), issuer, inner=inner, rounds=3, min_replies=1)
    assert len(sent) == 2
    (base,) = issuer.bases
    assert not any((model["weight"] == base["weight"]).all() for model in sent)


def test_a_strategy_with_a_loop_of_its_own_cannot_be_wrapped(issuer):
    class Own(FedAvg):
        def start(self, *args, **kwargs):
            raise AssertionError

    with pytest.raises(FederationError, match="training loop of its own"):
        FingerprintStrategy(Own(), issuer, Unmarked(), rules=rules())


@pytest.mark.parametrize(
    "make",
    [
        fedavg,
        lambda: FedAdam(fraction_evaluate=0.0, min_train_nodes=1, min_available_nodes=1),
        lambda: FedAvgM(
            fraction_evaluate=0.0, min_train_nodes=1, min_available_nodes=1, server_momentum=0.9
        ),
    ],
    ids=["fedavg", "fedadam", "fedavgm"],
)
def test_a_resumed_run_ends_with_the_very_same_model(make, grid_of, issuer, tmp_path):
    run(grid_of(honest, honest), issuer, inner=make(), rounds=5)

    class Saving(Rounds):
        def round_done(self, server_round, model, metrics):
            super().round_done(server_round, model, metrics)
            state = checkpoint.optimizer_state(interrupted)
            checkpoint.save(tmp_path, checkpoint.Checkpoint(server_round, model, state), "same")
            checkpoint.restore_optimizer_state(interrupted, state)

    interrupted = make()
    failing = iter([honest, honest, honest, crash])

    def until_round_four(message, participant):
        return next(failing)(message, participant)

    with pytest.raises(FederationError, match="round 4"):
        run(
            *(grid_of(until_round_four, honest), issuer),
            inner=interrupted,
            rounds=5,
            observers=[Saving()],
        )

    start = checkpoint.load(tmp_path, "same")
    assert start.round == 3
    fresh, seen = make(), Rounds()
    checkpoint.restore_optimizer_state(fresh, start.optimizer)
    run(
        *(grid_of(honest, honest), issuer),
        inner=fresh,
        rounds=5,
        start=start.model,
        observers=[seen],
        completed=3,
    )
    assert [number for number, _, _ in seen.seen] == [4, 5]
    undisturbed, resumed = issuer.bases
    for name, array in undisturbed.items():
        np.testing.assert_array_equal(array, resumed[name])


def test_resuming_a_run_that_had_completed_all_rounds_only_fingerprints(grid_of, issuer):
    run(grid_of(crash, crash), issuer, rounds=2, completed=2, start={"w": np.ones(2, np.float32)})
    np.testing.assert_array_equal(issuer.bases[0]["w"], np.ones(2))


def test_participants_are_told_the_round_and_its_learning_rate(grid_of, issuer):
    told = []

    def listening(message, participant):
        instruction = message.content.config_records[records.CONFIG]
        told.append((instruction["server-round"], instruction[records.LEARNING_RATE]))
        return honest(message, participant)

    strategy = FingerprintStrategy(
        fedavg(), issuer, Unmarked(), rules=RoundRules(min_replies=1, learning_rate=lambda r: 1 / r)
    )
    strategy.start(grid_of(listening), records.to_record(MODEL), num_rounds=2)
    assert told == [(1, 1.0), (2, 0.5)]


SPLIT = PrivacyPartition.label(MODEL, public={"bias"})


def guarded_only(message, participant):
    received = records.from_record(message.content.array_records[records.ARRAYS])
    assert set(received) == set(MODEL)
    answer = {"weight": received["weight"] + np.float32(participant + 1)}
    return reply(message, participant, answer)


@pytest.mark.parametrize("name", ["fedavg", "fedadam", "fedavgm", "fedmedian", "krum"])
def test_public_tensors_are_sent_but_neither_come_back_nor_change(name, grid_of, issuer):
    flat = config.load_defaults(config.example_app_dir()) | {"strategy": name, "min-replies": 5}
    start = {"bias": np.arange(3, dtype=np.float32), "weight": MODEL["weight"]}
    strategy = FingerprintStrategy(
        strategies.build(config.parse(flat)),
        issuer,
        Unmarked(),
        rules=RoundRules(
            min_replies=5,
            learning_rate=lambda _: 0.1,
            partition=PrivacyPartition.label(start, public={"bias"}),
        ),
    )
    strategy.start(grid_of(*[guarded_only] * 5), records.to_record(start), num_rounds=2)
    np.testing.assert_array_equal(issuer.bases[0]["bias"], start["bias"])
    assert issuer.bases[0]["weight"].all()


def test_a_reply_with_a_public_tensor_is_refused(grid_of, issuer):
    rules_ = RoundRules(min_replies=1, learning_rate=lambda _: 0.1, partition=SPLIT)
    strategy = FingerprintStrategy(fedavg(), issuer, Unmarked(), rules=rules_)
    with pytest.raises(FederationError, match=r"other tensors, or in another order: \['bias'\]"):
        strategy.start(grid_of(honest), records.to_record(MODEL), num_rounds=1)


def test_participants_are_told_the_commitment_to_the_partition(grid_of, issuer):
    told = []

    def listening(message, participant):
        told.append(message.content.config_records[records.CONFIG][records.PARTITION_SHA256])
        return guarded_only(message, participant)

    rules_ = RoundRules(min_replies=1, learning_rate=lambda _: 0.1, partition=SPLIT)
    strategy = FingerprintStrategy(fedavg(), issuer, Unmarked(), rules=rules_)
    strategy.start(grid_of(listening), records.to_record(MODEL), num_rounds=1)
    assert told == [SPLIT.sha256()]
