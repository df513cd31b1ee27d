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


NEEDED = {"fedmedian": 3, "krum": 5, "multikrum": 5, "bulyan": 7}


@pytest.mark.parametrize("name", NEEDED)
def test_a_robust_strategy_that_could_not_hold_its_promise_is_refused(name):
    settings = {"strategy": name, "num-malicious-nodes": 1, "num-participants": 10}
    with pytest.raises(ConfigError, match=f"needs at least {NEEDED[name]}"):
        build(**settings, **{"min-replies": NEEDED[name] - 1})
    build(**settings, **{"min-replies": NEEDED[name]})


def test_a_trimmed_mean_that_trims_too_little_is_refused():
    settings = {"strategy": "fedtrimmedavg", "num-malicious-nodes": 2, "num-participants": 10}
    with pytest.raises(ConfigError, match=r"0\.2 of 9 replies .* cuts off 1 at each end"):
        build(**settings, **{"min-replies": 9})
    build(**settings, **{"min-replies": 10})
    build(**settings, **{"min-replies": 5, "trim-fraction": 0.4})
    with pytest.raises(ConfigError, match="needs at least 5"):
        build(**settings, **{"min-replies": 4, "trim-fraction": 0.49})


@pytest.mark.parametrize("name", ["fedavg", "fedprox", "fedavgm", "fedadam", "fedyogi"])
def test_an_average_of_all_replies_stands_no_malicious_node(name):
    with pytest.raises(ConfigError, match=f"{name} averages all replies.*krum"):
        build(strategy=name, **{"num-malicious-nodes": 1})


def test_multi_krum_never_chooses_as_many_as_there_are():
    """It would then be an average of all, whatever it was told to stand."""
    settings = {"strategy": "multikrum", "num-malicious-nodes": 1, "num-participants": 7}
    strategy = build(**settings, **{"min-replies": 7})
    assert (strategy.num_malicious_nodes, strategy.num_nodes_to_select) == (1, 4)


def test_flower_waits_for_no_more_nodes_than_a_round_needs():
    """It waits without end; :mod:`presence` waits for the others, with an end."""
    strategy = build(**{"num-participants": 7, "min-replies": 4})
    assert strategy.min_available_nodes == strategy.min_train_nodes == 4
