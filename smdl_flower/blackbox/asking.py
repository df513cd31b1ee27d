"""Put query images to a suspect that nobody trusts, and check what it says.

A predictor is anything that turns a batch of images into labels or probabilities. It may raise,
hang or answer nonsense; each ends in one error. The test that follows holds for any answers, also
those of somebody who knows the questions, as long as the innocents' words are not known to him.
"""

import hashlib
import importlib
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from smdl_flower.blackbox.queries import Labels, Pixels
from smdl_flower.errors import ConfigError, SuspectAnswersError

Probabilities = NDArray[np.float64]

BATCH = 64
TIMEOUT = 60.0
_SLACK = 1e-3  # probabilities in half precision exceed one a little


class Predictor(Protocol):
    """A model behind an interface."""

    def __call__(self, images: Pixels, /) -> object:
        """Return labels ``(n,)``, integers, or probabilities ``(n, classes)`` in [0, 1].

        Args:
            images: uint8 ``(n, channels, height, width)``; how a model wants them scaled is the
                predictor's own affair.
        """


@dataclass(frozen=True)
class Answers:
    """What a suspect said to ``m`` images.

    Attributes:
        labels: ``(m,)``.
        probabilities: ``(m, classes)``; None if it tells labels only.
    """

    labels: Labels = field(repr=False)
    probabilities: Probabilities | None = field(repr=False)

    def digest(self) -> str:
        """Return the SHA-256 of the answers, hexadecimal; it stands for the suspect."""
        values = self.labels if self.probabilities is None else self.probabilities
        total = hashlib.sha256(json.dumps(["answers", list(values.shape)]).encode())
        total.update(np.asarray(values, values.dtype.newbyteorder("<"), order="C").tobytes())
        return total.hexdigest()


def load(name: str) -> Predictor:
    """Import a predictor by ``module:function``.

    The module is code, and it is run: name only what you wrote or read.

    Raises:
        ConfigError: It cannot be imported, or is nothing that can be called.

    Example:
        >>> load("json:nothing")
        Traceback (most recent call last):
        ...
        smdl_flower.errors.ConfigError: --predictor: 'json:nothing' cannot be imported \
(AttributeError("module 'json' has no attribute 'nothing'")); expected module:function
    """
    module, _, attribute = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # whatever a module that is not ours may raise
        raise ConfigError(
            f"--predictor: {name!r} cannot be imported ({error!r}); expected module:function"
        ) from None
    if not callable(found):
        raise ConfigError(f"--predictor: {name!r} is a {type(found).__name__}, nothing to call")
    return cast(Predictor, found)


def ask(predictor: Predictor, images: Pixels, classes: int, *, timeout: float = TIMEOUT) -> Answers:
    """Put all images to a predictor, batch by batch.

    Args:
        predictor: The suspect.
        images: uint8 ``(m, channels, height, width)``.
        classes: How many the owner's model has; a label is below.
        timeout: Seconds for a batch.

    Raises:
        SuspectAnswersError: It fails, takes too long, or does not answer as a predictor must.

    Example:
        >>> ask(lambda images: images.max(axis=(1, 2, 3)), np.zeros((3, 1, 2, 2), np.uint8), 4)
        Answers()
    """
    parts = []
    for start in range(0, len(images), BATCH):
        # A copy: whoever is asked may write into what it is given.
        batch = images[start : start + BATCH].copy()
        said = _within(timeout, predictor, batch)
        parts.append(_checked(said, len(batch), classes))
    kinds = {part.probabilities is None for part in parts}
    if len(kinds) != 1:
        raise SuspectAnswersError("the predictor answers some batches with labels, others with not")
    if kinds.pop():
        return Answers(np.concatenate([p.labels for p in parts]), None)
    probabilities = np.concatenate([cast(Probabilities, p.probabilities) for p in parts])
    return Answers(np.concatenate([p.labels for p in parts]), probabilities)


def _within(seconds: float, call: Predictor, batch: Pixels) -> object:
    """Call in a thread that is left behind if it hangs: Python cannot end it, and need not wait."""
    outcome: dict[str, Any] = {}

    def run() -> None:
        try:
            # Converting is the predictor's code too, if what it returns is an object of its own.
            outcome["answer"] = np.array(call(batch))
        except BaseException as error:  # even an exit is its own affair
            outcome["error"] = repr(error)[:200]

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if "error" in outcome:
        raise SuspectAnswersError(f"the predictor failed: {outcome['error']}")
    if "answer" not in outcome:
        raise SuspectAnswersError(
            f"the predictor did not answer {len(batch)} images within {seconds:g} seconds; raise "
            "--timeout"
        )
    return outcome["answer"]


def _checked(said: Any, count: int, classes: int) -> Answers:
    checks: dict[int, Callable[[NDArray[Any], int], Answers]] = {1: _labels, 2: _probabilities}
    if said.ndim not in checks or len(said) != count:
        raise SuspectAnswersError(
            f"the predictor answers {count} images with an array of shape {said.shape[:4]}; "
            f"expected labels ({count},) or probabilities ({count}, {classes})"
        )
    return checks[said.ndim](said, classes)


def _labels(said: NDArray[Any], classes: int) -> Answers:
    if said.dtype.kind not in "iu":
        raise SuspectAnswersError(f"the predictor's labels are {said.dtype}; expected integers")
    if ((said < 0) | (said >= classes)).any():
        raise SuspectAnswersError(
            f"the predictor's labels go from {said.min()} to {said.max()}; the owner's model has "
            f"{classes} classes, from 0"
        )
    return Answers(said.astype(np.int64), None)


def _probabilities(said: NDArray[Any], classes: int) -> Answers:
    if said.dtype.kind != "f" or said.shape[1] != classes:
        raise SuspectAnswersError(
            f"the predictor's probabilities are {said.dtype} for {said.shape[1]} classes; expected "
            f"floating-point numbers for {classes}"
        )
    values = said.astype(np.float64)
    if not ((values >= 0.0) & (values <= 1.0 + _SLACK)).all():  # NaN is neither
        raise SuspectAnswersError(
            "the predictor's probabilities are not all between 0 and 1; logits must go through a "
            "softmax first"
        )
    return Answers(values.argmax(1).astype(np.int64), values)
