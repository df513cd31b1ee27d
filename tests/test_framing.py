"""Nobody is framed by what later models hold of earlier marks: the claim, and its control.

Participants train from marked models, so the next model depends on their words. Whoever has both
models unmarked may hand in w_r - t (w_(r+1) - w_r), or weigh that difference by how sensitive the
weights are. With plain subtraction (the control) that accuses those who took part; with projection
their scores are those of decoys.
"""

import functools
import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from smdl_flower import config, models, training, weights
from smdl_flower.data import load_shard
from smdl_flower.fingerprint import broadcast, decoys
from smdl_flower.fingerprint.accusation import Level
from smdl_flower.fingerprint.embedding import CarrierMark
from smdl_flower.fingerprint.keys import CampaignKey, CustomerKey, OwnerKey
from smdl_flower.fingerprint.profile import sensitivity_profile
from smdl_flower.models import ModelSpec

OWNER = OwnerKey(bytes(range(32)))
SPEC = ModelSpec("cnn", channels=1, classes=10, image_size=8)
NODES = ("1", "2")
ROUNDS = 3
STRENGTH = 0.1
THRESHOLD = Level(total=1e-6, words=len(NODES) * ROUNDS, hypotheses=4).carrier_threshold()
RUN = config.parse(
    config.load_defaults(config.example_app_dir())
    | {"data": "digits", "num-participants": 2, "local-epochs": 10, "learning-rate": 0.05}
)


def by_subtraction(mark, key, reply):
    return reply - (broadcast.add(mark, key, STRENGTH) - mark.base)


@dataclass(frozen=True)
class Round:
    """One round of training: the model it starts from and the one it ends with, both unmarked."""

    model: weights.Weights
    later: weights.Weights
    mark: CarrierMark
    campaign: CampaignKey

    @property
    def words(self) -> list[CustomerKey]:
        return [broadcast.word_key(self.campaign, node) for node in NODES]

    @functools.cached_property
    def framings(self) -> dict[str, weights.Weights]:
        """Models that could be handed in: extrapolated, and weighed by sensitivity."""
        layout, start = self.mark.layout, self.mark.base
        step = layout.flatten(self.later) - start
        module = models.from_weights(SPEC, self.model)
        profile = sensitivity_profile(module, layout, (1, 8, 8), samples=100)
        sensitive = np.zeros(layout.size, dtype=bool)
        for tensor in layout.tensors:
            here = profile[tensor.where]
            sensitive[tensor.where] = here < np.median(here)
        changes = {
            **{f"{t} steps back": -np.float32(t) * step for t in (1, 3, 10)},
            "sensitive weights forth, others back": np.where(sensitive, step, -step),
            "insensitive weights back": np.where(sensitive, np.float32(0), -step),
        }
        return {n: layout.restore(self.model, start + change) for n, change in changes.items()}


def federate(take_out):
    """Two participants who train long: training undoes a good part of a mark."""
    shards = [load_shard(RUN.data, participant=i, seed=7) for i in range(len(NODES))]
    model, rounds = models.to_weights(models.build(SPEC, seed=7)), []
    for number in range(ROUNDS):
        campaign = OWNER.campaign(weights.digest(model))
        mark = broadcast.mark_of(model, campaign)
        replies = []
        for node, shard in zip(NODES, shards, strict=True):
            key = broadcast.word_key(campaign, node)
            start = mark.layout.restore(model, broadcast.add(mark, key, STRENGTH))
            module = models.from_weights(SPEC, start)
            generator = torch.Generator().manual_seed(100 * number + int(node))
            training.train(module, shard, RUN.training, learning_rate=0.05, generator=generator)
            reply = models.to_weights(module)
            vector = take_out(mark, key, mark.layout.flatten(reply))
            replies.append(mark.layout.restore(reply, vector))
        later = {name: np.mean([r[name] for r in replies], axis=0) for name in model}
        rounds.append(Round(model, later, mark, campaign))
        model = later
    return rounds


@pytest.fixture(scope="module")
def subtracted():
    return federate(by_subtraction)


@pytest.fixture(scope="module")
def projected():
    return federate(broadcast.take_out)


def scores(rounds, name, keys_of, later=()):
    """Scores of all rounds' keys on one kind of framing, without the rule on later models."""
    readings = [(of, broadcast.read(of.mark, of.framings[name], later)) for of in rounds]
    return np.array([reading.score(key) for of, reading in readings for key in keys_of(of)])


@pytest.mark.parametrize("steps", [1, 3, 10])
def test_control_plain_subtraction_would_name_participants_of_every_later_round(steps, subtracted):
    framed = scores(subtracted, f"{steps} steps back", lambda of: of.words)
    # In the first round the model is far from trained: nothing is undone yet.
    assert (framed.reshape(ROUNDS, len(NODES))[1:].max(axis=1) > THRESHOLD).all()


def test_projection_leaves_participants_scores_like_those_of_decoys(projected):
    names = list(projected[0].framings)
    framed = {name: scores(projected, name, lambda of: of.words) for name in names}
    count = len(NODES) * ROUNDS
    for name in names:
        # Sub-Gaussian scores: a mean of n beyond 5/sqrt(n) has a chance below 1e-5.
        assert abs(framed[name].mean()) < 5 / math.sqrt(count)
    # P(any of n beyond t) <= n exp(-t^2/2) = 1e-4.
    assert max(map(max, framed.values())) < math.sqrt(2 * math.log(count * len(names) / 1e-4))


def test_decoys_score_as_the_theorem_says_on_framing_models(projected):
    for name in projected[0].framings:
        innocents = scores(projected, name, lambda of: list(decoys.keys(of.campaign, 300)))
        decoys.check(innocents.tolist(), {})


def test_extrapolation_is_explained_by_the_later_model_whatever_the_trace(subtracted):
    """Second line of defence: even the traces of plain subtraction do not accuse as verified."""
    for of in subtracted:
        for steps in (1, 3, 10):
            suspect = of.framings[f"{steps} steps back"]
            reading = broadcast.read(of.mark, suspect, [of.later])
            assert max(reading.score(word) for word in of.words) <= 0.0


def test_the_guilty_score_the_same_although_later_models_are_taken_out(projected):
    for of in projected:
        sent = broadcast.add(of.mark, of.words[0], STRENGTH)
        suspect = of.mark.layout.restore(of.model, sent)
        alone = broadcast.read(of.mark, suspect, []).score(of.words[0])
        both = broadcast.read(of.mark, suspect, [of.later]).score(of.words[0])
        # One of hundreds of dimensions is lost in each tensor.
        assert both > 0.97 * alone > 10 * THRESHOLD


def on_later_leaks(rounds):
    """Scores of each round's words on what a participant of each later round could leak."""
    found = []
    for number, of in enumerate(rounds):
        for later in rounds[number + 1 :]:
            sent = broadcast.add(later.mark, later.words[0], STRENGTH)
            suspect = later.mark.layout.restore(later.model, sent)
            reading = broadcast.read(of.mark, suspect, [])
            found += [reading.score(word) for word in of.words]
    return np.array(found)


def test_leaks_of_later_rounds_do_not_name_those_of_earlier_ones(projected, subtracted):
    innocent = on_later_leaks(projected)
    assert abs(innocent.mean()) < 5 / math.sqrt(len(innocent))
    assert np.abs(innocent).max() < math.sqrt(2 * math.log(2 * len(innocent) / 1e-4))
    # The control: after plain subtraction a later model holds minus what training undid.
    assert on_later_leaks(subtracted).min() < -THRESHOLD
