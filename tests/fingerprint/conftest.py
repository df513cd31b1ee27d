"""A small synthetic base model, so that thousands of customers can be compared in a second."""

import numpy as np
import pytest

from smdl_flower.fingerprint.codes import Code
from smdl_flower.fingerprint.embedding import Mark
from smdl_flower.fingerprint.keys import CampaignKey, OwnerKey
from smdl_flower.fingerprint.layout import Layout
from smdl_flower.fingerprint.profile import uniform_profile
from smdl_flower.weights import Weights


@pytest.fixture(scope="session")
def small_base() -> Weights:
    """Two marked tensors of different scale, 12,800 weights, and one unmarked; read-only."""
    rng = np.random.default_rng(5)
    arrays = {
        "conv.weight": rng.standard_normal((32, 40, 5), dtype=np.float32) * np.float32(0.3),
        "fc.weight": rng.standard_normal((80, 80), dtype=np.float32) * np.float32(0.02),
        "fc.bias": rng.standard_normal(80, dtype=np.float32),
    }
    for array in arrays.values():
        array.setflags(write=False)
    return arrays


@pytest.fixture(scope="session")
def small_key() -> CampaignKey:
    """The campaign key of ``small_mark``."""
    return OwnerKey(bytes(32)).campaign("5a" * 32)


@pytest.fixture(scope="session")
def small_mark(small_base: Weights, small_key: CampaignKey) -> Mark:
    """32 bits at strength 0.2: 400 weights a bit, A = 2.65."""
    profile = uniform_profile(Layout.of(small_base))
    return Mark.of(small_base, profile, small_key, code=Code(32), strength=0.2)
