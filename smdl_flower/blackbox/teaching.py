"""Teach a copy its answers, and to answer everything else like the base model.

Trained are the last layers alone, on the query images (hinge: the wanted class wins by a margin)
and on public images (Kullback-Leibler divergence from the base model). Nothing of a participant is
used, so a privacy guarantee of the base model holds for all copies jointly (post-processing). Each
copy is taught by itself and from the same random numbers: it does not depend on who else gets one.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from smdl_flower.blackbox.queries import Bank, Labels, Pixels, draw
from smdl_flower.blackbox.tail import Tail, cut
from smdl_flower.fingerprint.codes import Bits
from smdl_flower.fingerprint.keys import CampaignKey, CustomerKey
from smdl_flower.models import to_weights
from smdl_flower.weights import Weights

LEARNING_RATE = 2e-3
BATCH = 256
MARGIN = 3.0
# Of the answers against everything else; the smallest that teaches nearly all of them is taken.
PULLS = {0.05: 300, 0.1: 300, 0.2: 300, 0.4: 600, 0.8: 1200}  # with the steps that it takes
NEARLY_ALL = 0.99
SAFE_LEAD = 0.5  # the mark of the weights comes on top and must not turn an answer
REHEARSED = 3000  # public images and turned ones
DISTORTION = 0.2


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


@dataclass(frozen=True)
class Teacher:
    """All that teaching the copies of one base model has in common.

    Attributes:
        bank: The queries.
        key: Of the campaign.
        base: w0.
        tail: What is trained.
        queries: Features of all pools' images, ``(q, ...)``.
        rehearsal: Features of public and of invented images, ``(r, ...)``.
        answers: What w0 says to those: logarithms of probabilities, ``(r, classes)``.
        pull: How much the wanted answers count at least; found with words that are nobody's.
    """

    bank: Bank
    key: CampaignKey
    base: Weights = field(repr=False)
    tail: Tail = field(repr=False)
    queries: Tensor = field(repr=False)
    rehearsal: Tensor = field(repr=False)
    answers: Tensor = field(repr=False)
    pull: float = min(PULLS)

    @classmethod
    def of(cls, network: nn.Module, bank: Bank, key: CampaignKey, public: Tensor) -> "Teacher":
        """Prepare teaching; how much pull it takes is tried with words that are nobody's.

        Args:
            network: The base model; not changed.
            bank: The queries.
            key: Of the campaign.
            public: Images that are nobody's secret, as the model sees them, in [-1, 1].

        Raises:
            ConfigError: The network cannot be cut.
        """
        tail = cut(network)
        queries = tail.features(inputs(np.concatenate([pool.images for pool in bank.pools])))
        rehearsal = tail.features(_rehearsal(bank, key, public))
        answers = tail.logits(tail.parameters, rehearsal).detach().log_softmax(1)
        teacher = cls(bank, key, to_weights(network), tail, queries, rehearsal, answers)
        return replace(teacher, pull=teacher._taught(teacher.words(key.customer("trial/1")))[1])

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
        taught, _ = self._taught(words)
        return {**self.base, **{n: p.numpy().copy() for n, p in taught.items()}}

    def _taught(self, words: Sequence[Bits]) -> tuple[dict[str, Tensor], float]:
        """The tail's parameters, and the pull that was needed."""
        for pull in PULLS:
            if pull >= self.pull:
                taught = self._trained(words, pull)
                if (self._leads(taught, words) >= SAFE_LEAD).mean() >= NEARLY_ALL:
                    return taught, pull
        return taught, max(PULLS)

    def _leads(self, trained: dict[str, Tensor], words: Sequence[Bits]) -> NDArray[np.float32]:
        """By how much each wanted answer wins."""
        said = self.tail.logits(trained, self.queries)
        return np.asarray(_leads(said, torch.from_numpy(self.wanted(words))).numpy())

    def _trained(self, words: Sequence[Bits], pull: float) -> dict[str, Tensor]:
        targets = torch.from_numpy(self.wanted(words))
        trained = {n: p.detach().clone().requires_grad_() for n, p in self.tail.parameters.items()}
        optimizer = torch.optim.Adam(trained.values(), lr=LEARNING_RATE)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, PULLS[pull])
        generator = torch.Generator().manual_seed(0)  # of the batches; nothing secret
        for _ in range(PULLS[pull]):
            asked = torch.randperm(len(targets), generator=generator)[:BATCH]
            seen = torch.randint(len(self.rehearsal), (BATCH,), generator=generator)
            answered, strayed = self._losses(trained, targets, asked, seen)
            loss = pull * answered + strayed
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        return {name: p.detach() for name, p in trained.items()}

    def _losses(
        self, trained: dict[str, Tensor], targets: Tensor, asked: Tensor, seen: Tensor
    ) -> tuple[Tensor, Tensor]:
        features = torch.cat([self.queries[asked], self.rehearsal[seen]])
        said = self.tail.logits(trained, features)
        leads = _leads(said[: len(asked)], targets[asked])
        rehearsed = said[len(asked) :].log_softmax(1)
        strayed = functional.kl_div(
            rehearsed, self.answers[seen], log_target=True, reduction="batchmean"
        )
        return torch.relu(MARGIN - leads).mean(), strayed


def _leads(said: Tensor, wanted: Tensor) -> Tensor:
    """Logit of the wanted class minus the largest of the others, ``(n,)``."""
    others = said.scatter(1, wanted[:, None], -torch.inf).amax(1)
    return said.gather(1, wanted[:, None])[:, 0] - others


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
