"""What was taught does not drown carriers, and no innocent is nearer to being named."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from smdl_flower.attacks import altering
from smdl_flower.fingerprint import carriers, codes, extraction
from smdl_flower.fingerprint.embedding import Mark, embed
from smdl_flower.fingerprint.keys import CampaignKey
from smdl_flower.fingerprint.layout import Layout
from smdl_flower.fingerprint.taught import Directions
from smdl_flower.weights import Weights

NAME, COLUMNS, COUNT = "conv.weight", 200, 10


@pytest.fixture(scope="module")
def directions() -> Directions:
    rng = np.random.default_rng(1)
    basis = np.linalg.qr(rng.standard_normal((COLUMNS, COUNT)))[0]
    return Directions(NAME, basis.astype(np.float32))


@pytest.fixture(scope="module")
def taught_mark(small_mark: Mark, directions: Directions) -> Mark:
    return replace(small_mark, taught=directions)


@pytest.fixture(scope="module")
def taught(small_base: Weights, directions: Directions) -> Weights:
    """The base model, changed in these directions by more than a standard deviation."""
    amounts = np.random.default_rng(2).standard_normal((32, COUNT)).astype(np.float32)
    added = 0.3 * np.sqrt(np.float32(1.5 * COLUMNS / COUNT)) * amounts @ directions.basis.T
    return {**small_base, NAME: small_base[NAME] + added.reshape(small_base[NAME].shape)}


@pytest.fixture(scope="module")
def copies(
    small_mark: Mark, small_key: CampaignKey, small_base: Weights, taught: Weights
) -> dict[str, Weights]:
    """A customer's copy, with and without queries."""
    layout, key = small_mark.layout, small_key.customer("guilty")
    return {
        name: layout.restore(host, embed(small_mark, key, layout.flatten(host)))
        for name, host in {"taught": taught, "plain": small_base}.items()
    }


def score(mark: Mark, key: CampaignKey, suspect: Weights) -> float:
    return carriers.score(key.customer("guilty"), extraction.read(mark, suspect).direction)


@pytest.mark.parametrize("left", [1.0, 0.5, 0.02])
def test_only_what_the_directions_cannot_explain_is_left(directions: Directions, left: float):
    layout = Layout.of({NAME: np.random.default_rng(3).random((32, 40, 5)).astype(np.float32)})
    rng = np.random.default_rng(4)
    kept = rng.random(layout.size) < left
    profile = np.ones(layout.size, np.float32)
    part = (rng.standard_normal((32, COUNT)).astype(np.float32) @ directions.basis.T).ravel()
    noise = rng.standard_normal(layout.size).astype(np.float32)
    explained = directions.without(part * kept, layout, profile, kept)
    assert np.abs(explained).max() < 1e-2
    alone = directions.without(noise * kept, layout, profile, kept)
    both = directions.without((part + noise) * kept, layout, profile, kept)
    assert np.allclose(alone, both, atol=0.02)
    assert not both[~kept].any()
    if left > 0.1:  # each row loses as many degrees of freedom as there are directions
        expected = kept.sum() - 32 * COUNT
        assert float(np.square(alone).sum()) == pytest.approx(expected, rel=0.06)


def test_a_carrier_is_as_strong_as_without_what_was_taught(
    small_mark: Mark, taught_mark: Mark, small_key: CampaignKey, copies: dict[str, Weights]
):
    plain = score(small_mark, small_key, copies["plain"])
    assert score(taught_mark, small_key, copies["taught"]) >= 0.9 * plain
    # The control: half of the weights, and what is in them is noise to a carrier.
    assert score(small_mark, small_key, copies["taught"]) <= 0.8 * plain


@pytest.mark.parametrize("alteration", ["pruned", "noisy", "rounded"])
def test_it_is_nearly_so_after_an_alteration(
    small_mark: Mark,
    taught_mark: Mark,
    small_key: CampaignKey,
    copies: dict[str, Weights],
    alteration: str,
):
    rng = np.random.default_rng(6)
    noise = {
        n: np.float32(0.1 * w.std()) * rng.standard_normal(w.shape, dtype=np.float32)
        for n, w in copies["plain"].items()
    }
    alter: Callable[[Weights], Weights] = {
        "pruned": lambda w: altering.prune(w, 0.3),
        "rounded": lambda w: altering.quantize(w, 8),
        "noisy": lambda w: {n: w[n] + noise[n] for n in w},
    }[alteration]
    plain = score(small_mark, small_key, alter(copies["plain"]))
    found = score(taught_mark, small_key, alter(copies["taught"]))
    blind = score(small_mark, small_key, alter(copies["taught"]))
    assert found >= 0.8 * plain
    assert found > 1.05 * blind


def test_the_payload_reads_without_error(
    taught_mark: Mark, small_key: CampaignKey, copies: dict[str, Weights]
):
    bits = extraction.read(taught_mark, copies["taught"]).bits
    word = codes.codeword(small_key.customer("guilty"), taught_mark.biases)
    assert (bits == word).all()


def test_innocents_scores_stay_standard(
    taught_mark: Mark, small_key: CampaignKey, copies: dict[str, Weights]
):
    table: NDArray[np.float32] = carriers.value_table()
    direction = extraction.read(taught_mark, copies["taught"]).direction
    found = np.array(
        [
            table[small_key.customer(f"innocent-{i}").stream("carrier").uint16(len(direction))]
            @ direction
            for i in range(2000)
        ]
    )
    # 2,000 independent scores of variance one: five deviations of mean and of spread.
    assert abs(found.mean()) < 5 / np.sqrt(2000)
    assert abs(found.std() - 1) < 5 / np.sqrt(4000)
