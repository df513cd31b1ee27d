"""Train a copy further on images of the thief's own.

Fine-tuning (FT) and retraining (RT) of the last layer (LL) or all layers (AL) as Uchida et al. 2017
and the SoK of Lukas et al. 2021 name them; a high rate as REFIT (Chen et al. 2021).
"""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from pydantic import Field
from torch import nn

from smdl_flower import models, training
from smdl_flower.attacks.entry import Attack, Stolen
from smdl_flower.attacks.fitting import Recipe, fit
from smdl_flower.attacks.structure import rebuilt
from smdl_flower.config import Count, DataConfig, Fraction, NotNegative, Positive, Section, Seed
from smdl_flower.data import Images, load_split
from smdl_flower.errors import ConfigError
from smdl_flower.models import ModelSpec
from smdl_flower.weights import Weights


class ImageOptions(Section):
    """Settings of all attacks that need images."""

    data: str = Field("mnist-5k", description="source of the thief's images (training part)")
    data_dir: str = Field("", alias="data-dir")
    images: Count = Field(800, description="how many of them the thief has")
    seed: Seed = 1


class FineTuneOptions(ImageOptions):
    """Settings of ``fine-tune``, and of all attacks that train."""

    epochs: Count = 5
    learning_rate: Positive = Field(0.01, alias="learning-rate")
    batch_size: Count = Field(32, alias="batch-size")

    @property
    def recipe(self) -> Recipe:
        """How a thief with these settings trains."""
        return Recipe(self.epochs, self.batch_size, self.learning_rate)


class HighRateOptions(FineTuneOptions):
    """Settings of ``fine-tune-high-rate``."""

    epochs: Count = 10
    learning_rate: Positive = Field(0.1, alias="learning-rate", description="falls to zero")


class AdamOptions(FineTuneOptions):
    """Settings of ``fine-tune-adam``."""

    learning_rate: Positive = Field(0.001, alias="learning-rate")


class DecayOptions(FineTuneOptions):
    """Settings of ``fine-tune-decay``."""

    weight_decay: NotNegative = Field(0.01, alias="weight-decay")


class AdversarialOptions(FineTuneOptions):
    """Settings of ``fine-tune-adversarial``."""

    step: NotNegative = Field(0.1, description="change of each pixel, whose range is 2")


class SmoothingOptions(FineTuneOptions):
    """Settings of ``fine-tune-smoothing``."""

    smoothing: float = Field(0.2, ge=0.0, lt=1.0, description="share of each label spread out")


class LabelNoiseOptions(FineTuneOptions):
    """Settings of ``fine-tune-label-noise``."""

    noise: Fraction = Field(0.1, description="share of the labels drawn at random")


class TransferOptions(FineTuneOptions):
    """Settings of ``transfer``."""

    data: str = Field("digits", description="source of the images of the other task")


def fine_tune(copy: Weights, spec: ModelSpec, options: FineTuneOptions) -> Weights:
    """Return the copy after further training by SGD with momentum.

    Raises:
        ConfigError: The images have other channels or classes than the model.
    """
    return tune(copy, spec, options, options.recipe)


def tune(copy: Weights, spec: ModelSpec, options: FineTuneOptions, recipe: Recipe) -> Weights:
    """Return the copy after training by a recipe of the thief's choice."""
    return train_model(models.from_weights(spec, copy), spec, options, recipe)


def fine_tune_last(copy: Weights, spec: ModelSpec, options: FineTuneOptions) -> Weights:
    """Return the copy after training its last layer only (FTLL)."""
    model = models.from_weights(spec, copy)
    _freeze_all_but_last(model)
    return train_model(model, spec, options, options.recipe)


def retrain_last(copy: Weights, spec: ModelSpec, options: FineTuneOptions) -> Weights:
    """Return the copy after training a new last layer only (RTLL)."""
    return fine_tune_last(new_last_layer(copy, spec, options.seed), spec, options)


def retrain_all(copy: Weights, spec: ModelSpec, options: FineTuneOptions) -> Weights:
    """Return the copy after training all layers under a new last one (RTAL)."""
    return fine_tune(new_last_layer(copy, spec, options.seed), spec, options)


def fine_tune_on_noisy_labels(
    copy: Weights, spec: ModelSpec, options: LabelNoiseOptions
) -> Weights:
    """Return the copy after training on labels some of which are drawn at random."""
    model = models.from_weights(spec, copy)
    images = fitting_images(spec, options)
    generator = torch.Generator().manual_seed(options.seed)
    drawn = torch.randint(0, spec.classes, images.labels.shape, generator=generator)
    replaced = torch.rand(len(images), generator=generator) < options.noise
    labels = torch.where(replaced, drawn, images.labels)
    fit(model, images, labels, options.recipe, generator)
    return models.to_weights(model)


def transfer(copy: Weights, spec: ModelSpec, options: TransferOptions) -> Stolen:
    """Return the copy after training it for another task, with a new last layer.

    Raises:
        ConfigError: The images have other channels than the model.
    """
    images = thief_images(options, spec.image_size)
    task = replace(spec, classes=len(images.classes))
    training.require_fit(images, task)
    stolen = rebuilt(spec, new_last_layer(copy, task, options.seed))
    generator = torch.Generator().manual_seed(options.seed)
    fit(stolen.model, images, images.labels, options.recipe, generator)
    return Stolen(models.to_weights(stolen.model), stolen.model)


def new_last_layer(copy: Weights, spec: ModelSpec, seed: int) -> Weights:
    """Return the copy with a freshly initialised last layer, for as many classes as the spec has.

    Raises:
        ConfigError: The model has no linear layer.
    """
    model = models.build(spec, seed=0)
    name = _last_layer(model)
    rng = np.random.default_rng(seed)
    replaced = dict(copy)
    for key in (f"{name}.weight", f"{name}.bias"):
        if key in copy:
            shape = (spec.classes, *copy[key].shape[1:])
            bound = 1 / math.sqrt(copy[f"{name}.weight"].shape[1])  # as PyTorch does
            replaced[key] = rng.uniform(-bound, bound, shape).astype(np.float32)
    return replaced


def train_model(
    model: nn.Module, spec: ModelSpec, options: FineTuneOptions, recipe: Recipe
) -> Weights:
    """Train a model in place on the thief's labelled images and return its weights."""
    images = fitting_images(spec, options)
    generator = torch.Generator().manual_seed(options.seed)
    fit(model, images, images.labels, recipe, generator)
    return models.to_weights(model)


def fitting_images(spec: ModelSpec, options: ImageOptions) -> Images:
    """Return the thief's images, of the model's own task.

    Raises:
        ConfigError: They have other channels or classes than the model.
    """
    images = thief_images(options, spec.image_size)
    training.require_fit(images, spec)
    return images


def thief_images(options: ImageOptions, image_size: int) -> Images:
    """Return the first images of the source's training part, in a fixed random order."""
    source = DataConfig.of_one_party(options.data, options.data_dir, image_size)
    train = load_split(source).train
    order = np.random.default_rng(options.seed).permutation(len(train.labels))
    return train.load(order[: options.images])


def _last_layer(model: nn.Module) -> str:
    names: list[str] = [n for n, m in model.named_modules() if isinstance(m, nn.Linear)]
    if not names:
        raise ConfigError("the model has no linear layer; take an attack on all layers")
    return names[-1]


def _freeze_all_but_last(model: nn.Module) -> None:
    last = _last_layer(model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith(f"{last}."))


def training_entry(
    name: str, number: int, summary: str, options: type[Section], alter: Callable[..., Weights]
) -> Attack:
    """Return the entry of an attack that trains one copy on images of the thief's own."""
    return Attack(
        name,
        number,
        "A",
        summary,
        "labelled images of the same task",
        1,
        options,
        lambda copies, spec, o: Stolen.fitting(spec, alter(copies[0], spec, o)),
    )


ENTRIES = (
    training_entry(
        "fine-tune-last",
        1,
        "train the last layer on images of the thief's own",
        FineTuneOptions,
        fine_tune_last,
    ),
    training_entry(
        "fine-tune",
        2,
        "train on images of the thief's own",
        FineTuneOptions,
        fine_tune,
    ),
    training_entry(
        "fine-tune-adam",
        2,
        "train with Adam",
        AdamOptions,
        lambda copy, spec, o: tune(copy, spec, o, replace(o.recipe, optimizer="adam")),
    ),
    training_entry(
        "retrain-last",
        3,
        "train a new last layer",
        FineTuneOptions,
        retrain_last,
    ),
    training_entry(
        "retrain-all",
        4,
        "train all layers under a new last one",
        FineTuneOptions,
        retrain_all,
    ),
    training_entry(
        "fine-tune-high-rate",
        5,
        "train with a high rate that falls to zero",
        HighRateOptions,
        lambda copy, spec, o: tune(copy, spec, o, replace(o.recipe, schedule="cosine")),
    ),
    training_entry(
        "fine-tune-decay",
        6,
        "train with a strong pull of all weights towards zero",
        DecayOptions,
        lambda copy, spec, o: tune(copy, spec, o, replace(o.recipe, weight_decay=o.weight_decay)),
    ),
    training_entry(
        "fine-tune-adversarial",
        15,
        "train on images changed to be hard",
        AdversarialOptions,
        lambda copy, spec, o: tune(copy, spec, o, replace(o.recipe, adversarial=o.step)),
    ),
    training_entry(
        "fine-tune-smoothing",
        16,
        "train on smoothed labels",
        SmoothingOptions,
        lambda copy, spec, o: tune(copy, spec, o, replace(o.recipe, smoothing=o.smoothing)),
    ),
    training_entry(
        "fine-tune-label-noise",
        16,
        "train on labels some of which are wrong",
        LabelNoiseOptions,
        fine_tune_on_noisy_labels,
    ),
    Attack(
        "transfer",
        43,
        "A",
        "train for another task, with a new last layer",
        "labelled images of another task",
        1,
        TransferOptions,
        lambda copies, spec, o: transfer(copies[0], spec, o),
    ),
)
