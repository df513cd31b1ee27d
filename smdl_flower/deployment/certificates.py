"""Keys and certificates of a federation: one authority, one server, a key for each participant.

TLS tells a participant that it speaks with the owner's server; the server tells participants apart
by their keys, which sign each request (Flower's node authentication). All keys are on the NIST
curve P-384, the kind Flower accepts for nodes.
"""

import datetime
import ipaddress
import re
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from smdl_flower.errors import ConfigError

DAYS = 365
_CURVE = ec.SECP384R1
_LABEL = r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_HOST = re.compile(rf"(?=.{{1,253}}$){_LABEL}(\.{_LABEL})*")


@dataclass(frozen=True)
class Credentials:
    """A private key with its certificate, both PEM.

    Attributes:
        key: PKCS 8, not encrypted: the file's permissions protect it.
        certificate: X.509.
    """

    key: bytes = field(repr=False)
    certificate: bytes


@dataclass(frozen=True)
class NodeKey:
    """A participant's key pair, OpenSSH format."""

    private: bytes = field(repr=False)
    public: bytes


def create_authority(days: int = DAYS) -> Credentials:
    """Return a new certificate authority, for this federation only."""
    key = ec.generate_private_key(_CURVE())
    name = _name("smdl-flower federation authority")
    builder = (
        _builder(name, name, key.public_key(), days)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    return _credentials(key, builder.sign(key, hashes.SHA384()))


def create_server(authority: Credentials, host: str, days: int = DAYS) -> Credentials:
    """Return the server's key and its certificate, valid for one host and the loopback interface.

    Args:
        authority: Signs it.
        host: Name or IP address by which participants reach the server.
        days: Validity from now on.

    Raises:
        ConfigError: The host is neither.

    Example:
        >>> server = create_server(create_authority(), "flower.example.org")
        >>> hosts(server.certificate)
        ('flower.example.org', 'localhost', '127.0.0.1')
    """
    issuer = x509.load_pem_x509_certificate(authority.certificate)
    signer = serialization.load_pem_private_key(authority.key, None)
    if not isinstance(signer, ec.EllipticCurvePrivateKey):
        raise ConfigError("the authority's key is on no elliptic curve; make the federation anew")
    key = ec.generate_private_key(_CURVE())
    loopback = (x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1")))
    names = list(dict.fromkeys((_host_name(host), *loopback)))
    builder = (
        _builder(_name("smdl-flower server"), issuer.subject, key.public_key(), days)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False
        )
    )
    return _credentials(key, builder.sign(signer, hashes.SHA384()))


def create_node_key() -> NodeKey:
    """Return a new key pair for a participant's SuperNode."""
    key = ec.generate_private_key(_CURVE())
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.OpenSSH,
        serialization.NoEncryption(),
    )
    public = key.public_key().public_bytes(
        serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    )
    return NodeKey(private, public + b"\n")


def check_host(host: str) -> None:
    """Raise :class:`ConfigError` unless a host is a DNS name or an IP address."""
    _host_name(host)


def hosts(certificate: bytes) -> tuple[str, ...]:
    """Return the names and addresses a server certificate is valid for."""
    extension = x509.load_pem_x509_certificate(certificate).extensions
    names = extension.get_extension_for_class(x509.SubjectAlternativeName).value
    return tuple(str(name.value) for name in names)


def expires(certificate: bytes) -> datetime.datetime:
    """Return when a certificate ends, UTC.

    Raises:
        ValueError: It is none.
    """
    return x509.load_pem_x509_certificate(certificate).not_valid_after_utc


def signed_by(certificate: bytes, authority: bytes) -> bool:
    """Return whether an authority signed a certificate.

    Raises:
        ValueError: One of them is none.
    """
    signed = x509.load_pem_x509_certificate(certificate)
    try:
        signed.verify_directly_issued_by(x509.load_pem_x509_certificate(authority))
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def belong_together(key: bytes, certificate: bytes) -> bool:
    """Return whether a private key is that of a certificate; both PEM.

    Raises:
        ValueError: One of them cannot be read.
    """
    return _public(serialization.load_pem_private_key(key, None)) == _encoded(
        x509.load_pem_x509_certificate(certificate).public_key()
    )


def public_of(private: bytes) -> bytes:
    """Return the public half of a participant's private key, as :class:`NodeKey` has it.

    Raises:
        ValueError: It is no key in OpenSSH format.
    """
    public = serialization.load_ssh_private_key(private, None).public_key()
    return (
        public.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
        + b"\n"
    )


def _public(key: object) -> bytes:
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError("not a key on an elliptic curve")
    return _encoded(key.public_key())


def _encoded(public: object) -> bytes:
    assert isinstance(public, ec.EllipticCurvePublicKey)  # noqa: S101 - for the type checker
    return public.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def _host_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    if not _HOST.fullmatch(host):
        raise ConfigError(f"server {host!r}: expected a DNS name or an IP address, without a port")
    return x509.DNSName(host)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, days: int
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=5))  # clocks differ
        .not_valid_after(now + datetime.timedelta(days=days))
    )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _usage(*, certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not certificates,
        key_cert_sign=certificates,
        crl_sign=certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _credentials(key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> Credentials:
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return Credentials(private, certificate.public_bytes(serialization.Encoding.PEM))
