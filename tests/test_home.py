"""The owner's home: private, created once, and opened only whole."""

import base64
import json
import stat
from pathlib import Path

import pytest

from smdl_flower import files, keyfile
from smdl_flower.errors import ConfigError, HomeError, IntegrityError, SmdlError
from smdl_flower.home import OwnerHome

WORDS = "a long passphrase"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def home(tmp_path: Path) -> OwnerHome:
    return OwnerHome.create(tmp_path / "home")


def test_a_new_home_can_be_entered_and_read_by_its_owner_only(home: OwnerHome) -> None:
    assert mode(home.path) == 0o700
    home.registry.add_customers(["clinic-a"])
    modes = {path.name: mode(path) for path in home.path.iterdir()}
    assert modes == dict.fromkeys(
        ("master.key", "home.json", "registry.db", "registry.head"), 0o600
    )


def test_an_existing_empty_directory_is_made_private(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir(mode=0o755)
    OwnerHome.create(tmp_path / "home")
    assert mode(tmp_path / "home") == 0o700


def test_a_reopened_home_has_the_same_key_and_customers(home: OwnerHome) -> None:
    home.registry.add_customers(["clinic-a", "bank-b"])
    again = OwnerHome.open(home.path)
    assert again.key == home.key
    assert again.registry.customers() == ("clinic-a", "bank-b")
    assert again.base_models() == []


def test_two_homes_have_different_keys(home: OwnerHome, tmp_path: Path) -> None:
    assert OwnerHome.create(tmp_path / "other").key != home.key


def test_a_home_can_be_moved(home: OwnerHome, tmp_path: Path) -> None:
    home.registry.add_customers(["clinic-a"])
    home.path.rename(tmp_path / "moved")
    assert OwnerHome.open(tmp_path / "moved").registry.customers() == ("clinic-a",)


@pytest.mark.parametrize("obstacle", ["a file in it", "a home", "a file"])
def test_a_place_that_is_not_empty_is_refused_and_left_as_it_was(
    tmp_path: Path, obstacle: str
) -> None:
    path = tmp_path / "home"
    match obstacle:
        case "a file in it":
            path.mkdir(mode=0o755)
            path.chmod(0o755)
            (path / ".keep").write_bytes(b"precious")
        case "a home":
            OwnerHome.create(path)
        case _:
            path.write_bytes(b"precious")
    before = (mode(path), {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()})
    with pytest.raises(HomeError, match="nothing was changed"):
        OwnerHome.create(path)
    assert before == (mode(path), {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()})


def test_an_unusable_registry_is_refused_and_the_home_can_be_created_afterwards(
    tmp_path: Path,
) -> None:
    for url in ("nonsense://x", f"sqlite:///{tmp_path}/no/such/folder/registry.db"):
        with pytest.raises(ConfigError):
            OwnerHome.create(tmp_path / "home", registry_url=url)
        assert not list((tmp_path / "home").iterdir())  # above all no key
    OwnerHome.create(tmp_path / "home")


def test_the_registry_may_live_in_another_database(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/elsewhere.db"
    OwnerHome.create(tmp_path / "home", registry_url=url).registry.add_customers(["clinic-a"])
    assert not (tmp_path / "home" / "registry.db").exists()
    assert OwnerHome.open(tmp_path / "home").registry.customers() == ("clinic-a",)


@pytest.mark.parametrize("exists", [False, True])
def test_opening_what_is_no_home_says_how_to_create_one(tmp_path: Path, exists: bool) -> None:
    path = tmp_path / "home"
    if exists:
        path.mkdir()
    with pytest.raises(HomeError, match=f"smdl init --home {path}"):
        OwnerHome.open(path)
    with pytest.raises(HomeError):
        OwnerHome.require(path)
    assert path.exists() == exists


def test_an_encrypted_home_opens_with_its_passphrase_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keyfile, "SCRYPT_COST", 2**4)
    home = OwnerHome.create(tmp_path / "home", passphrase=WORDS)
    assert OwnerHome.open(home.path, WORDS).key == home.key
    with pytest.raises(HomeError, match="wrong passphrase"):
        OwnerHome.open(home.path, "another")
    with pytest.raises(HomeError, match="passphrase"):
        OwnerHome.open(home.path)
    for path in home.path.iterdir():
        content = path.read_bytes()
        assert home.key.secret not in content
        assert base64.b64encode(home.key.secret) not in content


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[]", b"null", b'{"format": "smdl-home/2", "registry_url": null}']
)
def test_a_damaged_home_file_is_noticed(home: OwnerHome, content: bytes) -> None:
    files.write(home.path / "home.json", content)
    with pytest.raises(IntegrityError, match=r"home\.json"):
        OwnerHome.open(home.path)


@pytest.mark.parametrize("name", ["home.json", "registry.head", "registry.db"])
def test_a_missing_file_is_noticed_before_any_customer_is_told(home: OwnerHome, name: str) -> None:
    home.registry.add_customers(["clinic-a"])
    (home.path / name).unlink()
    with pytest.raises(IntegrityError):
        OwnerHome.open(home.path).registry.customers()


def test_another_owners_key_file_does_not_open_the_registry(
    home: OwnerHome, tmp_path: Path
) -> None:
    home.registry.add_customers(["clinic-a"])
    other = OwnerHome.create(tmp_path / "other")
    (other.path / "master.key").replace(home.path / "master.key")
    with pytest.raises(IntegrityError):
        OwnerHome.open(home.path).registry.customers()


def test_the_base_models_are_those_of_the_registry(home_copy: OwnerHome) -> None:
    models = home_copy.base_models()
    assert [model.model_id for model in models] == list(home_copy.registry.models())
    assert len(models) == 1
    folder = home_copy.path / "vault" / models[0].model_id
    (folder / "base.safetensors").write_bytes(b"")
    with pytest.raises(SmdlError) as refusal:
        home_copy.base_models()
    assert refusal.value.exit_code == 4


def test_a_home_is_shown_without_its_key(home: OwnerHome) -> None:
    shown = f"{home} {home!r}"
    secret = home.key.secret
    for form in (secret.hex(), repr(secret), repr(secret)[2:-1], base64.b64encode(secret).decode()):
        assert form not in shown
    assert "OwnerKey()" in shown


def test_the_home_file_names_format_and_registry(home: OwnerHome) -> None:
    document = json.loads((home.path / "home.json").read_bytes())
    assert document == {"format": "smdl-home/2", "registry_url": None, "tracing_only": ""}


def test_what_an_interrupted_creation_left_is_replaced(tmp_path: Path) -> None:
    left = OwnerHome.create(tmp_path / "home")
    (left.path / "master.key").rename(left.path / "unfinished.key")
    (left.path / ".home.json.0a1b2c.tmp").write_bytes(b"{")
    assert not OwnerHome.create(tmp_path / "home").registry.customers()
    assert OwnerHome.open(tmp_path / "home").key != left.key
    assert not (tmp_path / "home" / "unfinished.key").exists()


def test_a_home_whose_key_was_taken_elsewhere_is_not_replaced(tmp_path: Path) -> None:
    home = OwnerHome.create(tmp_path / "home")
    (home.path / "master.key").rename(tmp_path / "safe.key")
    with pytest.raises(HomeError, match="nothing was changed"):
        OwnerHome.create(tmp_path / "home")
    (tmp_path / "safe.key").rename(home.path / "master.key")
    assert OwnerHome.open(home.path).key == home.key
