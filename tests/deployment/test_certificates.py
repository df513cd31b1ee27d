"""Certificates hold a TLS connection, for the right host and under the right authority only."""

import datetime
import socket
import ssl
import threading
from pathlib import Path

import pytest

from smdl_flower.deployment import certificates
from smdl_flower.deployment.certificates import Credentials
from smdl_flower.errors import ConfigError


@pytest.fixture(scope="module")
def authority() -> Credentials:
    return certificates.create_authority()


def handshake(
    server: Credentials, trusted: Credentials, name: str, place: Path
) -> ssl.SSLError | None:
    """Connect to a server with these credentials; the error of the client, if any."""
    for part in ("key", "certificate"):
        (place / part).write_bytes(getattr(server, part))
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(place / "certificate", place / "key")
    asking = ssl.create_default_context(cadata=trusted.certificate.decode())
    here, there = socket.socketpair()

    def serve() -> None:
        try:
            serving.wrap_socket(there, server_side=True).close()
        except (ssl.SSLError, OSError):
            there.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        asking.wrap_socket(here, server_hostname=name).close()
    except ssl.SSLError as error:
        return error
    finally:
        here.close()
        thread.join()
    return None


@pytest.mark.parametrize("host", ["flower.example.org", "10.1.2.3", "2001:db8::7", "localhost"])
def test_a_participant_connects_to_the_host_the_certificate_names(
    authority: Credentials, tmp_path: Path, host: str
) -> None:
    server = certificates.create_server(authority, host)
    assert handshake(server, authority, host, tmp_path) is None
    assert handshake(server, authority, "localhost", tmp_path) is None


def test_another_host_or_another_authority_is_refused(
    authority: Credentials, tmp_path: Path
) -> None:
    server = certificates.create_server(authority, "flower.example.org")
    wrong_host = handshake(server, authority, "evil.example.org", tmp_path)
    assert isinstance(wrong_host, ssl.SSLCertVerificationError)
    other = certificates.create_authority()
    assert isinstance(
        handshake(server, other, "flower.example.org", tmp_path), ssl.SSLCertVerificationError
    )


def test_a_server_certificate_is_no_authority(authority: Credentials, tmp_path: Path) -> None:
    server = certificates.create_server(authority, "flower.example.org")
    forged = certificates.create_server(server, "bank.example.org")
    chained = Credentials(forged.key, forged.certificate + server.certificate)
    error = handshake(chained, authority, "bank.example.org", tmp_path)
    assert isinstance(error, ssl.SSLCertVerificationError)


def test_an_expired_certificate_is_refused(authority: Credentials, tmp_path: Path) -> None:
    server = certificates.create_server(authority, "localhost", days=0)
    assert certificates.expires(server.certificate) <= datetime.datetime.now(datetime.UTC)
    error = handshake(server, authority, "localhost", tmp_path)
    assert "expired" in str(error)


@pytest.mark.parametrize(
    "host", ["", "flower.example.org:8000", "a b", "-a.org", "a..org", "https://a.org", "x" * 64]
)
def test_what_is_no_host_is_refused(authority: Credentials, host: str) -> None:
    with pytest.raises(ConfigError, match="expected a DNS name or an IP address"):
        certificates.create_server(authority, host)


def test_who_signed_and_which_key_belongs_is_told_apart(authority: Credentials) -> None:
    server = certificates.create_server(authority, "localhost")
    other = certificates.create_authority()
    assert certificates.signed_by(server.certificate, authority.certificate)
    assert not certificates.signed_by(server.certificate, other.certificate)
    assert certificates.belong_together(server.key, server.certificate)
    assert not certificates.belong_together(other.key, server.certificate)


def test_node_keys_are_of_the_kind_flower_reads() -> None:
    # As flwr does it: load_ssh_private_key, and an elliptic curve of NIST.
    key = certificates.create_node_key()
    assert key.private.startswith(b"-----BEGIN OPENSSH PRIVATE KEY-----")
    assert key.public.startswith(b"ecdsa-sha2-nistp384 ")
    assert certificates.public_of(key.private) == key.public


def test_keys_are_new_each_time_and_in_no_repr() -> None:
    one, other = certificates.create_node_key(), certificates.create_node_key()
    assert one.private != other.private
    assert "PRIVATE" not in repr(one)
    assert "PRIVATE" not in repr(certificates.create_authority())
