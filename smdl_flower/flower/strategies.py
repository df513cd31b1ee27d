"""Flower's own strategies by run-config name, ready to be wrapped."""

from collections.abc import Callable
from typing import Any

from flwr.serverapp.strategy import (
    Bulyan,
    FedAdagrad,
    FedAdam,
    FedAvg,
    FedAvgM,
    FedMedian,
    FedProx,
    FedTrimmedAvg,
    FedYogi,
    Krum,
    MultiKrum,
    Strategy,
)

from smdl_flower.config import FederationConfig, RunConfig
from smdl_flower.errors import ConfigError


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
    # Blanchard et al. 2017 (Krum) and El Mhamdi et al. 2018 (Bulyan) need this many honest replies.
    malicious = federation.malicious_nodes
    needed = {
        "krum": 2 * malicious + 3,
        "multikrum": 2 * malicious + 3,
        "bulyan": 4 * malicious + 3,
    }
    least = needed.get(federation.strategy, 1)
    if federation.min_replies < least:
        raise ConfigError(
            f"min-replies: {federation.min_replies}, but {federation.strategy} against {malicious} "
            f"malicious nodes needs at least {least}; raise it or lower num-malicious-nodes"
        )


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
    "krum": lambda c, common: Krum(num_malicious_nodes=c.malicious_nodes, **common),
    "multikrum": lambda c, common: MultiKrum(
        num_malicious_nodes=c.malicious_nodes, num_nodes_to_select=c.min_replies, **common
    ),
    "bulyan": lambda c, common: Bulyan(num_malicious_nodes=c.malicious_nodes, **common),
}
