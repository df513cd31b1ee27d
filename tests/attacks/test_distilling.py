"""A student of the copy, which has none of its weights."""

from dataclasses import replace

import numpy as np
import pytest

from smdl_flower import models, training
from smdl_flower.attacks import catalogue, finetuning
from smdl_flower.attacks.finetuning import FineTuneOptions
from smdl_flower.config import Scalar
from smdl_flower.errors import ConfigError
from smdl_flower.models import ModelSpec
from smdl_flower.weights import Weights

SPEC = ModelSpec("cnn", channels=1, classes=10, image_size=8)


@pytest.fixture(scope="module")
def teacher() -> Weights:
    options = FineTuneOptions.model_validate(
        {"data": "digits", "images": 400, "epochs": 8, "learning-rate": 0.05}
    )
    return finetuning.fine_tune(models.to_weights(models.build(SPEC, seed=1)), SPEC, options)


@pytest.mark.parametrize("name", ["distill", "distill-hard", "knockoff"])
def test_a_student_learns_from_the_copy_and_resembles_none_of_its_weights(
    name: str, teacher: Weights
) -> None:
    settings: dict[str, Scalar] = {"data": "digits", "images": 400, "epochs": 8, "seed": 1}
    stolen = catalogue.run(name, [teacher], SPEC, settings | {"learning-rate": 0.05})
    images = finetuning.thief_images(
        FineTuneOptions.model_validate({"data": "digits", "images": 400}), 8
    )
    assert training.evaluate(models.from_weights(SPEC, teacher), images).accuracy > 0.8
    assert training.evaluate(stolen.model, images).accuracy > 0.7
    pair = teacher["hidden.weight"].ravel(), stolen.weights["hidden.weight"].ravel()
    assert abs(np.corrcoef(*pair)[0, 1]) < 0.05


def test_a_student_of_a_copy_that_says_one_class_says_it_too(teacher: Weights) -> None:
    """The thief's own labels are not looked at."""
    stubborn = {name: array.copy() for name, array in teacher.items()}
    stubborn["head.bias"][4] = 1e3
    settings: dict[str, Scalar] = {"data": "digits", "images": 64, "epochs": 3}
    stolen = catalogue.run("distill-hard", [stubborn], SPEC, settings | {"learning-rate": 0.05})
    images = finetuning.thief_images(FineTuneOptions.model_validate(settings), 8)
    said = stolen.model(images.inputs()).argmax(1)
    assert set(said.tolist()) == {4}


def test_images_of_other_channels_are_refused() -> None:
    spec = ModelSpec("cnn", channels=3, classes=10, image_size=8)
    copy = models.to_weights(models.build(spec, seed=0))
    for name in ("distill", "transfer"):
        with pytest.raises(ConfigError, match="the images have 1 channels"):
            catalogue.run(name, [copy], spec, {"data": "digits", "images": 8, "epochs": 1})


def test_a_student_may_have_another_architecture(teacher: Weights) -> None:
    settings: dict[str, Scalar] = {"data": "digits", "images": 64, "epochs": 1}
    stolen = catalogue.run("distill-across", [teacher], SPEC, dict(settings))
    resnet = models.to_weights(models.build(replace(SPEC, name="resnet8"), seed=0))
    assert {n: a.shape for n, a in stolen.weights.items()} == {
        n: a.shape for n, a in resnet.items()
    }
    other = catalogue.run("distill-across", [resnet], replace(SPEC, name="resnet8"), dict(settings))
    assert set(other.weights) == set(teacher)
    with pytest.raises(ConfigError, match="'no-such' is unknown"):
        catalogue.run("distill-across", [teacher], SPEC, settings | {"student": "no-such"})
