"""Marks of the models that are sent in training: one for each participant, model by model.

A broadcast mark is a carrier alone, of the same size everywhere: w_r + alpha s g_n for participant
n. Its key exists only after w_r is fixed, and the same participant always gets the same mark of the
same model, however often it is sent.

What a participant sends back still holds its mark, a little less of it: training undoes a part.
Subtracting what was added would leave that difference in w_(r+1), and w_r - t (w_(r+1) - w_r) would
accuse everybody who took part (measured: scores of 9 to 19). Therefore the mark is taken out by
projection: in each tensor the reply's update ends up exactly uncorrelated with the word, also that
of a participant who never added it. Ours.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from smdl_flower.fingerprint import carriers
from smdl_flower.fingerprint.carriers import Chips
from smdl_flower.fingerprint.embedding import CarrierMark
from smdl_flower.fingerprint.extraction import Deviation
from smdl_flower.fingerprint.keys import CampaignKey, CustomerKey
from smdl_flower.fingerprint.layout import Layout, Vector
from smdl_flower.fingerprint.profile import uniform_profile
from smdl_flower.weights import Weights

ROUNDING = 1e-4  # share of a deviation; float32 leaves about a hundredth of that


@dataclass(frozen=True)
class BroadcastReading:
    """What was read from a suspect against one broadcast model, before any word is looked at.

    Attributes:
        directions: Unit vectors as long as a carrier: of the suspect's deviation from the model,
            and of what is left of it when the part that later models explain is removed.
        alignment: How the suspect was aligned before it was read.
    """

    directions: tuple[Vector, ...] = field(repr=False)
    alignment: str = "none"

    def score(self, key: CustomerKey) -> float:
        """Return the smallest of a word's scores.

        The first alone keeps the law of theorem 3, so the smallest does. The others keep a word
        from accusing only because a later model, which its participant helped to train, went into
        the suspect.
        """
        return min(carriers.score(key, direction) for direction in self.directions)


def word_key(campaign: CampaignKey, node: str) -> CustomerKey:
    """Return the key of a participant's mark; a slash is not allowed in a customer's name."""
    return campaign.customer(f"training/{node}")


def mark_of(guarded: Weights, key: CampaignKey, carrier_length: int | None = None) -> CarrierMark:
    """Prepare the marks of a model that is sent.

    Args:
        guarded: Those of its tensors that come back; others bear no mark.
        key: Of the campaign with their digest.
        carrier_length: Values of a carrier; default is what suits the model's size.
    """
    layout = Layout.of(guarded)
    chips = Chips.for_size(key, layout.size, carrier_length)
    return CarrierMark(layout, layout.flatten(guarded), uniform_profile(layout), chips)


def add(mark: CarrierMark, key: CustomerKey, strength: float) -> Vector:
    """Return the marked weights ``(d,)`` of the model as one participant is sent it.

    Args:
        mark: Of the model; not changed.
        key: Of the participant's word.
        strength: alpha, root mean square of the mark in units of scale.
    """
    weights = _word(mark, key)
    for tensor in mark.layout.tensors:
        weights[tensor.where] *= strength * tensor.scale
    weights += mark.base
    return weights


def take_out(mark: CarrierMark, key: CustomerKey, reply: Vector) -> Vector:
    """Return a reply's marked weights ``(d,)`` without what they hold of the participant's word.

    In each tensor ``<reply - w_r, g> = 0`` afterwards, whatever came back.

    Example:
        >>> from smdl_flower.fingerprint.keys import OwnerKey
        >>> campaign = OwnerKey(bytes(32)).campaign("00" * 32)
        >>> model = {"w": np.random.default_rng(0).standard_normal((40, 50)).astype(np.float32)}
        >>> mark, key = mark_of(model, campaign), word_key(campaign, "1")
        >>> sent = add(mark, key, 0.1)
        >>> bool(np.abs(take_out(mark, key, sent) - mark.base).max() < 1e-6)
        True
    """
    word, result = _word(mark, key), reply.copy()
    for tensor in mark.layout.tensors:
        values = word[tensor.where].astype(np.float64)
        update = np.subtract(reply[tensor.where], mark.base[tensor.where], dtype=np.float64)
        share = _dot(values, update) / _dot(values, values)
        result[tensor.where] = mark.base[tensor.where] + (update - share * values)
    return result


def read(
    mark: CarrierMark, suspect: Weights, later: Sequence[Weights], alignment: str = "none"
) -> BroadcastReading:
    """Read a suspect against a model that was sent.

    Args:
        mark: Of the model.
        suspect: With the model's names and shapes.
        later: Models of the next round, which participants' replies went into.
        alignment: What was undone to the suspect; goes into the reading.

    Raises:
        NotComparableError: Tensors are missing or differ in shape, nearly all are zero, or most
            values are too large to compute with.
    """
    examined = Deviation.of(mark, suspect)
    directions = [examined.direction(mark, examined.values)[0]]
    if later:
        others = [examined.of_other(mark, model) for model in later]
        rest = _unexplained(mark.layout, examined.values, others)
        directions.append(examined.direction(mark, rest)[0])
    return BroadcastReading(tuple(directions), alignment)


def _unexplained(layout: Layout, values: Vector, others: Sequence[Vector]) -> Vector:
    """What least squares, tensor by tensor, cannot make of the others."""
    rest = np.zeros_like(values)
    for tensor in layout.tensors:
        columns = np.stack([o[tensor.where] for o in others], axis=1).astype(np.float64)
        target = values[tensor.where].astype(np.float64)
        left = target - columns @ np.linalg.lstsq(columns, target)[0]
        # Of a suspect made from these models alone only rounding is left, and it has their signs.
        if _dot(left, left) > ROUNDING**2 * _dot(target, target):
            rest[tensor.where] = left
    return rest


def _word(mark: CarrierMark, key: CustomerKey) -> Vector:
    word = np.empty(mark.layout.size, dtype=np.float32)
    for where, values in mark.carrier(key):
        word[where] = values
    return word


def _dot(a: np.typing.NDArray[np.float64], b: np.typing.NDArray[np.float64]) -> float:
    return float(np.multiply(a, b).sum())  # no BLAS: its threads may add in another order
