"""The server uses no update without a declaration that is what the run asks for."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from smdl_flower import config
from smdl_flower.errors import PrivacyError
from smdl_flower.privacy.accounting import epsilon, sigma_of_run, version
from smdl_flower.privacy.declaration import Declaration, Terms
from smdl_flower.privacy.partition import PrivacyPartition

DEFAULTS = config.load_defaults(config.example_app_dir())
RUN = config.parse(DEFAULTS | {"privacy.channel": "dp", "privacy.shard-size": 800})
SPLIT = PrivacyPartition.label({"w": np.ones(2, np.float32)}, public=set())


def terms_of(run: config.RunConfig) -> Terms:
    found = Terms.of(run, SPLIT)
    assert found is not None
    return found


TERMS = terms_of(RUN)
HONEST = Declaration(
    partition_sha256=SPLIT.sha256(),
    channel="dp",
    sigma=sigma_of_run(RUN),
    max_grad_norm=RUN.privacy.max_grad_norm,
    sample_rate=1.0,
    steps=1,
    delta=1e-5,
    epsilon=epsilon([TERMS.round] * 3, 1e-5),
    cap=8.0,
    charges=3,
    ledger_head="0" * 64,
    rng="os",
    accountant=version(),
)


def test_a_run_without_noise_has_no_terms():
    assert Terms.of(config.parse(DEFAULTS), SPLIT) is None


def test_an_honest_declaration_is_accepted_and_survives_the_trip():
    assert Declaration.from_record(HONEST.to_record()) == HONEST
    TERMS.check(HONEST, rounds=3)
    TERMS.check(replace(HONEST, epsilon=7.9, charges=50), rounds=3)  # earlier runs were paid for


WRONG: dict[str, Any] = {
    "another partition": {"partition_sha256": "0" * 64},
    "another channel": {"channel": "clear"},
    "less noise": {"sigma": HONEST.sigma * 0.99},
    "a larger norm": {"max_grad_norm": 0.2},
    "another rate": {"sample_rate": 0.5},
    "more steps": {"steps": 2},
    "another delta": {"delta": 1e-4},
    "seeded noise": {"rng": "seeded"},
    "another accountant": {"accountant": "trust me"},
    "a ledger that forgot a round": {"charges": 2},
    "less than the run has cost": {"epsilon": HONEST.epsilon * 0.99},
    "more than the cap": {"epsilon": 8.01},
}


@pytest.mark.parametrize("what", WRONG)
def test_what_differs_from_the_terms_is_refused(what):
    with pytest.raises(PrivacyError, match=r"it declares|over its cap"):
        TERMS.check(replace(HONEST, **WRONG[what]), rounds=3)


@pytest.mark.parametrize(
    "change",
    [
        {"sigma": None},
        {"sigma": "10"},
        {"sigma": float("nan")},
        {"epsilon": float("inf")},
        {"steps": 1.0},
        {"steps": True},
        {"more": 1},
    ],
)
def test_a_record_that_is_no_declaration_is_refused(change):
    record = {k: v for k, v in {**HONEST.to_record(), **change}.items() if v is not None}
    with pytest.raises(PrivacyError, match="privacy declaration"):
        Declaration.from_record(record)
    with pytest.raises(PrivacyError, match="missing or incomplete"):
        Declaration.from_record({})
