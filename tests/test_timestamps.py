"""A time stamp is an authority's word about one statement, or it is refused.

``stamped/`` was made once with ``openssl ts``: a root, an authority under it, its answer.
"""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smdl_flower import timestamps
from smdl_flower.errors import ConfigError, IntegrityError

PLACE = Path(__file__).parent / "stamped"
STATEMENT = (PLACE / "statement.txt").read_bytes()
RESPONSE = (PLACE / "response.tsr").read_bytes()
ROOTS = timestamps.load_roots(PLACE / "root.pem")


def test_the_authoritys_time_is_told() -> None:
    at = timestamps.check(RESPONSE, STATEMENT, ROOTS)
    assert at.startswith("2026-11-25T")
    assert at.endswith("+00:00")


def test_another_statement_or_authority_is_refused() -> None:
    with pytest.raises(IntegrityError, match="does not hold"):
        timestamps.check(RESPONSE, STATEMENT + b" ", ROOTS)
    with pytest.raises(IntegrityError, match="does not hold"):
        timestamps.check(RESPONSE, STATEMENT, timestamps.load_roots(PLACE / "other-root.pem"))


@settings(max_examples=200, deadline=None)
@given(st.integers(0, len(RESPONSE) - 1), st.integers(1, 255))
def test_whatever_byte_is_changed_the_time_is_as_it_was_or_refused(place: int, flip: int) -> None:
    changed = RESPONSE[:place] + bytes([RESPONSE[place] ^ flip]) + RESPONSE[place + 1 :]
    try:
        found = timestamps.check(changed, STATEMENT, ROOTS)
    except IntegrityError:
        return
    # Not all of it is signed: the status texts around the token are not.
    assert found == timestamps.check(RESPONSE, STATEMENT, ROOTS)


@given(st.binary(max_size=300))
def test_any_bytes_are_refused(content: bytes) -> None:
    with pytest.raises(IntegrityError):
        timestamps.check(content, STATEMENT, ROOTS)


def test_a_huge_one_is_refused() -> None:
    with pytest.raises(IntegrityError, match="at most"):
        timestamps.check(bytes(timestamps.LARGEST + 1), STATEMENT, ROOTS)


def test_a_request_tells_the_digest_and_no_two_are_alike() -> None:
    one, two = timestamps.request(STATEMENT), timestamps.request(STATEMENT)
    assert one != two  # a nonce
    assert STATEMENT not in one


def test_roots_must_be_certificates(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no certificates"):
        timestamps.load_roots(PLACE / "statement.txt")
    with pytest.raises(ConfigError, match="no certificates"):
        timestamps.load_roots(tmp_path / "none.pem")
