"""Keys: derived as written, different for every purpose, the same forever, never shown."""

import base64
import hashlib
import hmac

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given
from hypothesis import strategies as st

from smdl_flower.fingerprint.keys import KEY_BYTES, CampaignKey, CustomerKey, KeyStream, OwnerKey

ZERO = OwnerKey(bytes(32))
DIGEST = hashlib.sha256(b"some base model").hexdigest()


def hkdf_extract(salt: bytes, secret: bytes) -> bytes:
    return hmac.digest(salt, secret, "sha256")  # RFC 5869, section 2.2


def hkdf_expand(key: bytes, info: bytes) -> bytes:
    return hmac.digest(key, info + b"\x01", "sha256")  # section 2.3, one block of 32 bytes


def counter_mode(key: bytes, size: int) -> bytes:
    """AES-256-CTR from an all-zero counter, as SP 800-38A builds it from single blocks."""
    cipher = Cipher(algorithms.AES256(key), modes.ECB()).encryptor()  # noqa: S305
    counters = b"".join(i.to_bytes(16, "big") for i in range(-(-size // 16)))
    return cipher.update(counters)[:size]


@given(
    st.binary(min_size=32, max_size=32), st.binary(min_size=32, max_size=32), st.text(max_size=9)
)
def test_keys_are_those_of_rfc_5869(master: bytes, salt: bytes, label: str) -> None:
    campaign = hkdf_expand(hkdf_extract(salt, master), b"smdl/1 campaign")
    customer = hkdf_expand(campaign, b"smdl/1 customer/" + label.encode())
    key = OwnerKey(master).campaign(salt.hex())
    assert key.secret == campaign
    assert key.customer(label).secret == customer


@pytest.mark.parametrize("count", [1, 7, 8, 9, 4096])
def test_streams_are_those_of_aes_256_in_counter_mode(count: int) -> None:
    campaign = ZERO.campaign(DIGEST)
    customer = campaign.customer("clinic-a")
    for key in (campaign, customer):
        expected = counter_mode(hkdf_expand(key.secret, b"smdl/1 stream/payload"), 4 * count)
        assert key.stream("payload").uint32(count).tobytes() == expected
        assert key.stream("payload").uint16(count).tobytes() == expected[: 2 * count]


@given(st.lists(st.integers(0, 40), max_size=12))
def test_a_stream_read_in_pieces_is_the_stream_read_at_once(sizes: list[int]) -> None:
    whole = ZERO.campaign(DIGEST).stream("carrier").uint16(sum(sizes))
    pieces = ZERO.campaign(DIGEST).stream("carrier")
    read = [pieces.uint16(size) for size in sizes]
    assert np.concatenate([*read, np.empty(0, np.uint16)]).tolist() == whole.tolist()


def test_no_two_owners_campaigns_customers_or_labels_share_a_stream() -> None:
    streams: list[KeyStream] = []
    for owner in (ZERO, OwnerKey(bytes(31) + b"\x01")):
        for digest in ("00" * 32, DIGEST):
            campaign = owner.campaign(digest)
            names = ("clinic-a", "clinic-b", "Clinic-a", "payload", "stream")
            holders: list[CampaignKey | CustomerKey] = [campaign, *map(campaign.customer, names)]
            streams += [key.stream(label) for key in holders for label in ("payload", "carrier")]
    beginnings = {stream.uint16(16).tobytes() for stream in streams}
    assert len(beginnings) == len(streams) == 2 * 2 * 6 * 2


def test_words_of_a_stream_are_uniform() -> None:
    words = ZERO.campaign(DIGEST).customer("clinic-a").stream("carrier").uint16(1 << 20)
    # Each of the 2^20 words falls into one of 256 classes; a count has mean 4,096 and standard
    # deviation 64. Chi-squared with 255 degrees: mean 255, deviation 22.6; five of them above.
    for byte in (words >> 8, words & 255):
        counts = np.bincount(byte, minlength=256)
        assert float(np.square(counts - 4096).sum()) / 4096 < 255 + 5 * 22.6


@pytest.mark.parametrize(
    ("key", "label", "words"),
    [
        (
            ZERO.campaign("00" * 32),
            "payload",
            [50201, 11720, 23552, 36069, 31530, 48513, 44189, 41643],
        ),
        (
            ZERO.campaign("00" * 32).customer("clinic-a"),
            "carrier",
            [30454, 42730, 16427, 38934, 3681, 38038, 23553, 64342],
        ),
        (
            ZERO.campaign("00" * 32).customer("clinic-a"),
            "codeword",
            [17784, 5031, 10302, 58847, 13002, 13857, 27372, 2217],
        ),
    ],
)
def test_released_streams_never_change(
    key: CampaignKey | CustomerKey, label: str, words: list[int]
) -> None:
    assert key.stream(label).uint16(8).tolist() == words


def test_released_commitments_and_registry_macs_never_change() -> None:
    assert ZERO.commitment() == "5270a39705ae1e7f89b72c7b7ddc28a91b5b2d64c2e45b42f79824339ac7abb9"
    assert (
        ZERO.authenticate("registry", b"entry").hex()
        == "c525f56ee29f1fce1e4fd099df3b712052223385f7054a6ebd4a745e80a81f83"
    )


def test_authentication_codes_are_hmac_under_a_key_per_purpose() -> None:
    key = OwnerKey(bytes(range(32)))
    expected = hmac.digest(hkdf_expand(key.secret, b"smdl/1 mac/registry"), b"entry", "sha256")
    assert key.authenticate("registry", b"entry") == expected
    assert key.authenticate("other", b"entry") != expected
    assert key.authenticate("registry", b"entry2") != expected
    assert key.commitment() == key.authenticate("commitment", b"").hex()
    assert key.commitment() != ZERO.commitment()


def test_new_master_keys_differ() -> None:
    keys = {OwnerKey.generate().secret for _ in range(8)}
    assert len(keys) == 8
    assert {len(secret) for secret in keys} == {KEY_BYTES}


@pytest.mark.parametrize("size", [0, 16, 31, 33, 64])
def test_a_master_key_of_another_size_is_refused_without_showing_it(size: int) -> None:
    with pytest.raises(ValueError, match=f"not {size}") as refusal:
        OwnerKey(b"\xa7" * size)
    assert "a7a7" not in str(refusal.value)
    assert "\\xa7" not in str(refusal.value)


def test_no_text_form_of_a_key_shows_its_secret() -> None:
    owner = OwnerKey(bytes(range(100, 132)))
    campaign = owner.campaign(DIGEST)
    for key in (owner, campaign, campaign.customer("clinic-a")):
        shown = f"{key} {key!r} {[key]} {key!a}"
        for form in (
            key.secret.hex(),
            key.secret.hex().upper(),
            repr(key.secret),
            repr(key.secret)[2:-1],
            base64.b64encode(key.secret).decode(),
            str(list(key.secret))[1:-1],
        ):
            assert form not in shown
    assert repr(campaign.customer("clinic-a")) == "CustomerKey(customer='clinic-a')"
    assert owner.secret.hex() not in repr(campaign.stream("payload"))


@pytest.mark.parametrize("digest", ["", "xyz"])
def test_a_campaign_needs_a_hexadecimal_digest(digest: str) -> None:
    if digest:
        with pytest.raises(ValueError, match="hexadecimal"):
            ZERO.campaign(digest)
    else:  # an empty salt is RFC 5869's default of zeros: another key than any model's
        assert ZERO.campaign("").secret != ZERO.campaign(DIGEST).secret
