"""A tensor has no more values than its storage has bytes, and means what torch says it means."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from smdl_flower.errors import SuspectFileError
from smdl_flower.suspects.tensors import Affine, stored
from tests.suspects.conftest import f4


def view_of(array: np.ndarray) -> memoryview:
    return memoryview(array.tobytes())


@given(
    shape=st.lists(st.integers(0, 4), max_size=3),
    strides=st.lists(st.integers(0, 6), max_size=3),
    offset=st.integers(0, 8),
)
def test_whatever_torch_can_show_of_a_storage_is_shown_the_same_or_refused(shape, strides, offset):
    values = np.arange(20, dtype="<f4")
    data = view_of(values)
    try:
        tensor = stored(data, "F32", shape, strides, offset=offset)
    except SuspectFileError:
        return
    ours = tensor.values()
    theirs = torch.as_strided(torch.from_numpy(values), shape, strides, offset)
    assert ours.tolist() == theirs.tolist()


@pytest.mark.parametrize(
    ("shape", "strides", "offset"),
    [
        ([4], None, 1),
        ([5], None, 0),
        ([2, 2], [2, 2], 0),
        ([2**40], [0], 0),
        ([2**20, 2**20], None, 0),
        ([2**41], None, 0),
        ([0, 2**40, 2**40], None, 0),
        ([1], [1, 1], 0),
        ([-1], None, 0),
        ([1], [-1], 0),
        ([1.0], None, 0),
        ([True], None, 0),
        (["1"], None, 0),
        ([None], None, 0),
        ([1], None, "0"),
        ([1] * 17, None, 0),
        ([0], [2**39], 0),
        ([1], None, -1),
        ([0], None, 5),
    ],
)
def test_sizes_that_do_not_fit_are_refused(shape, strides, offset):
    with pytest.raises(SuspectFileError):
        stored(view_of(np.zeros(4, "<f4")), "F32", shape, strides, offset=offset)


def test_an_unknown_type_is_named():
    with pytest.raises(SuspectFileError, match="has type 'C64'"):
        stored(memoryview(bytes(8)), "C64", [1])


@pytest.mark.parametrize(
    ("dtype", "numpy"), [("I8", "i1"), ("U8", "u1"), ("I16", "<i2"), ("I64", "<i8"), ("F64", "<f8")]
)
def test_numbers_of_all_widths_are_read(dtype, numpy):
    array = np.array([0, 1, 100], numpy)
    assert stored(view_of(array), dtype, [3]).values().tolist() == [0, 1, 100]


def test_four_bits_are_read_the_lower_half_first_and_with_their_sign():
    data = memoryview(bytes([0x21, 0xF8, 0x07]))
    assert stored(data, "U4", [5]).values().tolist() == [1, 2, 8, 15, 7]
    assert stored(data, "I4", [5]).values().tolist() == [1, 2, -8, -1, 7]
    with pytest.raises(SuspectFileError):
        stored(data, "I4", [7])
    with pytest.raises(SuspectFileError):
        stored(data, "I4", [2], offset=1)
    with pytest.raises(SuspectFileError):
        stored(data, "I4", [2, 2], [1, 2])


def test_scales_belong_to_an_axis_or_to_all():
    numbers = np.arange(6, dtype=np.float32).reshape(2, 3)
    zero = np.zeros(1, np.float32)
    columns = Affine(f4([1, 10, 100]), zero, axis=1)
    assert columns.apply(numbers).tolist() == [[0, 10, 200], [3, 40, 500]]
    assert Affine(f4(2), f4(1)).apply(numbers).tolist() == [[-2, 0, 2], [4, 6, 8]]
    for wrong in (
        Affine(f4([1, 2]), zero, axis=1),
        Affine(f4([1, 2]), zero, axis=5),
        Affine(f4([1, 2]), zero),
        Affine(np.ones((2, 4), np.float32), zero, axis=1, block=2),
        Affine(np.ones((3, 2), np.float32), zero, axis=1, block=2),
    ):
        with pytest.raises(SuspectFileError, match="scales"):
            wrong.apply(numbers)


def test_blocks_of_numbers_share_a_scale_and_the_last_may_be_short():
    numbers = np.ones((2, 3), np.float32)
    scale = f4([[1, 2], [3, 4]])
    affine = Affine(scale, np.zeros(1, np.float32), axis=1, block=2)
    assert affine.apply(numbers).tolist() == [[1, 1, 2], [3, 3, 4]]
