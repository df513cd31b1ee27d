"""What noised steps cost: epsilon of a history, and the noise that a budget needs.

Renyi accounting of the sampled Gaussian mechanism (Mironov, Talwar & Zhang, 1908.10530), by Opacus,
for add-or-remove-one-image neighbours. Its conversion to epsilon (Balle et al., 1905.09982) takes
the best of a list of orders; ours goes on where Opacus' own list ends, which can only tighten it.

Opacus is imported where it is used: it takes two seconds, and in a deployment Flower starts a new
process for each message, of runs without ``dp`` too.
"""

import functools
import importlib.metadata
import warnings
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from smdl_flower.config import RunConfig

ACCOUNTANT = "rdp"
ORDERS = [1 + x / 10 for x in range(1, 100)] + [float(x) for x in range(11, 64)]
ORDERS += [64.0, 80.0, 96.0, 128.0, 192.0, 256.0, 512.0, 1024.0]
_TOLERANCE = 1e-3  # of epsilon, below the target


@dataclass(frozen=True)
class Steps:
    """Noised steps of one kind.

    Attributes:
        sigma: Noise multiplier: standard deviation of the noise over the clipping norm.
        sample_rate: Chance of each image to be in a step, q.
        count: How many steps.
    """

    sigma: float
    sample_rate: float
    count: int


def epsilon(history: Iterable[Steps], delta: float) -> float:
    """Return the epsilon of all steps together, by Renyi accounting.

    Example:
        >>> once = epsilon([Steps(10.0, 1.0, 50)], 1e-5)
        >>> once < epsilon([Steps(10.0, 1.0, 50), Steps(10.0, 1.0, 1)], 1e-5)
        True
        >>> epsilon([], 1e-5)
        0.0
    """
    return _epsilon(_merged(history), delta)


def epsilon_prv(history: Iterable[Steps], delta: float) -> float:
    """Return a tighter bound on the same epsilon, by privacy loss distributions (2106.02848).

    Seconds; for reports only, never for deciding.
    """
    from opacus.accountants import PRVAccountant  # noqa: PLC0415

    accountant = PRVAccountant()
    accountant.history = list(_merged(history))
    if not accountant.history:
        return 0.0
    # Opacus takes log(0) at a sampling rate of one, and sizes its grid by its own orders.
    with np.errstate(divide="ignore"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Optimal order is the largest", UserWarning)
        return float(accountant.get_epsilon(delta=delta))


def steps_of_round(run: RunConfig) -> int:
    """Return the noised steps of one round: an epoch is as many as it takes to see all once."""
    return run.training.epochs * max(1, round(1 / run.privacy.sample_rate))


def sigma_of_run(run: RunConfig) -> float:
    """Return the noise multiplier with which a run, spare rounds included, keeps its epsilon."""
    rounds = run.federation.rounds + run.privacy.spare_rounds
    steps = rounds * steps_of_round(run)
    return _sigma(run.privacy.epsilon, run.privacy.delta, run.privacy.sample_rate, steps)


def version() -> str:
    """Return which accountant this is, for reports."""
    return f"RDP of opacus {importlib.metadata.version('opacus')}"


@functools.lru_cache(maxsize=64)
def _sigma(target: float, delta: float, sample_rate: float, steps: int) -> float:
    from opacus.accountants.utils import get_noise_multiplier  # noqa: PLC0415

    return float(
        get_noise_multiplier(
            target_epsilon=target,
            target_delta=delta,
            sample_rate=sample_rate,
            steps=steps,
            accountant=ACCOUNTANT,
            epsilon_tolerance=_TOLERANCE * target,
            alphas=ORDERS,
        )
    )


@functools.lru_cache(maxsize=4096)
def _epsilon(history: tuple[tuple[float, float, int], ...], delta: float) -> float:
    from opacus.accountants import RDPAccountant  # noqa: PLC0415

    accountant = RDPAccountant()
    accountant.history = list(history)
    return max(0.0, float(accountant.get_epsilon(delta=delta, alphas=ORDERS)))


def _merged(history: Iterable[Steps]) -> tuple[tuple[float, float, int], ...]:
    total: Counter[tuple[float, float]] = Counter()
    for steps in history:
        total[steps.sigma, steps.sample_rate] += steps.count
    return tuple((sigma, rate, count) for (sigma, rate), count in sorted(total.items()))
