"""What torch.save and TorchScript write, read without torch and without calling anything."""

import copy
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from smdl_flower.errors import SuspectFileError
from tests.suspects.conftest import read, rezipped, same


@pytest.mark.parametrize(
    ("dtype", "zipped"),
    [
        *((t, True) for t in (torch.float32, torch.float64, torch.float16, torch.bfloat16)),
        *((t, False) for t in (torch.float32, torch.float64, torch.float16, torch.bfloat16)),
        (torch.float8_e5m2, True),  # a legacy file has no such type
    ],
)
def test_a_state_dict_of_any_float_type_is_read_bit_by_bit(saved, state, dtype, zipped):
    changed = {name: tensor.to(dtype) for name, tensor in state.items()}
    assert same(read(saved(changed, zipped=zipped)).weights, changed)


def test_every_finite_number_of_8_bits_means_what_torch_says(saved):
    every = torch.arange(256, dtype=torch.uint8)
    for dtype in (torch.float8_e4m3fn, torch.float8_e5m2):
        tensor = every.view(dtype)
        finite = tensor[torch.isfinite(tensor.float())]
        assert len(finite) > 200
        assert same(read(saved({"w": finite})).weights, {"w": finite})


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_views_transposed_tensors_and_shared_storages_are_read_as_torch_sees_them(saved, zipped):
    whole = torch.arange(60, dtype=torch.float32).reshape(5, 12)
    views = {"t": whole.t(), "part": whole[1:4, 2:9:3], "row": whole[3], "same": whole}
    views |= {"scalar": torch.tensor(2.5), "empty": torch.zeros(0, 3)}
    assert same(read(saved(views, zipped=zipped)).weights, views)


def test_parameters_and_subclasses_are_tensors(saved):
    marked = nn.Parameter(torch.ones(2))
    vars(marked)["note"] = "x"  # makes torch call another function
    assert same(
        read(saved({"p": marked, "q": nn.Parameter(torch.zeros(3))})).weights,
        {"p": torch.ones(2), "q": torch.zeros(3)},
    )


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_a_checkpoint_gives_the_model_and_not_the_optimisers_moments(saved, net, zipped):
    model = copy.deepcopy(net)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 1, 8, 8)).sum().backward()
    optimizer.step()
    state = {f"module.{n}": t for n, t in model.state_dict().items()}
    checkpoint = {
        "epoch": 3,
        "state_dict": state,
        "optimizer": optimizer.state_dict(),
        "rng": torch.get_rng_state(),
    }
    read_back = read(saved(checkpoint, zipped=zipped))
    assert same(read_back.weights, state)
    assert read_back.kind == ("PyTorch" if zipped else "PyTorch before 1.6")


def test_a_compiled_models_names_are_those_of_the_model(saved, state):
    compiled = {f"_orig_mod.{name}": tensor for name, tensor in state.items()}
    assert same(read(saved({"model": compiled})).weights, state)


def test_a_whole_module_is_read_without_its_class(saved, net, state):
    converted = read(saved(net))
    assert same(converted.weights, state)
    assert "Net" in converted.remarks[0]


@pytest.mark.filterwarnings("ignore:.*deprecated:UserWarning")  # torch says so once a process
def test_torch_quantised_tensors_are_read_as_torch_dequantises_them(saved):
    by_tensor = torch.quantize_per_tensor(torch.randn(4, 6), 0.1, 3, torch.quint8)
    scales, zeros = torch.rand(4) + 0.1, torch.zeros(4)
    by_row = torch.quantize_per_channel(torch.randn(4, 6), scales, zeros, 0, torch.qint8)
    four_bits = torch.quantize_per_channel(*(torch.randn(4, 6), scales, zeros, 0, torch.quint4x2))
    tensors = {"a": by_tensor, "b": by_row, "c": four_bits}
    read_back = read(saved(tensors))
    expected = {"a": by_tensor.dequantize(), "b": by_row.dequantize()}
    assert read_back.kind == "PyTorch (quantised)"
    for name, tensor in expected.items():
        np.testing.assert_allclose(read_back.weights[name], tensor.numpy(), rtol=1e-6)
    packed = np.frombuffer(bytes(four_bits.untyped_storage()), np.uint8)[:12]
    numbers = np.stack([packed & 15, packed >> 4], 1).reshape(4, 6)
    np.testing.assert_allclose(read_back.weights["c"], numbers * scales.numpy()[:, None], rtol=1e-6)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_a_dynamically_quantised_model_is_read(saved, net):
    model = torch.ao.quantization.quantize_dynamic(copy.deepcopy(net), {nn.Linear})
    read_back = read(saved(model.state_dict()))
    weight = model.head.weight().dequantize().numpy()
    found = [a for a in read_back.weights.values() if a.shape == weight.shape]
    assert any(np.allclose(a, weight, rtol=1e-6) for a in found)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("how", ["script", "trace", "freeze"])
def test_torchscript_is_read_without_running_it(net, state, tmp_path, how):
    script = torch.jit.script(net)
    if how == "trace":
        script = torch.jit.trace(net, torch.zeros(1, 1, 8, 8))
    if how == "freeze":
        script = torch.jit.freeze(script)
    script.save(str(tmp_path / "s"))
    converted = read((tmp_path / "s").read_bytes())
    assert converted.kind == "TorchScript"
    if how == "freeze":  # the names are gone: alignment finds tensors by shape
        values = sorted(a.tobytes() for a in converted.weights.values() if a.ndim > 1)
        assert values == sorted(t.numpy().tobytes() for t in state.values() if t.ndim > 1)
    else:
        assert same(converted.weights, state)
        assert converted.remarks == ()


def test_an_archive_packed_anew_is_read(saved, state, tmp_path):
    assert same(read(rezipped(saved(state), tmp_path / "z")).weights, state)


def test_numbers_stored_the_other_way_round_are_read(saved, state, tmp_path):
    assert sys.byteorder == "little"
    content = saved({"w": torch.tensor([1.5, -2.25])})
    swapped = np.array([1.5, -2.25], ">f4").tobytes()
    big = rezipped(content, tmp_path / "z", {"data/0": swapped, "byteorder": b"big"})
    assert read(big).weights["w"].tolist() == [1.5, -2.25]


# --------------------------------------------------------------------------------- hostile files


class Bomb:
    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self):
        return os.system, (f"touch {self.canary}",)


def test_a_bomb_beside_the_weights_is_named_not_run_and_hides_nothing(saved, state, tmp_path):
    canary = tmp_path / "canary"
    content = saved({"state_dict": state, "note": Bomb(canary)})
    converted = read(content)
    assert same(converted.weights, state)
    assert "'posix.system'" in converted.remarks[0]
    assert not canary.exists()
    with open(tmp_path / "saved", "rb") as file:  # the control: the file is what it seems
        torch.load(file, weights_only=False)  # noqa: TID251
    assert canary.exists()


def test_a_stride_bomb_is_refused(saved):
    bomb = torch.zeros(1).as_strided((200_000, 200_000), (0, 0))
    with pytest.raises(SuspectFileError, match="claims 40,000,000,000 values in a storage of 4 b"):
        read(saved({"w": bomb}))


@pytest.mark.parametrize(
    "tensor",
    [
        torch.empty(2**40, device="meta"),
        torch.eye(3).to_sparse(),
        torch.zeros(2, dtype=torch.complex64),
    ],
    ids=["meta", "sparse", "complex"],
)
def test_tensors_without_plain_values_are_left_out_and_alone_refused(saved, state, tensor):
    assert same(read(saved({**state, "x": tensor})).weights, state)
    with pytest.raises(SuspectFileError, match="no tensor"):
        read(saved({"x": tensor}))


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_a_file_cut_off_anywhere_is_refused(saved, state, zipped):
    content = saved(state, zipped=zipped)
    for length in range(0, len(content) - 1, len(content) // 50):
        with pytest.raises(SuspectFileError):
            read(content[:length])


def with_scales(scales: bytes) -> bytes:
    """A pickle of a list with one quantised tensor, which has so written scales."""
    text = b"X\x07\x00\x00\x00storagectorch\nQInt8Storage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu"
    tensor = b"((" + text + b"K\x02tQK\x00K\x02\x85K\x01\x85" + scales + b"\x89)t"
    return b"\x80\x02]ctorch._utils\n_rebuild_qtensor\n" + tensor + b"Ra."


def test_scales_of_a_pickle_are_read(saved, tmp_path):
    """The control of the next."""
    entries = {
        "data.pkl": with_scales(b"(NG?\xe0\x00\x00\x00\x00\x00\x00K\x01t"),
        "data/0": b"\x03\xff",
    }
    content = rezipped(saved({"w": torch.ones(2)}), tmp_path / "z", entries)
    assert read(content).weights["0"].tolist() == [1.0, -1.0]


@pytest.mark.parametrize(
    "scales",
    [
        *(b"N", b"]", b"(NG?\xe0\x00\x00\x00\x00\x00\x00t", b"(NX\x01\x00\x00\x00aK\x00t"),
        b"(N\x8a\xff" + b"\x7f" * 255 + b"K\x00t",
    ],
    ids=["none", "a list of none", "no zero", "a text", "a huge number"],
)
def test_scales_that_are_no_numbers_are_refused(scales, saved, tmp_path):
    entries = {"data.pkl": with_scales(scales), "data/0": b"\x03\xff"}
    with pytest.raises(SuspectFileError, match="scales"):
        read(rezipped(saved({"w": torch.ones(2)}), tmp_path / "z", entries))


def test_a_missing_storage_is_refused(saved, state, tmp_path):
    with pytest.raises(SuspectFileError, match="without 'saved/data/1'"):
        read(rezipped(saved(state), tmp_path / "z", {"data/1": None}))
