"""Networks made wider, narrower or deeper."""

from typing import cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from smdl_flower import models
from smdl_flower.attacks import altering, structure, symmetry
from smdl_flower.models import ModelSpec
from smdl_flower.weights import Weights

SPECS = [ModelSpec(name, channels=1, classes=10, image_size=8) for name in ("cnn", "resnet8")]
each_spec = pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)


def copy_of(spec: ModelSpec) -> Weights:
    weights = models.to_weights(models.build(spec, seed=1))
    rng = np.random.default_rng(2)
    return {n: a + 0.1 * rng.standard_normal(a.shape, np.float32) for n, a in weights.items()}


def outputs(model: nn.Module) -> Tensor:
    images = torch.randn(16, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return cast(Tensor, model(images))


@each_spec
def test_dummy_neurons_come_in_the_asked_share_and_whole_groups(spec: ModelSpec) -> None:
    weights = copy_of(spec)
    for add, each in (
        (structure.add_zero, 1),
        (structure.add_cliques, 2),
        (structure.split_units, 1),
    ):
        wide = add(weights, spec, 0.25, 3)
        for link in symmetry.links(spec):
            groups = link.units(weights) // link.group
            added = link.units(wide) - link.units(weights)
            assert added == each * link.group * max(1, round(groups * 0.25))


@each_spec
def test_neurons_that_nothing_reads_leave_all_old_weights_alone(spec: ModelSpec) -> None:
    weights = copy_of(spec)
    wide = structure.add_zero(weights, spec, 0.1, 3)
    for name, array in weights.items():
        old = tuple(slice(size) for size in array.shape)
        if name != "hidden.weight":  # its columns are units times nine pixels
            assert np.array_equal(wide[name][old], array), name
    assert (wide["head.weight"][:, weights["head.weight"].shape[1] :] == 0).all()


def test_neurons_of_a_clique_are_equal_and_cancel() -> None:
    wide = structure.add_cliques(copy_of(SPECS[0]), SPECS[0], 0.1, 3)
    hidden, head = wide["hidden.weight"], wide["head.weight"]
    assert np.array_equal(hidden[160:176], hidden[176:])
    assert np.array_equal(head[:, 160:176], -head[:, 176:])
    assert np.abs(head[:, 160:]).min() > 0


def test_no_two_neurons_are_equal_after_a_split() -> None:
    wide = structure.split_units(copy_of(SPECS[0]), SPECS[0], 0.5, 3)
    assert len(np.unique(wide["hidden.weight"], axis=0)) == 240


@each_spec
@pytest.mark.parametrize("fraction", [0.0, 0.3, 0.99])
def test_removing_channels_is_the_same_function_as_zeroing_them(
    spec: ModelSpec, fraction: float
) -> None:
    weights = copy_of(spec)
    zeroed = structure.zero_channels(weights, spec, fraction)
    assert {n: a.shape for n, a in zeroed.items()} == {n: a.shape for n, a in weights.items()}
    removed = structure.rebuilt(spec, structure.remove_channels(weights, spec, fraction))
    for link in symmetry.links(spec):
        groups = link.units(weights) // link.group
        kept = groups - min(int(groups * fraction), groups - 1)
        assert link.units(removed.weights) == kept * link.group
    torch.testing.assert_close(
        outputs(models.from_weights(spec, zeroed)), outputs(removed.model), rtol=1e-4, atol=1e-5
    )


def test_the_channels_that_matter_least_go() -> None:
    weights = copy_of(SPECS[0])
    weights["hidden.weight"][7] *= 1e-3
    weights["head.weight"][:, 9] *= 1e-3
    narrow = structure.remove_channels(weights, SPECS[0], 2.5 / 160)
    kept = np.delete(np.arange(160), [7, 9])
    assert np.array_equal(narrow["hidden.bias"], weights["hidden.bias"][kept])
    assert np.array_equal(narrow["head.weight"], weights["head.weight"][:, kept])


@pytest.mark.parametrize("shape", [(6, 4), (4, 6), (5, 3, 3, 3), (3, 50)])
@pytest.mark.parametrize("rank", [0.0, 0.5, 1.0])
def test_rank_factors_are_as_good_as_the_singular_value_decomposition(
    shape: tuple[int, ...], rank: float
) -> None:
    array = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    left, right = altering.rank_factors(array, rank)
    matrix = array.reshape(len(array), -1).astype(np.float64)
    values = np.linalg.svd(matrix, compute_uv=False)
    kept = max(1, round(len(values) * rank))
    assert left.shape == (len(matrix), kept)
    assert right.shape == (kept, matrix.shape[1])
    lost = np.linalg.norm(matrix - left @ right)
    assert lost == pytest.approx(np.sqrt(np.square(values[kept:]).sum()), abs=1e-6)


@pytest.mark.parametrize("zero", ["all", "most"])
def test_a_matrix_of_low_rank_is_factored_without_large_values(zero: str) -> None:
    array = np.zeros((8, 6), np.float32)
    if zero == "most":
        array[:2] = np.random.default_rng(1).normal(size=(2, 6))
    left, right = altering.rank_factors(array, 1.0)
    assert max(np.abs(left).max(), np.abs(right).max()) < 1e4
    np.testing.assert_allclose(left @ right, array, atol=1e-6)


@each_spec
def test_layers_of_lower_rank_are_the_network_with_tensors_of_lower_rank(spec: ModelSpec) -> None:
    weights = copy_of(spec)
    deep = structure.factorise(weights, spec, 0.4)
    flat = models.from_weights(spec, altering.truncate_rank(weights, 0.4))
    torch.testing.assert_close(outputs(deep.model), outputs(flat), rtol=1e-3, atol=1e-4)
    assert "head.0.weight" in deep.weights
    assert "head.weight" not in deep.weights
    assert sum(a.size for a in deep.weights.values()) < sum(a.size for a in weights.values())
