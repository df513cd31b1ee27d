"""A participant's side of the privacy partition: check what was sent, freeze, choose."""

import functools

from torch import nn

from smdl_flower import models
from smdl_flower.config import RunConfig
from smdl_flower.data import Images
from smdl_flower.errors import PrivacyError
from smdl_flower.models import ModelSpec
from smdl_flower.privacy.partition import (
    Label,
    PrivacyPartition,
    partition,
    require_same_public,
)
from smdl_flower.representation import Examples, behind_front
from smdl_flower.weights import Weights


def prepare(run: RunConfig, model: nn.Module, shard: Images, committed: str) -> PrivacyPartition:
    """Return the partition of a model that was received, and freeze its PUBLIC parameters.

    Args:
        run: The run config.
        model: As received.
        shard: Of this participant; only its shape and classes are used.
        committed: Digest of the partition that the server published.

    Raises:
        PrivacyError: The partition is another one, or PUBLIC tensors are not those that can be
            built here or that the run config names; nothing may be trained.
    """
    split = partition(run.privacy, model)
    if split.sha256() != committed:
        raise PrivacyError(
            f"the server committed to privacy partition {committed[:16]}, this model and run "
            f"config give {split.sha256()[:16]}; nothing was trained"
        )
    if split.names(Label.PUBLIC):
        own: Weights = {}
        if not run.privacy.public_weights_sha256:
            spec = ModelSpec.for_images(run.model, shard.pixels, shard.classes)
            own = _own(spec, run.seed)
        require_same_public(run.privacy, split, models.to_weights(model), own)
    split.freeze(model)
    return split


@functools.lru_cache(maxsize=2)  # asked for every round
def _own(spec: ModelSpec, seed: int) -> Weights:
    return models.to_weights(models.build(spec, seed=seed))


def what_is_trained(
    run: RunConfig, split: PrivacyPartition, model: nn.Module, shard: Images
) -> tuple[nn.Module, Examples]:
    """Return the module that is trained and its inputs.

    The head on kept features, if the front is PUBLIC and images are not changed at random; else the
    whole model on images.
    """
    if split.names(Label.PUBLIC) and run.training.augment == "none":
        return behind_front(model, shard)
    return model, shard
