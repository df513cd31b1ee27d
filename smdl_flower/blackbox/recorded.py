"""What a suspect said, as a document that goes to a judge, and its digest, which names the suspect.

Whoever wrote it down vouches for it: no signature or chain makes an owner's record of somebody
else's answers more than the owner's word. A judge who does not believe it asks anew.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from smdl_flower.blackbox.asking import Answers
from smdl_flower.errors import IntegrityError

FORMAT = "smdl-answers/1"
_SLACK = 1e-3  # as in asking: probabilities in half precision exceed one a little


@dataclass(frozen=True)
class Heard:
    """What was said to one pool.

    Attributes:
        model_id: Of the base model.
        pool: Number of the pool.
        answers: To its images, in their order.
    """

    model_id: str
    pool: int
    answers: Answers = field(repr=False)


def digest(heard: Sequence[Heard]) -> str:
    """Return what stands for a suspect that was asked: the SHA-256 of the answers' digests."""
    return hashlib.sha256("".join(h.answers.digest() for h in heard).encode()).hexdigest()


def document(heard: Sequence[Heard]) -> dict[str, Any]:
    """Return the document specified in docs/formats.md.

    Example:
        >>> heard = [Heard("m", 1, Answers(np.array([3, 5]), None))]
        >>> parse(document(heard))[0].answers.labels.tolist()
        [3, 5]
    """
    return {
        "format": FORMAT,
        "heard": [
            {
                "model_id": h.model_id,
                "pool": h.pool,
                "labels": h.answers.labels.tolist(),
                "probabilities": None
                if h.answers.probabilities is None
                else h.answers.probabilities.tolist(),
            }
            for h in heard
        ],
    }


def parse(document: dict[str, Any]) -> list[Heard]:
    """Read such a document; it may be hostile.

    Raises:
        IntegrityError: It is none.
    """
    try:
        if document["format"] != FORMAT:
            raise ValueError(document["format"])
        return [_heard(entry) for entry in document["heard"]]
    except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError):
        raise IntegrityError("the recorded answers are damaged") from None


def _heard(entry: dict[str, Any]) -> Heard:
    labels, told = entry["labels"], entry["probabilities"]
    if not all(type(label) is int and label >= 0 for label in labels):
        raise ValueError("labels")
    values = np.array(labels, np.int64)
    answers = Answers(values, None if told is None else _probabilities(told, values))
    return Heard(str(entry["model_id"]), int(entry["pool"]), answers)


def _probabilities(told: Any, labels: np.ndarray[Any, np.dtype[np.int64]]) -> Any:
    shares = np.array(told, np.float64)
    if shares.ndim != 2 or len(shares) != len(labels):
        raise ValueError("shape")
    if not ((shares >= 0.0) & (shares <= 1.0 + _SLACK)).all():  # NaN is neither
        raise ValueError("no probabilities")
    if labels.max(initial=0) >= shares.shape[1]:
        raise ValueError("labels")
    if (shares[np.arange(len(labels)), labels] < shares.max(1)).any():
        raise ValueError("the label is not the likeliest")
    return shares
