"""Sources and shards: the right images with the right labels, each dealt exactly once."""

import struct
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import sklearn.datasets
import torch
import torchvision.datasets
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from smdl_flower import data
from smdl_flower.config import DataConfig
from smdl_flower.data import Images, Indices
from smdl_flower.errors import ConfigError, DataError, SmdlError

CLASSES = ("cat", "dog", "ewe")


@pytest.fixture(autouse=True)
def nothing_cached() -> Iterator[None]:
    """Let no test see a shard that an earlier one read."""
    data.load_shard.cache_clear()
    yield
    data.load_shard.cache_clear()


def source(
    name: str, directory: Path | str = "", size: int = 0, participants: int = 1
) -> DataConfig:
    whole = DataConfig.of_one_party(name, str(directory), size)
    return whole.model_copy(update={"participants": participants})


def dealing(sharding: str, participants: int, alpha: float = 1.0) -> DataConfig:
    changes = {"sharding": sharding, "participants": participants, "dirichlet_alpha": alpha}
    return source("digits").model_copy(update=changes)


def ten_classes(count: int) -> Indices:
    return np.random.default_rng(4).integers(0, 10, count)


def pairs(images: Images) -> Counter[tuple[bytes, int]]:
    """Return how often each image occurs with each label."""
    return Counter(
        (pixels.numpy().tobytes(), int(label))
        for pixels, label in zip(images.pixels, images.labels, strict=True)
    )


# ------------------------------------------------------------------------------------------- deal


@settings(max_examples=20, derandomize=True)
@given(
    sharding=st.sampled_from(["iid", "dirichlet"]),
    participants=st.integers(1, 6),
    alpha=st.floats(1.0, 1e6),
    seed=st.integers(0, 2**32 - 1),
    count=st.integers(300, 500),
)
def test_shards_hold_every_index_exactly_once(
    sharding: str, participants: int, alpha: float, seed: int, count: int
) -> None:
    shards = data.deal(ten_classes(count), dealing(sharding, participants, alpha), seed=seed)
    assert len(shards) == participants
    assert sorted(np.concatenate(shards)) == list(range(count))
    smallest = count // participants if sharding == "iid" else count // (10 * participants)
    assert min(len(shard) for shard in shards) >= smallest


@pytest.mark.parametrize("sharding", ["iid", "dirichlet"])
def test_the_same_seed_deals_the_same_and_another_seed_differently(sharding: str) -> None:
    def deal(seed: int) -> list[list[int]]:
        shards = data.deal(ten_classes(300), dealing(sharding, 3), seed=seed)
        return [shard.tolist() for shard in shards]

    assert deal(1) == deal(1)
    assert deal(1) != deal(2)


def test_a_smaller_alpha_makes_shards_more_one_sided() -> None:
    labels = ten_classes(2000)

    def one_sidedness(config: DataConfig) -> float:
        shards = data.deal(labels, config, seed=3)
        return float(np.mean([np.bincount(labels[s], minlength=10).max() / len(s) for s in shards]))

    with warnings.catch_warnings():  # flwr-datasets warns whenever it draws a second time
        warnings.simplefilter("ignore", UserWarning)
        skewed = one_sidedness(dealing("dirichlet", 4, 0.2))
    mild, even = one_sidedness(dealing("dirichlet", 4, 1000.0)), one_sidedness(dealing("iid", 4))
    assert skewed > 2 * mild
    assert even < 0.2
    assert mild < 0.2


@pytest.mark.parametrize("sharding", ["iid", "dirichlet"])
def test_two_images_per_participant_are_the_least(sharding: str) -> None:
    with pytest.raises(DataError, match="9 training images are too few for 5 participants"):
        data.deal(np.zeros(9, np.int64), dealing(sharding, 5), seed=1)
    shards = data.deal(np.zeros(10, np.int64), dealing("iid", 5), seed=1)
    assert [len(shard) for shard in shards] == [2] * 5


# --------------------------------------------------------------------------------------- sources


def test_an_unknown_source_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"data: 'mnist5k' is unknown; .*mnist-5k, digits, mnist"):
        data.load_split(source("mnist5k"))


def test_digits_are_scikit_learns_split_once_for_all() -> None:
    split = data.load_split(source("digits"))
    train = split.train.load(np.arange(len(split.train.labels)))
    test = data.load_test(source("digits"))
    bundle = sklearn.datasets.load_digits()
    levels = [int(level * 15.9375) for level in range(17)]
    expected = Counter(
        (np.take(levels, image.astype(int)).astype(np.uint8).tobytes(), int(label))
        for image, label in zip(bundle.images, bundle.target, strict=True)
    )
    assert (len(train), len(test)) == (1440, 357)
    assert pairs(train) + pairs(test) == expected
    assert levels[0] == 0
    assert levels[-1] == 255
    assert test.classes == tuple("0123456789")


def test_mnist_5k_has_4000_training_and_1000_other_test_images() -> None:
    split = data.load_split(source("mnist-5k"))
    train = split.train.load(np.arange(len(split.train.labels)))
    test = data.load_test(source("mnist-5k"))
    assert train.classes == tuple("0123456789")
    for images, count in ((train, 4000), (test, 1000)):
        assert images.pixels.shape == (count, 1, 28, 28)
        assert images.pixels.dtype == torch.uint8
        assert images.labels.dtype == torch.int64
    labels = torch.cat([train.labels, test.labels])
    assert labels.bincount().tolist() == [500] * 10
    both = pairs(train) + pairs(test)
    assert max(both.values()) == 1
    assert len(both) == 5000
    assert train.pixels.float().mean() == pytest.approx(33.3, abs=1.0)  # as all of MNIST


@pytest.mark.parametrize("sharding", ["iid", "dirichlet"])
def test_all_shards_together_are_the_training_images_with_their_labels(sharding: str) -> None:
    config = source("digits", participants=3).model_copy(update={"sharding": sharding})
    shards = [data.load_shard(config, participant=i, seed=5) for i in range(3)]
    train = data.load_split(config).train
    together: Counter[tuple[bytes, int]] = sum(map(pairs, shards), Counter())
    assert together == pairs(train.load(np.arange(len(train.labels))))
    assert (
        data.load_shard(config, participant=1, seed=6).labels.tolist() != shards[1].labels.tolist()
    )


@pytest.mark.parametrize("participant", [-1, 3, 4])
def test_a_participant_out_of_range_is_refused(participant: int) -> None:
    with pytest.raises(DataError, match=f"partition-id {participant} is not below"):
        data.load_shard(source("digits", participants=3), participant=participant, seed=1)


def test_a_shard_reads_no_more_images_than_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def read(indices: Indices) -> torch.Tensor:
        asked.extend(indices.tolist())
        return torch.zeros(len(indices), 1, 2, 2, dtype=torch.uint8)

    collection = data.Collection(ten_classes(90), CLASSES, read)
    monkeypatch.setitem(data.SOURCES, "spied", lambda _: data.Split(collection, collection))
    shard = data.load_shard(source("spied", participants=3), participant=0, seed=1)
    assert len(asked) == len(set(asked)) == len(shard) == 30
    assert shard.labels.tolist() == collection.labels[asked].tolist()


# ----------------------------------------------------------------------------------- image format


@pytest.mark.parametrize("size", [8, 14, 32])
def test_image_size_resizes_as_pillow_does(size: int) -> None:
    original = data.load_test(source("mnist-5k")).take(20)
    resized = data.load_test(source("mnist-5k", size=size)).take(20)
    assert resized.pixels.shape == (20, 1, size, size)
    assert resized.pixels.dtype == torch.uint8
    assert torch.equal(resized.labels, original.labels)
    for ours, image in zip(resized.pixels, original.pixels, strict=True):
        pillow = Image.fromarray(image[0].numpy()).resize((size, size), Image.Resampling.BILINEAR)
        difference = np.abs(ours[0].numpy().astype(int) - np.asarray(pillow).astype(int))
        assert difference.max() <= 1  # Pillow rounds between its two passes


def test_the_own_size_and_size_zero_leave_the_pixels_alone() -> None:
    original = data.load_test(source("digits"))
    assert torch.equal(data.load_test(source("digits", size=8)).pixels, original.pixels)


def test_inputs_map_black_to_minus_one_and_white_to_one() -> None:
    pixels = torch.tensor([0, 51, 255], dtype=torch.uint8).reshape(3, 1, 1, 1)
    images = Images(pixels, torch.tensor([0, 1, 2]), CLASSES)
    torch.testing.assert_close(images.inputs().flatten(), torch.tensor([-1.0, -0.6, 1.0]))
    chosen = images.inputs(torch.tensor([2, 0])).flatten()
    torch.testing.assert_close(chosen, torch.tensor([1.0, -1.0]))
    assert pixels.flatten().tolist() == [0, 51, 255]


def test_take_keeps_the_first_images_with_their_labels() -> None:
    images = Images(
        torch.arange(4, dtype=torch.uint8).reshape(4, 1, 1, 1), torch.arange(4), CLASSES
    )
    taken = images.take(2)
    assert len(taken) == 2
    assert taken.pixels.flatten().tolist() == taken.labels.tolist() == [0, 1]
    assert len(images.take(9)) == 4


# ------------------------------------------------------------------------------------ torchvision


def fake_dataset(pixels: Any, targets: Any, asked: list[tuple[str, bool]]) -> type:
    """Return a class like ``torchvision.datasets.MNIST`` that has its images and no network."""

    class Fake:
        classes = ("zero", "one", "two")

        def __init__(self, root: str, *, train: bool, download: bool) -> None:
            assert download
            asked.append((root, train))
            half = slice(0, 4) if train else slice(4, 6)
            self.data, self.targets = pixels[half], targets[half]

    return Fake


GREY_PIXELS = torch.arange(6 * 9, dtype=torch.uint8).reshape(6, 3, 3)
COLOUR_PIXELS = np.arange(6 * 27, dtype=np.uint8).reshape(6, 3, 3, 3)


@pytest.mark.parametrize(
    ("name", "class_name", "pixels", "targets"),
    [
        ("mnist", "MNIST", GREY_PIXELS, torch.tensor([0, 1, 2, 0, 1, 2])),
        ("fashion-mnist", "FashionMNIST", GREY_PIXELS, torch.tensor([2, 1, 0, 2, 1, 0])),
        ("cifar10", "CIFAR10", COLOUR_PIXELS, [0, 1, 2, 0, 1, 2]),
    ],
)
def test_torchvision_images_come_channels_first_with_their_labels(
    monkeypatch: pytest.MonkeyPatch, name: str, class_name: str, pixels: Any, targets: Any
) -> None:
    asked: list[tuple[str, bool]] = []
    monkeypatch.setattr(torchvision.datasets, class_name, fake_dataset(pixels, targets, asked))
    split = data.load_split(source(name, "/images"))
    assert asked == [("/images", True), ("/images", False)]
    train, test = split.train.load(np.array([3, 0])), data.load_test(source(name, "/images"))
    assert train.labels.tolist() == [int(targets[3]), int(targets[0])]
    assert test.labels.tolist() == [int(targets[4]), int(targets[5])]
    channels = 3 if name == "cifar10" else 1
    assert train.pixels.shape == test.pixels.shape == (2, channels, 3, 3)
    for channel in range(channels):
        plane = np.asarray(pixels)[3] if channels == 1 else np.asarray(pixels)[3][:, :, channel]
        assert train.pixels[0, channel].tolist() == plane.tolist()
    assert train.classes == ("zero", "one", "two")


def test_torchvision_images_lie_in_the_cache_of_the_home_unless_told_otherwise(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    asked: list[tuple[str, bool]] = []
    fake = fake_dataset(GREY_PIXELS, torch.zeros(6, dtype=torch.int64), asked)
    monkeypatch.setattr(torchvision.datasets, "MNIST", fake)
    data.load_split(source("mnist"))
    data.load_split(source("mnist", "~/mine"))
    assert asked[0][0] == str(tmp_path / ".cache" / "smdl-flower")
    assert asked[2][0] == str(tmp_path / "mine")


@pytest.mark.parametrize(
    "error", [URLError("no route to host"), RuntimeError("Dataset not found"), PermissionError(13)]
)
def test_without_network_a_torchvision_source_says_where_the_files_belong(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def offline(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", offline)
    with pytest.raises(DataError, match=r"CIFAR10: not in /images .*--set data-dir=PATH"):
        data.load_split(source("cifar10", "/images"))


# ----------------------------------------------------------------------------------- image folders


def paint(root: Path, mode: str, sizes: Sequence[tuple[int, int]], seed: int = 0) -> None:
    """Save one noise image per size and class as PNG; its name tells class and number."""
    rng = np.random.default_rng(seed)
    for label in CLASSES:
        (root / label).mkdir(parents=True)
        for number, (width, height) in enumerate(sizes):
            shape: tuple[int, ...] = (height, width)
            if mode in ("RGB", "RGBA"):
                shape = (height, width, len(mode))
            pixels = rng.integers(0, 256, shape, dtype=np.uint8)
            Image.fromarray(pixels).save(root / label / f"{number}.png")


def reference(path: Path, mode: str, size: int) -> NDArray[np.uint8]:
    image = Image.open(path).convert(mode).resize((size, size), Image.Resampling.BILINEAR)
    pixels = np.asarray(image)
    return pixels[None] if mode == "L" else np.moveaxis(pixels, 2, 0)


ODD = [(9, 7), (7, 9), (13, 13), (1, 30), (31, 2)]


@pytest.mark.parametrize(("saved", "mode"), [("L", "L"), ("RGB", "RGB"), ("RGBA", "RGB")])
@pytest.mark.parametrize("size", [0, 5, 16])
def test_a_folder_per_class_is_read_at_one_size(
    tmp_path: Path, saved: str, mode: str, size: int
) -> None:
    paint(tmp_path / "train", saved, ODD)
    paint(tmp_path / "test", saved, [(7, 9), (12, 8)], seed=1)
    config = source("imagefolder", tmp_path, size)
    split = data.load_split(config)
    assert split.train.classes == CLASSES
    assert split.train.labels.tolist() == [0] * 5 + [1] * 5 + [2] * 5
    indices = np.array([14, 0, 6])
    images = split.train.load(indices)
    assert images.labels.tolist() == [2, 0, 1]
    for pixels, index in zip(images.pixels, indices, strict=True):
        path = tmp_path / "train" / CLASSES[index // 5] / f"{index % 5}.png"
        assert np.array_equal(pixels.numpy(), reference(path, mode, size or 7))
    test = data.load_test(config)
    assert test.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert test.pixels.shape == (6, len(mode), size or 7, size or 7)


def test_a_flat_folder_is_split_four_to_one_without_overlap(tmp_path: Path) -> None:
    paint(tmp_path, "L", [(6, 6)] * 5)
    split = data.load_split(source("imagefolder", tmp_path))
    train = split.train.load(np.arange(len(split.train.labels)))
    test = data.load_test(source("imagefolder", tmp_path))
    assert (len(train), len(test)) == (12, 3)
    expected = Counter(
        (reference(tmp_path / name / f"{n}.png", "L", 6).tobytes(), label)
        for label, name in enumerate(CLASSES)
        for n in range(5)
    )
    assert pairs(train) + pairs(test) == expected
    again = data.load_test(source("imagefolder", tmp_path))
    assert torch.equal(again.pixels, test.pixels)


def test_a_participants_shard_of_a_folder_has_its_own_images(tmp_path: Path) -> None:
    paint(tmp_path / "train", "RGB", [(6, 6)] * 4)
    paint(tmp_path / "test", "RGB", [(6, 6)])
    config = source("imagefolder", tmp_path, participants=3)
    shards = [data.load_shard(config, participant=i, seed=2) for i in range(3)]
    expected = Counter(
        (reference(tmp_path / "train" / name / f"{n}.png", "RGB", 6).tobytes(), label)
        for label, name in enumerate(CLASSES)
        for n in range(4)
    )
    assert sum(map(pairs, shards), Counter()) == expected


def cut_in_half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("damage", ["text", "empty", "cut"])
@pytest.mark.parametrize("which", ["cat/0.png", "ewe/1.png"])
def test_an_unreadable_image_is_named(tmp_path: Path, damage: str, which: str) -> None:
    paint(tmp_path / "train", "L", [(40, 40)] * 2)
    paint(tmp_path / "test", "L", [(40, 40)])
    path = tmp_path / "train" / which
    match damage:
        case "text":
            path.write_text("no image")
        case "empty":
            path.write_bytes(b"")
        case _:
            cut_in_half(path)
    with pytest.raises(DataError, match=rf"train/{which}: not a readable image"):
        data.load_shard(source("imagefolder", tmp_path), participant=0, seed=1)


def test_an_image_removed_after_listing_is_named(tmp_path: Path) -> None:
    paint(tmp_path, "L", [(6, 6)] * 5)
    split = data.load_split(source("imagefolder", tmp_path))
    for path in tmp_path.rglob("*.png"):
        path.unlink()
    with pytest.raises(DataError, match=r"\.png: not a readable image .*No such file"):
        split.train.load(np.arange(3))


def test_a_decompression_bomb_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paint(tmp_path / "train", "L", [(6, 6), (90, 90)])
    paint(tmp_path / "test", "L", [(6, 6)])
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(DataError, match=r"1\.png: not a readable image .*decompression bomb"):
        data.load_shard(source("imagefolder", tmp_path), participant=0, seed=1)


@pytest.mark.parametrize("kind", ["missing", "file", "empty", "class without images"])
def test_a_directory_that_is_no_image_folder_is_refused(tmp_path: Path, kind: str) -> None:
    root = tmp_path / "images"
    if kind == "file":
        root.write_text("no folder")
    elif kind != "missing":
        root.mkdir()
    if kind == "class without images":
        paint(root, "L", [(6, 6)])
        (root / "fox").mkdir()
    with pytest.raises(DataError, match=r"images: not a folder of images with one sub-folder per"):
        data.load_split(source("imagefolder", root))


def test_training_and_test_folders_must_have_the_same_classes(tmp_path: Path) -> None:
    paint(tmp_path / "train", "L", [(6, 6)])
    paint(tmp_path / "test", "L", [(6, 6)])
    (tmp_path / "test" / "ewe").rename(tmp_path / "test" / "fox")
    with pytest.raises(DataError, match="train and test have different classes"):
        data.load_split(source("imagefolder", tmp_path))


def test_a_deal_that_cannot_be_made_is_refused() -> None:
    labels = np.random.default_rng(0).integers(0, 10, 4000)
    with pytest.raises(DataError, match="dirichlet-alpha"):  # and without a warning per attempt
        data.deal(labels, dealing("dirichlet", 50, alpha=0.05), seed=1)


def fill(root: Path, count: int, mode: str, size: tuple[int, int], value: int) -> None:
    for label in ("cat", "dog"):
        (root / label).mkdir(parents=True)
        for number in range(count):
            Image.new(mode, size, value).save(root / label / f"{number}.png")


def test_a_flat_folder_too_small_to_split_is_refused(tmp_path: Path) -> None:
    fill(tmp_path, 2, "L", (6, 6), 3)
    with pytest.raises(DataError):
        data.load_test(source("imagefolder", tmp_path))


def test_test_images_come_in_the_format_of_the_training_images(tmp_path: Path) -> None:
    fill(tmp_path / "train", 2, "L", (6, 6), 3)
    fill(tmp_path / "test", 2, "RGB", (9, 9), 3)
    shard = data.load_shard(source("imagefolder", tmp_path), participant=0, seed=1)
    assert (
        data.load_test(source("imagefolder", tmp_path)).pixels.shape[1:] == shard.pixels.shape[1:]
    )


def test_sixteen_bit_grey_keeps_its_contrast(tmp_path: Path) -> None:
    fill(tmp_path, 5, "I;16", (6, 6), 3000)
    assert data.load_test(source("imagefolder", tmp_path)).pixels.max() < 255


def test_a_bomb_as_the_first_image_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path, 5, "L", (90, 90), 3)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(DataError, match=r"0\.png"):
        data.load_split(source("imagefolder", tmp_path))


@pytest.mark.parametrize("which", ["cat/0.png", "dog/1.png"])
def test_a_png_with_a_damaged_header_is_refused_by_name(tmp_path: Path, which: str) -> None:
    fill(tmp_path / "train", 2, "L", (6, 6), 3)
    fill(tmp_path / "test", 2, "L", (6, 6), 3)
    path = tmp_path / "train" / which
    content = path.read_bytes()
    path.write_bytes(content[:8] + struct.pack(">I", 12) + content[12:])  # IHDR has 13 bytes
    with pytest.raises(DataError, match=which):
        data.load_shard(source("imagefolder", tmp_path), participant=0, seed=1)


def test_floating_point_pixels_are_refused_by_name(tmp_path: Path) -> None:
    for label in CLASSES[:2]:
        (tmp_path / label).mkdir()
        for number in range(3):
            Image.new("F", (6, 6), 0.5).save(tmp_path / label / f"{number}.tiff")
    with pytest.raises(DataError, match=r"\.tiff: not a readable image .*8 or 16 bits"):
        data.load_test(source("imagefolder", tmp_path))


def test_images_larger_than_a_model_may_take_need_an_image_size(tmp_path: Path) -> None:
    fill(tmp_path, 3, "L", (1030, 1025), 3)
    with pytest.raises(DataError, match="1025 pixels per side; set image-size"):
        data.load_split(source("imagefolder", tmp_path))
    assert data.load_test(source("imagefolder", tmp_path, 8)).pixels.shape[-1] == 8


def test_a_source_without_directory_does_not_read_the_current_one() -> None:
    with pytest.raises(SmdlError, match="data-dir"):
        data.load_split(source("imagefolder"))
