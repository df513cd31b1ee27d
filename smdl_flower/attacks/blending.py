"""Remove or mix first, then repair by training on the thief's own images."""

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from smdl_flower import models
from smdl_flower.attacks import altering, structure, symmetry
from smdl_flower.attacks.finetuning import (
    FineTuneOptions,
    fine_tune,
    fitting_images,
    retrain_all,
    train_model,
    training_entry,
)
from smdl_flower.attacks.fitting import fit, logits_of, untrained_model
from smdl_flower.config import Count, Fraction, Positive
from smdl_flower.data import Images
from smdl_flower.models import ModelSpec
from smdl_flower.weights import Weights


class PruneTuneOptions(FineTuneOptions):
    """Settings of ``prune-fine-tune`` and ``fine-prune``."""

    fraction: float = Field(0.5, ge=0.0, lt=1.0, description="share removed before training")


class FinePruneOptions(FineTuneOptions):
    """Settings of ``fine-prune``."""

    fraction: float = Field(0.3, ge=0.0, lt=1.0, description="share of units silenced")


class LaunderOptions(FineTuneOptions):
    """Settings of ``launder``."""

    share: Fraction = Field(0.3, description="of the weights, initialised anew")


class MixOptions(FineTuneOptions):
    """Settings of ``average-retrained``."""

    share: Fraction = Field(0.5, description="of the thief's own model in the mean")


class SoupOptions(FineTuneOptions):
    """Settings of ``soup``."""

    share: Fraction = Field(0.1, description="of the unrelated model in the mean")
    epochs: Count = Field(10, description="of training the unrelated model")
    learning_rate: Positive = Field(0.03, alias="learning-rate")


class TaskVectorOptions(FineTuneOptions):
    """Settings of ``task-vector``."""

    factor: float = Field(2.0, ge=-10.0, le=10.0, description="of what training changed")


def prune_and_tune(copy: Weights, spec: ModelSpec, options: PruneTuneOptions) -> Weights:
    """Return the copy pruned by size, then trained; what was pruned stays zero."""
    pruned = altering.prune(copy, options.fraction)
    model = models.from_weights(spec, pruned)
    for name, parameter in model.named_parameters():
        _keep_zero(parameter, torch.from_numpy(pruned[name] != 0) | (parameter.ndim < 2))
    return train_model(model, spec, options, options.recipe)


def _keep_zero(parameter: nn.Parameter, kept: Tensor) -> None:
    parameter.register_hook(lambda gradient: gradient * kept)


def fine_prune(copy: Weights, spec: ModelSpec, options: FinePruneOptions) -> Weights:
    """Return the copy without the units that the thief's images use least, then trained.

    Fine-pruning (Liu, Dolan-Gavitt and Garg 2018), in all layers.
    """
    images = fitting_images(spec, options)
    for link in symmetry.links(spec):
        model = models.from_weights(spec, copy)
        use = _use(model, link.consumers[0], images, link.units(copy))
        groups = use.reshape(-1, link.group).sum(axis=1)
        kept = np.repeat(structure.largest(groups, options.fraction), link.group)
        copy = structure.silence(copy, link, kept)
    return fine_tune(copy, spec, options)


def _use(model: nn.Module, layer: str, images: Images, units: int) -> NDArray[np.float64]:
    """Mean size of each unit that a layer reads, ``(units,)``."""
    total = torch.zeros(units, dtype=torch.float64)

    def count(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        values = inputs[0].reshape(len(inputs[0]), units, -1)
        total.add_(values.abs().sum(dim=(0, 2)).double())

    handle = model.get_submodule(layer).register_forward_pre_hook(count)
    logits_of(model, images)
    handle.remove()
    return total.numpy()


def launder(copy: Weights, spec: ModelSpec, options: LaunderOptions) -> Weights:
    """Return the copy with a random share of its weights initialised anew, then trained."""
    rng = np.random.default_rng(options.seed)
    fresh = models.to_weights(untrained_model(spec, options.seed))
    mixed = dict(copy)
    for name in altering.matrices(copy):
        reset = rng.random(copy[name].shape) < options.share
        mixed[name] = np.where(reset, fresh[name], copy[name])
    return fine_tune(mixed, spec, options)


def average_with_retrained(copy: Weights, spec: ModelSpec, options: MixOptions) -> Weights:
    """Return a mean of the copy and what retraining it under a new last layer gives."""
    return mix(copy, retrain_all(copy, spec, options), options.share)


def average_over_training(copy: Weights, spec: ModelSpec, options: FineTuneOptions) -> Weights:
    """Return the mean of the copy after each epoch of training (SWA, Izmailov et al. 2018)."""
    images = fitting_images(spec, options)
    generator = torch.Generator().manual_seed(options.seed)
    model = models.from_weights(spec, copy)
    mean = copy
    for epoch in range(options.epochs):
        fit(model, images, images.labels, replace(options.recipe, epochs=1), generator)
        mean = mix(mean, models.to_weights(model), 1 / (epoch + 1))
    return mean


def soup(copy: Weights, spec: ModelSpec, options: SoupOptions) -> Weights:
    """Return a mean of the copy and an unrelated model, which the thief trains from scratch."""
    start = untrained_model(spec, options.seed)
    return mix(copy, train_model(start, spec, options, options.recipe), options.share)


def add_task_vector(copy: Weights, spec: ModelSpec, options: TaskVectorOptions) -> Weights:
    """Return the copy moved by a multiple of what training changes (Ilharco et al. 2023)."""
    return mix(copy, fine_tune(copy, spec, options), options.factor)


def mix(one: Weights, other: Weights, share: float) -> Weights:
    """Return ``(1 - share) one + share other``."""
    return {
        name: np.asarray(array + share * (other[name].astype(np.float64) - array), np.float32)
        for name, array in one.items()
    }


ENTRIES = (
    training_entry(
        "prune-fine-tune",
        7,
        "prune each tensor, then train the rest",
        PruneTuneOptions,
        prune_and_tune,
    ),
    training_entry(
        "fine-prune",
        9,
        "silence the units the thief's images use least, then train",
        FinePruneOptions,
        fine_prune,
    ),
    training_entry(
        "launder",
        14,
        "initialise a share of the weights anew, then train",
        LaunderOptions,
        launder,
    ),
    training_entry(
        "average-retrained",
        19,
        "average with a version retrained under a new last layer",
        MixOptions,
        average_with_retrained,
    ),
    training_entry(
        "average-epochs",
        19,
        "train and average the model after each epoch",
        FineTuneOptions,
        average_over_training,
    ),
    training_entry(
        "soup",
        19,
        "average with an unrelated model of the thief's own",
        SoupOptions,
        soup,
    ),
    training_entry(
        "task-vector",
        19,
        "go further in the direction in which training goes",
        TaskVectorOptions,
        add_task_vector,
    ),
)
