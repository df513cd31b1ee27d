"""Images come back from clear updates, in closed form and by searching, not from noised ones."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from smdl_flower.data import Images
from smdl_flower.privacy.attacks import analytic, inversion
from smdl_flower.privacy.attacks.inversion import Search
from smdl_flower.privacy.attacks.reidentification import NOBODY, Reidentified, reidentify
from smdl_flower.privacy.attacks.update import Release, gradient, noised

SHAPE = (1, 8, 8)


def perceptron(hidden: int = 64) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, 10))


def convolutional() -> nn.Sequential:
    """A smooth front of 128 features and a head, as gradient inversion is usually shown on."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        front = nn.Sequential(nn.Conv2d(1, 8, 3, 2, padding=1), nn.Tanh(), nn.Flatten())
        return nn.Sequential(front, nn.Linear(128, 10))


@given(st.integers(0, 1439))
def test_one_image_is_read_off_the_first_layers_gradient(digits: Images, index: int):
    inputs, labels = digits.inputs()[[index]], digits.labels[[index]]
    sent = gradient(perceptron(), inputs, labels)
    read = analytic.single_input(sent["1.weight"], sent["1.bias"])
    torch.testing.assert_close(read, inputs[0].flatten(), atol=1e-4, rtol=1e-3)


def test_some_units_of_the_first_layer_see_one_image_of_a_batch_alone(digits: Images):
    inputs, labels = digits.inputs()[:4], digits.labels[:4]
    sent = gradient(perceptron(400), inputs, labels)
    rows = analytic.row_inputs(sent["1.weight"], sent["1.bias"])
    errors = (rows[:, None] - inputs.flatten(1)[None]).abs().amax(2).amin(0)
    assert int((errors < 1e-2).sum()) >= 2


def test_a_layer_that_saw_nothing_gives_nothing():
    assert analytic.single_input(torch.zeros(3, 5), torch.zeros(3)).tolist() == [0.0] * 5
    assert analytic.row_inputs(torch.zeros(3, 5), torch.zeros(3)).shape == (0, 5)


def test_a_batch_of_distinct_labels_behind_a_new_head_is_solved(digits: Images):
    head = nn.Linear(64, 10)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    which = torch.stack([(digits.labels == label).nonzero()[0, 0] for label in range(8)])
    inputs, labels = digits.inputs()[which].flatten(1), digits.labels[which]
    sent = gradient(head, inputs, labels)
    solved = analytic.distinct_labels(sent["weight"], torch.full((8, 10), 0.1), labels)
    torch.testing.assert_close(solved, inputs, atol=1e-3, rtol=1e-3)


def searched(digits: Images, release: Release, images: int, batch: int = 1) -> Reidentified:
    model = convolutional()
    generator = torch.Generator().manual_seed(2)
    total = NOBODY
    for which in torch.arange(images).split(batch):
        sent = release(model, digits.inputs(which), digits.labels[which])
        start = inversion.dark(batch, SHAPE, generator)
        found = inversion.invert_update(model, sent, digits.labels[which], start, Search(steps=150))
        total += reidentify(found, which, digits.inputs())
    return total


def test_searching_for_the_gradient_finds_the_image(digits: Images):
    assert searched(digits, gradient, 6).count >= 5


def test_searching_for_a_noised_gradient_finds_nobody(digits: Images, generator):
    assert searched(digits, noised(4.5, 1.0, generator), 6).count == 0


def test_searching_finds_images_of_a_small_batch(digits: Images):
    assert searched(digits, gradient, 6, batch=2).count >= 4


def test_searching_for_features_finds_the_image(digits: Images, generator):
    front = convolutional()[0]
    with torch.no_grad():
        features = front(digits.inputs()[:6])
    found = inversion.invert_features(front, features, inversion.dark(6, SHAPE, generator))
    assert reidentify(found, torch.arange(6), digits.inputs()).count >= 5
