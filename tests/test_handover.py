"""A base model sealed for its owner: whole, for that owner, or refused in one line."""

import hmac
import stat

import numpy as np
import pytest

from smdl_flower import handover, sealing, weights
from smdl_flower.errors import (
    CapacityError,
    HomeError,
    MissingFileError,
    OutputExistsError,
    SealError,
    SuspectFileError,
)
from smdl_flower.fingerprint.keys import OwnerKey
from smdl_flower.sealing import SealingKey

KEY = OwnerKey(bytes(range(32))).sealing_key()
OTHER = OwnerKey(bytes(32)).sealing_key()
MODEL = {"w": np.arange(600, dtype=np.float32).reshape(20, 30), "b": np.zeros(3, np.float32)}
METADATA = {"format": "smdl-model/1", "name": "cnn"}


@pytest.fixture
def sealed(tmp_path):
    path = tmp_path / "global.sealed"
    handover.write(path, MODEL, METADATA, KEY.public)
    return path


def refused(path, error, key=KEY):
    with pytest.raises(error) as caught:
        handover.read(path, [key])
    assert type(caught.value) is error
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_owner_reads_what_the_server_wrote(sealed):
    file = handover.read(sealed, [KEY])
    assert file.metadata == METADATA
    assert weights.digest(file.weights) == weights.digest(MODEL)
    assert stat.S_IMODE(sealed.stat().st_mode) == 0o600


def test_the_file_shows_neither_weights_nor_what_model_it_is(sealed):
    content = sealed.read_bytes()
    for clear in (MODEL["w"].tobytes()[:16], b"cnn", b"smdl-model", b'"w"'):
        assert clear not in content
        assert clear in weights.to_bytes(MODEL, METADATA)


def test_a_file_in_clear_is_read_as_before(tmp_path):
    weights.write(tmp_path / "m.safetensors", MODEL, METADATA)
    assert handover.read(tmp_path / "m.safetensors", [KEY]).metadata == METADATA


def test_what_was_sealed_before_a_rotation_is_read_after_it(sealed):
    """A server may not know of the new key yet; whoever has neither is told the newest."""
    assert handover.read(sealed, [KEY, OTHER]).metadata == METADATA
    assert handover.read(sealed, [OTHER, KEY]).metadata == METADATA
    third = OwnerKey(b"third".ljust(32)).sealing_key()
    with pytest.raises(HomeError) as refusal:
        handover.read(sealed, [OTHER, third])
    assert sealing.to_text(third.public) in str(refusal.value)


def test_another_owner_is_told_whose_it_is(sealed):
    said = refused(sealed, HomeError, key=OTHER)
    assert sealing.to_text(KEY.public) in said
    assert HomeError.exit_code == 2


@pytest.mark.parametrize("kept", [14, 15, 46, 47, 93, 94, 95, 500, -1])
def test_a_file_that_was_cut_off_is_refused(kept, sealed):
    sealed.write_bytes(sealed.read_bytes()[:kept])
    assert "cut off" in refused(sealed, SealError)
    assert SealError.exit_code == 3


@pytest.mark.parametrize("position", [46, 60, 78, 100, 1000, -17, -1])
def test_a_changed_byte_is_noticed(position, sealed):
    content = bytearray(sealed.read_bytes())
    content[position] ^= 1
    sealed.write_bytes(content)
    assert "altered" in refused(sealed, SealError)


def test_a_longer_file_is_refused(sealed):
    sealed.write_bytes(sealed.read_bytes() + b"\0")
    refused(sealed, SealError)


def test_a_changed_recipient_reads_as_another_owners(sealed):
    content = bytearray(sealed.read_bytes())
    content[20] ^= 1
    sealed.write_bytes(content)
    refused(sealed, HomeError)


def test_the_recipient_cannot_be_exchanged(sealed):
    """Who rewrites the header for another owner gets that owner an error, not the model."""
    content = sealed.read_bytes()
    sealed.write_bytes(content.replace(KEY.public, OTHER.public))
    refused(sealed, SealError, key=OTHER)


@pytest.mark.parametrize("version", [b"smdl-sealed/2\n", b"smdl-sealed/1\0", b"SMDL-sealed/1\n"])
def test_another_version_is_no_file_of_ours(version, sealed):
    sealed.write_bytes(version + sealed.read_bytes()[14:])
    refused(sealed, SuspectFileError)


def test_something_sealed_for_another_purpose_is_refused(sealed):
    content = weights.to_bytes(MODEL, METADATA)
    wrong = sealing.seal(content, KEY.public, ("smdl-delivery/1", "base model"))
    sealed.write_bytes(sealed.read_bytes()[:46] + wrong)
    refused(sealed, SealError)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x80\x04N.",
        b"\xff" * 64,
        weights.to_bytes({"w": np.full(3, np.nan, np.float32)}),
    ],
)
def test_what_was_sealed_is_as_hostile_as_any_file(content, sealed):
    """Whoever has the public key can seal."""
    seal = sealing.seal(content, KEY.public, ("smdl-sealed/1", "base model"))
    sealed.write_bytes(sealed.read_bytes()[:46] + seal)
    refused(sealed, SuspectFileError)


def test_an_oversized_file_is_refused_before_it_is_read(sealed):
    with sealed.open("r+b") as stream:
        stream.truncate((8 << 30) + 1)  # sparse: takes no space
    assert "at most" in refused(sealed, SuspectFileError)


def test_a_missing_file_a_link_and_a_folder_are_refused(sealed, tmp_path):
    refused(tmp_path / "absent", MissingFileError)
    (tmp_path / "link").symlink_to(sealed)
    refused(tmp_path / "link", SuspectFileError)
    refused(tmp_path, SuspectFileError)


def test_nothing_is_overwritten_and_too_large_a_model_leaves_nothing(sealed, tmp_path, monkeypatch):
    with pytest.raises(OutputExistsError):
        handover.write(sealed, MODEL, METADATA, KEY.public)
    monkeypatch.setattr(sealing, "LARGEST", 100)
    with pytest.raises(CapacityError):
        handover.write(tmp_path / "new.sealed", MODEL, METADATA, KEY.public)
    assert sorted(tmp_path.iterdir()) == [sealed]


def test_the_sealing_key_follows_from_the_master_key_alone():
    assert KEY == OwnerKey(bytes(range(32))).sealing_key() != OTHER
    # HKDF-Expand(master key, "smdl/1 sealing"), computed with RFC 5869's formula by hand.
    expected = hmac.digest(bytes(range(32)), b"smdl/1 sealing\x01", "sha256")
    assert SealingKey(expected) == KEY
    assert repr(OwnerKey(bytes(32)).sealing_key()) == "SealingKey()"
