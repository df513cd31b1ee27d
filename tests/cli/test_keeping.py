"""``smdl backup``, ``restore`` and ``check``, as an owner says them."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from smdl_flower import keyfile
from smdl_flower.cli.main import app, run


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(keyfile, "SCRYPT_COST", 2**4)
    (tmp_path / "key-words").write_text("of the key\n")
    (tmp_path / "backup-words").write_text("of the backup\n")
    at = ["--home", str(tmp_path / "home"), "--passphrase-file", str(tmp_path / "key-words")]
    assert run(["init", *at]) == 0
    assert run(["customer", "add", "clinic-a", *at]) == 0
    return tmp_path / "home"


def test_a_home_is_backed_up_restored_and_checked(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = ["--passphrase-file", str(tmp_path / "key-words")]
    words = ["--backup-passphrase-file", str(tmp_path / "backup-words")]
    file = str(tmp_path / "home.backup")
    capsys.readouterr()
    assert run(["backup", "--home", str(home), "--out", file, *key, *words, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["format"] == "smdl-backup/1"
    assert document["entries"] == 2
    newest = ["--newest", document["newest_commitment"]]
    new = ["--home", str(tmp_path / "new")]
    assert run(["restore", file, *new, *key, *words, *newest, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["format"] == "smdl-check/1"
    assert (document["customers"], document["remarks"]) == (1, [])
    assert run(["check", *new, *key]) == 0
    assert "everything is as it was written" in capsys.readouterr().out
    assert run(["check", *new, *key, "--newest", "00" * 32]) == 4
    assert "older state" in capsys.readouterr().err
    assert run(["restore", file, *new, *key, *words]) == 2  # not empty
    assert run(["restore", file, "--home", str(tmp_path / "third"), *key, *words]) == 0
    assert "nothing can be recorded" in capsys.readouterr().out
    third = ["--home", str(tmp_path / "third"), *key]
    assert run(["customer", "add", "clinic-b", *third]) == 2
    assert "--newest" in capsys.readouterr().err


def test_passphrases_are_asked_for_and_not_shown(home: Path, tmp_path: Path) -> None:
    out, new = tmp_path / "b", tmp_path / "new"
    asked = CliRunner().invoke(
        app,
        ["backup", "--home", str(home), "--out", str(out)],
        input="of the key\nmemorised\nmemorised\n",
    )
    assert asked.exit_code == 0, asked.output
    assert "memorised" not in asked.output
    asked = CliRunner().invoke(
        app, ["restore", str(out), "--home", str(new)], input="memorised\nof the key\n"
    )
    assert asked.exit_code == 0, asked.output
    assert "of the key" not in asked.output


def test_what_is_no_backup_is_one_line(home: Path, tmp_path: Path, capsys) -> None:
    words = ["--backup-passphrase-file", str(tmp_path / "backup-words")]
    for content in (b"", b"PK\x03\x04", b"smdl-backup/1\n", b"smdl-backup/1\n" + bytes(40)):
        (tmp_path / "file").write_bytes(content)
        capsys.readouterr()
        code = run(["restore", str(tmp_path / "file"), "--home", str(tmp_path / "n"), *words])
        assert code in (2, 4)
        told = capsys.readouterr().err.strip()
        assert told.startswith("smdl: ")
        assert "\n" not in told
    missing = ["restore", str(tmp_path / "none"), "--home", str(tmp_path / "n"), *words]
    assert run(missing) == 2
    assert home.is_dir()
    assert not (tmp_path / "n").exists()
