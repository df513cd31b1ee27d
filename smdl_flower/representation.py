"""What is trained, and on what: behind a frozen front, the head, on what the front makes of images.

A frozen front gives the same features in each round. They are computed once and kept, so that a
round costs as little as its head.
"""

import hashlib
from collections import OrderedDict
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from smdl_flower import models, weights
from smdl_flower.data import Images
from smdl_flower.fronts import FrontedClassifier

_CHUNK = 200
_KEPT = 16  # shards of features: a simulation worker serves several participants


class Examples(Protocol):
    """Labelled examples in memory: images, or features of images."""

    @property
    def labels(self) -> Tensor:
        """int64 tensor ``(n,)``."""

    def __len__(self) -> int:
        """Return n."""

    def inputs(self, indices: Tensor | slice = slice(None)) -> Tensor:
        """Return what the module sees, float32."""


@dataclass(frozen=True)
class Features:
    """What a frozen front makes of labelled images.

    Attributes:
        values: float32 tensor ``(n, features)``.
        labels: int64 tensor ``(n,)``.
    """

    values: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def inputs(self, indices: Tensor | slice = slice(None)) -> Tensor:
        """Return the features with these indices."""
        return self.values[indices]


_cache: OrderedDict[str, Tensor] = OrderedDict()


def behind_front(model: nn.Module, images: Images) -> tuple[nn.Module, Examples]:
    """Return the head of a model and what its front, as it is now, makes of the images.

    That is for a :class:`~smdl_flower.fronts.FrontedClassifier`; of another model, it is the model
    and the images themselves. The head is the model's own: training it trains the model.
    """
    if not isinstance(model, FrontedClassifier):
        return model, images
    return model.head, Features(_features(model.front, images), images.labels)


@torch.no_grad()
def _features(front: nn.Module, images: Images) -> Tensor:
    pixels = hashlib.sha256(images.pixels.numpy().tobytes()).hexdigest()
    key = f"{weights.digest(models.to_weights(front))}/{pixels}"
    if key not in _cache:
        front.eval()
        parts = torch.arange(len(images)).split(_CHUNK)
        _cache[key] = torch.cat([front(images.inputs(part)) for part in parts])
        while len(_cache) > _KEPT:
            _cache.popitem(last=False)
    _cache.move_to_end(key)
    return _cache[key]
