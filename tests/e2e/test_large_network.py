"""A trained network with compressed carriers (1.5 million marked weights), issued and attacked."""

import functools
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from smdl_flower import issuing, models, training, verifying, weights
from smdl_flower.attacks import altering, collusion, overwriting, symmetry
from smdl_flower.attacks.overwriting import JamOptions
from smdl_flower.config import DataConfig, FingerprintConfig, TrainingConfig
from smdl_flower.data import load_split, load_test
from smdl_flower.home import OwnerHome
from smdl_flower.issuing import FidelityGate
from smdl_flower.models import ModelSpec
from smdl_flower.weights import Weights

pytestmark = pytest.mark.slow

SPEC = ModelSpec("tests.e2e.test_large_network:wide_cnn", channels=1, classes=10, image_size=8)
CNN = ModelSpec("cnn", channels=1, classes=10, image_size=8)  # the same structure, less wide
CUSTOMERS = tuple(f"clinic-{number:02d}" for number in range(12))
DIGITS = DataConfig.of_one_party("digits", "", 8)


class WideCnn(nn.Module):
    """``cnn`` with 3 to 4 times as many channels: 1,534,720 marked weights."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *(nn.Conv2d(channels, 96, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(96, 192, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(192, 256, 3, padding=1), nn.ReLU(), nn.AdaptiveMaxPool2d(3)),
        )
        self.hidden = nn.Linear(256 * 9, 400)
        self.head = nn.Linear(400, classes)

    def forward(self, images: Tensor) -> Tensor:
        found: Tensor = self.head(torch.relu(self.hidden(self.features(images).flatten(1))))
        return found


def wide_cnn(channels: int, classes: int) -> nn.Module:
    return WideCnn(channels, classes)


@functools.cache
def trained() -> Weights:
    train = load_split(DIGITS).train
    images = train.load(torch.arange(len(train.labels)).numpy())
    model = models.build(SPEC, seed=1)
    config = TrainingConfig.model_validate(
        {"local-epochs": 5, "batch-size": 32, "learning-rate": 0.03, "lr-schedule": "constant"}
        | {"momentum": 0.9, "weight-decay": 5e-4, "augment": "none"}
    )
    training.train(
        *(model, images, config),
        learning_rate=0.03,
        generator=torch.Generator().manual_seed(1),
    )
    return models.to_weights(model)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("large")


@pytest.fixture(scope="module")
def home(place: Path) -> OwnerHome:
    home = OwnerHome.create(place / "home")
    home.registry.add_customers(CUSTOMERS)
    return home


@pytest.fixture(scope="module")
def copies(
    home: OwnerHome, place: Path, fingerprint_config: FingerprintConfig
) -> dict[str, Weights]:
    """Issued as any copy is: embedded, written, read back, checked for accuracy, recorded."""
    config = fingerprint_config.model_copy(update={"max_accuracy_drop": 0.006})
    gate = FidelityGate(load_test(DIGITS), config.max_accuracy_drop)
    campaign = issuing.open_campaign(home, SPEC, trained(), config, gate)
    assert campaign.base_accuracy is not None
    assert campaign.base_accuracy > 0.95
    assert campaign.mark.layout.size == 1_534_720
    assert campaign.mark.chips is not None
    results = list(issuing.issue(home, campaign, CUSTOMERS, place / "copies"))
    assert all(result.path for result in results)
    return {r.customer: weights.read(r.path).weights for r in results if r.path}


def jam(copy: Weights) -> Weights:
    return overwriting.jam(copy, SPEC, JamOptions(level=0.5, samples=20))


def named(home: OwnerHome, suspect: Weights, path: Path) -> tuple[list[str], float]:
    """Who is named for a suspect's file, and the least score of a carrier that speaks."""
    weights.write(path, suspect, replace=True)
    verdict = verifying.verify(home, path)
    scores = [w.score for a in verdict.accused for w in a.witnesses if w.evidence == "carrier"]
    return sorted(a.customer for a in verdict.accused), min(scores, default=0.0)


@pytest.mark.parametrize(
    ("attack", "least"),
    [
        (lambda copy: copy, 200),  # a carrier of 65,536 values reaches 256 at most
        (lambda copy: altering.prune(copy, 0.8), 100),
        (lambda copy: altering.quantize(copy, 4), 100),
        (lambda copy: altering.add_noise(copy, 0.3, 1), 100),
        (jam, 50),
        (lambda copy: symmetry.rescale(symmetry.permute(copy, CNN, 1), CNN, 1.0, 1), 200),
        (
            lambda copy: symmetry.permute(altering.prune(copy, 0.8), CNN, 1),
            100,
        ),
    ],
    ids=["none", "prune", "quantize", "noise", "jam", "permute-rescale", "prune-permute"],
)
def test_a_single_leaker_is_named_alone(attack, least, home, copies, tmp_path) -> None:
    customer = CUSTOMERS[3]
    who, score = named(home, attack(copies[customer]), tmp_path / "suspect.safetensors")
    assert who == [customer]
    assert score > least


@pytest.mark.parametrize(
    ("combine", "least"),
    [
        (collusion.average, 90),
        (lambda five: altering.add_noise(collusion.average(five), 0.1, 1), 50),
        (lambda five: collusion.interleave_weights(five, 1), 20),
        (lambda five: collusion.randomised_negative(five, 1), 20),
        (lambda five: symmetry.permute(collusion.average(five), CNN, 1), 80),
    ],
    ids=["average", "average-noise", "interleave", "randneg", "average-permute"],
)
def test_a_coalition_of_five_is_named_whole(combine, least, home, copies, tmp_path) -> None:
    five = CUSTOMERS[2:7]
    suspect = combine([copies[customer] for customer in five])
    who, score = named(home, suspect, tmp_path / "suspect.safetensors")
    assert who == sorted(five)
    assert score > least


def test_nobody_is_named_for_the_base_model_or_a_new_one(home, copies, tmp_path) -> None:
    fresh = models.to_weights(models.build(SPEC, seed=9))
    for suspect in (trained(), altering.prune(trained(), 0.5), fresh):
        assert named(home, suspect, tmp_path / "suspect.safetensors")[0] == []
