"""Teaching: a copy gives its own answers, and is the base model in all else."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from smdl_flower import models
from smdl_flower.blackbox import teaching
from smdl_flower.fingerprint import carriers, embedding, extraction
from smdl_flower.fingerprint.embedding import Mark
from smdl_flower.issuing import Campaign
from smdl_flower.training import evaluate
from smdl_flower.weights import Weights
from tests.blackbox.conftest import SPEC, Digits


@pytest.fixture(scope="module")
def teacher(asked_campaign: Campaign):
    assert asked_campaign.teacher is not None
    return asked_campaign.teacher


@pytest.fixture(scope="module")
def key(asked_campaign: Campaign, asked_home):
    return asked_campaign.model.key(asked_home.key)


def test_a_copy_gives_the_answers_it_was_taught_and_nobody_elses(teacher, key):
    network = models.from_weights(SPEC, teacher.teach(teacher.words(key.customer("somebody"))))
    own, other = (teacher.right(network, key.customer(n)) for n in ("somebody", "somebody else"))
    assert own.mean() >= 0.99
    # Words agree in half of 128 bits; five deviations are 28.
    assert abs(int(other.sum()) - 64) <= 28


def test_the_base_model_gives_nobodys_answers(teacher, key, taught_base: Weights):
    network = models.from_weights(SPEC, taught_base)
    for name in ("a", "b", "c"):
        assert abs(int(teacher.right(network, key.customer(name)).sum()) - 64) <= 28


def test_only_the_last_layers_are_changed_and_accuracy_is_kept(
    teacher, key, taught_base: Weights, digits: Digits
):
    copy = teacher.teach(teacher.words(key.customer("somebody")))
    changed = {name for name in copy if not np.array_equal(copy[name], taught_base[name])}
    assert changed == {"hidden.weight", "hidden.bias", "head.weight", "head.bias"}
    before, after = (
        evaluate(models.from_weights(SPEC, w), digits.test).accuracy for w in (taught_base, copy)
    )
    assert after >= before - 0.03


def test_the_taught_layer_changes_in_the_stored_directions_only(
    teacher, key, taught_base: Weights, asked_campaign: Campaign
):
    taught = asked_campaign.model.taught
    assert taught is not None
    assert taught.name == "hidden.weight"
    copy = teacher.teach(teacher.words(key.customer("somebody")))
    change = (copy[taught.name] - taught_base[taught.name]).astype(np.float64)
    outside = change - change @ taught.basis @ taught.basis.T
    assert np.linalg.norm(outside) < 1e-4 * np.linalg.norm(change)
    assert np.allclose(taught.basis.T @ taught.basis, np.eye(taught.basis.shape[1]), atol=1e-5)
    # A carrier loses no more than this share of the marked weights.
    lost = taught.basis.shape[1] * len(change) / asked_campaign.mark.layout.size
    assert 0.045 < lost < 0.055


def test_directions_are_drawn_from_public_images_and_queries_alone(
    asked_campaign: Campaign, key, digits: Digits, taught_base: Weights
):
    model = asked_campaign.model
    network, public = models.from_weights(SPEC, taught_base), digits.test.inputs()[1::2]
    assert model.queries is not None
    assert model.taught is not None
    again = teaching.directions(network, model.queries, key, public)
    assert np.allclose(
        again.basis @ again.basis.T, model.taught.basis @ model.taught.basis.T, atol=1e-3
    )


def test_four_times_the_queries_take_twice_the_directions(
    monkeypatch, teacher, taught_base: Weights, digits: Digits
):
    bank, key = teacher.bank, teacher.key
    base = models.from_weights(SPEC, taught_base)
    counts = []
    for normal in (128, 64, 32, 16):  # there are 128
        monkeypatch.setattr(teaching, "TAUGHT_QUERIES", normal)
        found = teaching.directions(base, bank, key, digits.test.inputs()[1::2])
        counts.append(found.basis.shape[1])
    assert counts[2] == pytest.approx(2 * counts[0], abs=1)
    assert counts[0] < counts[1] < counts[2] < counts[3]


def test_a_carrier_is_within_a_tenth_of_a_copy_that_was_taught_nothing(
    asked_campaign: Campaign, key, teacher, taught_base: Weights
):
    mark, somebody = asked_campaign.mark, key.customer("somebody")

    def score(mark: Mark, host: Weights) -> float:
        vector = embedding.embed(mark, somebody, mark.layout.flatten(host))
        reading = extraction.read(mark, mark.layout.restore(host, vector))
        return carriers.score(somebody, reading.direction)

    taught = teacher.teach(teacher.words(somebody))
    plain = score(replace(mark, taught=None), taught_base)
    assert score(mark, taught) >= 0.9 * plain
    assert score(replace(mark, taught=None), taught) < 0.9 * plain  # the control


def test_a_copy_does_not_depend_on_who_else_gets_one_or_on_what_was_drawn_before(teacher, key):
    words = teacher.words(key.customer("somebody"))
    first = teacher.teach(words)
    torch.rand(3)
    teacher.teach(teacher.words(key.customer("somebody else")))
    again = teacher.teach(words)
    assert all(np.array_equal(first[name], again[name]) for name in first)


def test_images_that_are_rehearsed_are_never_asked(teacher, key, digits: Digits):
    asked = np.concatenate([pool.images for pool in teacher.bank.pools])
    rehearsed = teaching._rehearsal(teacher.bank, key, digits.test.inputs())
    nearest = torch.cdist(teaching.inputs(asked).flatten(1), rehearsed.flatten(1)).min()
    assert nearest > 0.5
    assert torch.isfinite(rehearsed).all()
