"""Node keys are read from the formats people have, and from no others."""

import subprocess
from datetime import datetime

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from hypothesis import given
from hypothesis import strategies as st

from smdl_flower import nodekeys
from smdl_flower.deployment import certificates
from smdl_flower.errors import ConfigError
from smdl_flower.nodekeys import NodePublicKey

PRIVATE = ec.derive_private_key(7, ec.SECP384R1())
PUBLIC = nodekeys.public_half(PRIVATE)
PEM = PRIVATE.public_key().public_bytes(
    serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
)


def private_bytes(kind, encryption=None, key=PRIVATE):
    return key.private_bytes(
        serialization.Encoding.PEM, kind, encryption or serialization.NoEncryption()
    )


def write(tmp_path, content, mode=0o600):
    path = tmp_path / "node.key"
    path.write_bytes(content)
    path.chmod(mode)
    return path


def test_one_key_has_one_spelling_whatever_file_it_came_from():
    for content in (PEM, PUBLIC.text.encode(), f"{PUBLIC.text} me@clinic\n".encode()):
        assert NodePublicKey.parse(content, "x") == PUBLIC


def test_what_deploy_init_makes_is_read(tmp_path):
    made = certificates.create_node_key()
    path = write(tmp_path, made.private)
    private = nodekeys.load_private(path)
    assert nodekeys.public_half(private) == NodePublicKey.parse(made.public, "x")


@pytest.mark.parametrize(
    "kind", [serialization.PrivateFormat.OpenSSH, serialization.PrivateFormat.PKCS8]
)
def test_private_keys_are_read_from_both_formats(kind, tmp_path):
    path = write(tmp_path, private_bytes(kind))
    assert nodekeys.public_half(nodekeys.load_private(path)) == PUBLIC


def test_the_fingerprint_is_what_ssh_keygen_shows(tmp_path):
    path = tmp_path / "node.pub"
    path.write_text(PUBLIC.text + "\n")
    try:
        done = subprocess.run(["ssh-keygen", "-l", "-f", path], capture_output=True, check=True)
    except FileNotFoundError:
        pytest.skip("no ssh-keygen here")
    assert done.stdout.split()[1].decode() == PUBLIC.fingerprint


NO_PUBLIC_KEYS = {
    "nothing": b"",
    "noise": b"\xff\x00" * 50,
    "text": b"hello",
    "another curve": ec.derive_private_key(7, ec.SECP256R1())
    .public_key()
    .public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH),
    "another kind": ed25519.Ed25519PrivateKey.from_private_bytes(bytes(32))
    .public_key()
    .public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH),
    "cut off": PEM[:80],
    "too long": PUBLIC.text.encode() + b" " + b"x" * 100_000,
    "two keys": PUBLIC.text.encode() + b"\n" + PUBLIC.text.encode(),
}


@pytest.mark.parametrize("what", NO_PUBLIC_KEYS)
def test_what_is_no_public_key_is_refused_in_one_line(what):
    with pytest.raises(ConfigError, match=r"^clinic\.pub: no P-384 public key") as caught:
        NodePublicKey.parse(NO_PUBLIC_KEYS[what], "clinic.pub")
    assert "\n" not in str(caught.value)


@given(st.binary(max_size=400))
def test_hostile_bytes_end_in_our_own_error(content):
    with pytest.raises(ConfigError):
        NodePublicKey.parse(content, "x")


def test_a_private_key_given_by_mistake_is_refused_and_not_shown():
    content = private_bytes(serialization.PrivateFormat.PKCS8)
    with pytest.raises(ConfigError, match="a private key; give the public one") as caught:
        NodePublicKey.parse(content, "x")
    assert content.decode().splitlines()[1] not in str(caught.value)


@pytest.mark.parametrize("mode", [0o604, 0o640, 0o644])
def test_a_private_key_that_others_can_read_is_refused(mode, tmp_path):
    path = write(tmp_path, private_bytes(serialization.PrivateFormat.OpenSSH), mode)
    with pytest.raises(ConfigError, match="can be read by others"):
        nodekeys.load_private(path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"x" * 100_000,
        b"-----BEGIN OPENSSH PRIVATE KEY-----\nxx\n-----END OPENSSH PRIVATE KEY-----\n",
        PEM,
        private_bytes(
            serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"secret")
        ),
        private_bytes(
            serialization.PrivateFormat.OpenSSH, key=ec.derive_private_key(7, ec.SECP256R1())
        ),
        private_bytes(
            serialization.PrivateFormat.PKCS8,
            key=ed25519.Ed25519PrivateKey.from_private_bytes(bytes(32)),
        ),
    ],
)
def test_what_is_no_usable_private_key_is_refused(content, tmp_path):
    with pytest.raises(ConfigError, match="no P-384 private key"):
        nodekeys.load_private(write(tmp_path, content))


def test_a_missing_private_key_and_a_folder_are_refused(tmp_path):
    for path in (tmp_path / "absent", tmp_path, tmp_path / "a\0b"):
        with pytest.raises(ConfigError):
            nodekeys.load_private(path)


@given(st.lists(st.text(max_size=5), max_size=3), st.lists(st.text(max_size=5), max_size=3))
def test_a_signature_is_for_one_statement_only(one, other):
    signature = nodekeys.sign(PRIVATE, one)
    assert PUBLIC.signed(other, signature) == (one == other)


@given(st.binary(max_size=120))
def test_no_other_bytes_are_a_signature(signature):
    assert not PUBLIC.signed(["smdl-example/1"], signature)


@given(st.datetimes(), st.lists(st.text(max_size=5), max_size=3))
def test_a_time_as_flower_signs_it_is_no_statement(moment, parts):
    statement = ["smdl-delivery/1", *parts]
    assert nodekeys._encoded(statement) != datetime.isoformat(moment).encode()
    assert nodekeys._encoded(statement).startswith(b'["smdl-')
