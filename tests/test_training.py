"""The training loop against a hand-written one, and evaluation, schedule and augmentation."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from smdl_flower import models, training
from smdl_flower.config import TrainingConfig
from smdl_flower.data import Images
from smdl_flower.models import ModelSpec


def settings(**changes: object) -> TrainingConfig:
    values = {
        "epochs": 1,
        "batch_size": 16,
        "learning_rate": 0.05,
        "schedule": "constant",
        "momentum": 0.9,
        "weight_decay": 0.0,
        "augment": "none",
    }
    return TrainingConfig.model_validate(values | changes)


def seeded(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def bright_or_dark(count: int = 64, size: int = 8) -> Images:
    """Return noisy images whose left or right half is bright: separable, not trivially."""
    generator = seeded(9)
    pixels = torch.randint(0, 120, (count, 1, size, size), generator=generator)
    labels = torch.arange(count) % 2
    for image, label in zip(pixels, labels, strict=True):
        start = size // 2 * int(label)
        image[..., start : start + size // 2] += 120
    return Images(pixels.to(torch.uint8), labels, ("left", "right"))


def linear(images: Images, classes: int = 2) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        return nn.Sequential(nn.Flatten(), nn.Linear(images.pixels[0].numel(), classes))


def cnn() -> nn.Module:
    return models.build(ModelSpec("cnn", 1, 2, 8), seed=3)


@pytest.mark.parametrize("augment", ["none", "shift"])
def test_a_separable_task_is_learnt(augment: str) -> None:
    images, model = bright_or_dark(), cnn()
    before = training.evaluate(model, images)
    config = settings(epochs=8, augment=augment)
    training.train(model, images, config, learning_rate=0.05, generator=seeded())
    after = training.evaluate(model, images)
    assert after.accuracy == 1.0
    assert after.loss < before.loss / 10
    assert not model.training


@pytest.mark.parametrize(("momentum", "decay", "mu"), [(0.0, 0.0, 0.0), (0.9, 0.01, 0.5)])
def test_training_takes_the_steps_of_a_hand_written_loop(
    momentum: float, decay: float, mu: float
) -> None:
    images = bright_or_dark(24)
    model = linear(images)
    weight, bias = (p.detach().double().numpy().copy() for p in model.parameters())
    inputs = images.pixels.flatten(1).numpy() / 127.5 - 1
    truth = np.eye(2)[images.labels.numpy()]
    values = [weight, bias]
    start, speed = [v.copy() for v in values], [np.zeros_like(v) for v in values]
    loss = math.nan
    for _ in range(4):  # epochs of one batch: the order of images does not matter
        logits = inputs @ values[0].T + values[1]
        likelihood = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        loss = float(-np.log((likelihood * truth).sum(1)).mean())
        error = (likelihood - truth) / len(truth)
        for i, gradient in enumerate([error.T @ inputs, error.sum(0)]):
            slope = gradient + mu * (values[i] - start[i]) + decay * values[i]
            speed[i] = momentum * speed[i] + slope
            values[i] = values[i] - 0.1 * speed[i]

    config = settings(epochs=4, batch_size=24, momentum=momentum, weight_decay=decay)
    returned = training.train(
        model, images, config, learning_rate=0.1, proximal_mu=mu, generator=seeded()
    )
    assert returned == pytest.approx(loss, rel=1e-4)
    for parameter, value in zip(model.parameters(), values, strict=True):
        np.testing.assert_allclose(parameter.detach().numpy(), value, rtol=1e-3, atol=1e-5)


def trained(seed: int, **changes: object) -> bytes:
    model = cnn()
    config = settings(augment="shift-flip", **changes)
    training.train(model, bright_or_dark(), config, learning_rate=0.05, generator=seeded(seed))
    return b"".join(array.tobytes() for array in models.to_weights(model).values())


def test_the_same_generator_seed_gives_the_same_weights_bit_by_bit() -> None:
    before = torch.get_rng_state()
    assert trained(1) == trained(1)
    assert trained(1) != trained(2)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_strong_proximal_term_keeps_the_weights_near_the_start() -> None:
    def distance(mu: float) -> float:
        images = bright_or_dark()
        model = linear(images)
        start = nn.utils.parameters_to_vector(model.parameters()).detach().clone()
        config = settings(epochs=5, momentum=0.0)
        training.train(
            model, images, config, learning_rate=0.01, proximal_mu=mu, generator=seeded()
        )
        end = nn.utils.parameters_to_vector(model.parameters()).detach()
        return float((end - start).norm())

    free, weak, strong = distance(0.0), distance(1.0), distance(50.0)
    assert strong < free / 5
    assert strong < weak < free


def test_frozen_parameters_stay_and_images_are_not_modified() -> None:
    images, model = bright_or_dark(), linear(bright_or_dark())
    frozen = nn.Sequential(model, nn.Linear(2, 2))
    model.requires_grad_(requires_grad=False)
    before = [p.clone() for p in model.parameters()]
    pixels, last = images.pixels.clone(), frozen.get_submodule("1")
    head = [p.detach().clone() for p in last.parameters()]
    training.train(frozen, images, settings(augment="shift"), learning_rate=0.1, generator=seeded())
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(head, last.parameters(), strict=True))
    assert torch.equal(images.pixels, pixels)


@pytest.mark.parametrize("count", [1, 500, 501, 1003])
def test_evaluation_does_not_depend_on_how_images_fall_into_batches(count: int) -> None:
    generator = seeded(4)
    pixels = torch.randint(0, 256, (count, 1, 4, 4), generator=generator).to(torch.uint8)
    labels = torch.randint(0, 3, (count,), generator=generator)
    images = Images(pixels, labels, ("a", "b", "c"))
    model = linear(images, classes=3)
    logits = model(pixels.double().div(127.5).sub(1).float()).detach()
    chosen = logits.log_softmax(1)[torch.arange(count), labels]
    result = training.evaluate(model, images)
    assert result.accuracy == float((logits.argmax(1) == labels).double().mean())
    assert result.loss == pytest.approx(float(-chosen.mean()), rel=1e-4)


# --------------------------------------------------------------------------------------- schedule


def test_a_constant_schedule_never_changes() -> None:
    config = settings(schedule="constant", learning_rate=0.03)
    assert {training.scheduled_rate(config, n, 10) for n in range(1, 11)} == {0.03}


@pytest.mark.parametrize("rounds", [2, 3, 10, 31])
def test_a_cosine_schedule_falls_from_the_full_rate_to_a_twentieth(rounds: int) -> None:
    config = settings(schedule="cosine", learning_rate=0.2)
    rates = [training.scheduled_rate(config, n, rounds) for n in range(1, rounds + 1)]
    assert rates[0] == pytest.approx(0.2)
    assert rates[-1] == pytest.approx(0.01)
    assert all(later < earlier for earlier, later in itertools.pairwise(rates))
    middle = [(a + b) / 2 for a, b in zip(rates, reversed(rates), strict=True)]
    assert middle == pytest.approx([0.105] * rounds)  # a cosine is symmetric about its middle


def test_a_single_round_has_the_full_rate() -> None:
    assert training.scheduled_rate(settings(schedule="cosine", learning_rate=0.2), 1, 1) == 0.2


# ----------------------------------------------------------------------------------- augmentation


def crops(image: Tensor, reach: int) -> list[Tensor]:
    """Return the image moved by every offset, with the darkest value moved in."""
    _, height, width = image.shape
    moved = []
    for down in range(-reach, reach + 1):
        for right in range(-reach, reach + 1):
            canvas = torch.full_like(image, -1.0)
            rows = slice(max(0, -down), min(height, height - down))
            columns = slice(max(0, -right), min(width, width - right))
            source = image.roll((-down, -right), dims=(1, 2))
            canvas[:, rows, columns] = source[:, rows, columns]
            moved.append(canvas)
    return moved


def position(image: Tensor, candidates: list[Tensor]) -> int:
    matches = [i for i, candidate in enumerate(candidates) if torch.equal(candidate, image)]
    assert len(matches) == 1
    return matches[0]


@pytest.mark.parametrize(
    ("shape", "reach"), [((1, 8, 8), 1), ((3, 14, 14), 1), ((1, 28, 28), 2), ((2, 6, 30), 2)]
)
def test_a_shift_moves_every_image_by_some_offset_within_reach(
    shape: tuple[int, int, int], reach: int
) -> None:
    images = torch.rand(12, *shape, generator=seeded(5))
    shifted = training.augment(images, "shift", seeded(6))
    assert shifted.shape == images.shape
    seen = {position(s, crops(i, reach)) for s, i in zip(shifted, images, strict=True)}
    assert len(seen) > 1


def test_every_offset_is_used_in_rows_and_columns() -> None:
    image = torch.rand(1, 8, 8, generator=seeded(5))
    shifted = training.augment(image.repeat(200, 1, 1, 1), "shift", seeded(6))
    candidates = crops(image, 1)
    # an offset of nine stays unused by 200 images with probability below 9 (8/9)^200 = 5e-10
    assert {position(s, candidates) for s in shifted} == set(range(9))


def test_shift_flip_mirrors_about_half_of_the_images_and_shift_none() -> None:
    image = torch.rand(1, 8, 8, generator=seeded(5))
    upright = crops(image, 1)
    mirrored = [candidate.flip(-1) for candidate in upright]
    batch = image.repeat(200, 1, 1, 1)
    found = [
        position(s, upright + mirrored) for s in training.augment(batch, "shift-flip", seeded())
    ]
    count = sum(index >= len(upright) for index in found)
    assert 60 <= count <= 140  # 100 +- 5.7 standard deviations of a fair coin (7.07)
    plain = training.augment(batch, "shift", seeded())
    assert all(position(s, upright + mirrored) < len(upright) for s in plain)


def test_no_augmentation_is_the_identity_and_draws_nothing() -> None:
    images, generator = torch.rand(4, 1, 8, 8, generator=seeded()), seeded(6)
    before = generator.get_state()
    assert training.augment(images, "none", generator) is images
    assert torch.equal(generator.get_state(), before)


@pytest.mark.parametrize("kind", ["shift", "shift-flip"])
def test_augmentation_leaves_its_input_alone(kind: str) -> None:
    images = torch.rand(8, 1, 8, 8, generator=seeded())
    before = images.clone()
    training.augment(images, kind, seeded())
    assert torch.equal(images, before)
