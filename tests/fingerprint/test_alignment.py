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
from smdl_flower.fingerprint.codes import Code
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
    profile = sensitivity_profile(module, layout, (1, 28, 28), samples=30)
    key = OwnerKey(bytes(range(32))).campaign("0b" * 32)
    mark = Mark.of(base, profile, key, code=Code(LENGTH), strength=0.2)
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
        hidden = np.repeat(np.exp(rng.standard_normal(count // units.group)), units.group).astype(
            np.float32
        )
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


REWRITINGS: dict[str, Callable[[str, Weights, Generator], Weights]] = {
    "permuted": permute,
    "rescaled": rescale,
    "permuted and rescaled": symmetric,
    "split": split,
    "dummies": dummies,
    "composed": composed,
}


@pytest.mark.parametrize("rewriting", ["permuted", "rescaled"])
def test_the_rewritings_of_these_tests_change_no_output(net: Marked, rewriting: str) -> None:
    images = torch.rand(20, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    suspect = REWRITINGS[rewriting](net.name, net.copy, np.random.default_rng(2))
    spec = ModelSpec(net.name, channels=1, classes=10, image_size=28)
    with torch.no_grad():
        expected = models.from_weights(spec, net.copy)(images)
        found = models.from_weights(spec, suspect)(images)
    # GroupNorm adds 1e-5 to the variance, which a scale in front of it does not keep.
    assert float((found - expected).abs().max()) < 0.01 * float(expected.abs().max())


def test_an_unaltered_copy_comes_back_as_it_is(net: Marked) -> None:
    before = {name: array.copy() for name, array in net.copy.items()}
    aligned = net.align(net.copy)
    assert (aligned.label, aligned.matched) == ("none", 1.0)
    for name, array in before.items():
        assert np.array_equal(aligned.weights[name], array)
        assert np.array_equal(net.copy[name], array)


def test_a_permutation_is_undone_exactly(net: Marked) -> None:
    aligned = net.align(permute(net.name, net.copy, np.random.default_rng(3)))
    assert (aligned.label, aligned.matched) == ("permutation", 1.0)
    for name, array in net.copy.items():
        assert np.array_equal(aligned.weights[name], array), name


def test_a_rescaled_base_model_comes_back_within_rounding(net: Marked) -> None:
    aligned = net.align(symmetric(net.name, net.base, np.random.default_rng(3)))
    assert aligned.label == "permutation + rescaling"
    for tensor in net.mark.layout.tensors:
        difference = np.abs(aligned.weights[tensor.name] - net.base[tensor.name])
        assert difference.max() < 1e-5 * tensor.scale, tensor.name


@pytest.mark.parametrize("rewriting", REWRITINGS)
def test_a_rewritten_copy_keeps_its_score_and_all_its_bits(net: Marked, rewriting: str) -> None:
    suspect = REWRITINGS[rewriting](net.name, net.copy, np.random.default_rng(1))
    aligned = net.align(suspect)
    assert net.z(aligned.weights) >= 0.95 * net.z(net.copy)
    assert net.wrong_bits(aligned.weights) == 0
    assert aligned.matched == 1.0
    assert ("structure" in aligned.label) == (rewriting in ("split", "dummies", "composed"))


@pytest.mark.parametrize("rewriting", ["permuted and rescaled", "composed"])
@pytest.mark.parametrize(("alteration", "least"), [("noise .3", 0.95), ("noise 1", 0.9)])
def test_a_noisy_copy_can_be_rewritten_too(
    net: Marked, rewriting: str, alteration: str, least: float
) -> None:
    rng = np.random.default_rng(4)
    altered = noisy(net.copy, float(alteration.split()[1]), rng)
    assert net.ratio(REWRITINGS[rewriting](net.name, altered, rng), altered) >= least


@pytest.mark.parametrize(("fraction", "least"), [(0.5, 0.95), (0.8, 0.8)])
def test_a_pruned_copy_can_be_rewritten_too(net: Marked, fraction: float, least: float) -> None:
    altered = pruned(net.copy, fraction)
    suspect = symmetric(net.name, altered, np.random.default_rng(5))
    assert net.ratio(suspect, altered) >= least
    assert net.wrong_bits(net.align(suspect).weights) == 0


def test_removed_channels_are_erased_and_the_others_read(net: Marked) -> None:
    rng = np.random.default_rng(6)
    suspect = symmetric(net.name, without_channels(net.name, net.copy, rng), rng)
    aligned = net.align(suspect)
    assert 0.4 < aligned.matched < 0.55
    # A share s of a carrier's weights gives a share sqrt(s) of its score.
    assert net.z(aligned.weights) > 0.9 * np.sqrt(aligned.matched) * net.z(net.copy)


def test_names_that_say_nothing_are_found_out(net: Marked) -> None:
    rng = np.random.default_rng(7)
    suspect = symmetric(net.name, net.copy, rng)
    renamed = {f"t{i}": suspect[n] for i, n in enumerate(rng.permutation(list(suspect)))}
    aligned = net.align(renamed)
    assert aligned.label.startswith("renamed")
    assert net.z(aligned.weights) >= 0.95 * net.z(net.copy)


def test_a_prefix_of_a_framework_is_no_other_name(net: Marked) -> None:
    aligned = net.align({f"_orig_mod.module.{n}": a for n, a in net.copy.items()})
    assert aligned.label == "renamed"
    assert all(np.array_equal(aligned.weights[n], a) for n, a in net.copy.items())


def test_layers_that_exchanged_names_are_found_out(networks: dict[str, Marked]) -> None:
    net = networks["resnet8"]
    one, other = "block1.body.0.weight", "block1.body.3.weight"
    suspect = {**net.copy, one: net.copy[other], other: net.copy[one]}
    aligned = net.align(suspect)
    assert aligned.label == "renamed"
    assert np.array_equal(aligned.weights[one], net.copy[one])


@pytest.mark.parametrize(
    ("name", "layer"),
    [("cnn", "hidden.weight"), ("cnn", "features.6.weight"), ("resnet8", "block2.body.3.weight")],
)
def test_a_factorised_layer_is_multiplied_back(
    networks: dict[str, Marked], name: str, layer: str
) -> None:
    net = networks[name]
    suspect = factorised(symmetric(name, net.copy, np.random.default_rng(8)), layer)
    aligned = net.align(suspect)
    assert aligned.label == "low-rank + permutation + rescaling"
    assert net.z(aligned.weights) >= 0.95 * net.z(net.copy)


@pytest.mark.parametrize("classes", [7, 10])
def test_another_last_layer_is_erased(net: Marked, classes: int) -> None:
    rng = np.random.default_rng(9)
    columns_read = net.copy["head.weight"].shape[1]
    head = {
        "head.weight": rng.standard_normal((classes, columns_read), dtype=np.float32),
        "head.bias": np.zeros(classes, dtype=np.float32),
    }
    aligned = net.align(symmetric(net.name, {**net.copy, **head}, rng))
    assert not aligned.weights["head.weight"].any()
    assert net.z(aligned.weights) >= 0.95 * net.z(net.copy)


def test_padded_kernels_are_cut_back(net: Marked) -> None:
    suspect = {
        n: np.pad(a, ((0, 0), (0, 0), (1, 1), (1, 1))) if a.ndim == 4 else a
        for n, a in net.copy.items()
    }
    aligned = net.align(suspect)
    assert aligned.label == "structure"
    assert all(np.array_equal(aligned.weights[n], a) for n, a in net.copy.items())


def test_enormous_scales_are_undone(networks: dict[str, Marked]) -> None:
    net = networks["cnn"]
    suspect = {name: array.copy() for name, array in net.copy.items()}
    for name in ("hidden.weight", "hidden.bias"):
        suspect[name][:50] *= np.float32(1e18)
    suspect["head.weight"][:, :50] *= np.float32(1e-18)
    assert net.ratio(suspect, net.copy) >= 0.95


def test_four_hundred_innocents_scores_are_standard_after_alignment(net: Marked) -> None:
    rng = np.random.default_rng(10)
    other = models.to_weights(models.build(ModelSpec(net.name, 1, 10, 28), seed=99))
    suspects: list[Weights] = [
        net.copy,
        {n: np.asarray((net.copy[n] + other[n]) / 2, np.float32) for n in net.copy},
        noisy(net.copy, 2.0, rng),
    ]
    aligned = [net.align(symmetric(net.name, suspect, rng)).weights for suspect in suspects]
    directions = np.stack([extraction.read(net.mark, a).direction for a in aligned])
    table, size = carriers.value_table(), net.mark.layout.size
    innocents = (net.key.customer(f"innocent-{i}").stream("carrier") for i in range(400))
    scores = np.array([directions @ table[stream.uint16(size)] for stream in innocents])
    # Mean 0 with standard error 1/sqrt(400) = 0.05, deviation 1 with 1/sqrt(800) = 0.035.
    assert np.abs(scores.mean(axis=0)).max() < 4 * 0.05
    assert np.abs(scores.std(axis=0) - 1).max() < 4 * 0.035
    assert scores.max() < 5.2  # 1200 exp(-13.5) = 0.002


def test_an_unrelated_model_is_not_comparable(net: Marked) -> None:
    other = models.to_weights(models.build(ModelSpec(net.name, 1, 10, 28), seed=99))
    with pytest.raises(NotComparableError, match="counterpart"):
        net.align(other)


JUNK: dict[str, Callable[[NDArray[np.float32]], NDArray[np.float32]]] = {
    "zero": np.zeros_like,
    "largest": lambda a: np.full_like(a, 3e38),
    "more dimensions": lambda a: a[..., None],
    "fewer dimensions": np.ravel,
    "one row": lambda a: a[:1],
    "no row": lambda a: a[:0],
    "numbers": lambda a: a.ravel()[0],
}


@pytest.mark.parametrize("junk", JUNK)
def test_junk_is_not_comparable(net: Marked, junk: str) -> None:
    with pytest.raises(NotComparableError):
        net.align({n: np.asarray(JUNK[junk](a)) for n, a in net.copy.items()})
    with pytest.raises(NotComparableError):
        net.align({f"t{i}": np.asarray(JUNK[junk](a)) for i, a in enumerate(net.copy.values())})
    with pytest.raises(NotComparableError):
        net.align({})


def test_a_suspect_with_parts_of_any_shape_never_crashes(net: Marked) -> None:
    rng = np.random.default_rng(11)
    for _ in range(8):
        suspect = dict(net.copy)
        for name in rng.permutation(list(suspect))[:4]:
            way = JUNK[str(rng.choice(list(JUNK)))]
            suspect[str(name)] = np.asarray(way(suspect[str(name)]))
        try:
            aligned = net.align(suspect)
        except NotComparableError:
            continue
        assert all(np.isfinite(a).all() for a in aligned.weights.values())


class Turned(nn.Module):
    """A model whose structure no rule covers."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(30, 20)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.one(images).permute(1, 0)  # type: ignore[no-any-return]


def test_without_a_wiring_only_names_are_undone() -> None:
    module = Turned()
    base = models.to_weights(module)
    assert align(module, base, base).label == "none"
    aligned = align(module, base, {f"model.{n}": a for n, a in base.items()})
    assert aligned.label == "renamed"
    assert np.array_equal(aligned.weights["one.weight"], base["one.weight"])
    with pytest.raises(NotComparableError, match="structure"):
        align(module, base, {**base, "one.weight": base["one.weight"][:-1]})


def test_aligning_the_small_network_takes_less_than_two_seconds(net: Marked) -> None:
    suspect = composed(net.name, net.copy, np.random.default_rng(12))
    start = time.process_time()
    net.align(suspect)
    assert time.process_time() - start < 2.0


def test_the_modules_own_values_do_not_matter(net: Marked) -> None:
    spec = ModelSpec(net.name, channels=1, classes=10, image_size=28)
    other = dataclasses.replace(net, module=models.build(spec, seed=5))
    suspect = permute(net.name, net.copy, np.random.default_rng(13))
    assert other.align(suspect).label == "permutation"
