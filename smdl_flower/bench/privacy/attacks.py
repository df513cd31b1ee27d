"""The attacks of the privacy bench, each with its control."""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from smdl_flower.bench.privacy import participants
from smdl_flower.bench.privacy.participants import Participants
from smdl_flower.bench.privacy.scores import Row, Score
from smdl_flower.privacy.accounting import sigma_of_run
from smdl_flower.privacy.attacks import analytic, decoding, inversion, matching, membership
from smdl_flower.privacy.attacks.decoding import Decoder
from smdl_flower.privacy.attacks.membership import Confidences, Training
from smdl_flower.privacy.attacks.reidentification import NOBODY, Reidentified, reidentify
from smdl_flower.privacy.attacks.update import Release, gradient

MATCHED, CANDIDATES = 100, 400
INVERTED, DECODED = 6, 100
SHADOWS = 16
SHADOW_IMAGES = {True: 2000, False: 600}  # behind a front training takes a hundredth of the time
CANARY_SHARE = 0.1


@dataclass(frozen=True)
class Attack:
    """A row to be measured.

    Attributes:
        name: In tables and files.
        measure: Measures it; ``progress`` is called once a step.
        steps: How many steps that are.
    """

    name: str
    measure: Callable[[Participants, Callable[[], None]], Row]
    steps: int


def attacks(who: Participants) -> list[Attack]:
    """Return the attacks that make sense against a run."""
    chosen = [Attack("matching", match, 2)]
    if who.is_private:
        chosen.append(Attack("matching-all-rounds", match_all_rounds, 2))
    chosen.append(Attack("inversion", invert, 2))
    if who.has_front:
        chosen.append(Attack("decoder", decode, 2))
    return [*chosen, Attack("membership", infer_membership, 2 * SHADOWS)]


def run(who: Participants, chosen: list[Attack], progress: Callable[[], None]) -> Iterator[Row]:
    """Measure attacks one after the other."""
    for attack in chosen:
        yield attack.measure(who, progress)


def match(who: Participants, progress: Callable[[], None]) -> Row:
    """Candidate matching after one step on one image."""
    control, protected = _both(who, lambda release: _matched(who, release), progress)
    return Row(
        *("matching", "which of 400 images one step was made on", control, 0.95),
        *(protected, 1 / _candidates(who)),
    )


def match_all_rounds(who: Participants, progress: Callable[[], None]) -> Row:
    """Candidate matching with the sum of all rounds, all other images of the shard known.

    The strongest attacker that differential privacy is about: everything but one image is known, so
    that what remains of all updates is that image's clipped gradients and all the noise.
    """
    control = _matched(who, gradient)
    progress()
    protected = _matched(who, participants.sent(who, all_rounds=True))
    progress()
    return Row(
        "matching-all-rounds",
        "the same from all rounds, knowing all other images",
        *(control, 0.95, protected, 1 / _candidates(who)),
    )


def invert(who: Participants, progress: Callable[[], None]) -> Row:
    """Reconstruction of the image of one step by search; success is re-identification."""
    search = _search_features if who.has_front else _search_update
    control, protected = _both(who, lambda release: search(who, release), progress)
    return Row(
        *("inversion", "what the image of one step looks like (search)", control, 0.5),
        *(protected, 1 / len(who.images)),
    )


def decode(who: Participants, progress: Callable[[], None]) -> Row:
    """Reconstruction by a decoder fitted to other participants' images."""

    def decoded(release: Release) -> Score:
        features = _features_seen(who, release, DECODED)
        decoder = _decoder(who, _noise_level(who, release))
        return _score(_recognised(who, decoder.decode(features)))

    control, protected = _both(who, decoded, progress)
    return Row(
        *("decoder", "the same by a decoder that learned the front", control, 0.25),
        *(protected, 1 / len(who.images)),
    )


def infer_membership(who: Participants, progress: Callable[[], None]) -> Row:
    """LiRA on mislabelled canaries; the control is the same model, trained until it memorises."""
    control = _lira(who, memorising(who.head), progress)
    protected = _lira(who, participants.federated(who), progress)
    return Row(
        "membership",
        "whether an image was trained on, from the final model (canaries)",
        *(control, 0.8, protected, 0.5),
    )


def memorising(start: nn.Module) -> Training:
    """Return training without protection that goes on until nearly all labels are learned."""

    def train(inputs: Tensor, labels: Tensor, seed: int) -> nn.Module:
        generator = torch.Generator().manual_seed(seed)
        model = copy.deepcopy(start)
        small = sum(p.numel() for p in model.parameters()) < 20_000
        adam = torch.optim.Adam(model.parameters(), 0.03 if small else 0.002)
        for _ in range(60):
            right = 0
            for batch in torch.randperm(len(labels), generator=generator).split(50):
                logits = model(inputs[batch])
                adam.zero_grad()
                nn.functional.cross_entropy(logits, labels[batch]).backward()
                adam.step()
                right += int((logits.argmax(1) == labels[batch]).sum())
            if right >= 0.99 * len(labels):
                break
        return model

    return train


def _both(
    who: Participants, measure: Callable[[Release], Score], progress: Callable[[], None]
) -> tuple[Score, Score]:
    """In the clear, and through the run's channel; where that is clear, one is both."""
    control = measure(gradient)
    progress()
    protected = measure(participants.sent(who)) if who.is_private else control
    progress()
    return control, protected


def _candidates(who: Participants) -> int:
    return min(CANDIDATES, len(who.images))


def _matched(who: Participants, release: Release) -> Score:
    count = _candidates(who)
    found = matching.match(
        *(who.head, release, who.inputs[:count], who.images.labels[:count]), min(MATCHED, count)
    )
    return Score.of_count(found.right, found.trials)


def _search_update(who: Participants, release: Release) -> Score:
    inputs, labels, total = who.inputs, who.images.labels, NOBODY
    generator = torch.Generator().manual_seed(who.run.seed)
    for one in torch.arange(INVERTED).split(1):
        seen = release(who.head, inputs[one], labels[one])
        start = inversion.dark(1, tuple(inputs.shape[1:]), generator)
        found = inversion.invert_update(who.head, seen, labels[one], start)
        total += reidentify(found, one, inputs)
    return _score(total)


def _search_features(who: Participants, release: Release) -> Score:
    features = _features_seen(who, release, INVERTED)
    start = _decoder(who, _noise_level(who, release))
    front = getattr(who.model, "front")  # noqa: B009 - not every module has one
    found = inversion.invert_features(front, features, start.decode(features))
    return _score(_recognised(who, found))


def _features_seen(who: Participants, release: Release, count: int) -> Tensor:
    """What the attacker reads off the head's update, one image a step."""
    rows = []
    for one in torch.arange(count).split(1):
        seen = release(who.head, who.inputs[one], who.images.labels[one])
        rows.append(analytic.single_input(seen["weight"], seen["bias"]))
    return torch.stack(rows)


def _decoder(who: Participants, noise_level: float) -> Decoder:
    """Fitted to images that are not attacked: those of other participants."""
    return decoding.fit(who.inputs[DECODED:], who.images.inputs(slice(DECODED, None)), noise_level)


def _noise_level(who: Participants, release: Release) -> float:
    """Standard deviation of the noise on a feature that was read off, at least.

    The gradient of the bias is no longer than C, and the noise on each weight is sigma C.
    """
    return 0.0 if release is gradient else sigma_of_run(who.run)


def _recognised(who: Participants, found: Tensor) -> Reidentified:
    total, candidates = NOBODY, who.images.inputs()
    for one in torch.arange(len(found)).split(1):
        total += reidentify(found[one], one, candidates)
    return total


def _score(found: Reidentified) -> Score:
    return Score.of_count(found.count, len(found.hits))


def _lira(who: Participants, train: Training, progress: Callable[[], None]) -> Score:
    rng = np.random.default_rng(who.run.seed)
    count = min(SHADOW_IMAGES[who.has_front], len(who.images))
    labels, canaries = membership.with_canaries(
        who.images.labels[:count], int(CANARY_SHARE * count), len(who.images.classes), rng
    )
    rows = []
    for row in membership.shadows(train, who.inputs[:count], labels, SHADOWS, rng):
        rows.append(row)
        progress()
    members = np.stack([inside for _, inside in rows])
    scores = membership.lira(
        Confidences(np.stack([values for values, _ in rows]), members, canaries)
    )
    found = membership.measure(scores[:, canaries], members[:, canaries], rng)
    return Score.of_membership(found, members[:, canaries].size)
