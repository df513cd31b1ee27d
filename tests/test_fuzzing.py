"""Whatever the bytes of a file or an answer: it is read, or our own error says why not.

Every reader but those of suspects (:mod:`tests.suspects.test_fuzzing`) and of model files
(:mod:`tests.test_weights`). The slow tests make 100,000 inputs and more.
"""

import functools
import json
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from smdl_flower import (
    commitments,
    config,
    confirming,
    evidence,
    handover,
    home_file,
    image_folder,
    keyfile,
    nodekeys,
    signing,
    timestamps,
    weights,
)
from smdl_flower.blackbox import querylog, recorded
from smdl_flower.cli.customer import _read_csv
from smdl_flower.deployment import folders
from smdl_flower.errors import SmdlError
from smdl_flower.fingerprint.keys import OwnerKey
from smdl_flower.flower import checkpoint, packing, parcels
from smdl_flower.flower.blobs import BlobError
from smdl_flower.image_folder import ImageFormat
from smdl_flower.interface import documents, headers, pixels
from smdl_flower.interface.kserve import Kserve
from smdl_flower.interface.plain import Plain
from smdl_flower.interface.protocols import Language
from smdl_flower.interface.torchserve import Torchserve
from smdl_flower.nodekeys import NodePublicKey
from smdl_flower.privacy.accounting import Steps
from smdl_flower.privacy.ledger import Ledger
from smdl_flower.privacy.partition import PrivacyPartition
from smdl_flower.registry import Registry
from smdl_flower.sealing import SealingKey
from tests.mutating import changed, changed_json

SLOW_INPUTS = 100_000
EXAMPLES = max(150, settings().max_examples)  # more with `make fuzz`
KEY = OwnerKey(bytes(range(32)))
SEALER = SealingKey(bytes(range(32)))
STAMPED = Path(__file__).parent / "stamped"
SCENARIO = Path(__file__).parents[1] / "scenarios" / "digits-smoke.toml"
Change = Callable[[bytes, np.random.Generator], bytes]


@dataclass(frozen=True)
class Target:
    """A reader.

    Attributes:
        make: Returns content that it reads.
        read: Reads content; the folder is empty and the target's own.
        change: How content is changed.
        errors: That it may end in.
    """

    make: Callable[[], bytes]
    read: Callable[[bytes, Path], object]
    change: Change = changed
    errors: tuple[type[Exception], ...] = (SmdlError,)


def from_file(
    read: Callable[[Path], object], name: str = "file"
) -> Callable[[bytes, Path], object]:
    def reader(content: bytes, place: Path) -> object:
        path = place / name
        path.write_bytes(content)
        path.chmod(0o600)
        return read(path)

    return reader


def written(write: Callable[[Path], object], name: str = "file") -> Callable[[], bytes]:
    def maker() -> bytes:
        with tempfile.TemporaryDirectory() as place:
            write(Path(place, name))
            return Path(place, name).read_bytes()

    return maker


def lies(place: Callable[[], Path], name: str) -> Callable[[], bytes]:
    return (place() / name).read_bytes


def as_json(document: object) -> Callable[[], bytes]:
    return lambda: json.dumps(document).encode()


@functools.cache
def roots() -> Sequence[x509.Certificate]:
    return timestamps.load_roots(STAMPED / "root.pem")


# ------------------------------------------------------------------------------ the owner's home


@functools.cache
def home() -> Path:
    """A home with three customers."""
    place = Path(tempfile.mkdtemp(prefix="smdl-fuzz-"))
    url, head = f"sqlite:///{place}/registry.db", place / "registry.head"
    registry = Registry.create(url, [KEY], head)
    registry.add_customers(["clinic-a", "bank-b", "clinic-c"])
    registry.record_model("00" * 8, "11" * 32)
    registry.record_copy("00" * 8, "clinic-a", "22" * 32)
    return place


def registry_in(place: Path) -> object:
    registry = Registry(f"sqlite:///{place}/registry.db", [KEY], place / "registry.head")
    return registry.customers(), registry.models(), registry.broadcasts(), registry.deliveries()


def read_head(content: bytes, place: Path) -> object:
    shutil.copyfile(home() / "registry.db", place / "registry.db")
    (place / "registry.head").write_bytes(content)
    return registry_in(place)


def read_rows(content: bytes, place: Path) -> object:
    """A registry of whatever rows the database takes."""
    try:
        rows = json.loads(content)
        fit = [[v for v in row if not isinstance(v, list | dict)] for row in rows]
    except (ValueError, TypeError, RecursionError):
        return None
    for name in ("registry.db", "registry.head"):
        shutil.copyfile(home() / name, place / name)
    with closing(sqlite3.connect(place / "registry.db")) as database, database:
        database.execute("DELETE FROM smdl_registry_1")
        for row in fit:
            try:
                database.execute("INSERT INTO smdl_registry_1 VALUES (?, ?, ?, ?)", row)
            except (sqlite3.Error, OverflowError, UnicodeEncodeError):
                continue
    return registry_in(place)


def rows() -> bytes:
    with closing(sqlite3.connect(home() / "registry.db")) as database:
        return json.dumps(database.execute("SELECT * FROM smdl_registry_1").fetchall()).encode()


def read_database(content: bytes, place: Path) -> object:
    shutil.copyfile(home() / "registry.head", place / "registry.head")
    (place / "registry.db").write_bytes(content)
    return registry_in(place)


def envelope() -> bytes:
    said = {"previous": commitments.FIRST, "public_key": KEY.signing_key().public}
    return KEY.signing_key().sign({"key": "00" * 32}, commitments.OWNER_KIND, said)


def signed_again(content: bytes, _: Path) -> object:
    """A chain whose statement says anything, truly signed."""
    try:
        subjects, said = json.loads(content)
        signed = KEY.signing_key().sign(subjects, commitments.OWNER_KIND, said)
    except (ValueError, TypeError, AttributeError, RecursionError):
        return None
    return commitments.check_chain([signed], KEY.signing_key().public)


SUBJECT = querylog.Subject("00" * 8, 1, "11" * 32, 10, "http://suspect", "")


def query_log() -> bytes:
    with tempfile.TemporaryDirectory() as place:
        with querylog.opened(Path(place), KEY, SUBJECT) as log:
            log.append({3: 1})
            log.append({5: np.array([0.5, 0.25])})
        return (Path(place) / SUBJECT.file_name()).read_bytes()


def read_query_log(content: bytes, place: Path) -> object:
    (place / SUBJECT.file_name()).write_bytes(content)
    with querylog.opened(place, KEY, SUBJECT) as log:
        return log.rows


def ledger(path: Path) -> Ledger:
    return Ledger(path, cap=10.0, delta=1e-5)


def paid() -> Path:
    place = Path(tempfile.mkdtemp(prefix="smdl-fuzz-"))
    ledger(place / "images.jsonl").charge(Steps(30.0, 1.0, 10), run="a", server_round=1)
    return place


def read_ledger(name: str) -> Callable[[bytes, Path], object]:
    def reader(content: bytes, place: Path) -> object:
        shutil.copytree(paid_once(), place, dirs_exist_ok=True)
        (place / name).write_bytes(content)
        return ledger(place / "images.jsonl").read()

    return reader


paid_once = functools.cache(paid)


# ------------------------------------------------------------------------------------ other files


def state() -> weights.Weights:
    return {"w": np.ones((2, 3), np.float32), "b": np.zeros(2, np.float32)}


def save_checkpoint() -> bytes:
    with tempfile.TemporaryDirectory() as place:
        done = checkpoint.Checkpoint(3, state(), {"m_t/w": np.ones(2, np.float32)}, {}, "run")
        checkpoint.save(Path(place), done, "settings")
        return next(Path(place).rglob("round-*")).read_bytes()


def read_checkpoint(content: bytes, place: Path) -> object:
    (place / "checkpoint").mkdir()
    (place / "checkpoint" / "round-000003.safetensors").write_bytes(content)
    return checkpoint.load(place, "settings")


def scenario(path: Path) -> object:
    overrides = config.load_scenario(path)
    defaults = config.load_defaults(config.example_app_dir())
    return config.parse(config.merge(defaults, overrides, ()))


def picture(kind: str) -> Callable[[], bytes]:
    image = Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8))
    return written(lambda path: image.save(path, kind), f"image.{kind}")


def read_picture(path: Path) -> object:
    return image_folder.read_image(path, ImageFormat(1, 8)), image_folder.format_of(path, 0)


def federation() -> bytes:
    said = {"format": "smdl-federation/1", "server": "localhost", "port": 9092}
    return json.dumps({**said, "participants": ["clinic-a", "bank-b"]}).encode()


PRIVATE = ec.derive_private_key(7, ec.SECP384R1())
PEM = serialization.Encoding.PEM


def private_key() -> bytes:
    form = serialization.PrivateFormat.OpenSSH
    return PRIVATE.private_bytes(PEM, form, serialization.NoEncryption())


# ----------------------------------------------------------------------------- answers, messages


def answers(language: Language, count: int = 2) -> Callable[[bytes, Path], object]:
    return lambda content, _: language.answers(documents.parse(content), count)


def images_of(language: Language) -> Callable[[bytes, Path], object]:
    return lambda content, _: language.images(content, (1, 8, 8))


def request_of(language: Language) -> Callable[[], bytes]:
    return lambda: language.request(np.zeros((2, 1, 8, 8), np.uint8)).content


def fields(content: bytes, _: Path) -> object:
    try:
        record = ConfigRecord(json.loads(content))
    except (ValueError, TypeError, RecursionError, AttributeError):
        return None  # Flower itself does not take it
    return parcels.read(RecordDict({"delivery": record}), "challenge", "nonce")


def packed() -> bytes:
    (array,) = packing.pack(ArrayRecord({n: Array(a) for n, a in state().items()})).values()
    return array.data


def unpack(content: bytes, _: Path) -> object:
    array = Array(dtype="uint8", shape=(len(content),), stype="numpy.ndarray", data=content)
    return packing.unpack(ArrayRecord({packing.PACKED: array}), most=10_000)


def verdict() -> bytes:
    said = {
        "format": evidence.FORMAT,
        "not_shown": list(evidence.NOT_SHOWN),
        "participants": [],
        "accused": [],
    }
    return json.dumps(said).encode()


def check_verdict(content: bytes, _: Path) -> object:
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        return None
    if isinstance(document, dict):
        confirming.check_form(document)
    return None


PARTITION = {
    "format": "smdl-partition/1",
    "tensors": [{"name": "w", "shape": [2, 3], "label": "guarded", "sha256": None}],
}

TARGETS: dict[str, Target] = {
    "key file": Target(
        written(lambda p: keyfile.save(p, [KEY], None)),
        from_file(lambda p: keyfile.load(p, None)),
        changed_json,
    ),
    "home file": Target(
        written(lambda p: home_file.write(p.parent, home_file.Settings()), "home.json"),
        from_file(lambda p: home_file.read(p.parent), "home.json"),
        changed_json,
    ),
    "head of the registry": Target(lies(home, "registry.head"), read_head, changed_json),
    "rows of the registry": Target(rows, read_rows, changed_json),
    "database of the registry": Target(lies(home, "registry.db"), read_database),
    "signed statement": Target(
        envelope,
        lambda c, _: commitments.check_chain([c], KEY.signing_key().public),
        changed_json,
    ),
    "signer's claim": Target(envelope, lambda c, _: signing.claimed_key(c), changed_json),
    "what a true signer says": Target(
        as_json([{"key": "00" * 32}, {"previous": "", "public_key": KEY.signing_key().public}]),
        signed_again,
        changed_json,
    ),
    "time stamp": Target(
        (STAMPED / "response.tsr").read_bytes,
        lambda c, _: timestamps.check(c, (STAMPED / "statement.txt").read_bytes(), roots()),
    ),
    "certificates": Target((STAMPED / "root.pem").read_bytes, from_file(timestamps.load_roots)),
    "query log": Target(query_log, read_query_log),
    "ledger": Target(lies(paid_once, "images.jsonl"), read_ledger("images.jsonl")),
    "head of a ledger": Target(
        lies(paid_once, "images.head"), read_ledger("images.head"), changed_json
    ),
    "checkpoint": Target(save_checkpoint, read_checkpoint),
    "sealed model": Target(
        written(lambda p: handover.write(p, state(), {}, SEALER.public)),
        from_file(lambda p: handover.read(p, [SEALER])),
    ),
    "scenario": Target(SCENARIO.read_bytes, from_file(scenario)),
    "customers in CSV": Target(
        lambda: b"name,contact\nclinic-a,a@example.org\nbank-b,b\n", from_file(_read_csv)
    ),
    "federation": Target(
        federation, from_file(lambda p: folders.load(p.parent), "federation.json"), changed_json
    ),
    "node's public key": Target(
        nodekeys.public_half(PRIVATE).text.encode,
        lambda c, _: NodePublicKey.parse(c, "key"),
    ),
    "node's private key": Target(private_key, from_file(nodekeys.load_private)),
    "PNG image": Target(picture("png"), from_file(read_picture, "image.png")),
    "JPEG image": Target(picture("jpeg"), from_file(read_picture, "image.jpeg")),
    "header file": Target(lambda: b"Authorization: Bearer 1234\nX-A: b\n", from_file(headers.read)),
    "class names": Target(lambda: b"cat\ndog\nbird\n", from_file(documents.read_names)),
    "plain answers": Target(
        as_json({"format": "smdl-ask/1", "top": [{"3": 0.9, "5": 0.1}, {"1": 1.0}]}),
        answers(Plain()),
        changed_json,
    ),
    "KServe answers": Target(
        as_json(
            {
                "outputs": [
                    {"name": "o", "shape": [2, 2], "datatype": "FP32", "data": [0.1, 0.9, 1, 0]}
                ]
            }
        ),
        answers(Kserve()),
        changed_json,
    ),
    "TorchServe answers": Target(
        as_json({"3": 0.9, "5": 0.1}), answers(Torchserve(), 1), changed_json
    ),
    "plain request": Target(request_of(Plain()), images_of(Plain()), changed_json),
    "KServe request": Target(request_of(Kserve()), images_of(Kserve()), changed_json),
    "image of a request": Target(
        lambda: pixels.to_text(np.zeros((1, 8, 8), np.uint8)).encode(),
        lambda c, _: pixels.from_text(c.decode("latin-1"), (1, 8, 8)),
    ),
    "delivery": Target(as_json({"challenge": "ab", "nonce": "cd"}), fields, changed_json),
    "packed model": Target(packed, unpack, errors=(SmdlError, BlobError)),
    "verdict": Target(verdict, check_verdict, changed_json),
    "recorded answers": Target(
        as_json(
            {
                "format": recorded.FORMAT,
                "heard": [
                    {
                        **{"model_id": "00" * 8, "pool": 1, "labels": [1, 0]},
                        "probabilities": [[0.1, 0.9], [0.8, 0.2]],
                    }
                ],
            }
        ),
        lambda c, _: recorded.parse(json.loads(c)) if _is_json(c) else None,
        changed_json,
    ),
    "privacy partition": Target(
        as_json(PARTITION),
        lambda c, _: PrivacyPartition.from_json(json.loads(c)) if _is_json(c) else None,
        changed_json,
    ),
}


def _is_json(content: bytes) -> bool:
    try:
        json.loads(content)
    except (ValueError, RecursionError):
        return False
    return True


@functools.cache
def sample(name: str) -> bytes:
    return TARGETS[name].make()


def reads(name: str, content: bytes) -> bool:
    """Read, and return whether it was read; fails unless it ended as it may."""
    target = TARGETS[name]
    with tempfile.TemporaryDirectory() as place:
        try:
            target.read(content, Path(place))
        except target.errors:
            return False
    return True


@pytest.mark.parametrize("name", TARGETS)
def test_the_samples_are_read(name):
    assert reads(name, sample(name))


@pytest.mark.parametrize("name", TARGETS)
@given(seed=st.integers(0, 2**63))
@settings(max_examples=EXAMPLES)
def test_changed_content_is_read_or_our_own_error_says_why_not(name, seed):
    reads(name, TARGETS[name].change(sample(name), np.random.default_rng(seed)))


@pytest.mark.parametrize("name", TARGETS)
@given(content=st.binary(max_size=200))
@settings(max_examples=EXAMPLES // 3)
def test_any_bytes_are_read_or_our_own_error_says_why_not(name, content):
    reads(name, content)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", TARGETS)
def test_a_hundred_thousand_inputs_of_all_readers_end_as_they_may(name):
    rng = np.random.default_rng(13)
    for _ in range(SLOW_INPUTS // len(TARGETS) + 1):
        reads(name, TARGETS[name].change(sample(name), rng))
