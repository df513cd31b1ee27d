"""Put query images to a suspect that nobody trusts, and check what it says.

A predictor is anything that turns a batch of images into labels, scores or the likeliest classes.
It may raise, hang or answer nonsense; each ends in one error. The test that follows holds for any
answers, also those of somebody who knows the questions, as long as the innocents' words are not
known to him.

Questions are put in an order of chance, so that whoever stops half-way, or answers only at times,
does not choose which. With a log (:mod:`smdl_flower.blackbox.querylog`) no answer is lost.
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
from smdl_flower.blackbox.querylog import QueryLog
from smdl_flower.errors import ConfigError, SuspectAnswersError

Probabilities = NDArray[np.float64]
Scores = NDArray[np.float64]

BATCH = 64
TIMEOUT = 60.0
_SLACK = 1e-3  # probabilities in half precision exceed one a little


class Predictor(Protocol):
    """A model behind an interface."""

    def __call__(self, images: Pixels, /) -> object:
        """Return what the model says of each image.

        Labels ``(n,)``, integers; or probabilities or logits ``(n, classes)``, rounded or noised as
        it may be; or for each image the likeliest classes, ``{label: probability}``.

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


def ask(
    predictor: Predictor,
    images: Pixels,
    classes: int,
    *,
    timeout: float = TIMEOUT,
    batch: int = BATCH,
    log: QueryLog | None = None,
) -> Answers:
    """Put all images to a predictor, batch by batch.

    Args:
        predictor: The suspect.
        images: uint8 ``(m, channels, height, width)``.
        classes: How many the owner's model has; a label is below.
        timeout: Seconds for a batch.
        batch: Images at a time.
        log: Of what it said before, which is not asked again; what it says now is added.

    Raises:
        SuspectAnswersError: It fails, takes too long, or does not answer as a predictor must.

    Example:
        >>> ask(lambda images: images.max(axis=(1, 2, 3)), np.zeros((3, 1, 2, 2), np.uint8), 4)
        Answers()
    """
    said = dict(log.rows) if log else {}
    # Not for secrecy: nobody learns anything from the order.
    left = np.random.default_rng().permutation([i for i in range(len(images)) if i not in said])
    for start in range(0, len(left), batch):
        which = left[start : start + batch].tolist()
        # A copy: whoever is asked may write into what it is given.
        rows = _checked(_within(timeout, predictor, images[which]), len(which), classes)
        if said and rows.ndim - 1 != np.ndim(next(iter(said.values()))):
            raise SuspectAnswersError(
                "the predictor answers some batches with labels, others with not"
            )
        new = dict(zip(which, rows.tolist() if rows.ndim == 1 else rows, strict=True))
        if log:
            log.append(new)
        said.update(new)
    return _answers(np.array([said[i] for i in range(len(images))]))


def _within(seconds: float, call: Predictor, batch: Pixels) -> NDArray[Any]:
    """Call in a thread that is left behind if it hangs: Python cannot end it, and need not wait."""
    outcome: dict[str, Any] = {}

    def run() -> None:
        try:
            # Converting is the predictor's code too, if what it returns is an object of its own.
            outcome["answer"] = np.array(call(batch))
        except SuspectAnswersError as error:
            outcome["refused"] = error
        except BaseException as error:  # even an exit is its own affair
            outcome["error"] = repr(error)[:200]

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if "refused" in outcome:
        raise outcome["refused"]
    if "error" in outcome:
        raise SuspectAnswersError(f"the predictor failed: {outcome['error']}")
    if "answer" not in outcome:
        raise SuspectAnswersError(
            f"the predictor did not answer {len(batch)} images within {seconds:g} seconds; raise "
            "--timeout"
        )
    return cast(NDArray[Any], outcome["answer"])


def _checked(said: NDArray[Any], count: int, classes: int) -> Labels | Scores:
    """Labels ``(count,)`` or finite scores ``(count, classes)``, whatever was said."""
    if said.dtype == object and said.ndim == 1 and len(said) and type(said[0]) is dict:
        said = np.array([_spread(likeliest, classes) for likeliest in said])
    checks: dict[int, Callable[[NDArray[Any], int], Labels | Scores]] = {1: _labels, 2: _scores}
    if said.ndim not in checks or len(said) != count:
        raise SuspectAnswersError(
            f"the predictor answers {count} images with an array of shape {said.shape[:4]}; "
            f"expected labels ({count},) or probabilities ({count}, {classes})"
        )
    return checks[said.ndim](said, classes)


def _spread(likeliest: Any, classes: int) -> Scores:
    """Probabilities of all classes from those of the likeliest: the others share what is left."""
    labels = list(likeliest) if type(likeliest) is dict else []
    if not labels or not all(_is_whole(label) and 0 <= label < classes for label in labels):
        raise SuspectAnswersError(
            f"the predictor's likeliest classes are {labels[:8]}; expected integers from 0 to "
            f"{classes - 1}"
        )
    shares = list(likeliest.values())
    numbers = all(isinstance(share, int | float | np.number) for share in shares)
    if not numbers or not all(0.0 <= share <= 1.0 + _SLACK for share in shares):
        raise SuspectAnswersError(
            "the probabilities of the predictor's likeliest classes are not all between 0 and 1"
        )
    told = np.array(shares, np.float64)
    rest = max(0.0, 1.0 - told.sum()) / max(1, classes - len(labels))
    # The classes that are not told are less likely than any that is.
    values = np.full(classes, min(rest, told.min()))
    values[labels] = told
    return values


def _is_whole(label: Any) -> bool:
    return isinstance(label, int | np.integer) and not isinstance(label, bool)


def _are_shares(values: NDArray[Any]) -> bool:
    return bool(((values >= 0.0) & (values <= 1.0 + _SLACK)).all())  # NaN is neither


def _labels(said: NDArray[Any], classes: int) -> Labels:
    if said.dtype.kind not in "iu":
        raise SuspectAnswersError(f"the predictor's labels are {said.dtype}; expected integers")
    if ((said < 0) | (said >= classes)).any():
        raise SuspectAnswersError(
            f"the predictor's labels go from {said.min()} to {said.max()}; the owner's model has "
            f"{classes} classes, from 0"
        )
    return said.astype(np.int64)


def _scores(said: NDArray[Any], classes: int) -> Scores:
    if said.dtype.kind != "f" or said.shape[1] != classes:
        raise SuspectAnswersError(
            f"the predictor's probabilities are {said.dtype} for {said.shape[1]} classes; expected "
            f"floating-point numbers for {classes}"
        )
    values = said.astype(np.float64)
    if not np.isfinite(values).all():
        raise SuspectAnswersError("the predictor's probabilities are not all finite numbers")
    return values


def _answers(rows: NDArray[Any]) -> Answers:
    """Of all images; what scores mean is decided over all of them, not batch by batch."""
    if rows.ndim == 1:
        return Answers(rows.astype(np.int64), None)
    labels = rows.argmax(1).astype(np.int64)
    if _are_shares(rows):
        return Answers(labels, rows)
    # Logits; or noised probabilities, of which this keeps which of two is how much more likely.
    with np.errstate(over="ignore"):
        powers = np.exp(rows - rows.max(1, keepdims=True))
    return Answers(labels, powers / powers.sum(1, keepdims=True))
