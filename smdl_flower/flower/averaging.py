"""Averages of the global models of several rounds: less noise in the released model, for free.

Averaging is post-processing: it costs no privacy. Training itself goes on with the plain model.
"""

from typing import Literal

import numpy as np

from smdl_flower.weights import Weights

TAIL = 0.3  # share of the rounds, the last ones
DECAY = 0.9  # of the moving average


class Averaging:
    """The model that would be released after each round.

    Args:
        kind: ``none``; ``tail``: mean over the last 30 % of the rounds; ``ema``: a moving average.
        rounds: Of the whole run.
        state: Of an interrupted run, to go on with.

    Example:
        >>> average = Averaging("tail", rounds=10)
        >>> models = [{"w": np.full(1, float(i), np.float32)} for i in range(1, 11)]
        >>> [float(average.update(i + 1, m)["w"][0]) for i, m in enumerate(models)][6:]
        [7.0, 8.0, 8.5, 9.0]
    """

    def __init__(
        self, kind: Literal["none", "tail", "ema"], rounds: int, state: Weights | None = None
    ) -> None:
        self._kind = kind
        self._first = rounds - int(TAIL * rounds) + 1 if kind == "tail" else 1
        self.state: Weights = dict(state or {})

    def update(self, number: int, model: Weights) -> Weights:
        """Take in the model after round ``number`` (from 1) and return the average so far."""
        if self._kind == "none" or number < self._first:
            return model
        share = 1 - DECAY if self._kind == "ema" else 1 / (number - self._first + 1)
        before = self.state or model
        self.state = {
            name: before[name] + np.float32(share) * (array - before[name])
            for name, array in model.items()
        }
        return self.state

    def current(self, model: Weights) -> Weights:
        """Return the average so far, or ``model`` if there is none."""
        return self.state or model
