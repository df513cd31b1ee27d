"""Change weights, not the function: permute, rescale, add and rename hidden units.

Neural structural obfuscation (Yan et al. 2023) broke every white-box scheme it was tried on. A
:class:`Link` names all tensors that one set of hidden units passes through, so that each change is
made on both sides. Units of one GroupNorm group stay together and share what its statistics see.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import nn

from smdl_flower import models
from smdl_flower.errors import ConfigError
from smdl_flower.models import ModelSpec
from smdl_flower.weights import Weights

Units = NDArray[np.int64]
Factors = NDArray[np.float64]


@dataclass(frozen=True)
class Link:
    """Hidden units between the layers that produce and those that consume them.

    Attributes:
        producers: Layer and the norm after it, if any; their outputs are the units.
        consumers: Layers whose inputs are the units.
        group: Units that a norm ties together.
    """

    producers: tuple[tuple[str, str | None], ...]
    consumers: tuple[str, ...]
    group: int = 1

    def units(self, weights: Weights) -> int:
        """Return how many units the link has in these weights."""
        return len(weights[f"{self.producers[0][0]}.weight"])


_CNN = (
    Link((("features.0", None),), ("features.3",)),
    Link((("features.3", None),), ("features.6",)),
    Link((("features.6", None),), ("hidden",)),
    Link((("hidden", None),), ("head",)),
)
_STEM = (("stem.0", "stem.1"), ("block1.body.3", "block1.body.4"))
_RESNET8 = (
    Link(_STEM, ("block1.body.0", "block2.body.0", "block2.shortcut.0")),
    Link((("block1.body.0", "block1.body.1"),), ("block1.body.3",)),
    Link((("block2.body.0", "block2.body.1"),), ("block2.body.3",)),
    Link(
        (("block2.body.3", "block2.body.4"), ("block2.shortcut.0", None)),
        ("block3.body.0", "block3.shortcut.0"),
    ),
    Link((("block3.body.0", "block3.body.1"),), ("block3.body.3",)),
    Link((("block3.body.3", "block3.body.4"), ("block3.shortcut.0", None)), ("head",)),
)
_LINKS = {"cnn": _CNN, "resnet8": _RESNET8}


def links(spec: ModelSpec) -> tuple[Link, ...]:
    """Return the hidden units of a model, from the input on.

    Raises:
        ConfigError: The structure of this model is not known here.

    Example:
        >>> [link.group for link in links(ModelSpec("resnet8", 1, 10, 8))]
        [3, 3, 3, 3, 3, 3]
    """
    if spec.name not in _LINKS:
        raise ConfigError(
            f"model {spec.name!r}: this attack knows the hidden units of {', '.join(_LINKS)} only; "
            "take an attack that leaves the structure alone"
        )
    model = models.build(spec, seed=0)
    return tuple(
        Link(link.producers, link.consumers, _group(model, link)) for link in _LINKS[spec.name]
    )


def _group(model: nn.Module, link: Link) -> int:
    norm = link.producers[0][1]
    module = model.get_submodule(norm) if norm else None
    return module.num_channels // module.num_groups if isinstance(module, nn.GroupNorm) else 1


def take(weights: Weights, link: Link, units: Units) -> Weights:
    """Return weights with these units, in this order; a unit may be left out or come twice."""
    taken = dict(weights)
    for layer, norm in link.producers:
        for name in _tensors(weights, layer, norm):
            taken[name] = weights[name][units]
    for layer in link.consumers:
        taken[f"{layer}.weight"] = _columns(weights, layer, link, lambda columns: columns[:, units])
    return taken


def scale_columns(weights: Weights, link: Link, factors: Factors) -> Weights:
    """Return weights whose consumers read each unit times a factor, ``(units,)``."""
    wide = factors[:, None].astype(np.float32)
    return weights | {
        f"{layer}.weight": _columns(weights, layer, link, lambda columns: columns * wide)
        for layer in link.consumers
    }


def rescale_units(weights: Weights, link: Link, factors: Factors) -> Weights:
    """Return weights whose units are larger by positive factors and read as much smaller.

    Exact through ReLU, pooling and a shortcut: all of them are positively homogeneous.
    """
    scaled = dict(weights)
    for layer, norm in link.producers:
        for name in _tensors(weights, norm or layer, None):
            shape = (-1,) + (1,) * (weights[name].ndim - 1)
            scaled[name] = weights[name] * factors.reshape(shape).astype(np.float32)
    return scale_columns(scaled, link, 1 / factors)


def permute(weights: Weights, spec: ModelSpec, seed: int) -> Weights:
    """Return weights with all hidden units in another order: groups, and units within a group."""
    rng = np.random.default_rng(seed)
    for link in links(spec):
        groups = rng.permutation(link.units(weights) // link.group)
        inside = np.argsort(rng.random((len(groups), link.group)), axis=1)
        weights = take(weights, link, (groups[:, None] * link.group + inside).ravel())
    return weights


def rescale(weights: Weights, spec: ModelSpec, level: float, seed: int) -> Weights:
    """Return weights with log-normal factors moved through each ReLU, and layers before a norm.

    A norm divides what enters it, so its layer takes any factor per group; it is at least one, for
    the norm's epsilon to matter no more than before.
    """
    rng = np.random.default_rng(seed)
    for link in links(spec):
        factors = np.exp(level * rng.standard_normal(link.units(weights)))
        weights = rescale_units(weights, link, factors)
        for layer, norm in link.producers:
            if norm:
                groups = np.exp(level * np.abs(rng.standard_normal(len(factors) // link.group)))
                rows = np.repeat(groups, link.group)[:, None, None, None].astype(np.float32)
                weights = weights | {f"{layer}.weight": weights[f"{layer}.weight"] * rows}
    return weights


def fold_norms(weights: Weights, spec: ModelSpec) -> Weights:
    """Return weights whose norms scale by +-1, the size of their scale moved to what follows.

    A GroupNorm cannot be folded into the layer before it, as BatchNorm can: it depends on the
    input. A model without norms is folded by giving all units incoming weights of one length.
    """
    for link in links(spec):
        layer, norm = link.producers[0]
        rows = weights[f"{norm or layer}.weight"].reshape(link.units(weights), -1)
        sizes = np.linalg.norm(rows.astype(np.float64), axis=1)
        weights = rescale_units(weights, link, 1 / np.where(sizes > 1e-6, sizes, 1.0))
    return weights


def rename(weights: Weights, seed: int) -> Weights:
    """Return the same tensors under meaningless names, in a random order."""
    order = np.random.default_rng(seed).permutation(len(weights))
    names = sorted(weights)
    return {f"t{place:03d}": weights[names[i]] for place, i in enumerate(order)}


def _tensors(weights: Weights, layer: str, norm: str | None) -> list[str]:
    layers = (layer, norm) if norm else (layer,)
    names = [f"{each}.{kind}" for each in layers for kind in ("weight", "bias")]
    return [name for name in names if name in weights]


def _columns(
    weights: Weights,
    layer: str,
    link: Link,
    alter: Callable[[NDArray[np.float32]], NDArray[np.float32]],
) -> NDArray[np.float32]:
    """A consumer's weight after a change of ``(outputs, units, values per unit)``."""
    weight = weights[f"{layer}.weight"]
    altered = alter(weight.reshape(len(weight), link.units(weights), -1))
    return altered.reshape(len(weight), -1, *weight.shape[2:])
