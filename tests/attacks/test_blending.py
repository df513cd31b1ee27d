"""Remove or mix first, then train."""

from dataclasses import replace

import numpy as np
import pytest

from smdl_flower import models, training
from smdl_flower.attacks import altering, blending, catalogue, finetuning, symmetry
from smdl_flower.attacks.finetuning import FineTuneOptions
from smdl_flower.attacks.fitting import untrained_model
from smdl_flower.config import Scalar
from smdl_flower.models import ModelSpec
from smdl_flower.weights import Weights

SPEC = ModelSpec("cnn", channels=1, classes=10, image_size=8)
DATA: dict[str, Scalar] = {"data": "digits", "images": 64, "epochs": 2}


@pytest.fixture(scope="module")
def trained() -> Weights:
    options = FineTuneOptions.model_validate(
        {"data": "digits", "images": 300, "epochs": 6, "learning-rate": 0.05}
    )
    return finetuning.fine_tune(models.to_weights(models.build(SPEC, seed=1)), SPEC, options)


def run(name: str, copy: Weights, **settings: Scalar) -> Weights:
    return catalogue.run(name, [copy], SPEC, DATA | settings).weights


def accuracy(weights: Weights) -> float:
    options = FineTuneOptions.model_validate({"data": "digits", "images": 300})
    images = finetuning.thief_images(options, 8)
    return training.evaluate(models.from_weights(SPEC, weights), images).accuracy


def test_what_was_pruned_stays_zero_through_training(trained: Weights) -> None:
    tuned = run("prune-fine-tune", trained, fraction=0.7)
    pruned = altering.prune(trained, 0.7)
    for name in altering.matrices(trained):
        assert np.array_equal(tuned[name] == 0, pruned[name] == 0)
    assert not np.array_equal(tuned["head.bias"], trained["head.bias"])


def test_training_repairs_what_pruning_broke(trained: Weights) -> None:
    pruned = accuracy(altering.prune(trained, 0.95))
    tuned = run("prune-fine-tune", trained, fraction=0.95, images=300, epochs=4)
    assert accuracy(tuned) > pruned + 0.05


def test_units_that_the_images_do_not_use_are_silenced(trained: Weights) -> None:
    copy = {name: array.copy() for name, array in trained.items()}
    copy["hidden.bias"][5] = -1e3  # never above zero
    tuned = run("fine-prune", copy, fraction=1.5 / 160)
    assert (tuned["hidden.weight"][5] == 0).all()
    assert (tuned["head.weight"][:, 5] == 0).all()
    assert (tuned["hidden.weight"] == 0).all(axis=1).sum() == 1


def test_a_laundered_share_starts_anew(trained: Weights, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blending, "fine_tune", lambda weights, spec, options: weights)
    mixed = run("launder", trained, share=0.4, seed=2)
    fresh = models.to_weights(untrained_model(SPEC, 2))
    for name in altering.matrices(trained):
        kept = mixed[name] == trained[name]
        assert np.array_equal(mixed[name][~kept], fresh[name][~kept])
        size = mixed[name].size
        assert abs(kept.mean() - 0.6) <= 5 * (0.24 / size) ** 0.5


def test_means_lie_between_their_ends(trained: Weights) -> None:
    unrelated = run("soup", trained, share=1.0)
    assert all(np.array_equal(run("soup", trained, share=0.0)[n], a) for n, a in trained.items())
    mean = run("soup", trained, share=0.25)
    for name, array in trained.items():
        np.testing.assert_allclose(mean[name], 0.75 * array + 0.25 * unrelated[name], atol=1e-6)
    same_direction = np.corrcoef(
        unrelated["hidden.weight"].ravel(), trained["hidden.weight"].ravel()
    )
    assert abs(same_direction[0, 1]) < 0.05
    retrained = run("average-retrained", trained, share=1.0)
    expected = run("retrain-all", trained)
    assert all(np.array_equal(retrained[name], expected[name]) for name in trained)


def test_a_task_vector_is_what_training_changed(trained: Weights) -> None:
    tuned = run("fine-tune", trained)
    for factor in (1.0, 2.0, -1.0):
        moved = run("task-vector", trained, factor=factor)
        for name, array in trained.items():
            np.testing.assert_allclose(
                moved[name], array + factor * (tuned[name] - array), atol=1e-6
            )


def test_averaging_over_one_epoch_is_that_epoch_and_more_epochs_more_than_the_last(
    trained: Weights,
) -> None:
    one = run("average-epochs", trained, epochs=1)
    tuned = run("fine-tune", trained, epochs=1)
    assert all(np.array_equal(one[name], tuned[name]) for name in trained)
    two = run("average-epochs", trained, epochs=2)
    last = {name: 2 * two[name] - one[name] for name in trained}
    change = [
        float(sum(np.square(other[n] - trained[n]).sum() for n in trained))
        for other in (one, two, last)
    ]
    assert change[0] < change[1] < change[2]


def test_use_counts_what_a_layer_reads() -> None:
    copy = models.to_weights(models.build(SPEC, seed=1))
    model = models.from_weights(SPEC, copy)
    images = finetuning.thief_images(FineTuneOptions.model_validate(DATA), 8).take(8)
    link = symmetry.links(SPEC)[3]
    use = blending._use(model, link.consumers[0], images, 160)
    hidden = models.from_weights(replace(SPEC), copy)
    features = hidden.get_submodule("features")(images.inputs()).flatten(1)
    expected = hidden.get_submodule("hidden")(features).relu().sum(0).detach().numpy()
    np.testing.assert_allclose(use, expected, rtol=1e-4)
