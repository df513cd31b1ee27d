"""What stands in front of a model changes images a little, and changes nothing else about them."""

import numpy as np
import pytest

from smdl_flower.errors import ConfigError
from smdl_flower.interface.obstacles import Obstacle, through


def smooth(channels: int, size: int):
    """Images as photographs are: neighbours are alike."""
    waves = np.sin(np.linspace(0, 4, size))
    image = np.outer(waves, waves[::-1])[None] * np.linspace(1, 0.5, channels)[:, None, None]
    return np.stack([image, -image]).astype(np.float32)


@pytest.mark.parametrize("obstacle", Obstacle)
@pytest.mark.parametrize(("channels", "size"), [(1, 28), (3, 32), (1, 8)])
def test_an_obstacle_keeps_shape_type_and_range_and_most_of_an_image(obstacle, channels, size):
    images = smooth(channels, size)
    before = images.copy()
    found = through([obstacle], images)
    assert found.shape == images.shape
    assert found.dtype == np.float32
    assert np.abs(found).max() <= 1
    assert (images == before).all()
    assert 0 < np.abs(found - images).mean() < 0.35
    for seen, image in zip(found, images, strict=True):
        assert np.corrcoef(seen.ravel(), image.ravel())[0, 1] > 0.8


def test_without_obstacles_images_are_not_even_rounded():
    images = smooth(1, 8)
    assert through([], images) is images


def test_obstacles_come_one_after_the_other():
    images = smooth(1, 8)
    both = through([Obstacle.SHIFT, Obstacle.DEPTH], images)
    assert np.allclose(both, through([Obstacle.DEPTH], through([Obstacle.SHIFT], images)))
    assert len(np.unique(both)) <= 16


@pytest.mark.parametrize("obstacle", [Obstacle.JPEG_30, Obstacle.JPEG_75])
def test_what_cannot_be_compressed_is_refused(obstacle):
    with pytest.raises(ConfigError, match="2 channels"):
        through([obstacle], np.zeros((1, 2, 8, 8), np.float32))
