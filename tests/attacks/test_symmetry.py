"""The symmetries of a network: what changes and what stays."""

import numpy as np
import pytest

from smdl_flower import models
from smdl_flower.attacks import symmetry
from smdl_flower.models import ModelSpec
from smdl_flower.weights import Weights

SPECS = [ModelSpec(name, channels=1, classes=10, image_size=8) for name in ("cnn", "resnet8")]
each_spec = pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)


def copy_of(spec: ModelSpec) -> Weights:
    weights = models.to_weights(models.build(spec, seed=1))
    rng = np.random.default_rng(2)
    return {n: a + 0.1 * rng.standard_normal(a.shape, np.float32) for n, a in weights.items()}


@each_spec
def test_links_cover_every_hidden_unit_once(spec: ModelSpec) -> None:
    weights = copy_of(spec)
    found = symmetry.links(spec)
    producers = [layer for link in found for layer, _ in link.producers]
    consumers = [layer for link in found for layer in link.consumers]
    layers = [n.removesuffix(".weight") for n, a in weights.items() if a.ndim >= 2]
    first, last = layers[0], "head"
    assert sorted(producers) == sorted(set(layers) - {last})
    assert sorted(consumers) == sorted(set(layers) - {first})


@each_spec
def test_a_permutation_only_moves_values(spec: ModelSpec) -> None:
    weights = copy_of(spec)
    permuted = symmetry.permute(weights, spec, 3)
    for name, array in weights.items():
        assert np.array_equal(np.sort(permuted[name].ravel()), np.sort(array.ravel()))
        moved = not np.array_equal(permuted[name], array)
        assert moved == (name != "head.bias"), name


def test_units_of_one_norm_group_stay_together() -> None:
    spec = SPECS[1]
    weights = copy_of(spec)
    name = "block1.body.1.weight"  # 24 channels in 8 groups of 3
    weights[name] = np.arange(24, dtype=np.float32) // 3
    permuted = symmetry.permute(weights, spec, 4)[name].reshape(8, 3)
    assert (permuted == permuted[:, :1]).all()
    assert not np.array_equal(permuted[:, 0], np.arange(8))


@each_spec
def test_rescaling_changes_sizes_by_orders_of_magnitude(spec: ModelSpec) -> None:
    weights = copy_of(spec)
    rescaled = symmetry.rescale(weights, spec, 1.0, 5)
    for name, array in weights.items():
        if name != "head.bias":
            ratio = rescaled[name] / array
            assert (ratio > 0).all(), name
            assert np.log(ratio).std() > 0.2, name
    still = symmetry.rescale(weights, spec, 0.0, 5)
    assert all(np.array_equal(still[name], weights[name]) for name in weights)


def test_folding_leaves_norms_with_scales_of_one() -> None:
    weights = copy_of(SPECS[1])
    weights["stem.1.weight"][:2] = (-0.5, 0.0)  # a negative scale, and one that cannot be moved
    folded = symmetry.fold_norms(weights, SPECS[1])
    for name in ("block1.body.1.weight", "block2.body.4.weight"):
        np.testing.assert_allclose(np.abs(folded[name]), 1.0, rtol=1e-6)
    assert folded["stem.1.weight"][:2].tolist() == [-1.0, 0.0]


def test_folding_a_network_without_norms_leaves_rows_of_length_one() -> None:
    folded = symmetry.fold_norms(copy_of(SPECS[0]), SPECS[0])
    for name in ("features.0.weight", "features.3.weight", "features.6.weight", "hidden.weight"):
        rows = folded[name].reshape(len(folded[name]), -1)
        np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1.0, rtol=1e-5)


@each_spec
def test_renaming_keeps_every_tensor_and_no_name(spec: ModelSpec) -> None:
    weights = copy_of(spec)
    renamed = symmetry.rename(weights, 6)
    assert not set(renamed) & set(weights)
    assert sorted(a.tobytes() for a in renamed.values()) == sorted(
        a.tobytes() for a in weights.values()
    )
    order = [next(n for n in weights if weights[n] is a) for a in renamed.values()]
    assert order != list(weights)
    assert order != sorted(weights)
