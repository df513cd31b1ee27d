"""Shared by all tests: one small model, and one owner's home with a copy for each of 8 customers.

Session-wide fixtures are not to be changed by a test: arrays are read-only, and a test that writes
to a home takes ``home_copy``. The master key is fixed, so that every run sees the same numbers.
"""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from smdl_flower import issuing, models, weights
from smdl_flower.config import FingerprintConfig
from smdl_flower.fingerprint.keys import OwnerKey
from smdl_flower.home import OwnerHome
from smdl_flower.issuing import Campaign, FidelityGate, IssueResult
from smdl_flower.models import ModelSpec
from smdl_flower.weights import Weights

# Another process may hold the processor for a second: time says nothing about an example.
# The same examples each time: a change is judged by what it changed. `make fuzz` draws new ones.
settings.register_profile("smdl", deadline=None, derandomize=True)
settings.register_profile("fuzz", deadline=None, max_examples=2000)
settings.load_profile(os.environ.get("SMDL_HYPOTHESIS", "smdl"))

CUSTOMERS = tuple(f"clinic-{letter}" for letter in "abcdefgh")


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """Two test processes share two cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def spec() -> ModelSpec:
    """Model ``cnn`` for grey images of 28 pixels: 131,992 marked weights."""
    return ModelSpec("cnn", channels=1, classes=10, image_size=28)


@pytest.fixture(scope="session")
def base(spec: ModelSpec) -> Weights:
    """A base model w0, freshly initialised; read-only."""
    arrays = models.to_weights(models.build(spec, seed=1))
    for array in arrays.values():
        array.setflags(write=False)
    return arrays


@pytest.fixture(scope="session")
def fingerprint_config() -> FingerprintConfig:
    """The default fingerprint: 304 bits at strength 0.2."""
    return FingerprintConfig.model_validate(
        {
            "fingerprint.where": "server",
            "fingerprint.code-length": 304,
            "fingerprint.code": "flat",
            "fingerprint.code-coalition": 4,
            "fingerprint.strength": 0.2,
            "fingerprint.max-accuracy-drop": 0.01,
            "fingerprint.queries": 0,
            "fingerprint.query-pools": 1,
            "fingerprint.imprint-images": False,
            "demo-customers": 0,
        }
    )


@pytest.fixture(scope="session")
def issued_home(tmp_path_factory: pytest.TempPathFactory) -> OwnerHome:
    """A home with 8 customers; not to be changed (see ``home_copy``)."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(OwnerKey, "generate", lambda: OwnerKey(bytes(range(32))))
        home = OwnerHome.create(tmp_path_factory.mktemp("owner") / "home")
    home.registry.add_customers(CUSTOMERS)
    return home


@pytest.fixture(scope="session")
def campaign(
    issued_home: OwnerHome, spec: ModelSpec, base: Weights, fingerprint_config: FingerprintConfig
) -> Campaign:
    """The campaign of ``base`` in ``issued_home``, without a fidelity check."""
    gate = FidelityGate(images=None, max_accuracy_drop=0.01)
    return issuing.open_campaign(issued_home, spec, base, fingerprint_config, gate)


@pytest.fixture(scope="session")
def issue_results(issued_home: OwnerHome, campaign: Campaign) -> dict[str, IssueResult]:
    """How issuing a copy to each of the 8 customers went."""
    directory = issued_home.path.parent / "copies"
    results = issuing.issue(issued_home, campaign, CUSTOMERS, directory)
    return {result.customer: result for result in results}


@pytest.fixture(scope="session")
def copy_paths(issue_results: dict[str, IssueResult]) -> dict[str, Path]:
    """File of each customer's copy."""
    return {name: result.path for name, result in issue_results.items() if result.path}


@pytest.fixture(scope="session")
def copies(copy_paths: dict[str, Path]) -> dict[str, Weights]:
    """Weights of each customer's copy."""
    return {name: weights.read(path).weights for name, path in copy_paths.items()}


@pytest.fixture
def home_copy(
    issued_home: OwnerHome, issue_results: dict[str, IssueResult], tmp_path: Path
) -> OwnerHome:
    """A home of its own for a test, like ``issued_home`` after the copies were issued."""
    assert all(result.path for result in issue_results.values())
    shutil.copytree(issued_home.path, tmp_path / "home")
    return OwnerHome.open(tmp_path / "home")
