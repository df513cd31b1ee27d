"""Entries that change names, order, scale or shape of a copy but not (or little) its function."""

from collections.abc import Callable

from pydantic import Field

from smdl_flower import models
from smdl_flower.attacks import structure, symmetry
from smdl_flower.attacks.entry import Attack, Block, NoOptions, Stolen
from smdl_flower.config import Fraction, Section, Seed
from smdl_flower.models import ModelSpec
from smdl_flower.weights import Weights

_STRUCTURE = "the structure of the model"


class SeedOptions(Section):
    """Settings of an attack that only draws at random."""

    seed: Seed = 1


class RescaleOptions(Section):
    """Settings of ``rescale``, ``permute-rescale`` and ``permute-rescale-fold``."""

    level: float = Field(1.0, ge=0.0, le=3.0, description="of the factors' natural logarithm")
    seed: Seed = 1


class DummyOptions(Section):
    """Settings of attacks that add neurons."""

    share: float = Field(0.1, gt=0.0, le=1.0, description="of each layer's neurons, added")
    seed: Seed = 1


class ComposedOptions(DummyOptions):
    """Settings of ``obfuscate``."""

    level: float = Field(1.0, ge=0.0, le=3.0, description="of the factors' natural logarithm")


class ChannelOptions(Section):
    """Settings of structured pruning."""

    fraction: float = Field(0.3, ge=0.0, lt=1.0, description="share of each layer's channels")


class FactoriseOptions(Section):
    """Settings of ``low-rank-layers``."""

    rank: Fraction = Field(0.5, description="share of each matrix' rank that is kept")


def permute_and_rescale(copy: Weights, spec: ModelSpec, level: float, seed: int) -> Weights:
    """Return the copy with hidden units rescaled, then in another order."""
    return symmetry.permute(symmetry.rescale(copy, spec, level, seed), spec, seed)


def rename(copy: Weights, spec: ModelSpec, seed: int) -> Stolen:
    """Return the copy under names that say nothing."""
    return Stolen(symmetry.rename(copy, seed), models.from_weights(spec, copy))


def compose(copy: Weights, spec: ModelSpec, options: ComposedOptions) -> Stolen:
    """Return the copy after all of block B: more neurons of each kind, permuted and rescaled.

    Names are kept: they say nothing about hidden units, and ``rename`` is an entry of its own.
    """
    for add in (structure.add_zero, structure.add_cliques, structure.split_units):
        copy = add(copy, spec, options.share, options.seed)
    return structure.rebuilt(spec, permute_and_rescale(copy, spec, options.level, options.seed))


def _entry(
    name: str, number: int, summary: str, options: type[Section], alter: Callable[..., Weights]
) -> Attack:
    return Attack(
        name,
        number,
        "B",
        summary,
        _STRUCTURE,
        1,
        options,
        lambda copies, spec, o: structure.rebuilt(spec, alter(copies[0], spec, o)),
        lossless=True,
    )


def _lossy(
    name: str, number: int, summary: str, options: type[Section], alter: Callable[..., Stolen]
) -> Attack:
    block: Block = "A"
    return Attack(
        name,
        number,
        block,
        summary,
        _STRUCTURE,
        1,
        options,
        lambda copies, spec, o: alter(copies[0], spec, o),
    )


ENTRIES = (
    _lossy(
        "prune-channels",
        8,
        "set the least important channels of each layer to zero",
        ChannelOptions,
        lambda copy, spec, o: Stolen.fitting(spec, structure.zero_channels(copy, spec, o.fraction)),
    ),
    _lossy(
        "remove-channels",
        8,
        "remove the least important channels of each layer",
        ChannelOptions,
        lambda copy, spec, o: structure.rebuilt(
            spec, structure.remove_channels(copy, spec, o.fraction)
        ),
    ),
    _lossy(
        "low-rank-layers",
        18,
        "replace each layer by two of lower rank",
        FactoriseOptions,
        lambda copy, spec, o: structure.factorise(copy, spec, o.rank),
    ),
    _entry(
        "permute",
        20,
        "put hidden units in another order",
        SeedOptions,
        lambda copy, spec, o: symmetry.permute(copy, spec, o.seed),
    ),
    _entry(
        "rescale",
        21,
        "move positive factors through each ReLU and norm",
        RescaleOptions,
        lambda copy, spec, o: symmetry.rescale(copy, spec, o.level, o.seed),
    ),
    _entry(
        "permute-rescale",
        21,
        "rescale hidden units and put them in another order",
        RescaleOptions,
        lambda copy, spec, o: permute_and_rescale(copy, spec, o.level, o.seed),
    ),
    _entry(
        "fold",
        21,
        "move the scales of norms, or of units, to the next layer",
        NoOptions,
        lambda copy, spec, _: symmetry.fold_norms(copy, spec),
    ),
    _entry(
        "permute-rescale-fold",
        21,
        "rescale hidden units, put them in another order, then move scales to the next layer",
        RescaleOptions,
        lambda copy, spec, o: symmetry.fold_norms(
            permute_and_rescale(copy, spec, o.level, o.seed), spec
        ),
    ),
    _entry(
        "dummy-zero",
        22,
        "add neurons that nothing reads",
        DummyOptions,
        lambda copy, spec, o: structure.add_zero(copy, spec, o.share, o.seed),
    ),
    _entry(
        "dummy-clique",
        23,
        "add pairs of neurons whose effects cancel",
        DummyOptions,
        lambda copy, spec, o: structure.add_cliques(copy, spec, o.share, o.seed),
    ),
    _entry(
        "dummy-split",
        24,
        "split neurons in two that share the work",
        DummyOptions,
        lambda copy, spec, o: structure.split_units(copy, spec, o.share, o.seed),
    ),
    Attack(
        "obfuscate",
        25,
        "B",
        "add neurons of all three kinds, rescale and permute",
        _STRUCTURE,
        1,
        ComposedOptions,
        lambda copies, spec, o: compose(copies[0], spec, o),
        lossless=True,
    ),
    Attack(
        "factorise",
        26,
        "B",
        "replace each layer by two of full rank",
        _STRUCTURE,
        1,
        NoOptions,
        lambda copies, spec, _: structure.factorise(copies[0], spec, 1.0),
        lossless=True,
    ),
    Attack(
        "rename",
        26,
        "B",
        "give the tensors meaningless names in a random order",
        "nothing",
        1,
        SeedOptions,
        lambda copies, spec, o: rename(copies[0], spec, o.seed),
        lossless=True,
    ),
)
