"""Whole numbers with scales beside them mean what the conventions say."""

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

from smdl_flower.errors import SuspectFileError
from tests.suspects.conftest import f2, f4, i1, read

NUMBERS = np.array([[1, -2, 3, -4], [5, -6, 7, -8]], np.int8)


def weights_of(**arrays):
    named = {name.replace("__", "."): array for name, array in arrays.items()}
    return read(safetensors.numpy.save(named)).weights


@pytest.mark.parametrize("name", ["_scale", "__scale", "_scales", "_scale_inv"])
@pytest.mark.parametrize(
    ("scale", "expected"),
    [
        (f4(2), NUMBERS * 2.0),
        (f4([2]), NUMBERS * 2.0),
        (f4([2, 10]), NUMBERS * [[2.0], [10.0]]),
        (f2([[2], [10]]), NUMBERS * [[2.0], [10.0]]),
        (f4([[1, 2], [3, 4]]), NUMBERS * [[1.0, 1, 2, 2], [3, 3, 4, 4]]),
    ],
    ids=["one", "one in a list", "a row", "a row, as column", "groups"],
)
def test_a_scale_beside_a_weight_is_its_scale(name, scale, expected):
    found = weights_of(**{"a__weight": NUMBERS, f"a__weight{name}": np.asarray(scale)})
    assert {n: a.tolist() for n, a in found.items()} == {"a.weight": expected.tolist()}


def test_zero_points_are_taken_off():
    small = np.array([[0, 255]], np.uint8)
    found = weights_of(w=small, w_scale=f4([[0.5]]), w_zero_point=np.array([[128]], np.uint8))
    assert found["w"].tolist() == [[-64.0, 63.5]]


def test_bitsandbytes_int8_is_read():
    found = weights_of(a__weight=NUMBERS, a__SCB=f4([127, 254]))
    assert found["a.weight"].tolist() == (NUMBERS * [[1.0], [2.0]]).tolist()


def test_small_numbers_without_a_scale_count_as_they_are_and_counters_do_not():
    found = weights_of(w=NUMBERS, ids=np.arange(4).reshape(2, 2), steps=i1([1]), f=np.ones(1, "f4"))
    assert set(found) == {"w", "f"}
    assert found["w"].tolist() == NUMBERS.tolist()


def pack(numbers: np.ndarray, bits: int) -> np.ndarray:
    """Rows of numbers, several in each 32 bits, the lowest first; independent of the reader."""
    each = 32 // bits
    rows = []
    for row in numbers:
        padded = [*row.tolist(), *([0] * (-len(row) % each))]
        words = [padded[i : i + each] for i in range(0, len(padded), each)]
        rows.append([sum(n << (bits * i) for i, n in enumerate(word)) for word in words])
    return np.array(rows, np.uint32).view(np.int32)


@given(
    rows=st.integers(1, 9),
    columns=st.integers(1, 40),
    bits=st.sampled_from([4, 8]),
    seed=st.integers(0, 99),
)
def test_compressed_tensors_packed_weights_are_read(rows, columns, bits, seed):
    rng = np.random.default_rng(seed)
    numbers = rng.integers(0, 1 << bits, (rows, columns))
    scale = rng.random((rows, 1), dtype=np.float32) + 0.1
    packed = pack(numbers, bits)
    if (4 if columns > 4 * packed.shape[1] else 8) != bits:
        return  # so few columns that both fit
    found = weights_of(w_packed=packed, w_scale=scale, w_shape=np.array([rows, columns], np.int64))
    np.testing.assert_allclose(found["w"], (numbers - (1 << (bits - 1))) * scale, rtol=1e-6)


@given(
    outputs=st.integers(1, 4),
    inputs=st.integers(1, 4),
    groups=st.integers(1, 3),
    bits=st.sampled_from([4, 8]),
    ordered=st.booleans(),
    seed=st.integers(0, 99),
)
def test_gptq_weights_are_read(outputs, inputs, groups, bits, ordered, seed):
    rng = np.random.default_rng(seed)
    outputs, inputs = outputs * 8, inputs * 8 * groups
    numbers = rng.integers(0, 1 << bits, (outputs, inputs))
    zeros = rng.integers(1, 1 << bits, (groups, outputs))
    scales = rng.random((groups, outputs), dtype=np.float32) + 0.1
    group = np.repeat(np.arange(groups), inputs // groups)
    if not ordered:
        rng.shuffle(group)
    tensors = {"a__qweight": pack(numbers, bits).T.copy(), "a__scales": scales}
    tensors |= {"a__qzeros": pack(zeros - 1, bits), "a__bias": np.ones(1, "f4")}
    if not ordered:
        tensors["a__g_idx"] = group.astype(np.int32)
    found = weights_of(**tensors)
    assert set(found) == {"a.weight", "a.bias"}
    expected = (numbers - zeros[group].T) * scales[group].T
    np.testing.assert_allclose(found["a.weight"], expected, rtol=1e-5)


INT = np.ones((1, 8), np.int32)
TWO = np.array([2, 2], np.int64)


@pytest.mark.parametrize(
    "tensors",
    [
        {"w": NUMBERS, "w_scale": np.ones(3, "f4")},
        {"w": NUMBERS, "w_scale": np.ones((2, 3), "f4")},
        {"w": NUMBERS, "w_scale": np.ones(0, "f4")},
        {"w": NUMBERS, "w_scale": np.ones(1, "f4"), "w_zero_point": np.ones(5, "i1")},
        {"w_packed": INT, "w_scale": np.ones((2, 1), "f4"), "w_shape": TWO},
        {"w_packed": INT, "w_scale": np.ones((1, 1), "f4"), "w_shape": np.array([1, -8])},
        {"w_packed": INT, "w_scale": np.ones((1, 1), "f4"), "w_shape": np.array([1, 2**62])},
        {"w_packed": INT[0], "w_scale": np.ones((1, 1), "f4"), "w_shape": np.array([1, 8])},
        {
            "w_packed": np.ones((1, 8), "f4"),
            "w_scale": np.ones(1, "f4"),
            "w_shape": np.array([1, 8]),
        },
        {"qweight": INT, "qzeros": INT, "scales": np.ones((1, 3), "f4")},
        {"qweight": INT, "qzeros": INT, "scales": np.ones(64, "f4")},
        {"qweight": INT, "qzeros": INT[:, :0], "scales": np.ones((1, 0), "f4")},
        {"qweight": INT, "qzeros": INT, "scales": np.ones((2, 64), "f4")},
        {"qweight": INT, "qzeros": INT[:, :1], "scales": np.ones((1, 8), "f4"), "g_idx": TWO},
        {
            "qweight": INT,
            "qzeros": INT[:, :1],
            "scales": np.ones((1, 8), "f4"),
            "g_idx": np.full(8, 7, np.int32),
        },
    ],
)
def test_scales_that_do_not_fit_are_refused(tensors):
    with pytest.raises(SuspectFileError):
        weights_of(**tensors)
