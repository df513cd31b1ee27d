import numpy as np
import pytest
from flwr.serverapp.strategy import FedAdam, FedAvg, FedAvgM

from smdl_flower.errors import ConfigError
from smdl_flower.flower import checkpoint
from smdl_flower.flower.checkpoint import Checkpoint


def example(number, value=1.0):
    return Checkpoint(
        number,
        {"layer/with.slash": np.full((2, 2), value, np.float32)},
        {"m_t/layer": np.full(3, 2 * value, np.float32)},
    )


def test_a_checkpoint_is_read_back_as_it_was(tmp_path):
    checkpoint.save(tmp_path, example(4, 0.1), "settings")
    read = checkpoint.load(tmp_path, "settings")
    assert read.round == 4
    np.testing.assert_array_equal(read.model["layer/with.slash"], np.full((2, 2), 0.1, np.float32))
    np.testing.assert_array_equal(read.optimizer["m_t/layer"], np.full(3, 0.2, np.float32))


def test_only_the_newest_checkpoint_is_kept_and_it_is_private(tmp_path):
    for number in (1, 2, 10):
        checkpoint.save(tmp_path, example(number), "settings")
    (kept,) = (tmp_path / checkpoint.DIRECTORY).iterdir()
    assert checkpoint.load(tmp_path, "settings").round == 10
    assert kept.stat().st_mode & 0o077 == 0


def test_a_checkpoint_of_other_settings_is_refused(tmp_path):
    checkpoint.save(tmp_path, example(1), "settings")
    with pytest.raises(ConfigError, match="other settings"):
        checkpoint.load(tmp_path, "changed")


def test_a_folder_without_checkpoint_cannot_be_resumed(tmp_path):
    with pytest.raises(ConfigError, match="no checkpoint"):
        checkpoint.load(tmp_path, "settings")


@pytest.mark.parametrize(
    ("strategy", "attribute", "state"),
    [
        (FedAdam(), "m_t", {"a": np.ones(2, np.float32)}),
        (FedAvgM(), "momentum_vector", [np.zeros(1, np.float32), np.ones(3, np.float32)]),
    ],
    ids=["a dictionary of arrays", "a list of arrays"],
)
def test_optimizer_state_survives(strategy, attribute, state):
    setattr(strategy, attribute, state)
    fresh = type(strategy)()
    checkpoint.restore_optimizer_state(fresh, checkpoint.optimizer_state(strategy))
    restored = getattr(fresh, attribute)
    assert type(restored) is type(state)
    pairs = (
        zip(restored, state, strict=True)
        if isinstance(state, list)
        else [(restored[k], v) for k, v in state.items()]
    )
    for after, before in pairs:
        np.testing.assert_array_equal(after, before)


def test_a_strategy_without_state_has_none():
    assert checkpoint.optimizer_state(FedAvg()) == {}
