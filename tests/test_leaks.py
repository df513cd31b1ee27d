"""Leaked models of training: participant and round are named, and nobody else is.

Four rounds of five participants on a model that moves a little each round; trained federations are
in tests/e2e and benchmarks/training_marks.py.
"""

import numpy as np
import pytest

from smdl_flower import issuing, models, weights
from smdl_flower.attacks import altering, catalogue, collusion
from smdl_flower.errors import IntegrityError, NotComparableError
from smdl_flower.fingerprint.keys import OwnerKey
from smdl_flower.flower.marking import OwnerMarker
from smdl_flower.home import OwnerHome
from smdl_flower.issuing import FidelityGate
from smdl_flower.verifying import verify

ROUNDS, NODES = (1, 2, 3, 4), (11, 12, 13, 14, 15)


@pytest.fixture(scope="module")
def run(tmp_path_factory, spec, base, fingerprint_config):
    """The owner's home after a run; what each node received; the models; a customer's copy."""
    folder = tmp_path_factory.mktemp("leaks")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(OwnerKey, "generate", lambda: OwnerKey(b"leaks".ljust(32)))
        home = OwnerHome.create(folder / "home")
    home.registry.add_customers(["clinic-a", "bank-b"])
    marker = OwnerMarker(home, spec, "trial-1", 0.1)
    rng = np.random.default_rng(4)
    sent: dict[tuple[int, int], weights.Weights] = {}
    trained: dict[int, weights.Weights] = {}
    model = base
    for number in ROUNDS:
        trained[number] = model
        broadcast = marker.open(number, model, NODES)
        sent |= {(number, node): broadcast.mark(node) for node in NODES}
        model = {
            k: v + rng.normal(0, 0.1 * v.std(), v.shape).astype("f4") for k, v in model.items()
        }
    marker.identify({node: str(node - 11) for node in NODES})
    marker.open(len(ROUNDS) + 1, model, [])
    campaign = issuing.open_campaign(home, spec, model, fingerprint_config, FidelityGate(None, 0.0))
    results = list(issuing.issue(home, campaign, ["clinic-a", "bank-b"], folder / "copies"))
    copies = [weights.read(result.path).weights for result in results if result.path]
    return home, sent, trained | {len(ROUNDS) + 1: model}, copies


@pytest.fixture
def named(run, tmp_path):
    """Return a function: a suspect -> whom its verdict names."""

    def examine(suspect):
        weights.write(tmp_path / "suspect.safetensors", suspect, replace=True)
        verdict = verify(run[0], tmp_path / "suspect.safetensors")
        participants = {(int(p.node), p.round) for p in verdict.participants}
        return participants | {a.customer for a in verdict.accused}

    return examine


def test_every_broadcast_names_its_receiver_and_round_alone(run, named):
    for number, node in ((1, 11), (4, 13)):
        assert named(run[1][number, node]) == {(node, number)}


def test_a_leak_says_which_participant_the_node_said_it_is(run, tmp_path):
    weights.write(tmp_path / "leak.safetensors", run[1][2, 13])
    verdict = verify(run[0], tmp_path / "leak.safetensors")
    (traced,) = verdict.participants
    assert (traced.participant, traced.run) == ("2", "trial-1")
    assert verdict.exit_code == 0
    assert verdict.model_id == weights.digest(run[2][2])[:16]
    assert (verdict.customers, verdict.broadcasts) == (2, 20)
    assert "participant 2 was sent for round 2 of run trial-1" in verdict.summary()


@pytest.mark.parametrize(
    "alter",
    [
        lambda w, _: altering.prune(w, 0.5),
        lambda w, _: {k: v.astype(np.float16).astype(np.float32) for k, v in w.items()},
        lambda w, spec: catalogue.run("permute-rescale", [w], spec, {}).weights,
        lambda w, spec: catalogue.run("noise", [w], spec, {"level": 0.2}).weights,
    ],
    ids=["prune half", "half precision", "permute and rescale", "noise"],
)
def test_an_altered_broadcast_is_traced(alter, run, named, spec):
    assert named(alter(run[1][3, 12], spec)) == {(12, 3)}


@pytest.mark.parametrize("count", [2, 4])
def test_averaging_ones_own_rounds_names_nobody_else(count, run, named):
    own = [run[1][number, 14] for number in ROUNDS[:count]]
    found = named(collusion.average(own))
    assert found
    assert {node for node, _ in found} == {14}


def test_two_who_average_the_same_round_are_both_named(run, named):
    assert named(collusion.average([run[1][2, 11], run[1][2, 12]])) == {(11, 2), (12, 2)}


def test_a_customers_copy_names_the_customer_only(run, named):
    assert named(run[3][0]) == {"clinic-a"}
    # Also merged with a broadcast: a copy comes from a model that all participants trained.
    assert named(collusion.average([run[3][0], run[1][4, 12]])) == {"clinic-a"}


def test_unmarked_models_and_innocent_ones_name_nobody(run, named, spec):
    for number in (1, 3, 5):
        assert named(run[2][number]) == set()
    assert named(models.to_weights(models.build(spec, seed=77))) == set()
    first, second = run[2][1], run[2][2]
    between = {name: first[name] + np.float32(0.3) * (second[name] - first[name]) for name in first}
    assert named(between) == set()


def test_another_owners_broadcast_of_the_same_model_names_nobody(run, named, spec, tmp_path):
    other = OwnerMarker(OwnerHome.create(tmp_path / "other"), spec, "trial-1", 0.1)
    assert named(other.open(2, run[2][2], NODES).mark(12)) == set()


def test_asking_about_one_base_model_leaves_models_of_training_out(run, tmp_path):
    weights.write(tmp_path / "leak.safetensors", run[1][2, 13])
    (base_model,) = run[0].base_models()
    verdict = verify(run[0], tmp_path / "leak.safetensors", model_id=base_model.model_id)
    assert (verdict.participants, verdict.broadcasts) == ((), 0)


def test_the_same_model_sent_in_two_runs_is_one_word_and_both_are_told(spec, base, tmp_path):
    home = OwnerHome.create(tmp_path / "home")
    for name in ("trial-1", "trial-2"):
        broadcast = OwnerMarker(home, spec, name, 0.1).open(1, base, [5, 6])
    weights.write(tmp_path / "leak.safetensors", broadcast.mark(6))
    verdict = verify(home, tmp_path / "leak.safetensors")
    assert {(p.node, p.run) for p in verdict.participants} == {("6", "trial-1"), ("6", "trial-2")}
    assert verdict.broadcasts == 2


def test_a_model_that_fits_nothing_is_not_comparable(run, tmp_path):
    weights.write(tmp_path / "odd.safetensors", {"odd": np.ones((3, 3), np.float32)})
    with pytest.raises(NotComparableError, match="of training"):
        verify(run[0], tmp_path / "odd.safetensors")


def test_no_verdict_rests_on_a_changed_model_of_training(spec, base, tmp_path):
    home = OwnerHome.create(tmp_path / "home")
    broadcast = OwnerMarker(home, spec, "trial-1", 0.1).open(1, base, [5])
    weights.write(tmp_path / "leak.safetensors", broadcast.mark(5))
    (path,) = (home.path / "vault" / "broadcasts").iterdir()
    weights.write(path, broadcast.mark(5), replace=True)
    with pytest.raises(IntegrityError, match="was changed"):
        verify(home, tmp_path / "leak.safetensors")
