"""Pruning, quantising and noise, against their definitions."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from smdl_flower.attacks import altering
from smdl_flower.weights import Weights


def random_copy(seed: int = 1) -> Weights:
    rng = np.random.default_rng(seed)
    shapes: dict[str, tuple[int, ...]] = {
        "conv": (8, 3, 3, 3),
        "linear": (40, 25),
        "narrow": (1, 7),
        "bias": (40,),
        "scale": (),
    }
    return {n: np.asarray(rng.normal(0.3, 2, s), np.float32) for n, s in shapes.items()}


matrices = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=2, max_dims=4, min_side=1, max_side=5),
    elements=st.floats(-1e6, 1e6, width=32),
)


@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.25, 0.5, 0.9, 0.999])
def test_pruning_zeroes_the_asked_fraction_of_each_tensor_and_the_smallest(fraction: float) -> None:
    copy = random_copy()
    pruned = altering.prune(copy, fraction)
    for name in ("conv", "linear", "narrow"):
        zeroed = pruned[name] == 0
        assert zeroed.sum() == int(fraction * copy[name].size)
        assert np.array_equal(pruned[name][~zeroed], copy[name][~zeroed])
        if zeroed.any() and not zeroed.all():
            assert np.abs(copy[name][zeroed]).max() <= np.abs(copy[name][~zeroed]).min()


@given(array=matrices, fraction=st.floats(0, 0.99))
def test_pruning_with_ties_and_zeros_never_zeroes_more_than_asked(
    array: np.ndarray[Any, Any], fraction: float
) -> None:
    pruned = altering.prune({"w": array}, fraction)["w"]
    changed = pruned != array
    assert changed.sum() <= fraction * array.size
    assert (pruned == 0).sum() >= int(fraction * array.size)
    assert not pruned[changed].any()
    assert pruned.shape == array.shape


@given(array=matrices, bits=st.integers(1, 16))
def test_quantising_leaves_few_levels_each_within_half_a_step(
    array: np.ndarray[Any, Any], bits: int
) -> None:
    quantized = altering.quantize({"w": array}, bits)["w"]
    assert quantized.dtype == np.float32
    assert quantized.shape == array.shape
    assert len(np.unique(quantized)) <= 2**bits
    exact = array.astype(np.float64)
    step = (exact.max() - exact.min()) / (2**bits - 1)
    # float32 carries 2^-24 of the value through each of its four operations
    rounding = 2**-21 * max(np.abs(exact).max(), exact.max() - exact.min()) + 1e-38
    assert np.abs(quantized - exact).max() <= step / 2 + rounding


def test_one_bit_keeps_only_the_extremes() -> None:
    array = np.array([[-1.0, -0.9, 0.9], [2.0, 0.4, 0.6]], np.float32)
    quantized = altering.quantize({"w": array}, 1)["w"]
    assert quantized.tolist() == [[-1, -1, 2], [2, -1, 2]]


def test_a_constant_tensor_survives_quantising() -> None:
    array = np.full((3, 3), 0.7, np.float32)
    assert np.array_equal(altering.quantize({"w": array}, 4)["w"], array)


@pytest.mark.parametrize("level", [0.05, 0.5, 2.0])
def test_noise_is_gaussian_of_the_asked_level_in_each_tensors_own_scale(level: float) -> None:
    rng = np.random.default_rng(1)
    copy = {
        "large": rng.normal(5, 3, (200, 250)).astype(np.float32),
        "small": rng.normal(0, 0.01, (50_000, 1)).astype(np.float32),
    }
    noisy = altering.add_noise(copy, level, seed=2)
    for name, array in copy.items():
        noise = (noisy[name].astype(np.float64) - array) / array.std()
        count = array.size
        # five standard errors: of a mean 1/sqrt(n), of a standard deviation 1/sqrt(2n)
        assert abs(noise.mean()) <= 5 * level / count**0.5
        assert abs(noise.std() / level - 1) <= 5 / (2 * count) ** 0.5
        within = (np.abs(noise) < level).mean()
        assert abs(within - 0.6827) <= 5 * (0.6827 * 0.3173 / count) ** 0.5
    correlation = np.corrcoef(
        (noisy["large"] - copy["large"]).ravel(), (noisy["small"] - copy["small"]).ravel()
    )[0, 1]
    assert abs(correlation) <= 5 / 50_000**0.5


def test_noise_comes_from_its_seed_whatever_the_order_of_tensors() -> None:
    copy = random_copy()
    turned = dict(reversed(copy.items()))
    one, same = altering.add_noise(copy, 0.1, seed=3), altering.add_noise(turned, 0.1, seed=3)
    other = altering.add_noise(copy, 0.1, seed=4)
    assert all(np.array_equal(one[name], same[name]) for name in copy)
    assert not np.array_equal(one["linear"], other["linear"])


def test_noise_of_level_zero_changes_nothing() -> None:
    copy = random_copy()
    noisy = altering.add_noise(copy, 0.0, seed=3)
    assert all(np.array_equal(noisy[name], copy[name]) for name in copy)


@pytest.mark.parametrize("attack", ["prune", "quantize", "noise"])
def test_vectors_and_scalars_are_left_as_they_are(attack: str) -> None:
    copy = random_copy()
    altered = {
        "prune": lambda: altering.prune(copy, 0.9),
        "quantize": lambda: altering.quantize(copy, 1),
        "noise": lambda: altering.add_noise(copy, 1.0, seed=1),
    }[attack]()
    assert altered.keys() == copy.keys()
    assert not np.array_equal(altered["linear"], copy["linear"])
    assert np.array_equal(altered["bias"], copy["bias"])
    assert np.array_equal(altered["scale"], copy["scale"])


def test_quantising_the_widest_range_stays_finite() -> None:
    quantized = altering.quantize({"w": np.array([[3e38, -3e38]], np.float32)}, 8)["w"]
    assert np.isfinite(quantized).all()
