"""Digits of 8 pixels: small real images, which every attack here recognises in no time."""

import numpy as np
import pytest
import torch

from smdl_flower.config import DataConfig
from smdl_flower.data import Images, load_split


@pytest.fixture(scope="session")
def digits() -> Images:
    train = load_split(DataConfig.of_one_party("digits", "", 0)).train
    order = np.random.default_rng(1).permutation(len(train.labels))
    return train.load(order)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(3)
