"""Every attack by name: what it takes, what it refuses, and that it leaves the copies alone."""

import functools
from typing import cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from smdl_flower import models, weights
from smdl_flower.attacks import altering, catalogue, collusion
from smdl_flower.attacks.catalogue import ATTACKS, Stolen
from smdl_flower.config import Scalar
from smdl_flower.errors import ConfigError
from smdl_flower.models import ModelSpec
from smdl_flower.weights import Weights

SPEC = ModelSpec("cnn", channels=1, classes=10, image_size=8)
RESNET = ModelSpec("resnet8", channels=1, classes=10, image_size=8)
FAST: dict[str, Scalar] = {"data": "digits", "images": 32, "epochs": 1, "samples": 4, "steps": 2}
KNOW_STRUCTURE = sorted(
    [a.name for a in ATTACKS.values() if a.knows == "the structure of the model"]
    + ["fine-prune", "average-permute", "average-one-permuted", "jam-hide", "fine-tune-hide"]
)
ANY_STRUCTURE = ["low-rank-layers", "factorise"]


def fast(name: str, **more: Scalar) -> dict[str, Scalar]:
    fields = ATTACKS[name].options.model_fields
    return {key: value for key, value in FAST.items() if key in fields} | more


def copies(count: int, spec: ModelSpec = SPEC) -> list[Weights]:
    return [dict(untrained(spec, seed)) for seed in range(count)]


@functools.cache
def untrained(spec: ModelSpec, seed: int) -> Weights:
    return models.to_weights(models.build(spec, seed=seed))


def run(name: str, spec: ModelSpec = SPEC, **more: Scalar) -> Stolen:
    given = copies(ATTACKS[name].copies, spec)
    return catalogue.run(name, given, spec, fast(name, **more))


@functools.cache
def run_once(name: str, spec: ModelSpec = SPEC) -> Stolen:
    return run(name, spec)


def outputs(model: nn.Module, size: int = 8) -> Tensor:
    images = torch.randn(16, 1, size, size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return cast(Tensor, model(images))


def test_the_catalogue_holds_the_three_blocks() -> None:
    assert len(ATTACKS) >= 38
    numbers = {block: set[int]() for block in ("A", "B", "C")}
    for attack in ATTACKS.values():
        numbers[attack.block].add(attack.number)
    assert numbers["A"] >= {*range(1, 20), *range(39, 44)}
    assert numbers["B"] == set(range(20, 27))
    assert numbers["C"] == {27, 28, 29, 30, 31, 32, 33, 35, 36, 37}


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_with_its_least_copies_gives_a_model_and_changes_no_copy(name: str) -> None:
    given = copies(ATTACKS[name].copies)
    before = [weights.digest(copy) for copy in given]
    for copy in given:
        for array in copy.values():
            array.setflags(write=False)
    stolen = catalogue.run(name, given, SPEC, fast(name))
    assert [weights.digest(copy) for copy in given] == before
    assert weights.digest(stolen.weights) not in before
    assert all(a.dtype == np.float32 and np.isfinite(a).all() for a in stolen.weights.values())
    assert bool(outputs(stolen.model).isfinite().all())


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize("spec", [SPEC, RESNET], ids=lambda spec: spec.name)
def test_the_model_of_an_attack_computes_with_what_is_leaked(name: str, spec: ModelSpec) -> None:
    stolen = run_once(name, spec)
    held = models.to_weights(stolen.model)
    assert sorted(a.tobytes() for a in held.values()) == sorted(
        a.tobytes() for a in stolen.weights.values()
    )
    assert not stolen.model.training


@pytest.mark.parametrize(
    "name", [n for n, a in ATTACKS.items() if "seed" in a.options.model_fields]
)
def test_another_seed_gives_another_model_and_the_same_the_same(name: str) -> None:
    same, other = run(name, seed=1), run(name, seed=2)
    assert weights.digest(run_once(name).weights) == weights.digest(same.weights)
    assert weights.digest(run_once(name).weights) != weights.digest(other.weights)


@pytest.mark.parametrize("name", [n for n, a in ATTACKS.items() if a.lossless])
@pytest.mark.parametrize("architecture", ["cnn", "resnet8"])
@pytest.mark.parametrize("seed", [1, 2])
def test_a_lossless_attack_keeps_the_outputs(name: str, architecture: str, seed: int) -> None:
    """At 16 pixels: smaller images leave one pixel to some norms, whose epsilon then matters."""
    spec = ModelSpec(architecture, channels=1, classes=10, image_size=16)
    rng = np.random.default_rng(seed)
    (copy,) = copies(1, spec)
    for key, array in copy.items():  # scales and offsets of norms as training may leave them
        size = 0.5 if array.ndim < 2 else 0.3 * array.std()
        copy[key] = array + size * rng.standard_normal(array.shape, dtype=np.float32)
    settings = {"seed": seed} if "seed" in ATTACKS[name].options.model_fields else {}
    stolen = catalogue.run(name, [copy], spec, dict(settings))
    before = outputs(models.from_weights(spec, copy), 16)
    change = (outputs(stolen.model, 16) - before).abs().max() / before.abs().max()
    assert float(change) < 1e-3
    assert weights.digest(stolen.weights) != weights.digest(copy)


@pytest.mark.parametrize("name", [n for n in KNOW_STRUCTURE if n not in ANY_STRUCTURE])
def test_an_attack_on_hidden_units_refuses_a_structure_it_does_not_know(name: str) -> None:
    spec = ModelSpec("tests.attacks.test_catalogue:plain", 1, 10, 8)
    with pytest.raises(ConfigError, match="knows the hidden units of cnn, resnet8 only"):
        run(name, spec)


@pytest.mark.parametrize("name", [n for n in ATTACKS if n not in KNOW_STRUCTURE] + ANY_STRUCTURE)
def test_other_attacks_take_a_model_of_any_structure(name: str) -> None:
    spec = ModelSpec("tests.attacks.test_catalogue:plain", 1, 10, 8)
    assert bool(outputs(run(name, spec).model).isfinite().all())


def plain(channels: int, classes: int) -> nn.Module:
    """A network that this project does not know."""
    layers = (nn.Conv2d(channels, 6, 3, stride=2), nn.LayerNorm([6, 3, 3]), nn.ReLU())
    return nn.Sequential(*layers, nn.Conv2d(6, 6, 3, groups=2), nn.Flatten(), nn.Linear(6, classes))


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_is_listed_under_its_own_name_with_working_defaults(name: str) -> None:
    attack = ATTACKS[name]
    assert attack.name == name
    assert attack.summary
    assert attack.knows
    assert attack.copies >= (2 if attack.block == "C" else 1)
    assert attack.lossless == (attack.block == "B")
    assert attack.options.model_validate({}) == attack.options()


@pytest.mark.parametrize("name", ATTACKS)
def test_each_setting_refuses_a_value_of_another_kind(name: str) -> None:
    fields = ATTACKS[name].options.model_fields
    values: dict[str, Scalar] = {"no-such-setting": 1}
    for key, field in fields.items():
        values[field.alias or key] = 3 if isinstance(field.default, str) else "much"
    for key, value in values.items():
        with pytest.raises(ConfigError, match=f"attack {name}: {key}: "):
            catalogue.run(name, copies(ATTACKS[name].copies), SPEC, {key: value})


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


@pytest.mark.parametrize("name", ["", "Prune", "overwriting", "fine_tune"])
def test_an_unknown_attack_is_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(ConfigError, match=f"attack '{name}' is unknown; .*quantize, .*, outlier"):
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
    ("prune-global", "fraction", 1.0),
    ("low-rank", "rank", 1.5),
    ("jam", "level", -1.0),
    ("jam", "samples", 0),
    ("overwrite", "strength", 0.0),
    ("overwrite", "times", 0),
    ("rescale", "level", 4.0),
    ("dummy-zero", "share", 0.0),
    ("remove-channels", "fraction", 1.0),
    ("fine-tune-decay", "weight-decay", -1.0),
    ("fine-tune-label-noise", "noise", 2.0),
    ("soup", "share", -0.1),
    ("task-vector", "factor", float("inf")),
    ("distill", "temperature", 0.0),
    ("localise", "share", 1.1),
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
