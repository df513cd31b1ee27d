"""Reading suspects: traitors are found after alterations; innocents never are."""

from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from smdl_flower.attacks import altering, collusion
from smdl_flower.errors import NotComparableError
from smdl_flower.fingerprint import carriers, codes, extraction
from smdl_flower.fingerprint.accusation import Level, PayloadTest
from smdl_flower.fingerprint.carriers import sum_by_group
from smdl_flower.fingerprint.codes import Code
from smdl_flower.fingerprint.embedding import Mark, embed
from smdl_flower.fingerprint.keys import CampaignKey, OwnerKey
from smdl_flower.fingerprint.layout import Layout
from smdl_flower.fingerprint.profile import uniform_profile
from smdl_flower.home import OwnerHome
from smdl_flower.issuing import Campaign
from smdl_flower.weights import Weights

INNOCENTS = tuple(f"innocent-{i}" for i in range(2000))
THRESHOLD = Level(total=1e-6, words=2000, hypotheses=2).carrier_threshold()  # 6.65


@pytest.fixture(scope="session")
def copy_of(small_base: Weights, small_mark: Mark, small_key: CampaignKey) -> dict[str, Weights]:
    """Five customers' copies of the small model."""
    names = [f"customer-{i}" for i in range(5)]
    return {
        name: small_mark.layout.restore(small_base, embed(small_mark, small_key.customer(name)))
        for name in names
    }


@pytest.fixture(scope="session")
def innocent_carriers(small_mark: Mark, small_key: CampaignKey) -> NDArray[np.float32]:
    """The carriers of 2,000 customers who never got a copy, ``(2000, d)``."""
    size = small_mark.layout.size
    table = carriers.value_table()
    return np.stack(
        [table[small_key.customer(n).stream("carrier").uint16(size)] for n in INNOCENTS]
    )


def scores(mark: Mark, key: CampaignKey, suspect: Weights, names: Iterable[str]) -> list[float]:
    direction = extraction.read(mark, suspect).direction
    return [carriers.score(key.customer(name), direction) for name in names]


def highest(mark: Mark, innocents: NDArray[np.float32], suspect: Weights) -> float:
    return float((innocents @ extraction.read(mark, suspect).direction).max())


@pytest.mark.parametrize("alteration", ["none", "pruned", "noisy", "averaged", "scaled", "forged"])
def test_two_thousand_innocents_scores_are_standard_and_accuse_nobody(
    small_mark: Mark,
    innocent_carriers: NDArray[np.float32],
    copy_of: dict[str, Weights],
    alteration: str,
) -> None:
    copy = copy_of["customer-0"]
    rng = np.random.default_rng(3)
    suspects: dict[str, Weights] = {
        "none": copy,
        "pruned": altering.prune(copy, 0.8),
        "noisy": altering.add_noise(copy, 1.0, seed=2),
        "averaged": collusion.average(list(copy_of.values())),
        "scaled": {name: 50 * array for name, array in copy.items()},
        "forged": {
            name: np.asarray(rng.standard_cauchy(array.shape), np.float32)
            for name, array in copy.items()
        },
    }
    direction = extraction.read(small_mark, suspects[alteration]).direction
    found = innocent_carriers.astype(np.float64) @ direction
    # Mean 0 with standard error 1/sqrt(2000) = 0.0224, deviation 1 with 1/sqrt(4000) = 0.0158.
    assert abs(np.mean(found)) < 5 * 0.0224
    assert abs(np.std(found) - 1) < 5 * 0.0158
    assert found.max() < THRESHOLD
    for t in (1.5, 2.5):  # the theorem's own bound, five standard deviations of the count above
        bound = 2000 * float(np.exp(-t * t / 2))
        assert int((found >= t).sum()) <= bound + 5 * bound**0.5


def test_a_fresh_copy_is_its_customers_beyond_doubt(
    small_mark: Mark, small_key: CampaignKey, copy_of: dict[str, Weights]
) -> None:
    for name, copy in copy_of.items():
        reading = extraction.read(small_mark, copy)
        # x = a g in the 12,768 dimensions beside the payload, so z is near sqrt(d) = 113, with
        # deviation 0.7 (of the norm of g); clipping at three deviations costs below 1 %.
        assert carriers.score(small_key.customer(name), reading.direction) > 113 * 0.99 - 5 * 0.7
        word = codes.codeword(small_key.customer(name), small_mark.biases)
        assert np.array_equal(reading.bits, word)
        assert reading.erased == 0.0
        assert not reading.equals_base


@pytest.mark.parametrize(
    "alteration", ["fp16", "8 bits", "4 bits", "pruned 50 %", "noise 0.3", "pruned and noisy"]
)
def test_an_altered_copy_accuses_its_customer_alone(
    issued_home: OwnerHome, campaign: Campaign, copies: dict[str, Weights], alteration: str
) -> None:
    copy = copies["clinic-c"]
    suspects = {
        "fp16": {n: a.astype(np.float16).astype(np.float32) for n, a in copy.items()},
        "8 bits": altering.quantize(copy, 8),
        "4 bits": altering.quantize(copy, 4),
        "pruned 50 %": altering.prune(copy, 0.5),
        "noise 0.3": altering.add_noise(copy, 0.3, seed=1),
        "pruned and noisy": altering.add_noise(altering.prune(copy, 0.3), 0.1, seed=1),
    }
    key = campaign.model.key(issued_home.key)
    reading = extraction.read(campaign.mark, suspects[alteration])
    found = {n: carriers.score(key.customer(n), reading.direction) for n in copies}
    # The bars of whitebox.md section 10, half of what was measured there: z >= 50, BER <= 1 %.
    assert found.pop("clinic-c") >= 50
    assert max(found.values()) < THRESHOLD
    word = codes.codeword(key.customer("clinic-c"), campaign.mark.biases)
    assert int((reading.bits != word).sum()) <= 3
    test = PayloadTest(reading.soft_bits, campaign.mark.biases)
    assert test.log_p(test.score(word)) < Level(1e-6, 8, 2).log_p()


def test_averaging_five_copies_accuses_all_five_and_no_innocent(
    small_mark: Mark,
    small_key: CampaignKey,
    copy_of: dict[str, Weights],
    innocent_carriers: NDArray[np.float32],
) -> None:
    average = collusion.average(list(copy_of.values()))
    # z = sqrt(d) / sqrt(c) = 50 for each of c = 5 equal shares, with deviation 1.
    assert min(scores(small_mark, small_key, average, copy_of)) > 50 * 0.99 - 5
    assert highest(small_mark, innocent_carriers, average) < THRESHOLD


def test_three_colluders_majority_minority_and_extremes_accuse_no_innocent(
    small_mark: Mark,
    small_key: CampaignKey,
    copy_of: dict[str, Weights],
    innocent_carriers: NDArray[np.float32],
) -> None:
    three = [copy_of[f"customer-{i}"] for i in range(3)]
    stacks = {name: np.stack([copy[name] for copy in three]) for name in three[0]}
    merged: dict[str, Weights] = {
        "median": {n: np.median(s, axis=0).astype(np.float32) for n, s in stacks.items()},
        "smallest": {n: s.min(axis=0) for n, s in stacks.items()},
        "largest": {n: s.max(axis=0) for n, s in stacks.items()},
        "minority": {n: s.min(0) + s.max(0) - np.median(s, axis=0) for n, s in stacks.items()},
    }
    for suspect in merged.values():
        guilty = scores(small_mark, small_key, suspect, ("customer-0", "customer-1", "customer-2"))
        assert max(guilty) > THRESHOLD
        innocent = scores(small_mark, small_key, suspect, ("customer-3", "customer-4"))
        assert max(innocent) < THRESHOLD
        assert highest(small_mark, innocent_carriers, suspect) < THRESHOLD


@pytest.mark.parametrize("origin", ["w0", "unrelated", "another owner's", "another campaign's"])
def test_a_model_that_is_no_customers_accuses_nobody(
    small_base: Weights,
    small_mark: Mark,
    small_key: CampaignKey,
    innocent_carriers: NDArray[np.float32],
    origin: str,
) -> None:
    rng = np.random.default_rng(77)
    suspect: Weights
    match origin:
        case "w0":
            suspect = small_base
        case "unrelated":
            suspect = {
                name: array.std() * rng.standard_normal(array.shape, dtype=np.float32)
                for name, array in small_base.items()
            }
        case _:
            other = (
                OwnerKey(b"\x01" * 32).campaign("5a" * 32)
                if origin == "another owner's"
                else OwnerKey(bytes(32)).campaign("5b" * 32)
            )
            profile = uniform_profile(Layout.of(small_base))
            mark = Mark.of(small_base, profile, other, code=Code(32), strength=0.2)
            suspect = mark.layout.restore(small_base, embed(mark, other.customer("innocent-7")))
    assert highest(small_mark, innocent_carriers, suspect) < THRESHOLD
    reading = extraction.read(small_mark, suspect)
    test = PayloadTest(reading.soft_bits, small_mark.biases)
    words = (codes.codeword(small_key.customer(n), small_mark.biases) for n in INNOCENTS)
    level = Level(total=1e-6, words=2000, hypotheses=2)
    assert min(test.log_p(test.score(word)) for word in words) > level.log_p()


def test_the_base_itself_gives_no_direction(small_base: Weights, small_mark: Mark) -> None:
    reading = extraction.read(small_mark, small_base)
    assert reading.equals_base
    assert not reading.direction.any()


def test_a_direction_has_length_one_and_nothing_where_weights_are_zero(
    small_mark: Mark, copy_of: dict[str, Weights]
) -> None:
    pruned = altering.prune(copy_of["customer-0"], 0.4)
    reading = extraction.read(small_mark, pruned)
    # 12,800 float32 values, each to 6e-8; never longer than one, so that no score is overstated.
    assert 1 - 2e-6 < float(np.linalg.norm(reading.direction.astype(float))) < 1
    zero = small_mark.layout.flatten(pruned) == 0.0
    assert reading.erased == np.mean(zero) == 0.4
    assert not reading.direction[zero].any()
    assert (reading.direction != 0.0).mean() > 0.59


def test_what_all_copies_share_does_not_enter_the_direction(
    small_mark: Mark, small_base: Weights
) -> None:
    spreading = small_mark.spreading
    change = 0.1 * spreading.signed_profile  # all payload bits one, and no carrier at all
    for tensor in small_mark.layout.tensors:
        change[tensor.where] *= tensor.scale
    rng = np.random.default_rng(0)
    noise = np.empty_like(change)
    for tensor in small_mark.layout.tensors:
        size = tensor.stop - tensor.start
        noise[tensor.where] = 0.1 * tensor.scale * rng.standard_normal(size)
    suspect = small_mark.layout.restore(small_base, small_mark.base + noise + change)
    plain = small_mark.layout.restore(small_base, small_mark.base + noise)
    ours, theirs = (extraction.read(small_mark, s).direction for s in (suspect, plain))
    # Equal but for float32 rounding of weights of size 4 s against deviations of 0.1 s: 3e-6 each.
    assert float(ours.astype(float) @ theirs.astype(float)) > 1 - 1e-5
    sums = sum_by_group(spreading.groups, ours * spreading.signed_profile, 32) / spreading.norms
    # The estimated law of 6,400 values departs from x by some 15 %, of which 1/sqrt(d) falls into
    # each group's direction: 1.3e-3. Had the shared part stayed: 1/sqrt(2 x 32) = 0.125.
    assert np.abs(sums).max() < 5 * 1.3e-3


@settings(max_examples=25)
@given(st.integers(0, 2**32), st.floats(-8, 3))
def test_any_finite_suspect_gives_finite_soft_bits_and_a_direction_of_length_one_or_zero(
    small_mark: Mark, small_base: Weights, seed: int, magnitude: float
) -> None:
    rng = np.random.default_rng(seed)
    suspect = {
        name: np.asarray(array + 10**magnitude * rng.standard_t(1.5, array.shape), np.float32)
        for name, array in small_base.items()
    }
    reading = extraction.read(small_mark, suspect)
    assert np.isfinite(reading.soft_bits).all()
    length = float(np.linalg.norm(reading.direction.astype(float)))
    assert 1 - 2e-6 < length < 1 or length == 0.0


@pytest.mark.parametrize(("zeros", "refused"), [(0.99, False), (0.997, True), (1.0, True)])
def test_a_suspect_of_which_nearly_nothing_is_left_is_not_judged(
    small_mark: Mark, copy_of: dict[str, Weights], zeros: float, refused: bool
) -> None:
    suspect = dict(copy_of["customer-0"])
    for name in ("conv.weight", "fc.weight"):
        flat = suspect[name].ravel().copy()
        flat[: int(len(flat) * zeros)] = 0.0
        suspect[name] = flat.reshape(suspect[name].shape)
    if refused:
        with pytest.raises(NotComparableError, match=r"99\.7%|100\.0%"):
            extraction.read(small_mark, suspect)
    else:
        assert extraction.read(small_mark, suspect).erased == pytest.approx(0.99)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fc.weight": np.zeros((40, 160), np.float32)}, r"1 of 2 .*fc\.weight.*\[40, 160\]"),
        ({"conv.weight": np.zeros(6_400, np.float32)}, r"1 of 2 .*conv\.weight.*\[6400\]"),
        ({"fc.weight": None}, r"1 of 2 .*fc\.weight \[80, 80\] \(found none\)"),
        ({"fc.weight": None, "conv.weight": None}, r"2 of 2 .*conv\.weight.*fc\.weight"),
    ],
)
def test_other_shapes_are_not_comparable_and_the_tensor_is_named(
    small_mark: Mark,
    small_base: Weights,
    change: dict[str, NDArray[np.float32] | None],
    message: str,
) -> None:
    changed = {name: array for name, array in small_base.items() if name not in change}
    changed |= {name: array for name, array in change.items() if array is not None}
    with pytest.raises(NotComparableError, match=message):
        extraction.read(small_mark, changed)


def test_tensors_that_carry_no_mark_are_ignored(
    small_mark: Mark, copy_of: dict[str, Weights]
) -> None:
    copy = copy_of["customer-0"]
    changed = {**copy, "fc.bias": np.zeros(1, np.float32), "extra": np.ones((2, 2), np.float32)}
    ours, theirs = extraction.read(small_mark, copy), extraction.read(small_mark, changed)
    assert np.array_equal(ours.direction, theirs.direction)
    assert np.array_equal(ours.soft_bits, theirs.soft_bits)


def test_a_reading_is_shown_without_what_was_read(
    small_mark: Mark, copy_of: dict[str, Weights]
) -> None:
    shown = repr(extraction.read(small_mark, copy_of["customer-0"]))
    assert shown == "Reading(erased=0.0, alignment='none')"


@pytest.mark.parametrize("factor", [1e2, 1e4, 1e10, 1e36])
def test_a_few_enormous_weights_hide_nothing(
    small_mark: Mark, small_key: CampaignKey, copy_of: dict[str, Weights], factor: float
) -> None:
    """A unit scaled up and its readers down computes the same; an unread unit can be anything."""
    copy = copy_of["customer-0"]
    scaled = copy["fc.weight"].copy()
    scaled[5] *= np.float32(factor)
    scaled[:, 9] /= np.float32(factor)
    untouched, altered = (
        extraction.read(small_mark, suspect) for suspect in (copy, {**copy, "fc.weight": scaled})
    )
    key = small_key.customer("customer-0")
    # 159 of 12,800 weights carry no mark any more; clipped, they disturb like 159 others of ten
    # deviations: z falls by the square root of their share at most.
    assert carriers.score(key, altered.direction) > 0.9 * carriers.score(key, untouched.direction)
    assert (altered.bits == codes.codeword(key, small_mark.biases)).all()


def test_a_suspect_of_enormous_weights_throughout_is_not_judged(
    small_mark: Mark, copy_of: dict[str, Weights]
) -> None:
    suspect = {k: np.full_like(v, 3e38) for k, v in copy_of["customer-0"].items()}
    with pytest.raises(NotComparableError, match="too large"):
        extraction.read(small_mark, suspect)
