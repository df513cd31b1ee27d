"""A second reader of fingerprints, written from docs/formats.md alone, agrees with the product.

Nothing of smdl_flower is used to read: not its keys, not its arithmetic. What this file needs and
docs/formats.md does not say is a gap in that page.
"""

import base64
import hashlib
import hmac
import json
import math
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF, HKDFExpand
from numpy.typing import NDArray
from safetensors.numpy import load_file
from scipy.special import ndtri

from smdl_flower import issuing, models, verifying
from smdl_flower.attacks import altering
from smdl_flower.config import FingerprintConfig
from smdl_flower.flower.marking import OwnerMarker
from smdl_flower.home import OwnerHome
from smdl_flower.issuing import FidelityGate
from smdl_flower.models import ModelSpec
from smdl_flower.weights import write

Vector = NDArray[np.float64]
CUSTOMERS = ("clinic-a", "bank-b")


@pytest.fixture(scope="module")
def issued(tmp_path_factory):
    folder = tmp_path_factory.mktemp("independent")
    home = OwnerHome.create(folder / "home")
    home.registry.add_customers(CUSTOMERS)
    spec = ModelSpec("cnn", channels=1, classes=4, image_size=8)
    config = FingerprintConfig(
        where="server",
        code_length=300,
        code="flat",
        code_coalition=4,
        strength=0.2,
        max_accuracy_drop=0.0,
        queries=0,
        query_pools=1,
        imprint_images=False,
        demo_customers=0,
    )
    base = models.to_weights(models.build(spec, seed=3))
    campaign = issuing.open_campaign(home, spec, base, config, FidelityGate(None, 0.0))
    list(issuing.issue(home, campaign, CUSTOMERS, folder / "copies"))
    return folder, home, campaign.model.model_id


def expand(key: bytes, label: str) -> bytes:
    return HKDFExpand(SHA256(), 32, label.encode()).derive(key)


def stream(key: bytes, label: str, count: int, kind: str) -> NDArray[Any]:
    cipher = Cipher(algorithms.AES256(expand(key, f"smdl/1 stream/{label}")), modes.CTR(bytes(16)))
    zeros = bytes(count * np.dtype(kind).itemsize)
    return np.frombuffer(cipher.encryptor().update(zeros), kind)


def digest(weights: dict[str, NDArray[Any]]) -> str:
    total = hashlib.sha256(b"smdl-weights/1")
    for name in sorted(weights):
        total.update(json.dumps([name, list(weights[name].shape)]).encode())
        total.update(weights[name].astype("<f4").tobytes())
    return total.hexdigest()


def carrier_table() -> Vector:
    quantiles = ndtri(np.arange(65_537) / 65_536)
    density = np.exp(-(quantiles**2) / 2) / math.sqrt(2 * math.pi)
    means = 65_536 * (density[:-1] - density[1:])
    half = np.nextafter(means[32_768:].astype(np.float32), np.float32(0)).astype(np.float64)
    return np.concatenate([-half[::-1], half])


@dataclass
class Reader:
    """The mark of one base model, rebuilt from the files in a home."""

    home: Path
    model_id: str

    def __post_init__(self) -> None:
        folder = self.home / "vault" / self.model_id
        self.base = load_file(folder / "base.safetensors")
        profile = load_file(folder / "profile.safetensors")
        manifest = json.loads((folder / "model.json").read_text())
        assert digest(self.base) == manifest["base_sha256"]
        assert digest(profile) == manifest["profile_sha256"]
        self.master = base64.b64decode(json.loads((self.home / "master.key").read_text())["key"])
        salt = bytes.fromhex(digest(self.base))
        self.campaign = HKDF(SHA256(), 32, salt, b"smdl/1 campaign").derive(self.master)
        self.length, self.alpha = manifest["code_length"], manifest["strength"]
        self.names = [
            name
            for name in sorted(self.base)
            if self.base[name].ndim >= 2 and self.base[name].std(dtype=np.float64) > 0
        ]
        deviations = {n: np.full_like(a, a.std(dtype=np.float64)) for n, a in self.base.items()}
        self.scale, self.phi, self.w0 = map(self.flat, (deviations, profile, self.base))
        words = stream(self.campaign, "payload", len(self.w0), "<u4").astype(np.uint64)
        self.signed = (1.0 - 2.0 * (words % 2)) * self.phi
        self.groups = ((words // 2) * self.length >> np.uint64(31)).astype(np.int64)
        self.norms = np.sqrt(self.by_group(self.phi**2))

    def flat(self, weights: dict[str, NDArray[Any]]) -> Vector:
        return np.concatenate([weights[name].ravel() for name in self.names]).astype(np.float64)

    def by_group(self, values: Vector) -> Vector:
        return np.bincount(self.groups, values, self.length).astype(np.float64)

    def soft_bits(self, weights: Vector) -> Vector:
        return self.by_group(self.signed * weights / self.scale) / self.norms

    def customer(self, name: str) -> tuple[NDArray[np.bool_], Vector]:
        key = expand(self.campaign, f"smdl/1 customer/{name}")
        word = stream(key, "codeword", self.length, "<u2") < 32_768
        return word, carrier_table()[stream(key, "carrier", len(self.w0), "<u2")]

    def copy(self, name: str) -> Vector:
        word, carrier = self.customer(name)
        energy = self.alpha**2 / 2
        size = math.sqrt(energy * len(self.w0) / self.length - 1)
        marked = self.w0 + math.sqrt(energy) * self.phi * self.scale * carrier
        shifts = (size * (2.0 * word - 1) - self.soft_bits(marked)) / self.norms
        return np.asarray(marked + self.signed * self.scale * shifts[self.groups])

    def bounded(self, weights: Vector) -> Vector:
        kept = weights != 0
        x = np.where(kept, (weights - self.w0) / self.scale, 0.0)
        result = np.zeros_like(x)
        for chosen in self.bins(kept):
            bound = max(10 * 1.4826 * np.median(np.abs(x[chosen])), 0.001)
            result[chosen] = np.clip(x[chosen], -bound, bound)
        return result

    def payload(self, weights: Vector) -> Vector:
        bounded = self.w0 + self.scale * self.bounded(weights)
        return self.soft_bits(np.where(weights != 0, bounded, 0.0))

    def bins(self, kept: NDArray[np.bool_]) -> list[NDArray[np.int64]]:
        found, position = [], 0
        for name in self.names:
            size = self.base[name].size
            phi = self.phi[position : position + size].astype(np.float32)
            numbers = np.searchsorted(np.quantile(phi, np.arange(1, 16) / 16), phi)
            here = kept[position : position + size]
            found += [position + np.flatnonzero((numbers == n) & here) for n in range(16)]
            position += size
        return [chosen for chosen in found if len(chosen) >= 8]

    def direction(self, weights: Vector) -> Vector:
        kept = weights != 0
        x = self.bounded(weights)
        shares = self.by_group(self.signed * x) / self.by_group(self.phi**2 * kept)
        x -= np.where(kept, self.signed * shares[self.groups], 0.0)
        result, ends = np.zeros_like(x), np.cumsum([self.base[name].size for name in self.names])
        by_tensor: dict[int, list[tuple[NDArray[np.int64], Vector, float]]] = {}
        for chosen in self.bins(kept):
            v = x[chosen] - np.median(x[chosen])
            spread = 1.4826 * np.median(np.abs(v))
            spread = max(spread, math.sqrt(np.mean(v**2)) / 1000, 1e-12)
            tensor = int(np.searchsorted(ends, chosen[0], side="right"))
            by_tensor.setdefault(tensor, []).append((chosen, v / spread, spread))
        for members in by_tensor.values():
            f = law(np.concatenate([u for _, u, _ in members]))
            for chosen, u, spread in members:
                result[chosen] = self.phi[chosen] * f(u) / spread
        return np.asarray(result / np.linalg.norm(result) / 1.000001)


def law(values: Vector) -> Callable[[Vector], Vector]:
    within = values[np.abs(values) <= 6]
    counts = np.histogram(within, bins=241, range=(-6.025, 6.025))[0].astype(float)
    width = 0.2 * max(1.0, (len(values) / 100_000) ** -0.2)
    steps = 0.05 * np.arange(-round(80 * width), round(80 * width) + 1)
    kernel = np.exp(-(steps**2) / (2 * width**2))
    kernel /= kernel.sum()
    smooth = np.convolve(counts, kernel, "full")[len(steps) // 2 :][:241]
    slope = np.convolve(counts, -steps / width**2 * kernel, "full")[len(steps) // 2 :][:241]
    f = -slope / (smooth + 2)
    return lambda u: np.where(np.abs(u) > 6, 0.0, f[np.rint(u.clip(-6, 6) * 20 + 120).astype(int)])


def payload_score(soft_bits: Vector, word: NDArray[np.bool_]) -> int:
    limit = 2 * np.quantile(np.abs(soft_bits), 0.75)
    clipped = np.clip(soft_bits, -limit, limit)
    return int(np.rint(127 * clipped / np.abs(clipped).max()).astype(int)[word].sum())


def test_a_copy_is_what_the_page_says(issued):
    folder, home, model_id = issued
    reader = Reader(home.path, model_id)
    for name in CUSTOMERS:
        copy = load_file(folder / "copies" / f"{name}.safetensors")
        np.testing.assert_allclose(reader.copy(name), reader.flat(copy), atol=1e-6)


@pytest.mark.parametrize(("pruned", "factor"), [(0.0, 1), (0.5, 1), (0.0, 1e5)])
def test_both_readers_read_the_same(issued, tmp_path, pruned, factor):
    folder, home, model_id = issued
    reader = Reader(home.path, model_id)
    suspect = altering.prune(load_file(folder / "copies" / "clinic-a.safetensors"), pruned)
    suspect["hidden.weight"][5] *= np.float32(factor)
    write(tmp_path / "suspect.safetensors", suspect)
    verdict = verifying.verify(home, tmp_path / "suspect.safetensors")
    weights = reader.flat(suspect)
    soft_bits = reader.payload(weights)
    assert "".join("01"[bit] for bit in (soft_bits > 0).astype(int)) == verdict.payload.bits
    scores = [float(reader.customer(n)[1] @ reader.direction(weights)) for n in CUSTOMERS]
    np.testing.assert_allclose(sorted(scores), verdict.carrier_scores, atol=0.05)
    accused = verdict.accused[0]
    assert accused.customer == "clinic-a"
    found = {witness.test: witness.score for witness in accused.witnesses}
    word, _ = reader.customer("clinic-a")
    # A soft bit on the edge of a rounding step may go either way.
    assert found["symmetric"] == pytest.approx(payload_score(soft_bits, word), abs=3)
    assert found["oosterwijk"] == 127 * int(np.sign(soft_bits)[word].sum())


def test_the_registry_is_chained_as_the_page_says(issued):
    _, home, model_id = issued
    key = expand(Reader(home.path, model_id).master, "smdl/1 mac/registry")
    connection = sqlite3.connect(home.path / "registry.db")
    try:
        rows = connection.execute("select * from smdl_registry_1 order by number").fetchall()
    finally:
        connection.close()
    mac = bytes(32)
    for number, kind, body, stored in rows:
        text = json.dumps(["smdl-registry/1", number, kind, body])
        mac = hmac.digest(key, mac + text.encode(), "sha256")
        assert mac.hex() == stored
    published = ["commitment"] * 2
    assert [row[1] for row in rows] == ["customer", "customer", "model", *published, "copy", "copy"]
    head = json.loads((home.path / "registry.head").read_text())
    sealing = expand(Reader(home.path, model_id).master, "smdl/1 mac/registry-head")
    text = json.dumps(["smdl-registry/1", len(rows), mac.hex()])
    seal = hmac.digest(sealing, text.encode(), "sha256").hex()
    expected = {"format": "smdl-registry/1", "entries": len(rows), "mac": mac.hex()}
    assert head == {**expected, "seal": seal}


def campaign_of(home: Path, model: dict[str, NDArray[Any]]) -> bytes:
    master = base64.b64decode(json.loads((home / "master.key").read_text())["key"])
    salt = bytes.fromhex(digest(model))
    return HKDF(SHA256(), 32, salt, b"smdl/1 campaign").derive(master)


def word(campaign: bytes, node: str, size: int) -> Vector:
    key = expand(campaign, f"smdl/1 customer/training/{node}")
    return np.asarray(carrier_table()[stream(key, "carrier", size, "<u2")], dtype=np.float64)


def test_models_sent_in_training_are_marked_and_read_as_the_page_says(tmp_path):
    home = OwnerHome.create(tmp_path / "home")
    spec = ModelSpec("cnn", channels=1, classes=4, image_size=8)
    model = models.to_weights(models.build(spec, seed=3))
    names = [n for n in sorted(model) if model[n].ndim >= 2]
    rng = np.random.default_rng(1)
    later = {n: a + np.float32(0.05) * rng.standard_normal(a.shape, "f4") for n, a in model.items()}
    marker = OwnerMarker(home, spec, "trial", 0.1)
    sent = marker.open(1, model, [5, 6]).mark(6)
    marker.open(2, later, [])
    campaign = campaign_of(home.path, model)
    carrier, start, scores = word(campaign, "6", sum(model[n].size for n in names)), 0, np.zeros(2)
    lengths = np.zeros(2)
    for name in names:
        scale, size = model[name].std(dtype=np.float64), model[name].size
        g, start = carrier[start : start + size], start + size
        x = (sent[name] - model[name]).ravel().astype(np.float64) / scale
        np.testing.assert_allclose(x, 0.1 * g, atol=1e-4)
        step = (later[name] - model[name]).ravel().astype(np.float64) / scale
        for i, v in enumerate((x, x - step * (step @ x) / (step @ step))):
            centred = v - np.median(v)
            spread = 1.4826 * np.median(np.abs(centred))
            q = law(centred / spread)(centred / spread) / spread
            scores[i] += g @ q
            lengths[i] += q @ q
    z = min(scores / np.sqrt(lengths) / 1.000001)
    write(tmp_path / "leak.safetensors", sent)
    (named,) = verifying.verify(home, tmp_path / "leak.safetensors").participants
    assert (named.node, named.round, named.run) == ("6", 1, "trial")
    assert named.score == pytest.approx(z, rel=1e-3)


def test_what_a_reply_holds_of_its_word_is_taken_out_as_the_page_says(tmp_path):
    home = OwnerHome.create(tmp_path / "home")
    spec = ModelSpec("cnn", channels=1, classes=4, image_size=8)
    model = models.to_weights(models.build(spec, seed=3))
    broadcast = OwnerMarker(home, spec, "trial", 0.1).open(1, model, [6])
    sent = broadcast.mark(6)
    reply = {n: (a + 0.01 * np.cos(a)).astype(np.float32) for n, a in sent.items()}
    used = broadcast.take_out(6, reply)
    campaign = campaign_of(home.path, model)
    names = [n for n in sorted(model) if model[n].ndim >= 2]
    carrier, start = word(campaign, "6", sum(model[n].size for n in names)), 0
    for name in sorted(model):
        expected = reply[name].ravel().astype(np.float64)
        if name in names:
            g, start = carrier[start : start + model[name].size], start + model[name].size
            update = expected - model[name].ravel()
            expected -= g * (update @ g) / (g @ g)
        np.testing.assert_allclose(used[name].ravel(), expected, atol=1e-6)
