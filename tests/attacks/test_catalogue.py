"""Every attack by name: what it takes, what it refuses, and that it leaves the copies alone."""

import numpy as np
import pytest

from smdl_flower import models, weights
from smdl_flower.attacks import altering, catalogue, collusion
from smdl_flower.attacks.catalogue import ATTACKS
from smdl_flower.config import Scalar
from smdl_flower.errors import ConfigError
from smdl_flower.models import ModelSpec
from smdl_flower.weights import Weights

SPEC = ModelSpec("cnn", channels=1, classes=10, image_size=8)
FAST: dict[str, dict[str, Scalar]] = {
    "fine-tune": {"data": "digits", "images": 32, "epochs": 1},
}


def copies(count: int) -> list[Weights]:
    return [models.to_weights(models.build(SPEC, seed=seed)) for seed in range(count)]


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_with_its_least_copies_gives_a_model_and_changes_no_copy(name: str) -> None:
    given = copies(ATTACKS[name].copies)
    before = [weights.digest(copy) for copy in given]
    for copy in given:
        for array in copy.values():
            array.setflags(write=False)
    altered = catalogue.run(name, given, SPEC, FAST.get(name, {})).weights
    assert [weights.digest(copy) for copy in given] == before
    models.from_weights(SPEC, altered)  # names and shapes fit
    assert weights.digest(altered) not in before
    assert all(a.dtype == np.float32 and np.isfinite(a).all() for a in altered.values())


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_is_listed_under_its_own_name_with_working_defaults(name: str) -> None:
    attack = ATTACKS[name]
    assert attack.name == name
    assert attack.summary
    assert attack.knows
    assert attack.options.model_validate({}) == attack.options()


def test_settings_reach_the_attack() -> None:
    (copy,) = copies(1)
    for name, settings, expected in (
        ("prune", {"fraction": 0.8}, altering.prune(copy, 0.8)),
        ("quantize", {"bits": 3}, altering.quantize(copy, 3)),
        ("noise", {"level": 0.3, "seed": 5}, altering.add_noise(copy, 0.3, 5)),
    ):
        altered = catalogue.run(name, [copy], SPEC, dict(settings)).weights
        assert weights.digest(altered) == weights.digest(expected)


def test_averaging_takes_every_copy() -> None:
    given = copies(4)
    altered = catalogue.run("average", given, SPEC, {}).weights
    assert weights.digest(altered) == weights.digest(collusion.average(given))
    assert weights.digest(altered) != weights.digest(collusion.average(given[:3]))


@pytest.mark.parametrize("name", ["", "Prune", "overwrite", "fine_tune"])
def test_an_unknown_attack_is_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(ConfigError, match=f"attack '{name}' is unknown; .*prune, quantize, noise"):
        catalogue.run(name, copies(1), SPEC, {})


@pytest.mark.parametrize("name", ATTACKS)
def test_too_few_copies_are_refused_with_the_number_needed(name: str) -> None:
    needed = ATTACKS[name].copies
    for count in range(needed):
        message = f"{name} takes at least {needed} copies, {count} given"
        with pytest.raises(ConfigError, match=message):
            catalogue.run(name, copies(count), SPEC, {})


@pytest.mark.parametrize("change", ["shape", "missing", "additional"])
def test_copies_of_different_models_are_refused(change: str) -> None:
    given = copies(3)
    match change:
        case "shape":
            given[2]["head.bias"] = given[2]["head.bias"][:9]
        case "missing":
            del given[2]["head.bias"]
        case _:
            given[2]["head.scale"] = np.ones(1, np.float32)
    with pytest.raises(ConfigError, match="average: the copies have different tensors"):
        catalogue.run("average", given, SPEC, {})


BAD: list[tuple[str, str, Scalar]] = [
    ("prune", "fraction", 1.0),
    ("prune", "fraction", -0.1),
    ("prune", "fraction", "half"),
    ("prune", "fraction", float("nan")),
    ("prune", "level", 0.5),
    ("noise", "level", -1.0),
    ("noise", "level", 11.0),
    ("noise", "level", float("nan")),
    ("noise", "seed", -1),
    ("noise", "seed", 1.5),
    ("quantize", "bits", 0),
    ("quantize", "bits", 17),
    ("quantize", "bits", 2.5),
    ("quantize", "bits", True),
    ("average", "weights", 1),
    ("fine-tune", "data", 3),
    ("fine-tune", "images", 0),
    ("fine-tune", "epochs", 0),
    ("fine-tune", "learning-rate", 0.0),
    ("fine-tune", "learning-rate", float("nan")),
    ("fine-tune", "batch-size", 0),
    ("fine-tune", "momentum", 0.5),
]


@pytest.mark.parametrize(("name", "key", "value"), BAD)
def test_a_setting_that_does_not_exist_or_is_out_of_range_is_named(
    name: str, key: str, value: Scalar
) -> None:
    with pytest.raises(ConfigError) as caught:
        catalogue.run(name, copies(2), SPEC, {key: value})
    message = str(caught.value)
    assert message.startswith(f"attack {name}: {key}: {value!r} is not allowed; ")
    options = ATTACKS[name].options
    keys = [field.alias or field_name for field_name, field in options.model_fields.items()]
    assert message.endswith(f"settings: {', '.join(keys) or 'none'}")
