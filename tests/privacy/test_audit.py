"""The audit passes honest DP-SGD (Opacus' and the product's) and catches a false epsilon.

A check of honest code fails by chance with probability 6e-5 (four standard errors, both sides).
The noise of these runs is drawn from torch's seeded generator, so that a run repeats.
"""

import itertools
import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from opacus import PrivacyEngine
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from smdl_flower.config import TrainingConfig
from smdl_flower.errors import ConfigError
from smdl_flower.privacy import noise
from smdl_flower.privacy.accounting import Steps
from smdl_flower.privacy.audit import Audit, History, Layer, Setting, audit, lower_bound
from smdl_flower.privacy.entropy import SeededEntropy
from smdl_flower.privacy.noise import Mechanism
from smdl_flower.representation import Features

# Opacus says so of every engine; the product brings its own noise.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Secure RNG turned off"),
    pytest.mark.filterwarnings("ignore:Full backward hook is firing"),
]

RATE = 1e-3
CLIP = 1.0
BATCH = 200
PLAIN = TrainingConfig(
    epochs=1,
    batch_size=1,
    learning_rate=RATE,
    schedule="constant",
    momentum=0.0,
    weight_decay=0.0,
    augment="none",
)


@dataclass(frozen=True)
class OpacusTraining:
    """DP-SGD by a plain PrivacyEngine, with faults to be planted.

    Claimed is (noise, rate, steps). ``noise_factor`` and ``clip_factor`` change what is done;
    ``full_batch`` ignores the sample, ``shuffled`` deals batches of one size, ``engines`` is how
    many engines follow each other, of which only the last is asked.
    """

    noise: float = 2.0
    rate: float = 0.2
    steps: int = 20
    noise_factor: float = 1.0
    clip_factor: float = 1.0
    full_batch: bool = False
    shuffled: bool = False
    engines: int = 1
    seed: int = 5

    def __call__(self, model: nn.Module, inputs: Tensor, labels: Tensor) -> History:
        torch.manual_seed(self.seed)
        history: History = []
        for _ in range(self.engines):
            history = self._engine(model, inputs, labels, self.steps // self.engines)
        return history

    def _engine(self, model: nn.Module, inputs: Tensor, labels: Tensor, steps: int) -> History:
        engine = PrivacyEngine(accountant="rdp")
        own = DataLoader(
            TensorDataset(inputs, labels), batch_size=math.ceil(len(inputs) * self.rate)
        )
        wrapped, optimizer, loader = engine.make_private(
            module=model,
            optimizer=torch.optim.SGD(model.parameters(), RATE),
            data_loader=own,
            noise_multiplier=self.noise * self.noise_factor / self.clip_factor,
            max_grad_norm=CLIP * self.clip_factor,
            poisson_sampling=not self.shuffled,
        )
        optimizer.expected_batch_size = BATCH
        if self.shuffled:
            loader = DataLoader(own.dataset, own.batch_size, shuffle=True)
        batches = itertools.islice(itertools.chain.from_iterable(itertools.repeat(loader)), steps)
        for batch in batches:
            chosen = (inputs, labels) if self.full_batch else batch
            optimizer.zero_grad()
            nn.functional.cross_entropy(wrapped(chosen[0]), chosen[1]).backward()
            optimizer.step()
        wrapped.to_standard_module()
        return [(self.noise, rate, count) for _, rate, count in engine.accountant.history]


def audited(training: OpacusTraining) -> Audit:
    setting = Setting(RATE, CLIP, BATCH)
    return audit(training, setting, np.random.default_rng(training.seed))


@pytest.mark.parametrize(
    "training",
    [
        OpacusTraining(),
        OpacusTraining(noise=4.0, rate=1.0, steps=1),
        OpacusTraining(noise=0.7, rate=0.2, steps=20),
    ],
)
def test_honest_training_passes(training):
    found = audited(training)
    assert found.failures == ()
    assert 0 <= found.lower_bound <= found.claimed_epsilon


def test_a_convolution_is_audited_like_a_linear_layer():
    setting, rng = Setting(RATE, CLIP, BATCH), np.random.default_rng(1)
    assert audit(OpacusTraining(), setting, rng, layer="convolution").failures == ()
    halved = audit(OpacusTraining(noise_factor=0.5), setting, rng, layer="convolution")
    assert any(failure.startswith("noise of excluded") for failure in halved.failures)


@pytest.mark.parametrize(
    ("fault", "symptom"),
    [
        (OpacusTraining(noise_factor=0.5), "noise of excluded"),
        (OpacusTraining(noise_factor=5**-0.5), "noise of excluded"),  # for masks that are not there
        (OpacusTraining(clip_factor=5.0), "shift of included"),
        (OpacusTraining(full_batch=True), "shift of included"),
        (OpacusTraining(engines=4), "noise of excluded"),
        (OpacusTraining(noise=0.4, shuffled=True), "spread of included"),
    ],
)
def test_a_planted_fault_is_caught(fault, symptom):
    failures = audited(fault).failures
    assert any(failure.startswith(symptom) for failure in failures), failures


def product(seed: int, layer: Layer = "linear", **faults: float) -> Audit:
    """Audit the product's own training, told something else than it claims."""
    claimed = {"sigma": 2.0, "rate": 0.2, "steps": 20, "norm": CLIP}
    told = claimed | faults
    mechanism = Mechanism(
        Steps(told["sigma"], told["rate"], int(told["steps"])), told["norm"], expected_batch=BATCH
    )
    source = SeededEntropy(seed)

    def train(model: nn.Module, inputs: Tensor, labels: Tensor) -> History:
        noise.train(
            *(model, Features(inputs, labels), mechanism, PLAIN), learning_rate=RATE, entropy=source
        )
        return [(claimed["sigma"], claimed["rate"], int(claimed["steps"]))]

    setting = Setting(RATE, CLIP, BATCH)
    return audit(train, setting, np.random.default_rng(seed), layer=layer)


@pytest.mark.parametrize("layer", ["linear", "convolution"])  # ghost clipping, per-sample gradients
def test_the_products_own_training_passes(layer: Layer):
    assert product(1, layer).failures == ()


@pytest.mark.parametrize(
    ("faults", "symptom"),
    [
        ({"sigma": 1.0}, "noise of excluded"),
        ({"sigma": 0.4, "norm": 5.0}, "shift of included"),  # noise as claimed, clipping is not
        ({"steps": 80.0}, "noise of excluded"),  # an accountant that forgot earlier rounds
        ({"rate": 1.0}, "shift of included"),
    ],
)
def test_faults_in_the_products_own_training_are_caught(faults, symptom):
    failures = product(1, **faults).failures
    assert any(failure.startswith(symptom) for failure in failures), failures


def test_gross_faults_also_break_the_published_bound():
    found = audited(OpacusTraining(full_batch=True))
    assert found.lower_bound > found.claimed_epsilon
    assert any("epsilon is at least" in failure for failure in found.failures)


def test_training_that_learns_the_canaries_cannot_be_audited():
    def eager(model, inputs, labels):
        model.weight.data[0] += inputs.sum(0)
        return [(1.0, 1.0, 1)]

    with pytest.raises(ConfigError, match="lower the learning rate"):
        audit(eager, Setting(RATE, CLIP, BATCH), np.random.default_rng(0), 20)


def test_the_lower_bound_agrees_with_randomised_response():
    """Of 1,000 coins told right with probability e / (1 + e), the bound is below epsilon = 1."""
    rng = np.random.default_rng(3)
    right = rng.binomial(1000, math.e / (1 + math.e), size=60)
    bounds = [lower_bound(1000, 1000, int(r), 0.0, 0.05) for r in right]
    # At most 5 % may be above: binomial(60, .05) exceeds 10 with probability 2e-4.
    assert sum(bound > 1.0 for bound in bounds) <= 10
    assert np.mean(bounds) > 0.8  # and it is no empty bound


def test_more_right_guesses_and_fewer_canaries_refute_more():
    bounds = [lower_bound(2000, 400, right, 1e-5, 0.025) for right in (200, 300, 350, 400)]
    assert bounds == sorted(bounds)
    assert bounds[0] == 0.0
    assert lower_bound(2000, 400, 390, 1e-3, 0.025) < lower_bound(2000, 400, 390, 0.0, 0.025)
