"""The accusation process: stages help, innocents keep their law, and nothing else decides."""

import dataclasses

import numpy as np
import pytest

from smdl_flower.fingerprint import carriers, embedding, extraction, tracing
from smdl_flower.fingerprint.accusation import Level
from smdl_flower.fingerprint.cancellation import cancel
from smdl_flower.fingerprint.embedding import Mark
from smdl_flower.fingerprint.extraction import Reading
from smdl_flower.fingerprint.keys import CampaignKey, CustomerKey
from smdl_flower.fingerprint.tracing import Comparator
from smdl_flower.weights import Weights

LEVEL = Level(total=1e-6, words=100, hypotheses=8)


def customers(key: CampaignKey, count: int, prefix: str = "clinic") -> list[CustomerKey]:
    return [key.customer(f"{prefix}-{i}") for i in range(count)]


def read_average(
    mark: Mark, base: Weights, traitors: list[CustomerKey], noise: float = 0.0
) -> Reading:
    average = np.mean([embedding.embed(mark, key) for key in traitors], axis=0)
    rng = np.random.default_rng(1)
    for where, scale in mark.layout.pieces(1 << 17):
        piece = average[where]
        piece += noise * scale * rng.standard_normal(piece.shape)
    suspect = mark.layout.restore(dict(base), average.astype(np.float32))
    return extraction.read(mark, suspect)


def test_cancelled_carriers_score_zero_and_the_others_more(
    small_mark: Mark, small_base: Weights, small_key: CampaignKey
) -> None:
    traitors = customers(small_key, 6)
    reading = read_average(small_mark, small_base, traitors)
    rest = cancel(reading, traitors[:4])
    for key in traitors[:4]:
        assert abs(carriers.score(key, rest)) < 1e-3
    for key in traitors[4:]:
        # Six equal parts of variance, of which four are gone: sqrt(6/2) = 1.7 at best.
        assert carriers.score(key, rest) > 1.4 * carriers.score(key, reading.direction)
    assert np.linalg.norm(rest.astype(np.float64)) <= 1.0


def test_cancelling_nobody_changes_nothing(
    small_mark: Mark, small_base: Weights, small_key: CampaignKey
) -> None:
    reading = read_average(small_mark, small_base, customers(small_key, 2))
    assert cancel(reading, []) is reading.direction


def test_innocents_keep_their_law_after_cancelling(
    small_mark: Mark, small_base: Weights, small_key: CampaignKey
) -> None:
    traitors = customers(small_key, 5)
    rest = cancel(read_average(small_mark, small_base, traitors), traitors)
    scores = np.array([carriers.score(k, rest) for k in customers(small_key, 3000, "innocent")])
    # Mean zero and deviation one at most: five standard errors of 3,000 normal variables.
    assert abs(scores.mean()) < 5 / np.sqrt(3000)
    assert 0.9 < scores.std() < 1 + 5 / np.sqrt(6000)


def test_later_stages_name_traitors_whom_the_first_does_not(
    small_mark: Mark, small_base: Weights, small_key: CampaignKey
) -> None:
    # One traitor's copy has most of the weight: beside it the others' marks are small.
    traitors = customers(small_key, 4)
    parts = np.array([0.94, 0.02, 0.02, 0.02])
    vectors = np.stack([embedding.embed(small_mark, key) for key in traitors])
    suspect = small_mark.layout.restore(
        dict(small_base), np.tensordot(parts, vectors, axes=1).astype(np.float32)
    )
    trace = tracing.trace(
        Comparator(small_mark, extraction.read(small_mark, suspect)), traitors, LEVEL
    )
    stages = {finding.customer: finding.stage for finding in trace.findings}
    assert stages["clinic-0"] == 1
    assert set(stages) == {key.customer for key in traitors}
    assert max(stages.values()) >= 2
    for finding in trace.findings:
        assert finding.threshold == LEVEL.log_p(finding.stage)
        assert all(test.log_p <= finding.threshold for test in finding.tests)


@pytest.mark.parametrize("size", [1, 5, 12])
def test_all_traitors_and_nobody_else_are_named(
    small_mark: Mark, small_base: Weights, small_key: CampaignKey, size: int
) -> None:
    keys = customers(small_key, 100)
    reading = read_average(small_mark, small_base, keys[:size], noise=0.05)
    trace = tracing.trace(Comparator(small_mark, reading), keys, LEVEL)
    assert {f.customer for f in trace.findings} == {key.customer for key in keys[:size]}
    assert [c.customer for c in trace.comparisons] == [key.customer for key in keys]


def test_a_suspect_without_any_mark_accuses_nobody_in_one_stage(
    small_mark: Mark, small_base: Weights, small_key: CampaignKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading = extraction.read(small_mark, dict(small_base))
    monkeypatch.setattr(tracing, "cancel", _only_first)
    assert (
        tracing.trace(Comparator(small_mark, reading), customers(small_key, 50), LEVEL).findings
        == ()
    )


def _only_first(reading: Reading, accused: object) -> np.ndarray:
    assert not accused
    return reading.direction


def test_false_accusations_over_all_stages_stay_within_the_bound(
    small_mark: Mark, small_base: Weights, small_key: CampaignKey
) -> None:
    # At P = 1/2 for each of 40 suspects made by 6 traitors: at most 20 with an innocent named are
    # expected; 40 x 1/2 + 5 standard deviations is out of reach, so the sharper check is that the
    # union bound leaves them well below.
    level = Level(total=0.5, words=46, hypotheses=4)
    wrong = 0
    for trial in range(40):
        traitors = customers(small_key, 6, f"traitor-{trial}")
        innocents = customers(small_key, 40, f"innocent-{trial}")
        reading = read_average(small_mark, small_base, traitors, noise=0.3)
        trace = tracing.trace(Comparator(small_mark, reading), [*traitors, *innocents], level)
        wrong += any(f.customer.startswith("innocent") for f in trace.findings)
        assert trace.findings  # the process did go through stages
    assert wrong <= 20


def test_who_is_tested_again_depends_on_its_own_word_only(
    small_mark: Mark,
    small_base: Weights,
    small_key: CampaignKey,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Theorem 2 needs it: a list of the best would depend on innocents' words.
    monkeypatch.setattr(tracing, "FEW", 0)
    keys = customers(small_key, 60)
    reading = read_average(small_mark, small_base, keys[:3], noise=0.5)
    first = tracing.trace(Comparator(small_mark, reading), keys, LEVEL)
    alone = {
        key.customer: tracing.trace(Comparator(small_mark, reading), [key], LEVEL)
        .comparisons[0]
        .promising
        for key in keys
    }
    assert {c.customer: c.promising for c in first.comparisons} == alone
    named = {f.customer for f in first.findings}
    assert named == {key.customer for key in keys[:3]}
    assert 0 < sum(alone[key.customer] for key in keys[3:]) < 30


def test_the_order_of_customers_does_not_matter(
    small_mark: Mark, small_base: Weights, small_key: CampaignKey
) -> None:
    keys = customers(small_key, 30)
    reading = read_average(small_mark, small_base, keys[:4], noise=0.2)
    one = tracing.trace(Comparator(small_mark, reading), keys, LEVEL).findings
    other = tracing.trace(Comparator(small_mark, reading), keys[::-1], LEVEL).findings
    assert [dataclasses.astuple(f) for f in one] == [dataclasses.astuple(f) for f in other]
