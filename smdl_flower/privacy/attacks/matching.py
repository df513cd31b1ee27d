"""Candidate matching: which of the images that the attacker holds was used in this step?

The attacker computes the update that each candidate would have given and takes the one that points
the way of the update it saw. No reconstruction is needed, so no architecture makes it fail; under
Gaussian noise on clipped gradients it is close to the best test there is. Ours.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from smdl_flower.privacy.attacks.update import Release, Update, flat, gradient


@dataclass(frozen=True)
class Matched:
    """How often the right candidate was found.

    Attributes:
        right: Trials in which the candidate used had the greatest cosine.
        trials: All.
        candidates: Among how many; a guess succeeds with probability 1 / candidates.
    """

    right: int
    trials: int
    candidates: int


def similarities(model: nn.Module, updates: list[Update], inputs: Tensor, labels: Tensor) -> Tensor:
    """Return the cosine of each update with each candidate's gradient, ``(updates, candidates)``.

    Args:
        model: As the participant was sent it.
        updates: What came back, each from a step on one image.
        inputs: The candidates.
        labels: Theirs.
    """
    seen = nn.functional.normalize(torch.stack([flat(update) for update in updates]), dim=1)
    columns = []
    for one in torch.arange(len(inputs)).split(1):  # one gradient in memory at a time
        own = flat(gradient(model, inputs[one], labels[one]))
        columns.append(seen @ nn.functional.normalize(own, dim=0))
    return torch.stack(columns, 1)


def match(
    model: nn.Module, release: Release, inputs: Tensor, labels: Tensor, trials: int
) -> Matched:
    """Return how often an attacker finds out which candidate a step was made on.

    The first ``trials`` candidates are used, one a trial; the attacker does not know that.
    """
    updates = [release(model, inputs[one], labels[one]) for one in torch.arange(trials).split(1)]
    found = similarities(model, updates, inputs, labels).argmax(1)
    return Matched(int((found == torch.arange(trials)).sum()), trials, len(inputs))
