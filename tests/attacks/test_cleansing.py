"""A planted trigger is found and unlearned; without one nothing is small enough to be one."""

import pytest
import torch

from smdl_flower import models, training
from smdl_flower.attacks import catalogue, cleansing, finetuning, fitting
from smdl_flower.attacks.finetuning import FineTuneOptions
from smdl_flower.config import Scalar
from smdl_flower.data import Images
from smdl_flower.models import ModelSpec
from smdl_flower.weights import Weights

SPEC = ModelSpec("cnn", channels=1, classes=10, image_size=8)
TRAINING: dict[str, Scalar] = {"data": "digits", "images": 600, "epochs": 8, "learning-rate": 0.05}
TARGET = 3


def images() -> Images:
    return finetuning.thief_images(FineTuneOptions.model_validate(TRAINING), 8)


def with_trigger(given: Images) -> Images:
    """A bright square in a corner, which says class 3 whatever the image."""
    pixels = given.pixels.clone()
    pixels[:, :, :2, :2] = 255
    return Images(pixels, torch.full_like(given.labels, TARGET), given.classes)


@pytest.fixture(scope="module")
def planted() -> Weights:
    given = images()
    both = Images(
        torch.cat([given.pixels, with_trigger(given).pixels]),
        torch.cat([given.labels, with_trigger(given).labels]),
        given.classes,
    )
    model = models.build(SPEC, seed=1)
    recipe = FineTuneOptions.model_validate(TRAINING).recipe
    fitting.fit(model, both, both.labels, recipe, torch.Generator().manual_seed(1))
    return models.to_weights(model)


def obeys(weights: Weights) -> float:
    return training.evaluate(models.from_weights(SPEC, weights), with_trigger(images())).accuracy


def test_the_smallest_patch_is_that_of_the_planted_class(planted: Weights) -> None:
    model, generator = models.from_weights(SPEC, planted), torch.Generator().manual_seed(1)
    sizes = [cleansing.smallest_patch(model, images(), c, 60, generator).size for c in range(10)]
    assert sizes.index(min(sizes)) == TARGET


def test_the_trigger_is_unlearned_and_the_task_is_not(planted: Weights) -> None:
    assert obeys(planted) > 0.95
    settings = dict(TRAINING) | {"epochs": 5, "steps": 60}
    stolen = catalogue.run("unlearn-trigger", [planted], SPEC, settings)
    untriggered = training.evaluate(stolen.model, images()).accuracy
    assert untriggered > 0.95
    assert obeys(stolen.weights) < 0.5


def test_a_patch_covers_what_its_mask_says() -> None:
    mask = torch.zeros(1, 2, 2)
    mask[0, 0, 0] = 1.0
    patch = cleansing.Patch(mask, torch.full((1, 2, 2), 0.5))
    assert patch.size == 1.0
    assert patch.on(torch.zeros(1, 1, 2, 2)).flatten().tolist() == [0.5, 0.0, 0.0, 0.0]
