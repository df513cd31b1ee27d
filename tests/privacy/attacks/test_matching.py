"""Which candidate was used: found in the clear, by chance at best under noise."""

import torch

from smdl_flower import models
from smdl_flower.data import Images
from smdl_flower.models import ModelSpec
from smdl_flower.privacy.attacks.matching import match, similarities
from smdl_flower.privacy.attacks.update import gradient, noised


def test_a_clear_update_gives_the_candidate_away_and_a_noised_one_does_not(
    digits: Images, generator
):
    model = models.build(ModelSpec("cnn", 1, 10, 8), seed=1)
    inputs, labels = digits.inputs()[:200], digits.labels[:200]
    assert match(model, gradient, inputs, labels, 40).right == 40
    # Noise of 4.5 times the gradient's length, in each of 130,000 directions.
    hidden = match(model, noised(4.5, 1.0, generator), inputs, labels, 40)
    assert hidden.right <= 4  # binomial(40, 1/200) exceeds 4 with probability 2e-6
    assert (hidden.trials, hidden.candidates) == (40, 200)


def test_similarity_does_not_depend_on_the_length_of_an_update(digits: Images):
    model = models.build(ModelSpec("cnn", 1, 10, 8), seed=1)
    inputs, labels = digits.inputs()[:3], digits.labels[:3]
    sent = gradient(model, inputs[1:2], labels[1:2])
    rows = similarities(model, [sent, {name: 1e-3 * t for name, t in sent.items()}], inputs, labels)
    torch.testing.assert_close(rows[0], rows[1])
    assert float(rows[0, 1]) > 0.9999
