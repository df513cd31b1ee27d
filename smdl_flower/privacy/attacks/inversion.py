"""Images by optimisation: find those that would have given the same update, or the same features.

Geiping et al. 2020 ("Inverting gradients"), equation 4: the cosine distance of the gradients plus
total variation, by Adam on the sign of the derivative. The labels are taken as known, which they
almost always are (Zhao et al. 2020).
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from smdl_flower.privacy.attacks.update import Update, flat, trained


@dataclass(frozen=True)
class Search:
    """How an attacker searches.

    Attributes:
        steps: Of Adam; the rate falls to a thirtieth.
        rate: Of the first steps.
        smoothness: Weight of the total variation.
        signed: Whether only the sign of the derivative counts.
    """

    steps: int = 300
    rate: float = 0.1
    smoothness: float = 1e-2
    signed: bool = True


BY_GRADIENT = Search()
BY_FEATURES = Search(steps=100, rate=0.05, smoothness=1e-4, signed=False)


def invert_update(
    model: nn.Module,
    update: Update,
    labels: Tensor,
    start: Tensor,
    search: Search = BY_GRADIENT,
) -> Tensor:
    """Return images whose gradient points the way the update does.

    Args:
        model: As the participant was sent it, in evaluation mode.
        update: What came back, of the parameters the participant trains.
        labels: Of the batch, ``(b,)``.
        start: First guess, ``(b, channels, height, width)``.
        search: How.

    Returns:
        Images in [-1, 1], shaped like ``start``.
    """
    target = nn.functional.normalize(flat(update), dim=0)
    _, parameters = trained(model)

    def distance(images: Tensor) -> Tensor:
        loss = nn.functional.cross_entropy(model(images), labels)
        own = torch.autograd.grad(loss, parameters, create_graph=True)
        return 1 - nn.functional.cosine_similarity(_joined(own), target, dim=0)

    return _descend(distance, start, search)


def dark(count: int, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Return a first guess: dark noise, ``(count, *shape)``; a start without noise finds less."""
    return 0.6 * torch.rand((count, *shape), generator=generator) - 1


def invert_features(
    front: Callable[[Tensor], Tensor],
    features: Tensor,
    start: Tensor,
    search: Search = BY_FEATURES,
) -> Tensor:
    """Return images that a front makes these features of.

    Args:
        front: Images -> features ``(b, d)``.
        features: Also noisy ones, ``(b, d)``.
        start: First guess, ``(b, channels, height, width)``; that of a decoder
            (:mod:`smdl_flower.privacy.attacks.decoding`) is much better than noise.
        search: How.
    """
    scale = features.square().mean(1) + 1e-12

    def distance(images: Tensor) -> Tensor:
        return ((front(images) - features).square().mean(1) / scale).sum()

    return _descend(distance, start, search)


def _descend(distance: Callable[[Tensor], Tensor], start: Tensor, search: Search) -> Tensor:
    images = start.detach().clone().requires_grad_()
    adam = torch.optim.Adam([images], search.rate)
    milestones = [int(search.steps * share) for share in (0.4, 0.7, 0.9)]
    schedule = torch.optim.lr_scheduler.MultiStepLR(adam, milestones, 0.32)
    for _ in range(search.steps):
        loss = distance(images) + search.smoothness * _total_variation(images)
        (slope,) = torch.autograd.grad(loss, images)
        images.grad = slope.sign() if search.signed else slope
        adam.step()
        schedule.step()
        with torch.no_grad():
            images.clamp_(-1, 1)
    return images.detach()


def _joined(tensors: Iterable[Tensor]) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors])


def _total_variation(images: Tensor) -> Tensor:
    down = (images[..., 1:, :] - images[..., :-1, :]).abs().mean((1, 2, 3))
    across = (images[..., 1:] - images[..., :-1]).abs().mean((1, 2, 3))
    return (down + across).sum() / 2
