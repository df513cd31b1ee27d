"""Models that somebody might be wrongly named for: innocents', and those of who wants to frame.

Nothing here knows the owner's key. Where an attacker is given the base model, its name says so.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations, cycle, islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from smdl_flower import models, training, weights
from smdl_flower.attacks import catalogue
from smdl_flower.config import DataConfig, FingerprintConfig, Scalar, TrainingConfig
from smdl_flower.data import Images, load_split
from smdl_flower.fingerprint import embedding
from smdl_flower.fingerprint.keys import CustomerKey
from smdl_flower.home import OwnerHome
from smdl_flower.issuing import FidelityGate, issue, open_campaign
from smdl_flower.models import ModelSpec
from smdl_flower.vault import BaseModel
from smdl_flower.weights import Weights

UNCHECKED = FidelityGate(images=None, max_accuracy_drop=1.0)
IMAGES = 400  # that an innocent model is trained on
ALTERATIONS: tuple[tuple[str, dict[str, Scalar]], ...] = (
    ("noise", {"level": 0.1}),
    ("noise", {"level": 1.0}),
    ("prune", {"fraction": 0.3}),
    ("prune", {"fraction": 0.8}),
    ("quantize", {"bits": 8}),
    ("quantize", {"bits": 3}),
)


@dataclass(frozen=True)
class Case:
    """A model to examine.

    Attributes:
        group: What it is an example of.
        name: Of this one.
        weights: Of the model.
        guilty: Whose copies went into it; nobody else may be named.
    """

    group: str
    name: str
    weights: Weights
    guilty: frozenset[str] = frozenset()


def altered(model: Weights, spec: ModelSpec, number: int) -> Weights:
    """A model altered in the ``number``-th way; no two numbers give the same."""
    attack, options = ALTERATIONS[number % len(ALTERATIONS)]
    changed = catalogue.run(attack, [model], spec, {**options, **_seed(attack, number)}).weights
    noise: dict[str, Scalar] = {"level": 0.01, "seed": number}
    return catalogue.run("noise", [changed], spec, noise).weights


def _seed(attack: str, number: int) -> dict[str, Scalar]:
    return {"seed": number} if attack == "noise" else {}


# -------------------------------------------------------------------------------- innocent models


def trained(spec: ModelSpec, source: str, count: int) -> Iterator[Case]:
    """Models of others, trained by themselves from other weights on other images."""
    images = load_split(DataConfig.of_one_party(source, "", spec.image_size)).train
    for seed in range(count):
        rng = np.random.default_rng(seed)
        some = images.load(rng.choice(len(images.labels), IMAGES, replace=False))
        model = models.to_weights(models.build(spec, seed=10_000 + seed))
        yield Case("trained by others", f"seed {seed}", fitted(spec, model, some, seed))


def fitted(spec: ModelSpec, start: Weights, images: Images, seed: int) -> Weights:
    """A model trained on from some weights, for one epoch."""
    settings = TrainingConfig.model_validate(
        {
            **{"local-epochs": 1, "batch-size": 32, "learning-rate": 0.05, "momentum": 0.9},
            **{"lr-schedule": "constant", "weight-decay": 5e-4, "augment": "none"},
        }
    )
    module, generator = models.from_weights(spec, start), torch.Generator().manual_seed(seed)
    training.train(module, images, settings, learning_rate=0.05, generator=generator)
    return models.to_weights(module)


def before_fingerprinting(home: OwnerHome, model: BaseModel, count: int) -> Iterator[Case]:
    """The base model, the unmarked models of training, and what perturbs them."""
    digests = {record.model_sha256 for record in home.registry.broadcasts()}
    plain = [model.weights, *(home.vault.load_broadcast(d) for d in sorted(digests))]
    group = "before fingerprinting"
    for number, unmarked in enumerate(islice(plain, count)):
        yield Case(group, f"unmarked {number}", unmarked)
    for number, unmarked in enumerate(islice(cycle(plain), max(0, count - len(plain)))):
        yield Case(group, f"altered {number}", altered(unmarked, model.spec, number))


def of_other_owner(home: OwnerHome, model: BaseModel, place: Path, count: int) -> Iterator[Case]:
    """Copies that another owner made, of the same base model, for customers of the same names."""
    other = OwnerHome.create(place / "home")
    names = home.registry.customers()
    other.registry.add_customers(names)
    campaign = open_campaign(other, model.spec, model.weights, fingerprint_of(model), UNCHECKED)
    issued = list(issue(other, campaign, names[:count], place / "copies"))
    copies = [weights.read(result.path).weights for result in issued if result.path]
    for number, copy in enumerate(islice(copies, count)):
        yield Case("another owner's copies", f"copy {number}", copy)
    for number, copy in enumerate(islice(cycle(copies), max(0, count - len(copies)))):
        changed = altered(copy, model.spec, number)
        yield Case("another owner's copies", f"altered {number}", changed)


def fingerprint_of(model: BaseModel) -> FingerprintConfig:
    """The settings that a base model was issued with."""
    return FingerprintConfig.model_validate(
        {
            "fingerprint.where": "server",
            "fingerprint.code-length": model.code.length,
            "fingerprint.code": model.code.kind,
            "fingerprint.code-coalition": model.code.coalition,
            "fingerprint.strength": model.strength,
            "fingerprint.max-accuracy-drop": 1.0,
            "fingerprint.queries": 0,
            "fingerprint.query-pools": 1,
            "fingerprint.imprint-images": False,
            "demo-customers": 0,
        }
    )


# --------------------------------------------------------------------------------------- framing


def framings(copies: dict[str, Weights], model: BaseModel, tries: int) -> Iterator[Case]:
    """Models by which customers who know their own copies try to have others named."""
    spec, names = model.spec, sorted(copies)
    for number in range(tries):
        own = names[number % len(names)]
        for name, made in _alone(copies[own], model.weights, number):
            yield Case("framing, alone", f"{own}: {name}", made, frozenset({own}))
    size = min(4, len(names))
    for number, group in enumerate(islice(combinations(names, size), tries)):
        theirs = [copies[name] for name in group]
        for name, made in _together(theirs, spec, number):
            yield Case("framing, coalition", f"{group}: {name}", made, frozenset(group))


def _alone(own: Weights, base: Weights, number: int) -> Iterator[tuple[str, Weights]]:
    rng = np.random.default_rng(number)
    mark: Weights = {name: np.asarray(own[name] - base[name]) for name in own}
    forged: Weights = {n: _noise(rng, m) for n, m in mark.items()}
    shuffled: Weights = {
        n: np.asarray(rng.permutation(m.ravel())).reshape(m.shape) for n, m in mark.items()
    }
    yield "a mark made up on top", _sum(own, forged)
    yield "its mark, ten times (with the base model)", _sum(base, mark, 10)
    yield "its mark, reversed (with the base model)", _sum(base, mark, -1)
    yield "its mark, shuffled (with the base model)", _sum(base, shuffled)
    yield "a mark made up in its place (with the base model)", _sum(base, forged)


def _noise(rng: np.random.Generator, mark: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(rng.normal(0, mark.std(), mark.shape), np.float32)


def _shuffled(rng: np.random.Generator, mark: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(rng.permutation(mark.ravel()), np.float32).reshape(mark.shape)


def _together(theirs: list[Weights], spec: ModelSpec, number: int) -> Iterator[tuple[str, Weights]]:
    mean: Weights = {
        n: np.asarray(np.mean([c[n] for c in theirs], axis=0, dtype=np.float32)) for n in theirs[0]
    }
    first = {n: np.asarray(theirs[0][n] - mean[n]) for n in mean}
    apart = {n: np.asarray(theirs[0][n] - theirs[1][n]) for n in mean}
    yield "one copy reflected in their mean", _sum(mean, first, -1)
    yield "the same, five times", _sum(mean, first, -5)
    yield "the difference of two", _sum(mean, apart, 3)
    for attack in ("median", "minority", "interleave", "average"):
        settings: dict[str, Scalar] = {"seed": number} if attack == "interleave" else {}
        yield attack, catalogue.run(attack, theirs, spec, settings).weights


def _sum(start: Weights, change: Weights, times: float = 1) -> Weights:
    return {n: (start[n] + np.float32(times) * change[n]).astype(np.float32) for n in start}


def insider(home: OwnerHome, model: BaseModel, customer: str) -> Case:
    """What only who has the master key can do: a customer's mark without the customer."""
    mark = home.mark(model)
    key: CustomerKey = home.campaign(model).customer(customer)
    vector = embedding.embed(mark, key, mark.layout.flatten(model.weights))
    made = mark.layout.restore(model.weights, vector)
    return Case("control: with the master key", customer, made, frozenset({customer}))
