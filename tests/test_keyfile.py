"""The master key at rest: private, encrypted if asked, and opened only whole and unchanged."""

import base64
import json
import stat
from pathlib import Path

import pytest

from smdl_flower import files, keyfile
from smdl_flower.errors import HomeError, IntegrityError, OutputExistsError
from smdl_flower.fingerprint.keys import OwnerKey

KEY = OwnerKey(bytes(range(200, 232)))
WORDS = "correct horse, batterie Müller"

# Written by version 0.1.0; every later version must open them.
GOLDEN_PLAIN = {
    "format": "smdl-key/1",
    "key": "yMnKy8zNzs/Q0dLT1NXW19jZ2tvc3d7f4OHi4+Tl5uc=",
}
GOLDEN_SEALED = {
    "format": "smdl-key/1",
    "salt": "ZJvLzDhS4u4OdKiqxiCvpQ==",
    "nonce": "anXZ6ExFK6g/L0we",
    "sealed": "IjIOtmeEwGr6UTCEUNTrDNKyNflL4yk6Y1Pr32khRwH7Ym+vDZ3QrxnblW+zBkK2",
}

# Two keys, as the version after 0.1.0 writes them.
SECOND = OwnerKey(bytes(range(100, 132)))
GOLDEN_RING = {
    "format": "smdl-key/2",
    "key": "yMnKy8zNzs/Q0dLT1NXW19jZ2tvc3d7f4OHi4+Tl5udkZWZnaGlqa2xtbm9wcXJzdHV2d3h5ent8fX5/"
    "gIGCgw==",
}
GOLDEN_SEALED_RING = {
    "format": "smdl-key/2",
    "salt": "ajaqHhjVRLYGTcQ0XeIkQw==",
    "nonce": "EXhYUkyl2xUKT9JE",
    "sealed": "HdoTKzjPgheS+xjSsXQ/vruairxRdwm7zT6mLqZ5Cxs3oxuypeJnNSFT8rk4W9uMiIOvQq02X2Fw501+"
    "CghSE9WQBn5Nsd1HYZV0oSpDZXc=",
}


@pytest.fixture
def _cheap_scrypt(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real cost is 0.3 s a call; the golden files are opened at that cost."""
    monkeypatch.setattr(keyfile, "SCRYPT_COST", 2**4)


@pytest.fixture
def sealed(tmp_path: Path, _cheap_scrypt: None) -> Path:
    path = tmp_path / "master.key"
    keyfile.save(path, [KEY], WORDS)
    return path


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    path = tmp_path / "master.key"
    keyfile.save(path, [KEY], None)
    return path


def forms_of_the_secret() -> list[bytes]:
    secret = KEY.secret
    return [secret, secret.hex().encode(), base64.b64encode(secret), secret[::-1], secret[4:20]]


def test_a_plain_key_file_is_private_and_opens_without_passphrase(plain: Path) -> None:
    assert stat.S_IMODE(plain.stat().st_mode) == 0o600
    assert keyfile.load(plain, None) == (KEY,)
    assert not keyfile.is_encrypted(plain)


def test_an_encrypted_key_file_is_private_and_opens_with_its_passphrase_only(sealed: Path) -> None:
    assert stat.S_IMODE(sealed.stat().st_mode) == 0o600
    assert keyfile.is_encrypted(sealed)
    assert keyfile.load(sealed, WORDS) == (KEY,)
    with pytest.raises(HomeError, match="wrong passphrase"):
        keyfile.load(sealed, WORDS.upper())
    with pytest.raises(HomeError, match="wrong passphrase"):
        keyfile.load(sealed, "")
    with pytest.raises(HomeError, match="--passphrase-file"):
        keyfile.load(sealed, None)


def test_an_encrypted_file_does_not_hold_the_secret_and_differs_each_time(
    sealed: Path, tmp_path: Path
) -> None:
    content = sealed.read_bytes()
    assert not any(form in content for form in forms_of_the_secret())
    keyfile.save(tmp_path / "again.key", [KEY], WORDS)
    first, again = json.loads(content), json.loads((tmp_path / "again.key").read_bytes())
    assert {first[k] for k in ("salt", "nonce", "sealed")}.isdisjoint(again.values())


@pytest.mark.parametrize("passphrase", [None, "another"])
def test_a_key_file_is_never_overwritten(plain: Path, passphrase: str | None) -> None:
    with pytest.raises(OutputExistsError):
        keyfile.save(plain, [OwnerKey(bytes(32))], passphrase)
    assert keyfile.load(plain, None) == (KEY,)
    assert [entry.name for entry in plain.parent.iterdir()] == ["master.key"]


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660, 0o601])
def test_a_key_file_that_others_can_reach_is_refused(plain: Path, mode: int) -> None:
    plain.chmod(mode)
    for opening in (lambda: keyfile.load(plain, None), lambda: keyfile.is_encrypted(plain)):
        with pytest.raises(HomeError, match=f"chmod 600 {plain}"):
            opening()


def test_a_missing_key_file_is_reported_as_such(tmp_path: Path) -> None:
    with pytest.raises(HomeError, match="No such file"):
        keyfile.load(tmp_path / "master.key", None)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00\xff\xfe garbage",
        b"null",
        b"[]",
        b'"smdl-key/1"',
        b"{}",
        b'{"format": "smdl-key/2", "key": "AAAA"}',
        b'{"format": "smdl-key/1"}',
        b'{"format": "smdl-key/1", "key": 7}',
        b'{"format": "smdl-key/1", "key": null}',
        b'{"format": "smdl-key/1", "key": "not base64!"}',
        b'{"format": "smdl-key/1", "key": "AAAA"}',
        b'{"format": "smdl-key/1", "key": "\xc3\xa4"}',
        b'{"format": "smdl-key/1", "salt": "AAAA", "nonce": "AAAA", "sealed": "AAAA"}',
        b'{"format": "smdl-key/1", "salt": "AAAA"}',
        json.dumps({**GOLDEN_PLAIN, "padding": "x" * 5000}).encode(),
    ],
)
def test_garbage_is_an_integrity_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "master.key"
    files.write(path, content)
    with pytest.raises(IntegrityError, match="backup"):
        keyfile.load(path, WORDS)


def test_a_key_file_cut_short_anywhere_is_an_integrity_error(plain: Path) -> None:
    content = plain.read_bytes()
    for size in range(len(content)):
        files.write(plain, content[:size])
        with pytest.raises(IntegrityError):
            keyfile.load(plain, None)


@pytest.mark.parametrize("part", ["salt", "nonce", "sealed"])
def test_a_changed_encrypted_file_does_not_open(sealed: Path, part: str) -> None:
    document = json.loads(sealed.read_bytes())
    raw = bytearray(base64.b64decode(document[part]))
    raw[-1] ^= 1
    files.write_json(sealed, {**document, part: base64.b64encode(raw).decode()})
    with pytest.raises(HomeError, match="damaged"):
        keyfile.load(sealed, WORDS)


def test_the_format_is_part_of_what_is_authenticated(
    sealed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = json.loads(sealed.read_bytes())
    files.write_json(sealed, {**document, "format": "smdl-key/2"})
    monkeypatch.setattr(keyfile, "FORMAT", "smdl-key/2")
    with pytest.raises(HomeError, match="damaged"):
        keyfile.load(sealed, WORDS)


def test_no_error_shows_secret_or_passphrase(sealed: Path) -> None:
    with pytest.raises(HomeError) as refusal:
        keyfile.load(sealed, "a wrong guess")
    assert "guess" not in str(refusal.value)
    assert refusal.value.__cause__ is None
    files.write_json(sealed, {**GOLDEN_PLAIN, "key": GOLDEN_PLAIN["key"][:-4]})
    with pytest.raises(IntegrityError) as damage:
        keyfile.load(sealed, None)
    assert GOLDEN_PLAIN["key"][:10] not in str(damage.value)


@pytest.mark.parametrize(("document", "passphrase"), [(GOLDEN_PLAIN, None), (GOLDEN_SEALED, WORDS)])
def test_released_key_files_open_forever(
    tmp_path: Path, document: dict[str, str], passphrase: str | None
) -> None:
    files.write_json(tmp_path / "master.key", document)
    assert keyfile.load(tmp_path / "master.key", passphrase) == (KEY,)


@pytest.mark.parametrize(
    ("document", "passphrase"), [(GOLDEN_RING, None), (GOLDEN_SEALED_RING, WORDS)]
)
def test_files_of_several_keys_open_forever(
    tmp_path: Path, document: dict[str, str], passphrase: str | None
) -> None:
    files.write_json(tmp_path / "master.key", document)
    assert keyfile.load(tmp_path / "master.key", passphrase) == (KEY, SECOND)


@pytest.mark.parametrize("document", [GOLDEN_RING, GOLDEN_SEALED_RING])
def test_several_keys_do_not_pass_for_one_or_for_a_part(
    tmp_path: Path, document: dict[str, str]
) -> None:
    """Nor one for several: the format says which, and is authenticated."""
    path = tmp_path / "master.key"
    files.write_json(path, {**document, "format": "smdl-key/1"})
    with pytest.raises(IntegrityError):
        keyfile.load(path, WORDS)
    part = "key" if "key" in document else "sealed"
    cut = base64.b64encode(base64.b64decode(document[part])[:-3]).decode()
    files.write_json(path, {**document, part: cut})
    with pytest.raises(IntegrityError):
        keyfile.load(path, WORDS)
    files.write_json(path, {**GOLDEN_SEALED, "format": "smdl-key/2"})
    with pytest.raises(HomeError, match="damaged"):
        keyfile.load(path, WORDS)
