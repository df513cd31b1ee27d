"""Damage a mark a little, then hide its place: a lossy attack followed by symmetries.

Alignment has to match hidden units by weights that the first step has changed.
"""

from collections.abc import Callable

from pydantic import Field

from smdl_flower.attacks import altering, finetuning, overwriting
from smdl_flower.attacks.altering import NoiseOptions, PruneOptions
from smdl_flower.attacks.entry import Attack, Stolen
from smdl_flower.attacks.finetuning import FineTuneOptions
from smdl_flower.attacks.obfuscation import permute_and_rescale
from smdl_flower.attacks.overwriting import JamOptions
from smdl_flower.config import Section, Seed
from smdl_flower.models import ModelSpec
from smdl_flower.weights import Weights

_SPREAD = 1.0  # of the factors' natural logarithm, as in permute-rescale


class PruneHideOptions(PruneOptions):
    """Settings of ``prune-hide``."""

    fraction: float = Field(0.8, ge=0.0, lt=1.0, description="share of the weights set to zero")
    seed: Seed = 1


def hide(weights: Weights, spec: ModelSpec, seed: int) -> Stolen:
    """Return weights with hidden units rescaled and in another order."""
    return Stolen.fitting(spec, permute_and_rescale(weights, spec, _SPREAD, seed))


def _entry(
    name: str, summary: str, knows: str, options: type[Section], alter: Callable[..., Weights]
) -> Attack:
    return Attack(
        name,
        25,
        "A",
        f"{summary}, then rescale and permute hidden units",
        knows,
        1,
        options,
        lambda copies, spec, o: hide(alter(copies[0], spec, o), spec, o.seed),
    )


ENTRIES = (
    _entry(
        "prune-hide",
        "prune each tensor",
        "the structure of the model",
        PruneHideOptions,
        lambda copy, _, o: altering.prune(copy, o.fraction),
    ),
    _entry(
        "noise-hide",
        "add Gaussian noise",
        "the structure of the model",
        NoiseOptions,
        lambda copy, _, o: altering.add_noise(copy, o.level, o.seed),
    ),
    _entry(
        "jam-hide",
        "add noise where the loss is least sensitive",
        "this project's code and the structure of the model, not the key",
        JamOptions,
        overwriting.jam,
    ),
    _entry(
        "fine-tune-hide",
        "train",
        "labelled images of the same task and the structure of the model",
        FineTuneOptions,
        finetuning.fine_tune,
    ),
)
