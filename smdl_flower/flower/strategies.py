"""Flower's own strategies by run-config name, ready to be wrapped."""

from collections.abc import Callable
from typing import Any

from flwr.serverapp.strategy import (
    FedAdagrad,
    FedAdam,
    FedAvg,
    FedAvgM,
    FedMedian,
    FedProx,
    FedTrimmedAvg,
    FedYogi,
    Strategy,
)

from smdl_flower.config import FederationConfig, RunConfig
from smdl_flower.errors import ConfigError
from smdl_flower.flower.robust import BulyanOfUpdates, KrumOfUpdates, MultiKrumOfUpdates


def build(config: RunConfig) -> Strategy:
    """Return the strategy that the run config names.

    Raises:
        ConfigError: From :func:`check`.
    """
    check(config)
    federation = config.federation
    factory = _FACTORIES[federation.strategy]
    return factory(
        federation,
        {
            "fraction_train": federation.fraction_train,
            "fraction_evaluate": federation.fraction_evaluate,
            # Flower waits for these without end; presence.py has waited for more, with an end.
            "min_train_nodes": federation.min_replies,
            "min_evaluate_nodes": 1,
            "min_available_nodes": federation.min_replies,
        },
    )


def check(config: RunConfig) -> None:
    """Refuse a strategy that does not exist or could not keep its promise.

    Raises:
        ConfigError: No such strategy, or a robust one with too few replies.
    """
    federation = config.federation
    if federation.strategy not in _FACTORIES:
        raise ConfigError(
            f"strategy: {federation.strategy!r} is unknown; expected one of {', '.join(_FACTORIES)}"
        )
    problem = _too_weak(federation)
    if problem:
        raise ConfigError(problem)


def _too_weak(federation: FederationConfig) -> str:
    """Why a strategy could not stand so many malicious nodes; empty if it can."""
    name, malicious, replies = (
        federation.strategy,
        federation.malicious_nodes,
        federation.min_replies,
    )
    if name not in _LEAST_REPLIES and malicious:
        return (
            f"num-malicious-nodes: {malicious}, but {name} averages all replies, and a single one "
            f"can decide the model; choose one of {', '.join(_LEAST_REPLIES)}, or set it to 0"
        )
    least = _LEAST_REPLIES[name](malicious) if name in _LEAST_REPLIES else 1
    if replies < least:
        return (
            f"min-replies: {replies}, but {name} against {malicious} malicious nodes needs at "
            f"least {least}; raise it or lower num-malicious-nodes"
        )
    cut = int(federation.trim_fraction * replies)  # as Flower computes it
    if name == "fedtrimmedavg" and cut < malicious:
        return (
            f"trim-fraction: {federation.trim_fraction:g} of {replies} replies (min-replies) cuts "
            f"off {cut} at each end, fewer than {malicious} malicious nodes; raise it or "
            "min-replies"
        )
    return ""


# Replies that f malicious nodes call for. Blanchard et al. 2017 (Krum), El Mhamdi et al. 2018
# (Bulyan), Yin et al. 2018 (median and trimmed mean: the honest must be more than half).
_LEAST_REPLIES: dict[str, Callable[[int], int]] = {
    "fedmedian": lambda f: 2 * f + 1,
    "fedtrimmedavg": lambda f: 2 * f + 1,
    "krum": lambda f: 2 * f + 3,
    "multikrum": lambda f: 2 * f + 3,
    "bulyan": lambda f: 4 * f + 3,
}

_Factory = Callable[[FederationConfig, dict[str, Any]], Strategy]

_FACTORIES: dict[str, _Factory] = {
    "fedavg": lambda _, common: FedAvg(**common),
    "fedprox": lambda c, common: FedProx(proximal_mu=c.proximal_mu, **common),
    "fedavgm": lambda c, common: FedAvgM(
        server_momentum=c.server_momentum, server_learning_rate=c.server_learning_rate, **common
    ),
    "fedadam": lambda c, common: FedAdam(eta=c.server_learning_rate, **common),
    "fedyogi": lambda c, common: FedYogi(eta=c.server_learning_rate, **common),
    "fedadagrad": lambda c, common: FedAdagrad(eta=c.server_learning_rate, **common),
    "fedmedian": lambda _, common: FedMedian(**common),
    "fedtrimmedavg": lambda c, common: FedTrimmedAvg(beta=c.trim_fraction, **common),
    "krum": lambda c, common: KrumOfUpdates(num_malicious_nodes=c.malicious_nodes, **common),
    # Of n replies at most n - f - 2 may be chosen: with more, those furthest away are among them.
    "multikrum": lambda c, common: MultiKrumOfUpdates(
        num_malicious_nodes=c.malicious_nodes,
        num_nodes_to_select=c.min_replies - c.malicious_nodes - 2,
        **common,
    ),
    "bulyan": lambda c, common: BulyanOfUpdates(num_malicious_nodes=c.malicious_nodes, **common),
}
