"""A Hugging Face folder: all its files together, opened by plain names, and one digest for them."""

import hashlib
import json
from pathlib import Path

import pytest
import safetensors.torch
import torch

from smdl_flower.errors import SuspectFileError
from smdl_flower.suspects import reading
from smdl_flower.weights import Limits
from tests.suspects.conftest import same

SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


def sharded(path: Path, state: dict[str, torch.Tensor], **where: str) -> Path:
    path.mkdir()
    (path / "config.json").write_text("{}")
    index = {name: SHARDS[i % 2] for i, name in enumerate(state)}
    for shard in SHARDS:
        tensors = {n: t for n, t in state.items() if index[n] == shard}
        safetensors.torch.save_file(tensors, path / shard)
    document = {"weight_map": index | where}
    (path / "model.safetensors.index.json").write_text(json.dumps(document))
    return path


def test_shards_are_put_together(tmp_path, state):
    model = reading.read(sharded(tmp_path / "m", state))
    assert same(model.weights, state)
    assert model.kind == "Hugging Face folder (safetensors)"


def test_the_digest_is_as_specified_and_tells_any_change_of_any_file(tmp_path, state):
    path = sharded(tmp_path / "m", state)
    names = sorted([*SHARDS, "config.json", "model.safetensors.index.json"])
    files = [[n, hashlib.sha256((path / n).read_bytes()).hexdigest()] for n in names]
    text = b"smdl-folder/1" + b"".join(json.dumps(f).encode() for f in files)
    digest = reading.read(path).sha256
    assert digest == hashlib.sha256(text).hexdigest()
    (path / "README.md").write_text("not read")
    assert reading.read(path).sha256 == digest
    (path / "config.json").write_text("{ }")
    assert reading.read(path).sha256 != digest


def test_one_file_is_enough_and_pytorch_files_are_read_too(tmp_path, state):
    for name, save in (
        ("model.safetensors", safetensors.torch.save_file),
        ("pytorch_model.bin", torch.save),
    ):
        path = tmp_path / name
        path.mkdir()
        (path / "config.json").write_text("{}")
        save(state, path / name)
        assert same(reading.read(path).weights, state)


def test_quantised_shards_find_their_scales_in_other_shards(tmp_path):
    numbers = torch.tensor([[1, 2], [3, 4]], dtype=torch.int8)
    state = {"a.weight": numbers, "a.weight_scale": torch.tensor([[2.0], [10.0]])}
    model = reading.read(sharded(tmp_path / "m", state))
    assert model.weights["a.weight"].tolist() == [[2, 4], [30, 40]]
    assert model.kind == "Hugging Face folder (safetensors (quantised))"


@pytest.mark.parametrize(
    "name", ["../secret", "/etc/passwd", "a/b", "..", ".hidden", "", "a\0b", "a\nb", 3, None]
)
def test_names_that_are_no_plain_names_are_refused(tmp_path, state, name):
    (tmp_path / "secret").write_bytes(b"x")
    with pytest.raises(SuspectFileError, match="plain names"):
        reading.read(sharded(tmp_path / "m", state, extra=name))


def test_links_in_a_folder_are_not_followed(tmp_path, state):
    path = sharded(tmp_path / "m", state)
    (path / SHARDS[0]).rename(tmp_path / "elsewhere")
    (path / SHARDS[0]).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(SuspectFileError, match="plain file"):
        reading.read(path)


def test_a_missing_shard_and_a_folder_of_something_else_are_refused(tmp_path, state):
    with pytest.raises(SuspectFileError, match="without absent"):
        reading.read(sharded(tmp_path / "m", state, extra="absent"))
    with pytest.raises(SuspectFileError, match=r"without config\.json"):
        reading.read(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(SuspectFileError, match=r"without model\.safetensors or pytorch_model\.bin"):
        reading.read(tmp_path)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"weight_map":{}}', '{"weight_map":[]}', "[" * 9999]
)
def test_a_damaged_index_is_refused(tmp_path, state, text):
    path = sharded(tmp_path / "m", state)
    (path / "model.safetensors.index.json").write_text(text)
    with pytest.raises(SuspectFileError):
        reading.read(path)


def test_a_tensor_in_two_files_is_refused(tmp_path, state):
    path = sharded(tmp_path / "m", state)
    safetensors.torch.save_file(state, path / SHARDS[0])
    with pytest.raises(SuspectFileError, match="in another file as well"):
        reading.read(path)
    torch.save(state, path / SHARDS[1])
    with pytest.raises(SuspectFileError, match="in two files"):
        reading.read(path)


def test_the_limit_is_that_of_all_files_together(tmp_path, state):
    path = sharded(tmp_path / "m", state)
    sizes = [(path / shard).stat().st_size for shard in SHARDS]
    with pytest.raises(SuspectFileError, match="bytes are examined"):
        reading.read(path, Limits(file_bytes=sum(sizes) - 1))
    assert same(reading.read(path, Limits(file_bytes=sum(sizes))).weights, state)
