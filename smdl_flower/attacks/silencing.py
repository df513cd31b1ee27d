"""Erase what a copy says about images that no honest user sends.

Against marks that are read from answers. ``project`` takes from the last layer but one what the
thief's own images never use; ``unlearn-strange`` trains the copy to have no opinion about strokes
on textures, as somebody would draw them who has read how queries are made but has no key.
"""

import itertools
from dataclasses import replace

import numpy as np
import torch
from pydantic import Field
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn
from torch.nn import functional

from smdl_flower import models
from smdl_flower.attacks.entry import Attack, Stolen
from smdl_flower.attacks.finetuning import (
    FineTuneOptions,
    ImageOptions,
    fitting_images,
    training_entry,
)
from smdl_flower.attacks.fitting import fit, logits_of
from smdl_flower.config import Count, Fraction
from smdl_flower.data import Images
from smdl_flower.errors import ConfigError
from smdl_flower.models import ModelSpec
from smdl_flower.weights import Weights


class ProjectOptions(ImageOptions):
    """Settings of ``project``."""

    energy: Fraction = Field(0.99, description="share of what the layer is given that is kept")


class StrangeOptions(FineTuneOptions):
    """Settings of ``unlearn-strange``."""

    strange: Count = Field(800, description="images of strokes on textures")


def project(copy: Weights, spec: ModelSpec, options: ProjectOptions) -> Weights:
    """Return the copy with its last layer but one projected on the span of what images give it.

    Raises:
        ConfigError: The model has no two layers that are linear or convolutions.
    """
    model = models.from_weights(spec, copy)
    inputs = fitting_images(spec, options).inputs()
    name, layer = _last_but_one(model, inputs[:1])
    given = _given(model, layer, inputs)
    energies, vectors = torch.linalg.eigh(given.T.double() @ given.double())
    shares = energies.flip(0).cumsum(0) / energies.sum()
    rank = int((shares < options.energy).sum()) + 1
    span = vectors.flip(1)[:, :rank].numpy()
    rows = copy[f"{name}.weight"]
    projected = rows.reshape(len(rows), -1) @ span @ span.T
    return {**copy, f"{name}.weight": projected.reshape(rows.shape).astype(np.float32)}


def unlearn_strange(copy: Weights, spec: ModelSpec, options: StrangeOptions) -> Weights:
    """Return the copy trained to find all classes equally likely for strange images.

    On the thief's own images it is trained on what the copy says.
    """
    model = models.from_weights(spec, copy)
    images = fitting_images(spec, options)
    drawn = strange(options.strange, images.pixels.shape[1:], options.seed)
    both = Images(
        torch.cat([images.pixels, drawn]),
        torch.cat([images.labels, torch.zeros(len(drawn), dtype=images.labels.dtype)]),
        images.classes,
    )
    uniform = torch.full((len(drawn), spec.classes), 1 / spec.classes)
    targets = torch.cat([logits_of(model, images).softmax(1), uniform])
    recipe = replace(options.recipe, schedule="cosine")
    fit(model, both, targets, recipe, torch.Generator().manual_seed(options.seed))
    return models.to_weights(model)


def strange(count: int, shape: tuple[int, ...], seed: int) -> Tensor:
    """Return images of bright strokes on textures, uint8 ``(count, *shape)``."""
    rng = np.random.default_rng(seed)
    channels, height, width = shape
    noise = rng.standard_normal((count, channels, height, width))
    grain = (0, 0, 0.04 * height, 0.04 * width)
    texture = gaussian_filter(noise, grain, mode="wrap")
    texture = 1 / (1 + np.exp(-2.5 * texture / texture.std()))
    strokes = np.stack([_strokes(rng, height, width) for _ in range(count)])[:, None]
    values = (0.7 * strokes + 0.6 * texture).clip(0, 1)
    return torch.from_numpy(np.rint(255 * values).astype(np.uint8))


def _strokes(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A bent line of a few points, ``(height, width)``, 0 to 1."""
    rows, columns = np.mgrid[0:height, 0:width]
    points = rng.uniform(0.1, 0.9, (rng.integers(3, 6), 2)) * (height, width)
    path = np.concatenate([np.linspace(a, b, 20) for a, b in itertools.pairwise(points)])
    distance = np.hypot(rows[..., None] - path[:, 0], columns[..., None] - path[:, 1]).min(2)
    return np.asarray(np.exp(-0.5 * np.square(distance / (0.05 * max(height, width)))))


@torch.no_grad()
def _last_but_one(model: nn.Module, input_: Tensor) -> tuple[str, nn.Module]:
    """The layer that is run last but one, which need not be the one that is listed so."""
    run: list[tuple[str, nn.Module]] = []
    hooks = [
        module.register_forward_pre_hook(lambda m, _, name=name: run.append((name, m)))
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.groups == 1)
    ]
    model(input_)
    for hook in hooks:
        hook.remove()
    if len(run) < 2:
        raise ConfigError("the model has no layer before its last one; take another attack")
    return run[-2]


@torch.no_grad()
def _given(model: nn.Module, layer: nn.Module, inputs: Tensor) -> Tensor:
    """What images give a layer, a row for each place that it looks at, ``(places, columns)``."""
    found: list[Tensor] = []

    def keep(_: nn.Module, given: tuple[Tensor, ...]) -> None:
        if isinstance(layer, nn.Conv2d):
            padding = layer.padding if isinstance(layer.padding, tuple) else (0, 0)
            places = functional.unfold(
                given[0], layer.kernel_size, layer.dilation, padding, layer.stride
            )
            found.append(places.transpose(1, 2).flatten(0, 1))
        else:
            found.append(given[0].flatten(0, -2))

    hook = layer.register_forward_pre_hook(keep)
    for piece in inputs.split(100):
        model(piece)
    hook.remove()
    return torch.cat(found)


ENTRIES = (
    Attack(
        "project",
        18,
        "A",
        "take from the last layer but one what the thief's images do not use",
        "unlabelled images of the same task",
        1,
        ProjectOptions,
        lambda copies, spec, o: Stolen.fitting(spec, project(copies[0], spec, o)),
    ),
    training_entry(
        "unlearn-strange",
        17,
        "train to have no opinion about strokes on textures",
        StrangeOptions,
        unlearn_strange,
    ),
)
