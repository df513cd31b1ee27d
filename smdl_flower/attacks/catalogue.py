"""All attacks by name, with what the thief must know for each."""

from collections.abc import Sequence

from smdl_flower.attacks import (
    altering,
    blending,
    cleansing,
    coalition,
    distilling,
    finetuning,
    hiding,
    obfuscation,
    overwriting,
    silencing,
)
from smdl_flower.attacks.entry import Attack, Stolen
from smdl_flower.config import Scalar, checked
from smdl_flower.errors import ConfigError
from smdl_flower.models import ModelSpec
from smdl_flower.weights import Weights

__all__ = ["ATTACKS", "Attack", "Stolen", "run"]

_MODULES = (
    altering,
    obfuscation,
    overwriting,
    finetuning,
    blending,
    cleansing,
    silencing,
    distilling,
    hiding,
    coalition,
)

ATTACKS: dict[str, Attack] = {
    attack.name: attack for module in _MODULES for attack in module.ENTRIES
}


def run(
    name: str, copies: Sequence[Weights], spec: ModelSpec, options: dict[str, Scalar]
) -> Stolen:
    """Run an attack by name.

    Raises:
        ConfigError: No such attack or setting, too few copies, or a model it cannot handle.

    Example:
        >>> from smdl_flower import models
        >>> spec = ModelSpec("cnn", channels=1, classes=10, image_size=28)
        >>> copy = models.to_weights(models.build(spec, seed=0))
        >>> stolen = run("prune", [copy], spec, {"fraction": 0.5})
        >>> float((stolen.weights["head.weight"] == 0).mean())
        0.5
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
