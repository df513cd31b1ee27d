"""Layout: which weights carry a mark, and models as vectors and back."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smdl_flower.fingerprint.layout import Layout
from smdl_flower.weights import Weights

shapes = st.dictionaries(
    st.sampled_from(["a", "b.weight", "b.bias", "z", "10", "9"]),
    st.lists(st.integers(0, 4), max_size=4).map(tuple),
    max_size=6,
)


def model(shape_of: dict[str, tuple[int, ...]], seed: int = 0) -> Weights:
    rng = np.random.default_rng(seed)
    return {
        name: np.asarray(rng.standard_normal(shape), np.float32) for name, shape in shape_of.items()
    }


@given(shapes)
def test_exactly_the_varying_tensors_of_two_or_more_dimensions_are_marked(
    shape_of: dict[str, tuple[int, ...]],
) -> None:
    layout = Layout.of(model(shape_of))
    expected = [n for n in sorted(shape_of) if len(shape_of[n]) >= 2 and np.prod(shape_of[n]) > 1]
    assert [tensor.name for tensor in layout.tensors] == expected
    assert layout.size == sum(int(np.prod(shape_of[name])) for name in expected)


@given(shapes)
def test_a_model_is_the_same_after_flattening_and_restoring(
    shape_of: dict[str, tuple[int, ...]],
) -> None:
    weights, other = model(shape_of), model(shape_of, seed=1)
    layout = Layout.of(weights)
    restored = layout.restore(other, layout.flatten(weights))
    marked = {tensor.name for tensor in layout.tensors}
    for name in shape_of:
        assert np.array_equal(restored[name], (weights if name in marked else other)[name])
        assert np.array_equal(other[name], model(shape_of, seed=1)[name])  # not changed


def test_the_order_of_tensors_in_a_file_does_not_matter(small_base: Weights) -> None:
    backwards = dict(reversed(small_base.items()))
    assert Layout.of(backwards) == Layout.of(small_base)
    assert np.array_equal(
        Layout.of(backwards).flatten(backwards), Layout.of(small_base).flatten(small_base)
    )


def test_scale_is_the_standard_deviation_of_each_tensor(small_base: Weights) -> None:
    for tensor in Layout.of(small_base).tensors:
        values = small_base[tensor.name].astype(np.float64)
        assert tensor.scale == pytest.approx(float(values.std()), rel=1e-12)


@pytest.mark.parametrize("value", [0.0, 1.0, 0.1, 1e-6, -3.7])
def test_a_constant_tensor_is_left_alone(value: float) -> None:
    weights = {"w": np.full((30, 7), value, np.float32)}
    layout = Layout.of(weights)
    assert layout.tensors == ()
    assert layout.size == 0
    assert not layout.fits(weights)


@pytest.mark.parametrize("size", [1, 7, 6_400, 6_399, 100_000])
def test_pieces_cover_every_weight_once_and_never_two_tensors(
    small_base: Weights, size: int
) -> None:
    layout = Layout.of(small_base)
    covered = np.zeros(layout.size, dtype=int)
    scales = np.zeros(layout.size)
    for where, scale in layout.pieces(size):
        assert 0 < where.stop - where.start <= size
        covered[where] += 1
        scales[where] = scale
    assert (covered == 1).all()
    for tensor in layout.tensors:
        assert (scales[tensor.where] == tensor.scale).all()


def test_a_model_fits_if_the_marked_tensors_have_name_and_shape(small_base: Weights) -> None:
    layout = Layout.of(small_base)
    assert layout.fits(small_base)
    assert layout.fits({**small_base, "extra": np.zeros(3, np.float32)})
    assert layout.fits({n: a for n, a in small_base.items() if n != "fc.bias"})
    assert not layout.fits({**small_base, "fc.weight": small_base["fc.weight"].reshape(40, 160)})
    assert not layout.fits({**small_base, "fc.weight": small_base["fc.weight"].ravel()})
    assert not layout.fits({n: a for n, a in small_base.items() if n != "conv.weight"})
    assert not layout.fits({})
