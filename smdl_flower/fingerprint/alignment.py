"""Bring a suspect's weights back to the base model's names, shapes, channel order and scale."""

from dataclasses import dataclass, field

from torch import nn

from smdl_flower.errors import NotComparableError
from smdl_flower.weights import Weights


@dataclass(frozen=True)
class Aligned:
    """A suspect in the base model's form.

    Attributes:
        weights: The base model's names and shapes.
        label: What was undone, for the verdict; "none" if nothing.
        matched: Share of the base model's marked weights that got a counterpart; the others are
            zero, which counts as erased.
    """

    weights: Weights = field(repr=False)
    label: str
    matched: float


def align(module: nn.Module, base: Weights, suspect: Weights) -> Aligned:
    """Return the suspect in the base model's form.

    Raises:
        NotComparableError: No plausible correspondence exists.
    """
    raise NotComparableError("alignment is not built yet")
