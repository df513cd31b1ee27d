"""Entries of attacks by several customers, some of which go on after combining their copies."""

from collections.abc import Callable, Sequence

import numpy as np
from pydantic import Field

from smdl_flower.attacks import altering, collusion, finetuning, symmetry
from smdl_flower.attacks.altering import NoiseOptions, PruneOptions, QuantizeOptions
from smdl_flower.attacks.entry import Attack, NoOptions, Run, Stolen, on_all_copies
from smdl_flower.attacks.finetuning import FineTuneOptions
from smdl_flower.attacks.obfuscation import SeedOptions
from smdl_flower.config import Fraction, Section, Seed
from smdl_flower.models import ModelSpec
from smdl_flower.weights import Weights


class ExtrapolateOptions(Section):
    """Settings of ``extrapolate``."""

    factor: float = Field(2.0, ge=0.0, le=10.0, description="how far to leave the first copy")


class LocaliseZeroOptions(Section):
    """Settings of ``localise-zero``."""

    share: Fraction = Field(0.1, description="of the weights, those that differ most")


class LocaliseOptions(Section):
    """Settings of ``localise``."""

    share: Fraction = Field(0.5, description="of the weights, those that differ most")
    level: float = Field(1.0, ge=0.0, le=100.0, description="in deviations between the copies")
    seed: Seed = 1


def localise(copies: Sequence[Weights], share: float, level: float, seed: int) -> Weights:
    """Return the mean of the copies, with noise where they differ most."""
    rng = np.random.default_rng(seed)
    mean, spread = collusion.average(copies), collusion.spread(copies)
    limit = _limit(mean, spread, share)
    noisy = dict(mean)
    for name in altering.matrices(mean):
        noise = level * spread[name] * rng.standard_normal(mean[name].shape)
        differs = spread[name] >= limit * _scale(mean, name)
        noisy[name] = np.asarray(mean[name] + np.where(differs, noise, 0.0), np.float32)
    return noisy


def localise_zero(copies: Sequence[Weights], share: float) -> Weights:
    """Return the mean of the copies, with zeros where they differ most."""
    mean, spread = collusion.average(copies), collusion.spread(copies)
    limit = _limit(mean, spread, share)
    zeroed = dict(mean)
    for name in altering.matrices(mean):
        differs = spread[name] >= limit * _scale(mean, name)
        zeroed[name] = np.where(differs, np.float32(0.0), mean[name])
    return zeroed


def _limit(mean: Weights, spread: Weights, share: float) -> float:
    """The relative difference that this share of the weights reaches."""
    names = [name for name in altering.matrices(mean) if mean[name].size]
    relative = [(spread[name] / _scale(mean, name)).ravel() for name in names]
    return float(np.quantile(np.concatenate(relative), 1 - share)) if relative else 0.0


def _scale(mean: Weights, name: str) -> float:
    return float(mean[name].std()) or 1.0


def average_with_one_permuted(copies: Sequence[Weights], spec: ModelSpec, seed: int) -> Weights:
    """Return the mean of copies of which the first has its hidden units in another order."""
    return collusion.average([symmetry.permute(copies[0], spec, seed), *copies[1:]])


def _then(alter: Callable[..., Weights]) -> Run:
    """An attack that averages, then alters."""
    return lambda copies, spec, options: Stolen.fitting(
        spec, alter(collusion.average(copies), spec, options)
    )


def _entry(name: str, number: int, summary: str, options: type[Section], run: Run) -> Attack:
    return Attack(name, number, "C", summary, "several customers' copies", 2, options, run)


def _statistic(
    name: str, number: int, summary: str, combine: Callable[[Sequence[Weights]], Weights]
) -> Attack:
    return _entry(
        name, number, summary, NoOptions, on_all_copies(lambda copies, _: combine(copies))
    )


def _random(
    name: str, number: int, summary: str, combine: Callable[[Sequence[Weights], int], Weights]
) -> Attack:
    run = on_all_copies(lambda copies, o: combine(copies, o.seed))
    return _entry(name, number, summary, SeedOptions, run)


_STATISTICS = (
    _statistic("average", 27, "average the copies of a coalition", collusion.average),
    _statistic("median", 28, "take the median of each weight", collusion.median),
    _statistic("midrange", 29, "take the middle of smallest and largest", collusion.midrange),
    _statistic("minimum", 30, "take the smallest value of each weight", collusion.minimum),
    _statistic("maximum", 30, "take the largest value of each weight", collusion.maximum),
    _statistic(
        "minority",
        30,
        "take the extreme on whose side fewer copies lie",
        collusion.minority_extreme,
    ),
    _random("interleave", 31, "take each weight from a random copy", collusion.interleave_weights),
    _random(
        "interleave-channels",
        31,
        "take each output channel from a random copy",
        collusion.interleave_channels,
    ),
    _random(
        "interleave-tensors",
        31,
        "take each tensor from a random copy",
        collusion.interleave_tensors,
    ),
    _statistic(
        "modneg",
        32,
        "take smallest plus largest minus median",
        collusion.modified_negative,
    ),
    _random("randneg", 32, "take smallest or largest by a coin", collusion.randomised_negative),
    _random("weighted-mean", 33, "average with random weights", collusion.weighted_mean),
)

ENTRIES = (
    *_STATISTICS,
    Attack(
        "outlier",
        32,
        "C",
        "take the value furthest from the median",
        "several customers' copies",
        3,
        NoOptions,
        on_all_copies(lambda copies, _: collusion.outlier(copies)),
    ),
    _entry(
        "extrapolate",
        33,
        "go from the first copy to the mean and beyond",
        ExtrapolateOptions,
        on_all_copies(lambda copies, o: collusion.extrapolate(copies, o.factor)),
    ),
    _entry(
        "localise",
        35,
        "average, and add noise where the copies differ most",
        LocaliseOptions,
        on_all_copies(lambda copies, o: localise(copies, o.share, o.level, o.seed)),
    ),
    _entry(
        "localise-zero",
        35,
        "average, and set to zero where the copies differ most",
        LocaliseZeroOptions,
        on_all_copies(lambda copies, o: localise_zero(copies, o.share)),
    ),
    _entry(
        "average-noise",
        36,
        "average, then add noise",
        NoiseOptions,
        _then(lambda mean, _, o: altering.add_noise(mean, o.level, o.seed)),
    ),
    _entry(
        "average-prune",
        36,
        "average, then prune each tensor",
        PruneOptions,
        _then(lambda mean, _, o: altering.prune(mean, o.fraction)),
    ),
    _entry(
        "average-quantize",
        36,
        "average, then round each tensor to few levels",
        QuantizeOptions,
        _then(lambda mean, _, o: altering.quantize(mean, o.bits)),
    ),
    Attack(
        "average-fine-tune",
        36,
        "C",
        "average, then train",
        "several customers' copies and labelled images of the same task",
        2,
        FineTuneOptions,
        _then(finetuning.fine_tune),
    ),
    _entry(
        "average-permute",
        37,
        "average, then put hidden units in another order",
        SeedOptions,
        _then(lambda mean, spec, o: symmetry.permute(mean, spec, o.seed)),
    ),
    _entry(
        "average-one-permuted",
        37,
        "average copies of which one has its hidden units in another order",
        SeedOptions,
        lambda copies, spec, o: Stolen.fitting(
            spec, average_with_one_permuted(copies, spec, o.seed)
        ),
    ),
)
