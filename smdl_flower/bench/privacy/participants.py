"""A run's participants as attackers meet them: their model, images, channel and training.

All is the product's own: images are dealt by :mod:`smdl_flower.data`, trained on by
:mod:`smdl_flower.training` or :mod:`smdl_flower.privacy.noise`, and only PUBLIC tensors are frozen.
"""

import copy
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from smdl_flower import config, models, training
from smdl_flower.bench.subject import read_json
from smdl_flower.config import RunConfig
from smdl_flower.data import Images, load_split
from smdl_flower.models import ModelSpec
from smdl_flower.privacy import noise
from smdl_flower.privacy.accounting import Steps, sigma_of_run, steps_of_round
from smdl_flower.privacy.attacks.membership import Training
from smdl_flower.privacy.attacks.update import Release, difference, gradient
from smdl_flower.privacy.entropy import Entropy, SeededEntropy, SystemEntropy
from smdl_flower.privacy.noise import Mechanism
from smdl_flower.privacy.partition import partition
from smdl_flower.representation import Features, behind_front

MOST_IMAGES = 4000  # that attackers tell apart; minutes, not hours, on large collections


@dataclass(frozen=True)
class Participants:
    """What there is to attack.

    Attributes:
        run: What the run was asked to do.
        images: Training images of all participants, in a random order.
        model: As the participants were first sent it; PUBLIC parameters are frozen.
        head: What they train: the model itself, or what stands behind its public front.
        inputs: What the head sees of the images, float32 ``(n, ...)``.
    """

    run: RunConfig
    images: Images
    model: nn.Module
    head: nn.Module
    inputs: Tensor

    @property
    def has_front(self) -> bool:
        """Whether a public front stands before what is trained."""
        return self.head is not self.model

    @property
    def is_private(self) -> bool:
        """Whether the run adds noise."""
        return self.run.privacy.channel == "dp"


def load(run: RunConfig) -> Participants:
    """Deal the images of a run and build the model it starts from."""
    train = load_split(run.data).train
    order = np.random.default_rng(run.seed).permutation(len(train.labels))[:MOST_IMAGES]
    images = train.load(order)
    spec = ModelSpec.for_images(run.model, images.pixels, images.classes)
    model = models.build(spec, seed=run.seed)
    split = partition(run.privacy, model)
    split.freeze(model)
    if run.privacy.policy == "public-front":
        head, examples = behind_front(model, images)
        return Participants(run, images, model, head, examples.inputs())
    return Participants(run, images, model, model, images.inputs())


def read_target(target: Path) -> RunConfig:
    """Return the run config of a run folder or a scenario file.

    Raises:
        ConfigError: It is neither, or a key or value is wrong.
    """
    if target.suffix == ".toml":
        defaults = config.load_defaults(config.find_app(target.parent))
        return config.parse(config.merge(defaults, config.load_scenario(target)))
    resolved: Mapping[str, Any] = read_json(target / "resolved.json")
    return config.parse(resolved.get("config", {}))


def entropy(run: RunConfig) -> Entropy:
    """Return the source of noise that the run names."""
    return SystemEntropy() if run.privacy.rng == "os" else SeededEntropy(run.seed)


def sent(who: Participants, *, all_rounds: bool = False) -> Release:
    """Return what leaves a participant for a batch: the run's channel at work.

    Args:
        who: Where.
        all_rounds: The sum over all rounds, images drawn as the run does; else one step in which
            the batch certainly is, all by itself: the worst case that there is.
    """
    if not who.is_private:
        return gradient
    source = entropy(who.run)
    asked = mechanism(who.run, images=1)
    steps = Steps(asked.steps.sigma, 1.0, 1)
    if all_rounds:
        total = asked.steps.count * who.run.federation.rounds
        steps = Steps(asked.steps.sigma, asked.steps.sample_rate, total)
    asked = dataclasses.replace(asked, steps=steps)
    # Whoever sees each round can undo momentum and decay.
    plain = who.run.training.model_copy(update={"momentum": 0.0, "weight_decay": 0.0})

    def step(model: nn.Module, inputs: Tensor, labels: Tensor) -> None:
        # A small rate: the model stays where it is, so that what was sent can be summed.
        noise.train(
            *(model, Features(inputs, labels), asked, plain), learning_rate=1e-3, entropy=source
        )

    return difference(step)


def mechanism(run: RunConfig, images: int) -> Mechanism:
    """Return the noised training of one round of the run, with ``images`` a participant."""
    rate = run.privacy.sample_rate
    steps = Steps(sigma_of_run(run), rate, steps_of_round(run))
    return Mechanism(steps, run.privacy.max_grad_norm, rate * images)


def federated(who: Participants) -> Training:
    """Return the run's whole training, rounds and participants included, as one function.

    Participants get equal shares of the images and count the same, as in an IID run with FedAvg.
    """

    def train(inputs: Tensor, labels: Tensor, seed: int) -> nn.Module:
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(labels), generator=generator)
        shards = [
            Features(inputs[part], labels[part])
            for part in order.tensor_split(who.run.data.participants)
        ]
        head, rounds = copy.deepcopy(who.head), who.run.federation.rounds
        for number in range(1, rounds + 1):
            rate = training.scheduled_rate(who.run.training, number, rounds)
            ends = [_trained(who, head, shard, rate, generator) for shard in shards]
            head.load_state_dict({k: sum(e[k] for e in ends) / len(ends) for k in ends[0]})
        return head

    return train


def _trained(
    who: Participants, head: nn.Module, shard: Features, rate: float, generator: torch.Generator
) -> Mapping[str, Any]:
    local = copy.deepcopy(head)
    if who.is_private:
        noise.train(
            *(local, shard, mechanism(who.run, len(shard)), who.run.training),
            learning_rate=rate,
            entropy=entropy(who.run) if who.run.privacy.rng == "os" else _own(generator),
        )
    else:
        training.train(local, shard, who.run.training, learning_rate=rate, generator=generator)
    return local.state_dict()


def _own(generator: torch.Generator) -> Entropy:
    """A seeded source for one participant and round; the run's seed would repeat its noise."""
    return SeededEntropy(int(torch.randint(2**31, (1,), generator=generator)))
