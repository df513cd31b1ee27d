"""The audit of a run's own private training, with a planted fault as its control."""

import dataclasses
from dataclasses import dataclass

import numpy as np
from torch import Tensor, nn

from smdl_flower.bench.privacy import participants
from smdl_flower.bench.privacy.participants import Participants
from smdl_flower.config import RunConfig
from smdl_flower.privacy import noise
from smdl_flower.privacy.audit import Audit, History, Layer, PrivateTraining, Setting, audit
from smdl_flower.privacy.noise import Mechanism
from smdl_flower.representation import Features

_RATE = 1e-3


@dataclass(frozen=True)
class Audited:
    """What was found.

    Attributes:
        honest: Of the run's training.
        planted: Of the same with half of the noise: it must fail.
    """

    honest: Audit
    planted: Audit

    @property
    def works(self) -> bool:
        """Whether the audit caught the planted fault."""
        return bool(self.planted.failures)


def audited(who: Participants, canaries: int = 2000) -> Audited:
    """Audit a run's noise, clipping and sampling over all of its rounds."""
    run = who.run
    layer: Layer = "linear" if noise.uses_ghost_clipping(who.head) else "convolution"
    asked = participants.mechanism(run, images=canaries // 2)
    total = dataclasses.replace(asked.steps, count=asked.steps.count * run.federation.rounds)
    asked = dataclasses.replace(asked, steps=total)
    setting = Setting(_RATE, asked.max_grad_norm, asked.expected_batch, run.privacy.delta)
    halved = dataclasses.replace(asked.steps, sigma=asked.steps.sigma / 2)
    faulty = dataclasses.replace(asked, steps=halved)
    return Audited(
        *(
            audit(
                *(_training(run, done, asked), setting, np.random.default_rng(run.seed)),
                *(canaries, layer),
            )
            for done in (asked, faulty)
        )
    )


def _training(run: RunConfig, done: Mechanism, claimed: Mechanism) -> PrivateTraining:
    plain = run.training.model_copy(
        update={"momentum": 0.0, "weight_decay": 0.0, "augment": "none"}  # not part of the claim
    )
    source = participants.entropy(run)

    def train(model: nn.Module, inputs: Tensor, labels: Tensor) -> History:
        noise.train(
            *(model, Features(inputs, labels), done, plain), learning_rate=_RATE, entropy=source
        )
        steps = claimed.steps
        return [(steps.sigma, steps.sample_rate, steps.count)]

    return train
