"""Teach a copy its answers, and to answer everything else like the base model.

Trained are the last layers alone, the last but one in few directions only, on the query images
(hinge: the wanted class wins by a margin) and on public images (Kullback-Leibler divergence from
the base model). Nothing of a participant is used, so a privacy guarantee of the base model holds
for all copies jointly (post-processing). Each copy is taught by itself and from the same random
numbers: it does not depend on who else gets one.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from smdl_flower.blackbox.queries import Bank, Labels, Pixels, draw
from smdl_flower.blackbox.tail import Change, Features, Tail, cut
from smdl_flower.fingerprint.codes import Bits
from smdl_flower.fingerprint.keys import CampaignKey, CustomerKey
from smdl_flower.fingerprint.layout import Layout
from smdl_flower.fingerprint.taught import Directions
from smdl_flower.models import to_weights
from smdl_flower.weights import Weights

LEARNING_RATE = 5e-3
STEPS = 500
BATCH = 256
MARGIN = 4.0
# How hard to teach, the gentlest first: how much the answers count against everything else, and at
# which share of the rate the layers after the taught one learn. What these learn is lost when a
# thief trains the last layer anew; some networks need it. Less than 0.4 teaches many networks too,
# at half the cost in accuracy, but a thief's training then leaves less (docs/decisions/0009).
EFFORTS = ((0.4, 0.3), (0.4, 1.0), (0.8, 1.0))
NEARLY_ALL = 0.99
SAFE_LEAD = 0.5  # the mark of the weights comes on top and must not turn an answer
SMALLNESS = 1e-3  # of the squared change of the taught layer: noise to other marks
REHEARSED = 6000  # public images and turned ones
DISTORTION = 0.2
# Of the marked weights, whose carrier is lost where a copy is taught; for so many queries. It
# grows with the root of their number: carrier and accuracy share what more of them cost.
TAUGHT_SHARE, TAUGHT_QUERIES = 0.05, 304
MOST_DIRECTIONS = 256


def inputs(pixels: Pixels) -> Tensor:
    """Return images as a model sees them, float32 in [-1, 1].

    As ``Images.inputs`` of :mod:`smdl_flower.data`, which the verifier must do without: that module
    needs flwr-datasets.
    """
    return torch.tensor(pixels).float().div_(127.5).sub_(1.0)


@torch.no_grad()
def logits(network: nn.Module, pixels: Pixels) -> Tensor:
    """Return a model's logits for images of 8 bits, ``(n, classes)``."""
    network.eval()
    return torch.cat([network(piece) for piece in inputs(pixels).split(BATCH)])


def directions(network: nn.Module, bank: Bank, key: CampaignKey, public: Tensor) -> Directions:
    """Return where copies of a base model are to be taught.

    Those directions of the taught layer's input that hold most of the energy of public images and
    of queries, both counted alike. A thief's own images reach most of them: to project the layer on
    their span erases little.

    Args:
        network: The base model; not changed.
        bank: The queries.
        key: Of the campaign.
        public: Images that are nobody's secret, as the model sees them, in [-1, 1].

    Raises:
        ConfigError: The network cannot be cut.
    """
    tail = cut(network)
    total = sum(
        energy / energy.trace()
        for energy in map(tail.energy, (_asked(bank), _rehearsal(bank, key, public)))
    )
    columns = torch.linalg.eigh(total).eigenvectors.flip(1)
    share = TAUGHT_SHARE * math.sqrt(max(1.0, _queries(bank) / TAUGHT_QUERIES))
    count = round(share * Layout.of(to_weights(network)).size / len(tail.weight))
    count = max(1, min(count, MOST_DIRECTIONS))
    return Directions(f"{tail.name}.weight", columns[:, :count].float().numpy().copy())


@dataclass(frozen=True)
class Teacher:
    """All that teaching the copies of one base model has in common.

    Attributes:
        bank: The queries.
        key: Of the campaign.
        base: w0.
        tail: What is trained.
        basis: Directions in which the taught layer changes, ``(columns, r)``.
        queries: What the body makes of all pools' images, ``q`` of them.
        rehearsal: What it makes of public and of invented images, ``r`` of them.
        answers: What w0 says to those: logarithms of probabilities, ``(r, classes)``.
        least: The effort that it takes at least, an index; found with words that are nobody's.
    """

    bank: Bank
    key: CampaignKey
    base: Weights = field(repr=False)
    tail: Tail = field(repr=False)
    basis: Tensor = field(repr=False)
    queries: Features = field(repr=False)
    rehearsal: Features = field(repr=False)
    answers: Tensor = field(repr=False)
    least: int = 0

    @classmethod
    def of(
        cls,
        network: nn.Module,
        bank: Bank,
        key: CampaignKey,
        public: Tensor,
        taught: Directions,
    ) -> "Teacher":
        """Prepare teaching; how much effort it takes is tried with words that are nobody's.

        Args:
            network: The base model; not changed.
            bank: The queries.
            key: Of the campaign.
            public: Images that are nobody's secret, as the model sees them, in [-1, 1].
            taught: From :func:`directions`.

        Raises:
            ConfigError: The network cannot be cut.
        """
        tail, basis = cut(network), torch.from_numpy(taught.basis)
        queries = tail.features(_asked(bank), basis)
        rehearsal = tail.features(_rehearsal(bank, key, public), basis)
        with torch.no_grad():
            answers = tail.logits(tail.unchanged(basis.shape[1]), rehearsal).log_softmax(1)
        teacher = cls(bank, key, to_weights(network), tail, basis, queries, rehearsal, answers)
        return replace(teacher, least=teacher._taught(teacher.words(key.customer("trial/1")))[1])

    def words(self, key: CustomerKey) -> list[Bits]:
        """Return a customer's codewords, one for each pool."""
        bank = self.bank
        return [bank.word(key, bank.biases(self.key, pool), pool) for pool in bank.pools]

    def wanted(self, words: Sequence[Bits]) -> Labels:
        """Return the answers that these words call for, in all pools, ``(q,)``."""
        pairs = zip(self.bank.pools, words, strict=True)
        return np.concatenate([pool.wanted(word) for pool, word in pairs])

    def right(self, network: nn.Module, key: CustomerKey) -> NDArray[np.bool_]:
        """Return which answers of a customer's copy are as taught, in all pools, ``(q,)``."""
        said = [logits(network, pool.images).argmax(1).numpy() for pool in self.bank.pools]
        return np.asarray(np.concatenate(said) == self.wanted(self.words(key)))

    def teach(self, words: Sequence[Bits]) -> Weights:
        """Return the base model with its last layers taught to answer with these words.

        Args:
            words: Of one customer, one for each pool.
        """
        change, _ = self._taught(words)
        return {**self.base, **self.tail.changed(self.base, change, self.basis)}

    def _taught(self, words: Sequence[Bits]) -> tuple[Change, int]:
        """What is changed, and the effort that was needed."""
        wanted = torch.from_numpy(self.wanted(words))
        for effort in range(self.least, len(EFFORTS)):
            change = self._trained(wanted, *EFFORTS[effort])
            with torch.no_grad():
                leads = _leads(self.tail.logits(change, self.queries), wanted)
            if float((leads >= SAFE_LEAD).float().mean()) >= NEARLY_ALL:
                break
        return change, effort

    def _trained(self, wanted: Tensor, pull: float, share: float) -> Change:
        change = self.tail.unchanged(self.basis.shape[1]).trainable()
        optimizer = torch.optim.Adam(
            [
                {"params": change.layer(), "lr": LEARNING_RATE},
                {"params": list(change.head.values()), "lr": LEARNING_RATE * share},
            ]
        )
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
        generator = torch.Generator().manual_seed(0)  # of the batches; nothing secret
        for _ in range(STEPS):
            asked = torch.randperm(len(wanted), generator=generator)[:BATCH]
            seen = torch.randint(len(self.rehearsal), (BATCH,), generator=generator)
            optimizer.zero_grad()
            self._loss(change, wanted, asked, seen, pull).backward()
            optimizer.step()
            schedule.step()
        return change.detached()

    def _loss(
        self, change: Change, wanted: Tensor, asked: Tensor, seen: Tensor, pull: float
    ) -> Tensor:
        features = Features.together([self.queries[asked], self.rehearsal[seen]])
        said = self.tail.logits(change, features)
        leads = _leads(said[: len(asked)], wanted[asked])
        rehearsed = said[len(asked) :].log_softmax(1)
        strayed = functional.kl_div(
            rehearsed, self.answers[seen], log_target=True, reduction="batchmean"
        )
        size = SMALLNESS * change.amounts.square().sum()
        return pull * torch.relu(MARGIN - leads).mean() + strayed + size


def _leads(said: Tensor, wanted: Tensor) -> Tensor:
    """Logit of the wanted class minus the largest of the others, ``(n,)``."""
    others = said.scatter(1, wanted[:, None], -torch.inf).amax(1)
    return said.gather(1, wanted[:, None])[:, 0] - others


def _queries(bank: Bank) -> int:
    return sum(len(pool) for pool in bank.pools)


def _asked(bank: Bank) -> Tensor:
    return inputs(np.concatenate([pool.images for pool in bank.pools]))


def _rehearsal(bank: Bank, key: CampaignKey, public: Tensor) -> Tensor:
    """Public images as they are and turned, and images like queries that are never asked."""
    plain = public[:REHEARSED]
    rounds = max(1, REHEARSED // len(plain))
    generator = torch.Generator().manual_seed(0)
    turned = [plain, *(_distorted(plain, generator) for _ in range(rounds - 1))]
    shape = bank.pools[0].images.shape[1:]
    alike = draw(key.stream("queries/rehearsal"), REHEARSED // 10, shape)
    return torch.cat([*turned, inputs(alike)])


def _distorted(images: Tensor, generator: torch.Generator) -> Tensor:
    """Turned, stretched and moved a little, each image in its own way."""
    noise = torch.randn(len(images), 2, 3, generator=generator)
    maps = torch.eye(2, 3) + DISTORTION * noise
    grid = functional.affine_grid(maps, list(images.shape), align_corners=False)
    # Outside of an image is black, which is -1 and not 0.
    return functional.grid_sample(images + 1, grid, align_corners=False) - 1
