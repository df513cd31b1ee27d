"""A small trained classifier of digits, and a home that issued copies of it that can be asked."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from smdl_flower import issuing, models, weights
from smdl_flower.config import DataConfig, FingerprintConfig
from smdl_flower.data import Images, load_split
from smdl_flower.fingerprint.keys import OwnerKey
from smdl_flower.home import OwnerHome
from smdl_flower.issuing import Campaign, FidelityGate, IssueResult
from smdl_flower.models import ModelSpec
from smdl_flower.weights import Weights

SPEC = ModelSpec("cnn", channels=1, classes=10, image_size=8)
CUSTOMERS = ("bank-a", "bank-b", "bank-c")


@dataclass(frozen=True)
class Digits:
    train: Images
    test: Images


@pytest.fixture(scope="session")
def digits() -> Digits:
    split = load_split(DataConfig.of_one_party("digits", "", 0))
    train, test = (c.load(np.arange(len(c.labels))) for c in (split.train, split.test))
    return Digits(train, test)


def trained(digits: Digits, seed: int) -> Weights:
    network = models.build(SPEC, seed=seed)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.03, momentum=0.9, weight_decay=5e-4)
    generator = torch.Generator().manual_seed(seed)
    network.train()
    for _ in range(15):
        for batch in torch.randperm(len(digits.train), generator=generator).split(32):
            said = network(digits.train.inputs(batch))
            loss = torch.nn.functional.cross_entropy(said, digits.train.labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return models.to_weights(network.eval())


@pytest.fixture(scope="session")
def taught_base(digits: Digits) -> Weights:
    return trained(digits, seed=0)


@pytest.fixture(scope="session")
def asked_config(fingerprint_config: FingerprintConfig) -> FingerprintConfig:
    """Two pools of 64 queries; the digits' test images are few, so a generous gate."""
    return fingerprint_config.model_copy(
        update={"queries": 64, "query_pools": 2, "max_accuracy_drop": 0.04}
    )


def new_home(path: Path, secret: bytes) -> OwnerHome:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(OwnerKey, "generate", lambda: OwnerKey(secret.ljust(32)))
        home = OwnerHome.create(path)
    home.registry.add_customers(CUSTOMERS)
    return home


@pytest.fixture(scope="session")
def asked_home(tmp_path_factory: pytest.TempPathFactory) -> OwnerHome:
    """Not to be changed (see ``asked_copy``)."""
    return new_home(tmp_path_factory.mktemp("asked") / "home", b"asked")


@pytest.fixture(scope="session")
def asked_campaign(
    asked_home: OwnerHome, taught_base: Weights, asked_config: FingerprintConfig, digits: Digits
) -> Campaign:
    gate = FidelityGate(digits.test, asked_config.max_accuracy_drop)
    return issuing.open_campaign(asked_home, SPEC, taught_base, asked_config, gate)


@pytest.fixture(scope="session")
def asked_results(asked_home: OwnerHome, asked_campaign: Campaign) -> dict[str, IssueResult]:
    directory = asked_home.path.parent / "copies"
    results = issuing.issue(asked_home, asked_campaign, CUSTOMERS, directory)
    return {result.customer: result for result in results}


@pytest.fixture(scope="session")
def asked_copies(asked_results: dict[str, IssueResult]) -> dict[str, Weights]:
    return {n: weights.read(r.path).weights for n, r in asked_results.items() if r.path}


@pytest.fixture
def asked_copy(
    asked_home: OwnerHome, asked_results: dict[str, IssueResult], tmp_path: Path
) -> OwnerHome:
    """A home of its own for a test, like ``asked_home`` after the copies were issued."""
    assert all(result.path for result in asked_results.values())
    shutil.copytree(asked_home.path, tmp_path / "home")
    return OwnerHome.open(tmp_path / "home")
