"""Whatever the bytes: weights within the limit, or our own error; nothing else happens.

Each reader is given valid files of its format with changes, which get further than bytes made up.
The slow tests make 100,000 inputs a reader.
"""

import contextlib
import functools
import io
import os
import pickle  # noqa: TID251 - to make programs
import sys
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from smdl_flower.errors import SuspectFileError
from smdl_flower.suspects.torch_files import CALLS
from smdl_flower.suspects.unpickling import Rules, unpickle
from tests.mutating import changed
from tests.suspects import protobuf
from tests.suspects.conftest import MOST, f4, i1, read

SLOW_INPUTS = 100_000
EXAMPLES = max(300, settings().max_examples)  # more with `make fuzz`
IMAGE = torch.zeros(1, 2)


def tiny() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2))


def saved(value: object, *, zipped: bool = True) -> bytes:
    stream = io.BytesIO()
    torch.save(value, stream, _use_new_zipfile_serialization=zipped)
    return stream.getvalue()


def checkpoint() -> dict[str, object]:
    moments = {0: {"exp_avg": torch.ones(3)}}
    optimizer = {"state": moments, "param_groups": [{"lr": 0.1, "params": [0]}]}
    return {"model": tiny().state_dict(), "optimizer": optimizer, "ema": tiny().state_dict()}


def qint8() -> bytes:
    scales = torch.tensor([0.5, 0.25])
    tensor = torch.quantize_per_channel(torch.ones(2, 3), scales, torch.zeros(2), 0, torch.qint8)
    return saved({"w": tensor, "v": torch.quantize_per_tensor(torch.ones(2), 0.1, 1, torch.quint8)})


def script() -> bytes:
    stream = io.BytesIO()
    torch.jit.save(torch.jit.trace(tiny(), IMAGE), stream)
    return stream.getvalue()


def exported() -> bytes:
    stream = io.BytesIO()
    torch.export.save(torch.export.export(tiny(), (IMAGE,)), stream)
    return stream.getvalue()


def onnx() -> bytes:
    ones = np.ones((2, 3), np.float32)
    nodes = [
        protobuf.node("DequantizeLinear", ["q", "s", "z"], ["w"], axis=1, block_size=0),
        protobuf.node("MatMul", ["x", "w"], ["y"]),
        protobuf.node("QLinearConv", ["x", "", "", "k", "s", "z"], ["y"]),
        protobuf.constant("c", protobuf.tensor("", ones)),
    ]
    tensors = [
        protobuf.tensor("q", ones.astype(np.int8)),
        protobuf.tensor("k", ones.T.astype(np.int8)),
        protobuf.tensor("s", f4([1, 2, 3])),
        protobuf.tensor("z", i1([1, 2, 3])),
        protobuf.tensor("h", ones.astype(np.float16)),
    ]
    return protobuf.model(nodes, tensors)


def whole_numbers() -> bytes:
    return safetensors.numpy.save(
        {
            "a.weight": np.ones((2, 4), np.int8),
            "a.weight_scale": np.ones((2, 1), np.float16),
            "a.weight_zero_point": np.ones((2, 1), np.int8),
            "b_packed": np.ones((2, 1), np.int32),
            "b_scale": np.ones((2, 1), np.float32),
            "b_shape": np.array([2, 8]),
            "c.qweight": np.ones((1, 8), np.int32),
            "c.qzeros": np.ones((1, 1), np.int32),
            "c.scales": np.ones((1, 8), np.float16),
            "c.g_idx": np.zeros(8, np.int32),
        }
    )


MAKERS: dict[str, Callable[[], bytes]] = {
    "PyTorch": lambda: saved(checkpoint()),
    "PyTorch before 1.6": lambda: saved(checkpoint(), zipped=False),
    "a module": lambda: saved(tiny()),
    "torch's quantised tensors": qint8,
    "TorchScript": script,
    "torch.export": exported,
    "ONNX": onnx,
    "whole numbers": whole_numbers,
}


@functools.cache
def sample(name: str) -> bytes:
    """A valid file of a format."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch announces the end of half of its formats
        return MAKERS[name]()


def examine(content: bytes) -> bool:
    """Read, and return whether there were weights; fails unless it ended as it may."""
    before = set(sys.modules)
    try:
        converted = read(content)
    except SuspectFileError:
        return False
    finally:
        assert {n for n in set(sys.modules) - before if not n.startswith("encodings.")} == set()
    arrays = converted.weights.values()
    assert all(a.dtype == np.float32 for a in arrays)
    assert sum(a.nbytes for a in arrays) <= MOST
    return True


@pytest.mark.parametrize("name", MAKERS)
def test_the_samples_are_read(name):
    assert examine(sample(name))


@pytest.mark.parametrize("name", MAKERS)
@given(seed=st.integers(0, 2**63))
@settings(max_examples=EXAMPLES)
def test_a_changed_file_ends_in_weights_or_our_own_error(name, seed):
    examine(changed(sample(name), np.random.default_rng(seed)))


@given(
    content=st.binary(max_size=300),
    start=st.sampled_from([b"", b"PK\x03\x04", b"\x80\x02", b"\x08\x08:"]),
)
@settings(max_examples=EXAMPLES)
def test_any_bytes_end_in_our_own_error(content, start):
    examine(start + content)


# ---------------------------------------------------------------------------------- made-up pickles

PIECES = [
    *(
        b"(",
        b")",
        b"]",
        b"}",
        b"N",
        b"\x88",
        b"K\x05",
        b"\x8c\x01w",
        b"\x8c\x07storage",
        b"\x8c\x010",
    ),
    *(
        b"t",
        b"\x85",
        b"\x86",
        b"\x87",
        b"a",
        b"e",
        b"s",
        b"u",
        b"b",
        b"R",
        b"\x81",
        b"0",
        b"1",
        b"2",
    ),
    *(
        b"q\x00",
        b"h\x00",
        b"\x94",
        b"h\x01",
        b"Q",
        b"G@\x00\x00\x00\x00\x00\x00\x00",
        b"\x93",
        b"l",
        b"d",
    ),
    *(b"ctorch\nFloatStorage\n", b"ctorch._utils\n_rebuild_tensor_v2\n", b"ctorch\nSize\n", b"o"),
    *(
        b"ctorch._utils\n_rebuild_qtensor\n",
        b"ctorch._utils\n_rebuild_parameter\n",
        b"cos\nsystem\n",
    ),
    *(b"ctorch._tensor\n_rebuild_from_type_v2\n", b"ccollections\nOrderedDict\n", b"ios\nsystem\n"),
    b"ctorch._utils\n_rebuild_tensor_v2\n((\x8c\x07storagectorch\nFloatStorage\n\x8c\x010\x8c\x03cpuK\x02tQK\x00K\x02\x85K\x01\x85\x89)tR",
]


def examine_program(program: bytes) -> None:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("a/data.pkl", program)
        file.writestr("a/data/0", bytes(8))
    examine(archive.getvalue())


@given(pieces=st.lists(st.sampled_from(PIECES), max_size=30))
@settings(max_examples=EXAMPLES)
def test_any_program_of_known_steps_ends_in_weights_or_our_own_error(pieces):
    examine_program(b"\x80\x02" + b"".join(pieces) + b".")


@pytest.mark.parametrize("name", CALLS)
@given(
    arguments=st.recursive(
        st.none() | st.booleans() | st.integers(-1, 9) | st.text(max_size=2) | st.floats(),
        lambda inner: st.lists(inner, max_size=4) | st.tuples(inner, inner),
        max_leaves=9,
    )
)
def test_a_known_name_called_with_anything_ends_in_our_own_error(name, arguments):
    module, _, attribute = name.rpartition(".")
    inner = pickle.dumps(arguments, 2)[2:-1]
    program = b"c" + f"{module}\n{attribute}\n".encode() + inner + b"\x85R."
    rules = Rules(CALLS, lambda reference: reference)
    for each in (program, program.replace(b"\x85R.", b"R.")):
        with contextlib.suppress(SuspectFileError):
            unpickle(memoryview(each), rules)


# ------------------------------------------------------------------------------------ the slow set


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", MAKERS)
def test_a_hundred_thousand_changed_files_end_as_they_may(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(11)
    content = sample(name)
    read_back = sum(examine(changed(content, rng)) for _ in range(SLOW_INPUTS))
    assert 1000 < read_back < SLOW_INPUTS - 1000  # neither all refused nor all read
    assert list(Path(tmp_path).iterdir()) == []


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_hundred_thousand_programs_end_as_they_may(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(12)
    for _ in range(SLOW_INPUTS):
        chosen = rng.integers(len(PIECES), size=rng.integers(1, 30))
        examine_program(b"\x80\x02" + b"".join(PIECES[i] for i in chosen) + b".")
    assert os.listdir() == []
