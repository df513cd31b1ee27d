"""Change how wide or deep a network is: dummy neurons, low-rank layers, channels removed."""

import numpy as np
from numpy.typing import NDArray
from torch import nn

from smdl_flower import models
from smdl_flower.attacks.altering import rank_factors
from smdl_flower.attacks.entry import Stolen
from smdl_flower.attacks.symmetry import (
    Link,
    Units,
    links,
    rescale_units,
    scale_columns,
    take,
)
from smdl_flower.models import ModelSpec
from smdl_flower.weights import Weights


def rebuilt(spec: ModelSpec, weights: Weights) -> Stolen:
    """Return weights whose layers have other widths, in a model of those widths.

    Example:
        >>> spec = ModelSpec("cnn", channels=1, classes=10, image_size=8)
        >>> copy = models.to_weights(models.build(spec, seed=0))
        >>> narrow = take(copy, links(spec)[3], np.arange(100))
        >>> rebuilt(spec, narrow).model.get_submodule("head").in_features
        100
    """
    model = models.build(spec, seed=0)
    for name, module in model.named_modules():
        if f"{name}.weight" in weights:
            _resize(module, weights[f"{name}.weight"].shape)
    return Stolen(weights, models.load_weights(model, weights))


def _resize(module: nn.Module, shape: tuple[int, ...]) -> None:
    if getattr(module, "weight", np.zeros(0)).shape == shape:
        return
    if isinstance(module, nn.Linear):
        module.out_features, module.in_features = shape
    elif isinstance(module, nn.Conv2d):
        module.out_channels, module.in_channels = shape[:2]
    elif isinstance(module, nn.GroupNorm):
        module.num_groups = shape[0] * module.num_groups // module.num_channels
        module.num_channels = shape[0]
    for kind, size in (("weight", shape), ("bias", shape[:1])):
        parameter = getattr(module, kind)
        if parameter is not None:
            setattr(module, kind, nn.Parameter(parameter.new_zeros(size)))


def add_zero(weights: Weights, spec: ModelSpec, share: float, seed: int) -> Weights:
    """Return weights with dummy neurons that nothing reads."""
    rng = np.random.default_rng(seed)
    for link in links(spec):
        old = link.units(weights)
        weights = _widen(weights, link, _some_groups(rng, weights, link, share))
        weights = _randomise(weights, link, np.arange(old, link.units(weights)), rng)
        factors = np.where(np.arange(link.units(weights)) < old, 1.0, 0.0)
        weights = scale_columns(weights, link, factors)
    return weights


def add_cliques(weights: Weights, spec: ModelSpec, share: float, seed: int) -> Weights:
    """Return weights with pairs of equal dummy neurons whose effects cancel."""
    rng = np.random.default_rng(seed)
    for link in links(spec):
        old = link.units(weights)
        chosen = _some_groups(rng, weights, link, share)
        weights = _widen(weights, link, chosen)
        first = np.arange(old, link.units(weights))
        weights = _randomise(weights, link, first, rng)
        weights = take(weights, link, np.concatenate([np.arange(old), first, first]))
        signs = np.ones(link.units(weights))
        signs[-len(first) :] = -1.0
        weights = scale_columns(weights, link, signs)
    return weights


def split_units(weights: Weights, spec: ModelSpec, share: float, seed: int) -> Weights:
    """Return weights with neurons replaced by two, each of which does a part of the work.

    Both are rescaled, so that no two neurons are equal.
    """
    rng = np.random.default_rng(seed)
    for link in links(spec):
        old = link.units(weights)
        chosen = _some_groups(rng, weights, link, share)
        weights = _widen(weights, link, chosen)
        parts = np.ones(link.units(weights))
        parts[chosen] = rng.uniform(0.2, 0.8, len(chosen))
        parts[old:] = 1 - parts[chosen]
        weights = scale_columns(weights, link, parts)
        sizes = np.ones(len(parts))
        sizes[old:] = np.exp(0.5 * rng.standard_normal(len(chosen)))
        weights = rescale_units(weights, link, sizes)
    return weights


def remove_channels(weights: Weights, spec: ModelSpec, fraction: float) -> Weights:
    """Return weights without the least important hidden units, in narrower layers."""
    for link in links(spec):
        weights = take(weights, link, np.flatnonzero(_important(weights, link, fraction)))
    return weights


def zero_channels(weights: Weights, spec: ModelSpec, fraction: float) -> Weights:
    """Return weights of the same shape in which these units are zero on both sides."""
    for link in links(spec):
        weights = silence(weights, link, _important(weights, link, fraction))
    return weights


def silence(weights: Weights, link: Link, kept: NDArray[np.bool_]) -> Weights:
    """Return weights in which all units that are not kept are zero on both sides."""
    quiet = dict(scale_columns(weights, link, kept.astype(np.float64)))
    for layer, norm in link.producers:
        for name in (f"{each}.{kind}" for each in (layer, norm) for kind in ("weight", "bias")):
            if name in quiet:
                quiet[name] = quiet[name].copy()
                quiet[name][~kept] = 0.0
    return quiet


def _important(weights: Weights, link: Link, fraction: float) -> NDArray[np.bool_]:
    """Whether a unit stays, by the product of what its group's weights in and out weigh."""
    size = link.units(weights) // link.group
    inward, outward = np.zeros(size), np.zeros(size)
    for layer, norm in link.producers:
        rows = weights[f"{norm or layer}.weight"].astype(np.float64)
        inward += np.square(rows).reshape(size, -1).sum(axis=1)
    for layer in link.consumers:
        columns = weights[f"{layer}.weight"].astype(np.float64)
        outward += np.square(columns).reshape(len(columns), size, -1).sum(axis=(0, 2))
    return np.repeat(largest(inward * outward, fraction), link.group)


def largest(values: NDArray[np.float64], fraction: float) -> NDArray[np.bool_]:
    """Return which values stay if this share of them, the smallest, goes; at least one does.

    Example:
        >>> largest(np.array([3.0, 1.0, 2.0, 4.0]), 0.5).tolist()
        [True, False, False, True]
    """
    removed = min(int(len(values) * fraction), len(values) - 1)
    kept = np.ones(len(values), dtype=np.bool_)
    kept[np.argsort(values, kind="stable")[:removed]] = False
    return kept


def factorise(weights: Weights, spec: ModelSpec, rank: float) -> Stolen:
    """Return each convolution and linear layer as two, the first with fewer outputs.

    Args:
        weights: Of a copy.
        spec: Its model; any of plain convolutions and linear layers.
        rank: Share of the full rank that is kept; at 1 the function stays the same.
    """
    model = models.from_weights(spec, weights)
    layers = [(n, m) for n, m in model.named_modules() if type(m) in (nn.Conv2d, nn.Linear)]
    for name, layer in layers:
        if isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv2d) and layer.groups == 1):
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, _two_layers(layer, rank))
    return Stolen(models.to_weights(model), model.eval())


def _two_layers(layer: nn.Conv2d | nn.Linear, rank: float) -> nn.Module:
    weight = layer.weight.detach().numpy()
    left, right = rank_factors(weight, rank)
    first, second = _layers_of_rank(layer, len(right))
    pair = nn.Sequential(first, second)
    state = {
        "0.weight": right.reshape(first.weight.shape),
        "1.weight": left.reshape(second.weight.shape),
    }
    if layer.bias is not None:
        state["1.bias"] = layer.bias.detach().numpy()
    models.load_weights(pair, {n: np.asarray(a, dtype=np.float32) for n, a in state.items()})
    return pair


def _layers_of_rank(
    layer: nn.Conv2d | nn.Linear, rank: int
) -> tuple[nn.Conv2d, nn.Conv2d] | tuple[nn.Linear, nn.Linear]:
    bias = layer.bias is not None
    if isinstance(layer, nn.Linear):
        return (
            nn.Linear(layer.in_features, rank, bias=False),
            nn.Linear(rank, layer.out_features, bias=bias),
        )
    first = nn.Conv2d(
        layer.in_channels,
        rank,
        (layer.kernel_size[0], layer.kernel_size[1]),
        (layer.stride[0], layer.stride[1]),
        layer.padding,  # type: ignore[arg-type]
        (layer.dilation[0], layer.dilation[1]),
        bias=False,
        padding_mode=layer.padding_mode,
    )
    return first, nn.Conv2d(rank, layer.out_channels, 1, bias=bias)


def _some_groups(rng: np.random.Generator, weights: Weights, link: Link, share: float) -> Units:
    """A share of the units, at least one group and whole groups, none of them twice."""
    groups = link.units(weights) // link.group
    chosen = rng.permutation(groups)[: max(1, round(groups * share))]
    return (chosen[:, None] * link.group + np.arange(link.group)).ravel()


def _widen(weights: Weights, link: Link, again: Units) -> Weights:
    return take(weights, link, np.concatenate([np.arange(link.units(weights)), again]))


def _randomise(weights: Weights, link: Link, units: Units, rng: np.random.Generator) -> Weights:
    """Weights in which these units compute something of their own, of the usual size."""
    random = dict(weights)
    for layer, _ in link.producers:
        name = f"{layer}.weight"
        random[name] = weights[name].copy()
        rows = rng.standard_normal(random[name][units].shape, dtype=np.float32)
        random[name][units] = rows * weights[name].std()
    return random
