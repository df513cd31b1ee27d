"""Attacks on answers do what they are for, and leave the task alone."""

import numpy as np
import pytest
import torch

from smdl_flower import models, training
from smdl_flower.attacks import catalogue, finetuning, fitting, silencing
from smdl_flower.attacks.finetuning import FineTuneOptions
from smdl_flower.config import Scalar
from smdl_flower.data import Images
from smdl_flower.errors import ConfigError
from smdl_flower.models import ModelSpec
from smdl_flower.weights import Weights

SPEC = ModelSpec("cnn", channels=1, classes=10, image_size=8)
TRAINING: dict[str, Scalar] = {"data": "digits", "images": 600, "epochs": 8}


def images() -> Images:
    return finetuning.thief_images(FineTuneOptions.model_validate(TRAINING), 8)


@pytest.fixture(scope="module")
def trained() -> Weights:
    model = models.build(SPEC, seed=1)
    options = FineTuneOptions.model_validate({**TRAINING, "learning-rate": 0.05})
    generator = torch.Generator().manual_seed(1)
    fitting.fit(model, images(), images().labels, options.recipe, generator)
    return models.to_weights(model)


def accuracy(weights: Weights) -> float:
    return training.evaluate(models.from_weights(SPEC, weights), images()).accuracy


def hidden_inputs(weights: Weights) -> np.ndarray:
    model = models.from_weights(SPEC, weights)
    return silencing._given(model, model.get_submodule("hidden"), images().inputs()).numpy()


def test_what_images_never_use_is_taken_out_and_nothing_else(trained: Weights):
    given = hidden_inputs(trained)
    unused = np.linalg.svd(given)[2][-1]  # no image has anything in this direction
    planted = {
        **trained,
        "hidden.weight": trained["hidden.weight"] + np.outer(np.ones(160), unused),
    }
    planted["hidden.weight"] = planted["hidden.weight"].astype(np.float32)
    stolen = catalogue.run("project", [planted], SPEC, {"data": "digits", "images": 600})
    rows = stolen.weights["hidden.weight"]
    assert np.abs(planted["hidden.weight"] @ unused).min() > 0.5
    assert np.abs(rows @ unused).max() < 1e-3
    kept = np.square(given @ rows.T).sum() / np.square(given @ trained["hidden.weight"].T).sum()
    assert 0.95 < kept < 1.05
    assert accuracy(stolen.weights) >= accuracy(trained) - 0.02
    assert all(np.array_equal(rows, planted[n]) for n, rows in stolen.weights.items()
               if n != "hidden.weight")  # fmt: skip


def test_strange_images_are_answered_by_nothing_in_particular(trained: Weights):
    strange = silencing.strange(100, (1, 8, 8), seed=7)  # others than those trained on
    inputs = strange.float() / 127.5 - 1

    def surest(weights: Weights) -> float:
        with torch.no_grad():
            said = models.from_weights(SPEC, weights)(inputs).softmax(1)
        return float(said.amax(1).mean())

    stolen = catalogue.run("unlearn-strange", [trained], SPEC, {**TRAINING, "learning-rate": 0.05})
    assert surest(trained) > 0.5
    assert surest(stolen.weights) < 0.6 * surest(trained)
    assert accuracy(stolen.weights) >= accuracy(trained) - 0.03


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 24)])
def test_strange_images_differ_and_show_strokes(shape: tuple[int, ...]):
    drawn = silencing.strange(20, shape, seed=1)
    assert tuple(drawn.shape) == (20, *shape)
    assert drawn.dtype == torch.uint8
    assert len(torch.unique(drawn.flatten(1), dim=0)) == 20
    assert drawn.float().flatten(1).std(1).min() > 15
    assert torch.equal(drawn, silencing.strange(20, shape, seed=1))


def test_a_model_of_one_layer_has_nothing_to_project():
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2))
    with pytest.raises(ConfigError, match="before its last"):
        silencing._last_but_one(network, torch.ones(1, 4))


def test_of_a_residual_block_the_layer_that_is_run_last_is_projected():
    spec = ModelSpec("resnet8", channels=1, classes=10, image_size=8)
    copy = models.to_weights(models.build(spec, seed=1))
    settings: dict[str, Scalar] = {"data": "digits", "images": 4}
    stolen = catalogue.run("project", [copy], spec, settings).weights
    changed = {name for name in copy if not np.array_equal(copy[name], stolen[name])}
    assert changed == {"block3.body.3.weight"}
