"""The thief's training loop: what a thief may choose that an honest participant may not."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from smdl_flower import models
from smdl_flower.data import Images
from smdl_flower.errors import ConfigError
from smdl_flower.models import ModelSpec
from smdl_flower.training import EVALUATION_BATCH

_LARGEST_GRADIENT = 5.0  # a high rate shall move far, not diverge


@dataclass(frozen=True)
class Recipe:
    """How a thief trains.

    Attributes:
        epochs: Passes over the images.
        batch_size: Images per step.
        learning_rate: Of the first step.
        optimizer: SGD has a momentum of 0.9.
        schedule: Of the rate; cosine ends at zero.
        weight_decay: Pull towards zero.
        smoothing: Share of each label spread over all classes.
        adversarial: Size of the step that makes an input harder first (FGSM, Goodfellow 2015).
        temperature: Divides the logits.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    optimizer: Literal["sgd", "adam"] = "sgd"
    schedule: Literal["constant", "cosine"] = "constant"
    weight_decay: float = 5e-4
    smoothing: float = 0.0
    adversarial: float = 0.0
    temperature: float = 1.0


def fit(
    model: nn.Module, images: Images, targets: Tensor, recipe: Recipe, generator: torch.Generator
) -> None:
    """Train a model in place; parameters that need no gradient stay.

    Args:
        model: Left in evaluation mode.
        images: Whose own labels are not looked at.
        targets: A class or a probability of each class, per image.
        recipe: How.
        generator: Decides the order.

    Raises:
        ConfigError: Training diverged.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = _optimizer(parameters, recipe)
    batches = -(-len(images) // recipe.batch_size)
    steps = recipe.epochs * batches if recipe.schedule == "cosine" else 10**12
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    model.train()
    for _ in range(recipe.epochs):
        for batch in torch.randperm(len(images), generator=generator).split(recipe.batch_size):
            inputs = _harder(model, images.inputs(batch), targets[batch], recipe)
            optimizer.zero_grad()
            _loss(model, inputs, targets[batch], recipe).backward()
            nn.utils.clip_grad_norm_(parameters, _LARGEST_GRADIENT)
            optimizer.step()
            schedule.step()
    model.eval()
    if not all(bool(p.isfinite().all()) for p in parameters):
        raise ConfigError(
            f"learning-rate: {recipe.learning_rate} is not allowed; training diverged, lower it"
        )


def untrained_model(spec: ModelSpec, seed: int) -> nn.Module:
    """Return a freshly initialised model of the thief's own.

    Not the owner's initialisation, even if the owner's run has the same seed: two models of one
    start stay alike through training.
    """
    own = np.random.SeedSequence([seed, 0x7417EF]).generate_state(1)[0]
    return models.build(spec, seed=int(own))


@torch.no_grad()
def logits_of(model: nn.Module, images: Images) -> Tensor:
    """Return what a model says about each image, ``(n, classes)``."""
    batches = torch.arange(len(images)).split(EVALUATION_BATCH)
    return torch.cat([model(images.inputs(batch)) for batch in batches])


def _optimizer(parameters: list[nn.Parameter], recipe: Recipe) -> torch.optim.Optimizer:
    if recipe.optimizer == "adam":
        return torch.optim.Adam(parameters, recipe.learning_rate, weight_decay=recipe.weight_decay)
    return torch.optim.SGD(
        parameters, recipe.learning_rate, momentum=0.9, weight_decay=recipe.weight_decay
    )


def _loss(model: nn.Module, inputs: Tensor, targets: Tensor, recipe: Recipe) -> Tensor:
    loss = nn.functional.cross_entropy(
        model(inputs) / recipe.temperature, targets, label_smoothing=recipe.smoothing
    )
    return loss * recipe.temperature**2  # keeps the size of gradients (Hinton et al. 2015)


def _harder(model: nn.Module, inputs: Tensor, targets: Tensor, recipe: Recipe) -> Tensor:
    if not recipe.adversarial:
        return inputs
    inputs = inputs.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(_loss(model, inputs, targets, recipe), inputs)
    return (inputs + recipe.adversarial * gradient.sign()).detach()
