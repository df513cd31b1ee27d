"""The privacy partition: every tensor of a model is labelled exactly once.

GUARDED tensors are everything private images touch; they leave a participant through one channel
only, by an allow-list. This version has the policy ``full`` (all tensors GUARDED) and the channel
``clear`` (no protection, and no claim of any). The definition is ours: the paper that inspired this
project speaks of "privacy partitioning" in its abstract only, and was withdrawn.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from typing import Any

from numpy.typing import NDArray

from smdl_flower.config import PrivacyConfig
from smdl_flower.errors import ConfigError

FORMAT = "smdl-privacy/1"


class Label(StrEnum):
    """What may happen to a tensor."""

    GUARDED = "guarded"


_LEAVES = frozenset({Label.GUARDED})


@dataclass(frozen=True)
class PrivacyPartition:
    """A total, disjoint labelling of a model's tensors.

    Example:
        >>> partition = PrivacyPartition.full(["head.weight", "head.bias"])
        >>> partition.allowed()
        ('head.bias', 'head.weight')
        >>> partition.select({"head.weight": 1, "head.bias": 2, "optimizer.step": 3})
        {'head.bias': 2, 'head.weight': 1}
    """

    labels: tuple[tuple[str, Label], ...]

    @classmethod
    def full(cls, names: Iterable[str]) -> "PrivacyPartition":
        """Return the partition that guards every tensor.

        Raises:
            ConfigError: A name occurs twice, so that it would not be labelled exactly once.
        """
        ordered = sorted(names)
        twice = [name for name, following in pairwise(ordered) if name == following]
        if twice:
            raise ConfigError(f"the privacy partition names tensors more than once: {twice[:3]}")
        return cls(tuple((name, Label.GUARDED) for name in ordered))

    def allowed(self) -> tuple[str, ...]:
        """Return the names of the tensors that may leave a participant."""
        return tuple(name for name, label in self.labels if label in _LEAVES)

    def select(self, tensors: Mapping[str, Any]) -> dict[str, Any]:
        """Return the tensors that may leave, and no others.

        Raises:
            ConfigError: One is missing: the model is not the one that was partitioned.
        """
        missing = [name for name in self.allowed() if name not in tensors]
        if missing:
            raise ConfigError(f"the model lacks tensors of its privacy partition: {missing[:3]}")
        return {name: tensors[name] for name in self.allowed()}

    def sha256(self) -> str:
        """Return the commitment to this partition, hexadecimal."""
        return hashlib.sha256(json.dumps([FORMAT, self.labels]).encode()).hexdigest()


def partition(config: PrivacyConfig, weights: Mapping[str, NDArray[Any]]) -> PrivacyPartition:
    """Return the partition that the run config asks for."""
    del config  # one policy so far; others come with the noise layer
    return PrivacyPartition.full(weights)


def report(config: PrivacyConfig, of: PrivacyPartition) -> dict[str, Any]:
    """Return the document ``privacy.json``: what may be claimed, and what not."""
    return {
        "format": FORMAT,
        "policy": config.policy,
        "channel": config.channel,
        "partition_sha256": of.sha256(),
        "partition": {name: label.value for name, label in of.labels},
        "epsilon": None,
        "claim": "No DP claim: channel 'clear' sends every update to the server unprotected",
    }
