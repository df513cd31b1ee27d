"""Models by name: floating-point state only, no BatchNorm, same seed same weights."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from smdl_flower import models
from smdl_flower.errors import ConfigError, SuspectFileError
from smdl_flower.models import ModelSpec

GREY = {"channels": 1, "classes": 10, "image_size": 28}
GRID = [
    ModelSpec(name, channels, classes, size)
    for name, size in [("cnn", 8), ("cnn", 28), ("resnet8", 8), ("resnet18", 32)]
    for channels, classes in [(1, 10), (3, 4)]
] + [ModelSpec("mobilenet_v3_small", channels, 7, 32) for channels in (1, 3)]


def describe(spec: ModelSpec) -> str:
    return f"{spec.name}-{spec.channels}x{spec.image_size}"


def noise(spec: ModelSpec, count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.rand(count, spec.channels, spec.image_size, spec.image_size, generator=generator)


@pytest.mark.parametrize("spec", GRID, ids=describe)
def test_a_model_has_floating_state_no_batch_norm_and_logits_per_class(spec: ModelSpec) -> None:
    model = models.build(spec, seed=1)
    assert not model.training
    assert not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules())
    assert all(t.is_floating_point() for t in model.state_dict().values())
    with torch.no_grad():
        logits = model(noise(spec, 2))
    assert logits.shape == (2, spec.classes)
    assert logits.isfinite().all()


@pytest.mark.parametrize("spec", [s for s in GRID if s.name in ("cnn", "resnet8")], ids=describe)
def test_an_image_is_classified_alike_alone_and_among_others(spec: ModelSpec) -> None:
    model = models.build(spec, seed=1).train()  # BatchNorm would mix the images here
    images = noise(spec, 4)
    with torch.no_grad():
        torch.testing.assert_close(model(images)[:1], model(images[:1]), rtol=1e-4, atol=1e-5)


def test_the_small_cnn_has_room_for_a_fingerprint() -> None:
    state = models.to_weights(models.build(ModelSpec("cnn", **GREY), seed=0))
    assert sum(array.size for array in state.values() if array.ndim >= 2) == 131_992


def test_the_small_resnet_is_as_large_as_documented() -> None:
    state = models.to_weights(models.build(ModelSpec("resnet8", 3, 10, 32), seed=0))
    count = sum(array.size for array in state.values())
    assert count == pytest.approx(173_000, rel=0.01)


def test_torchvision_norms_are_replaced_one_by_one() -> None:
    def count(model: nn.Module, kind: type[nn.Module]) -> int:
        return sum(isinstance(module, kind) for module in model.modules())

    theirs = torchvision.models.resnet18(weights=None, num_classes=4)
    ours = models.build(ModelSpec("resnet18", 3, 4, 32), seed=0)
    assert count(ours, nn.GroupNorm) == count(theirs, nn.BatchNorm2d) == 20


@pytest.mark.parametrize("channels", [1, 3, 7, 24, 33, 48, 64])
@pytest.mark.parametrize("affine", [True, False])
def test_a_replaced_norm_normalises_each_image_by_groups(channels: int, affine: bool) -> None:
    norm = models.replace_batch_norm(nn.BatchNorm2d(channels, affine=affine))
    images = torch.randn(3, channels, 5, 5, generator=torch.Generator().manual_seed(1))
    groups = max(n for n in range(1, 33) if channels % n == 0 and 32 % n == 0)
    grouped = images.reshape(3, groups, -1)
    mean, variance = grouped.mean(-1, keepdim=True), grouped.var(-1, keepdim=True, unbiased=False)
    expected = ((grouped - mean) / (variance + 1e-5).sqrt()).reshape(images.shape)
    torch.testing.assert_close(norm(images).detach(), expected)
    assert len(list(norm.parameters())) == (2 if affine else 0)


def test_a_batch_norm_deep_inside_is_replaced_and_the_rest_kept() -> None:
    inner = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    outer = nn.Sequential(inner, nn.ModuleDict({"x": nn.BatchNorm3d(2)}))
    linear = inner[0]
    assert models.replace_batch_norm(outer) is outer
    assert [type(m).__name__ for m in outer.modules() if not list(m.children())] == [
        "Linear",
        "GroupNorm",
        "GroupNorm",
    ]
    assert inner[0] is linear


@pytest.mark.parametrize("name", ["cnn", "resnet8"])
def test_the_same_seed_gives_the_same_weights_and_another_seed_others(name: str) -> None:
    def state(seed: int) -> dict[str, bytes]:
        model = models.build(ModelSpec(name, **GREY), seed=seed)
        return {key: array.tobytes() for key, array in models.to_weights(model).items()}

    assert state(5) == state(5)
    assert state(5) != state(6)


def test_building_leaves_the_global_random_state_as_it_was() -> None:
    before = torch.get_rng_state()
    models.build(ModelSpec("cnn", **GREY), seed=5)
    assert torch.equal(torch.get_rng_state(), before)
    with pytest.raises(ConfigError):
        models.build(ModelSpec("no-such-model", **GREY), seed=5)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", ["", "CNN", "resnet-18", "fcn_resnet50", "raft_large", "os"])
def test_an_unknown_model_is_refused_by_name(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"model: '{name}' is unknown"):
        models.build(ModelSpec(name, **GREY), seed=0)


# ------------------------------------------------------------------------------- module:factory

OWN_MODULE = """
import torch
from torch import nn

def normed(channels, classes):
    return nn.Sequential(nn.Conv2d(channels, 4, 3), nn.BatchNorm2d(4), nn.Flatten(1),
                         nn.Linear(4 * 36, classes))

def counting(channels, classes):
    model = normed(channels, classes)
    model.register_buffer("steps", torch.zeros(1, dtype=torch.int64))
    return model
"""


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "smdl_test_own_models.py").write_text(OWN_MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    return "smdl_test_own_models"


def test_a_factory_of_ones_own_is_called_and_its_norm_replaced(own_module: str) -> None:
    model = models.build(ModelSpec(f"{own_module}:normed", 2, 5, 8), seed=0)
    assert model(torch.zeros(1, 2, 8, 8)).shape == (1, 5)
    assert isinstance(model.get_submodule("1"), nn.GroupNorm)


def test_a_model_with_an_integer_in_its_state_is_refused_by_tensor(own_module: str) -> None:
    with pytest.raises(ConfigError, match=r"counting': steps is torch\.int64"):
        models.build(ModelSpec(f"{own_module}:counting", 2, 5, 8), seed=0)


@pytest.mark.parametrize("name", ["no_such_module_here:make", "math:make", "math:"])
def test_a_factory_that_cannot_be_imported_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"model: '{name}' cannot be imported"):
        models.build(ModelSpec(name, **GREY), seed=0)


# ------------------------------------------------------------------------------------- metadata

GOOD = ModelSpec("cnn", **GREY).to_metadata()
HOSTILE = (
    [{key: value for key, value in GOOD.items() if key != missing} for missing in GOOD]
    + [
        {**GOOD, key: value}
        for key, value in itertools.product(
            ("channels", "classes", "image_size"),
            ("", "0", "-1", "1.5", "1e3", "ten", "nan", "0x10", "9" * 5000),
        )
    ]
    + [{**GOOD, "format": "smdl-model/2"}, {**GOOD, "format": ""}, {}]
)


@pytest.mark.parametrize("metadata", HOSTILE)
def test_metadata_that_describes_no_model_is_refused_with_the_way_out(
    metadata: dict[str, str],
) -> None:
    with pytest.raises(SuspectFileError, match="name it with --arch"):
        ModelSpec.from_metadata(metadata)


def test_foreign_metadata_beside_our_own_is_ignored() -> None:
    spec = ModelSpec.from_metadata({**GOOD, "author": "somebody", "seed": "3"})
    assert spec == ModelSpec("cnn", **GREY)


# -------------------------------------------------------------------------------------- weights


def test_weights_taken_out_and_put_in_give_the_same_model() -> None:
    spec = ModelSpec("resnet8", 1, 4, 8)
    model = models.build(spec, seed=4)
    twin = models.from_weights(spec, models.to_weights(model))
    images = noise(spec, 3)
    assert not twin.training
    assert torch.equal(twin(images), model(images))


def test_weights_and_model_share_no_memory() -> None:
    spec = ModelSpec("cnn", 1, 10, 8)
    model = models.build(spec, seed=4)
    taken = models.to_weights(model)
    kept = {name: array.copy() for name, array in taken.items()}
    twin = models.from_weights(spec, taken)
    for array in taken.values():
        array.fill(7)
    for changed in (model, twin):
        state = models.to_weights(changed)
        assert all(np.array_equal(state[name], kept[name]) for name in kept)


@pytest.mark.parametrize("kind", ["missing", "additional", "other shape", "transposed"])
def test_weights_that_do_not_fit_are_refused_and_not_loaded(kind: str) -> None:
    spec = ModelSpec("cnn", 1, 10, 8)
    model = models.build(spec, seed=4)
    before = models.to_weights(model)
    other = {name: array + 1 for name, array in before.items()}
    match kind:
        case "missing":
            del other["head.bias"]
        case "additional":
            other["head.scale"] = np.ones(1, np.float32)
        case "other shape":
            other["head.bias"] = np.ones(9, np.float32)
        case _:
            other["head.weight"] = other["head.weight"].T
    with pytest.raises(SuspectFileError, match=r"do not fit the model.*head\."):
        models.load_weights(model, other)
    after = models.to_weights(model)
    assert all(np.array_equal(after[name], before[name]) for name in before)


@pytest.mark.parametrize("name", ["os:kill", "time:sleep"])
def test_a_model_file_cannot_make_us_call_anything(name: str) -> None:
    with pytest.raises(SuspectFileError):
        ModelSpec.from_metadata({**ModelSpec("cnn", 1, 10, 8).to_metadata(), "name": name})


@pytest.mark.parametrize("key", ["channels", "classes", "image_size"])
def test_sizes_in_metadata_beyond_reason_are_refused(key: str) -> None:
    metadata = {**ModelSpec("cnn", 1, 10, 8).to_metadata(), key: "9" * 18}
    with pytest.raises(SuspectFileError):
        ModelSpec.from_metadata(metadata)


@pytest.mark.parametrize("name", [":x", ".x:y", "math:gcd", "time:sleep"])
def test_a_factory_that_makes_no_model_is_refused(name: str) -> None:
    with pytest.raises(ConfigError):
        models.build(ModelSpec(name, 1, 1, 8), seed=0)


def test_the_user_may_name_the_code_that_a_file_may_not() -> None:
    metadata = ModelSpec("os:kill", 2, 5, 8).to_metadata()
    with pytest.raises(SuspectFileError, match=r"'os:kill'.*--arch"):
        ModelSpec.from_metadata(metadata)
    assert ModelSpec.from_metadata(metadata, "own:make") == ModelSpec("own:make", 2, 5, 8)


def test_a_norm_used_in_two_places_stays_one() -> None:
    norm = nn.BatchNorm2d(4)
    model = models.replace_batch_norm(nn.Sequential(norm, nn.Sequential(norm), norm))
    assert isinstance(model.get_submodule("0"), nn.GroupNorm)
    assert len({model.get_submodule(name) for name in ("0", "1.0", "2")}) == 1


@pytest.mark.parametrize(("name", "size"), [("alexnet", 32), ("cnn", 3), ("vit_b_32", 33)])
def test_a_model_that_takes_no_such_images_is_refused(name: str, size: int) -> None:
    with pytest.raises(ConfigError, match=f"model '{name}'"):
        models.build(ModelSpec(name, 3, 10, size), seed=0)


def test_a_vision_transformer_is_built_for_the_size_of_the_images() -> None:
    model = models.build(ModelSpec("vit_b_32", 1, 2, 64), seed=0)
    with torch.no_grad():
        assert model(torch.zeros(1, 1, 64, 64)).shape == (1, 2)
