import math

import numpy as np
import pytest

from smdl_flower.errors import ConfigError, NotComparableError
from smdl_flower.fingerprint import decoys
from smdl_flower.fingerprint.keys import CampaignKey
from smdl_flower.registry import check_names


def healthy(seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal(1000), {"symmetric": np.log(rng.random(1000))}


def test_decoys_that_score_as_innocents_are_accepted_whatever_the_draw():
    # A few in a million are turned away: none of 300 draws, with a chance above 0.998.
    for seed in range(300):
        scores, log_ps = healthy(seed)
        summary = decoys.check(scores, log_ps)
        assert summary.count == 1000
        assert summary.highest == scores.max()


@pytest.mark.parametrize("shrink", [0.0, 0.5])
def test_scores_smaller_than_normal_are_accepted(shrink):
    scores, log_ps = healthy()
    assert decoys.check(shrink * scores, log_ps).deviation < 0.6


@pytest.mark.parametrize(
    ("scores", "problem"),
    [
        (lambda z: z + 0.3, "mean"),
        (lambda z: z - 0.3, "mean"),
        (lambda z: 1.3 * z, "standard deviation"),
        (lambda z: np.append(z[1:], 7.0), "highest"),
        (lambda z: np.append(z[1:], np.nan), "mean"),
    ],
)
def test_carrier_scores_that_no_theorem_allows_are_refused(scores, problem):
    z, log_ps = healthy()
    with pytest.raises(NotComparableError, match=problem):
        decoys.check(scores(z), log_ps)


def test_payload_p_values_that_are_too_small_are_refused():
    scores, healthy_ps = healthy()
    small = {"likelihood": healthy_ps["symmetric"] + math.log(0.5)}
    with pytest.raises(NotComparableError, match=r"payload p-values \(likelihood\)"):
        decoys.check(scores, healthy_ps | small)


def test_no_customer_can_be_a_decoy():
    key = next(decoys.keys(CampaignKey(bytes(32)), 1))
    with pytest.raises(ConfigError):
        check_names([key.customer])


def test_decoys_differ_from_each_other():
    secrets = {key.secret for key in decoys.keys(CampaignKey(bytes(32)), 50)}
    assert len(secrets) == 50
