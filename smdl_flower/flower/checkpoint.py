"""State of a run after a round, enough to go on as if it had never stopped."""

import contextlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from flwr.serverapp.strategy import Strategy

from smdl_flower import weights
from smdl_flower.errors import ConfigError
from smdl_flower.weights import Weights

FORMAT = "smdl-checkpoint/1"
DIRECTORY = "checkpoint"

# What Flower's own strategies carry from round to round besides the model: name -> array(s).
_OPTIMIZER_STATE = ("m_t", "v_t", "momentum_vector")


@dataclass(frozen=True)
class Checkpoint:
    """A run after ``round`` rounds.

    Attributes:
        round: Rounds completed; 0 is the initial model.
        model: The global model.
        optimizer: Server-side optimizer state, ``<attribute>/<key>`` -> array.
        average: Of the models of several rounds, if the run keeps one.
        run: Id of the run; one that goes on from here keeps it.
    """

    round: int
    model: Weights = field(repr=False)
    optimizer: Weights = field(default_factory=dict, repr=False)
    average: Weights = field(default_factory=dict, repr=False)
    run: str = ""


def save(run: Path, checkpoint: Checkpoint, config_sha256: str) -> None:
    """Write a checkpoint into a run folder and drop the older ones.

    The model in it is unmarked: the file is private, and removed when the run has succeeded.
    """
    arrays = {f"model/{name}": array for name, array in checkpoint.model.items()}
    arrays |= {f"optimizer/{name}": array for name, array in checkpoint.optimizer.items()}
    arrays |= {f"average/{name}": array for name, array in checkpoint.average.items()}
    metadata = {"format": FORMAT, "round": str(checkpoint.round), "config": config_sha256}
    metadata["run"] = checkpoint.run
    path = run / DIRECTORY / f"round-{checkpoint.round:06d}.safetensors"
    weights.write(path, arrays, metadata, replace=True)
    for older in path.parent.glob("round-*.safetensors"):
        if older.name < path.name:
            older.unlink()


def load(run: Path, config_sha256: str) -> Checkpoint:
    """Read the newest checkpoint of an interrupted run.

    Raises:
        ConfigError: There is none, or it belongs to a run with other settings.
    """
    found = sorted((run / DIRECTORY).glob("round-*.safetensors"))
    if not found:
        raise ConfigError(f"resume-from: no checkpoint in {run}; start the scenario anew")
    file = weights.read(found[-1])
    if file.metadata.get("format") != FORMAT or file.metadata.get("config") != config_sha256:
        raise ConfigError(
            f"resume-from: {found[-1]} belongs to a run with other settings; use the same scenario "
            "and values (only resume-from may differ)"
        )
    parts: dict[str, Weights] = {"model": {}, "optimizer": {}, "average": {}}
    run_id = file.metadata.get("run", "")  # versions before 0.2 had none
    try:
        for name, array in file.weights.items():
            part, _, key = name.partition("/")
            parts[part][key] = array
        return Checkpoint(int(file.metadata["round"]), **parts, run=run_id)
    except (KeyError, ValueError):
        raise ConfigError(f"resume-from: {found[-1]} is damaged; restore it") from None


def discard(run: Path) -> None:
    """Remove a run's checkpoints, which are unmarked models; nothing else in its folder."""
    for path in (run / DIRECTORY).glob("round-*.safetensors"):
        path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # there was none, or there is something else in it
        (run / DIRECTORY).rmdir()


def optimizer_state(strategy: Strategy) -> Weights:
    """Return what a strategy carries from round to round besides the model, as float32."""
    state: Weights = {}
    for attribute in _OPTIMIZER_STATE:
        value = getattr(strategy, attribute, None)
        if isinstance(value, list):
            value = {f"#{i:06d}": array for i, array in enumerate(value)}
        for key, array in (value or {}).items():
            state[f"{attribute}/{key}"] = np.asarray(array, dtype=np.float32)
    return state


def restore_optimizer_state(strategy: Strategy, state: Weights) -> None:
    """Give a fresh strategy the state that :func:`optimizer_state` took."""
    for attribute in _OPTIMIZER_STATE:
        own = {k.partition("/")[2]: a for k, a in state.items() if k.startswith(f"{attribute}/")}
        if own:
            as_list = next(iter(own)).startswith("#")
            setattr(strategy, attribute, [own[k] for k in sorted(own)] if as_list else own)
