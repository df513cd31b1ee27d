"""Image classifiers by name, all of whose state is floating-point parameters.

Federated averaging and the privacy partition treat a model as its tensors, so a model here has no
BatchNorm: its running statistics are un-noised functions of private images, and its step counter
an integer that cannot be averaged. It is replaced by GroupNorm (as Opacus' ModuleValidator does).
"""

import importlib
import math
import sys
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, cast

import torch
from torch import Tensor, nn

from smdl_flower import fronts
from smdl_flower.errors import ConfigError, SuspectFileError
from smdl_flower.weights import Weights

_FITTING: set["ModelSpec"] = set()  # found to take images of their size; a federation asks often
LARGEST = {"channels": 4096, "classes": 1_000_000, "image_size": 1024}


@dataclass(frozen=True)
class ModelSpec:
    """All that is needed to build a model's module; public, and written into every copy.

    Attributes:
        name: ``cnn``, ``resnet8``, ``scatter-linear``, a classifier of ``torchvision.models``, or
            ``module:factory``.
        channels: Channels of an image.
        classes: Number of classes.
        image_size: Height and width of an image, in pixels.

    Example:
        >>> spec = ModelSpec("cnn", channels=1, classes=10, image_size=28)
        >>> ModelSpec.from_metadata(spec.to_metadata()) == spec
        True
    """

    name: str
    channels: int
    classes: int
    image_size: int

    @classmethod
    def for_images(cls, name: str, pixels: Tensor, classes: Sequence[str]) -> "ModelSpec":
        """Return the model ``name`` for images ``(n, channels, height, width)`` of classes."""
        return cls(name, pixels.shape[1], len(classes), pixels.shape[-1])

    def to_metadata(self) -> dict[str, str]:
        """Return the text fields that describe the model in a safetensors file."""
        return {"format": "smdl-model/1", **{k: str(v) for k, v in asdict(self).items()}}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str], name: str | None = None) -> "ModelSpec":
        """Read back what :meth:`to_metadata` wrote.

        Args:
            metadata: From a file, so its author's choice.
            name: What the user says the model is; wins over the file's name for it.

        Raises:
            SuspectFileError: Fields are missing or no reasonable numbers, or the file names code to
                be imported, which only the user may.
        """
        try:
            values = {field.name: metadata[field.name] for field in fields(cls)}
            numbers = {k: int(v) for k, v in values.items() if k != "name"}
            if metadata["format"] != "smdl-model/1":
                raise ValueError(metadata["format"])
            spec = cls(name or values["name"], **numbers)
            spec.check_sizes()
        except (KeyError, ValueError, ConfigError):
            raise SuspectFileError(
                "the file does not say which model it holds (metadata format smdl-model/1); name "
                "it with --arch, --channels, --classes and --image-size"
            ) from None
        if ":" in spec.name and name is None:
            raise SuspectFileError(
                f"the file asks to import and call {spec.name[:80]!r}; if you trust that code, "
                "name it with --arch"
            )
        return spec

    def check_sizes(self) -> None:
        """Raise if no images have such sizes.

        Raises:
            ConfigError: A size is not positive, or beyond reason.
        """
        for size, most in LARGEST.items():
            if not 1 <= getattr(self, size) <= most:
                raise ConfigError(
                    f"{size.replace('_', '-')}: {getattr(self, size)} is not allowed; expected 1 "
                    f"to {most}"
                )


class SmallCnn(nn.Module):
    """Three convolutions and two linear layers: 131,992 weights for grey images of ten classes."""

    public_front = "features."  # for the privacy partition

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *(nn.Conv2d(channels, 24, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(24, 48, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(48, 64, 3, padding=1), nn.ReLU(), nn.AdaptiveMaxPool2d(3)),
        )
        self.hidden = nn.Linear(64 * 9, 160)
        self.head = nn.Linear(160, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits ``(n, classes)`` for images ``(n, channels, height, width)``."""
        return cast(
            Tensor, self.head(torch.relu(self.hidden(torch.flatten(self.features(images), 1))))
        )


class ResidualBlock(nn.Module):
    """Two normalised 3x3 convolutions with a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *(nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs)),
            *(nn.ReLU(), nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)),
            nn.BatchNorm2d(outputs),
        )
        changes = stride != 1 or inputs != outputs
        self.shortcut = (
            nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False)) if changes else None
        )

    def forward(self, images: Tensor) -> Tensor:
        """Return the block's feature map."""
        shortcut = images if self.shortcut is None else self.shortcut(images)
        return torch.relu(self.body(images) + shortcut)


def resnet8(channels: int, classes: int, width: int = 24) -> nn.Module:
    """Return a residual network of three blocks: about 173,000 weights."""
    return nn.Sequential(
        OrderedDict(
            stem=nn.Sequential(
                *(nn.Conv2d(channels, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)),
                *(nn.ReLU(), nn.MaxPool2d(2)),
            ),
            block1=ResidualBlock(width, width, 1),
            block2=ResidualBlock(width, 2 * width, 2),
            block3=ResidualBlock(2 * width, 4 * width, 2),
            pool=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(),
            head=nn.Linear(4 * width, classes),
        )
    )


def build(spec: ModelSpec, *, seed: int) -> nn.Module:
    """Return a freshly initialised model in evaluation mode; the same seed gives the same weights.

    Raises:
        ConfigError: No such model, one that cannot be built or takes no such images, or one whose
            state is not floating point throughout.

    Example:
        >>> model = build(ModelSpec("cnn", channels=1, classes=10, image_size=28), seed=0)
        >>> model(torch.zeros(2, 1, 28, 28)).shape
        torch.Size([2, 10])
    """
    model = _assembled(spec, seed)
    fronts.fit_public(model, spec.channels, spec.image_size)
    return model


def front_of(model: nn.Module) -> str:
    """Return the prefix of the names of a model's front, if it says that it has one, else empty."""
    return str(getattr(model, "public_front", ""))


def _assembled(spec: ModelSpec, seed: int) -> nn.Module:
    """The model before its public front is fitted, which takes seconds."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = replace_batch_norm(_make(spec)).eval()
    for name, tensor in model.state_dict().items():
        if not tensor.is_floating_point():
            raise ConfigError(
                f"model {spec.name!r}: {name} is {tensor.dtype}; only floating-point state can be "
                "averaged and fingerprinted"
            )
    if ":" not in spec.name and spec not in _FITTING:
        _require_fit(model, spec)  # not code of others, which may do what such tensors cannot
        _FITTING.add(spec)
    return model


def replace_batch_norm(module: nn.Module) -> nn.Module:
    """Return the module with each BatchNorm replaced by a GroupNorm of up to 32 groups."""
    norms: dict[nn.Module | None, nn.Module] = {
        m: nn.GroupNorm(math.gcd(32, m.num_features), m.num_features, affine=m.affine)
        for m in module.modules()
        if isinstance(m, nn.modules.batchnorm._BatchNorm)
    }
    for parent in list(module.modules()):
        for name, child in parent._modules.items():  # named_children() tells a shared one once
            if child in norms:
                setattr(parent, name, norms[child])
    return norms.get(module, module)


def to_weights(model: nn.Module) -> Weights:
    """Return a copy of the model's state as float32 arrays."""
    return {k: v.detach().float().cpu().numpy().copy() for k, v in model.state_dict().items()}


def load_weights(model: nn.Module, weights: Weights) -> nn.Module:
    """Put weights into a model of the same architecture, in place, and return it.

    Raises:
        SuspectFileError: Names or shapes differ from the model's.
    """
    expected = {name: tuple(t.shape) for name, t in model.state_dict().items()}
    found = {name: a.shape for name, a in weights.items()}
    if expected != found:
        different = sorted(set(expected.items()) ^ set(found.items()))[:3]
        shown = str(different)[:400]  # names in a suspect may be long
        raise SuspectFileError(f"the weights do not fit the model; first differences: {shown}")
    model.load_state_dict({name: torch.from_numpy(a.copy()) for name, a in weights.items()})
    return model


def from_weights(spec: ModelSpec, weights: Weights) -> nn.Module:
    """Return the model that a weight file describes, in evaluation mode."""
    return load_weights(_assembled(spec, seed=0), weights)


def _make(spec: ModelSpec) -> nn.Module:
    factory = _factory(spec)
    try:
        model = factory(spec.channels, spec.classes)
    except Exception as error:  # whatever a factory that is not ours may raise
        raise ConfigError(f"model {spec.name!r}: cannot be built ({error!r})") from error
    if not isinstance(model, nn.Module):
        kind = type(model).__name__
        raise ConfigError(f"model {spec.name!r}: the factory returned a {kind}, no torch nn.Module")
    return model


def _require_fit(model: nn.Module, spec: ModelSpec) -> None:
    """Raise if the model takes no image of this size, found out with shapes alone."""
    state = {name: tensor.to("meta") for name, tensor in model.state_dict().items()}
    image = torch.empty(1, spec.channels, spec.image_size, spec.image_size, device="meta")
    try:
        with torch.no_grad():
            torch.func.functional_call(model, state, (image,))
    except (RuntimeError, ValueError, AssertionError) as error:  # as the model's layers see it
        raise ConfigError(
            f"model {spec.name!r}: takes no images of {spec.image_size} pixels per side "
            f"({error!r}); set image-size"
        ) from None


def _factory(spec: ModelSpec) -> Callable[[int, int], object]:
    if spec.name == "cnn":
        return SmallCnn
    if spec.name == "resnet8":
        return resnet8
    if spec.name == "scatter-linear":
        return lambda *_: fronts.scatter_linear(spec.channels, spec.classes, spec.image_size)
    if ":" in spec.name:
        return _imported_factory(spec.name)
    from torchvision.models import list_models  # noqa: PLC0415 - a second, rarely needed

    if spec.name in list_models(module=sys.modules["torchvision.models"]):
        return lambda _, __: _torchvision_model(spec)
    raise ConfigError(
        f"model: {spec.name!r} is unknown; expected cnn, resnet8, scatter-linear, a "
        "classifier of torchvision.models, or module:factory"
    )


def _imported_factory(name: str) -> Callable[[int, int], object]:
    module_name, _, attribute = name.partition(":")
    try:
        factory = getattr(importlib.import_module(module_name), attribute)
    except Exception as error:  # whatever a module that is not ours may raise
        raise ConfigError(f"model: {name!r} cannot be imported ({error!r})") from error
    return cast(Callable[[int, int], object], factory)


def _torchvision_model(spec: ModelSpec) -> nn.Module:
    from torchvision.models import get_model  # noqa: PLC0415 - a second, rarely needed

    options: dict[str, Any] = {"weights": None, "num_classes": spec.classes}
    if spec.name in ("googlenet", "inception_v3"):
        options |= {"aux_logits": False, "init_weights": True}
    if spec.name.startswith("vit_"):
        options["image_size"] = spec.image_size
    model = get_model(spec.name, **options)
    if spec.channels != 3:
        _replace_first_convolution(model, spec.channels)
    return cast(nn.Module, model)


def _replace_first_convolution(model: nn.Module, channels: int) -> None:
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            parent, _, child = name.rpartition(".")
            first = nn.Conv2d(
                channels,
                module.out_channels,
                cast(tuple[int, int], module.kernel_size),
                cast(tuple[int, int], module.stride),
                cast(tuple[int, int], module.padding),
                bias=module.bias is not None,
            )
            setattr(model.get_submodule(parent), child, first)
            return
