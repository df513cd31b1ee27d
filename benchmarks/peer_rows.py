"""What is tried on every scheme, whoever trained its models and whoever traces them."""

import copy
import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from smdl_flower import models
from smdl_flower.attacks import altering, collusion
from smdl_flower.weights import Weights

CUSTOMERS = 10
THIEF_IMAGES = 800
COALITIONS = (2, 3, 5)
RATES, FRACTIONS = (0.01, 0.05), (0.5, 0.8)
GROUPS = 5  # coalitions of each size, and copies that are fine-tuned
INNOCENTS = 4
EPOCHS, INNOCENT_EPOCHS, BATCH = 3, 5, 32


@dataclass(frozen=True)
class Samples:
    """Inputs as a scheme's models take them, and labels."""

    inputs: Tensor
    labels: Tensor

    def some(self, count: int) -> "Samples":
        """Return a random choice of them, the same every time."""
        chosen = torch.randperm(len(self.labels), generator=torch.Generator().manual_seed(1))
        return Samples(self.inputs[chosen[:count]], self.labels[chosen[:count]])


class Scheme(Protocol):
    """A fingerprinting scheme after its training.

    Attributes:
        copies: One model for each of the customers, in their order.
        train: What it was trained on.
        test: What accuracy is measured on.
    """

    copies: list[nn.Module]
    train: Samples
    test: Samples

    def fresh(self, seed: int) -> nn.Module:
        """Return a model of the same architecture that holds no fingerprint, untrained."""

    def trace(self, model: nn.Module) -> list[int]:
        """Return the customers whom the scheme names for a model; may be nobody."""


def rows(scheme: Scheme) -> Iterator[dict[str, Any]]:
    """Yield the rows of one scheme; each counts traitors named and innocents named."""
    alone = [[number] for number in range(len(scheme.copies))]

    def tune(group: list[int], rate: float) -> nn.Module:
        thief = scheme.train.some(THIEF_IMAGES)
        return trained(scheme.copies[group[0]], thief, rate, EPOCHS)

    def prune(group: list[int], fraction: float) -> nn.Module:
        return altered(scheme.copies[group[0]], lambda copy: altering.prune(copy, fraction))

    def average(group: list[int]) -> nn.Module:
        others = [floats(scheme.copies[number]) for number in group[1:]]
        return altered(scheme.copies[group[0]], lambda copy: collusion.average([copy, *others]))

    yield _row(scheme, "copies as issued", alone, lambda group: scheme.copies[group[0]])
    for rate in RATES:
        name = f"fine-tuned, {EPOCHS} epochs, rate {rate:g}"
        yield _row(scheme, name, alone[:GROUPS], functools.partial(tune, rate=rate))
    for fraction in FRACTIONS:
        name = f"pruned by {fraction:.0%}"
        yield _row(scheme, name, alone, functools.partial(prune, fraction=fraction))
    for size in COALITIONS:
        groups = [[(start + i) % len(alone) for i in range(size)] for start in range(GROUPS)]
        yield _row(scheme, f"mean of {size} copies", groups, average)
    nobody: list[list[int]] = [[]] * INNOCENTS
    yield _row(scheme, "innocent models, trained by others", nobody, _innocents(scheme))


def _innocents(scheme: Scheme) -> Callable[[list[int]], nn.Module]:
    """Models of the same architecture, trained on the same images without any fingerprint."""
    seeds = iter(range(101, 101 + INNOCENTS))
    return lambda _: trained(scheme.fresh(next(seeds)), scheme.train, RATES[-1], INNOCENT_EPOCHS)


def _row(
    scheme: Scheme,
    name: str,
    groups: Sequence[list[int]],
    make: Callable[[list[int]], nn.Module],
) -> dict[str, Any]:
    guilty = named = innocents = whole = 0
    accuracies = []
    for group in groups:
        model = make(group)
        accuracies.append(accuracy(model, scheme.test))
        found = set(scheme.trace(model))
        guilty += len(group)
        named += len(found & set(group))
        innocents += len(found - set(group))
        whole += found == set(group)
    return {
        "row": name,
        "models": len(groups),
        "guilty": guilty,
        "guilty_named": named,
        "innocents_named": innocents,
        "exactly_right": whole,
        "accuracy": float(np.mean(accuracies)),
    }


def trained(model: nn.Module, samples: Samples, rate: float, epochs: int) -> nn.Module:
    """Return a copy of a model trained further by SGD with momentum."""
    model = copy.deepcopy(model).train()
    optimizer = torch.optim.SGD(model.parameters(), rate, momentum=0.9)
    generator = torch.Generator().manual_seed(1)
    for _ in range(epochs):
        for batch in torch.randperm(len(samples.labels), generator=generator).split(BATCH):
            optimizer.zero_grad()
            outputs = model(samples.inputs[batch])
            nn.functional.cross_entropy(outputs, samples.labels[batch]).backward()
            optimizer.step()
    return model.eval()


def altered(model: nn.Module, alter: Callable[[Weights], Weights]) -> nn.Module:
    """Return a copy of a model with its floating-point tensors altered."""
    changed = copy.deepcopy(model)
    state = changed.state_dict()
    for name, array in alter(floats(model)).items():
        state[name] = torch.from_numpy(np.array(array)).to(state[name].dtype)
    changed.load_state_dict(state)
    return changed


def floats(model: nn.Module) -> Weights:
    """Return the floating-point tensors of a model; counters are no weights."""
    floating = {name for name, t in model.state_dict().items() if t.is_floating_point()}
    return {n: array for n, array in models.to_weights(model).items() if n in floating}


def accuracy(model: nn.Module, samples: Samples) -> float:
    """Return the share of samples that a model gets right."""
    model.eval()
    with torch.no_grad():
        said = torch.cat([model(batch).argmax(1) for batch in samples.inputs.split(500)])
    return float((said == samples.labels).float().mean())
