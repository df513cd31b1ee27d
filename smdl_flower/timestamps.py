"""Time stamps of commitments (RFC 3161): somebody else's word that one existed at a time.

An authority signs a digest and the time; it sees nothing else. The request is a file that any of
their tools or web pages takes, the response a file too: no network is needed here. A stamp on one
statement of a chain holds for all before it.
"""

from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from rfc3161_client import (
    HashAlgorithm,
    TimestampRequestBuilder,
    VerificationError,
    VerifierBuilder,
    decode_timestamp_response,
)

from smdl_flower import weights
from smdl_flower.errors import ConfigError, IntegrityError, SmdlError
from smdl_flower.weights import Limits

LARGEST = 1 << 20  # bytes of a response


def request(envelope: bytes) -> bytes:
    """Return a time-stamp request for a statement, DER; it tells the statement's SHA-256 only.

    Example:
        >>> request(b"statement")[:1]
        b'0'
    """
    builder = TimestampRequestBuilder().data(envelope).hash_algorithm(HashAlgorithm.SHA256)
    return bytes(builder.cert_request(cert_request=True).build().as_bytes())


def check(response: bytes, envelope: bytes, roots: Sequence[x509.Certificate]) -> str:
    """Return the time at which an authority has seen a statement, UTC, ISO 8601.

    Args:
        response: DER; may be hostile.
        envelope: The statement.
        roots: Certificates of authorities that are trusted.

    Raises:
        IntegrityError: It is not an answer of such an authority about that statement.
    """
    if len(response) > LARGEST:
        raise IntegrityError(f"a time stamp of {len(response):,} bytes; at most {LARGEST:,}")
    builder = VerifierBuilder()
    for root in roots:
        builder = builder.add_root_certificate(root)
    try:
        found = decode_timestamp_response(response)
        builder.build().verify_message(found, envelope)
        return str(found.tst_info.gen_time.isoformat(timespec="seconds"))
    except VerificationError as error:
        raise IntegrityError(f"the time stamp does not hold: {error}") from None
    except Exception as error:  # of a parser in another language, on hostile bytes
        raise IntegrityError(f"not a time stamp ({type(error).__name__})") from None


def read(path: Path) -> bytes:
    """Return a response's bytes; the file may be hostile.

    Raises:
        SmdlError: There is no such file, or it is too large.
    """
    return weights.read_bytes(path, Limits(file_bytes=LARGEST))


def load_roots(path: Path) -> list[x509.Certificate]:
    """Return the certificates of a PEM file.

    Raises:
        ConfigError: There are none.
    """
    try:
        return x509.load_pem_x509_certificates(read(path))
    except (ValueError, SmdlError):
        raise ConfigError(f"{path}: no certificates in PEM format") from None
