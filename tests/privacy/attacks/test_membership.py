"""LiRA tells members of models that memorise, and nobody's of a model that learned nothing."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from smdl_flower.data import Images
from smdl_flower.privacy.attacks import membership
from smdl_flower.privacy.attacks.membership import Confidences, Membership, Training


def memorising(inputs: Tensor, labels: Tensor, seed: int) -> nn.Module:
    head = ignorant(inputs, labels, seed)
    optimizer = torch.optim.SGD(head.parameters(), 0.05, momentum=0.9)
    for _ in range(200):
        optimizer.zero_grad()
        nn.functional.cross_entropy(head(inputs), labels).backward()
        optimizer.step()
    return head


def ignorant(inputs: Tensor, labels: Tensor, seed: int) -> nn.Module:
    del inputs, labels
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


def attacked(digits: Images, train: Training) -> Membership:
    rng = np.random.default_rng(4)
    labels, canaries = membership.with_canaries(digits.labels[:200], 100, 10, rng)
    rows = list(membership.shadows(train, digits.inputs()[:200], labels, 8, rng))
    confidences = Confidences(
        np.stack([values for values, _ in rows]), np.stack([inside for _, inside in rows]), canaries
    )
    scores = membership.lira(confidences)
    return membership.measure(scores[:, canaries], confidences.members[:, canaries], rng)


def test_canaries_of_a_model_that_memorises_are_told(digits: Images):
    found = attacked(digits, memorising)
    assert found.auc > 0.9
    assert found.tpr > 0.1


def test_a_model_that_learned_nothing_tells_nothing(digits: Images):
    found = attacked(digits, ignorant)
    assert abs(found.auc - 0.5) < 4 * found.auc_error


def test_canaries_have_wrong_labels_and_others_right_ones():
    labels = torch.arange(50) % 10
    wrong, canaries = membership.with_canaries(labels, 20, 10, np.random.default_rng(0))
    assert bool((wrong[:20] != labels[:20]).all())
    assert torch.equal(wrong[20:], labels[20:])
    assert canaries.sum() == 20


def test_each_image_is_a_member_of_half_of_the_models(digits: Images):
    rng = np.random.default_rng(0)
    rows = list(membership.shadows(ignorant, digits.inputs()[:30], digits.labels[:30], 6, rng))
    assert (np.stack([inside for _, inside in rows]).sum(0) == 3).all()


def test_too_few_shadow_models_are_refused():
    few = Confidences(np.zeros((3, 2)), np.ones((3, 2), bool), np.ones(2, bool))
    with pytest.raises(ValueError, match="needs at least 4"):
        membership.lira(few)


def test_scores_follow_the_likelihood_ratio():
    rng = np.random.default_rng(5)
    members = np.tile(np.arange(16)[:, None] % 2 == 0, (1, 500))
    confidences = Confidences(rng.normal(2.0 * members), members, np.ones(500, bool))
    found = membership.measure(membership.lira(confidences), members, rng)
    assert found.auc == pytest.approx(0.9214, abs=0.02)  # Phi(2 / sqrt 2), less what fitting costs
