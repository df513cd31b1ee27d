"""What a coalition's attack leaves possible: measured noise, the law of scores, the limit."""

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smdl_flower.attacks import altering, collusion
from smdl_flower.bench import efficiency
from smdl_flower.bench.plan import Row
from smdl_flower.bench.record import Result, Trace
from smdl_flower.fingerprint import carriers, extraction

LEVEL = -8.3  # log10 p that accuses
THRESHOLD = math.sqrt(-2 * math.log(10) * LEVEL)


@pytest.fixture(scope="module")
def mark(campaign):
    return campaign.mark


@pytest.fixture(scope="module")
def coalition(copies):
    return list(copies.values())


def with_carrier_noise(mark, weights, level):
    """Noise of ``level`` times a carrier's strength on every marked weight."""
    vector = mark.layout.flatten(weights).astype(float)
    rng = np.random.default_rng(1)
    for tensor in mark.layout.tensors:
        strength = mark.strength / math.sqrt(2) * mark.profile[tensor.where] * tensor.scale
        vector[tensor.where] += level * strength * rng.standard_normal(len(strength))
    return mark.layout.restore(weights, vector.astype(np.float32))


def test_averaging_alone_adds_no_noise(mark, coalition):
    assert efficiency.noise(mark, coalition, collusion.average(coalition)) < 1e-3


@pytest.mark.parametrize("level", [0.3, 1.0, 4.0])
def test_added_noise_is_measured_in_units_of_a_carrier(mark, coalition, level):
    # 132,000 weights in 80 groups: a variance within a group is right to about 4 %, their sum to 1
    suspect = with_carrier_noise(mark, collusion.average(coalition), level)
    assert efficiency.noise(mark, coalition, suspect) == pytest.approx(level, rel=0.02)


def test_what_all_weights_of_a_kind_have_in_common_is_no_noise(mark, coalition):
    lowest = collusion.minimum(coalition)
    # the least of 8 lies 1.42 deviations below their mean and deviates by 0.61 itself (order
    # statistics of normal variables); payload and carrier together have sqrt(2) of a carrier's
    found = efficiency.noise(mark, coalition, lowest)
    assert 0.4 < found < 1.0


def test_weights_that_are_zero_are_lost_to_the_limit(mark, coalition):
    mean = with_carrier_noise(mark, collusion.average(coalition), 1.0)
    half = altering.prune(mean, 0.5)
    count, whole = len(coalition), efficiency.noise(mark, coalition, mean)
    expected = 2 * (count + count**2 * whole**2)
    found = efficiency.noise(mark, coalition, half)
    assert count + count**2 * found**2 == pytest.approx(expected, rel=0.05)
    nothing = {name: np.zeros_like(array) for name, array in mean.items()}
    assert efficiency.noise(mark, coalition, nothing) == math.inf


@pytest.mark.parametrize("level", [0.0, 1.0, 3.0])
def test_scores_follow_the_law(mark, coalition, campaign, issued_home, copies, level):
    suspect = with_carrier_noise(mark, collusion.average(coalition), level)
    direction = extraction.read(mark, suspect).direction
    key = campaign.model.key(issued_home.key)
    scores = [carriers.score(key.customer(name), direction) for name in copies]
    count = len(copies)
    rho = efficiency.noise(mark, coalition, suspect)
    law = math.sqrt(mark.layout.size / (count + count**2 * rho**2))
    # each score deviates by about one; whitening and clipping cost a few per cent
    assert 0.9 * law < np.mean(scores) < 1.02 * law + 3 / math.sqrt(count)


@given(st.floats(1, 500), st.floats(0, 50), st.floats(2, 10))
def test_the_limit_solves_the_inequality_with_equality(size, rho, threshold):
    weights = threshold**2 * (size + size**2 * rho**2)
    assert efficiency.largest(weights, threshold, rho) == pytest.approx(size, rel=1e-6)


def document(rows):
    return {
        "identity": {"marked_weights": 10_000, "carrier_values": 10_000},
        "rows": [
            {**dataclasses.asdict(row), "block": block, "results": list(map(dataclasses.asdict, r))}
            for row, block, r in rows
        ],
    }


def per_row(whole) -> list[Any]:
    """Without the type that says that a row may have none."""
    return list(efficiency.per_row(whole))


def result(size, named, least, noise=1.0):
    guilty = tuple(f"c{i}" for i in range(size))
    return Result(
        guilty=guilty,
        seed=None,
        traces=tuple(Trace(c, "payload", -90.0, LEVEL, None) for c in guilty[:named]),
        guilty_scores={c: least + i for i, c in enumerate(guilty)},
        noise=noise,
        exit_code=0,
    )


def law(size, noise=1.0):
    return math.sqrt(10_000 / (size + size**2 * noise**2))


def test_a_detector_that_follows_the_law_has_efficiency_one():
    row = Row("average-noise", {}, 5)
    (found,) = per_row(document([(row, "C", [result(5, 5, law(5))])]))
    assert found.eta == pytest.approx(1.0)
    assert found.limit == pytest.approx(efficiency.largest(10_000, THRESHOLD, 1.0))
    assert (found.traced, found.at_least) == (5, True)


def test_a_compressed_carrier_suffers_more_from_colluders_and_no_more_from_noise():
    row, size = Row("average-noise", {}, 5), 5
    weights, values = 10_000, 100
    score = 1 / math.sqrt(size / values + size**2 / weights)
    given = document([(row, "C", [result(size, size, score)])])
    given["identity"]["carrier_values"] = values
    (found,) = per_row(given)
    assert found.eta == pytest.approx(1.0)
    assert found.noise == 1.0
    limit = found.limit
    assert limit / values + limit**2 / weights == pytest.approx(1 / THRESHOLD**2)


def test_the_least_traced_colluder_of_any_trial_decides():
    row = Row("average-noise", {}, 5)
    trials = [result(5, 5, law(5)), result(5, 5, 0.5 * law(5))]
    (found,) = per_row(document([(row, "C", trials)]))
    share = efficiency.largest(10_000 / 4, THRESHOLD, 1.0) / found.limit
    assert found.eta == pytest.approx(share)


def test_a_colluder_named_in_a_later_stage_counts_with_what_that_stage_found():
    row, size = Row("average-noise", {}, 5), 5
    late = result(size, size, law(size))
    weakest = late.guilty[0]
    stricter = 2 * LEVEL  # of that stage: its scores count for less by a factor of sqrt(2)
    traces = (Trace(weakest, "carrier", -90.0, stricter, 1.2 * math.sqrt(2) * law(size)),)
    late = dataclasses.replace(
        late,
        guilty_scores={**late.guilty_scores, weakest: 0.1},
        traces=(*traces, *late.traces[1:]),
    )
    (found,) = per_row(document([(row, "C", [late])]))
    # the next in line is one above the law in the first stage
    least = min(1.2 * law(size), law(size) + 1)
    share = efficiency.largest(10_000 * (least / law(size)) ** 2, THRESHOLD, 1.0) / found.limit
    assert found.eta == pytest.approx(share)


def test_a_larger_coalition_that_escapes_ends_what_was_traced():
    rows = [
        (Row("outlier", {}, 5), "C", [result(5, 5, 20.0)]),
        (Row("outlier", {}, 10), "C", [result(10, 9, 6.0)]),
        (Row("outlier", {}, 20), "C", [result(20, 11, 3.0)]),
        (Row("outlier", {"seed": 1}, 50), "C", [result(50, 50, 3.0)]),  # another attack
    ]
    found = per_row(document(rows))
    assert [(e.traced, e.at_least) for e in found] == [(10, False)] * 3 + [(50, True)]


def test_a_coalition_that_no_score_speaks_against_was_not_reached():
    rows = [(Row("outlier", {}, 5), "C", [result(5, 1, -3.0)])]
    (found,) = per_row(document(rows))
    assert (found.reached, found.eta, found.traced) == (0.0, 0.0, 0)


def test_rows_without_a_coalition_or_a_threshold_have_no_efficiency():
    alone = (Row("prune"), "A", [result(1, 1, 50.0)])
    unread = dataclasses.replace(result(5, 0, 1.0), noise=None, guilty_scores={})
    assert per_row(document([alone])) == [None]
    assert per_row(document([alone, (Row("average", {}, 5), "C", [unread])])) == [
        None, None,
    ]  # fmt: skip
    nobody = (Row("average", {}, 5), "C", [result(5, 0, 1.0)])
    assert per_row(document([nobody])) == [None]
