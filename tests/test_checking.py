"""``smdl check``: whatever is missing or altered in a home is found, and nothing is written."""

from collections.abc import Callable
from pathlib import Path

import pytest

from smdl_flower import checking, commitments, keyfile
from smdl_flower.errors import IntegrityError
from smdl_flower.fingerprint.keys import OwnerKey
from smdl_flower.flower.marking import OwnerMarker
from smdl_flower.home import OwnerHome
from smdl_flower.models import ModelSpec
from smdl_flower.weights import Weights


@pytest.fixture
def home(home_copy: OwnerHome, spec: ModelSpec, base: Weights) -> OwnerHome:
    OwnerMarker(home_copy, spec, "run", 0.1).open(1, base, [4])
    return home_copy


def contents(home: OwnerHome) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in home.path.rglob("*") if path.is_file()}


def test_a_whole_home_is_counted_and_not_written_to(home: OwnerHome) -> None:
    before = contents(home)
    published = commitments.of_home(home)[-1].digest
    for newest in (None, published, published.upper()):
        found = checking.check(home, newest)
        assert (found.keys, found.customers, found.copies, found.broadcasts) == (1, 8, 8, 1)
        assert found.newest_commitment == published
        assert found.remarks == ()
    assert contents(home) == before


def _flip(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


@pytest.mark.parametrize("change", [_flip, Path.unlink], ids=["changed", "missing"])
@pytest.mark.parametrize(
    "name",
    [
        "vault/*/base.safetensors",
        "vault/*/profile.safetensors",
        "vault/*/model.json",
        "vault/broadcasts/*.safetensors",
        "commitments/000001.json",
        "commitments/000002.json",
        "registry.head",
    ],
)
def test_a_file_that_is_missing_or_changed_is_found(
    home: OwnerHome, name: str, change: Callable[[Path], None]
) -> None:
    (path,) = [p for p in home.path.glob(name) if "broadcasts" in name or p.is_file()]
    change(path)
    with pytest.raises(IntegrityError):
        checking.check(OwnerHome.open(home.path))


def test_a_base_model_that_is_put_under_another_key_is_found(
    home: OwnerHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if the registry said so; with that key no copy of it would be traced."""
    keyfile.replace(home.path / "master.key", [home.key, OwnerKey(bytes(32))], None)
    left = OwnerHome.open(home.path)
    assert checking.check(left).models == 1
    monkeypatch.setattr(type(left.registry), "key_of", lambda *_: 1)
    with pytest.raises(IntegrityError, match="another key was committed to"):
        checking.check(left)


def test_what_the_owner_should_see_to_is_said(home: OwnerHome) -> None:
    (home.path / "home.json").chmod(0o640)
    keyfile.replace(home.path / "master.key", [home.key, OwnerKey(bytes(32))], None)
    interrupted, exposed = checking.check(OwnerHome.open(home.path)).remarks
    assert "smdl key rotate" in interrupted
    assert f"others can read {home.path / 'home.json'}; say" in exposed
    (home.path / "registry.db").chmod(0o644)
    assert "and 1 more" in checking.check(OwnerHome.open(home.path)).remarks[-1]
