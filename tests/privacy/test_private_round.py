"""A private round refuses, pays, trains and declares, in this order."""

import pytest
import torch
from torch import nn

from smdl_flower import config, models
from smdl_flower.errors import BudgetExhaustedError, ConfigError, PrivacyError
from smdl_flower.models import ModelSpec
from smdl_flower.privacy import noise, private_round
from smdl_flower.privacy.declaration import Terms
from smdl_flower.privacy.partition import partition
from smdl_flower.privacy.private_round import Instruction, open_ledger
from smdl_flower.representation import Features

DEFAULTS = config.load_defaults(config.example_app_dir()) | {
    "model": "scatter-linear",
    "privacy.policy": "public-front",
    "privacy.channel": "dp",
    "privacy.shard-size": 50,
    "privacy.epsilon": 3.0,
    "num-server-rounds": 4,
}
SPEC = ModelSpec("scatter-linear", 1, 10, 8)


@pytest.fixture
def setting(tmp_path):
    def make(**changes):
        run = config.parse(DEFAULTS | {k.replace("_", "-"): v for k, v in changes.items()})
        model = models.build(SPEC, seed=0)
        split = partition(run.privacy, model)
        split.freeze(model)
        generator = torch.Generator().manual_seed(0)
        features = torch.nn.functional.normalize(torch.randn(50, 150, generator=generator))
        shard = Features(features, torch.arange(50) % 10)
        ledger = open_ledger(run, 3, {"ledger-dir": str(tmp_path)})
        return run, split, model, shard, ledger

    return make


def go(run, split, model, shard, ledger, server_round=1):
    return private_round.train(
        run,
        split,
        model.head,
        shard,
        instruction=Instruction(server_round, 5.0),
        ledger=ledger,
    )


def test_a_round_changes_the_head_and_declares_what_the_terms_ask_for(setting):
    run, split, model, shard, ledger = setting()
    terms = Terms.of(run, split)
    before = model.head.weight.detach().clone()
    for number in range(1, 5):
        declared = go(run, split, model, shard, ledger, number)
        assert terms is not None
        terms.check(declared, rounds=number)
        assert declared.epsilon <= 3.0
    assert not torch.equal(before, model.head.weight)
    assert declared.epsilon > 2.0  # two spare rounds are left


def test_spare_rounds_are_for_retries_and_then_the_budget_is_exhausted(setting):
    run, split, model, shard, ledger = setting()
    for _ in range(6):
        declared = go(run, split, model, shard, ledger)
    assert 2.99 <= declared.epsilon <= 3.0
    before = model.head.weight.detach().clone()
    with pytest.raises(BudgetExhaustedError, match="budget exhausted: mnist-5k-000003"):
        go(run, split, model, shard, ledger)
    assert torch.equal(before, model.head.weight)


def test_what_is_refused_costs_nothing(setting):
    run, split, model, shard, ledger = setting()
    model.head = nn.Sequential(nn.BatchNorm1d(150), model.head)
    with pytest.raises(PrivacyError, match="mixes the images"):
        go(run, split, model, shard, ledger)
    assert ledger.read().history == ()


def test_a_training_that_crashes_is_paid_for(setting, monkeypatch):
    run, split, model, shard, ledger = setting()

    def crash(*_args, **_options):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(noise, "train", crash)
    with pytest.raises(RuntimeError):
        go(run, split, model, shard, ledger)
    assert len(ledger.read().history) == 1


def test_a_delta_too_large_for_the_true_number_of_images_is_refused(setting):
    run, split, model, shard, ledger = setting(**{"privacy.delta": 0.015})
    assert len(shard) * 0.015 < 1
    many = Features(shard.values.repeat(2, 1), shard.labels.repeat(2))
    with pytest.raises(PrivacyError, match="one over this participant's number"):
        go(run, split, model, many, ledger)
    assert ledger.read().history == ()


def test_a_seeded_round_says_so_and_can_be_repeated(setting, tmp_path):
    ends = []
    for _ in range(2):
        run, split, model, shard, ledger = setting(**{"privacy.rng": "seeded"})
        assert go(run, split, model, shard, ledger).rng == "seeded"
        ends.append(model.head.weight.detach().clone())
    assert torch.equal(*ends)


def test_without_a_place_for_the_ledger_nothing_is_trained(monkeypatch):
    monkeypatch.delenv(private_round.LEDGER_VARIABLE, raising=False)
    with pytest.raises(PrivacyError, match="no place for the privacy ledger"):
        open_ledger(config.parse(DEFAULTS), 0, {})


def test_an_institution_can_set_a_cap_of_its_own(tmp_path, setting):
    run, split, model, shard, _ = setting()
    ledger = open_ledger(run, 0, {"ledger-dir": str(tmp_path), "epsilon-cap": 1.2})
    declared = go(run, split, model, shard, ledger)
    assert (declared.cap, declared.charges) == (1.2, 1)
    with pytest.raises(BudgetExhaustedError, match=r"its cap is 1\.2"):
        go(run, split, model, shard, ledger)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"privacy.shard-size": 0}, "privacy.shard-size: needed"),
        ({"privacy.delta": 0.02}, "not below 1 / privacy.shard-size"),
        ({"fraction-evaluate": 0.5}, "would leave without noise"),
        ({"strategy": "fedprox"}, "fedprox"),
    ],
)
def test_a_run_config_that_could_claim_nothing_is_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        config.parse(DEFAULTS | change)
