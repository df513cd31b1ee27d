"""All attacks by name, with what the thief must know for each."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import Field

from smdl_flower.attacks import altering, collusion, finetuning
from smdl_flower.config import Scalar, Section, Seed, checked
from smdl_flower.errors import ConfigError
from smdl_flower.models import ModelSpec
from smdl_flower.weights import Weights


class NoOptions(Section):
    """An attack without settings."""


class PruneOptions(Section):
    """Settings of ``prune``."""

    fraction: float = Field(0.5, ge=0.0, lt=1.0, description="share of each tensor set to zero")


class NoiseOptions(Section):
    """Settings of ``noise``."""

    level: float = Field(0.1, ge=0.0, le=10.0, description="in standard deviations of each tensor")
    seed: Seed = 1


class QuantizeOptions(Section):
    """Settings of ``quantize``."""

    bits: int = Field(8, ge=1, le=16, description="per weight")


@dataclass(frozen=True)
class Attack:
    """One entry of the catalogue.

    Attributes:
        name: On the command line.
        summary: What it does.
        knows: What the thief must have besides the copies.
        copies: Least number of copies it takes.
        options: Its settings and their defaults.
        run: Copies, their model and settings -> the altered model.
    """

    name: str
    summary: str
    knows: str
    copies: int
    options: type[Section]
    run: Callable[[Sequence[Weights], ModelSpec, Any], Weights]


ATTACKS: dict[str, Attack] = {
    attack.name: attack
    for attack in (
        Attack(
            "prune",
            "set the smallest weights of each tensor to zero",
            "nothing",
            1,
            PruneOptions,
            lambda copies, _, o: altering.prune(copies[0], o.fraction),
        ),
        Attack(
            "quantize",
            "round each tensor to few levels",
            "nothing",
            1,
            QuantizeOptions,
            lambda copies, _, o: altering.quantize(copies[0], o.bits),
        ),
        Attack(
            "noise",
            "add Gaussian noise to each tensor",
            "nothing",
            1,
            NoiseOptions,
            lambda copies, _, o: altering.add_noise(copies[0], o.level, o.seed),
        ),
        Attack(
            "fine-tune",
            "train on images of the thief's own",
            "labelled images of the same task",
            1,
            finetuning.FineTuneOptions,
            lambda copies, spec, o: finetuning.fine_tune(copies[0], spec, o),
        ),
        Attack(
            "average",
            "average the copies of a coalition",
            "several customers' copies",
            2,
            NoOptions,
            lambda copies, _, __: collusion.average(copies),
        ),
    )
}


def run(
    name: str, copies: Sequence[Weights], spec: ModelSpec, options: dict[str, Scalar]
) -> Weights:
    """Run an attack by name.

    Raises:
        ConfigError: No such attack or setting, or too few copies.

    Example:
        >>> import numpy as np
        >>> spec = ModelSpec("cnn", channels=1, classes=10, image_size=28)
        >>> copy = {"w": np.array([[1.0, -0.1], [0.2, 2.0]], np.float32)}
        >>> run("prune", [copy], spec, {"fraction": 0.5})["w"].tolist()
        [[1.0, 0.0], [0.0, 2.0]]
    """
    if name not in ATTACKS:
        raise ConfigError(f"attack {name!r} is unknown; expected one of {', '.join(ATTACKS)}")
    attack = ATTACKS[name]
    if len(copies) < attack.copies:
        raise ConfigError(f"{name} takes at least {attack.copies} copies, {len(copies)} given")
    shapes = [{key: array.shape for key, array in copy.items()} for copy in copies]
    if any(other != shapes[0] for other in shapes):
        raise ConfigError(f"{name}: the copies have different tensors; take copies of one model")
    try:
        settings = checked(attack.options, options)
    except ConfigError as error:
        allowed = ", ".join(f.alias or n for n, f in attack.options.model_fields.items()) or "none"
        raise ConfigError(f"attack {name}: {error}; settings: {allowed}") from None
    return attack.run(copies, spec, settings)
