"""Epsilon against closed forms that do not come from the accountant."""

import math

import pytest
from scipy.optimize import brentq
from scipy.stats import norm

from smdl_flower import config
from smdl_flower.privacy.accounting import (
    Steps,
    epsilon,
    epsilon_prv,
    sigma_of_run,
    steps_of_round,
)

DEFAULTS = config.load_defaults(config.example_app_dir())


def exact(sigma, count, delta):
    """Balle & Wang 2018, eq. 6: T Gaussian steps at q = 1 are one with sigma / sqrt(T)."""
    mu = math.sqrt(count) / sigma

    def excess(eps):
        tail = math.exp(eps + norm.logcdf(-eps / mu - mu / 2))
        return norm.cdf(-eps / mu + mu / 2) - tail - delta

    return brentq(excess, 0, 300)


@pytest.mark.parametrize(
    ("sigma", "count"), [(30.0, 50), (10.0, 50), (4.5, 50), (2.0, 20), (1.0, 1)]
)
def test_epsilon_bounds_the_exact_one_and_is_near_it(sigma, count):
    truth = exact(sigma, count, 1e-5)
    bound = epsilon([Steps(sigma, 1.0, count)], 1e-5)
    assert truth <= bound <= 1.12 * truth
    # The third decimal is the discretisation that Opacus asks of the PRV accountant.
    assert truth - 0.02 <= epsilon_prv([Steps(sigma, 1.0, count)], 1e-5) <= bound


def test_histories_add_up_however_they_are_cut():
    whole = epsilon([Steps(5.0, 1.0, 30)], 1e-5)
    assert epsilon([Steps(5.0, 1.0, 1)] * 30, 1e-5) == pytest.approx(whole, rel=1e-12)


def test_sampling_amplifies_and_more_steps_cost_more():
    full, sampled = Steps(3.0, 1.0, 20), Steps(3.0, 0.2, 20)
    assert epsilon([sampled], 1e-5) < epsilon([full], 1e-5) / 3
    assert epsilon([sampled, sampled], 1e-5) > epsilon([sampled], 1e-5)


@pytest.mark.parametrize(("target", "rate"), [(1.0, 1.0), (3.0, 1.0), (8.0, 1.0), (3.0, 0.25)])
def test_the_noise_of_a_run_spends_its_budget_and_not_more(target, rate):
    flat = DEFAULTS | {
        "privacy.channel": "dp",
        "privacy.shard-size": 800,
        "privacy.epsilon": target,
        "privacy.sample-rate": rate,
        "num-server-rounds": 40,
    }
    run = config.parse(flat)
    assert steps_of_round(run) == round(1 / rate)
    rounds = Steps(sigma_of_run(run), rate, 42 * steps_of_round(run))  # two are spare
    assert 0.998 * target <= epsilon([rounds], 1e-5) <= target
