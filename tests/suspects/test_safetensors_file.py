"""safetensors of types that weights.read does not take; and which file is read by whom."""

import json
import struct

import numpy as np
import pytest
import safetensors.torch
import torch

from smdl_flower.errors import SuspectFileError
from smdl_flower.suspects import safetensors_file
from smdl_flower.weights import Limits
from tests.suspects.conftest import read


def packed(header: object, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def plain(content: bytes) -> bool:
    view = memoryview(content)
    return safetensors_file.is_one(view) and safetensors_file.is_plain(view, Limits())


def test_files_of_floats_only_are_left_to_weights_and_so_are_damaged_ones():
    assert plain(safetensors.torch.save({"w": torch.ones(2), "h": torch.ones(2).half()}))
    assert not plain(safetensors.torch.save({"w": torch.ones(2), "i": torch.ones(2).char()}))
    assert plain(packed({}))
    assert plain(struct.pack("<Q", 10**10) + b"{}")
    assert plain(packed(b"{nonsense"))
    assert plain(packed({"w": 3}))


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.int8, torch.uint8])
def test_small_types_are_read_as_torch_writes_them(dtype):
    tensor = torch.tensor([[0.5, 2.0], [3.0, 1.0]]).to(dtype)
    found = read(safetensors.torch.save({"w": tensor})).weights["w"]
    assert found.tolist() == tensor.float().tolist()


I8 = {"dtype": "I8", "shape": [2, 2], "data_offsets": [0, 4]}


@pytest.mark.parametrize(
    "entry",
    [
        {**I8, "shape": [2, 3]},
        {**I8, "shape": [1]},
        {**I8, "shape": None},
        {**I8, "dtype": "X"},
        {**I8, "dtype": 3},
        {**I8, "data_offsets": [0, 5]},
        {**I8, "data_offsets": [4, 0]},
        {**I8, "data_offsets": [-4, 0]},
        {**I8, "data_offsets": [0.0, 4]},
        {**I8, "data_offsets": [4]},
        3,
    ],
)
def test_headers_that_lie_are_refused_and_the_tensor_named(entry):
    assert read(packed({"w": I8}, bytes([1, 2, 3, 4]))).weights["w"].tolist() == [[1, 2], [3, 4]]
    with pytest.raises(SuspectFileError, match="tensor 'evil'"):
        read(packed({"evil": entry}, bytes(4)))


@pytest.mark.parametrize(
    "content", [packed(b"{]"), packed(b"{" * 9999), packed({str(i): I8 for i in range(20_001)})]
)
def test_headers_that_are_none_or_too_long_are_refused(content):
    with pytest.raises(SuspectFileError, match="header"):
        read(content)


def test_numbers_are_those_of_numpy():
    array = np.arange(-3, 3, dtype=np.int8).reshape(2, 3)
    entry = {"dtype": "I8", "shape": [2, 3], "data_offsets": [0, 6]}
    assert read(packed({"w": entry}, array.tobytes())).weights["w"].tolist() == array.tolist()
