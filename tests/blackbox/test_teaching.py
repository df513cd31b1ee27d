"""Teaching: a copy gives its own answers, and is the base model in all else."""

import numpy as np
import pytest
import torch

from smdl_flower import models
from smdl_flower.blackbox import teaching
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
