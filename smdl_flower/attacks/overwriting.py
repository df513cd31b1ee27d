"""Drown a mark: noise where it costs no accuracy, or a second mark of the same kind.

The thief knows this project's code but not the owner's key, so it knows where a mark is strong:
where the loss is least sensitive. It measures that on its own copy, with noise inputs.
"""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import nn

from smdl_flower import models
from smdl_flower.attacks.altering import matrices
from smdl_flower.attacks.entry import Attack, Stolen
from smdl_flower.attacks.finetuning import ImageOptions, fitting_images
from smdl_flower.config import Fraction, Section, Seed
from smdl_flower.models import ModelSpec
from smdl_flower.training import evaluate
from smdl_flower.weights import Weights

_CODE = "this project's code, not the key"
_FLOOR = 1e-3  # of the mean sensitivity: a weight without any still bears a finite change
_LARGEST_LEVEL = 8.0  # far beyond what leaves a model of use
_HALVINGS = 10
_LARGEST = 4.0  # share of one weight, in root mean squares


class JamOptions(Section):
    """Settings of ``jam``."""

    level: float = Field(1.0, ge=0.0, le=10.0, description="in standard deviations of a tensor")
    power: float = Field(0.25, ge=0.0, le=1.0, description="of the sensitivity; 0.25 as a mark")
    samples: int = Field(200, ge=1, le=100_000, description="noise inputs to measure it with")
    seed: Seed = 1


class JamToLimitOptions(ImageOptions):
    """Settings of ``jam-limit``."""

    drop: Fraction = Field(0.01, description="of accuracy on the thief's images")
    power: float = Field(0.25, ge=0.0, le=1.0, description="of the sensitivity; 0.25 as a mark")
    samples: int = Field(200, ge=1, le=100_000, description="noise inputs to measure it with")


class OverwriteOptions(Section):
    """Settings of ``overwrite``."""

    strength: float = Field(0.2, gt=0.0, le=2.0, description="of one mark")
    times: int = Field(1, ge=1, le=100, description="marks, one after the other")
    code_length: int = Field(304, ge=1, le=8192, alias="code-length")
    samples: int = Field(200, ge=1, le=100_000, description="noise inputs to find its place")
    seed: Seed = 1


def jam(copy: Weights, spec: ModelSpec, options: JamOptions) -> Weights:
    """Return the copy with noise where the loss is least sensitive."""
    jamming = jamming_noise(copy, spec, options)
    return add(copy, jamming, options.level)


def jam_to_limit(copy: Weights, spec: ModelSpec, options: JamToLimitOptions) -> Weights:
    """Return the copy jammed just so hard that the thief's images notice.

    The level is found by bisection: the accuracy on these images falls by at least ``drop``.
    """
    images = fitting_images(spec, options)
    jamming = jamming_noise(copy, spec, options)

    def accuracy(level: float) -> float:
        return evaluate(models.from_weights(spec, add(copy, jamming, level)), images).accuracy

    least = accuracy(0.0) - options.drop
    low, high = 0.0, _LARGEST_LEVEL
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if accuracy(middle) <= least else (middle, high)
    return add(copy, jamming, high)


def jamming_noise(
    copy: Weights, spec: ModelSpec, options: JamOptions | JamToLimitOptions
) -> Weights:
    """Return noise of the level one."""
    rng = np.random.default_rng(options.seed)
    reach = _reach(copy, spec, options.power, options.samples, options.seed)
    return {
        name: np.asarray(share * rng.standard_normal(share.shape), np.float32)
        for name, share in reach.items()
    }


def add(copy: Weights, change: Weights, level: float) -> Weights:
    """Return the copy with a multiple of a change to some of its tensors."""
    changed = {
        n: np.asarray(copy[n] + level * c.astype(float), np.float32) for n, c in change.items()
    }
    return {**copy, **changed}


def overwrite(copy: Weights, spec: ModelSpec, options: OverwriteOptions) -> Weights:
    """Return the copy with marks of the owner's kind, for keys and codewords of the thief's."""
    rng = np.random.default_rng(options.seed)
    reach = _reach(copy, spec, 0.25, options.samples, options.seed)
    names = list(reach)
    scales = np.concatenate([np.full(copy[n].size, copy[n].std() or 1.0) for n in names])
    share = np.concatenate([reach[n].ravel() for n in names]) / scales
    values = np.concatenate([copy[n].ravel() for n in names]) / scales
    for _ in range(options.times):
        values = _mark(values, share, options, rng)
    pieces = np.split(values * scales, np.cumsum([copy[n].size for n in names])[:-1])
    marked = {
        name: np.asarray(piece.reshape(copy[name].shape), np.float32)
        for name, piece in zip(names, pieces, strict=True)
    }
    return {name: marked.get(name, array) for name, array in copy.items()}


def _mark(
    values: NDArray[np.float64],
    share: NDArray[np.float64],
    options: OverwriteOptions,
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    """Weights, in units of their tensor's scale, with a Gaussian carrier and a random codeword."""
    length, gain = options.code_length, options.strength / math.sqrt(2)
    values = values + gain * share * rng.standard_normal(len(values))
    groups = rng.integers(length, size=len(values))
    signed = share * rng.choice([-1.0, 1.0], len(values))
    norms = np.sqrt(np.bincount(groups, np.square(signed), length))
    norms[norms == 0] = 1.0
    read = np.bincount(groups, signed * values, length) / norms
    targets = rng.choice([-1.0, 1.0], length) * gain * math.sqrt(len(values) / length)
    return np.asarray(values + signed * ((targets - read) / norms)[groups])


def _reach(
    copy: Weights, spec: ModelSpec, power: float, samples: int, seed: int
) -> dict[str, NDArray[np.float64]]:
    """How far each weight may move: ``F^-power``, with the root mean square of its tensor's scale.

    Over all tensors the shares have root mean square one in units of each tensor's scale.
    """
    fisher = diagonal_fisher(models.from_weights(spec, copy), _shape(spec), samples, seed)
    names = [name for name in matrices(copy) if name in fisher]
    total = np.concatenate([fisher[name].ravel() for name in names])
    floor = _FLOOR * float(total.mean()) or 1.0
    scales = {name: float(copy[name].std()) or 1.0 for name in names}
    share = {name: (fisher[name] + floor) ** -power / scales[name] for name in names}
    size = _root_mean_square(share)
    share = {name: np.minimum(values, _LARGEST * size) for name, values in share.items()}
    size = _root_mean_square(share)
    return {name: values / size * scales[name] for name, values in share.items()}


def diagonal_fisher(
    model: nn.Module, input_shape: tuple[int, ...], samples: int, seed: int
) -> dict[str, NDArray[np.float64]]:
    """Return the mean squared gradient of each parameter, on noise and the model's own labels."""
    generator = torch.Generator().manual_seed(seed)
    # a frozen parameter can be altered like any other
    parameters = {n: p.requires_grad_(True) for n, p in model.named_parameters()}
    total = {name: torch.zeros_like(p) for name, p in parameters.items()}
    for _ in range(samples):
        logits = model(torch.randn(1, *input_shape, generator=generator))
        label = torch.multinomial(logits.detach().softmax(1), 1, generator=generator)[:, 0]
        loss = nn.functional.cross_entropy(logits, label)
        gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
        for name, gradient in zip(parameters, gradients, strict=True):
            if gradient is not None:
                total[name] += gradient.square()
    return {name: (t / samples).double().numpy() for name, t in total.items()}


def _shape(spec: ModelSpec) -> tuple[int, int, int]:
    return spec.channels, spec.image_size, spec.image_size


def _root_mean_square(share: dict[str, NDArray[np.float64]]) -> float:
    flat = np.concatenate([values.ravel() for values in share.values()])
    return float(np.sqrt(np.square(flat).mean()))


ENTRIES = (
    Attack(
        "jam",
        11,
        "A",
        "add noise where the loss is least sensitive",
        _CODE,
        1,
        JamOptions,
        lambda copies, spec, o: Stolen.fitting(spec, jam(copies[0], spec, o)),
    ),
    Attack(
        "jam-limit",
        11,
        "A",
        "add such noise until the thief's own images notice",
        f"{_CODE}; labelled images of the same task",
        1,
        JamToLimitOptions,
        lambda copies, spec, o: Stolen.fitting(spec, jam_to_limit(copies[0], spec, o)),
    ),
    Attack(
        "overwrite",
        13,
        "A",
        "embed marks of the same kind with keys of the thief's own",
        _CODE,
        1,
        OverwriteOptions,
        lambda copies, spec, o: Stolen.fitting(spec, overwrite(copies[0], spec, o)),
    ),
)
