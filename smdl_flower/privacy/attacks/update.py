"""What one step of a participant reveals: the update an attacker gets to see.

The attacker is the server, or whoever reads its traffic: it holds the model that the participant
was sent and the change that came back. Frozen parameters (a public front) never change, so an
update holds the others only.
"""

import copy
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

Update = Mapping[str, Tensor]
"""Parameter name -> its gradient, or what left of it."""

Release = Callable[[nn.Module, Tensor, Tensor], Update]
"""(model, inputs, labels) -> what leaves the participant after a step on one batch."""

LocalTraining = Callable[[nn.Module, Tensor, Tensor], object]
"""Train a model in place on inputs and labels; what it returns does not matter."""


def gradient(model: nn.Module, inputs: Tensor, labels: Tensor) -> Update:
    """Return the mean gradient of the cross-entropy: the release of the channel ``clear``.

    Args:
        model: Parameters without ``requires_grad`` are left out.
        inputs: ``(n, ...)``.
        labels: int64, ``(n,)``.

    Example:
        >>> sent = gradient(nn.Linear(3, 2), torch.ones(1, 3), torch.tensor([0]))
        >>> {name: tuple(tensor.shape) for name, tensor in sent.items()}
        {'weight': (2, 3), 'bias': (2,)}
    """
    names, parameters = trained(model)
    loss = nn.functional.cross_entropy(model(inputs), labels)
    return dict(zip(names, torch.autograd.grad(loss, parameters), strict=True))


def trained(model: nn.Module) -> tuple[list[str], list[nn.Parameter]]:
    """Return names and parameters of what a participant trains, in the model's order."""
    pairs = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    return [name for name, _ in pairs], [p for _, p in pairs]


def difference(training: LocalTraining) -> Release:
    """Return the release of a participant that trains a while and sends the model.

    What leaves is start minus end: for one step of plain SGD the gradient times the learning rate,
    else what the attacks take for it. Scale does not matter to them.
    """

    def release(model: nn.Module, inputs: Tensor, labels: Tensor) -> Update:
        local = copy.deepcopy(model)
        training(local, inputs, labels)
        _, before = trained(model)
        names, after = trained(local)
        pairs = zip(names, before, after, strict=True)
        return {name: (old - new).detach() for name, old, new in pairs}

    return release


def noised(noise_multiplier: float, max_grad_norm: float, generator: torch.Generator) -> Release:
    """Return the release of the Gaussian mechanism in the attacker's own words.

    DP-SGD (Abadi et al. 2016, algorithm 1) with the batch size as denominator. It stands in for a
    participant in tests; a bench attacks the participant's own code (see :func:`difference`).
    """

    def release(model: nn.Module, inputs: Tensor, labels: Tensor) -> Update:
        total: dict[str, Tensor] = {}
        for one in torch.arange(len(inputs)).split(1):
            own = gradient(model, inputs[one], labels[one])
            factor = min(1.0, max_grad_norm / (float(flat(own).norm()) + 1e-6))
            for name, tensor in own.items():
                total[name] = total.get(name, torch.zeros_like(tensor)) + factor * tensor
        deviation = noise_multiplier * max_grad_norm
        return {
            name: (tensor + deviation * torch.randn(tensor.shape, generator=generator))
            / len(inputs)
            for name, tensor in total.items()
        }

    return release


def flat(update: Update) -> Tensor:
    """Return an update as one vector."""
    return torch.cat([tensor.flatten() for tensor in update.values()])
