"""Suspects rewritten without changing what they compute are read as if they had not been.

The rewritings here are written by hand for the two networks, independently of the wiring that the
code under test derives.
"""

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from torch import nn

from smdl_flower import models
from smdl_flower.errors import NotComparableError
from smdl_flower.fingerprint import carriers, codes, extraction
from smdl_flower.fingerprint.alignment import Aligned, align
from smdl_flower.fingerprint.embedding import Mark, embed
from smdl_flower.fingerprint.keys import CampaignKey, OwnerKey
from smdl_flower.fingerprint.layout import Layout
from smdl_flower.fingerprint.profile import sensitivity_profile
from smdl_flower.models import ModelSpec
from smdl_flower.weights import Weights

LENGTH = 304


@dataclass(frozen=True)
class Units:
    """Hidden units by hand: who makes them, who normalises them, who reads them."""

    size: int
    makers: tuple[str, ...]  # convolutions or linear layers before a norm, or without one
    norms: tuple[str, ...]
    readers: tuple[str, ...]
    group: int = 1  # units that a GroupNorm keeps together
    unnormed: tuple[str, ...] = ()  # makers whose scale is the activations' own

    def rows(self) -> list[str]:
        return [*self.makers, *self.unnormed, *(f"{n}.{p}" for n in self.norms for p in WB)]


WB = ("weight", "bias")
CNN = (
    *(Units(24, (), (), ("features.3.weight",), 1, ("features.0.weight", "features.0.bias")),),
    *(Units(48, (), (), ("features.6.weight",), 1, ("features.3.weight", "features.3.bias")),),
    *(Units(64, (), (), ("hidden.weight",), 1, ("features.6.weight", "features.6.bias")),),
    *(Units(160, (), (), ("head.weight",), 1, ("hidden.weight", "hidden.bias")),),
)
RESNET = (
    Units(
        24,
        ("stem.0.weight", "block1.body.3.weight"),
        ("stem.1", "block1.body.4"),
        ("block1.body.0.weight", "block2.body.0.weight", "block2.shortcut.0.weight"),
        3,
    ),
    Units(24, ("block1.body.0.weight",), ("block1.body.1",), ("block1.body.3.weight",), 3),
    Units(48, ("block2.body.0.weight",), ("block2.body.1",), ("block2.body.3.weight",), 3),
    Units(
        48,
        ("block2.body.3.weight",),
        ("block2.body.4",),
        ("block3.body.0.weight", "block3.shortcut.0.weight"),
        3,
        ("block2.shortcut.0.weight",),
    ),
    Units(96, ("block3.body.0.weight",), ("block3.body.1",), ("block3.body.3.weight",), 3),
    Units(
        96,
        ("block3.body.3.weight",),
        ("block3.body.4",),
        ("head.weight",),
        3,
        ("block3.shortcut.0.weight",),
    ),
)
WIRED = {"cnn": CNN, "resnet8": RESNET}


@dataclass(frozen=True)
class Marked:
    """A network with a copy, and what its customer's key says of any suspect."""

    name: str
    module: nn.Module
    base: Weights
    mark: Mark
    key: CampaignKey
    copy: Weights

    def z(self, suspect: Weights, customer: str = "clinic-a") -> float:
        direction = extraction.read(self.mark, suspect).direction
        return carriers.score(self.key.customer(customer), direction)

    def wrong_bits(self, suspect: Weights) -> int:
        word = codes.codeword(self.key.customer("clinic-a"), self.mark.biases)
        return int((word != extraction.read(self.mark, suspect).bits).sum())

    def align(self, suspect: Weights) -> Aligned:
        aligned = align(self.module, self.base, suspect)
        assert {n: a.shape for n, a in aligned.weights.items()} == {
            n: a.shape for n, a in self.base.items()
        }
        return aligned

    def ratio(self, suspect: Weights, reference: Weights) -> float:
        return self.z(self.align(suspect).weights) / self.z(reference)


def marked(name: str) -> Marked:
    spec = ModelSpec(name, channels=1, classes=10, image_size=28)
    module = models.build(spec, seed=1)
    base = models.to_weights(module)
    rng = np.random.default_rng(1)
    for tensor in [n for n in base if base[n].ndim == 1]:  # as training would leave them
        noise = rng.standard_normal(base[tensor].shape, dtype=np.float32)
        base[tensor] = np.asarray(base[tensor] + np.float32(0.1) * noise, np.float32)
    models.load_weights(module, base)
    layout = Layout.of(base)
    profile = sensitivity_profile(module, layout, (1, 28, 28), samples=60)
    key = OwnerKey(bytes(range(32))).campaign("0b" * 32)
    mark = Mark.of(base, profile, key, length=LENGTH, strength=0.2)
    copy = layout.restore(base, embed(mark, key.customer("clinic-a")))
    return Marked(name, module, base, mark, key, copy)


@pytest.fixture(scope="module")
def networks() -> dict[str, Marked]:
    return {name: marked(name) for name in ("cnn", "resnet8")}


@pytest.fixture(params=["cnn", "resnet8"])
def net(networks: dict[str, Marked], request: pytest.FixtureRequest) -> Marked:
    return networks[request.param]


def columns(array: NDArray[np.float32], units: int) -> NDArray[np.float32]:
    return array.reshape(array.shape[0], units, -1)


def pick(weights: Weights, units: Units, order: NDArray[np.int64], gain: Weights | None) -> Weights:
    """Take units in this order; what is read of them is multiplied by the gain."""
    result = dict(weights)
    count = weights[units.rows()[0]].shape[0]
    for name in units.rows():
        result[name] = weights[name][order]
    for name in units.readers:
        read = columns(weights[name], count)[:, order]
        if gain is not None:
            read = read * gain[name][:, :, None]
        result[name] = np.asarray(
            read.reshape(read.shape[0], -1, *weights[name].shape[2:]), np.float32
        )
    return result


def permute(name: str, weights: Weights, rng: Generator) -> Weights:
    for units in WIRED[name]:
        count = weights[units.rows()[0]].shape[0]
        groups = rng.permutation(count // units.group)
        order = np.concatenate([g * units.group + rng.permutation(units.group) for g in groups])
        weights = pick(weights, units, order, None)
    return weights


def rescale(name: str, weights: Weights, rng: Generator) -> Weights:
    result = dict(weights)
    for units in WIRED[name]:
        count = weights[units.rows()[0]].shape[0]
        scale = np.exp(rng.standard_normal(count)).astype(np.float32)
        hidden = np.repeat(
            np.exp(rng.standard_normal(count // units.group)), units.group
        ).astype(np.float32)
        for tensor in units.makers:
            result[tensor] = (result[tensor].T * hidden).T
        for tensor in set(units.rows()) - set(units.makers):
            result[tensor] = (result[tensor].T * scale).T
        for tensor in units.readers:
            read = columns(result[tensor], count) / scale[None, :, None]
            result[tensor] = read.reshape(result[tensor].shape)
    return result


def split(name: str, weights: Weights, rng: Generator) -> Weights:
    """A third of the units become two or three, which share what is read of them."""
    for units in WIRED[name]:
        chosen = rng.permutation(units.size // units.group)[: units.size // units.group // 3]
        again = np.concatenate([chosen, chosen[: len(chosen) // 2]])
        extra = np.concatenate([g * units.group + np.arange(units.group) for g in again])
        order = np.concatenate([np.arange(units.size), extra])
        gain = {}
        for tensor in units.readers:
            shares = rng.uniform(0.5, 1.5, (weights[tensor].shape[0], len(order)))
            total = np.zeros((len(shares), units.size))
            np.add.at(total.T, order, shares.T)
            gain[tensor] = (shares / total[:, order]).astype(np.float32)
        weights = pick(weights, units, order, gain)
    return weights


def dummies(name: str, weights: Weights, rng: Generator) -> Weights:
    """Units that nobody listens to, and pairs that cancel."""
    for units in WIRED[name]:
        count = weights[units.rows()[0]].shape[0]
        extra = rng.permutation(count // units.group)[:4]
        again = np.concatenate([g * units.group + np.arange(units.group) for g in extra])
        order = np.concatenate([np.arange(count), again, again, again])
        gain = {}
        for tensor in units.readers:
            factors = np.zeros((weights[tensor].shape[0], len(order)), dtype=np.float32)
            factors[:, :count] = 1
            factors[:, count : count + len(again)] = 2
            factors[:, count + len(again) : count + 2 * len(again)] = -2
            gain[tensor] = factors
        weights = pick(weights, units, order, gain)
        for tensor in units.makers + units.unnormed:  # not copies of real units
            made = weights[tensor].copy()
            noise = rng.standard_normal(made[count : count + len(again)].shape, dtype=np.float32)
            made[count:] = np.tile(noise * made[:count].std(), (3,) + (1,) * (made.ndim - 1))
            weights[tensor] = made
    return weights


def composed(name: str, weights: Weights, rng: Generator) -> Weights:
    for change in (split, dummies, rescale, permute):
        weights = change(name, weights, rng)
    return weights


def symmetric(name: str, weights: Weights, rng: Generator) -> Weights:
    return rescale(name, permute(name, weights, rng), rng)


def noisy(weights: Weights, level: float, rng: Generator) -> Weights:
    return {
        n: np.asarray(
            a + level * a.std() * rng.standard_normal(a.shape) if a.ndim > 1 else a, np.float32
        )
        for n, a in weights.items()
    }


def pruned(weights: Weights, fraction: float) -> Weights:
    return {
        n: a * (np.abs(a) >= np.quantile(np.abs(a), fraction)) if a.ndim > 1 else a
        for n, a in weights.items()
    }


def without_channels(name: str, weights: Weights, rng: Generator) -> Weights:
    for units in WIRED[name]:
        groups = units.size // units.group
        left = np.sort(rng.permutation(groups)[: int(groups * 0.7)])
        order = np.concatenate([g * units.group + np.arange(units.group) for g in left])
        weights = pick(weights, units, order, None)
    return weights


def factorised(weights: Weights, name: str) -> Weights:
    array = weights[name]
    rank = min(array.shape[0], array[0].size)
    left, values, right = np.linalg.svd(array.reshape(array.shape[0], -1), full_matrices=False)
    stem = name.removesuffix(".weight")
    first = right[:rank].reshape(rank, *array.shape[1:])
    second = (left * values).reshape(array.shape[0], rank, *([1] * (array.ndim - 2)))
    result = {n: a for n, a in weights.items() if n != name}
    result |= {f"{stem}.0.weight": np.asarray(first), f"{stem}.1.weight": np.asarray(second)}
    if f"{stem}.bias" in result:
        result[f"{stem}.1.bias"] = result.pop(f"{stem}.bias")
    return result
