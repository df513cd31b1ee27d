"""A thief trains a copy on images of its own."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from smdl_flower import data, models, training
from smdl_flower.attacks import catalogue, finetuning
from smdl_flower.attacks.finetuning import FineTuneOptions
from smdl_flower.config import DataConfig, Scalar
from smdl_flower.errors import ConfigError, DataError, SmdlError, SuspectFileError
from smdl_flower.models import ModelSpec
from smdl_flower.weights import Weights

SPEC = ModelSpec("cnn", channels=1, classes=10, image_size=8)


def options(**changes: object) -> FineTuneOptions:
    values = {"data": "digits", "images": 128, "epochs": 10, "learning-rate": 0.05}
    return FineTuneOptions.model_validate(values | changes)


def untrained() -> Weights:
    return models.to_weights(models.build(SPEC, seed=1))


def test_fine_tuning_lowers_the_loss_on_the_thiefs_images() -> None:
    copy = untrained()
    tuned = finetuning.fine_tune(copy, SPEC, options())
    images = finetuning.thief_images(options(), SPEC.image_size)
    before = training.evaluate(models.from_weights(SPEC, copy), images)
    after = training.evaluate(models.from_weights(SPEC, tuned), images)
    assert after.loss < 0.8 * before.loss
    assert {name: a.shape for name, a in tuned.items()} == {n: a.shape for n, a in copy.items()}
    assert all(np.isfinite(array).all() for array in tuned.values())


def test_the_same_settings_give_the_same_model_and_another_seed_another() -> None:
    def tuned(seed: int) -> bytes:
        result = finetuning.fine_tune(untrained(), SPEC, options(seed=seed, epochs=1))
        return b"".join(array.tobytes() for array in result.values())

    assert tuned(1) == tuned(1)
    assert tuned(1) != tuned(2)


def test_a_thief_has_as_many_training_images_as_said_and_no_test_image() -> None:
    images = finetuning.thief_images(options(images=300), image_size=8)
    assert len(images) == 300
    test = data.load_test(DataConfig.of_one_party("digits", "", 8))
    unseen = {pixels.numpy().tobytes() for pixels in test.pixels}
    assert not any(pixels.numpy().tobytes() in unseen for pixels in images.pixels)
    assert len(images.labels.unique()) == 10  # a mixture, not the first of a sorted list


def test_thieves_with_more_images_have_those_of_a_smaller_thief_too() -> None:
    few = finetuning.thief_images(options(images=20), image_size=8)
    many = finetuning.thief_images(options(images=50), image_size=8)
    other = finetuning.thief_images(options(images=20, seed=2), image_size=8)
    assert torch.equal(many.pixels[:20], few.pixels)
    assert not torch.equal(other.pixels, few.pixels)


def test_images_come_at_the_size_the_model_takes() -> None:
    assert finetuning.thief_images(options(images=3), image_size=12).pixels.shape == (3, 1, 12, 12)


def test_an_unknown_source_and_a_missing_folder_are_refused() -> None:
    with pytest.raises(ConfigError, match="data: 'letters' is unknown"):
        finetuning.fine_tune(untrained(), SPEC, options(data="letters"))
    missing = options(data="imagefolder", **{"data-dir": "/no/such/place"})
    with pytest.raises(DataError, match="/no/such/place"):
        finetuning.fine_tune(untrained(), SPEC, missing)


def test_a_copy_of_another_model_is_refused() -> None:
    with pytest.raises(SuspectFileError, match="do not fit the model"):
        finetuning.fine_tune(untrained(), ModelSpec("resnet8", 1, 10, 8), options())


def small(channels: int = 1, classes: int = 10, size: int = 8) -> tuple[ModelSpec, Weights]:
    spec = ModelSpec("cnn", channels, classes, size)
    return spec, models.to_weights(models.build(spec, seed=0))


@pytest.mark.parametrize("sizes", [(3, 10, 8), (1, 3, 8), (1, 10, 2000)], ids=str)
def test_images_that_do_not_fit_the_model_are_refused(sizes: tuple[int, int, int]) -> None:
    spec, copy = small(*sizes)
    with pytest.raises(SmdlError):
        catalogue.run("fine-tune", [copy], spec, {"data": "digits", "images": 8, "epochs": 1})


@pytest.mark.parametrize(
    "setting", [{"learning-rate": float("inf")}, {"seed": 2**64}, {"batch-size": 2_000_000}]
)
def test_a_setting_no_training_can_take_is_refused(setting: dict[str, Scalar]) -> None:
    spec, copy = small()
    options: dict[str, Scalar] = {"data": "digits", "images": 8, "epochs": 1, **setting}
    with pytest.raises(ConfigError):
        catalogue.run("fine-tune", [copy], spec, options)


FAST: dict[str, Scalar] = {"data": "digits", "images": 64, "epochs": 1}


def run(name: str, **settings: Scalar) -> Weights:
    return catalogue.run(name, [untrained()], SPEC, FAST | settings).weights


@pytest.mark.parametrize("name", ["fine-tune-last", "retrain-last"])
def test_only_the_last_layer_is_trained(name: str) -> None:
    tuned, copy = run(name), untrained()
    changed = {key for key in copy if not np.array_equal(tuned[key], copy[key])}
    assert changed == {"head.weight", "head.bias"}


@pytest.mark.parametrize("name", ["retrain-last", "retrain-all"])
def test_a_new_last_layer_has_forgotten_the_old_one(name: str) -> None:
    copy = untrained()
    fresh = finetuning.new_last_layer(copy, SPEC, 1)
    assert all(np.array_equal(fresh[k], copy[k]) for k in copy if not k.startswith("head"))
    assert abs(np.corrcoef(fresh["head.weight"].ravel(), copy["head.weight"].ravel())[0, 1]) < 0.15
    bound = 1 / 160**0.5
    assert bound / 2 < np.abs(fresh["head.weight"]).max() <= bound
    tuned = run(name, **{"learning-rate": 1e-9})
    assert all(np.allclose(tuned[k], fresh[k], atol=1e-6) for k in copy)


TRAINING = [
    *("fine-tune-last", "fine-tune", "fine-tune-adam", "retrain-last", "retrain-all"),
    *("fine-tune-high-rate", "fine-tune-decay", "fine-tune-adversarial"),
    *("fine-tune-smoothing", "fine-tune-label-noise", "transfer"),
]


@pytest.mark.parametrize("name", TRAINING)
def test_training_of_every_kind_learns(name: str) -> None:
    settings: dict[str, Scalar] = {"images": 256, "epochs": 8}
    rate = 0.003 if name == "fine-tune-adam" else 1.0 if "last" in name else 0.05
    stolen = catalogue.run(name, [untrained()], SPEC, FAST | settings | {"learning-rate": rate})
    images = finetuning.thief_images(options(images=256), 8)
    before = training.evaluate(models.from_weights(SPEC, untrained()), images)
    after = training.evaluate(stolen.model, images)
    assert after.loss < 0.96 * before.loss
    if "last" not in name:  # the features of an untrained network say little
        assert after.accuracy > before.accuracy + 0.1


def test_training_of_each_kind_is_another_kind() -> None:
    results = [run(name) for name in TRAINING]
    assert (
        len({r["head.weight"].tobytes() for r in results}) == len(set(TRAINING)) - 1
    )  # in one epoch transfer to the same data is retraining of all layers
    assert np.array_equal(run("transfer")["head.weight"], run("retrain-all")["head.weight"])


def test_settings_of_zero_are_plain_fine_tuning() -> None:
    plain = run("fine-tune")
    for name, key, value in (
        ("fine-tune-adversarial", "step", 0.0),
        ("fine-tune-smoothing", "smoothing", 0.0),
        ("fine-tune-decay", "weight-decay", 5e-4),
    ):
        same = run(name, **{key: value})
        assert all(np.array_equal(same[k], plain[k]) for k in plain), name


def test_a_strong_decay_shrinks_weights() -> None:
    def size(weights: Weights) -> float:
        return float(np.linalg.norm(weights["hidden.weight"]))

    assert size(run("fine-tune-decay", **{"weight-decay": 5.0})) < 0.97 * size(run("fine-tune"))


def test_transfer_to_a_task_of_other_classes_changes_the_last_layer(
    tmp_path: Path,
) -> None:
    rng = np.random.default_rng(1)
    for label in ("cat", "dog", "owl"):
        (tmp_path / label).mkdir()
        for number in range(4):
            pixels = rng.integers(256, size=(8, 8), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / label / f"{number}.png")
    stolen = catalogue.run(
        "transfer",
        [untrained()],
        SPEC,
        {"data": "imagefolder", "data-dir": str(tmp_path), "images": 8, "epochs": 1},
    )
    assert stolen.weights["head.weight"].shape == (3, 160)
    assert stolen.model(torch.zeros(1, 1, 8, 8)).shape == (1, 3)


def test_training_that_diverges_is_refused() -> None:
    with pytest.raises(ConfigError, match="learning-rate: 1e\\+30 is not allowed; training div"):
        run("fine-tune", **{"learning-rate": 1e30})
