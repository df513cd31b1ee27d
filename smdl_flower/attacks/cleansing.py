"""Look for a trigger that the model obeys, and unlearn it.

Neural Cleanse (Wang et al., S&P 2019): for each class, the smallest patch that turns any image into
that class; a class that a much smaller patch suffices for has a trigger. It is aimed at marks that
are read from answers; to a mark in the weights it is one more way of training.
"""

from dataclasses import dataclass

import torch
from pydantic import Field
from torch import Tensor, nn

from smdl_flower import models
from smdl_flower.attacks.finetuning import FineTuneOptions, fitting_images, training_entry
from smdl_flower.attacks.fitting import fit
from smdl_flower.config import Count, Fraction
from smdl_flower.data import Images
from smdl_flower.models import ModelSpec
from smdl_flower.weights import Weights

_RATE = 0.1  # of the search for a patch
_WEIGHT = 6.0  # of the covered share of the image beside the loss


class CleanseOptions(FineTuneOptions):
    """Settings of ``unlearn-trigger``."""

    steps: Count = Field(60, description="of the search, for each class")
    share: Fraction = Field(0.2, description="of the images that show the patch, rightly labelled")


@dataclass(frozen=True)
class Patch:
    """What is laid over an image: ``(1 - mask) image + mask pattern``.

    Attributes:
        mask: How much of each pixel it covers, ``(1, height, width)``.
        pattern: With what, ``(channels, height, width)``, in [-1, 1].
    """

    mask: Tensor
    pattern: Tensor

    @property
    def size(self) -> float:
        """Pixels that it covers."""
        return float(self.mask.sum())

    def on(self, inputs: Tensor) -> Tensor:
        """Return images with the patch, ``(n, channels, height, width)``."""
        return (1 - self.mask) * inputs + self.mask * self.pattern


def unlearn_trigger(copy: Weights, spec: ModelSpec, options: CleanseOptions) -> Weights:
    """Return the copy trained to ignore the smallest patch that decides what it says."""
    images = fitting_images(spec, options)
    generator = torch.Generator().manual_seed(options.seed)
    model = models.from_weights(spec, copy)
    found = [
        smallest_patch(model, images, c, options.steps, generator) for c in range(spec.classes)
    ]
    patch = min(found, key=lambda candidate: candidate.size)
    fit(model, _patched(images, patch, options.share), images.labels, options.recipe, generator)
    return models.to_weights(model)


def smallest_patch(
    model: nn.Module, images: Images, label: int, steps: int, generator: torch.Generator
) -> Patch:
    """Return a small patch with which the model takes images for one class."""
    shape = images.pixels.shape[1:]
    mask = torch.zeros(1, *shape[1:], requires_grad=True)
    pattern = torch.zeros(shape, requires_grad=True)
    optimizer = torch.optim.Adam([mask, pattern], _RATE)
    for _ in range(steps):
        batch = torch.randint(len(images), (32,), generator=generator)
        patch = Patch(mask.sigmoid(), pattern.tanh())
        targets = torch.full((len(batch),), label)
        loss = nn.functional.cross_entropy(model(patch.on(images.inputs(batch))), targets)
        mask.grad, pattern.grad = torch.autograd.grad(
            loss + _WEIGHT * patch.mask.mean(), [mask, pattern]
        )
        optimizer.step()
    return Patch(mask.sigmoid().detach(), pattern.tanh().detach())


def _patched(images: Images, patch: Patch, share: float) -> Images:
    """Images of which the first share, in the thief's random order, show the patch."""
    count = int(len(images) * share)
    pixels = images.pixels.clone()
    shown = (patch.on(images.inputs(slice(count))) + 1) * 127.5
    pixels[:count] = shown.round().clamp(0, 255).to(torch.uint8)
    return Images(pixels, images.labels, images.classes)


ENTRIES = (
    training_entry(
        "unlearn-trigger",
        17,
        "find the smallest patch that decides an answer, then train to ignore it",
        CleanseOptions,
        unlearn_trigger,
    ),
)
