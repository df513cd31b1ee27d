"""A federation's folder: whole or not at all, private, and each key in one place only."""

import json
import subprocess
from pathlib import Path

import pytest

from smdl_flower.deployment import checking, folders, running, scripts
from smdl_flower.deployment.folders import Federation
from smdl_flower.errors import ConfigError, MissingFileError, OutputExistsError

NAMES = ("clinic-a", "clinic-b", "bank-c")


@pytest.fixture
def federation(tmp_path: Path) -> Federation:
    return folders.create(tmp_path / "federation", "flower.example.org", NAMES, port=8443)


def private_keys(folder: Path) -> dict[bytes, set[str]]:
    """Where each private key lies: content -> relative paths."""
    found: dict[bytes, set[str]] = {}
    for path in folder.rglob("*"):
        if path.is_file() and b"PRIVATE KEY" in path.read_bytes():
            found.setdefault(path.read_bytes(), set()).add(str(path.relative_to(folder)))
    return found


def test_every_private_key_lies_in_one_place(federation: Federation) -> None:
    places = private_keys(federation.folder).values()
    expected = {"owner/ca.key", "owner/server.key"}
    expected |= {f"participants/{name}/node.key" for name in NAMES}
    assert all(len(place) == 1 for place in places)
    assert set().union(*places) == expected


def test_a_participant_gets_its_key_the_authoritys_certificate_and_how_to_start(
    federation: Federation,
) -> None:
    for number, name in enumerate(NAMES):
        place = federation.of(name)
        names = {path.name for path in place.iterdir()}
        assert names == {"node.key", "ca.crt", "start.sh", "README.md"}
        script = (place / "start.sh").read_text()
        assert '--superlink "flower.example.org:8443"' in script
        assert f"partition-id={number} num-partitions=3" in script
        assert name in (place / "README.md").read_text()


def test_nothing_is_open_to_others(federation: Federation) -> None:
    for path in (federation.folder, *federation.folder.rglob("*")):
        assert path.stat().st_mode & 0o077 == 0, path


@pytest.mark.parametrize("script", ["owner/start.sh", "participants/clinic-a/start.sh"])
def test_scripts_are_valid_shell(federation: Federation, script: str) -> None:
    path = federation.folder / script
    assert path.stat().st_mode & 0o700 == 0o700
    subprocess.run(["sh", "-n", path], check=True)


def test_a_participant_who_names_no_images_is_told_how(federation: Federation) -> None:
    done = subprocess.run(
        ["sh", federation.of("clinic-a") / "start.sh"],
        check=False,
        capture_output=True,
        text=True,
        env={"PATH": "/usr/bin:/bin"},
    )
    assert done.returncode != 0
    assert "SMDL_DATA_DIR=/path ./start.sh" in done.stderr


def test_it_is_read_back_as_it_was_made(federation: Federation) -> None:
    assert folders.load(federation.folder) == federation
    assert federation.address == "flower.example.org:8443"
    assert federation.participants == NAMES


def test_an_ip6_address_is_bracketed(tmp_path: Path) -> None:
    federation = folders.create(tmp_path / "f", "2001:db8::7", ["a"], port=8000)
    assert federation.address == "[2001:db8::7]:8000"


@pytest.mark.parametrize(
    ("names", "server"),
    [
        ([], "a.org"),
        (["clinic", "Clinic"], "a.org"),
        (["../clinic"], "a.org"),
        (["a'; rm -rf /"], "a.org"),
        (["clinic"], "a.org:80"),
        (["clinic"], '"; reboot'),
    ],
)
def test_unfit_names_are_refused_and_nothing_is_left(
    tmp_path: Path, names: list[str], server: str
) -> None:
    with pytest.raises(ConfigError):
        folders.create(tmp_path / "f", server, names, port=8000)
    assert list(tmp_path.iterdir()) == []


def test_an_interruption_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(scripts, "participant_readme", interrupted)
    with pytest.raises(KeyboardInterrupt):
        folders.create(tmp_path / "f", "a.org", NAMES, port=8000)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_left_as_it_is(federation: Federation) -> None:
    before = private_keys(federation.folder)
    with pytest.raises(OutputExistsError):
        folders.create(federation.folder, "other.org", ["x"], port=1)
    assert private_keys(federation.folder) == before


@pytest.mark.parametrize(
    "change",
    [
        {"format": "smdl-federation/2"},
        {"port": 0},
        {"port": "8000"},
        {"server": "$(reboot)"},
        {"participants": ["../../etc"]},
        {"participants": 3},
    ],
)
def test_a_description_that_was_changed_is_refused(
    federation: Federation, change: dict[str, object]
) -> None:
    path = federation.folder / "federation.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ConfigError, match="restore it"):
        folders.load(federation.folder)


@pytest.mark.parametrize("content", [b"", b"[", b"[]", b"\xff", b"[" * 100_000])
def test_a_description_that_is_none_is_refused(federation: Federation, content: bytes) -> None:
    (federation.folder / "federation.json").write_bytes(content)
    with pytest.raises(ConfigError):
        folders.load(federation.folder)


def test_a_folder_without_federation_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="smdl deploy init"):
        folders.load(tmp_path)


def test_clean_removes_flowers_state_and_nothing_else(federation: Federation) -> None:
    assert not running.clean(federation)
    (federation.state / "flower").mkdir(parents=True)
    (federation.state / "superlink.db").write_bytes(b"models")
    assert running.clean(federation)
    assert not federation.state.exists()
    assert checking.problems(federation) == []
