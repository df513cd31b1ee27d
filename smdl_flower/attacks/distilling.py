"""Train a student from scratch on what the copy says: no weight of the copy is used.

No mark in weights survives this, by construction; it is here for an honest table.
"""

from collections.abc import Callable
from dataclasses import replace

import torch
from pydantic import Field

from smdl_flower import models, training
from smdl_flower.attacks.entry import Attack, Stolen
from smdl_flower.attacks.finetuning import FineTuneOptions, thief_images
from smdl_flower.attacks.fitting import fit, logits_of, untrained_model
from smdl_flower.config import Count, Positive, Section
from smdl_flower.models import ModelSpec
from smdl_flower.weights import Weights


class HardLabelOptions(FineTuneOptions):
    """Settings of ``distill-hard``."""

    images: Count = Field(2000, description="how many of them the thief has")
    epochs: Count = 15
    learning_rate: Positive = Field(0.03, alias="learning-rate", description="falls to zero")


class DistillOptions(HardLabelOptions):
    """Settings of ``distill``."""

    temperature: float = Field(2.0, ge=0.1, le=100.0, description="of the soft labels")


class KnockoffOptions(DistillOptions):
    """Settings of ``knockoff``."""

    data: str = Field("digits", description="source of images of another task (training part)")


class AcrossOptions(DistillOptions):
    """Settings of ``distill-across``."""

    student: str = Field("", description="its architecture; default resnet8, or cnn for resnet8")


def distill(copy: Weights, spec: ModelSpec, options: DistillOptions) -> Stolen:
    """Return a student of the probabilities the copy gives (Hinton et al. 2015).

    On images of another task this is a knockoff net (Orekondy, Schiele and Fritz 2019).
    """
    return _student(copy, spec, options, spec)


def distill_hard(copy: Weights, spec: ModelSpec, options: HardLabelOptions) -> Stolen:
    """Return a student of the classes the copy names."""
    return _student(copy, spec, options, spec)


def distill_across(copy: Weights, spec: ModelSpec, options: AcrossOptions) -> Stolen:
    """Return a student of another architecture.

    Raises:
        ConfigError: There is no such architecture.
    """
    name = options.student or ("cnn" if spec.name == "resnet8" else "resnet8")
    return _student(copy, spec, options, replace(spec, name=name))


def _student(
    copy: Weights, spec: ModelSpec, options: HardLabelOptions, student: ModelSpec
) -> Stolen:
    images = thief_images(options, spec.image_size)
    # the classes of the thief's images do not matter: nobody looks at them
    training.require_fit(images, replace(spec, classes=len(images.classes)))
    logits = logits_of(models.from_weights(spec, copy), images)
    temperature = options.temperature if isinstance(options, DistillOptions) else None
    targets = (logits / temperature).softmax(1) if temperature else logits.argmax(1)
    recipe = replace(options.recipe, schedule="cosine", temperature=temperature or 1.0)
    model = untrained_model(student, options.seed)
    fit(model, images, targets, recipe, torch.Generator().manual_seed(options.seed))
    return Stolen(models.to_weights(model), model)


def _entry(
    name: str,
    number: int,
    summary: str,
    options: type[Section],
    steal: Callable[..., Stolen],
    knows: str = "unlabelled images of the same task",
) -> Attack:
    return Attack(
        *(name, number, "A", summary, knows, 1, options),
        run=lambda copies, spec, o: steal(copies[0], spec, o),
    )


ENTRIES = (
    _entry(
        "distill",
        39,
        "train a new model on the copy's probabilities",
        DistillOptions,
        distill,
    ),
    _entry(
        "distill-hard",
        40,
        "train a new model on the copy's decisions",
        HardLabelOptions,
        distill_hard,
    ),
    _entry(
        "knockoff",
        41,
        "train a new model on the copy's probabilities for images of another task",
        KnockoffOptions,
        distill,
        "unlabelled images of another task",
    ),
    _entry(
        "distill-across",
        42,
        "train a model of another architecture on the copy's probabilities",
        AcrossOptions,
        distill_across,
    ),
)
