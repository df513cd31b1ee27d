"""Train a copy further on images of the thief's own."""

import numpy as np
import torch
from pydantic import Field

from smdl_flower import models, training
from smdl_flower.attacks.entry import Attack, Stolen
from smdl_flower.config import Count, DataConfig, Positive, Section, Seed, TrainingConfig
from smdl_flower.data import Images, load_split
from smdl_flower.models import ModelSpec
from smdl_flower.weights import Weights


class FineTuneOptions(Section):
    """Settings of ``fine-tune``."""

    data: str = Field("mnist-5k", description="source of the thief's images (training part)")
    data_dir: str = Field("", alias="data-dir")
    images: Count = Field(800, description="how many of them the thief has")
    epochs: Count = 5
    learning_rate: Positive = Field(0.01, alias="learning-rate")
    batch_size: Count = Field(32, alias="batch-size")
    seed: Seed = 1


def fine_tune(copy: Weights, spec: ModelSpec, options: FineTuneOptions) -> Weights:
    """Return the copy after further training by SGD with momentum.

    Raises:
        ConfigError: The images have other channels or classes than the model.
    """
    model = models.from_weights(spec, copy)
    images = thief_images(options, spec.image_size)
    training.require_fit(images, spec)
    config = TrainingConfig(
        epochs=options.epochs,
        batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        schedule="constant",
        momentum=0.9,
        weight_decay=5e-4,
        augment="none",
    )
    generator = torch.Generator().manual_seed(options.seed)
    training.train(model, images, config, learning_rate=options.learning_rate, generator=generator)
    return models.to_weights(model)


def thief_images(options: FineTuneOptions, image_size: int) -> Images:
    """Return the first images of the source's training part, in a fixed random order."""
    source = DataConfig.of_one_party(options.data, options.data_dir, image_size)
    train = load_split(source).train
    order = np.random.default_rng(options.seed).permutation(len(train.labels))
    return train.load(order[: options.images])


ENTRIES = (
    Attack(
        "fine-tune",
        2,
        "A",
        "train on images of the thief's own",
        "labelled images of the same task",
        1,
        FineTuneOptions,
        lambda copies, spec, o: Stolen.fitting(spec, fine_tune(copies[0], spec, o)),
    ),
)
