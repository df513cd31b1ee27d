"""A statistical audit of private training: does the code do what its accountant says?

One run with many canaries (Steinke, Nasr and Jagielski 2023, "Privacy auditing with one training
run", arXiv 2305.08846). The model is linear with one input for each canary, and canary i is 50 e_i:
its gradient lies along coordinate i alone and is clipped, so that coordinates are independent runs
of the mechanism. A coin decides which canaries take part. Then

- an excluded coordinate ends at a sum of noise only: standard deviation r s C sqrt(T) / B;
- an included one is shifted by r C q T / B on average, with q (1 - q) T (r C / B)^2 more variance

for learning rate r, noise multiplier s, clipping norm C, sampling rate q, T steps, denominator B.
These are checked on both sides, within four standard errors, against the history that the code's
own accountant kept. The published lower bound on epsilon must not exceed what that history claims;
it alone catches gross faults only. Not covered: the random generator, the ledger, extra outputs.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from opacus.accountants import RDPAccountant
from scipy.stats import binom
from torch import Tensor, nn

from smdl_flower.errors import ConfigError

History = Sequence[tuple[float, float, int]]
"""(noise multiplier, sampling rate, steps), as Opacus' accountants keep it."""

PrivateTraining = Callable[[nn.Module, Tensor, Tensor], History]
"""Train a model in place on inputs and labels by DP-SGD on cross-entropy.

Returns what its accountant says it did.
"""

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

Layer = Literal["linear", "convolution"]

CANARY = 50.0  # so long that its gradient is always clipped
LARGEST_DEVIATION = 4.0  # standard errors; four checks of honest code fail once in 4,000 audits


@dataclass(frozen=True)
class Setting:
    """What the training under audit was told, apart from noise and sampling.

    Attributes:
        learning_rate: Of plain SGD.
        max_grad_norm: C.
        expected_batch: B, what the noised sum is divided by.
        delta: Of the claim.
    """

    learning_rate: float
    max_grad_norm: float
    expected_batch: float
    delta: float = 1e-5


@dataclass(frozen=True)
class Check:
    """One measured number against what the claim says it must be."""

    name: str
    measured: float
    expected: float
    standard_error: float

    @property
    def deviation(self) -> float:
        """How many standard errors off."""
        return (self.measured - self.expected) / self.standard_error

    @property
    def passed(self) -> bool:
        """Whether chance explains it."""
        return abs(self.deviation) <= LARGEST_DEVIATION


@dataclass(frozen=True)
class Audit:
    """What an audit found.

    Attributes:
        claimed_epsilon: Of the accountant's history, RDP.
        lower_bound: On the true epsilon, 95 % confidence.
        checks: Noise, shift and spread.
        canaries: How many there were.
    """

    claimed_epsilon: float
    lower_bound: float
    checks: tuple[Check, ...]
    canaries: int

    @property
    def failures(self) -> tuple[str, ...]:
        """What does not fit the claim, in words; empty if all does."""
        wrong = [
            f"{c.name}: measured {c.measured:.4g}, the claim says {c.expected:.4g} "
            f"({c.deviation:+.1f} standard errors)"
            for c in self.checks
            if not c.passed
        ]
        if self.lower_bound > self.claimed_epsilon:
            wrong.append(
                f"epsilon is at least {self.lower_bound:.2f}, not {self.claimed_epsilon:.2f}"
            )
        return tuple(wrong)


def audit(
    train: PrivateTraining,
    setting: Setting,
    rng: np.random.Generator,
    canaries: int = 2000,
    layer: Layer = "linear",
) -> Audit:
    """Train once on canaries and compare what happened with what was claimed.

    Args:
        train: The code under audit.
        setting: What it was told; B must be what it divides by, whatever the coin says.
        rng: Tosses the coins. Noise and sampling are the code's own.
        canaries: Of 2,000, noise that is off by 9 % is caught every second time, by 14 % nearly
            always (a standard error is 2.2 %).
        layer: Which kind the canaries go through: ghost clipping may treat linear layers apart.

    Example:
        >>> def careless(model, inputs, labels):
        ...     return [(4.0, 1.0, 1)]  # says it trained, did nothing
        >>> audit(careless, Setting(1e-3, 1.0, 100), np.random.default_rng(0), 100).failures[0]
        'noise of excluded canaries: measured 0, the claim says 4e-05 (-10.6 standard errors)'
    """
    included = rng.random(canaries) < 0.5
    model = _model(canaries, layer)
    inputs = CANARY * torch.eye(canaries)[torch.from_numpy(included)]
    if layer == "convolution":
        inputs = inputs[..., None]
    history = train(model, inputs, torch.zeros(len(inputs), dtype=torch.int64))
    # Both classes get half of a canary's gradient: along their difference it has length C.
    (weight,) = model.parameters()
    ends = weight.detach().double().flatten(1).numpy()
    projections: Floats = (ends[0] - ends[1]) / math.sqrt(2)
    _require_small(projections)
    return Audit(
        _claimed(history, setting.delta),
        _strongest_bound(projections, included, setting.delta),
        _checks(projections[included], projections[~included], history, setting),
        canaries,
    )


def _model(canaries: int, layer: Layer) -> nn.Module:
    """Two classes, no bias, zeros; the convolution has a kernel of one and computes the same."""
    model: nn.Module = nn.Linear(canaries, 2, bias=False)
    if layer == "convolution":
        model = nn.Sequential(nn.Conv1d(canaries, 2, 1, bias=False), nn.Flatten())
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    return model


def _require_small(projections: Floats) -> None:
    logit = CANARY * math.sqrt(2) * float(np.abs(projections).max(initial=0.0))
    if not logit < 2.0:  # beyond, a canary is learned and its gradient no longer clipped
        raise ConfigError(
            f"audit: a canary's logit moved by {logit:.3g}, expected less than 2; lower the "
            "learning rate of the audited training"
        )


def _claimed(history: History, delta: float) -> float:
    accountant = RDPAccountant()
    accountant.history = list(history)
    return float(accountant.get_epsilon(delta))


def _checks(inside: Floats, outside: Floats, history: History, s: Setting) -> tuple[Check, ...]:
    unit = s.learning_rate * s.max_grad_norm / s.expected_batch
    noise = unit * math.sqrt(sum(sigma**2 * steps for sigma, _, steps in history))
    shift = unit * sum(q * steps for _, q, steps in history)
    # Cumulants of the Bernoulli draws: variance and fourth, for the error of a standard deviation.
    second = unit**2 * sum(q * (1 - q) * steps for _, q, steps in history)
    fourth = unit**4 * sum(q * (1 - q) * (1 - 6 * q * (1 - q)) * n for _, q, n in history)
    spread = math.sqrt(noise**2 + second)
    return (
        Check("noise of excluded canaries", _rms(outside), noise, _error(noise, 0.0, outside)),
        Check(
            "mean of excluded canaries", float(outside.mean()), 0.0, noise / math.sqrt(len(outside))
        ),
        Check(
            "shift of included canaries",
            float(inside.mean()),
            shift,
            spread / math.sqrt(len(inside)),
        ),
        Check(
            "spread of included canaries",
            float(inside.std()),
            spread,
            _error(spread, fourth, inside),
        ),
    )


def _rms(values: Floats) -> float:
    return float(np.sqrt(np.mean(values**2)))


def _error(deviation: float, fourth: float, values: Floats) -> float:
    """Standard error of a standard deviation with this fourth cumulant (delta method)."""
    return math.sqrt((2 * deviation**4 + fourth) / len(values)) / (2 * deviation)


def _strongest_bound(projections: Floats, included: Flags, delta: float) -> float:
    """Bound on epsilon, from the better of two numbers of guesses, each at 97.5 %."""
    order, count = np.argsort(projections), len(projections)
    bounds = []
    for guesses in (max(1, count // 10), max(1, count // 50)):
        right = int(included[order[-guesses:]].sum() + (~included[order[:guesses]]).sum())
        bounds.append(lower_bound(count, 2 * guesses, right, delta, 0.025))
    return max(bounds)


def lower_bound(canaries: int, guesses: int, right: int, delta: float, level: float) -> float:
    """Return the largest epsilon that the guesses refute (Steinke et al. 2023, theorem 3.1).

    Args:
        canaries: Coins tossed.
        guesses: Coins that the auditor named a side of; it abstains on the others.
        right: Guesses that were right.
        delta: Of the claim.
        level: Chance that the bound is above the true epsilon.

    Example:
        >>> lower_bound(100, 100, 50, 1e-5, 0.05)
        0.0
        >>> round(lower_bound(100, 100, 100, 0.0, 0.05), 2)  # log(p / (1 - p)), p^100 = 0.05
        3.49
    """
    low, high = 0.0, 60.0
    if _p_value(canaries, guesses, right, 0.0, delta) >= level:
        return 0.0
    for _ in range(40):
        middle = (low + high) / 2
        if _p_value(canaries, guesses, right, middle, delta) < level:
            low = middle
        else:
            high = middle
    return low


def _p_value(canaries: int, guesses: int, right: int, epsilon: float, delta: float) -> float:
    """Chance that an (epsilon, delta) private training allows so many right guesses."""
    success = 1 / (1 + math.exp(-epsilon))
    tail = float(binom.sf(right - 1, guesses, success))
    below = np.cumsum(binom.pmf(right - np.arange(1, right + 1), guesses, success))
    slack = float(np.max(below / np.arange(1, right + 1), initial=0.0))
    return min(1.0, tail + 2 * canaries * delta * slack)
