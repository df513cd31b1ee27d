"""Train a student from scratch on what the copy says: no weight of the copy is used.

No mark in weights survives this, by construction; it is here for an honest table.
"""

from dataclasses import replace

import torch
from pydantic import Field

from smdl_flower import models, training
from smdl_flower.attacks.entry import Attack, Stolen
from smdl_flower.attacks.finetuning import FineTuneOptions, thief_images
from smdl_flower.attacks.fitting import fit, logits_of, untrained_model
from smdl_flower.config import Count, Positive
from smdl_flower.models import ModelSpec
from smdl_flower.weights import Weights

_IMAGES = "unlabelled images of the same task"


class HardLabelOptions(FineTuneOptions):
    """Settings of ``distill-hard``."""

    images: Count = Field(2000, description="how many of them the thief has")
    epochs: Count = 15
    learning_rate: Positive = Field(0.03, alias="learning-rate", description="falls to zero")


class DistillOptions(HardLabelOptions):
    """Settings of ``distill``."""

    temperature: float = Field(2.0, ge=0.1, le=100.0, description="of the soft labels")


def distill(copy: Weights, spec: ModelSpec, options: DistillOptions) -> Weights:
    """Return a student of the probabilities the copy gives (Hinton et al. 2015)."""
    return _student(copy, spec, options, options.temperature)


def distill_hard(copy: Weights, spec: ModelSpec, options: HardLabelOptions) -> Weights:
    """Return a student of the classes the copy names."""
    return _student(copy, spec, options, None)


def _student(
    copy: Weights, spec: ModelSpec, options: HardLabelOptions, temperature: float | None
) -> Weights:
    images = thief_images(options, spec.image_size)
    # the classes of the thief's images do not matter: nobody looks at them
    training.require_fit(images, replace(spec, classes=len(images.classes)))
    logits = logits_of(models.from_weights(spec, copy), images)
    targets = logits.argmax(1) if temperature is None else (logits / temperature).softmax(1)
    recipe = replace(options.recipe, schedule="cosine", temperature=temperature or 1.0)
    student = untrained_model(spec, options.seed)
    fit(student, images, targets, recipe, torch.Generator().manual_seed(options.seed))
    return models.to_weights(student)


ENTRIES = (
    Attack(
        "distill",
        39,
        "A",
        "train a new model on the copy's probabilities",
        _IMAGES,
        1,
        DistillOptions,
        lambda copies, spec, o: Stolen.fitting(spec, distill(copies[0], spec, o)),
    ),
    Attack(
        "distill-hard",
        40,
        "A",
        "train a new model on the copy's decisions",
        _IMAGES,
        1,
        HardLabelOptions,
        lambda copies, spec, o: Stolen.fitting(spec, distill_hard(copies[0], spec, o)),
    ),
)
