"""``smdl key``: what an owner says, and what is told."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from smdl_flower import keyfile
from smdl_flower.cli.main import app, run
from smdl_flower.home import OwnerHome


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(keyfile, "SCRYPT_COST", 2**4)
    assert run(["init", "--home", str(tmp_path / "home")]) == 0
    return tmp_path / "home"


def secret_file(path: Path, words: str) -> str:
    path.write_text(words + "\n")
    return str(path)


def test_a_passphrase_is_set_by_file_and_typed_twice(home: Path, tmp_path: Path) -> None:
    first = secret_file(tmp_path / "first", "one passphrase")
    at = ["key", "passphrase", "--home", str(home)]
    assert run([*at, "--new-passphrase-file", first]) == 0
    assert len(OwnerHome.open(home, "one passphrase").keys) == 1
    typed = CliRunner().invoke(app, [*at, "--passphrase-file", first], input="two\ntwo\n")
    assert typed.exit_code == 0, typed.output
    assert "two" not in typed.output
    assert len(OwnerHome.open(home, "two").keys) == 1
    assert run([*at, "--passphrase-file", first, "--remove"]) == 2  # the old one
    second = secret_file(tmp_path / "second", "two")
    assert run([*at, "--passphrase-file", second, "--remove"]) == 0
    assert len(OwnerHome.open(home).keys) == 1
    assert run([*at, "--remove", "--new-passphrase-file", second]) == 2


def test_a_rotation_tells_what_to_publish_and_no_secret(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert run(["key", "rotate", "--home", str(home), "--json"]) == 0
    told = capsys.readouterr().out
    document = json.loads(told)
    opened = OwnerHome.open(home)
    assert document["format"] == "smdl-rotation/1"
    assert document["keys"] == 2
    assert document["signing_key"] == opened.key.signing_key().public
    assert document["key_commitment"] == opened.key.commitment()
    assert document["commitment_sha256"] == opened.registry.commitments()[-1]
    assert not any(key.secret.hex() in told for key in opened.keys)
    assert run(["commitments", "--home", str(home), "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [row["about"] for row in listed["commitments"]] == ["owner", "new key"]
    assert listed["signing_key"] == document["signing_key"]
    assert run(["commitments", "--home", str(home)]) == 0
    shown = capsys.readouterr().out
    assert f"to publish: {document['commitment_sha256']}" in shown.splitlines()[-3]
    assert run(["key", "rotate", "--home", str(home)]) == 0
    assert "3 master keys" in capsys.readouterr().out


def test_where_there_is_no_home_nothing_is_made(tmp_path: Path) -> None:
    for command in (["passphrase", "--remove"], ["rotate"]):
        assert run(["key", *command, "--home", str(tmp_path / "none")]) == 2
    assert not (tmp_path / "none").exists()
