"""Suspects as they come: a leaked copy in another format is traced, a crafted file is refused."""

import hashlib
import json
import os
import zipfile
from pathlib import Path

import pytest
import safetensors.torch
import torch

pytestmark = pytest.mark.e2e


@pytest.fixture
def pruned(journey, smdl, tmp_path) -> dict[str, torch.Tensor]:
    """A customer's copy, half of it pruned, as a thief has it in memory."""
    path = tmp_path / "pruned.safetensors"
    assert (
        smdl("attack", "prune", journey.copy(2), "--set", "fraction=0.5", "--out", path).code == 0
    )
    return safetensors.torch.load_file(path)


def save_checkpoint(state, path):
    wrapped = {f"module.{name}": tensor.half() for name, tensor in state.items()}
    torch.save({"state_dict": wrapped, "epoch": 3}, path)


def save_folder(state, path):
    path.mkdir()
    (path / "config.json").write_text("{}")
    safetensors.torch.save_file(state, path / "model.safetensors")


@pytest.mark.parametrize(
    ("save", "kind"),
    [(save_checkpoint, "PyTorch"), (save_folder, "Hugging Face folder (safetensors)")],
)
def test_a_pruned_copy_in_another_format_is_traced(save, kind, pruned, journey, smdl, tmp_path):
    save(pruned, tmp_path / "leak")
    evidence = tmp_path / "evidence"
    outcome = smdl(
        "verify", tmp_path / "leak", "--home", journey.home, "--json", "--report", evidence
    )
    assert outcome.code == 0
    assert [a["customer"] for a in outcome.document["accused"]] == ["customer-02"]
    assert outcome.document["suspect"]["kind"] == kind
    assert kind in (evidence / "report.html").read_text()
    if (tmp_path / "leak").is_file():
        digest = hashlib.sha256((tmp_path / "leak").read_bytes()).hexdigest()
        assert outcome.document["suspect"]["sha256"] == digest


class Bomb:
    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self):
        return os.system, (f"touch {self.canary}",)


def test_a_bomb_beside_the_weights_is_told_and_not_run(pruned, journey, smdl, tmp_path):
    torch.save({"model": pruned, "callback": Bomb(tmp_path / "canary")}, tmp_path / "leak.pt")
    outcome = smdl("verify", tmp_path / "leak.pt", "--home", journey.home, "--json")
    assert outcome.code == 0
    assert any("'posix.system'" in remark for remark in outcome.document["remarks"])
    assert not (tmp_path / "canary").exists()


def crafted(place: Path) -> dict[str, bytes]:
    torch.save(Bomb(place / "canary"), place / "bomb")
    bomb = (place / "bomb").read_bytes()
    torch.save({"w": torch.zeros(1).as_strided((10**6, 10**6), (0, 0))}, place / "strides")
    with zipfile.ZipFile(place / "zip", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a/data.pkl", bytes(32 << 20))
    config = {"config": {"w": {"path_name": "weight_0", "use_pickle": True, "tensor_meta": {}}}}
    with zipfile.ZipFile(place / "pt2", "w") as file:
        file.writestr("a/data/weights/model_weights_config.json", json.dumps(config))
        file.writestr("a/data/weights/weight_0", bomb)
    files = {name: (place / name).read_bytes() for name in ("bomb", "strides", "zip", "pt2")}
    return files | {"cut": bomb[:-9]}


def test_crafted_files_end_in_exit_3_and_one_line(journey, smdl, tmp_path):
    for name, content in crafted(tmp_path).items():
        path = tmp_path / f"suspect-{name}"
        path.write_bytes(content)
        outcome = smdl("verify", path, "--home", journey.home)
        assert outcome.code == 3, name
        assert outcome.out == ""
        assert outcome.err.startswith("smdl: "), name
        assert outcome.err.strip().count("\n") == 0, name
    assert not (tmp_path / "canary").exists()
    torch.load(tmp_path / "bomb", weights_only=False)  # noqa: TID251 - the control
    assert (tmp_path / "canary").exists()
