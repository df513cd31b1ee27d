"""Copies and evidence are signed so that the public tool accepts them, and nothing that differs."""

import base64
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from smdl_flower import bundles, commitments, evidence_package, files, judging, rotation, verifying
from smdl_flower.bundles import BundleKey
from smdl_flower.cli.main import run
from smdl_flower.errors import ConfigError, MissingFileError, OutputExistsError
from smdl_flower.fingerprint.keys import OwnerKey
from smdl_flower.home import OwnerHome
from smdl_flower.judging import Trust

TOOL = Path(sys.executable).with_name("model_signing")
installed = pytest.mark.skipif(
    not TOOL.exists(), reason="needs the extra: pip install 'smdl-flower[model-signing]'"
)


def accepted(path: Path, signature: Path, key: bytes, folder: Path) -> bool:
    """Whether a customer's tool, in a process of its own, says that all is as it was signed."""
    pem = folder / "customer-has.pem"
    pem.write_bytes(key)
    command: list[str | Path] = [
        TOOL,
        "verify",
        "key",
        path,
        "--signature",
        signature,
        "--public_key",
        pem,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    said = done.stdout + done.stderr
    assert ("Verification succeeded" in said) == (done.returncode == 0), said
    assert "Traceback" not in said
    return done.returncode == 0


@pytest.fixture
def copy(copy_paths: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copy(copy_paths["clinic-a"], tmp_path / "clinic-a.safetensors"))


# -------------------------------------------------------------------------------------------- keys


def test_the_key_follows_from_the_master_key_and_is_another_for_each() -> None:
    pems = {OwnerKey(bytes([n]) * 32).bundle_key().public_pem for n in range(5)}
    assert len(pems) == 5
    key = OwnerKey(bytes(32)).bundle_key()
    assert key == OwnerKey(bytes(32)).bundle_key()
    assert len(key.secret) == 64
    assert key.secret.hex() not in repr(key)
    public = serialization.load_pem_public_key(key.public_pem)
    assert isinstance(public, ec.EllipticCurvePublicKey)
    assert public.curve.name == "secp256r1"
    # Once more, so that it never changes: customers have the old one.
    assert key.public_id == "81fb756a0d9bce11f9f39059fd7f1496c232464bb735d1919b2473c658c80621"


@pytest.mark.parametrize("secret", [bytes(64), b"\xff" * 64])
def test_no_secret_gives_the_number_zero(secret: bytes) -> None:
    number = BundleKey(secret)._private.private_numbers().private_value
    assert 1 <= number < bundles._ORDER


def test_the_order_is_that_of_the_curve() -> None:
    """The largest private number is taken, one more is not."""
    ec.derive_private_key(bundles._ORDER - 1, ec.SECP256R1())
    with pytest.raises(ValueError, match="out of range"):
        ec.derive_private_key(bundles._ORDER, ec.SECP256R1())


def test_commitments_say_which_key_it_is(issued_home: OwnerHome, home_copy: OwnerHome) -> None:
    home = rotation.rotate(home_copy.path, None).home
    brought = [c for c in commitments.of_home(home) if "bundle_key" in c.predicate]
    assert [c.predicate["bundle_key"] for c in brought] == [
        key.bundle_key().public_id for key in home.keys
    ]
    assert issued_home.key == home.keys[0]


# --------------------------------------------------------------------------------------- signatures


@installed
def test_the_public_tool_accepts_a_copy_and_refuses_one_changed_byte(
    copy: Path, tmp_path: Path
) -> None:
    key = OwnerKey(bytes(32)).bundle_key()
    signature = key.sign(copy)
    assert signature == tmp_path / "clinic-a.safetensors.sig"
    assert accepted(copy, signature, key.public_pem, tmp_path)
    content = copy.read_bytes()
    for place in (0, 100, len(content) // 2, len(content) - 1):
        copy.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        assert not accepted(copy, signature, key.public_pem, tmp_path)
    copy.write_bytes(content[:-1])
    assert not accepted(copy, signature, key.public_pem, tmp_path)
    copy.write_bytes(content)
    assert accepted(copy, signature, key.public_pem, tmp_path)


@installed
def test_another_owners_key_or_signature_is_refused(
    copy: Path, copy_paths: dict[str, Path], tmp_path: Path
) -> None:
    ours, theirs = (OwnerKey(bytes([n]) * 32).bundle_key() for n in (0, 1))
    signature = ours.sign(copy)
    assert not accepted(copy, signature, theirs.public_pem, tmp_path)
    other = Path(shutil.copy(copy_paths["clinic-b"], tmp_path / "clinic-b.safetensors"))
    assert not accepted(other, signature, ours.public_pem, tmp_path)
    forged = tmp_path / "forged.sig"
    document = json.loads(signature.read_bytes())
    (entry,) = document["dsseEnvelope"]["signatures"]
    entry["sig"] = base64.b64encode(bytes(len(base64.b64decode(entry["sig"])))).decode()
    forged.write_text(json.dumps(document))
    assert not accepted(copy, forged, ours.public_pem, tmp_path)


@installed
def test_an_evidence_folder_is_signed_as_a_whole_and_stays_one_for_the_judge(
    issued_home: OwnerHome, copy: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "evidence"
    verdict = verifying.verify(issued_home, copy)
    files.write_json(folder / "verdict.json", verdict.to_json())
    evidence_package.write(issued_home, verdict, folder)
    key = issued_home.key.bundle_key()
    signature = key.sign(folder)
    assert accepted(folder, signature, key.public_pem, tmp_path)
    trust = Trust(issued_home.key.signing_key().public)
    assert judging.judge(folder, copy, trust=trust).valid
    changes: list[Callable[[Path], object]] = [
        lambda f: (f / "verdict.json").write_bytes((f / "verdict.json").read_bytes() + b" "),
        lambda f: (f / "statement.json").unlink(),
        lambda f: (f / "added").write_bytes(b""),
        lambda f: (f / "commitments" / "000001.json").rename(f / "commitments" / "000003.json"),
    ]
    for number, change in enumerate(changes):
        spoilt = tmp_path / f"spoilt-{number}"
        shutil.copytree(folder, spoilt)
        assert accepted(spoilt, signature, key.public_pem, tmp_path)
        change(spoilt)
        assert not accepted(spoilt, signature, key.public_pem, tmp_path)


@installed
def test_the_private_key_is_left_nowhere(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the package signs, the file it reads the key from is private and encrypted."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    seen = []
    signing = bundles.require_installed()
    real = signing.Config.use_elliptic_key_signer

    def watched(self: object, *, private_key: Path, password: bytes) -> object:
        seen.append((private_key.read_bytes(), private_key.stat().st_mode & 0o777))
        return real(self, private_key=private_key, password=password)

    monkeypatch.setattr(signing.Config, "use_elliptic_key_signer", watched)
    key = OwnerKey(bytes(32)).bundle_key()
    signature = key.sign(copy)
    ((content, mode),) = seen
    assert mode == 0o600
    assert b"ENCRYPTED PRIVATE KEY" in content
    with pytest.raises(TypeError):
        serialization.load_pem_private_key(content, None)
    assert list((tmp_path / "temporary").iterdir()) == []
    assert signature.stat().st_mode & 0o777 == 0o600
    number = key._private.private_numbers().private_value
    for secret in (key.secret.hex(), f"{number:x}", str(number)):
        assert secret not in signature.read_text()


@installed
def test_what_cannot_be_signed_is_told(copy: Path, tmp_path: Path) -> None:
    key = OwnerKey(bytes(32)).bundle_key()
    with pytest.raises(MissingFileError):
        key.sign(tmp_path / "missing")
    key.sign(copy)
    with pytest.raises(OutputExistsError):
        key.sign(copy)
    folder = tmp_path / "linked"
    folder.mkdir()
    (folder / "link").symlink_to(copy)
    with pytest.raises(ConfigError, match="cannot be signed"):
        key.sign(folder)
    assert not (tmp_path / "linked.sig").exists()


def test_without_the_package_it_says_what_to_install(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "model_signing", None)
    with pytest.raises(ConfigError, match=r"pip install 'smdl-flower\[model-signing\]'"):
        OwnerKey(bytes(32)).bundle_key().sign(copy)
    assert not list(tmp_path.glob("*.sig"))


# -------------------------------------------------------------------------------------- the command


@installed
def test_the_commands_sign_what_they_are_named(
    home_copy: OwnerHome, copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    at, pem = ["--home", str(home_copy.path)], tmp_path / "owner.pem"
    assert run(["sign", str(copy), "--public-key", str(pem), *at]) == 0
    assert accepted(copy, bundles.signature_of(copy), pem.read_bytes(), tmp_path)
    assert run(["sign", *at]) == 2
    assert run(["sign", str(copy), *at]) == 2  # is signed
    out = tmp_path / "again"
    issue = ["issue", str(copy), "--out", str(out), "--no-fidelity-check", "--sign", *at]
    assert run([*issue, "--customer", "clinic-b"]) == 0  # of a new base model: a copy, here
    issued = out / "clinic-b.safetensors"
    assert accepted(issued, bundles.signature_of(issued), pem.read_bytes(), tmp_path)
    capsys.readouterr()
    assert run(["sign", "--public-key", str(tmp_path / "again.pem"), *at, "--json"]) == 0
    assert '"smdl-signatures/1"' in capsys.readouterr().out
