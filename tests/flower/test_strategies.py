import pytest

from smdl_flower import config
from smdl_flower.errors import ConfigError
from smdl_flower.flower import strategies


def build(**overrides):
    flat = config.load_defaults(config.example_app_dir())
    return strategies.build(config.parse({**flat, **overrides}))


def test_an_unknown_strategy_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match=r"fedbest.*fedavg.*krum"):
        build(strategy="fedbest")


@pytest.mark.parametrize(("name", "needed"), [("krum", 5), ("multikrum", 5), ("bulyan", 7)])
def test_a_robust_strategy_that_could_not_hold_its_promise_is_refused(name, needed):
    settings = {"strategy": name, "num-malicious-nodes": 1, "num-participants": 10}
    with pytest.raises(ConfigError, match=f"needs at least {needed}"):
        build(**settings, **{"min-replies": needed - 1})
    assert build(**settings, **{"min-replies": needed}).num_malicious_nodes == 1


def test_flower_waits_for_no_more_nodes_than_a_round_needs():
    """It waits without end; :mod:`presence` waits for the others, with an end."""
    strategy = build(**{"num-participants": 7, "min-replies": 4})
    assert strategy.min_available_nodes == strategy.min_train_nodes == 4
