"""Membership inference: was this image in the training set of a model that somebody got a copy of?

LiRA (Carlini et al. 2022, "Membership inference attacks from first principles", algorithm 1) with
shadow models, each trained on a random half of the images. Canaries are images with a wrong label:
a model gets them right only if it memorised them, so they show the worst case, while an average
over ordinary images hides it. Each shadow model is in turn the target of the others.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import norm
from sklearn.metrics import roc_auc_score, roc_curve
from torch import Tensor, nn

Training = Callable[[Tensor, Tensor, int], nn.Module]
"""(inputs, labels, seed) -> a trained model. Clear and private training look alike here."""

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Confidences:
    """What the shadow models say.

    Attributes:
        values: Logit-scaled confidence in each image's label, ``(models, images)``.
        members: Whether the image was trained on, ``(models, images)``.
        canaries: Which images are mislabelled, ``(images,)``.
    """

    values: Floats
    members: Flags
    canaries: Flags


@dataclass(frozen=True)
class Membership:
    """How well members are told from others.

    Attributes:
        auc: Area under the receiver operating characteristic; a guess has 0.5.
        tpr: True-positive rate at 1 % false positives; a guess has 0.01.
        auc_error: Standard error of ``auc``, over images.
    """

    auc: float
    tpr: float
    auc_error: float


def with_canaries(
    labels: Tensor, count: int, classes: int, rng: np.random.Generator
) -> tuple[Tensor, Flags]:
    """Return the labels with the first ``count`` replaced by wrong ones, and which those are."""
    wrong = labels.clone()
    shift = torch.from_numpy(rng.integers(1, classes, count))
    wrong[:count] = (wrong[:count] + shift) % classes
    return wrong, np.arange(len(labels)) < count


def shadows(
    train: Training, inputs: Tensor, labels: Tensor, models: int, rng: np.random.Generator
) -> Iterator[tuple[Floats, Flags]]:
    """Train shadow models, one at a time, each on half of the images.

    They come in pairs on opposite halves, so that each image is a member of half of the models.

    Yields:
        Confidences and memberships of one model, both ``(images,)``.
    """
    inside = np.zeros(len(labels), bool)
    for number in range(models):
        inside = ~inside if number % 2 else _half(len(labels), rng)
        chosen = torch.from_numpy(np.flatnonzero(inside))
        model = train(inputs[chosen], labels[chosen], number)
        yield confidence(model, inputs, labels), inside


@torch.no_grad()
def confidence(model: nn.Module, inputs: Tensor, labels: Tensor) -> Floats:
    """Return log p / (1 - p) of each image's label (Carlini et al. 2022, section IV-A).

    Example:
        >>> model = nn.Linear(1, 2, bias=False)
        >>> _ = nn.init.zeros_(model.weight)
        >>> confidence(model, torch.ones(1, 1), torch.tensor([0]))
        array([0.])
    """
    model.eval()
    logits = torch.cat([model(part) for part in inputs.split(500)]).double()
    own = logits.gather(1, labels[:, None]).squeeze(1)
    others = logits.scatter(1, labels[:, None], -torch.inf).logsumexp(1)
    values: Floats = (own - others).numpy()
    return values


def lira(confidences: Confidences) -> Floats:
    """Return the log-likelihood ratio of member against non-member, ``(models, images)``.

    Each model is judged by Gaussians fitted to the others, with one variance for all images of a
    kind: 16 models are too few for one each (Carlini et al. 2022, section VI-A).

    Raises:
        ValueError: Fewer than four models, which leave nothing to fit.
    """
    values, members = confidences.values, confidences.members
    if len(values) < 4:
        raise ValueError(f"{len(values)} shadow models; LiRA needs at least 4")
    scores = np.empty_like(values)
    for target in range(len(values)):
        others = np.arange(len(values)) != target
        ratios = [
            _log_density(values[target], values[others], members[others] == kind)
            for kind in (True, False)
        ]
        scores[target] = ratios[0] - ratios[1]
    return scores


def measure(scores: Floats, members: Flags, rng: np.random.Generator) -> Membership:
    """Return how well scores tell members, pooled over models.

    Args:
        scores: ``(models, images)``, higher for members.
        members: ``(models, images)``.
        rng: Resamples images for the standard error (models share them, so images are the units).
    """
    false, true, _ = roc_curve(members.ravel(), scores.ravel())
    resampled = []
    for _ in range(50):
        again = rng.integers(0, scores.shape[1], scores.shape[1])
        resampled.append(roc_auc_score(members[:, again].ravel(), scores[:, again].ravel()))
    return Membership(
        float(roc_auc_score(members.ravel(), scores.ravel())),
        float(true[false <= 0.01].max()),
        float(np.std(resampled)),
    )


def _half(count: int, rng: np.random.Generator) -> Flags:
    return np.asarray(rng.permutation(count) < count // 2)


def _log_density(target: Floats, values: Floats, chosen: Flags) -> Floats:
    """Of the target's values under a Gaussian fitted to the chosen ones of each image."""
    count = np.maximum(chosen.sum(0), 1)
    mean = np.where(chosen, values, 0).sum(0) / count
    square = np.where(chosen, (values - mean) ** 2, 0).sum() / max(1, chosen.sum())
    return np.asarray(norm.logpdf(target, mean, np.sqrt(square) + 1e-6))
