"""The vault: base models come back as they were stored, or not at all."""

import base64
import shutil
import stat
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from smdl_flower import weights
from smdl_flower.errors import CapacityError, IntegrityError
from smdl_flower.fingerprint.codes import Code
from smdl_flower.fingerprint.keys import OwnerKey
from smdl_flower.fingerprint.layout import Layout
from smdl_flower.fingerprint.taught import Directions
from smdl_flower.models import ModelSpec
from smdl_flower.vault import BaseModel, Vault

SPEC = ModelSpec("cnn", channels=1, classes=10, image_size=28)
FILES = ("base.safetensors", "profile.safetensors", "model.json")


def example() -> BaseModel:
    rng = np.random.default_rng(1)
    base = {
        "b.weight": rng.standard_normal((60, 50), dtype=np.float32),
        "a.weight": rng.standard_normal((7, 8, 3), dtype=np.float32),
        "a.bias": rng.standard_normal(7, dtype=np.float32),
    }
    profile = rng.uniform(0.5, 2, Layout.of(base).size).astype(np.float32)
    return BaseModel(SPEC, base, profile, code=Code(32), strength=0.2)


@pytest.fixture(scope="session")
def stored(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    directory = tmp_path_factory.mktemp("vault") / "vault"
    model = example()
    return directory, model.model_id, Vault(directory).save(model)


@pytest.fixture
def vault(stored: tuple[Path, str, str], tmp_path: Path) -> tuple[Path, str, str]:
    """Directory, model id and manifest digest of a vault of a test's own."""
    directory, model_id, manifest = stored
    shutil.copytree(directory, tmp_path / "vault")
    return tmp_path / "vault", model_id, manifest


def test_a_base_model_comes_back_as_it_was(vault: tuple[Path, str, str]) -> None:
    directory, model_id, manifest = vault
    model, loaded = example(), Vault(directory).load(model_id, manifest)
    assert loaded.weights.keys() == model.weights.keys()
    for name, array in model.weights.items():
        assert loaded.weights[name].tobytes() == array.tobytes()
    assert loaded.profile.tobytes() == model.profile.tobytes()
    assert (loaded.spec, loaded.code, loaded.strength) == (SPEC, Code(32), 0.2)
    assert loaded.digest == model.digest
    assert loaded.model_id == model_id == model.digest[:16]


def test_files_are_private(vault: tuple[Path, str, str]) -> None:
    directory, model_id, _ = vault
    assert stat.S_IMODE((directory / model_id).stat().st_mode) == 0o700
    found = {
        path.name: stat.S_IMODE(path.stat().st_mode) for path in (directory / model_id).iterdir()
    }
    assert found == dict.fromkeys(FILES, 0o600)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("change", ["last bit", "first bit", "cut", "empty", "longer"])
def test_a_changed_file_is_noticed(vault: tuple[Path, str, str], name: str, change: str) -> None:
    directory, model_id, manifest = vault
    path = directory / model_id / name
    content = bytearray(path.read_bytes())
    match change:
        case "last bit":
            content[-2] ^= 1
        case "first bit":
            content[0] ^= 1
        case "cut":
            del content[-8:]
        case "empty":
            content.clear()
        case "longer":
            content += b" "
    path.write_bytes(content)
    with pytest.raises(IntegrityError, match="restore"):
        Vault(directory).load(model_id, manifest)


def test_a_missing_manifest_is_noticed(vault: tuple[Path, str, str]) -> None:
    directory, model_id, manifest = vault
    (directory / model_id / "model.json").unlink()
    with pytest.raises(IntegrityError, match="missing"):
        Vault(directory).load(model_id, manifest)


@pytest.mark.parametrize("name", ["base.safetensors", "profile.safetensors"])
def test_other_weights_in_a_valid_file_are_noticed(vault: tuple[Path, str, str], name: str) -> None:
    directory, model_id, manifest = vault
    path = directory / model_id / name
    changed = weights.read(path).weights
    changed["a.weight"][0, 0, 0] = np.nextafter(changed["a.weight"][0, 0, 0], np.float32(9))
    weights.write(path, changed, replace=True)
    with pytest.raises(IntegrityError, match="was changed"):
        Vault(directory).load(model_id, manifest)


def test_base_and_profile_cannot_be_exchanged(vault: tuple[Path, str, str]) -> None:
    directory, model_id, manifest = vault
    base, profile = (directory / model_id / name for name in FILES[:2])
    base.rename(directory / "other")
    profile.rename(base)
    (directory / "other").rename(profile)
    with pytest.raises(IntegrityError):
        Vault(directory).load(model_id, manifest)


def test_settings_that_differ_give_another_manifest(tmp_path: Path) -> None:
    model = example()
    changed = BaseModel(SPEC, model.weights, model.profile, code=Code(33), strength=0.2)
    first = Vault(tmp_path / "a").save(model)
    assert Vault(tmp_path / "b").save(model) == first
    assert Vault(tmp_path / "c").save(changed) != first


def test_another_model_under_its_name_is_noticed(vault: tuple[Path, str, str]) -> None:
    directory, model_id, manifest = vault
    model = example()
    model.weights["a.bias"] = model.weights["a.bias"] + 1
    other = Vault(directory).save(model)
    assert model.model_id != model_id
    with pytest.raises(IntegrityError):
        Vault(directory).load(model_id, other)
    with pytest.raises(IntegrityError):
        Vault(directory).load(model.model_id, manifest)


def test_the_key_follows_from_owner_and_weights_alone() -> None:
    model, owner = example(), OwnerKey(bytes(32))
    assert model.key(owner) == owner.campaign(model.digest)
    changed = {**model.weights, "a.bias": -model.weights["a.bias"]}
    other = BaseModel(SPEC, changed, model.profile, code=Code(32), strength=0.2)
    assert other.key(owner) != model.key(owner)


def test_a_mark_is_that_of_the_stored_settings() -> None:
    model = example()
    big = BaseModel(SPEC, model.weights, model.profile, code=Code(31), strength=0.2)
    mark = big.mark(OwnerKey(bytes(32)))
    assert (mark.spreading.length, mark.strength) == (31, 0.2)
    assert np.array_equal(mark.profile, model.profile)
    with pytest.raises(CapacityError, match="31 or less"):
        example().mark(OwnerKey(bytes(32)))


def test_a_base_model_is_shown_without_weights_and_profile() -> None:
    model = example()
    shown = f"{model} {model!r}"
    assert shown.count("BaseModel(spec=ModelSpec(") == 2
    for secret in (*model.weights.values(), model.profile):
        assert str(secret.ravel()[0]) not in shown
        assert base64.b64encode(secret.ravel()[:3].tobytes()).decode() not in shown
    assert "weights" not in shown


# ------------------------------------------------------------------------- models sent in training


def test_a_broadcast_model_comes_back_and_is_stored_once(tmp_path: Path) -> None:
    vault, model = Vault(tmp_path / "vault"), example().weights
    digest = vault.keep_broadcast(model)
    path = tmp_path / "vault" / "broadcasts" / f"{digest}.safetensors"
    before = path.stat()
    assert vault.keep_broadcast(model) == digest == weights.digest(vault.load_broadcast(digest))
    assert path.stat().st_mtime_ns == before.st_mtime_ns
    assert stat.S_IMODE(before.st_mode) == 0o600


def test_a_broadcast_model_that_is_missing_or_changed_is_noticed(tmp_path: Path) -> None:
    vault, model = Vault(tmp_path / "vault"), example().weights
    digest = vault.keep_broadcast(model)
    path = tmp_path / "vault" / "broadcasts" / f"{digest}.safetensors"
    weights.write(path, {k: v + 1 for k, v in model.items()}, replace=True)
    with pytest.raises(IntegrityError, match="was changed; restore it"):
        vault.load_broadcast(digest)
    path.unlink()
    with pytest.raises(IntegrityError, match="restore it from a backup"):
        vault.load_broadcast(digest)


def with_directions() -> BaseModel:
    basis = np.linalg.qr(np.random.default_rng(2).standard_normal((50, 3)))[0]
    return replace(example(), strength=1.0, taught=Directions("b.weight", basis.astype(np.float32)))


def test_where_copies_are_taught_comes_back_as_it_was(tmp_path: Path) -> None:
    model, vault = with_directions(), Vault(tmp_path / "vault")
    loaded = vault.load(model.model_id, vault.save(model))
    assert model.taught is not None
    assert loaded.taught is not None
    assert loaded.taught.name == "b.weight"
    assert loaded.taught.basis.tobytes() == model.taught.basis.tobytes()
    assert loaded.mark(OwnerKey(bytes(32))).taught is loaded.taught


@pytest.mark.parametrize("damage", ["other values", "missing"])
def test_other_directions_are_noticed(tmp_path: Path, damage: str) -> None:
    model, vault = with_directions(), Vault(tmp_path / "vault")
    manifest = vault.save(model)
    path = tmp_path / "vault" / model.model_id / "taught.safetensors"
    path.unlink()
    if damage == "other values":
        weights.write(path, {"b.weight": np.eye(50, 3, dtype=np.float32)})
    with pytest.raises(IntegrityError, match=r"taught\.safetensors"):
        vault.load(model.model_id, manifest)
