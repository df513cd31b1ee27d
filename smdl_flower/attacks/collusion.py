"""Combine the copies of several customers."""

from collections.abc import Sequence

import numpy as np

from smdl_flower.attacks.entry import Attack, NoOptions, on_all_copies
from smdl_flower.weights import Weights


def average(copies: Sequence[Weights]) -> Weights:
    """Return the mean of the copies: what they share stays, what differs shrinks."""
    stacks = {name: np.stack([copy[name] for copy in copies]) for name in copies[0]}
    return {
        name: np.asarray(stack.mean(axis=0, dtype=np.float64), dtype=np.float32)
        for name, stack in stacks.items()
    }


ENTRIES = (
    Attack(
        "average",
        27,
        "C",
        "average the copies of a coalition",
        "several customers' copies",
        2,
        NoOptions,
        on_all_copies(lambda copies, _: average(copies)),
    ),
)
