"""An attack that damages, then hides, is exactly those two in a row."""

import pytest

from smdl_flower import models
from smdl_flower.attacks import catalogue
from smdl_flower.config import Scalar
from smdl_flower.models import ModelSpec
from smdl_flower.weights import digest

SETTINGS: dict[str, dict[str, Scalar]] = {
    "prune-hide": {"fraction": 0.4},
    "noise-hide": {"level": 0.2, "seed": 3},
    "jam-hide": {"samples": 4, "seed": 3},
    "fine-tune-hide": {"data": "digits", "images": 16, "epochs": 1, "seed": 3},
}


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("architecture", ["cnn", "resnet8"])
def test_hiding_comes_after_the_attack_of_the_same_settings(name: str, architecture: str) -> None:
    spec = ModelSpec(architecture, channels=1, classes=10, image_size=8)
    copy = models.to_weights(models.build(spec, seed=0))
    settings = SETTINGS[name]
    together = catalogue.run(name, [copy], spec, settings)
    first = catalogue.run(name.removesuffix("-hide"), [copy], spec, settings).weights
    seed: dict[str, Scalar] = {"seed": settings.get("seed", 1)}
    second = catalogue.run("permute-rescale", [first], spec, seed)
    assert digest(together.weights) == digest(second.weights)
