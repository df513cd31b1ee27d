"""torch.export archives: weights as the JSON lists them; a crafted one is refused, not executed."""

import contextlib
import json
import os
import pickle  # noqa: TID251 - to make a hostile file
import zipfile
from pathlib import Path

import pytest
import torch

from smdl_flower.errors import SuspectFileError
from tests.suspects.conftest import read, rezipped, same

CONFIG = "model_weights_config.json"


@pytest.fixture(scope="module")
def archive(net, tmp_path_factory):
    path = tmp_path_factory.mktemp("export") / "model.pt2"
    torch.export.save(torch.export.export(net, (torch.zeros(1, 1, 8, 8),)), path)
    return path


def config_of(path: Path):
    with zipfile.ZipFile(path) as file:
        name = next(n for n in file.namelist() if n.endswith(CONFIG))
        return json.loads(file.read(name))


def test_an_exported_program_is_read(archive, state):
    converted = read(archive.read_bytes())
    assert same(converted.weights, state)
    assert converted.kind == "torch.export"


def test_buffers_that_are_no_parameters_are_read(tmp_path):
    class Scaled(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.randn(3, 3))
            self.kept: torch.Tensor
            self.left: torch.Tensor
            self.register_buffer("kept", torch.randn(3))
            self.register_buffer("left", torch.randn(3), persistent=False)

        def forward(self, x):
            return x @ self.weight * self.kept + self.left

    module = Scaled()
    torch.export.save(torch.export.export(module, (torch.zeros(1, 3),)), tmp_path / "m.pt2")
    expected = {"weight": module.weight.detach(), "kept": module.kept, "left": module.left}
    assert same(read((tmp_path / "m.pt2").read_bytes()).weights, expected)


class Bomb:
    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self):
        return os.system, (f"touch {self.canary}",)


def test_pickled_weights_are_refused_and_not_executed(archive, tmp_path):
    canary = tmp_path / "canary"
    config = config_of(archive)
    first = next(iter(config["config"].values()))
    first["use_pickle"] = True
    torch.save(Bomb(canary), tmp_path / "bomb")
    entries = {
        CONFIG: json.dumps(config).encode(),
        first["path_name"]: (tmp_path / "bomb").read_bytes(),
    }
    content = rezipped(archive.read_bytes(), tmp_path / "z", entries, zipfile.ZIP_STORED)
    with pytest.raises(SuspectFileError, match="is pickled, which torch"):
        read(content)
    assert not canary.exists()
    (tmp_path / "crafted.pt2").write_bytes(content)
    with contextlib.suppress(Exception):  # the control: it ends in an error, too late
        torch.export.load(tmp_path / "crafted.pt2")  # noqa: TID251
    assert canary.exists()


def change(archive: Path, tmp_path: Path, **changes) -> bytes:
    config = config_of(archive)
    entry = next(iter(config["config"].values()))
    for key, value in changes.items():
        target = entry if key in entry else entry["tensor_meta"]
        target[key] = value
    return rezipped(archive.read_bytes(), tmp_path / "z", {CONFIG: json.dumps(config).encode()})


@pytest.mark.parametrize(
    "changes",
    [
        {"sizes": [{"as_int": 2**40}], "strides": [{"as_int": 0}]},
        {"sizes": [{"as_int": "4"}]},
        {"sizes": [4]},
        {"sizes": None},
        {"strides": [{"as_int": 1}]},
        {"storage_offset": {"as_int": 10**6}},
        {"storage_offset": None},
        {"dtype": 99},
        {"dtype": None},
        {"layout": 2},
        {"path_name": "../../../etc/passwd"},
        {"path_name": None},
        {"use_pickle": None},
    ],
)
def test_lists_that_lie_are_refused(archive, tmp_path, changes):
    with pytest.raises(SuspectFileError):
        read(change(archive, tmp_path, **changes))


@pytest.mark.parametrize(
    "text", [b"", b"[]", b"{}", b'{"config":[]}', b'{"config":{"w":1}}', b"[" * 9999]
)
def test_a_damaged_list_is_refused(archive, tmp_path, text):
    with pytest.raises(SuspectFileError):
        read(rezipped(archive.read_bytes(), tmp_path / "z", {CONFIG: text}))


def test_programs_exported_before_2_8_are_read(saved, state, tmp_path):
    with zipfile.ZipFile(tmp_path / "old.pt2", "w") as file:
        file.writestr("version", "2.6")
        file.writestr("serialized_exported_program.json", "{}")
        file.writestr("serialized_state_dict.pt", saved(state))
    converted = read((tmp_path / "old.pt2").read_bytes())
    assert same(converted.weights, state)
    assert converted.kind == "torch.export before 2.8"
    with zipfile.ZipFile(tmp_path / "bad.pt2", "w") as file:
        file.writestr("serialized_state_dict.pt", pickle.dumps(1))
    with pytest.raises(SuspectFileError):
        read((tmp_path / "bad.pt2").read_bytes())
