"""What is sealed opens with its key, in its context, unchanged; or ends in one error."""

import hmac

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from hypothesis import given
from hypothesis import strategies as st

from smdl_flower import sealing
from smdl_flower.errors import CapacityError, ConfigError, SealError
from smdl_flower.sealing import SealingKey, seal

KEY = SealingKey(bytes(range(32)))
OTHER = SealingKey(bytes(range(1, 33)))
CONTEXTS = st.lists(st.text(max_size=20), max_size=4)


@given(st.binary(max_size=500), CONTEXTS)
def test_what_was_sealed_opens(content, context):
    sealed = seal(content, KEY.public, context)
    assert len(sealed) == len(content) + sealing.OVERHEAD
    assert KEY.open(sealed, context) == content


@given(st.binary(max_size=100), st.data())
def test_any_changed_byte_or_length_is_noticed(content, data):
    sealed = seal(content, KEY.public, ["x"])
    position = data.draw(st.integers(0, len(sealed) - 1))
    mask = data.draw(st.integers(1, 255))
    changed = bytearray(sealed)
    changed[position] ^= mask
    for other in (bytes(changed), sealed[:position], sealed + b"\0"):
        with pytest.raises(SealError):
            KEY.open(other, ["x"])


@given(CONTEXTS, CONTEXTS)
def test_another_context_does_not_open(context, other):
    sealed = seal(b"w0", KEY.public, context)
    if context != other:
        with pytest.raises(SealError):
            KEY.open(sealed, other)


@pytest.mark.parametrize(
    ("one", "other"),
    [(["ab", "c"], ["a", "bc"]), (["a"], ["a", ""]), (['a", "b'], ["a", "b"]), ([], [""])],
)
def test_contexts_that_read_alike_differ(one, other):
    with pytest.raises(SealError):
        KEY.open(seal(b"w0", KEY.public, one), other)


def test_another_key_does_not_open():
    with pytest.raises(SealError, match="altered, cut off, or sealed for another key"):
        OTHER.open(seal(b"w0", KEY.public, []), [])


@given(st.binary(max_size=300))
def test_hostile_bytes_end_in_our_own_error(content):
    with pytest.raises(SealError):
        KEY.open(content, [])


def test_two_seals_of_the_same_differ():
    assert seal(b"w0", KEY.public, []) != seal(b"w0", KEY.public, [])


@pytest.mark.parametrize("public", [b"", bytes(31), bytes(33), bytes(32), b"\1" + bytes(31)])
def test_a_key_that_is_none_or_that_everybody_has_is_refused(public):
    """Points of low order give the same shared secret whatever the sender's key is."""
    with pytest.raises(SealError, match="not a usable X25519 public key"):
        seal(b"w0", public, [])


def test_more_than_can_be_sealed_at_once_is_refused(monkeypatch):
    monkeypatch.setattr(sealing, "LARGEST", 3)
    assert KEY.open(seal(b"123", KEY.public, []), []) == b"123"
    with pytest.raises(CapacityError, match="4 bytes; at most 3"):
        seal(b"1234", KEY.public, [])


def labeled(suite: bytes, label: bytes, *parts: bytes) -> bytes:
    return b"HPKE-v1" + suite + label + b"".join(parts)


def extract(suite, salt, label, key):
    return hmac.digest(salt or bytes(32), labeled(suite, label, key), "sha256")


def expand(suite, secret, label, info, length):
    info = length.to_bytes(2, "big") + labeled(suite, label, info)
    return HKDFExpand(SHA256(), length, info).derive(secret)


def open_as_rfc_9180_says(sealed, private, info):
    """Section 4.1 (DHKEM), 5.1 (key schedule, base mode), 5.2 (first message), written anew."""
    encapsulated, ciphertext = sealed[:32], sealed[32:]
    private = X25519PrivateKey.from_private_bytes(private)
    public = private.public_key().public_bytes_raw()
    kem, hpke = b"KEM\x00\x20", b"HPKE\x00\x20\x00\x01\x00\x02"
    shared = private.exchange(X25519PublicKey.from_public_bytes(encapsulated))
    shared = extract(kem, b"", b"eae_prk", shared)
    shared = expand(kem, shared, b"shared_secret", encapsulated + public, 32)
    identity = extract(hpke, b"", b"psk_id_hash", b"")
    context = b"\0" + identity + extract(hpke, b"", b"info_hash", info)
    secret = extract(hpke, shared, b"secret", b"")
    key = expand(hpke, secret, b"key", context, 32)
    nonce = expand(hpke, secret, b"base_nonce", context, 12)
    return AESGCM(key).decrypt(nonce, ciphertext, b"")


def test_an_independent_reader_opens_it():
    sealed = seal(b"w0", KEY.public, ["a", "\N{LATIN SMALL LETTER A WITH DIAERESIS}"])
    assert open_as_rfc_9180_says(sealed, KEY.secret, b'["a", "\\u00e4"]') == b"w0"


def test_the_private_key_is_not_shown():
    assert repr(KEY) == "SealingKey()"
    assert KEY.secret.hex() not in str(vars(KEY.generate()))


@given(st.binary(min_size=32, max_size=32))
def test_a_public_key_survives_being_copied_as_text(public):
    assert sealing.from_text(sealing.to_text(public)) == public


@given(st.integers(0, 72), st.sampled_from("0123456789abcdef-x"))
def test_one_wrong_character_of_a_key_is_noticed(position, character):
    text = sealing.to_text(KEY.public)
    wrong = text[:position] + character + text[position + 1 :]
    if wrong != text:
        with pytest.raises(ConfigError, match="is no sealing key"):
            sealing.from_text(wrong)


@pytest.mark.parametrize("text", ["", "-", "ab", "zz" * 32 + "-00000000", "0" * 64, " " * 73])
def test_a_text_that_is_no_key_is_refused(text):
    with pytest.raises(ConfigError, match="is no sealing key"):
        sealing.from_text(text)


def test_capital_digits_or_spaces_are_not_another_spelling():
    text = sealing.to_text(KEY.public)
    for wrong in (text.upper(), f" {text}", f"{text}\n", text[:2] + " " + text[2:]):
        with pytest.raises(ConfigError):
            sealing.from_text(wrong)
