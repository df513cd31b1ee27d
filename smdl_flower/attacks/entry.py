"""What an entry of the catalogue is and what an attack gives back."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from smdl_flower import models
from smdl_flower.config import Section
from smdl_flower.models import ModelSpec
from smdl_flower.weights import Weights

Block = Literal["A", "B", "C"]


@dataclass(frozen=True)
class Stolen:
    """What a thief leaks.

    Attributes:
        weights: As they are written; names and shapes may differ from the copy's.
        model: Computes with exactly these weights, so that accuracy can be measured.
    """

    weights: Weights
    model: nn.Module

    @classmethod
    def fitting(cls, spec: ModelSpec, weights: Weights) -> "Stolen":
        """Return stolen weights that still fit the model they were taken from.

        Example:
            >>> spec = ModelSpec("cnn", channels=1, classes=10, image_size=8)
            >>> copy = models.to_weights(models.build(spec, seed=0))
            >>> Stolen.fitting(spec, copy).weights is copy
            True
        """
        return cls(weights, models.from_weights(spec, weights))


Run = Callable[[Sequence[Weights], ModelSpec, Any], Stolen]


@dataclass(frozen=True)
class Attack:
    """One entry of the catalogue.

    Attributes:
        name: On the command line.
        number: In the list of docs/attacks.md; variants of one idea share it.
        block: A alters weights, B keeps the function, C combines copies of several customers.
        summary: What it does.
        knows: What the thief must have besides the copies.
        copies: Least number of copies it takes.
        options: Its settings and their defaults.
        run: Copies, their model and settings -> what is leaked.
        lossless: Whether outputs stay the same by construction (up to rounding).
    """

    name: str
    number: int
    block: Block
    summary: str
    knows: str
    copies: int
    options: type[Section]
    run: Run
    lossless: bool = False


class NoOptions(Section):
    """An attack without settings."""


def on_one_copy(alter: Callable[[Weights, Any], Weights]) -> Run:
    """Return an attack that alters the first copy and keeps its names and shapes."""
    return lambda copies, spec, options: Stolen.fitting(spec, alter(copies[0], options))


def on_all_copies(combine: Callable[[Sequence[Weights], Any], Weights]) -> Run:
    """Return an attack that combines all copies into one of the same names and shapes."""
    return lambda copies, spec, options: Stolen.fitting(spec, combine(copies, options))
